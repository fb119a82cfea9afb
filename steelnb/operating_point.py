"""From probabilities to a mask: threshold, smallest defect, clean-image guard.  Taught in 08_results.

A network gives a probability a pixel; somebody has to say where a defect begins. The three numbers of an operating
point are chosen on one part of the data (`search`) and reported on another: chosen on the same images, they flatter.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

TOUCHING = np.ones((3, 3), bool)  # pixels that meet at a corner belong to one defect
CERTAIN_SHARE = 2.5e-4  # of an image's pixels: 102 of 256×1600


@dataclass(frozen=True)
class OperatingPoint:
    """How a mask is made of probabilities; the default is the plain p > 0.5. Raises ValueError for other values.

    threshold: a pixel is defect where p > threshold, 0 ≤ threshold < 1.
    minimum_area: connected defects (by edge or corner) of fewer pixels are dropped.
    guard: an image is called clean unless its `certainty` is above the guard, 0 ≤ guard < 1; 0 guards nothing.
    Each class is decided by itself.
    """

    threshold: float = 0.5
    minimum_area: int = 0
    guard: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("threshold", self.threshold), ("guard", self.guard)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value!r}; it can be a probability, from 0 to below 1")
        if self.minimum_area < 0 or self.minimum_area != int(self.minimum_area):
            raise ValueError(f"minimum_area is {self.minimum_area!r}; it can be a whole number of pixels")

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
    """The probability that `CERTAIN_SHARE` of an image's pixels, [H, W], reach: one lone pixel says little."""
    rank = max(1, round(CERTAIN_SHARE * probability.size))
    return float(np.partition(probability, probability.size - rank, axis=None)[probability.size - rank])
