"""A U-Net as a picture, and where its output looks.  Taught in 03_unet."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from skimage.measure import block_reduce

from steelnb.figures import plots
from steelnb.network import geometry
from steelnb.network.unet import UNet, cost

WIDTH = plots.NARROW
MARK = "#00E5E5"  # plain on dark and on pale
BOX, INDENT = 0.3, 0.045  # of the width


def draw_unet(model: UNet, height: int, width: int) -> Figure:
    """The feature maps of a valid U-Net for an image of height × width pixels: one row per level, encoder left, decoder
    right."""
    sizes = {layer.name.rpartition(".")[0]: layer for layer in cost(model, height, width)}  # the last of each block
    crops = [(met.skip - met.up) // 2 for met in reversed(geometry.levels(height, model.depth, "floor"))]
    figure, ax = plt.subplots(figsize=(WIDTH, 0.62 * (model.depth + 1) + 0.3))
    ax.set(xlim=(0, 1), ylim=(-model.depth - 0.35, 0.35))
    ax.axis("off")

    def box(layer, x, level):
        shade = min(0.1 + 0.06 * level, 0.45)
        ax.add_patch(Rectangle((x, -level - 0.28), BOX, 0.56, color=plots.INK, alpha=shade, lw=0))
        text = f"{layer.channels} channels\n{layer.height} × {layer.width}"
        ax.text(x + BOX / 2, -level, text, ha="center", va="center")

    def arrow(start, end, colour):
        ax.annotate("", end, start, arrowprops=dict(arrowstyle="->", color=colour, lw=1.5))

    for level in range(model.depth):
        left, right = INDENT * level, 1 - BOX - INDENT * level
        box(sizes[f"encoder.{level}"], left, level)
        box(sizes[f"decoder.{level}"], right, level)
        arrow((left + BOX + 0.01, -level), (right - 0.01, -level), plots.FAINT)
        ax.text(0.5, -level + 0.06, f"skip, −{crops[level]}", ha="center", va="bottom")
        last = level == model.depth - 1
        arrow((left + BOX / 2, -level - 0.3), ((0.42 if last else left + INDENT + BOX / 2), -level - 0.7), plots.INK)
        arrow(((0.58 if last else right - INDENT + BOX / 2), -level - 0.7), (right + BOX / 2, -level - 0.3),
              plots.PREDICTION)
    box(sizes[f"encoder.{model.depth}"], 0.5 - BOX / 2, model.depth)
    out = sizes["decoder.0"]
    ax.set_title(f"{height} × {width} pixels in, {out.height} × {out.width} logits out")
    return figure


def draw_sensitivity(maps: Mapping[str, np.ndarray], field: tuple[int, int], radii: Mapping[str, tuple]) -> Figure:
    """Where one output pixel's gradient lies, on one logarithmic scale.

    maps: title → float [n, n]; field: first and last column that can reach the pixel; radii: title → the centre and
    the radii, in pixels, of the circles that hold half and 95 % of the gradient.
    """
    figure, axes = plt.subplots(1, len(maps), figsize=(WIDTH, WIDTH / len(maps) + 0.7), squeeze=False)
    for ax, (title, gradient) in zip(axes[0], maps.items(), strict=True):
        n = len(gradient)
        cells = block_reduce(gradient, 2, np.mean)
        plots.show(ax, np.maximum(cells / cells.max(), 1e-4), title, cmap=plt.get_cmap("magma", 8),
                   norm=LogNorm(1e-4, 1), extent=(-0.5, n - 0.5, n - 0.5, -0.5))
        first, side = field[0] - 0.5, field[1] - field[0] + 1
        ax.add_patch(Rectangle((first, first), side, side, fill=False, ec=MARK, lw=3))
        centre, *two = radii[title]
        for radius, style in zip(two, ("-", "--"), strict=True):
            ax.add_patch(Circle((centre, centre), radius, fill=False, ec=MARK, lw=2, ls=style))
    bar = figure.colorbar(axes[0, 0].images[0], ax=axes, orientation="horizontal", fraction=0.05, pad=0.03, aspect=40)
    bar.set_label("gradient, of its largest")
    return figure
