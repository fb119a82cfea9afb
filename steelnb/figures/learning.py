"""A network while it learns: probability maps and scores by the number of steps.  Taught in 05_bce_imbalance.

Five inches wide, so that it can be read on a phone.
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from steelnb.figures import plots

WIDTH, COLUMNS = 5.0, 4  # inches; pictures beside one another
LOSS_COLOURS = {"bce": "#332288", "dice": "#117733", "weighted": "#AA4499", "focal": "#999933", "prior": "#88CCEE"}


def draw_probability_maps(
    image: np.ndarray, mask: np.ndarray, blocks: Mapping[str, Mapping[str, np.ndarray]]
) -> Figure:
    """Blocks of probability maps below one another, each begun by the steel with its label outlined.

    image: uint8 [H, W]; mask: bool [H, W]. blocks: title → (title → map, float [H, W]; 0 is black and 1 is white).
    """
    lines = [-(-(1 + len(maps)) // COLUMNS) for maps in blocks.values()]
    heights = [n * (WIDTH / COLUMNS + 0.25) + 0.3 for n in lines]
    figure = plt.figure(figsize=(WIDTH, sum(heights)))
    parts = figure.subfigures(len(blocks), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, n, (title, maps) in zip(parts, lines, blocks.items(), strict=True):
        part.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        axes = part.subplots(n, COLUMNS, squeeze=False).ravel()
        plots.show(axes[0], image, vmin=image.min(), vmax=image.max())
        axes[0].contour(mask, [0.5], colors=[plots.DEFECT], linewidths=1.2)
        for ax, each in zip(axes[1:], maps.values(), strict=False):
            plots.show(ax, each, vmin=0, vmax=1)
        for ax, name in zip(axes, ["steel, label", *maps], strict=False):
            ax.set_title(name, fontsize=9, fontweight="normal")
        for ax in axes[1 + len(maps) :]:
            ax.set_axis_off()
    return figure


def draw_by_step(curves: pd.DataFrame, arms: Mapping[str, str]) -> Figure:
    """A panel per share of defect: average precision (line) and Dice at p > ½ (dashes) of each arm, mean over seeds.

    curves: a row per `share`, `arm`, `seed` and `step`, with `ap` and `dice_half`; arms: those drawn, with their names.
    """
    shares = sorted(set(curves["share"]))
    figure, axes = plt.subplots(len(shares), 1, figsize=(WIDTH, 1.75 * len(shares) + 0.4), sharex=True, squeeze=False)
    steps = sorted(set(curves["step"]))
    for ax, share in zip(axes[:, 0], shares, strict=True):
        for arm, name in arms.items():
            rows = curves[(curves["share"] == share) & (curves["arm"] == arm)]
            rows = rows.groupby("step")[["ap", "dice_half"]].mean()
            places = [steps.index(step) for step in rows.index]
            ax.plot(places, rows["ap"], color=LOSS_COLOURS[arm], label=f"{name}: average precision")
            ax.plot(places, rows["dice_half"], "--", color=LOSS_COLOURS[arm], label=f"{name}: Dice at p > ½")
        ax.axhline(share, color=plots.FAINT, lw=1)  # what a blind ranking has
        arm, name = next(iter(arms.items()))
        dice = curves[(curves["share"] == share) & (curves["arm"] == arm)].groupby("step")["dice_half"].mean()
        title = f"{share:.0%} defect"
        if len(dice):
            black = dice.iloc[1:].max() < 0.03  # after step 0, where a mask of noise may be white
            title += f": {name}'s mask " + ("stays black" if black else f"ends with Dice {dice.iloc[-1]:.2f}")
        ax.set(ylim=(0, 1), title=title, ylabel="score", xticks=range(len(steps)), xticklabels=steps)
    axes[-1, 0].set_xlabel("step")
    axes[0, 0].legend(loc="upper left", fontsize=9)
    return figure
