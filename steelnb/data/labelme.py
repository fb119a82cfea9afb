"""Labels of LabelMe: one JSON file per image, with polygons, rectangles, circles and masks.

Classes are the labels, numbered from 1 in alphabetical order. Masks are read exactly, shapes at pixel centres (see
`polygons`). An image without a file may be clean or not yet labelled: an error, or left out with skip_missing.
"""

import base64
import binascii
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from steelnb.data import polygons
from steelnb.data.images import DataError, names, size_text
from steelnb.data.labelled import (
    Labelled,
    Options,
    Shape,
    assemble,
    check_size,
    class_ids,
    field_of,
    left_out,
    load_json,
    notes_on_files,
)
from steelnb.data.tree import Tree

CIRCLE = 256  # corners
BACKGROUND = "_background_"  # LabelMe's own name for it


def is_labelme(document: object) -> bool:
    """Whether a JSON document is in LabelMe's format."""
    return isinstance(document, dict) and {"shapes", "imagePath"} <= document.keys()


def read(tree: Tree, files: list[Path], options: Options) -> Labelled:
    """The set that these LabelMe files label. Raises DataError naming the file and the shape."""
    file_of: dict[Path, Path] = {}
    labels, missing = set(), []
    for file in files:
        document = load_json(file)
        name = field_of(document, "imagePath", str, str(file))
        path = tree.locate(name, file, str(file)) or next(
            (p for p in tree.pictures if p.parent == file.parent and p.stem == file.stem), None)
        for number, shape in enumerate(field_of(document, "shapes", list, str(file)), 1):
            labels.add(field_of(shape, "label", str, f"{file}, shape {number}"))
        if path is None:
            missing.append(name)
        elif path in file_of:
            raise DataError(f"{file}: {tree.name(path)} is labelled by {tree.name(file_of[path])} too; keep one")
        else:
            file_of[path] = file
    number_of = class_ids(sorted(labels - {BACKGROUND}) or ["defect"], str(files[0]))
    notes = notes_on_files(tree, files[0], file_of, missing, options.skip_missing)
    places = {p.parent for p in file_of}
    if bare := [tree.name(p) for p in tree.pictures if p.parent in places and p not in file_of]:
        what = f"{len(bare)} images without a LabelMe file, {names(bare)}"
        notes += left_out(tree.folder, what, options.skip_missing,
                          "Save one for each (a clean image has one without shapes), or leave them out")

    def masks(path: Path, _: str, shape: tuple[int, int]) -> Iterator[Shape]:
        file = file_of[path]
        document = load_json(file)
        stated = document.get("imageHeight"), document.get("imageWidth")
        if stated != (None, None):
            check_size(stated, shape, str(file))
        for number, item in enumerate(document["shapes"], 1):
            where = f"{file}, shape {number}"
            class_id = None if item["label"] == BACKGROUND else number_of[item["label"]]
            yield where, class_id, mask_of(item, shape, where)

    layout = f"LabelMe JSON, {len(files)} files"
    return assemble(tree, file_of, masks, [*number_of], layout, notes, options.progress)


def mask_of(item: dict, shape: tuple[int, int], where: str) -> np.ndarray:
    """The mask, bool [H, W], of a LabelMe shape. Raises DataError naming `where`."""
    kind = item.get("shape_type") or "polygon"
    points = field_of(item, "points", list, where)
    if kind == "polygon":
        return polygons.fill(polygons.corners(points, shape, where), shape)
    if kind not in ("rectangle", "circle", "mask"):
        raise DataError(f"{where}: a {kind!r} has no area; draw a polygon, a rectangle, a circle or a mask")
    if len(points) != 2:
        raise DataError(f"{where}: a {kind} has 2 points, this one {len(points)}; draw it again")
    (left, top), (right, bottom) = polygons.corners([*points, points[0]], shape, where)[:2]
    if kind == "mask":
        return _mask(item, (int(top), int(left), int(bottom) + 1, int(right) + 1), shape, where)
    if kind == "circle":
        angles = np.arange(CIRCLE) * (2 * np.pi / CIRCLE)
        radius = np.hypot(right - left, bottom - top)
        return polygons.fill(np.stack([left + radius * np.cos(angles), top + radius * np.sin(angles)], 1), shape)
    return polygons.fill(np.array([[left, top], [right, top], [right, bottom], [left, bottom]]), shape)


def _mask(item: dict, box: tuple[int, int, int, int], shape: tuple[int, int], where: str) -> np.ndarray:
    """The mask within a box (top, left, bottom, right) of the image, from a PNG as base64 text."""
    text = field_of(item, "mask", str, where)
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as picture:
            if picture.mode not in ("1", "L"):
                raise DataError(f"{where}: its mask is a PNG of mode {picture.mode}, not 1 bit or gray; save it again")
            values = np.array(picture)
    except DataError:
        raise
    except (ValueError, OSError, SyntaxError, EOFError, binascii.Error, Image.DecompressionBombError,
            MemoryError) as error:
        raise DataError(f"{where}: its mask is not a readable PNG ({error}); save it again") from error
    top, left, bottom, right = box
    if values.shape != (bottom - top, right - left) or top < 0 or left < 0 or bottom > shape[0] or right > shape[1]:
        raise DataError(f"{where}: its mask of {size_text(*values.shape)} pixels does not fit its box, rows {top} to "
                        f"{bottom}, columns {left} to {right}, in the image of {size_text(*shape)}")
    if not {*np.unique(values).tolist()} <= {0, 1} and not {*np.unique(values).tolist()} <= {0, 255}:
        raise DataError(f"{where}: its mask contains gray values; save it again")
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = values > 0
    return mask
