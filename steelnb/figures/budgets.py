"""Recorded scores of losses over the budget, one small panel per loss.  Taught in 07_choosing_a_loss."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from steelnb.figures import narrow, plots

LINES = {  # number of the record: name, colour, line, marker
    "ap": ("average precision", plots.INK, ":", "s"),
    "dice_chosen": ("Dice, chosen threshold", plots.PREDICTION, "-", "o"),
    "dice_half": ("Dice, p > ½", "#888888", "--", "v"),
}


def draw_budgets(records: pd.DataFrame, losses: Sequence[str]) -> Figure:
    """Two panels a row, one per loss: mean over seeds and their range (bars) over the steps, on a doubling scale.

    records: columns `loss`, `steps` and those of `LINES`, a row per training; losses: which, in the order of panels.
    """
    rows, steps = -(-len(losses) // 2), sorted(records["steps"].unique())
    figure, axes = plt.subplots(rows, 2, figsize=(narrow.WIDTH, 1.35 * rows + 0.35), sharex=True, sharey=True,
                                squeeze=False)
    for ax, loss in zip(axes.flat, losses, strict=False):
        own = records[records["loss"] == loss]
        for number, (_, colour, line, marker) in LINES.items():
            at = own.groupby("steps")[number].agg(["mean", "min", "max"])
            ax.vlines(at.index, at["min"], at["max"], color=colour, lw=3, alpha=0.35)
            ax.plot(at.index, at["mean"], color=colour, ls=line, marker=marker, ms=3.5, lw=1.4)
        ax.set_title(loss, fontsize=9)
        ax.set(xscale="log", xticks=steps, xticklabels=steps, ylim=(0, max(0.5, 1.05 * records[[*LINES]].max().max())))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.tick_params(labelsize=8.5)
    for ax in axes.flat[len(losses) :]:
        ax.set_axis_off()
    handles = [plt.Line2D([], [], color=colour, ls=line, marker=marker, ms=4, label=name)
               for name, colour, line, marker in LINES.values()]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, fontsize=9)
    figure.supxlabel("steps", fontsize=9)
    figure.supylabel("Dice, average precision", fontsize=9)
    return figure
