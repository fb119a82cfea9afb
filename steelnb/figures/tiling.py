"""A sheet segmented tile by tile, and what tiles change, as pictures.  Taught in 02_overlap_tile."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.ndimage import gaussian_filter
from skimage.measure import block_reduce

from steelnb.figures import narrow, plots
from steelnb.figures.tile_window import TILE, WIDTH, WINDOW
from steelnb.network import tiles
from steelnb.network.geometry import Grid

FAINTEST = 1e-6  # of the differences of probabilities that are drawn
HEAT = plt.get_cmap("magma", 12)  # two steps a power of ten


def draw_sheet_to_mask(sheet: np.ndarray, found: np.ndarray, label: np.ndarray, grid: Grid, side: int) -> Figure:
    """The sheet, the same with its mirrored border and its tiles, and the mask beside its label.

    sheet: uint8 [H, W]; found, label: bool [H, W]; grid: of the network; side: of a tile, in pixels.
    """
    margin, sheet = grid.margin, gaussian_filter(sheet, 1)  # grain does not compress: a page has to stay small
    mirrored = tiles.mirror(sheet, (margin,) * 2, (margin,) * 2)
    picture = np.repeat(mirrored[..., None], 3, axis=2).astype(np.float32)
    beyond = np.ones(mirrored.shape, bool)
    beyond[margin:-margin, margin:-margin] = False
    picture[beyond] = 0.55 * picture[beyond] + 0.45 * 255 * np.array(to_rgb(WINDOW))
    height, width = sheet.shape
    figure = plots.stack({
        f"A sheet of {height} × {width} pixels": sheet,
        f"Mirrored border of {margin} pixels, tiles, one window": picture.astype(np.uint8),
        "The mask, put together of the tiles": plots.errors(sheet, found, label),
    }, narrow.WIDTH)
    places = tiles.tiles(height, width, side, grid)
    for place in places:
        corner = place.left + margin - 0.5, place.top + margin - 0.5
        figure.axes[1].add_patch(Rectangle(corner, place.width, place.height, fill=False, ec=TILE, lw=1))
    one = tiles.input_place(places[min(1, len(places) - 1)], grid)
    corner = one.left + margin - 0.5, one.top + margin - 0.5
    figure.axes[1].add_patch(Rectangle(corner, one.width, one.height, fill=False, ec=plots.PREDICTION, lw=2.5))
    return figure


def draw_differences(pictures: Mapping[str, np.ndarray]) -> Figure:
    """Differences of probabilities, float [H, W] in 0…1, under their titles, on one logarithmic scale."""
    heights = [WIDTH * picture.shape[0] / picture.shape[1] + 0.25 for picture in pictures.values()]
    figure, axes = plt.subplots(
        len(pictures), 1, figsize=(WIDTH, sum(heights) + 0.6), height_ratios=heights, squeeze=False
    )
    for ax, (title, picture) in zip(axes[:, 0], pictures.items(), strict=True):
        cell = max(1, picture.shape[1] // 400)
        largest = block_reduce(np.maximum(picture, FAINTEST), cell, np.max)
        plots.show(ax, largest, title, cmap=HEAT, norm=LogNorm(FAINTEST, 1))
    bar = figure.colorbar(axes[0, 0].images[0], ax=axes, orientation="horizontal", fraction=0.05, pad=0.02, aspect=40)
    bar.set_label("difference of the probability")
    return figure
