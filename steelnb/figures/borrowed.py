"""What weights learned elsewhere see, and where they lead.  Taught in 12_what_others_learned."""

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from steelnb.figures import plots
from steelnb.figures.long_run import WIDTH

STARTS = {"noise": (plots.INK, ":"), "imagenet": (plots.PREDICTION, "--"), "steel": (plots.PREDICTION, "-")}


def draw_features(
    image: np.ndarray, mask: np.ndarray, maps: Sequence[torch.Tensor], separation: Callable
) -> Figure:
    """An image, uint8 [H, W], with its mask, over the map of each level that separates the defect best.

    maps: [C, h, w] at strides 2, 4, 8 … separation: gives each map of a level a number; the highest is shown.
    """
    pictures = {"image, its defect outlined": plots.overlay(image, mask[None], alpha=0.0)}
    for level, stack in enumerate(maps, 1):
        found = separation(stack, mask)
        best = int(found.argmax())
        shown = stack[best].numpy()
        low, high = np.quantile(shown, (0.01, 0.99))
        gray = (255 * ((shown - low) / max(high - low, 1e-9)).clip(0, 1)).astype(np.uint8)
        pictures[f"stride {2**level}: map {best} of {len(stack)}, AUC {found[best]:.2f}"] = gray
    return plots.stack(pictures, width=WIDTH)


def draw_starts(scores: pd.DataFrame, title: str) -> Figure:
    """Dice over steps, a line per start: columns step, dice, start."""
    figure, ax = plt.subplots(figsize=(WIDTH, 3.2))
    for start, (colour, line) in STARTS.items():
        of = scores[scores["start"] == start]
        ax.plot(of["step"], of["dice"], line, marker="o", ms=4, color=colour, label=f"from {start}")
    ax.set(ylim=(0, 1), xlabel="training steps", ylabel="Dice at p > ½, held-out images", title=title)
    ax.legend(loc="upper left", ncols=3)
    return figure


def draw_sheet(image: np.ndarray, mask: np.ndarray, whole: np.ndarray, naive: np.ndarray) -> Figure:
    """What is found on a sheet at p > ½, and where the probabilities of tiles that were cut apart differ from it.

    image: uint8 [H, W]; mask: bool; whole, naive: float [H, W].
    """
    difference = np.abs(whole - naive)
    most = difference.max()
    return plots.stack({
        "the sheet": image,
        "found at p > ½, whole or in tiles with their margin": plots.errors(image, whole > 0.5, mask),
        f"tiles cut apart: probabilities differ by up to {most:.2f} (black)":
            255 - (255 * difference / max(most, 1e-9)).astype(np.uint8),
    }, width=WIDTH)


def draw_recorded(scores: pd.DataFrame) -> Figure:
    """A dot per seed: columns data, arm, seconds, dice."""
    rows = {names: of["dice"].to_numpy() for names, of in scores.groupby(["data", "arm", "seconds"], sort=False)}
    figure, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.3 * len(rows)))
    for y, dice in enumerate(rows.values()):
        around = y + 0.15 * np.linspace(-1, 1, len(dice)) if len(dice) > 1 else [y]
        ax.plot(dice, around, "o", ms=5, color=plots.PREDICTION)
    labels = [f"{data}, {arm}, {f'{seconds} s' if seconds else 'as it is'}" for data, arm, seconds in rows]
    ax.set(yticks=range(len(rows)), yticklabels=labels, ylim=(len(rows) - 0.5, -0.5), xlim=(0, 1),
           xlabel="Dice, real images with a defect")
    return figure
