"""Curves of a training over many sessions, and what forgetting part of its state costs.  Taught in 09_hundred_hours."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from steelnb.figures import plots

ENDINGS = {"SIGKILL": ("-", plots.INK), "SIGTERM": ("--", plots.INK), "budget": (":", plots.INK)}


def ending(told: str | float) -> str:
    """How a session ended, from what its row of sessions.csv says: a word of ENDINGS, "finished" or "unfinished"."""
    if not isinstance(told, str) or not told:
        return "unfinished"
    if told == "killed":
        return "SIGKILL"
    return told if told == "finished" else "SIGTERM" if "SIGTERM" in told else "budget"


def draw_long_run(history: pd.DataFrame, sessions: pd.DataFrame, window: int = 5) -> Figure:
    """The original's three curves, a session's end as a line, and the gap between the losses.

    history, sessions: the tables that a run leaves. window: epochs over which the gap is averaged.
    """
    figure, axes = plt.subplots(3, 1, figsize=(plots.NARROW, 6.4), sharex=True, height_ratios=(3, 2, 2))
    epoch, accuracy = history["epoch"], history["validation_original_accuracy"]
    style = dict(marker="o", ms=3) if len(history) < 30 else dict(lw=1.2)
    losses, score, gap = axes
    losses.plot(epoch, history["train_loss"], color=plots.INK, label="training loss", **style)
    losses.plot(epoch, history["validation_loss"], color=plots.PREDICTION, label="validation loss", **style)
    losses.set(ylim=(0, 1), title="Dice loss")
    score.plot(epoch, accuracy, color=plots.PREDICTION, **style)
    best = accuracy.idxmax()
    for ax, curve in ((losses, history["validation_loss"]), (score, accuracy)):
        ax.plot(epoch[best], curve[best], "o", ms=9, mfc="none", mec=plots.INK, mew=1.5)
    score.set(ylim=(0, 1), title=f"Validation accuracy (Dice at ½): best {accuracy[best]:.2f}, epoch {epoch[best]}")
    difference = history["validation_loss"] - history["train_loss"]
    gap.axhline(0, color=plots.INK, lw=0.8)
    gap.axhline(0.36 - 0.15, color=plots.INK, ls="-.", lw=1, label="the original's, after 100 h")
    gap.plot(epoch, difference, ".", ms=4, color=plots.FAINT)
    mean = difference.rolling(window, min_periods=1).mean()
    gap.plot(epoch, mean, color=plots.PREDICTION, label=f"mean of {window} epochs")
    gap.set(title="Validation loss less training loss", xlabel="epoch", xlim=(0, epoch.max() + 1),
            ylim=(min(-0.1, difference.min()) - 0.02, max(0.4, difference.max()) + 0.02))
    pace = history["step"].iloc[-1] / epoch.iloc[-1]  # steps of an epoch
    for _, session in sessions.iterrows():
        if (how := ending(session["ended"])) in ENDINGS:
            line, colour = ENDINGS[how]
            for ax in axes:
                ax.axvline(session["to_step"] / pace, color=colour, lw=0.8, ls=line, alpha=0.5)
    shown = [how for how in ENDINGS if how in set(sessions["ended"].map(ending))]
    for how in shown:
        losses.plot([], [], color=ENDINGS[how][1], ls=ENDINGS[how][0], lw=0.8, label=f"session ended: {how}")
    for ax, place in ((losses, "upper right"), (gap, "upper left")):  # opaque: the sessions' lines pass behind it
        ax.legend(loc=place, frameon=True, framealpha=1, edgecolor="white")
    return figure


def draw_changes(changes: pd.DataFrame, same: float = 0.02) -> Figure:
    """What forgetting costs: a row per part, dots per seed, mean and 95 % interval where there are two seeds.

    changes: columns forgotten, panel, seed, change.
    """
    panels, parts = (list(dict.fromkeys(changes[name])) for name in ("panel", "forgotten"))
    height = 0.5 + (0.6 + 0.19 * len(parts)) * len(panels)
    figure, axes = plt.subplots(len(panels), 1, figsize=(plots.NARROW, height), sharex=True)
    for ax, panel in zip(np.atleast_1d(axes), panels, strict=True):
        ax.axvspan(-same, same, color=plots.FAINT, alpha=0.4, lw=0)
        ax.axvline(0, color=plots.INK, lw=0.8)
        for y, part in enumerate(parts):
            values = changes.loc[(changes["panel"] == panel) & (changes["forgotten"] == part), "change"].to_numpy()
            ax.plot(values, plots.apart(y, len(values), 0.25), "o", ms=3, color=plots.FAINT, mec=plots.INK, mew=0.4)
            ax.plot(values.mean(), y, "D", ms=5, color=plots.PREDICTION)
        ax.set(yticks=range(len(parts)), yticklabels=parts, title=panel)
        ax.invert_yaxis()
    ax.set_xlabel("change of the final Dice at p > ½ (gray: ±0.02)")
    return figure
