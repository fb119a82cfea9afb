"""Dice, IoU and related scores, always stating how empty masks count.  Taught in 04_metrics.

Predictions and masks are bool [N, K, H, W] (tensors or arrays), K masks per image. Averages are over (image, class)
pairs. `empty` is the contribution of a pair with an empty mask:

- "one": 1 if the prediction is empty too, else 0 (Kaggle, and the original up to its smoothing);
- "skip": none, only pairs with a defect count: the stricter score, and the one to compare networks by;
- "zero": 0 (scikit-learn's ``zero_division=0``).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

EMPTY = ("one", "skip", "zero")
TOUCHING = np.ones((3, 3), bool)  # pixels that meet at a corner belong to one defect


def counts(prediction: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel counts of (both, the prediction, the mask) for every image and class: three int64 [N, K] on the CPU.

    Raises ValueError if shapes differ or values are not bool: the caller applies the threshold.
    """
    prediction, mask = torch.as_tensor(prediction), torch.as_tensor(mask)
    if prediction.shape != mask.shape or prediction.ndim != 4:
        raise ValueError(f"both must be [N, K, H, W], got {list(prediction.shape)} and {list(mask.shape)}")
    if prediction.dtype != torch.bool or mask.dtype != torch.bool:
        raise ValueError(f"both must be bool, got {prediction.dtype} and {mask.dtype}: compare, e.g. `logits > 0`")
    axes = (2, 3)
    both, predicted, true = (prediction & mask).sum(axes), prediction.sum(axes), mask.sum(axes)
    return both.cpu(), predicted.cpu(), true.cpu()  # few numbers; the ratios need float64, which some devices lack


def dice(prediction: Tensor, mask: Tensor, *, empty: str) -> Tensor:
    """2|P∩T| / (|P| + |T|) in 0…1 for every image and class, float64 [N, K]; NaN for an empty T and empty="skip"."""
    both, predicted, true = counts(prediction, mask)
    return _settle(2 * both.double() / (predicted + true), predicted, true, empty)


def iou(prediction: Tensor, mask: Tensor, *, empty: str) -> Tensor:
    """|P∩T| / |P∪T| in 0…1 for every image and class, float64 [N, K]; NaN for an empty T and empty="skip"."""
    both, predicted, true = counts(prediction, mask)
    return _settle(both.double() / (predicted + true - both), predicted, true, empty)


def kaggle_dice(prediction: Tensor, mask: Tensor) -> float:
    """Kaggle's score for Severstal (K = 4): mean Dice over (image, class) pairs; 1 if mask and prediction are empty."""
    return dice(prediction, mask, empty="one").mean().item()


def original_accuracy(probabilities: Tensor, mask: Tensor, smooth: float = 1e-4) -> float:
    """The original's "accuracy": hard Dice at p ≥ 0.5, (2·I + 1e-4) / (P + T + 1e-4) per image, mean over the batch."""
    both, predicted, true = counts(probabilities >= 0.5, torch.as_tensor(mask).bool())
    return ((2 * both.double() + smooth) / ((predicted + true).double() + smooth)).mean().item()


