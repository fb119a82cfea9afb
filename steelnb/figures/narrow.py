"""Figures that can be read at the width of a phone.  Taught in 08_failure_clinic.

480 pixels wide: on a screen of 390 a 9-point label is then 10 pixels high. Panels stand below one another, pictures
side by side only where they are small.
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from steelnb.figures import plots

WIDTH = 4.8  # inches
BROKEN, MENDED = "#882255", "#44AA99"  # with a fault, and without it; neither means anything else in the series


def panels(*heights: float, **options) -> tuple[Figure, list[Axes]]:
    """A figure of panels below one another, of so many inches each; `options` are those of `plt.subplots`."""
    figure, axes = plt.subplots(len(heights), 1, figsize=(WIDTH, sum(heights)), height_ratios=heights, squeeze=False,
                                **options)
    return figure, list(axes[:, 0])


def before_after(ax: Axes, rows: Mapping[str, tuple[float, float]], label: str, limit: float | None = None) -> None:
    """A line per row from the number with the fault (cross) to that without it (dot).

    limit: a value that the number cannot pass, drawn as a line.
    """
    places = np.arange(len(rows))[::-1]
    broken, mended = np.array(list(rows.values()), float).T
    ax.hlines(places, broken, mended, color=plots.FAINT, lw=1.5, zorder=1)
    ax.scatter(broken, places, marker="X", s=60, color=BROKEN, label="with the fault", zorder=3)
    ax.scatter(mended, places, s=45, color=MENDED, label="without it", zorder=2)
    if limit is not None:
        ax.axvline(limit, color=plots.INK, ls="--", lw=1)
    ax.set(yticks=places, yticklabels=list(rows), ylim=(-0.6, len(rows) - 0.4), xlabel=label)
    ax.margins(x=0.08)
    legend(ax)


def legend(ax: Axes, columns: int = 2) -> None:
    """The legend above the panel, where it covers nothing."""
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, fontsize=9, borderaxespad=0.2, handletextpad=0.4,
              columnspacing=1.2)


def pictures(rows: list[Mapping[str, np.ndarray]], height: float | None = None) -> Figure:
    """Small pictures side by side, each under its title, in as many rows; images as `plots.show` takes them."""
    columns = max(map(len, rows))
    side = height or WIDTH / columns
    figure, axes = plt.subplots(len(rows), columns, figsize=(WIDTH, len(rows) * (side + 0.2)), squeeze=False)
    for row, line in zip(axes, rows, strict=True):
        for ax in row:
            ax.set_axis_off()
        for ax, (title, picture) in zip(row, line.items(), strict=False):
            plots.show(ax, picture)
            ax.set_title(title, fontsize=9, fontweight="normal")
    return figure


def outline(image: np.ndarray, mask: np.ndarray, colour: str, times: int = 5) -> np.ndarray:
    """A small gray image, uint8 [H, W], enlarged `times` with a mask, bool [H, W], tinted and outlined on it."""
    big = (np.kron(each, np.ones((times, times), each.dtype)) for each in (image, mask.astype(np.uint8)))
    image, mask = big
    return plots.overlay(image, mask[None] > 0, [colour])
