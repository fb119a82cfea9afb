"""Shared parts of the readers of published labels: options, the result, masks made of shapes, checks."""

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from steelnb.data import rle
from steelnb.data.images import DataError, headers, names, nfc
from steelnb.data.tree import Tree, part_of

Shape = tuple[str, int | None, np.ndarray]  # where, class, mask
MOST_CLASSES = 1000  # a file with more is damaged


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


def assemble(
    tree: Tree, images: Iterable[Path], shapes: Callable[[Path, str, tuple[int, int]], Iterable[Shape]],
    class_names: Sequence[str], layout: str, notes: Iterable[str], progress: bool, *, kind: str = "shapes",
    parts: Mapping[Path, str | None] | None = None,
) -> Labelled:
    """A set of images whose masks are made of shapes.

    shapes: image file, ImageId, (H, W) → each shape of the image: where it is, its class (None: background), its mask.
    kind: what shapes are called in a note on those that cover no pixel. parts: by image file; None: from its path.
    """
    paths, empty = ids(images), []

    def masks(image_id: str, shape: tuple[int, int]) -> dict[int, np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for where, class_id, mask in shapes(paths[image_id], image_id, shape):
            if not mask.any():
                empty.append(where)
            if class_id is not None:
                found[class_id] = found[class_id] | mask if class_id in found else mask
        return found

    entries, rows = collect(paths, masks, progress)
    notes = [*notes, *[f"{len(empty)} {kind} cover no pixel's centre, {names(empty)}"] * bool(empty)]
    split, note = settle_parts({i: part_of(p, tree.folder) if parts is None else parts[p] for i, p in paths.items()})
    classes = tuple(range(1, max(len(class_names), 1) + 1))
    return Labelled(tree.folder, entries, rows, classes, tuple(class_names), layout, (*notes, *filter(None, [note])),
                    split)


def notes_on_files(
    tree: Tree, file: Path, listed: Collection[Path], missing: list[str], skip_missing: bool, kind: str = ""
) -> list[str]:
    """Notes on labelled images without a file, and on image files that label files of this `kind` do not list.

    Raises DataError if no labelled image has a file, and, unless `skip_missing`, if one has none.
    """
    if not listed:
        raise DataError(f"{file}: none of the {len(missing)} labelled images is below {tree.folder}"
                        + f": {names(missing)}" * bool(missing))
    what = f"{len(missing)} images are labelled but missing, {names(missing)}"
    notes = left_out(file, what, skip_missing) if missing else []
    places = {path.parent for path in listed}
    if kind and (unlisted := sum(path.parent in places and path not in listed for path in tree.pictures)):
        notes.append(f"{unlisted} image files that no {kind} file lists are no part of the set")
    return notes


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


def left_out(where: object, what: str, skip_missing: bool, remedy: str = "Add them, or leave them out") -> list[str]:
    """The note on what is left out. Raises DataError with the remedy unless it may be."""
    if not skip_missing:
        raise DataError(f"{where}: {what}. {remedy} with skip_missing=True (--skip-missing)")
    return [f"left out: {what}"]


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


def _short(value: object) -> str:
    text = " ".join(repr(value).split() if not isinstance(value, Exception) else str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}…"
