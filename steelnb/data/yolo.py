"""Labels for YOLO segmentation: next to ``images/`` a folder ``labels/`` with one text file per image.

A line is a class, from 0 on, and one polygon, x and y as shares of the image's width and height. Classes are numbered
from 1; their names come from ``data.yaml`` (extra `yolo`) or ``classes.txt``. As in YOLO, an image without a text file
is clean. Polygons have no holes: a hole that was exported this way is read as defect.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from steelnb.data import polygons
from steelnb.data.images import DataError, names
from steelnb.data.labelled import MOST_CLASSES, Labelled, Options, Shape, assemble, class_ids, left_out, listed_names
from steelnb.data.tree import Tree

ROUNDED = 1e-3  # tolerance beyond 0 … 1, for exporters that round


def label_files(tree: Tree) -> list[Path]:
    """The text files at any depth below a folder ``labels``."""
    return [p for p in tree.with_suffix(".txt") if "labels" in p.relative_to(tree.folder).parts[:-1]
            and p.name != "classes.txt"]


def read(tree: Tree, files: list[Path], options: Options) -> Labelled:
    """The set that these text files label. Raises DataError naming the file and the line."""
    paths = {_labels_of(p, tree): p for p in tree.pictures if "images" in p.relative_to(tree.folder).parts[:-1]}
    if not paths:
        raise DataError(f"{files[0]}: no image in an images/ next to labels/; move the images there")
    notes = []
    if lone := [tree.name(p) for p in files if p.with_suffix("") not in paths]:
        notes += left_out(tree.folder, f"{len(lone)} text files without an image, {names(lone)}", options.skip_missing,
                          "Add the images, or leave these out")
    lines = {paths[f.with_suffix("")]: _lines(f) for f in files if f.with_suffix("") in paths}
    if bare := len(paths) - len(lines):
        notes.append(f"{bare} images without a text file are clean, as in YOLO")
    last = max((class_id for each in lines.values() for _, class_id, _ in each), default=0)
    class_names = _names(tree)
    if class_names and last >= len(class_names):
        where = next(w for each in lines.values() for w, class_id, _ in each if class_id == last)
        raise DataError(f"{where}: class {last}, but only {len(class_names)} are named ({names(class_names)})")
    if not class_names and last:
        class_names = [str(k) for k in range(last + 1)]
    class_names = [*class_ids(class_names, str(tree.folder))] if class_names else []

    def masks(path: Path, _: str, shape: tuple[int, int]) -> Iterator[Shape]:
        for where, class_id, shares in lines.get(path, ()):
            corners = polygons.corners(shares.reshape(-1, 2) * shape[::-1], shape, where)
            yield where, class_id + 1, polygons.fill(corners, shape)

    layout = "YOLO, images/ beside labels/ of one polygon a line"
    return assemble(tree, paths.values(), masks, class_names, layout, notes, options.progress, kind="polygons")


def _labels_of(image: Path, tree: Tree) -> Path:
    """The path of an image's label file in YOLO, without suffix: the last ``images`` in it becomes ``labels``."""
    parts = list(image.with_suffix("").parts)
    at = len(parts) - 2 - parts[-2::-1].index("images")
    return Path(*parts[:at], "labels", *parts[at + 1 :])


def _lines(file: Path) -> list[tuple[str, int, np.ndarray]]:
    """Where, class and coordinates as shares, float [2 N], of each line."""
    try:
        text = file.read_text("utf-8-sig")
    except (ValueError, OSError) as error:
        raise DataError(f"{file}: not readable text ({error}); export it again") from error
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not (fields := line.split()):
            continue
        where = f"{file}, line {number}"
        if not (fields[0].isascii() and fields[0].isdigit()) or len(fields[0]) > 4 or int(fields[0]) >= MOST_CLASSES:
            raise DataError(f"{where}: class {fields[0][:20]!r} is not a whole number below {MOST_CLASSES}")
        if len(fields) == 5:
            raise DataError(f"{where}: a box, not a polygon: labels for detection have no masks; export them for "
                            "segmentation")
        if len(fields) < 7 or len(fields) % 2 == 0:
            raise DataError(f"{where}: {len(fields) - 1} numbers are not a polygon, which needs at least 3 pairs of x "
                            "and y")
        try:
            shares = np.array(fields[1:], float)
        except ValueError:
            raise DataError(f"{where}: {line[:40]!r} are not numbers; export it again") from None
        if not ((shares >= -ROUNDED) & (shares <= 1 + ROUNDED)).all():
            raise DataError(f"{where}: a corner beyond 0 … 1: corners are shares of the image's width and height")
        found.append((where, int(fields[0]), shares.clip(0, 1)))
    return found


def _names(tree: Tree) -> list[str]:
    """The names of the classes in their order; empty if no file names them."""
    if listed := listed_names(tree):
        return listed
    file = next((f for f in tree.with_suffix(".yaml", ".yml") if f.stem in ("data", "dataset") or len(
        tree.with_suffix(".yaml", ".yml")) == 1), None)
    if file is None:
        return []
    try:
        import yaml
    except ImportError:
        raise DataError(f"{file}: reading it needs PyYAML: pip install 'steelnb[yolo]', or write the names of the "
                        "classes to classes.txt, one per line") from None
    try:
        content = yaml.safe_load(file.read_text("utf-8-sig"))
    except (ValueError, OSError, yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{file}: not readable YAML ({' '.join(str(error).split())[:120]}); write it again") from error
    found = content.get("names") if isinstance(content, dict) else None
    if isinstance(found, dict) and sorted(found, key=str) == sorted(range(len(found)), key=str):
        found = [found[k] for k in range(len(found))]
    if not isinstance(found, list) or not all(isinstance(name, str | int) for name in found) or not found:
        raise DataError(f"{file}: no list of 'names', from class 0 on; write it")
    if len({*map(str, found)}) < len(found):
        raise DataError(f"{file}: two classes with the same name; rename one")
    return [str(name) for name in found]
