"""Shared parts of the readers of published labels: the files of a folder, options, the result."""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from steelnb.data import rle
from steelnb.data.images import SUFFIXES, DataError, headers, names, nfc

MOST_CLASSES = 1000  # a file with more is damaged
MASKS = ("masks", "mask", "labels", "label", "annotations", "annotation", "ground_truth", "gt", "segmentationclass")
PARTS = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
         "test": "test", "testing": "test"}


class Options(NamedTuple):
    """Options of a reader. mask_threshold and nested have no default, since a guess could be wrong.

    skip_missing: leave out images and labels without a counterpart. mask_threshold: a mask's gray value above which a
    pixel is defect, 0 … 254. nested: meaning of a polygon inside another one of the same label, "filled" or "hole".
    """

    skip_missing: bool = False
    mask_threshold: int | None = None
    nested: str | None = None
    progress: bool = False


class Labelled(NamedTuple):
    """The result of a reader, from which `dataset` makes a SteelData.

    images: as returned by `headers`. rows: ImageId, class (1 … K), run-length text, area. class_names: of class 1 … K,
    or empty if the set names none. parts: ImageId → "train" or "validation" (or "test"), if the set has its own split.
    """

    folder: Path
    images: pd.DataFrame
    rows: list[tuple[str, int, str, int]]
    classes: tuple[int, ...]
    class_names: tuple[str, ...]
    layout: str
    notes: tuple[str, ...] = ()
    parts: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Tree:
    """Every file below `folder`, at any depth, sorted, without hidden files and those that macOS adds."""

    folder: Path
    files: tuple[Path, ...] = field(repr=False)

    @cached_property
    def pictures(self) -> tuple[Path, ...]:
        """The image files, by their suffix."""
        return self.with_suffix(*SUFFIXES)

    def with_suffix(self, *suffixes: str) -> tuple[Path, ...]:
        """The files of these suffixes, given in lower case."""
        return tuple(p for p in self.files if p.suffix.lower() in suffixes)

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        index: dict[str, list[Path]] = {}
        for path in self.pictures:
            index.setdefault(path.name, []).append(path)
        return index

    def locate(self, name: str, labels: Path, where: str) -> Path | None:
        """The image file with a name from a label file; None if there is none, DataError if there are several.

        First the path relative to the label file and to the folder; then the file whose path agrees longest from its
        end, of several the one in the same part of a split.
        """
        wanted = PurePosixPath(name.replace("\\", "/"))
        same = self._by_name.get(wanted.name, [])
        for base in (labels.parent, self.folder):
            if (direct := Path(os.path.normpath(base.joinpath(*wanted.parts)))) in same:
                return direct
        for length in range(len(wanted.parts), 0, -1):
            if found := [p for p in same if p.parts[-length:] == wanted.parts[-length:]]:
                found = [p for p in found if p.parent.name.lower() not in MASKS] or found
                if len(found) > 1:
                    found = [p for p in found if part_of(p, self.folder) == part_of(labels, self.folder)] or found
                if len(found) > 1:
                    raise DataError(f"{where}: {name} may be {names(map(self.name, found))}; use its path relative to "
                                    "the folder")
                return found[0]
        return None

    def name(self, path: Path) -> str:
        """A file's path below the folder, for a message."""
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else str(path)


def walk(folder: Path) -> Tree:
    """The tree of `folder`. Links to folders are followed, each folder once. DataError names an unreadable one."""
    files, seen = [], set()

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: {error.strerror or error}; make it readable") from error

    for place, folders, inside in os.walk(folder, followlinks=True, onerror=refuse):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX"
                            and (real := os.path.realpath(os.path.join(place, f))) not in seen
                            and not seen.add(real))
        files += [Path(place, f) for f in sorted(inside) if not f.startswith(".")]
    return Tree(folder, tuple(files))


def ids(paths: Iterable[Path]) -> dict[str, Path]:
    """ImageId → file; an ImageId is the path below the images' common folder. Raises DataError for duplicates."""
    paths = list(paths)
    common = Path(os.path.commonpath([p.parent for p in paths])) if paths else Path()
    found: dict[str, Path] = {}
    for path in paths:
        if found.setdefault(nfc(path.relative_to(common).as_posix()), path) != path:
            raise DataError(f"{path}: two files with this name, in two Unicode forms; remove one")
    return found


def collect(images: Mapping[str, Path], masks: Callable[[str, tuple[int, int]], Mapping[int, np.ndarray]],
            progress: bool) -> tuple[pd.DataFrame, list[tuple[str, int, str, int]]]:
    """The headers of `images` (ImageId → file), and one row per mask that is not empty.

    masks: ImageId, (H, W) → class → mask, bool [H, W]; may raise DataError.
    """
    entries, rows = headers(images, progress), []
    for entry in tqdm(entries.itertuples(), "masks", len(entries), unit="image", disable=not progress):
        for class_id, mask in sorted(masks(entry.ImageId, (entry.height, entry.width)).items()):
            if area := int(mask.sum()):
                rows.append((entry.ImageId, class_id, rle.encode(mask), area))
    return entries, rows


