"""A data set in one zip archive: copied to the local disk, checked, unpacked once, and used again.

Google Drive reads one large file quickly and thousands of small ones very slowly. An archive is made with
``zip -0 -r steel.zip train.csv train_images`` or ``shutil.make_archive("steel", "zip", "steel")``. A zip has a checksum
per file, so damage is detected; a tar has none.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from tqdm.auto import tqdm

from steelnb import runtime, storage
from steelnb.data.images import DataError

BLOCK = 1 << 20
DAMAGED = (EOFError, NotImplementedError, zlib.error, zipfile.BadZipFile)


def unpacked(archive: str | Path, *, progress: bool = False) -> Path:
    """The folder with the content of a .zip, in `runtime.cache_folder()`.

    It is unpacked the first time, after copying if the archive is on another disk. The complete folder then appears at
    once, under a name made from the archive's path, size and time, and is used again until one of these changes. Files
    that macOS adds (``__MACOSX``, ``._*``) are left out. Raises DataError if the file is not a zip archive, is damaged
    or truncated, needs a password, contains anything but files and folders, a path outside of the folder or the same
    file twice, or does not fit on the disk.
    """
    archive = Path(archive).expanduser().absolute()
    cache = runtime.cache_folder()
    try:
        state = archive.stat()
        key = hashlib.sha256(os.fsencode(archive) + f"\n{state.st_size}\n{state.st_mtime_ns}".encode()).hexdigest()[:8]
        folder = cache / f"unpacked-{archive.name.partition('.')[0]}-{key}"
        storage.make_folder(folder, lambda draft: _make(archive, draft, progress))
    except DAMAGED as error:
        raise DataError(f"{archive}: damaged or truncated ({error}); copy it or make it again") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _full(archive, cache) from error
        raise DataError(f"{archive}: {error.strerror or error}, while unpacking it into {cache}. If it is on a mounted "
                        "drive, mount it again; then run this again") from error
    return folder


def _make(archive: Path, draft: Path, progress: bool) -> Path:
    """Unpacks into a folder in `draft`, and returns that folder."""
    source = archive
    if archive.stat().st_dev != draft.stat().st_dev:
        source = draft / "archive"
        _copy(archive, source, progress)
    made = draft / "set"
    made.mkdir()
    with source.open("rb") as file:
        if file.read(2) != b"PK":
            raise DataError(f"{archive}: a file, but not a .zip archive. Give a .zip or a folder")
    with zipfile.ZipFile(source) as file:
        members = file.infolist()
        if _count_at_the_end(source) not in (len(members) & 0xFFFF, 0xFFFF):  # 0xFFFF: too many for the field
            raise zipfile.BadZipFile("its directory is incomplete")
        size = sum(member.file_size for member in members)
        _check_room(size, archive, made)
        with tqdm(desc=f"unpacking {archive.name}", total=size, unit="B", unit_scale=True, disable=not progress) as bar:
            if not sum(_unpack(file, member, made, archive, bar) for member in members):
                raise DataError(f"{archive}: it contains no files")
    return made


def _copy(archive: Path, target: Path, progress: bool) -> None:
    size = archive.stat().st_size
    _check_room(size, archive, target.parent)
    with (
        archive.open("rb") as source, target.open("wb") as file,
        tqdm(desc=f"copying {archive.name}", total=size, unit="B", unit_scale=True, disable=not progress) as bar,
    ):
        while block := source.read(8 * BLOCK):
            bar.update(file.write(block))
    if target.stat().st_size != size:
        raise EOFError(f"{target.stat().st_size} of {size} bytes arrived")


def _count_at_the_end(source: Path) -> int:
    """Number of members according to the end record of a zip, which zipfile does not check."""
    with source.open("rb") as file:
        file.seek(-min(source.stat().st_size, 22 + 0xFFFF), os.SEEK_END)
        tail = file.read()
    return int.from_bytes(tail[(end := tail.rindex(b"PK\5\6")) + 10 : end + 12], "little")


def _unpack(file: zipfile.ZipFile, member: zipfile.ZipInfo, made: Path, archive: Path, bar: tqdm) -> int:
    """Writes a member below `made`; returns 1 for a file, else 0."""
    name = member.filename
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refused(archive, name, "is neither file nor folder (a link?)")
    if not name:
        raise _refused(archive, name, "is the name of a file in it")
    if member.flag_bits & 1:
        raise _refused(archive, name, "needs a password")
    with contextlib.suppress(UnicodeError):  # UTF-8 without the flag, as zip on Linux writes it
        name = name if member.flag_bits & 0x800 else name.encode("cp437").decode()
    inside = name.replace("\\", "/")  # some Windows tools write backslashes
    parts = PurePosixPath(inside).parts
    if not parts and member.is_dir():
        return 0
    if not parts or inside.startswith("/") or PureWindowsPath(inside).drive or ".." in parts or "\0" in inside:
        raise _refused(archive, name, "is outside of the folder that it is unpacked into")
    if "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1] == ".DS_Store":
        return 0
    target = made.joinpath(*parts)
    try:
        if member.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            return 0
        target.parent.mkdir(parents=True, exist_ok=True)
        with file.open(member) as content, target.open("xb") as written:
            while block := content.read(BLOCK):
                bar.update(written.write(block))
            if written.tell() != member.file_size:
                raise EOFError(f"{name!r} has {written.tell()} of {member.file_size} bytes")
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise _refused(archive, name, "is there twice") from None
    except NotImplementedError as error:  # deflate64, as Windows compresses more than 2 GB
        raise _refused(archive, name, f"is compressed by a method that Python does not support ({error})") from None
    return 1


def _check_room(size: int, archive: Path, folder: Path) -> None:
    if size > shutil.disk_usage(folder).free:
        raise _full(archive, folder, size)


def _full(archive: Path, folder: Path, size: int = 0) -> DataError:
    needed, free = f"{size / 1e9:.2f} GB are needed, " if size else "", shutil.disk_usage(folder).free / 1e9
    return DataError(f"{archive}: no room to unpack it in {folder}: {needed}{free:.2f} GB are free. Make room, or "
                     "set STEELNB_HOME to a folder on another disk")


def _refused(archive: Path, name: str, problem: str) -> DataError:
    return DataError(f"{archive}: {name!r} {problem}, so nothing was unpacked. Make the archive again, with only files "
                     f"and folders: zip -0 -r {archive.name.partition('.')[0]}.zip folder")
