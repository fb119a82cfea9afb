"""A data set in one archive: copied to the local disk, checked, unpacked once, used again.

Google Drive serves one large file well and thousands of small ones hardly at all. An archive is made with
``zip -0 -r steel.zip train.csv train_images`` or ``shutil.make_archive("steel", "zip", "steel")``.
"""

import contextlib
import errno
import gzip
import hashlib
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, NamedTuple

from tqdm import tqdm

from steelnb import runtime, storage
from steelnb.data.images import DataError

KINDS = ".zip, .tar or .tar.gz"
BLOCK = 1 << 20
DAMAGED = (EOFError, NotImplementedError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile, tarfile.TarError)


def unpacked(archive: str | Path, *, progress: bool = False) -> Path:
    """The folder with what a .zip, .tar or .tar.gz holds, in `runtime.cache_folder()`.

    It is unpacked the first time, after copying where the archive lies on another disk; the folder then appears all at
    once, under a name that follows from the archive's path, size and time, and is found again until one of these
    changes. What macOS adds (``__MACOSX``, ``._*``) is left out. Raises DataError for what is no such archive, is
    damaged or cut off, asks for a password, holds anything but files and folders, names a place outside of the folder
    or one file twice, or does not fit on the disk.
    """
    archive = Path(archive).expanduser().absolute()
    cache = runtime.cache_folder()
    try:
        state = archive.stat()
        key = hashlib.sha256(os.fsencode(archive) + f"\n{state.st_size}\n{state.st_mtime_ns}".encode()).hexdigest()[:8]
        folder = cache / f"unpacked-{archive.name.partition('.')[0]}-{key}"
        storage.make_folder(folder, lambda draft: _make(archive, draft, progress))
    except DAMAGED as error:
        raise DataError(f"{archive}: damaged or cut off ({error}); copy or make it again") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _full(archive, cache) from error
        raise DataError(f"{archive}: {error.strerror or error}, on unpacking it into {cache}. If it lies on a drive "
                        "that is mounted, mount it again; then run this again") from error
    return folder


def _make(archive: Path, draft: Path, progress: bool) -> Path:
    """Unpacks into a folder within `draft`, and gives it."""
    source = archive
    if archive.stat().st_dev != draft.stat().st_dev:
        source = draft / "archive"
        _copy(archive, source, progress)
    made = draft / "set"
    made.mkdir()
    with tqdm(desc=f"unpacking {archive.name}", unit="B", unit_scale=True, disable=not progress) as bar:
        count = 0
        for member in _members(archive, source, made, bar):
            count += _write(member, made, archive, bar)
    if not count:
        raise DataError(f"{archive}: it holds no files")
    return made


def _copy(archive: Path, target: Path, progress: bool) -> None:
    size = archive.stat().st_size
    _check_room(size, archive, target.parent)
    with (
        archive.open("rb") as source, target.open("wb") as file,
        tqdm(desc=f"copying {archive.name}", total=size, unit="B", unit_scale=True, disable=not progress) as bar,
    ):  # fmt: skip
        while block := source.read(8 * BLOCK):
            bar.update(file.write(block))
    if target.stat().st_size != size:
        raise EOFError(f"{target.stat().st_size} of {size} bytes arrived")


class _Member(NamedTuple):
    """A file or folder of an archive; `content` is None for a folder."""

    name: str
    size: int
    content: IO[bytes] | None


def _members(archive: Path, source: Path, made: Path, bar: tqdm) -> Iterator[_Member]:
    with source.open("rb") as file:
        begin = file.read(tarfile.BLOCKSIZE)
    if begin.startswith(b"PK"):
        return _zip_members(archive, source, made, bar)
    if begin.startswith(b"\x1f\x8b"):
        return _tar_members(archive, source, gzip.open)
    with contextlib.suppress(tarfile.TarError):
        tarfile.TarInfo.frombuf(begin, tarfile.ENCODING, "surrogateescape")
        return _tar_members(archive, source, open)
    raise DataError(f"{archive}: a file, and not an archive of the kinds {KINDS}. Name such a one, or a folder")


