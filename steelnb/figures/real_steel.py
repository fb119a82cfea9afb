"""Scores with intervals, error maps without the steel, pieces of sheets large enough to read.  Taught in 10_results."""

import base64
import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter

from steelnb.figures import plots

FEW = 10  # images below which a mark is hollow


def draw_scores(
    rows: Mapping[str, NamedTuple], xlabel: str, unseen: Collection[str] = (), title: str = ""
) -> Figure:
    """A row per name: a score with its interval (value, low, high, n), hollow where n is below FEW.

    unseen: names of those scored on a kind of steel that they were not trained on, which are dots; the others are
    diamonds.
    """
    figure, ax = plt.subplots(figsize=(plots.NARROW, 0.9 + 0.5 * len(rows)))
    for y, (name, value) in enumerate(rows.items()):
        ax.plot([value.low, value.high], [y, y], color=plots.PREDICTION, lw=1.2)
        ax.plot(value.value, y, "o" if name in unseen else "D", ms=6, color=plots.PREDICTION,
                mfc="none" if value.n < FEW else plots.PREDICTION)
        ax.text(0, y - 0.22, f"{name} (n = {value.n})", va="bottom")
    ax.set(yticks=[], ylim=(len(rows) - 0.5, -0.8), xlim=(0, 1), xlabel=xlabel, title=title)
    return figure


def error_map(codes: str, shape: Sequence[int]) -> np.ndarray:
    """A recorded map of errors as a picture, uint8 [H, W, 3]: light gray, hits, misses and false alarms in colour.

    codes: base64 of zlib of uint8: 1 missed, 2 false alarm, 3 found.
    """
    places = np.frombuffer(zlib.decompress(base64.b64decode(codes)), np.uint8).reshape(shape)
    colours = np.array([(0.96, 0.96, 0.96), *map(to_rgb, (plots.MISS, plots.FALSE_ALARM, plots.HIT))])
    return (255 * colours[places]).astype(np.uint8)


def piece(image: np.ndarray, wanted: np.ndarray, width: int = 640, dark: int = 12) -> tuple[slice, slice]:
    """`width` columns of an image, uint8 [H, W], around most of `wanted`, bool [H, W]; lit ones, as far as they reach.

    dark: mean gray level of a column below which it is off the strip.
    """
    lit = np.flatnonzero(image.mean(0) > dark)
    width = min(width, image.shape[1])
    left, right = (int(lit[0]), int(lit[-1]) + 1) if len(lit) else (0, image.shape[1])
    left = min(left, image.shape[1] - width)
    right = max(right, left + width)
    held = np.concatenate([[0], wanted[:, left:right].sum(0).cumsum()])
    inside = held[width:] - held[: len(held) - width]
    best = np.flatnonzero(inside == inside.max())
    start = left + int(best[len(best) // 2])
    return slice(None), slice(start, start + width)


def draw_examples(rows: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Figure:
    """Image and errors below each other, each on its lit piece around the defect.

    rows: title → image, uint8 [H, W], prediction and mask, bool [H, W].
    """
    pictures = {}
    for title, (image, prediction, mask) in rows.items():
        part = piece(image, mask if mask.any() else prediction)
        image = gaussian_filter(image, 1)  # grain does not compress: a page has to stay small
        pictures[title] = plots.overlay(image[part], mask[part][None], alpha=0.0)
        errors = plots.errors(image[part], prediction[part], mask[part])
        pictures["found green, missed orange, false alarm pink" + " " * len(pictures)] = errors
    return plots.stack(pictures, width=plots.NARROW)
