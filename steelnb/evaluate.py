"""How good a network is on labelled images.  Taught in 00_start_here."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from steelnb import runtime
from steelnb.data import SteelData
from steelnb.metrics import Streaming, original_accuracy
from steelnb.overlap_tile import predict
from steelnb.samples import ImageCache, Item, Samples
from steelnb.unet import UNet
from steelnb.weights import Trained


def evaluate(
    model: UNet, samples: Samples, loss: Callable[[Tensor, Tensor], Tensor] | None = None, progress: bool = False,
    before_each: Callable[[], None] = lambda: None,
) -> dict[str, float]:  # fmt: skip
    """Scores of a network over whole images, one at a time, at threshold 0.5; NaN where there is nothing to score.

    With exact geometry every pixel of an image counts (`overlap_tile.predict`); with the original's, its centre, which
    is all that it predicts. The conventions are in the names:

    dice, iou: mean over defective images (and classes); an image without defects has no part in them.
    dice_empty_is_one, iou_empty_is_one: mean over all images, empty mask and empty prediction counting 1.
    dice_all_pixels, precision, recall, accuracy: all pixels of all images pooled.
    false_alarm_rate: share of clean images in which something was found.
    original_accuracy: the original's metric, with its smoothing; a logit of exactly 0 is a defect there (≥), and
        nowhere else here (>). loss: mean over images, if `loss` is given.
    images, defective: how many of each were scored (with a mask a class: pairs of image and class).

    before_each: called before each image; may raise to end the scoring.
    """
    streaming, losses, accuracies = Streaming(), [], []
    for index in tqdm(range(len(samples)), desc="evaluate", unit="image", disable=not progress, leave=False):
        before_each()
        logits, mask = predicted(model, samples, index)
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


def evaluate_trained(
    trained: Trained, data: SteelData, part: str | None = None, progress: bool = False
) -> tuple[str, dict[str, float]]:
    """Scores of a trained network on a data set, and a line that says on which of its images.

    part: "validation" and "train" are those of its training run, "all" is every image; None takes "validation" on the
    data it was trained on and "all" on other data. Every pixel of an image counts, in exact geometry, whichever
    geometry the network was trained in. Raises ValueError where there is no such part, or other classes.
    """
    about, outputs = trained.about, trained.model.config["out_channels"]
    trained_on, held_out = set(about.get("training", ())), set(about.get("validation", ()))
    if outputs > 1 and outputs != len(data.classes):
        raise ValueError(f"the network has {outputs} classes, {data.name} has {len(data.classes)}: {data.classes}")
    known = about.get("data", {}).get("fingerprint") == data.fingerprint()
    part = part or ("validation" if known else "all")
    if part != "all" and not known:
        raise ValueError("these weights were trained on other data, or its labels have changed: take part 'all'")
    chosen = {"all": set(data.images["ImageId"]), "train": trained_on, "validation": held_out - trained_on}[part]
    ids = [image_id for image_id in data.images["ImageId"] if image_id in chosen]
    samples = Samples(
        data, ImageCache(data, progress=progress), [Item(i) for i in ids], trained.model.depth, per_class=outputs > 1
    )
    which = {"all": "all images", "train": "training images",
             "validation": "held out for validation (the best epoch was chosen on them)"}[part]  # fmt: skip
    if part == "validation" and (leaked := len(held_out & trained_on)):
        which += f", less {leaked} that the network was also trained on"
    if part == "all" and (seen := len(trained_on.intersection(ids))):
        which += f"; {seen} of them have the name of an image that it was trained on"
    return f"{len(ids)} of {len(data)} images: {which}", evaluate(trained.model, samples, progress=progress)


def predicted(model: UNet, samples: Samples, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits, float32 [K, H, W], and mask, bool [K, H, W], of one sample's whole image, in the samples' geometry."""
    item = samples.items[index]
    if samples.geometry == "exact":
        image = samples.cache[item.image_id]
        with runtime.autocast(next(model.parameters()).device):
            return predict(model, image), samples.mask(item, image.shape)
    window, mask = samples[index]
    weight, was_training = next(model.parameters()), model.training
    model.eval()
    with torch.inference_mode(), runtime.autocast(weight.device):
        logits = model(window[None].to(weight) / 255)
    model.train(was_training)
    return logits[0].float().cpu().numpy(), mask.numpy().astype(bool)


def table(scores: dict[str, float]) -> str:
    """The scores as lines for people."""
    name = max(map(len, scores))
    return "\n".join(
        f"{key:<{name}}  {value:d}" if isinstance(value, int) else f"{key:<{name}}  {value:.4f}"
        for key, value in scores.items()
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