def part_of(path: Path, below: Path) -> str | None:
    """The part of a split named by a file, or by a folder between `below` and it; None if there is no such name.

    A label file may have it as one word of its name; of a folder it is the whole name, except for digits at the end
    (``train2017``).
    """
    words = [] if path.suffix.lower() in SUFFIXES else re.findall("[a-z]+", path.stem.lower())
    if part := next((PARTS[word] for word in words if word in PARTS), None):
        return part
    folders = path.relative_to(below).parts[:-1] if path.is_relative_to(below) else ()
    return next((PARTS[w] for w in (f.lower().rstrip("0123456789") for f in folders) if w in PARTS), None)


def settle_parts(parts: Mapping[str, str | None]) -> tuple[dict[str, str] | None, str | None]:
    """The set's own split, or None, and a note. Without a validation part, the test part is used for validation."""
    kinds = set(parts.values())
    if "train" not in kinds or not kinds & {"validation", "test"} or None in kinds:
        return None, None
    if "validation" not in kinds:
        parts = {i: "validation" if part == "test" else part for i, part in parts.items()}
    counts = {kind: sum(p == kind for p in parts.values()) for kind in ("train", "validation", "test")}
    note = f"brings its own split: {counts['train']} images to train on, {counts['validation']} held out"
    return dict(parts), note + (f", {counts['test']} for a test, used in neither" if counts["test"] else "")


def absent(missing: list[str], where: str, skip_missing: bool) -> str:
    """The note on labelled images without a file. Raises DataError unless they may be left out."""
    what = f"{len(missing)} images are labelled but missing, {names(missing)}"
    if not skip_missing:
        raise DataError(f"{where}: {what}. Add them, or leave them out with skip_missing=True (--skip-missing)")
    return f"left out: {what}"


def load_json(path: Path) -> object:
    """A JSON file's content. Raises DataError naming the file."""
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except (ValueError, OSError, RecursionError, MemoryError) as error:
        raise DataError(f"{path}: not readable JSON ({_short(error)}); export it again") from error


def field_of(item: object, key: str, kind: type | tuple, where: str):
    """A field of a JSON object, of the required type. Raises DataError naming `where`."""
    if not isinstance(item, dict):
        raise DataError(f"{where}: {_short(item)!s} is not an object with fields; export it again")
    if key not in item:
        raise DataError(f"{where}: no field {key!r}; export it again")
    if not isinstance(item[key], kind) or isinstance(item[key], bool):
        raise DataError(f"{where}: field {key!r} is {_short(item[key])}; export it again")
    return item[key]


def check_size(stated: tuple, shape: tuple[int, int], where: str) -> None:
    """Raises DataError for labels that were drawn on an image of another size."""
    if tuple(stated) != tuple(shape):
        raise DataError(f"{where}: labelled as {stated[0]}×{stated[1]} pixels, the image is {shape[0]}×{shape[1]}. "
                        "Restore the image that was labelled")


def listed_names(tree: Tree) -> list[str]:
    """The names in a classes.txt, one per line, or in CVAT's labelmap.txt without the background; [] without file."""
    for file in tree.files:
        if file.name in ("classes.txt", "labelmap.txt"):
            try:
                lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
            except (ValueError, OSError) as error:
                raise DataError(f"{file}: not readable text ({error}); write it again") from error
            if file.name == "classes.txt":
                return list(filter(None, lines))
            return [line.partition(":")[0] for line in lines if line and line[0] != "#"][1:]
    return []


def class_ids(found: Iterable[str], where: str) -> dict[str, int]:
    """Class name → 1 … K in the given order. Raises DataError for an empty name, no class or too many."""
    ordered = list(dict.fromkeys(found))
    if any(not name.strip() for name in ordered):
        raise DataError(f"{where}: a class without a name; name it")
    if not ordered or len(ordered) > MOST_CLASSES:
        raise DataError(f"{where}: {len(ordered)} classes, expected 1 to {MOST_CLASSES}")
    return {name: k for k, name in enumerate(ordered, 1)}


def merge(masks: dict[int, np.ndarray], class_id: int, mask: np.ndarray) -> None:
    """Adds a mask to that of its class."""
    masks[class_id] = masks[class_id] | mask if class_id in masks else mask


def _short(value: object) -> str:
    text = " ".join(repr(value).split() if not isinstance(value, Exception) else str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}…"
