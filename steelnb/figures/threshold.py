"""The mask of a probability map at a threshold: errors, and Dice over all thresholds.  Taught in 10_results.

Drawn here for one value, and in `widgets` with a slider.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from skimage.measure import block_reduce

from steelnb.figures import plots

WIDTH, HIGHEST = plots.NARROW, 3.6  # inches; of the picture
TITLE, GAP, CURVE, BELOW = 0.3, 0.3, 1.1, 0.5  # inches, from the top: above and below the picture, curves, axis


def draw_threshold(
    image: np.ndarray, probability: np.ndarray, mask: np.ndarray, threshold: float = 0.5, figure: Figure | None = None
) -> Figure:
    """One image at a threshold, above its Dice at every threshold.  Taught in 10_results.

    Shows hits, misses and false alarms. image: uint8 [H, W]; probability: float [H, W] in 0…1; mask: bool [H, W]. The
    static version of `widgets.explore_threshold`; by default a new pyplot figure.
    """
    view = ThresholdView(image, probability, mask, figure or plt.figure(figsize=figure_size(image.shape)))
    view.move(threshold)
    return view.figure


def figure_size(shape: tuple[int, int]) -> tuple[float, float]:
    """Figure size in inches for an image of that shape."""
    return WIDTH, TITLE + min(WIDTH * shape[0] / shape[1], HIGHEST) + GAP + CURVE + BELOW


class ThresholdView:
    """One image with the mask at a variable threshold. The picture has about 800 columns; numbers use all pixels."""

    def __init__(self, image: np.ndarray, probability: np.ndarray, mask: np.ndarray, figure: Figure) -> None:
        if not image.shape == probability.shape == mask.shape:
            raise ValueError(f"image, probability and mask are of {image.shape}, {probability.shape}, {mask.shape}")
        step = max(1, image.shape[1] // 800)
        self.image = block_reduce(image, step, np.mean, cval=int(image.mean())).astype(np.uint8)
        self.probability, self.mask = (each[::step, ::step] for each in (probability, mask))
        self.true = int(mask.sum())
        self._inside, self._all = np.sort(probability[mask]), np.sort(probability, axis=None)
        thresholds = np.linspace(0, 1, 201)
        found, predicted = self._above(thresholds)
        self.figure = figure
        figure.set_layout_engine("none")  # fixed positions, so that nothing jumps while the slider moves
        height, under = figure.get_figheight(), BELOW + CURVE + GAP
        self.picture_axes = figure.add_axes((0, under / height, 1, 1 - (under + TITLE) / height), anchor="W")
        self.curve = figure.add_axes((0.1, BELOW / height, 0.88, CURVE / height))
        plots.show(self.picture_axes, plots.errors(self.image, self.mask & False, self.mask))
        self.picture = self.picture_axes.images[0]
        for name, colour, top, bottom in (("Dice", plots.INK, 2 * found, predicted + self.true),
                                          ("precision", plots.FALSE_ALARM, found, predicted),
                                          ("recall", plots.HIT, found, self.true)):
            share = np.where(bottom, top / np.maximum(bottom, 1), np.nan)  # no precision without predicted pixels
            self.curve.plot(thresholds, share, color=colour, lw=1.5, label=name)
        self.curve.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="score",
                       xlabel="threshold: defect where p is above it")
        self.curve.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderpad=0.2)  # off the curves
        self.line = self.curve.axvline(0.5, color=plots.INK, lw=2)
        self.title = self.picture_axes.set_title("", loc="left")
        self.moving = [self.picture, self.title, self.line]

    def _above(self, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of pixels with p above each threshold: in the mask, and in all."""
        thresholds = np.asarray(thresholds, self._all.dtype)  # the mask's dtype, so that ties are treated alike
        inside, everywhere = (len(p) - np.searchsorted(p, thresholds, side="right") for p in (self._inside, self._all))
        return inside, everywhere

    def move(self, threshold: float) -> None:
        """Shows another threshold, 0 … 1."""
        self.picture.set_data(plots.errors(self.image, self.probability > threshold, self.mask))
        self.line.set_xdata([threshold, threshold])
        found, predicted = self._above(threshold)
        total = predicted + self.true
        dice = f"Dice {2 * found / total:.2f}" if total else "rightly nothing"
        self.title.set_text(f"p > {threshold:.2f}: {predicted / self._all.size:.1%} called defect, {dice}")
