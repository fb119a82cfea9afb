"""What every reader of published labels shares: the files of a folder, the options, and what a reader hands over."""

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

MOST_CLASSES = 1000  # more are a damaged file
MASKS = ("masks", "mask", "labels", "label", "annotations", "annotation", "ground_truth", "gt", "segmentationclass")
PARTS = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
         "test": "test", "testing": "test"}


class Options(NamedTuple):
    """What a reader may be told. mask_threshold and nested have no default: what they decide is not guessed.

    skip_missing: leave out what has no counterpart. mask_threshold: a mask's gray value above which a pixel is defect,
    0 … 254. nested: what a polygon inside another polygon of the same label is, "filled" or "hole".
    """

    skip_missing: bool = False
    mask_threshold: int | None = None
    nested: str | None = None
    progress: bool = False


class Labelled(NamedTuple):
    """A labelled set as read, not yet assembled.

    images: as `headers` gives them. rows: ImageId, class (1 … K), run-length text, area. class_names: of class 1 … K,
    or empty where the set names none. parts: ImageId → "train" or "validation" (or "test"), where the set brings a
    split.
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
    """Every file below `folder`, at any depth, sorted; hidden ones and what macOS adds are left out."""

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
        """The image file that a file of labels names; None where there is none, DataError where there are several.

        Looked for beside the labels and below the folder; else the file whose path agrees the longest from its end, of
        several the one in the same part of a split.
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
                    raise DataError(f"{where}: {name} may be {names(map(self.name, found))}; write its path below the "
                                    "folder")
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
    """ImageId → file: the path below the folder that all the images have in common. Raises DataError for one twice."""
    paths = list(paths)
    common = Path(os.path.commonpath([p.parent for p in paths])) if paths else Path()
    found: dict[str, Path] = {}
    for path in paths:
        if found.setdefault(nfc(path.relative_to(common).as_posix()), path) != path:
            raise DataError(f"{path}: two files of this name, in two Unicode forms; remove one")
    return found


def collect(images: Mapping[str, Path], masks: Callable[[str, tuple[int, int]], Mapping[int, np.ndarray]],
            progress: bool) -> tuple[pd.DataFrame, list[tuple[str, int, str, int]]]:
    """The headers of `images` (ImageId → file), and a row for each mask that is not empty.

    masks: ImageId, (H, W) → class → mask, bool [H, W]. Its DataErrors go through.
    """
    entries, rows = headers(images, progress), []
    for entry in tqdm(entries.itertuples(), "masks", len(entries), unit="image", disable=not progress):
        for class_id, mask in sorted(masks(entry.ImageId, (entry.height, entry.width)).items()):
            if area := int(mask.sum()):
                rows.append((entry.ImageId, class_id, rle.encode(mask), area))
    return entries, rows


def part_of(path: Path, below: Path) -> str | None:
    """The part of a split that a file's name, or a folder on the way to it from `below`, speaks of.

    A word of the name of a file of labels; of a folder its whole name, but for digits at its end (``train2017``).
    """
    words = [] if path.suffix.lower() in SUFFIXES else re.findall("[a-z]+", path.stem.lower())
    if part := next((PARTS[word] for word in words if word in PARTS), None):
        return part
    folders = path.relative_to(below).parts[:-1] if path.is_relative_to(below) else ()
    return next((PARTS[w] for w in (f.lower().rstrip("0123456789") for f in folders) if w in PARTS), None)


def settle_parts(parts: Mapping[str, str | None]) -> tuple[dict[str, str] | None, str | None]:
    """The split that a set brings, or None, and a note. Where nothing is for validation, what is for testing is."""
    kinds = set(parts.values())
    if "train" not in kinds or not kinds & {"validation", "test"} or None in kinds:
        return None, None
    if "validation" not in kinds:
        parts = {i: "validation" if part == "test" else part for i, part in parts.items()}
    counts = {kind: sum(p == kind for p in parts.values()) for kind in ("train", "validation", "test")}
    told = f"brings its own split: {counts['train']} images to train on, {counts['validation']} held out"
    return dict(parts), told + (f", {counts['test']} for a test, used in neither" if counts["test"] else "")


def absent(missing: list[str], where: str, skip_missing: bool) -> str:
    """The note on images that are labelled but not there. Raises DataError unless they may be left out."""
    what = f"{len(missing)} images are labelled but not there, {names(missing)}"
    if not skip_missing:
        raise DataError(f"{where}: {what}. Fetch them, or leave them out with skip_missing=True (--skip-missing)")
    return f"left out: {what}"


def load_json(path: Path) -> object:
    """A JSON file's content. Raises DataError naming the file."""
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except (ValueError, OSError, RecursionError, MemoryError) as error:
        raise DataError(f"{path}: not readable JSON ({_short(error)}); export it again") from error


def field_of(item: object, key: str, kind: type | tuple, where: str):
    """A field of a JSON object, of the kind that it must have. Raises DataError naming `where`."""
    if not isinstance(item, dict):
        raise DataError(f"{where}: {_short(item)!s} is no object with fields; export it again")
    if key not in item:
        raise DataError(f"{where}: no field {key!r}; export it again")
    if not isinstance(item[key], kind) or isinstance(item[key], bool):
        raise DataError(f"{where}: field {key!r} is {_short(item[key])}; export it again")
    return item[key]


def check_size(stated: tuple, shape: tuple[int, int], where: str) -> None:
    """Refuses labels that were drawn on an image of another size."""
    if tuple(stated) != tuple(shape):
        raise DataError(f"{where}: labelled as {stated[0]}×{stated[1]} pixels, the image is {shape[0]}×{shape[1]}. "
                        "Restore the image that was labelled")


def listed_names(tree: Tree) -> list[str]:
    """The names in a classes.txt, one a line, or in CVAT's labelmap.txt, whose first is the background; else none."""
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
    """Class name → 1 … K in the order given. Raises DataError for a nameless one and for too many."""
    ordered = list(dict.fromkeys(found))
    if any(not name.strip() for name in ordered):
        raise DataError(f"{where}: a class without a name; give it one")
    if not ordered or len(ordered) > MOST_CLASSES:
        raise DataError(f"{where}: {len(ordered)} classes, expected 1 to {MOST_CLASSES}")
    return {name: k for k, name in enumerate(ordered, 1)}


def merge(masks: dict[int, np.ndarray], class_id: int, mask: np.ndarray) -> None:
    """Adds a mask to its class's."""
    masks[class_id] = masks[class_id] | mask if class_id in masks else mask


def _short(value: object) -> str:
    text = " ".join(repr(value).split() if not isinstance(value, Exception) else str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}…"
