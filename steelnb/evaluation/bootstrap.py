"""The bootstrap over images: how much would a score move with other images of the same kind?  Taught in 10_results.

In each replicate a unit (an image or a batch) counts Poisson(1) times (Chamandy et al., *Estimating Uncertainty for
Massive Data Streams*, 2012). Its weights follow from (seed, number of the unit) alone: two scores over the same images
in the same order are paired.
"""

import numpy as np

LEVEL = 0.95  # of the intervals
PIECE = 64  # replicates whose weights are float64 at once


def poisson_weights(seed: int, first: int, units: int, replicates: int) -> np.ndarray:
    """How often each of the units first, first + 1, … counts in each replicate: uint8 [units, replicates]."""
    weights = np.empty((units, replicates), np.uint8)
    for unit in range(units if replicates else 0):
        weights[unit] = np.random.default_rng([seed, first + unit]).poisson(1.0, replicates)
    return weights


def weighted_sums(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums of [..., units] over the units: [..., 1 + replicates]. Column 0 has each unit once, the others by weight."""
    pieces = (weights[:, i : i + PIECE].astype(float) for i in range(0, weights.shape[1], PIECE))
    return np.concatenate([values.sum(-1, keepdims=True), *(values @ piece for piece in pieces)], axis=-1)


def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom; NaN where bottom is 0."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)


def interval(replicates: np.ndarray) -> tuple[float, float]:
    """The middle `LEVEL` of the replicates that are not NaN; (NaN, NaN) where none is left."""
    replicates = replicates[np.isfinite(replicates)]
    if not len(replicates):
        return float("nan"), float("nan")
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
