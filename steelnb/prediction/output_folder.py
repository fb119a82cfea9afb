"""What a folder of predictions says of itself: which network, which settings and which images made its masks.

`predictions.json` holds the settings and, under "inputs", the SHA-256 of each image by file name. It is written before
the masks, so a mask never lies there without the digest of what it was made of. Under "strip_files" are the SHA-256 of
what strips left, .npy and .csv files and so without a checksum of their own; a PNG has one. A command that ends well
leaves SHA256SUMS of all files as well (`steelnb.data.digests`).
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from steelnb import storage
from steelnb.data.images import DataError, names
from steelnb.prediction.output_files import OutputWriter

TABLE, SETTINGS, SUBMISSION = "predictions.csv", "predictions.json", "submission.csv"


class PredictError(ValueError):
    """Images that cannot be segmented, or masks that would overwrite a file. The message names it."""


class Noted(NamedTuple):
    """SHA-256 by file name of the images that commands were given for a folder, and of the strips' files in it."""

    inputs: dict[str, str]
    strip_files: dict[str, str]


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keeps other processes out of the folder, as far as its disk knows locks, and clears what killed ones left.

    Raises PredictError where another one is at work.
    """
    lock = FileLock(out / ".lock", timeout=0)
    try:
        with contextlib.suppress(NotImplementedError):  # a mount without locks
            lock.acquire()
    except Timeout:
        raise PredictError(f"{out} is in use by another command: wait until it ends, or name another folder") from None
    try:
        storage.delete_unfinished(out)
        yield
    finally:
        lock.release()


def noted_before(work: OutputWriter, plan: Mapping[Path, bool], kaggle: bool, resume: bool) -> Noted:
    """What earlier commands noted in this folder.

    plan: image → whether it is a strip. Raises PredictError for a folder that may not be used: with files that would be
    overwritten, or whose masks other settings made.
    """
    settings, tables = work.out / SETTINGS, [TABLE, SUBMISSION][: 1 + kaggle]
    there = next((work.out / name for name in tables if (work.out / name).exists()), None) or _first_there(work, plan)
    if not resume:
        if there := there or (settings if settings.exists() else None):
            raise PredictError(f"{there} already exists; choose another folder for the masks, "
                               "or resume what was begun there (--resume)")
        return Noted({}, {})
    if any(path.resolve().parent == work.out.resolve() for path in plan):
        raise PredictError(f"{work.out} holds the images themselves: to resume, masks need a folder of their own")
    if not settings.exists():
        if there:
            raise PredictError(f"{there} is there, but no {SETTINGS} that says what made it: name another folder")
        return Noted({}, {})
    before, now = _read(settings), work.settings()
    if other := [name for name in now if before.get(name) != now[name]]:
        told = names((f"{name} was {before.get(name)}, is {now[name]}" for name in other), 8)
        raise PredictError(f"{work.out} contains masks made with other settings ({told}): name another folder")
    called = {Path(name).stem: name for name in before["inputs"]}
    for path, strip in plan.items():
        if called.get(path.stem, path.name) != path.name and _first_there(work, {path: strip}):
            raise PredictError(f"{path}: {work.out} holds the masks of {called[path.stem]}, which would be "
                               "overwritten: name another folder")
    return Noted(before["inputs"], before["strip_files"])


def write_settings(work: OutputWriter, noted: Noted) -> None:
    """Says what is about to be written, if it is not said there already. Raises storage.StorageError."""
    content = json.dumps(work.settings() | noted._asdict(), indent=1).encode()
    path = work.out / SETTINGS
    if not path.exists() or path.read_bytes() != content:
        storage.write_file(path, content)


def _first_there(work: OutputWriter, plan: Mapping[Path, bool]) -> Path | None:
    for path, strip in plan.items():
        with contextlib.suppress(DataError):  # is reported when its turn comes
            if there := next((target for target in work.targets(path, strip) if target.exists()), None):
                return there
    return None


def _read(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        pairs = [*found["inputs"].items(), *found["strip_files"].items()]
        if {type(item) for pair in pairs for item in pair} <= {str}:
            return found
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # undecodable text is a ValueError, too
        pass
    raise PredictError(f"{path} is damaged, so what made these masks is not known: name another folder")
