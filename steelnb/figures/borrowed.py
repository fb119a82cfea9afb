"""What weights learned elsewhere see, and where they lead.  Taught in 12_what_others_learned."""

from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from steelnb.figures import plots

STARTS = {"noise": (plots.INK, ":"), "imagenet": (plots.PREDICTION, "--"), "steel": (plots.PREDICTION, "-")}


def draw_features(
    image: np.ndarray, mask: np.ndarray, maps: Mapping[str, torch.Tensor], separation: Callable
) -> Figure:
    """An image, uint8 [H, W], with its mask, over the map of each encoder that separates the defect best.

    maps: name of an encoder → its maps, [C, h, w]; separation: gives each map a number; the highest is shown.
    """
    pictures = {"image, its defects outlined": plots.overlay(image, mask[None], alpha=0.0)}
    for name, stack in maps.items():
        found = separation(stack, mask)
        best = int(found.argmax())
        shown = stack[best].numpy()
        low, high = np.quantile(shown, (0.01, 0.99))
        gray = (255 * ((shown - low) / max(high - low, 1e-9)).clip(0, 1)).astype(np.uint8)
        pictures[f"{name}: map {best + 1} of {len(stack)}, AUC {found[best]:.2f}"] = gray
    return plots.stack(pictures, width=plots.NARROW)


def draw_starts(scores: pd.DataFrame, title: str) -> Figure:
    """Dice over steps, a line per start: columns step, dice, start."""
    figure, ax = plt.subplots(figsize=(plots.NARROW, 3.2))
    for start, (colour, line) in STARTS.items():
        of = scores[scores["start"] == start]
        ax.plot(of["step"], of["dice"], line, marker="o", ms=4, color=colour, label=f"from {start}")
    ax.set(ylim=(0, 1), xlabel="training steps", ylabel="Dice at p > ½, held-out images", title=title)
    ax.legend(loc="upper left", ncols=3)
    return figure


def draw_sheet(image: np.ndarray, mask: np.ndarray, whole: np.ndarray, padded: np.ndarray) -> Figure:
    """What is found on a sheet at p > ½, and where the probabilities of tiles padded with zeros differ from it.

    image: uint8 [H, W]; mask: bool; whole, padded: float [H, W].
    """
    difference = np.abs(whole - padded)
    most = difference.max()
    return plots.stack({
        "the sheet": image,
        "found at p > ½, whole or in tiles with their margin": plots.errors(image, whole > 0.5, mask),
        f"tiles padded with zeros: off by up to {most:.2f} (black)":
            255 - (255 * difference / max(most, 1e-9)).astype(np.uint8),
    }, width=plots.NARROW)


def draw_recorded(scores: pd.DataFrame) -> Figure:
    """A dot per seed: columns data, arm, seconds, dice."""
    rows = {names: of["dice"].to_numpy() for names, of in scores.groupby(["data", "arm", "seconds"], sort=False)}
    figure, ax = plt.subplots(figsize=(plots.NARROW, 0.9 + 0.3 * len(rows)))
    for y, dice in enumerate(rows.values()):
        ax.plot(dice, plots.apart(y, len(dice), 0.15), "o", ms=5, color=plots.PREDICTION)
    labels = [f"{data}, {arm}, {f'{seconds} s' if seconds else 'not trained'}" for data, arm, seconds in rows]
    ax.set(yticks=range(len(rows)), yticklabels=labels, ylim=(len(rows) - 0.5, -0.5), xlim=(0, 1),
           xlabel="Dice, real images with a defect")
    return figure
