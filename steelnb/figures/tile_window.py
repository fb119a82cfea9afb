"""The overlap-tile strategy as a picture: tile, window, mirror.  Taught in 02_overlap_tile."""

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from skimage.measure import block_reduce

from steelnb.figures import plots
from steelnb.network import geometry, tiles
from steelnb.network.tiles import Tile

TILE, WINDOW = "#F0E442", "#00BFC4"  # yellow: predicted pixels; turquoise: the input window
PICTURE_COLUMNS = 600  # of the picture, about; rows in proportion
WIDTH = plots.NARROW
TITLE, HIGHEST = 0.5, 4.0  # inches


class Window(NamedTuple):
    """The input window of a network for one tile, in rows and columns of the image, and its mirrored pixels."""

    tile: Tile
    seen: Tile
    mirrored: int  # number of pixels of `seen` beyond the image

    @property
    def pixels(self) -> int:
        return self.seen.height * self.seen.width


def tile_window(shape: tuple[int, int], top: int, left: int, side: int, depth: int = 4) -> Window:
    """The tile of `side` × `side` output pixels at (top, left) of an image of `shape`, and its input window.

    As in `tiles.tiles`, a tile starts at a multiple of 2^depth (here the last one before), its side is rounded up to
    such a multiple, and it ends at the image's edge. Raises ValueError for a position outside the image.
    """
    height, width = shape
    if not (0 <= top < height and 0 <= left < width):
        raise ValueError(f"a tile must start inside the image of {height} × {width} pixels, not at ({top}, {left})")
    if side < 1:
        raise ValueError(f"a tile needs at least 1 pixel per side, got {side}")
    grid = 2**depth
    top, left, side = top // grid * grid, left // grid * grid, -(-side // grid) * grid
    tile = Tile(top, left, min(side, height - top), min(side, width - left))
    seen = tiles.input_place(tile, depth)
    inside = [min(start + n, size) - max(start, 0) for start, n, size in zip(seen[:2], seen[2:], shape, strict=True)]
    return Window(tile, seen, seen.height * seen.width - inside[0] * inside[1])


def draw_overlap_tile(
    image: np.ndarray, top: int = 0, left: int = 0, side: int = 176, depth: int = 4, figure: Figure | None = None
) -> Figure:
    """One tile of an image with its input window.  Taught in 02_overlap_tile.

    image: uint8 [H, W]; mirrored pixels are tinted. See `tile_window`.
    The static version of `widgets.explore_overlap_tile`; by default a new pyplot figure.
    """
    view = OverlapTileView(image, depth, figure or plt.figure(figsize=figure_size(image.shape, depth)))
    view.move(top, left, side)
    return view.figure


def figure_size(shape: tuple[int, int], depth: int = 4) -> tuple[float, float]:
    """Figure size in inches for an image with the largest mirrored margin that a window can need."""
    around = 2 * (geometry.margin(depth) + 2**depth)
    return WIDTH, TITLE + min(WIDTH * (shape[0] + around) / (shape[1] + around), HIGHEST)


class OverlapTileView:
    """One figure that keeps its moving parts, so that a step of the slider redraws little."""

    def __init__(self, image: np.ndarray, depth: int, figure: Figure) -> None:
        if image.ndim != 2 or image.dtype != np.uint8 or 0 in image.shape:
            raise ValueError(f"an image must be uint8 [H, W] with at least one pixel, got {image.dtype} {image.shape}")
        self.shape, self.depth, self.figure = image.shape, depth, figure
        self.pad = geometry.margin(depth) + 2**depth  # the excess of an exact window is smaller than 2^depth
        self.step = max(1, (max(image.shape) + 2 * self.pad) // PICTURE_COLUMNS)
        self.seen, self.unseen = self._pictures(tiles.mirror(image, (self.pad,) * 2, (self.pad,) * 2))
        figure.set_layout_engine("none")  # fixed positions, so that nothing jumps while the slider moves
        ax = figure.add_axes((0, 0, 1, 1 - TITLE / figure.get_figheight()))
        height, width = image.shape
        extent = (-self.pad, width + self.pad, height + self.pad, -self.pad)
        plots.show(ax, self.unseen, extent=extent)
        ax.set_anchor("W")
        self.picture, self.title = ax.images[0], ax.set_title("", loc="left")
        border = ax.add_patch(Rectangle((0, 0), width, height, fill=False, ec=plots.INK, lw=1, ls="--"))
        self.frames = [ax.add_patch(Rectangle((0, 0), 1, 1, fill=False, ec=c, lw=2)) for c in (WINDOW, TILE)]
        self.moving = [self.picture, border, *self.frames, self.title]

    def _pictures(self, canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The image with its mirrored margin, inside the input window and outside it: uint8 [h, w, 3] each."""
        beyond = np.ones(canvas.shape, bool)
        beyond[self.pad : -self.pad, self.pad : -self.pad] = False
        if self.step > 1:
            canvas = block_reduce(canvas, self.step, np.mean, cval=int(canvas.mean()))
            beyond = beyond[:: self.step, :: self.step]
        seen = np.repeat(canvas[..., None], 3, axis=2).astype(np.float32)
        unseen = seen * 0.45 + 130  # paler
        unseen[beyond] = 255  # white beyond the image
        seen[beyond] = 0.55 * seen[beyond] + 0.45 * 255 * np.array(to_rgb(WINDOW), np.float32)
        return seen.astype(np.uint8), unseen.astype(np.uint8)

    def move(self, top: int, left: int, side: int) -> None:
        """Shows another tile; raises ValueError as `tile_window` does."""
        here = tile_window(self.shape, top, left, side, self.depth)
        picture, seen, tile = self.unseen.copy(), here.seen, here.tile
        rows, columns = (slice((start + self.pad) // self.step, -(-(start + n + self.pad) // self.step))
                         for start, n in zip(seen[:2], seen[2:], strict=True))
        picture[rows, columns] = self.seen[rows, columns]
        self.picture.set_data(picture)
        for frame, place in zip(self.frames, (seen, tile), strict=True):
            frame.set_bounds(place.left, place.top, place.width, place.height)
        self.title.set_text(
            f"Tile {tile.height} × {tile.width} at ({tile.top}, {tile.left}): sees {seen.height} × {seen.width}\n"
            f"= {here.pixels:,} pixels, {here.mirrored:,} of them mirrored ({here.mirrored / here.pixels:.0%})"
        )
