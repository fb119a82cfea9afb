"""Differences between arms of a study, paired over seeds and images, with intervals."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from steelnb.evaluation.recorded import seed_interval, seeds_and_images_interval

SAME = 0.02


class Difference(NamedTuple):
    """Mean difference, its 95 % interval, and over how many seeds."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def same(self) -> bool:
        """Whether the whole interval lies within ±0.02."""
        return bool(self.low > -SAME and self.high < SAME)

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.mean:+.3f} (one seed)"
        return f"{self.mean:+.3f} ({self.low:+.3f} … {self.high:+.3f})"


def over_seeds_and_images(a: pd.Series, b: pd.Series, draws: int = 2000) -> Difference:
    """Of lists of scores, an entry per seed (the index), of the same images: seeds and images are both resampled."""
    seeds = sorted(set(a.index) & set(b.index))
    if not seeds:
        return Difference(float("nan"), float("nan"), float("nan"), 0)
    gains = np.array([np.subtract(a[seed], b[seed]) for seed in seeds])
    return Difference(*seeds_and_images_interval(gains, draws), len(seeds))


def over_seeds(a: pd.Series, b: pd.Series) -> Difference:
    """Of one number per seed (the index): mean ± t · standard error; NaN limits below two seeds."""
    gains = (a - b).dropna()
    return Difference(*seed_interval(gains), len(gains))


def mean_range(values: pd.Series) -> str:
    """As "0.312 (0.29–0.33)": the mean, and the least and the most of the seeds."""
    values = values.dropna()
    return "–" if values.empty else f"{values.mean():.3f} ({values.min():.2f}–{values.max():.2f})"
