"""The overlap-tile strategy: tiles of output pixels and their input windows.  Taught in 02_overlap_tile.

A valid U-Net needs `geometry.margin` more pixels on every side than it predicts (Ronneberger et al. 2015, Figure 2).
Inside the image they are the neighbouring pixels, beyond its edges a mirror image that repeats the edge pixel (NumPy's
"symmetric"). Output pixel (0, 0) is image pixel (0, 0), and tiles start at multiples of 2^depth, so that the poolings
always fall on the same pixels: any tiling gives the result of the whole image.
"""

from collections.abc import Iterator
from numbers import Integral, Number
from typing import NamedTuple

import numpy as np

from steelnb.network import geometry

ORIGINAL_MARGINS = ((87, 87), (90, 90))  # rows, columns: 256×1600 → 430×1780
DEFAULT_TILE = (512, 2048)  # one forward pass for a Severstal image; bounded memory for a strip


class Tile(NamedTuple):
    """A rectangle of output pixels, rows top … top + height, columns left … left + width."""

    top: int
    left: int
    height: int
    width: int

    @property
    def region(self) -> tuple[slice, slice]:
        """Its slices of an [H, W] array."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def mirror_index(start: int, stop: int, size: int) -> np.ndarray:
    """The pixel of an axis of `size` pixels at each place start … stop − 1 of its endlessly mirrored continuation.

    int64 [stop − start]. The edge pixel is repeated: places −2, −1, 0, 1 are pixels 1, 0, 0, 1.
    """
    place = np.arange(start, stop) % (2 * size)
    return np.minimum(place, 2 * size - 1 - place)


def window(image: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Rows top … top + height and columns left … left + width of an […, H, W] array mirrored beyond its edges.

    Only the pixels needed are read, so `image` can be a memory map of any length. Same dtype.
    """
    rows = mirror_index(top, top + height, image.shape[-2])
    columns = mirror_index(left, left + width, image.shape[-1])
    r, c = rows.min(), columns.min()
    near = np.asarray(image[..., r : rows.max() + 1, c : columns.max() + 1])
    if (r, c) == (top, left) and near.shape[-2:] == (height, width):  # wholly inside: nothing to mirror
        return near
    # First slices along the columns, then whole rows: indexing every pixel takes four times as long.
    across = [near[..., way] for way in _ways(left, left + width, image.shape[-1], c)]
    return np.concatenate(across, axis=-1)[..., rows - r, :]


def _ways(start: int, stop: int, size: int, first: int) -> Iterator[slice]:
    """`mirror_index` as slices, forwards and backwards in turn, of an axis that starts at pixel `first`."""
    for copy in range(start // size, -(-stop // size)):
        begin, end = max(start - copy * size, 0), min(stop - copy * size, size)
        if copy % 2:
            last = size - end - first  # of this slice, which runs backwards and stops before index −1
            yield slice(size - 1 - begin - first, last - 1 if last else None, -1)
        else:
            yield slice(begin - first, end - first)


def mirror(image: np.ndarray, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """An […, H, W] array with mirrored margins of (before, after) pixels; the original's were (87, 87) and (90, 90)."""
    height, width = image.shape[-2:]
    return window(image, -rows[0], -columns[0], height + sum(rows), width + sum(columns))


def grid_of(depth: int | geometry.Grid) -> geometry.Grid:
    """The grid itself, or that of a valid U-Net with this depth."""
    return depth if isinstance(depth, geometry.Grid) else geometry.Grid.of_unet(depth)


def input_place(output: Tile, depth: int | geometry.Grid = 4, shape: tuple[int, int] | None = None) -> Tile:
    """The position of the window from which a network predicts the pixels of `output` (and possibly a few more).

    depth: of a valid U-Net, or the grid of any network. shape: H and W of the image, beyond whose edges the window
    extends by at most the grid's `mirror`. Additional pixels are at the bottom and right.
    """
    height, width = shape or (None, None)
    rows = grid_of(depth).span(output.top, output.height, height)
    columns = grid_of(depth).span(output.left, output.width, width)
    return Tile(rows[0], columns[0], rows[1], columns[1])


def input_window(image: np.ndarray, output: Tile, depth: int | geometry.Grid = 4) -> np.ndarray:
    """The pixels at `input_place`, […, h, w], mirrored beyond the image's edges."""
    return window(image, *input_place(output, depth, image.shape[-2:]))


def tiles(
    height: int, width: int, tile: int | tuple[int, int] | None = None, depth: int | geometry.Grid = 4
) -> list[Tile]:
    """Tiles that cover height × width output pixels exactly once, row by row, starting on a network's grid.

    tile: output pixels per tile, one number or (height, width), rounded up to the grid; None: `DEFAULT_TILE`.
    Raises ValueError for a side below 1.
    """
    sides = (tile, tile) if isinstance(tile, Number) else tile or DEFAULT_TILE
    if not all(isinstance(side, Integral) for side in sides):
        raise ValueError(f"a tile is whole pixels, got {tile}")
    if min(sides) < 1 or min(height, width) < 1:
        raise ValueError(f"tile and image need at least 1 pixel per side, got tile {sides}, image {height}×{width}")
    grid = grid_of(depth).stride
    down, right = (-(-side // grid) * grid for side in sides)
    return [
        Tile(top, left, min(down, height - top), min(right, width - left))
        for top in range(0, height, down)
        for left in range(0, width, right)
    ]


def original_output(shape: tuple[int, int], depth: int = 4) -> Tile:
    """The centre of an image that the original's geometry predicts: 244×1588 of 256×1600, 6 pixels less per side."""
    out = [geometry.output_size(n + sum(margins), depth) for n, margins in zip(shape, ORIGINAL_MARGINS, strict=True)]
    return Tile(*(geometry.crop_start(n, m) for n, m in zip(shape, out, strict=True)), *out)


def original_crop(mask: np.ndarray, depth: int = 4) -> np.ndarray:
    """The part of a mask, [..., H, W], that the original's geometry predicts."""
    return mask[..., *original_output(mask.shape[-2:], depth).region]


def original_window(image: np.ndarray) -> np.ndarray:
    """The input window of the original's network, […, H, W] → […, H + 174, W + 180], mirrored on all sides."""
    return mirror(image, *ORIGINAL_MARGINS)
