"""Scores of a network on labelled images between epochs, at p > 0.5.

`evaluation.report` has every convention, with intervals.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from steelnb.evaluation.metrics import Streaming, original_accuracy
from steelnb.network.inference import predict_logits, predict_original
from steelnb.network.tiles import original_crop
from steelnb.training.samples import Samples


def validate(
    model: torch.nn.Module, samples: Samples, loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    progress: bool = False, before_each: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Scores of a network over whole images, one at a time, at threshold 0.5; NaN if there is nothing to score.

    With exact geometry every pixel of an image counts; with the original's only the centre, which is all it predicts.
    The names state the conventions:

    dice, iou: mean over defective images (and classes); images without defects do not count.
    dice_empty_is_one, iou_empty_is_one: mean over all images, empty mask and empty prediction counting 1.
    dice_all_pixels, precision, recall, accuracy: all pixels of all images pooled.
    false_alarm_rate: share of clean images with a predicted defect.
    original_accuracy: the original's metric, with its smoothing; a logit of exactly 0 is a defect there (≥), and
        nowhere else here (>). loss: mean over images, if `loss` is given.
    images, defective: numbers of images, and of defective ones (with one mask per class: pairs of image and class).

    before_each: called before each image; may raise to stop the scoring.
    """
    streaming, losses, accuracies = Streaming(), [], []
    for index in tqdm(range(len(samples)), desc="evaluate", unit="image", disable=not progress, leave=False):
        before_each()
        logits, mask = logits_and_mask(model, samples, index)
        logits, mask = torch.from_numpy(logits)[None], torch.from_numpy(mask)[None]
        streaming.update(logits > 0, mask)
        accuracies.append(original_accuracy(logits.sigmoid(), mask))
        if loss is not None:
            losses.append(loss(logits, mask).item())
    strict, lenient = streaming.scores(empty="skip"), streaming.scores(empty="one")
    return {
        **({"loss": _mean(losses)} if loss is not None else {}),
        **strict,
        "dice_empty_is_one": lenient["dice"],
        "iou_empty_is_one": lenient["iou"],
        "original_accuracy": _mean(accuracies),
        "images": streaming.pairs,
        "defective": streaming.defective,
    }


def logits_and_mask(model: torch.nn.Module, samples: Samples, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits, float32 [K, H, W], and mask, bool [K, H, W], of one sample's whole image, in the samples' geometry."""
    item = samples.items[index]
    image = samples.cache[item.image_id]
    mask = samples.mask(item, image.shape)
    if samples.geometry == "original":
        return predict_original(model, image), original_crop(mask, samples.depth)
    return predict_logits(model, image), mask


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