def _zip_members(archive: Path, source: Path, made: Path, bar: tqdm) -> Iterator[_Member]:
    with zipfile.ZipFile(source) as file:
        infos = file.infolist()
        if _zip_count(source) not in (len(infos) & 0xFFFF, 0xFFFF):  # this one: too many for the field
            raise zipfile.BadZipFile("its directory is not whole")
        bar.total = sum(info.file_size for info in infos)
        _check_room(bar.total, archive, made)
        for info in infos:
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(archive, info.filename, "is neither file nor folder (a link?)")
            if info.flag_bits & 1:
                raise _refused(archive, info.filename, "asks for a password")
            name = info.filename
            with contextlib.suppress(UnicodeError):  # UTF-8 that does not say so, as zip on Linux writes it
                name = name if info.flag_bits & 0x800 else name.encode("cp437").decode()
            if info.is_dir():
                yield _Member(name, 0, None)
                continue
            try:
                content = file.open(info)
            except NotImplementedError as error:  # deflate64, as Windows packs more than 2 GB
                raise _refused(archive, info.filename, f"is packed in a way unknown to Python ({error})") from None
            with content:
                yield _Member(name, info.file_size, content)


def _zip_count(source: Path) -> int:
    """How many members the end of a zip speaks of, which zipfile reads past."""
    with source.open("rb") as file:
        file.seek(-min(source.stat().st_size, 22 + 0xFFFF), os.SEEK_END)
        tail = file.read()
    return int.from_bytes(tail[(end := tail.rindex(b"PK\5\6")) + 10 : end + 12], "little")


class _TarInfo(tarfile.TarInfo):
    """A header that tells its archive when it is the last one: tarfile also stops, silently, at a broken one."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile):
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:
            tar.has_end = True
            raise


def _tar_members(archive: Path, source: Path, opened: Callable) -> Iterator[_Member]:
    with opened(source, "rb") as stream:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_TarInfo) as tar:
            for info in tar:
                if not (info.isreg() or info.isdir()):
                    raise _refused(archive, info.name, "is neither file nor folder (a link?)")
                if info.size < 0:
                    raise tarfile.ReadError(f"{info.name!r} has a size below 0")
                yield _Member(info.name, info.size, tar.extractfile(info) if info.isreg() else None)
            if not getattr(tar, "has_end", False):
                raise tarfile.ReadError("its end is missing")
        while stream.read(BLOCK):  # to where gzip keeps its checksum
            pass


def _write(member: _Member, made: Path, archive: Path, bar: tqdm) -> int:
    """Writes a member below `made`; 1 for a file, else 0."""
    inside = member.name.replace("\\", "/")  # some Windows tools write these
    parts = PurePosixPath(inside).parts
    if not parts and member.content is None:  # "./", as tar names the folder itself
        return 0
    if not parts or inside.startswith("/") or PureWindowsPath(inside).drive or ".." in parts or "\0" in inside:
        raise _refused(archive, member.name, "lies outside of the folder that it is unpacked into")
    if "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1] == ".DS_Store":
        return 0
    target = made.joinpath(*parts)
    try:
        if member.content is None:
            target.mkdir(parents=True, exist_ok=True)
            return 0
        _check_room(member.size, archive, made)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            while block := member.content.read(BLOCK):
                bar.update(file.write(block))
            if file.tell() != member.size:
                raise EOFError(f"{member.name!r} has {file.tell()} of {member.size} bytes")
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise _refused(archive, member.name, "is there twice") from None
    return 1


def _check_room(size: int, archive: Path, folder: Path) -> None:
    if size > shutil.disk_usage(folder).free:
        raise _full(archive, folder, size)


def _full(archive: Path, folder: Path, size: int = 0) -> DataError:
    needed, free = f"{size / 1e9:.2f} GB are needed, " if size else "", shutil.disk_usage(folder).free / 1e9
    return DataError(f"{archive}: no room to unpack it in {folder}: {needed}{free:.2f} GB are free. Make room, or "
                     "let STEELNB_HOME name a folder on another disk")


def _refused(archive: Path, name: str, problem: str) -> DataError:
    return DataError(f"{archive}: {name!r} {problem}, so nothing of it was unpacked. Make the archive again, of files "
                     f"and folders alone: zip -0 -r {archive.name.partition('.')[0]}.zip folder")
