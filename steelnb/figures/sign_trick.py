"""Dice on raw outputs over one constant output: how a loss falls while signs cancel.  Taught in 06_negative_dice.

Drawn here for one value, and in `widgets` with a slider; GitHub, printed pages and committed notebooks show this one.
"""

from collections.abc import Mapping
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from steelnb.figures import plots

REACH = 0.2  # the constant outputs shown go from −REACH to REACH
SIZE = (5.0, 4.6)  # inches
LOSSES_SHOWN = (-3.0, 5.0)
NEGATIVE, POSITIVE = "#2166AC", "#B2182B"  # the ends of the colour map of `draw_outputs`


class SignTrick(NamedTuple):
    """Dice on raw outputs that all equal x, with a share f of defect pixels; sums are divided by the pixel count."""

    numerator: float  # 2·Σxt / N = 2fx
    denominator: float  # (Σx + Σt) / N = x + f
    loss: float  # 1 − numerator / denominator; NaN at the pole x = −f
    slope: float  # d loss / dx = −2f² / (x + f)², never positive: descent always raises x


def sign_trick(x: float, share: float) -> SignTrick:
    """Raw Dice and its derivative at the constant output `x` for the `share` of defect pixels, in 0…1, unsmoothed."""
    numerator, denominator = 2 * share * x, x + share
    if abs(denominator) < 1e-9:
        return SignTrick(numerator, 0.0, float("nan"), float("nan"))
    return SignTrick(numerator, denominator, 1 - numerator / denominator, -2 * share**2 / denominator**2)


def draw_sign_trick(x: float, share: float = 0.06, figure: Figure | None = None) -> Figure:
    """The loss over one constant output, with the point at `x` and its signs.  Taught in 06_negative_dice.

    The static version of `widgets.explore_sign_trick`; by default a new pyplot figure.
    """
    view = SignTrickView(share, figure or plt.figure(figsize=SIZE))
    view.move(x)
    return view.figure


