"""Writes files so that a kill, a full disk or a lost mount cannot spoil them.  Taught in 09_hundred_hours."""

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
PATIENCE = 5.0  # seconds to wait for it
DRAFT = "unfinished-"  # prefix of a folder that `make_folder` has not finished


class StorageError(OSError):
    """A file could not be written. The message says why and what to do; the previous file is unchanged."""


def write_file(path: str | Path, content: bytes) -> None:
    """Writes a file so that `path` is, at every moment, either the old file or the complete new one.

    It is written under a temporary name, forced to disk (fsync), read back, compared, and only then renamed. The folder
    must exist, so that nothing is written in place of a lost mount. Raises StorageError.
    """
    path = Path(path)
    part = temporary_name(path)
    try:
        with open(part, "xb") as file:  # fails if a file or link has this name
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):  # so that it is read back from disk, not from the cache, if possible
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if sha256(part.read_bytes()) != sha256(content):
            raise OSError(errno.EIO, "the content read back differs from what was written")
        replace_file(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # the first error is the informative one
            delete_file(part)
        raise StorageError(_advice(error, "write", path, f", {len(content) / 1e6:.1f} MB,")) from error


@contextlib.contextmanager
def unfinished(*targets: Path) -> Iterator[list[Path]]:
    """Empty files next to `targets`, renamed to them if the block succeeds, otherwise deleted.

    If the block deletes one of them, its target stays as it was. Raises StorageError if the disk is full or gone.
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
    """A random name next to `path`, so that two processes never write into one file."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.part")


def delete_unfinished(folder: Path) -> None:
    """Deletes temporary files of killed processes. Only for a folder that no other process writes to."""
    for path in folder.glob(".*.part"):
        if TEMPORARY.fullmatch(path.name) and path.is_file():
            delete_file(path)


def delete_file(path: str | Path) -> None:
    """Deletes a file after truncating it, since Google Drive keeps deleted files in its trash and counts them.

    The content of a file with a second name (a hard link, as made by `cp -al`) and the target of a link are kept. Does
    nothing if there is no file. Raises StorageError.
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
    """Makes a folder that exists complete or not at all, unless it is `finished`. One of several processes makes it,
    the others wait.

    make: gets an empty draft folder next to it, and returns the folder in it that is to become `folder`. The draft is
    removed if `make` fails; drafts of killed processes, also of neighbouring folders, are removed at the next call.
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
                shutil.rmtree(draft, ignore_errors=True)  # a process still making it would hold its lock
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
    """Renames `part` to `path`; on Windows it retries for some seconds while another program has the file open."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return os.replace(part, path)
        except OSError as error:
            if getattr(error, "winerror", None) not in IN_USE or time.monotonic() > until:
                raise
        time.sleep(0.1)


def _sync_folder(folder: Path) -> None:
    """Forces the new name to disk, on systems that support it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # some mounts cannot sync folders
            raise
    finally:
        os.close(descriptor)


def _advice(error: OSError, verb: str, path: Path, size: str = "") -> str:
    """The message for a failed file operation: cause and remedy."""
    what = f"cannot {verb} {path.name}{size} in {path.parent}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{what}. Make room there (on Google Drive, empty the trash too), then run the same command again"
    if error.errno in (errno.ENOENT, errno.ENOTCONN, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTDIR):
        return f"{what}. The folder can no longer be reached: mount it again, then run the same command again"
    return f"{what}. Fix this, then run the same command again"
