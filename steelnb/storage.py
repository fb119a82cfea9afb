"""Files that a kill, a full disk or a lost mount cannot spoil.  Taught in 09_hundred_hours."""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

TEMPORARY = re.compile(r"\..*\.[0-9a-f]{16}\.part", re.S)
IN_USE = (5, 32, 33)  # Windows: another program, often a virus scanner or a spreadsheet, has the file open
PATIENCE = 5.0  # seconds until it is given up
DRAFT = "unfinished-"  # begins the name of a folder that `make_folder` has not finished


class StorageError(OSError):
    """A file could not be written. The message says why and what to do; what was there before is untouched."""


def write_file(path: str | Path, content: bytes) -> None:
    """Writes a file so that `path` is, at every moment, either the old file or all of the new one.

    Under a temporary name, forced to the disk (fsync), read back and compared, and only then renamed. The folder must
    be there: where a mount has vanished, nothing is written beside it. Raises StorageError.
    """
    path = Path(path)
    part = temporary_name(path)
    try:
        with open(part, "xb") as file:  # a file or link that has this name already is not followed
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):  # read back from the disk, as far as the system lets itself be asked
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if sha256(part.read_bytes()) != sha256(content):
            raise OSError(errno.EIO, "what was read back is not what was written")
        replace_file(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # the first error tells more
            delete_file(part)
        raise StorageError(_advice(error, "write", path, f", {len(content) / 1e6:.1f} MB,")) from error


@contextlib.contextmanager
def unfinished(*targets: Path) -> Iterator[list[Path]]:
    """Empty files beside `targets`, whose names they get when the block ends well; else nothing is left of them.

    A file that the block has deleted again leaves its target as it was. Raises StorageError where the disk is full or
    gone.
    """
    parts = []
    try:
        for target in targets:
            part = temporary_name(target)
            part.open("xb").close()
            parts.append(part)
        yield parts
        for part, target in zip(parts, targets, strict=True):
            if not part.exists():
                continue
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            replace_file(part, target)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(_advice(error, "write", targets[0])) from error
    finally:
        for part in parts:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """A name beside `path` that nobody else takes or foresees: so two processes never write into one file."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.part")


def delete_unfinished(folder: Path) -> None:
    """Deletes what killed processes left under temporary names. For a folder that this process alone writes to."""
    for path in folder.glob(".*.part"):
        if TEMPORARY.fullmatch(path.name) and path.is_file():
            delete_file(path)


def delete_file(path: str | Path) -> None:
    """Deletes a file, cut to nothing first: Google Drive keeps what is deleted in its trash, at the quota's expense.

    A file with a second name (a hard link, as `cp -al` makes for a backup) and the target of a link are left as they
    are. Nothing where there is none. Raises StorageError.
    """
    try:
        found = os.lstat(path)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            os.truncate(path, 0)
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StorageError(_advice(error, "delete", Path(path))) from error


def make_folder(folder: Path, make: Callable[[Path], Path], finished: Callable[[Path], bool] = Path.is_dir) -> None:
    """Makes a folder that is there whole or not at all, unless it is `finished`. Of several processes one makes it, the
    others wait.

    make: is given an empty draft folder beside it, and returns the folder in there that is to become `folder`. A draft
    is removed when `make` fails, and what a kill left, here or of other folders beside it, at the next call.
    """
    if finished(folder):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        if finished(folder):
            return
        for draft in folder.parent.glob(f"{DRAFT}*"):
            target = folder.with_name(draft.name.removeprefix(DRAFT))
            alone = contextlib.nullcontext() if target == folder else _lock(target, timeout=0)
            with contextlib.suppress(Timeout), alone:
                shutil.rmtree(draft, ignore_errors=True)  # whoever makes it still would hold its lock
        draft = folder.with_name(DRAFT + folder.name)
        try:
            draft.mkdir()
            made = make(draft)
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _lock(folder: Path, **options) -> FileLock:
    return FileLock(folder.with_name(f"{folder.name}.lock"), **options)


def sha256(content: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def replace_file(part: Path, path: Path) -> None:
    """Renames `part` to `path`; on Windows, where a file that another program has open refuses, for some seconds."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return os.replace(part, path)
        except OSError as error:
            if getattr(error, "winerror", None) not in IN_USE or time.monotonic() > until:
                raise
        time.sleep(0.1)


def _sync_folder(folder: Path) -> None:
    """Forces the new name itself to the disk, on systems that know how."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # some mounts sync no folders
            raise
    finally:
        os.close(descriptor)


def _advice(error: OSError, verb: str, path: Path, size: str = "") -> str:
    """What went wrong with a file, and what to do."""
    what = f"cannot {verb} {path.name}{size} in {path.parent}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{what}. Make room there (on Google Drive, empty the trash too), then run the same command again"
    if error.errno in (errno.ENOENT, errno.ENOTCONN, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTDIR):
        return f"{what}. The folder can no longer be reached: mount it again, then run the same command again"
    return f"{what}. Fix this, then run the same command again"
