"""Labels as pictures: classes, areas, windows with outlines, black bands.  Taught in 01_data_exploration."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage

from steelnb.figures import plots

WIDTH, ABOVE = plots.NARROW, 25  # inches; points between a panel and its title, where a legend stands


def colour(k: int, classes: Sequence[int]) -> str:
    """The colour of class `k`; that of any defect where there is one class only."""
    return plots.CLASS_COLOURS.get(k, plots.DEFECT) if len(classes) > 1 else plots.DEFECT


def draw_classes(
    share: pd.Series, together: pd.DataFrame, several: int, beside: pd.Series | None = None
) -> Figure:
    """The share of the images that show each class, and how many images show two.

    share: % of the images, index "clean" and the classes; together: images with both classes, classes × classes;
        several: images of more than one class; beside: the shares in another data set, drawn as black marks.
    """
    classes = list(together.columns)
    names = ["clean", *(f"class {k}" for k in classes)]
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 4.8))
    above.barh(names, share, color=[plots.FAINT, *(colour(k, classes) for k in classes)], height=0.6)
    if beside is not None:
        above.plot(beside, names, "k|", ms=16, mew=2, label=beside.name)
        above.legend(loc="lower right", bbox_to_anchor=(1, 1), borderpad=0)  # inside it would look like data
    above.invert_yaxis()
    most = share.iloc[1:].idxmax()
    above.set(xlabel="% of the images")
    above.set_title(f"Class {most} is the commonest defect: on {share[most]:.0f}% of the images",
                    pad=None if beside is None else ABOVE)
    counts = together.to_numpy()
    plots.show(below, np.log1p(counts), f"{several} images show more than one class", cmap="Blues", vmin=0)
    for a, b in np.ndindex(counts.shape):
        ink = "white" if counts[a, b] > counts.max() / 6 else plots.INK
        below.text(b, a, counts[a, b], ha="center", va="center", color=ink)
    below.set_xticks(range(len(classes)), classes)
    below.set_yticks(range(len(classes)), classes)
    below.set(xlabel="and class")
    below.set_ylabel("images with class", labelpad=8)
    return figure


def draw_areas(percent: Mapping[int, np.ndarray], beside: Mapping[int, tuple[float, float, float]] | None = None,
               name: str = "") -> Figure:
    """Every mask's area, % of its image, on a logarithmic axis, with the median of each class.

    beside: 5 %, median and 95 % of each class in another data set, called `name`, drawn in black.
    """
    rng, everything = np.random.default_rng(0), np.concatenate(list(percent.values()))
    figure, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.45 * len(percent)))
    for at, (k, areas) in enumerate(percent.items()):
        own = colour(k, list(percent))
        ax.plot(areas, at + rng.uniform(-0.22, 0.22, len(areas)), "o", ms=3, alpha=0.6, color=own, mew=0)
        ax.plot([np.median(areas)] * 2, [at - 0.35, at + 0.35], color=own, lw=2.5)
        if beside:
            low, middle, high = beside[k]
            ax.plot([low, high], [at, at], color="black", lw=1)
            ax.plot(middle, at, "D", color="black", ms=5, label=f"{name}: median, 5–95%" if at == 0 else None)
    times = everything.max() / everything.min()
    ax.set(xscale="log", yticks=range(len(percent)), xlabel="area of the mask, % of the image")
    ax.set_title(f"The largest mask is {times:.0f} times the smallest", pad=ABOVE if beside else None)
    ax.set_yticklabels([f"class {k}" for k in percent])
    low, high = ax.get_xlim()
    ticks = [t for t in (0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if low <= t <= high]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks], minor=False)
    ax.set_xticks([], minor=True)
    ax.invert_yaxis()
    if beside:
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), borderpad=0)  # inside it would look like data
    return figure


def around(mask: np.ndarray, height: int, width: int) -> tuple[slice, slice]:
    """The window of that size about the largest piece of a mask, bool [H, W], inside the image."""
    labelled, _ = ndimage.label(mask)
    largest = 1 + np.argmax(np.bincount(labelled.ravel())[1:])
    middle = ndimage.center_of_mass(labelled == largest)
    top, left = (int(np.clip(m - (want - 1) / 2, 0, max(0, have - want)))
                 for m, want, have in zip(middle, (height, width), mask.shape, strict=True))
    return np.s_[top : top + height, left : left + width]


def show_window(ax: Axes, window: np.ndarray, title: str, smooth: float = 1) -> None:
    """A window, uint8 [h, w], from its darkest to its brightest gray value, its grain smoothed by `smooth` pixels."""
    low, high = np.percentile(window, (0.5, 99.5))
    soft = ndimage.gaussian_filter(window.astype(np.float32), smooth)
    plots.show(ax, soft, title, vmin=low, vmax=high + 1, interpolation="antialiased")


def draw_labels(cases: Sequence[tuple[str, np.ndarray, np.ndarray, str]]) -> Figure:
    """Labels as outlines, two by two: of each the title, window uint8 [h, w], mask bool [h, w] and colour."""
    lines = -(-len(cases) // 2)
    figure, axes = plt.subplots(lines, min(2, len(cases)), figsize=(WIDTH, 2.2 * lines), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, (title, window, mask, own) in zip(axes.flat, cases, strict=False):
        show_window(ax, window, title, smooth=2)
        ax.contour(mask, [0.5], colors=[own], linewidths=1.2)
    return figure


def draw_band(image: np.ndarray, dark: np.ndarray, level: float) -> Figure:
    """An image, uint8 [H, W], the mean gray value of its columns, and which of them, bool [W], are below `level`."""
    profile = image.mean(0)
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 2.6))
    plots.show(above, ndimage.gaussian_filter(image, 1), f"{dark.mean():.0%} of this image's columns are darker than "
               f"{level}", aspect="auto", interpolation="antialiased")
    below.plot(profile, color=plots.INK, lw=0.8)
    below.fill_between(range(len(dark)), 0, profile.max(), where=dark, color=plots.PREDICTION, alpha=0.15, lw=0)
    below.axhline(level, color=plots.INK, lw=1, ls="--")
    below.set(xlabel="column (px)", ylabel="mean gray", xlim=(-0.5, len(dark) - 0.5), ylim=(0, None))
    return figure


def draw_outlines(cases: Sequence[tuple[str, np.ndarray, np.ndarray, str]], curves: Mapping[int, np.ndarray],
                  reach: int = 4) -> Figure:
    """Two labels with outlines `reach` pixels tighter and looser, and what such a shift costs in Dice.

    cases: title, window uint8 [h, w], signed distance to the outline [h, w] in pixels (negative inside) and colour;
        curves: class → Dice between a label and the same grown by 0, 1, 2 … pixels.
    """
    figure, axes = plt.subplot_mosaic("ab;cc", figsize=(WIDTH, 5.2), height_ratios=(3, 2))
    for ax, (title, window, signed, own) in zip(axes.values(), cases, strict=False):
        show_window(ax, window, title)
        ax.contour(signed, [-reach, 0, reach], colors=[own], linewidths=1.2, linestyles=[":", "-", ":"])
    for k, curve in curves.items():
        axes["c"].plot(curve, color=colour(k, list(curves)), label=f"class {k}")
    worst = min(curves, key=lambda k: curves[k][reach])
    axes["c"].set(xlabel="outline further out by (px)", ylabel="Dice of the two",
                  title=f"An outline {reach} px further out costs class {worst} {1 - curves[worst][reach]:.2f} Dice")
    axes["c"].legend()
    return figure