def precision_and_recall(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision and recall where all pixels scored at least as high as a threshold are called defect.

    scores: any numbers, [N]; truth: bool [N], of which one at least is true, else recall is NaN. Returns precision,
    recall and thresholds, float [M] each, for the M distinct scores from the highest to the lowest.
    """
    order = np.argsort(-scores, kind="stable")
    scores, truth = scores[order], truth[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of each run of equal scores
    hits = np.cumsum(truth)[last]
    return hits / (last + 1), hits / (hits[-1] or np.nan), scores[last]


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Σ (R_n − R_(n−1)) · P_n over the distinct scores, in 0…1: how well pixels are ranked, whatever the threshold.

    Arguments as for `precision_and_recall`; NaN without a defect pixel.
    """
    precision, recall, _ = precision_and_recall(scores, truth)
    return float(np.sum(np.diff(recall, prepend=0) * precision))


class Components(NamedTuple):
    """Numbers of connected defects of one mask, and of those that a prediction found."""

    defects: int  # connected parts of the mask
    touched: int  # of them: with at least one predicted pixel
    half: int  # of them: with at least half of their pixels predicted
    alarms: int  # connected parts of the prediction that touch no defect


def defects(prediction: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each connected defect (by edge or corner) of a mask, and the number predicted: two int64 [D].

    Both are bool [H, W].
    """
    labels, found = ndimage.label(mask, TOUCHING)
    areas, hits = (np.bincount(each.ravel(), minlength=found + 1)[1:] for each in (labels, labels[prediction]))
    return areas, hits


def components(prediction: np.ndarray, mask: np.ndarray) -> Components:
    """Counts connected defects (by edge or corner) instead of pixels; bool [H, W] each."""
    areas, hits = defects(prediction, mask)
    found, n_found = ndimage.label(prediction, TOUCHING)
    right = len(np.unique(found[prediction & mask]))
    return Components(len(areas), int((hits > 0).sum()), int((2 * hits >= areas).sum()), n_found - right)


@dataclass
class Streaming:
    """Scores at one threshold over any number of batches, in constant memory: `update` per batch, then `scores`.

    Fast enough for every epoch of a training; `scores.Scores` has all conventions, with intervals.
    """

    pairs: int = 0  # (image, class) pairs seen
    defective: int = 0  # pairs whose mask is not empty
    alarms: int = 0  # pairs with an empty mask and a prediction that is not
    dice_sum: float = 0.0  # over defective pairs
    iou_sum: float = 0.0
    both: int = 0  # pixels in prediction and mask, over all pairs
    predicted: int = 0
    true: int = 0
    pixels: int = 0

    def update(self, prediction: Tensor, mask: Tensor) -> None:
        """Adds a batch, bool [N, K, H, W] each."""
        both, predicted, true = counts(prediction, mask)
        has_defect = true > 0
        self.pairs += true.numel()
        self.defective += int(has_defect.sum())
        self.alarms += int(((predicted > 0) & ~has_defect).sum())
        self.dice_sum += (2 * both.double() / (predicted + true))[has_defect].sum().item()
        self.iou_sum += (both.double() / (predicted + true - both))[has_defect].sum().item()
        self.both += int(both.sum())
        self.predicted += int(predicted.sum())
        self.true += int(true.sum())
        self.pixels += torch.as_tensor(mask).numel()

    def scores(self, *, empty: str) -> dict[str, float]:
        """Every score; NaN if there was nothing to score.

        dice, iou: mean over pairs under `empty`. dice_all_pixels, precision, recall, accuracy: over the pooled pixels
        of all pairs, independent of `empty`. false_alarm_rate: share of empty masks with a predicted pixel.
        """
        _check(empty)
        clean = self.pairs - self.defective
        gained = clean - self.alarms if empty == "one" else 0
        scored = self.defective if empty == "skip" else self.pairs
        return {
            "dice": _ratio(self.dice_sum + gained, scored),
            "iou": _ratio(self.iou_sum + gained, scored),
            "dice_all_pixels": _ratio(2 * self.both, self.predicted + self.true),
            "precision": _ratio(self.both, self.predicted),
            "recall": _ratio(self.both, self.true),
            "accuracy": _ratio(self.pixels - self.predicted - self.true + 2 * self.both, self.pixels),
            "false_alarm_rate": _ratio(self.alarms, clean),
        }


def _settle(values: Tensor, predicted: Tensor, true: Tensor, empty: str) -> Tensor:
    _check(empty)
    if empty == "one":
        at_empty = (predicted == 0).double()
    else:
        at_empty = torch.full_like(values, torch.nan if empty == "skip" else 0.0)
    return torch.where(true > 0, values, at_empty)


def _check(empty: str) -> None:
    if empty not in EMPTY:
        raise ValueError(f"empty is {empty!r}; it must be one of {', '.join(EMPTY)}")


def _ratio(a: float, b: float) -> float:
    return a / b if b else float("nan")
