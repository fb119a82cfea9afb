"""Labels in COCO JSON: polygons in several parts, and both forms of run-lengths.

One file, or one per part of a split (``instances_train2017.json``, Roboflow's ``valid/_annotations.coco.json``).
Classes are numbered from 1 in the order of the category ids; names are kept. Run-lengths are read exactly. A listed
image without annotations is clean; an image file that is not listed does not belong to the set.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from steelnb.data import polygons
from steelnb.data.images import DataError, names
from steelnb.data.labelled import (
    Labelled,
    Options,
    Shape,
    assemble,
    check_size,
    class_ids,
    field_of,
    load_json,
    notes_on_files,
)
from steelnb.data.tree import Tree, part_of


def is_coco(document: object) -> bool:
    """Whether a JSON document is in COCO's format."""
    return isinstance(document, dict) and {"images", "annotations", "categories"} <= document.keys()


def read(tree: Tree, files: list[Path], options: Options) -> Labelled:
    """The set that these COCO files label. Raises DataError naming the file and the annotation."""
    listed: dict[Path, tuple[str, dict]] = {}  # image file → where it is listed, its entry
    shapes: dict[Path, list[tuple[str, str, object]]] = {}  # image file → where, class name, segmentation
    class_names, parts, missing = [], {}, []
    for file in files:
        document = load_json(file)
        categories = {field_of(c, "id", (int, str), f"{file}, category {n}"): field_of(c, "name", str, f"{file}, "
                      f"category {n}") for n, c in enumerate(field_of(document, "categories", list, str(file)), 1)}
        class_names += [categories[key] for key in sorted(categories, key=lambda k: (isinstance(k, str), k))]
        path_of: dict[object, Path | None] = {}
        for number, image in enumerate(field_of(document, "images", list, str(file)), 1):
            where = f"{file}, image {number}"
            name, key = field_of(image, "file_name", str, where), field_of(image, "id", (int, str), where)
            if key in path_of:
                raise DataError(f"{where}: a second image of id {key!r}; export it again")
            path_of[key] = path = tree.locate(name, file, where)
            if path is None:
                missing.append(name)
                continue
            if path in listed:
                raise DataError(f"{where}: {name} is listed twice ({listed[path][0]}); keep one")
            listed[path], parts[path] = (where, image), part_of(file, tree.folder) or part_of(path, tree.folder)
        for number, item in enumerate(field_of(document, "annotations", list, str(file)), 1):
            where = f"{file}, annotation {number}"
            image, category = (field_of(item, key, (int, str), where) for key in ("image_id", "category_id"))
            if image not in path_of or category not in categories:
                what, key = ("image", image) if image not in path_of else ("category", category)
                raise DataError(f"{where}: {what} id {key!r} is not in the file; export it again")
            if path_of[image] is not None:
                shapes.setdefault(path_of[image], []).append((where, categories[category], item.get("segmentation")))
    number_of = class_ids(class_names, str(files[0]))
    notes = notes_on_files(tree, files[0], listed, missing, options.skip_missing, "COCO")

    def masks(path: Path, image_id: str, shape: tuple[int, int]) -> Iterator[Shape]:
        where, entry = listed[path]
        if isinstance(entry.get("height"), int) and isinstance(entry.get("width"), int):
            check_size((entry["height"], entry["width"]), shape, f"{where}, {image_id}")
        for where, name, segmentation in shapes.get(path, ()):
            yield where, number_of[name], mask_of(segmentation, shape, f"{where}, image {image_id}", options.nested)

    layout = f"COCO JSON, {names(tree.name(f) for f in files)}"
    return assemble(tree, listed, masks, [*number_of], layout, notes, options.progress, kind="annotations", parts=parts)


def mask_of(segmentation: object, shape: tuple[int, int], where: str, nested: str | None = None) -> np.ndarray:
    """The mask, bool [H, W], of a COCO segmentation: a list of polygons, or run-lengths. Raises DataError."""
    if isinstance(segmentation, dict):
        size, counts = field_of(segmentation, "size", list, where), segmentation.get("counts")
        if len(size) != 2:
            raise DataError(f"{where}: its size is not [height, width]; export it again")
        check_size(size, shape, where)
        return _runs(_counts(counts, where) if isinstance(counts, str) else counts, shape, where)
    if not isinstance(segmentation, list) or not segmentation:
        raise DataError(f"{where}: no segmentation, only a box or nothing; export polygons or masks")
    return polygons.union([polygons.corners(p, shape, where) for p in segmentation], shape, nested, where)


def _runs(counts: object, shape: tuple[int, int], where: str) -> np.ndarray:
    """The mask of run-lengths down the columns, which start with background pixels."""
    if not isinstance(counts, list) or not all(type(c) is int and 0 <= c <= shape[0] * shape[1] for c in counts):
        raise DataError(f"{where}: its run-lengths are not whole numbers from 0 to the image's pixels; export it again")
    if sum(counts) != shape[0] * shape[1]:
        raise DataError(f"{where}: its run-lengths count {sum(counts)} pixels, the image of {shape[0]}×{shape[1]} has "
                        f"{shape[0] * shape[1]}; export it again")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(shape[1], shape[0]).T


def _counts(text: str, where: str) -> list[int]:
    """COCO's compressed run-lengths: 5 bits per character from "0" on, lowest first, a sixth bit if more follow;
    signed, and from the fourth number on the difference from the last but one."""
    counts, value, shift = [], 0, 0
    for place, character in enumerate(text, 1):
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 40:
            raise DataError(f"{where}: character {place} of its run-lengths, {character!r}, is out of range; export it "
                            "again")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise DataError(f"{where}: its run-lengths are truncated; export it again")
    return counts
