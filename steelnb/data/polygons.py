"""Polygons ⇄ masks, at pixel centres.

Coordinates are x to the right and y down, in pixels, continuous: the image's corner is (0, 0), the centre of its first
pixel (0.5, 0.5), as in COCO, CVAT and LabelMe. A pixel is inside if its centre is (even-odd rule; a centre on an edge
belongs to only one side, so that adjacent polygons neither overlap nor leave a gap). Tools that also draw the outline,
such as LabelMe's own, make masks about half a pixel larger on all sides.
"""

from collections.abc import Sequence

import numpy as np
from skimage.measure import approximate_polygon, find_contours

from steelnb.data.images import DataError

OUTSIDE = 1.0  # pixels that a corner may lie beyond the image, for exporters that round


def fill(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The mask, bool [H, W], of a closed polygon, float [N, 2] (x, y)."""
    height, width = shape
    ends = np.stack([points, np.roll(points, -1, 0)], 1).astype(float)
    down = ends[:, 0, 1] > ends[:, 1, 1]
    ends[down] = ends[down, ::-1]  # all edges from top to bottom, so that polygons with a common edge agree exactly
    (x, y), (to_x, to_y) = ends[:, 0].T, ends[:, 1].T
    first, last = (np.ceil(e - 0.5).clip(0, height).astype(int) for e in (y, to_y))
    crossed = last - first  # rows whose centre an edge crosses
    edge = np.repeat(np.arange(len(x)), crossed)
    row = np.arange(len(edge)) - np.repeat(crossed.cumsum() - crossed, crossed) + first[edge]
    slope = np.divide(to_x - x, to_y - y, out=np.zeros_like(x), where=to_y != y)
    column = np.ceil(x[edge] + (row + 0.5 - y[edge]) * slope[edge] - 0.5).clip(0, width).astype(int)
    switches = np.zeros((height, width + 1), np.int32)
    np.add.at(switches, (row, column), 1)
    return (switches.cumsum(1)[:, :width] & 1).astype(bool)


def corners(numbers: object, shape: tuple[int, int], where: str, outside: float = OUTSIDE) -> np.ndarray:
    """Corners as float [N, 2] from [[x, y], …] or from flat numbers x, y, x, y …; DataError if it is not a polygon.

    outside: largest distance of a corner from the image, in pixels.
    """
    try:
        points = np.asarray(numbers, float)
    except (ValueError, TypeError, OverflowError):
        raise DataError(f"{where}: its corners are not numbers; draw it again") from None
    if points.ndim == 1 and points.size % 2 == 0:
        points = points.reshape(-1, 2)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise DataError(f"{where}: {points.size} numbers are not a polygon, which needs at least 3 pairs of x and y")
    if not np.isfinite(points).all():
        raise DataError(f"{where}: a corner is not a finite number; draw it again")
    far = np.maximum(-points, points - shape[::-1]).max()
    if far > outside:
        raise DataError(f"{where}: a corner is {far:.4g} pixels outside of the image of {shape[0]}×{shape[1]}; "
                        "clip it at the border, and check that it belongs to this image")
    return points


def union(polygons: Sequence[np.ndarray], shape: tuple[int, int], nested: str | None, where: str) -> np.ndarray:
    """The mask, bool [H, W], of one label's polygons.

    nested: meaning of a polygon inside another one: "filled" (adds nothing, as in COCO's own tools) or "hole". None
    raises DataError if there is one, since files do not say, and a filled hole is a wrong mask.
    """
    filled = sorted((fill(p, shape) for p in polygons), key=lambda m: -int(m.sum()))
    whole = np.zeros(shape, bool)
    for mask in filled:
        if nested != "filled" and mask.any() and not (mask & ~whole).any():
            if nested is None:
                raise DataError(f"{where}: a polygon is inside another one of the same label, and the file does not "
                                "say whether it is a hole. Set nested='hole' or 'filled' (--nested hole; COCO's own "
                                "tools fill it)")
            whole &= ~mask
        else:
            whole |= mask
    return whole


def outlines(mask: np.ndarray, tolerance: float = 0.0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Outer outlines and holes of a mask, bool [H, W], as float [N, 2] (x, y): half-way between inside and outside.

    At tolerance 0, filling the outlines and removing the holes restores the mask exactly. tolerance: largest
    displacement, in pixels, by Douglas-Peucker simplification; parts that shrink to a line are left out.
    """
    outer, holes = [], []
    for contour in find_contours(np.pad(mask, 1).astype(float), 0.5, fully_connected="high"):
        points = (approximate_polygon(contour, tolerance) if tolerance else contour)[:-1, ::-1] - 0.5
        if len(points) >= 3:
            x, y = points.T
            area = (x * np.roll(y, -1) - np.roll(x, -1) * y).sum()
            (outer if area > 0 else holes).append(points)
    return outer, holes
