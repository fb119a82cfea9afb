"""Quality against time: races of recipes, and which change of a recipe mattered.  Taught in 11_hundred_times_faster."""

from collections.abc import Collection, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from steelnb.figures import plots

ARMS = {"original": (plots.INK, "-"), "fast": (plots.PREDICTION, "-"), "nesterov": (plots.PREDICTION, ":"),
        "plain": (plots.PREDICTION, "--")}
BEYOND, WITHIN = plots.INK, "#999999"  # a difference beyond the spread of the seeds, and one within it


def draw_curves(points: pd.DataFrame, x: str, y: str, title: str, shares: tuple[float, ...] = ()) -> Figure:
    """Quality over cost on a logarithmic axis: a thin line per run, a dot at its end.

    points: columns arm (may end in a rate, as "original 0.01"), run, and those named by x and y. shares: of the best of
    arm "original", drawn as horizontal lines.
    """
    figure, ax = plt.subplots(figsize=(plots.NARROW, 3.8 if len(points) else 1.6))
    arms = list(dict.fromkeys(points["arm"])) if len(points) else []
    originals = [arm for arm in arms if arm.startswith("original")]
    for arm in arms:
        colour, line = ARMS[arm.split()[0]]
        if arm in originals and len(originals) > 1:
            line = ("-", "--", ":", "-.")[originals.index(arm) % 4]
        for number, (_, run) in enumerate(points[points["arm"] == arm].groupby("run")):
            run = run.sort_values(x)
            ax.plot(run[x], run[y], line, color=colour, lw=1.3, label=None if number else arm)
            ax.plot(run[x].iloc[-1], run[y].iloc[-1], "o", ms=4, color=colour)
    if originals and shares:
        best = points[points["arm"].isin(originals)].groupby("run")[y].max().mean()
        for share in shares:
            ax.axhline(share * best, color=plots.FAINT, lw=1)
            ax.text(ax.get_xlim()[1], share * best, f"{share:.0%}", fontsize=8, va="bottom", ha="right")
    if not arms:
        _nothing(ax)
    else:
        ax.set(xscale="log", ylim=(0, None))
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        figure.legend(loc="outside lower left", ncols=3)
    ax.set(title=title)
    return figure


def draw_waterfall(lines: list[dict], beyond: Collection[str]) -> Figure:
    """Seconds until a target, in per cent of the first line's: a dot per seed.

    lines: `change`, and `runs` with `cpu_seconds` (None where never) and `at_most`. beyond: the changes that made a
    difference beyond the spread of the seeds, which are black; the others are gray.
    """
    shares = shares_of_the_first(lines)
    figure, ax = plt.subplots(figsize=(plots.NARROW, 0.9 + 0.32 * len(lines)))
    for y, now in enumerate(shares):
        colour = BEYOND if lines[y]["change"] in beyond else WITHIN
        never = [run["cpu_seconds"] is None for run in lines[y]["runs"]]
        for place, share, missed in zip(plots.apart(y, len(now), 0.18), now, never, strict=True):
            ax.plot(share, place, ">" if missed else "o", ms=5, color=colour, mfc="none" if missed else colour)
    ax.set(yticks=range(len(lines)), yticklabels=[line["change"] for line in lines], ylim=(len(lines) - 0.5, -0.5),
           xscale="log", xlabel="% of the original's seconds (log)")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_title("Seconds to the original's best Dice", x=0)
    return figure


def shares_of_the_first(lines: list[dict]) -> np.ndarray:
    """Seconds of each line of a waterfall and seed, in per cent of the first line's."""
    return np.array([[100 * (run["cpu_seconds"] or run["at_most"]) / first["cpu_seconds"]
                      for run, first in zip(line["runs"], lines[0]["runs"], strict=True)] for line in lines])


def draw_differences(
    gains: Mapping[str, np.ndarray], intervals: Mapping[str, tuple[float, float, float]], xlabel: str, title: str
) -> Figure:
    """A row per name: a dot per seed, the mean with its 95 % interval; black where that lies beyond 0, else gray.

    intervals: (mean, low, high) of each, see `evaluation.recorded.seed_interval`.
    """
    figure, ax = plt.subplots(figsize=(plots.NARROW, 1.1 + 0.3 * max(len(gains), 2)))
    for y, (name, values) in enumerate(gains.items()):
        mean, low, high = intervals[name]
        colour = BEYOND if low * high > 0 else WITHIN
        ax.plot(values, plots.apart(y, len(values), 0.15), "o", ms=3, color=plots.FAINT)
        ax.plot(mean, y, "D", ms=5, color=colour)
        if np.isfinite(low):
            ax.plot([low, high], [y, y], color=colour, lw=1.2)
    if gains:
        ax.axvline(0, color=plots.INK, lw=0.8)
        ax.set(yticks=range(len(gains)), yticklabels=list(gains), ylim=(len(gains) - 0.5, -0.5), xlabel=xlabel)
        ax.xaxis.set_major_locator(MaxNLocator(4))
    else:
        _nothing(ax)
    ax.set(title=title)
    return figure


def _nothing(ax: Axes) -> None:
    ax.text(0.5, 0.5, "not recorded yet", ha="center", va="center", transform=ax.transAxes, fontsize=12)
    ax.set(xticks=[], yticks=[])
