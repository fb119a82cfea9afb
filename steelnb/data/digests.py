"""SHA256SUMS: the digests of a folder's files, which reveal a change of a single bit in any of them.

PNG and zip have checksums of their own; JPEG, BMP, TIFF, raw bytes and text have none, and a flipped bit in them gives
a different image or mask. ``sha256sum -b images/* train.csv > SHA256SUMS`` makes the file, and so does `write`;
`python -m steelnb convert`, `sample` and `predict` write one. If a data set has one, it is checked whenever the data
set is opened.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from os.path import normpath
from pathlib import Path

from tqdm.auto import tqdm

from steelnb import storage
from steelnb.data.images import SUFFIXES, SUMS, DataError, names, nfc
from steelnb.data.tree import MASKS

IMAGES = ("images", "train_images")
LINE = re.compile(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)", re.S)
ESCAPES = {r"\\": "\\", r"\n": "\n", r"\r": "\r"}
REMEDY = f"Fetch it again, or, where the change is meant, write {SUMS} anew"


def key(path: Path) -> Path:
    """A file's key in the result of `read`: its absolute path without `..`."""
    return Path(normpath(path.absolute()))


def read(folder: Path) -> dict[Path, str]:
    """File → SHA-256, hex, from the list in this folder; empty without a list. Raises DataError naming the line."""
    path, found = folder / SUMS, {}
    if not path.exists():
        return found
    try:
        lines = path.read_bytes().decode().split("\n")
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not readable text ({error}); write it anew") from error
    for number, line in enumerate(lines, 1):
        if not (line := line.removesuffix("\r")):
            continue
        if not (parts := LINE.fullmatch(line)):
            raise DataError(f"{path}, line {number}: not as sha256sum writes it (64 digits, two characters, a name); "
                            "write it anew")
        name = re.sub(r"\\[\\nr]", lambda each: ESCAPES[each[0]], parts[3]) if parts[1] else parts[3]
        file = key(folder / name)
        if file != key(path) and found.setdefault(file, parts[2].lower()) != parts[2].lower():
            raise DataError(f"{path}, line {number}: a second digest of {name}; write it anew")
    if not found:
        raise DataError(f"{path}: lists no file; write it anew, or remove it")
    return found  # without the list itself, which was still empty when the shell command read it


def of_file(path: Path) -> str | None:
    """SHA-256, hex, of a file; None if it cannot be read."""
    try:
        if not path.is_file():  # opening a pipe would block
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def check_data(folder: Path, masks: Path | None, skip_missing: bool = False, progress: bool = False) -> list[str]:
    """`check` of every list of a data set: in its folder, in folders of images or masks, in a set one level below."""
    inside = (p for p in sorted(folder.iterdir()) if p.is_dir())
    inside = [p for p in inside if p.name.lower() in (*IMAGES, *MASKS) or (p / "train.csv").is_file()]
    return [note for place in dict.fromkeys([folder, *inside, *[masks] * (masks is not None and masks.is_dir())])
            for note in check(place, skip_missing, progress)]


def check(folder: Path, skip_missing: bool = False, progress: bool = False) -> list[str]:
    """Compares files with the list in `folder`; returns notes on the result, none without a list.

    Raises DataError for a file that differs from its digest, and, unless `skip_missing`, for a missing file.
    """
    listed, absent = read(folder), []
    for path, digest in tqdm(listed.items(), SUMS, unit="file", disable=not progress):
        if not path.exists():
            absent.append(path.name)
        elif of_file(path) != digest:
            raise DataError(f"{path}: changed since {SUMS} was written. {REMEDY}")
    if absent and not skip_missing:
        raise DataError(f"{folder / SUMS}: {len(absent)} files listed but not there, {names(absent)}. Fetch them, "
                        f"leave them out with skip_missing=True (--skip-missing), or write {SUMS} anew")
    if not listed:
        return []
    known = {nfc(str(path)) for path in listed}
    places = sorted({path.parent for path in listed if path.parent.is_dir()})
    others = [path.name for place in places for path in sorted(place.iterdir())
              if path.suffix.lower() in SUFFIXES and nfc(str(path)) not in known]
    return [f"{SUMS}: {len(listed) - len(absent)} files are as listed"
            + f"; {len(absent)} are not there, {names(absent)}" * bool(absent)
            + f"; {len(others)} images are not listed, {names(others)}" * bool(others)]


def listed_for(paths: Iterable[Path]) -> dict[Path, str]:
    """The digests of files from lists in their folder or one above. Raises DataError for a damaged list."""
    lists: dict[Path, Mapping[Path, str]] = {}
    found = {}
    for path in paths:
        whole = key(path)
        for folder in whole.parents[:2]:
            if folder not in lists:
                lists[folder] = read(folder)
            if digest := lists[folder].get(whole):
                found[path] = digest
    return found


def write(folder: Path, files: Mapping[Path, str] | None = None) -> Path:
    """Writes the list of all files below `folder` except hidden ones, or of `files` there with their digests.

    Raises storage.StorageError.
    """
    if files is None:
        every = (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / SUMS)
        files = {path: of_file(path) or "" for path in every
                 if not any(part.startswith(".") for part in path.relative_to(folder).parts)}
    lines = []
    for path, digest in files.items():
        name = key(path).relative_to(key(folder)).as_posix()
        escaped = name.replace("\\", r"\\").replace("\n", r"\n").replace("\r", r"\r")
        lines.append("\\" * (escaped != name) + f"{digest} *{escaped}\n")
    storage.write_file(folder / SUMS, "".join(lines).encode())
    return folder / SUMS