def draw_outputs(image: np.ndarray, mask: np.ndarray, outputs: Mapping[str, np.ndarray]) -> Figure:
    """A crop, its mask and what networks put out for it, two beside each other: red above zero, blue below.

    image: uint8 [H, W]; mask: bool [H, W]. outputs: title → float [H, W], each drawn on a scale of its own.
    """
    lines, height = 1 + -(-len(outputs) // 2), SIZE[0] / 2 * image.shape[0] / image.shape[1] + 0.45
    figure, axes = plt.subplots(lines, 2, figsize=(SIZE[0], lines * height))
    plots.show(axes[0, 0], image, "steel", vmin=image.min(), vmax=image.max())
    plots.show(axes[0, 1], 255 * mask.astype(np.uint8), "label: white is defect")
    for ax in axes.ravel()[2 + len(outputs) :]:
        ax.set_axis_off()
    for ax, (title, x) in zip(axes.ravel()[2:], outputs.items(), strict=False):
        reach = np.abs(x).max()
        plots.show(ax, x, cmap="RdBu_r", vmin=-reach, vmax=reach)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel(f"from {x.min():.2f} to {x.max():.2f}".replace("-", "−"))
    return figure


class SignTrickView:
    """One figure that keeps its moving parts, so that a step of the slider redraws little."""

    def __init__(self, share: float, figure: Figure) -> None:
        if not 0 < share < REACH:
            raise ValueError(f"share is {share}; it can be between 0 and {REACH}")
        self.share, self.figure = share, figure
        figure.set_layout_engine("none")  # fixed positions, so that nothing jumps while the slider moves
        self.curve, self.parts = figure.add_axes((0.1, 0.45, 0.88, 0.49)), figure.add_axes((0.22, 0.11, 0.76, 0.17))
        self._draw_curve()
        self.point = self.curve.plot([], [], "o", color=plots.INK, ms=8, zorder=5)[0]
        self.step = self.curve.annotate("", (0, 0), (0, 0), arrowprops=dict(arrowstyle="-|>", color=plots.INK, lw=2))
        self.bars = self.parts.barh([1, 0], [0, 0], height=0.5)
        self.parts.axvline(0, color=plots.INK, lw=1)
        self.parts.set(yticks=[1, 0], yticklabels=["2Σxt / N", "(Σx + Σt) / N"], ylim=(-0.6, 1.6),
                       xlim=(-REACH, REACH + share), xlabel="per pixel")
        self.parts.grid(axis="y", visible=False)
        self.titles = [ax.set_title("", loc="left", fontsize=9) for ax in (self.curve, self.parts)]
        self.values = [self.parts.text(0, y, "", va="center", fontsize=9) for y in (1, 0)]
        self.moving = [self.point, self.step, *self.bars, *self.values, *self.titles]

    def _draw_curve(self) -> None:
        ax, pole = self.curve, -self.share
        low, high = LOSSES_SHOWN
        for left, right, colour, signs in (
            (-REACH, pole, NEGATIVE, "(−) / (−)"), (pole, 0, plots.FAINT, "(−)/(+)"),
            (0, REACH, POSITIVE, "(+) / (+)"),
        ):
            ax.axvspan(left, right, color=colour, alpha=0.12, lw=0)
            ax.text((left + right) / 2, high - 0.15, signs, ha="center", va="top", fontsize=9)
        for side in (np.linspace(-REACH, pole - 1e-4, 400), np.linspace(pole + 1e-4, REACH, 400)):
            loss = 1 - 2 * self.share * side / (side + self.share)
            ax.plot(side, np.where((loss > low - 9) & (loss < high + 9), loss, np.nan), color=plots.INK, lw=1.5)
        ax.axvline(pole, color=plots.INK, lw=1, ls="--")
        ax.text(pole - 0.006, low + 0.15, f"pole at x = −{self.share:g}", ha="right", fontsize=9)
        ax.axhline(0, color=plots.INK, lw=1, ls=":")
        ax.text(REACH, -0.1, "below this line no Dice loss can be", color=plots.INK, ha="right", va="top", fontsize=9)
        ax.set(xlim=(-REACH, REACH), ylim=LOSSES_SHOWN, xlabel="the output x of every pixel", ylabel="1 − “Dice”")

    def move(self, x: float) -> None:
        here, (low, high) = sign_trick(x, self.share), LOSSES_SHOWN
        shown = min(max(here.loss, low + 0.2), high - 0.9) if here.loss == here.loss else (low + high) / 2
        self.point.set_data([x], [shown])
        # The arrow's length shows the slope; from the left it ends at the pole, beyond which nothing can be predicted.
        length = min(0.1, 0.015 + 0.02 * abs(here.slope) ** 0.5) if here.slope == here.slope else 0.0
        if here.denominator < 0:
            length = min(length, max(0.012, -self.share - x))
        self.step.set_position((x, shown))
        self.step.xy = (x + length, shown)
        self.step.set_visible(length > 0)
        for bar, text, value in zip(self.bars, self.values, here[:2], strict=True):
            bar.set_width(value)
            text.set_text(f"{value:+.3f}".replace("-", "−"))
            text.set(x=0.01 * (-1 if value >= 0 else 1), ha="right" if value >= 0 else "left")  # where its bar is not
            bar.set_color(NEGATIVE if value < 0 else POSITIVE)
        self.titles[0].set_text(self._story(x, here))
        ratio = "no value" if here.denominator == 0 else f"{here.numerator / here.denominator:.2f}".replace("-", "−")
        self.titles[1].set_text(f"“Dice” = {ratio}")

    def _story(self, x: float, here: SignTrick) -> str:
        at = f"x = {x:g}".replace("-", "−")
        if here.denominator == 0:
            return f"{at}: the pole"
        loss = f"{at}, loss {here.loss:.2f}".replace("-", "−")
        if here.denominator < 0:
            return f"{loss}: two minuses cancel"
        return f"{loss}: descent up, " + ("away from the pole" if x < 0 else "ever more slowly")
