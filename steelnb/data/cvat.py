"""Labels in CVAT's XML ("CVAT for images"): polygons, masks, boxes and ellipses.

Classes are the labels, numbered from 1 in the order of the file's list of labels, otherwise alphabetically. Masks are
read exactly, shapes at pixel centres (see `polygons`). A listed image without shapes is clean.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from steelnb.data import polygons
from steelnb.data.images import DataError, names
from steelnb.data.labelled import Labelled, Options, Shape, assemble, check_size, class_ids, notes_on_files
from steelnb.data.tree import PARTS, Tree, part_of

ELLIPSE = 256  # corners
SHAPES = ("polygon", "mask", "box", "ellipse")
OTHER = ("polyline", "points", "cuboid", "skeleton")  # have no area


def parse(path: Path) -> ElementTree.Element:
    """The root of an XML file. Raises DataError naming the file; one that declares entities is refused."""
    try:
        content = path.read_bytes()
        if re.search(rb"<!\s*(DOCTYPE|ENTITY)", content):
            raise DataError(f"{path}: it declares a document type, which labels never need; export it again")
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError, OSError, RecursionError, MemoryError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not readable XML ({error}); export it again") from error


def is_cvat(root: ElementTree.Element) -> bool:
    """Whether an XML document is in CVAT's format."""
    return root.tag == "annotations" and (root.find("image") is not None or root.find("track") is not None
                                          or root.find("meta") is not None)


def read(tree: Tree, files: list[Path], options: Options) -> Labelled:
    """The set that these CVAT files label. Raises DataError naming the file, the image and the shape."""
    listed: dict[Path, tuple[str, ElementTree.Element]] = {}
    declared, used, missing, parts = [], set(), [], {}
    for file in files:
        root = parse(file)
        if root.find("track") is not None:
            raise DataError(f"{file}: labels of a video; export the task as 'CVAT for images'")
        declared += [(label.findtext("name") or "") for label in root.iter("label")]
        for number, image in enumerate(root.findall("image"), 1):
            where = f"{file}, image {number}"
            if not (name := image.get("name", "")):
                raise DataError(f"{where}: an image without a name; export it again")
            for shape in image:
                if shape.tag in OTHER:
                    raise DataError(f"{where}, {name}: a {shape.tag!r} has no area; draw a polygon or a mask")
                if shape.tag in SHAPES:
                    used.add(shape.get("label", ""))
            if (path := tree.locate(name, file, where)) is None:
                missing.append(name)
            elif path in listed:
                raise DataError(f"{where}: {name} is listed twice ({listed[path][0]}); keep one")
            else:
                listed[path] = where, image
                parts[path] = (part_of(file, tree.folder) or part_of(path, tree.folder)
                               or PARTS.get(image.get("subset", "").lower()))
    number_of = class_ids([*declared, *sorted(used - set(declared))] or ["defect"], str(files[0]))
    notes = notes_on_files(tree, files[0], listed, missing, options.skip_missing, "CVAT")

    def masks(path: Path, image_id: str, shape: tuple[int, int]) -> Iterator[Shape]:
        where, image = listed[path]
        if image.get("height") and image.get("width"):
            check_size((image.get("height"), image.get("width")), tuple(map(str, shape)), f"{where}, {image_id}")
        for number, item in enumerate((s for s in image if s.tag in SHAPES), 1):
            place = f"{where}, {image_id}, shape {number}"
            yield place, number_of[item.get("label", "")], mask_of(item, shape, place)

    layout = f"CVAT XML, {names(tree.name(f) for f in files)}"
    return assemble(tree, listed, masks, [*number_of], layout, notes, options.progress, parts=parts)


def mask_of(item: ElementTree.Element, shape: tuple[int, int], where: str) -> np.ndarray:
    """The mask, bool [H, W], of a CVAT shape. Raises DataError naming `where`."""
    if item.tag == "polygon":
        points = [_numbers(pair.split(","), where) for pair in item.get("points", "").split(";")]
        return polygons.fill(polygons.corners(points, shape, where), shape)
    if item.tag == "mask":
        return _mask(item, shape, where)
    if item.tag == "box":
        left, top, right, bottom = _fields(item, ("xtl", "ytl", "xbr", "ybr"), where)
        outline = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    else:
        x, y, across, down = _fields(item, ("cx", "cy", "rx", "ry"), where)
        angles = np.arange(ELLIPSE) * (2 * np.pi / ELLIPSE)
        outline = np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], 1)
    if turn := _numbers([item.get("rotation", "0")], where)[0]:  # degrees, clockwise around the centre
        middle, angle = (outline.min(0) + outline.max(0)) / 2, np.deg2rad(turn)
        cos, sin = np.cos(angle), np.sin(angle)
        outline = (outline - middle) @ np.array([[cos, sin], [-sin, cos]]) + middle
    reach = sum(shape) if turn or item.tag == "ellipse" else polygons.OUTSIDE  # computed corners may be far outside
    return polygons.fill(polygons.corners(outline, shape, where, reach), shape)


def _mask(item: ElementTree.Element, shape: tuple[int, int], where: str) -> np.ndarray:
    """The mask of run-lengths within a box, along its rows, which start with background pixels."""
    left, top, width, height = (_whole(item.get(key, ""), where) for key in ("left", "top", "width", "height"))
    counts = [_whole(c.strip(), where) for c in item.get("rle", "").split(",")]
    if left + width > shape[1] or top + height > shape[0]:
        raise DataError(f"{where}: its box exceeds the image of {shape[0]}×{shape[1]}; export it again")
    if sum(counts) != width * height:
        raise DataError(f"{where}: its run-lengths count {sum(counts)} pixels, its box of {height}×{width} has "
                        f"{width * height}; export it again")
    mask = np.zeros(shape, bool)
    box = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
    mask[top : top + height, left : left + width] = box
    return mask


def _whole(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise DataError(f"{where}: {text[:20]!r} is not a whole number; export it again")
    return int(text)


def _fields(item: ElementTree.Element, keys: tuple[str, ...], where: str) -> list[float]:
    return _numbers([item.get(key, "") for key in keys], where)


def _numbers(texts: list[str], where: str) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError:
        raise DataError(f"{where}: {', '.join(texts)[:40]!r} are not numbers; draw it again") from None
