"""From probabilities to a mask: threshold, minimum area, clean-image guard.  Taught in 10_results.

A network gives one probability per pixel; an operating point decides which pixels are defect. Its three numbers are
chosen on one part of the data (`Sweep`) and reported on another: on the same images, the scores would be too high.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from steelnb.evaluation.metrics import TOUCHING

CERTAIN_SHARE = 2.5e-4  # of an image's pixels: 102 of 256×1600
THRESHOLDS = (*(round(0.05 * k, 2) for k in range(1, 20)), 0.98, 0.99)
AREAS = (0, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)  # pixels
GUARDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


@dataclass(frozen=True)
class OperatingPoint:
    """How probabilities become a mask; the default is p > 0.5. Raises ValueError for values out of range.

    threshold: a pixel is defect where p > threshold, 0 ≤ threshold < 1.
    minimum_area: connected defects (by edge or corner) of fewer pixels are dropped.
    guard: an image is clean unless its `certainty` is above the guard, 0 ≤ guard < 1; 0 is no guard.
    Each class is decided separately.
    """

    threshold: float = 0.5
    minimum_area: int = 0
    guard: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("threshold", self.threshold), ("guard", self.guard)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a probability, from 0 to below 1")
        if not float(self.minimum_area).is_integer() or self.minimum_area < 0:
            raise ValueError(f"minimum_area is {self.minimum_area!r}; it must be a whole number of pixels")

    def masks(self, probabilities: np.ndarray) -> np.ndarray:
        """Masks, bool [K, H, W], of a whole image's probabilities, float [K, H, W] in 0…1."""
        masks = probabilities > self.threshold
        for mask, probability in zip(masks, probabilities, strict=True):
            if self.guard and certainty(probability) <= self.guard:
                mask[:] = False
            elif self.minimum_area > 1 and mask.any():
                labels, _ = ndimage.label(mask, TOUCHING)
                areas = np.bincount(labels.ravel())
                areas[0] = 0
                mask[:] = areas[labels] >= self.minimum_area
        return masks

    def __str__(self) -> str:
        parts = [f"p > {self.threshold:g}"]
        parts += [f"defects of at least {self.minimum_area} px"] if self.minimum_area else []
        parts += [f"clean unless {CERTAIN_SHARE:.3%} of the image is above {self.guard:g}"] if self.guard else []
        return ", ".join(parts)


def certainty(probability: np.ndarray) -> float:
    """The probability exceeded by `CERTAIN_SHARE` of an image's pixels, [H, W]; a single pixel could be noise."""
    rank = max(1, round(CERTAIN_SHARE * probability.size))
    return float(np.partition(probability, probability.size - rank, axis=None)[probability.size - rank])


class Sweep:
    """Scores every combination of threshold, minimum area and guard, image after image.

    Memory does not grow with the number of images. Dice is the mean over (image, class) pairs; with an empty mask it is
    1 for an empty prediction and 0 for any other, so that false alarms lower the score. `dice`, `dice_defective` and
    `alarm_rate` are [thresholds, areas, guards].
    """

    def __init__(
        self, thresholds: Sequence[float] = THRESHOLDS, areas: Sequence[int] = AREAS, guards: Sequence[float] = GUARDS
    ) -> None:
        self.thresholds, self.areas, self.guards = map(np.asarray, (thresholds, areas, guards))
        self.pairs = self.defective = 0
        self._dice, self._defective, self._alarms = np.zeros((3, len(thresholds), len(areas), len(guards)))

    def update(self, probabilities: np.ndarray, masks: np.ndarray) -> None:
        """Adds an image: probabilities, float [K, H, W] in 0…1, and masks, bool [K, H, W]."""
        for probability, mask in zip(probabilities, masks, strict=True):
            true, sure = int(mask.sum()), certainty(probability)
            passed = (self.guards == 0) | (sure > self.guards)
            self.pairs, self.defective = self.pairs + 1, self.defective + (true > 0)
            for t, threshold in enumerate(self.thresholds):
                predicted, both = self._left(probability > float(threshold), mask)
                if true:
                    dice = np.outer(2 * both / (predicted + true), passed)
                    self._defective[t] += dice
                else:
                    alarm = np.outer(predicted > 0, passed)
                    self._alarms[t] += alarm
                    dice = 1.0 - alarm
                self._dice[t] += dice

    def _left(self, prediction: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of predicted pixels, and of those in the mask, without defects smaller than each of `areas`."""
        labels, found = ndimage.label(prediction, TOUCHING)
        sizes = np.bincount(labels.ravel(), minlength=found + 1)[1:]
        hits = np.bincount(labels[mask], minlength=found + 1)[1:]
        kept = sizes >= self.areas[:, None]
        return kept @ sizes, kept @ hits

    @property
    def dice(self) -> np.ndarray:
        return self._dice / max(self.pairs, 1)

    @property
    def dice_defective(self) -> np.ndarray:
        return self._defective / self.defective if self.defective else np.full_like(self._defective, np.nan)

    @property
    def alarm_rate(self) -> np.ndarray:
        """Share of clean pairs in which a defect is predicted."""
        clean = self.pairs - self.defective
        return self._alarms / clean if clean else np.full_like(self._alarms, np.nan)

    def best(self, *, areas: bool = True, guards: bool = True, alarms: float | None = None) -> OperatingPoint:
        """The point with the highest `dice`; among equals the one nearest to p > 0.5 without area and guard.

        areas, guards: whether to choose these too. alarms: choose the highest `dice_defective` instead, among the
        points whose `alarm_rate` is at most this, or, if there are none, among those with the lowest. Raises ValueError
        before the first image, and for `alarms` without clean or without defective images.
        """
        if not self.pairs:
            raise ValueError("no image was scored: call `update` with each image before choosing")
        free = (slice(None), slice(None if areas else 1), slice(None if guards else 1))
        table = self.dice[free]
        if alarms is not None:
            if not 0 < self.defective < self.pairs:
                raise ValueError("a limit on alarms needs both clean and defective images to choose on")
            rate = self.alarm_rate[free]
            table = np.where(rate <= max(alarms, rate.min()), self.dice_defective[free], -1.0)
        near = np.argwhere(table >= table.max() - 1e-12)
        t, a, g = min(near.tolist(), key=lambda at: (at[1] + at[2], abs(self.thresholds[at[0]] - 0.5), at))
        return OperatingPoint(float(self.thresholds[t]), int(self.areas[a]), float(self.guards[g]))

    def at(self, point: OperatingPoint) -> dict[str, float]:
        """dice, dice_defective and alarm_rate of a point of the sweep. Raises ValueError for any other point."""
        axes = ((self.thresholds, point.threshold), (self.areas, point.minimum_area), (self.guards, point.guard))
        places = [np.flatnonzero(axis == value) for axis, value in axes]
        if not all(map(len, places)):
            raise ValueError(f"{point} is not a point of this sweep")
        at = tuple(place[0] for place in places)
        return {name: float(getattr(self, name)[at]) for name in ("dice", "dice_defective", "alarm_rate")}
