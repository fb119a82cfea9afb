"""Steel for the studies, in three parts, and what every study measures on them.

*train* teaches the network; *choose* decides whatever is chosen (a threshold, say); *report* is what is written down.
Near-duplicates lie in one part. Images are shrunk by 4, so that 48 × 48 pixels show 192 × 192 of the original.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock

from steelnb.audit.duplicates import find_duplicates, group_duplicates
from steelnb.data import dataset, splits, synthetic
from steelnb.evaluation.metrics import average_precision
from steelnb.network.unet import UNet
from steelnb.training import loss_trials
from studies import runner

SALIENCY = runner.HERE.parents[1] / "shared" / "data" / "sd_saliency_900"
SIDE, SHRINK, SPLIT_SEED = 48, 4, 0


class Crops(NamedTuple):
    """images, uint8 [N, 1, 48, 48]; masks, bool [N, 1, 48, 48]."""

    images: torch.Tensor
    masks: torch.Tensor


class Parts(NamedTuple):
    train: Crops
    choose: Crops
    report: Crops


@cache
def parts(name: str, share: float | None = None) -> Parts:
    """The three parts, made once and stored in build/studies.

    "saliency": the whole images of SD-saliency-900 (less a rim of a pixel), 60 : 20 : 20.
    "synthetic": crops of synthetic steel; half of them clean, the others 6 % defect in the mean; 400, 300 and 400.
    With a `share`: crops of SD-saliency-900, shrunk by 2, of which each has between half and twice this share of defect
    pixels, and the mean is within 20 % of it; 300, 150 and 300.
    """
    file = runner.LOCKS / f"parts-{name}{'' if share is None else f'-{share:g}'}.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if not file.exists():
            make = _of_share if share is not None else {"saliency": _whole, "synthetic": _crops}[name]
            arrays = {f"{part}_{kind}": array for part, crops in zip(Parts._fields, make(name, share), strict=True)
                      for kind, array in zip(Crops._fields, crops, strict=True)}
            draft = file.with_suffix(".part.npz")
            np.savez(draft, **arrays)
            draft.rename(file)
        with np.load(file) as held:
            return Parts(*(Crops(*(torch.from_numpy(held[f"{part}_{kind}"]) for kind in Crops._fields))
                           for part in Parts._fields))


def three(data: dataset.SteelData) -> list[dataset.SteelData]:
    """The data of *train*, *choose* and *report*, 60 : 20 : 20, near-duplicates together."""
    sides = splits.by_image(data, 0.4, SPLIT_SEED)
    held_out = data.subset(sides.validation)
    halves = splits.by_image(held_out, 0.5, SPLIT_SEED)
    return [data.subset(sides.train), held_out.subset(halves.train), held_out.subset(halves.validation)]


def read(name: str) -> dataset.SteelData:
    """The whole data set, near-duplicates grouped."""
    if name == "synthetic":
        folder = runner.LOCKS / "synthetic-600"
        if not (folder / "train.csv").exists():
            synthetic.write_dataset(folder, 600, seed=0, shape=(256, 400), progress=False)
        return dataset.read_dataset(folder)
    data = dataset.read_dataset(SALIENCY)
    return data.with_groups(group_duplicates(find_duplicates(data), data.images["ImageId"]))


def _whole(name: str, _: None) -> list[tuple[np.ndarray, np.ndarray]]:
    found = []
    for data in three(read(name)):
        images, masks = [], []
        for image_id in data.images["ImageId"]:
            image, mask = _shrunk(data, image_id, SHRINK)
            images.append(image[1:-1, 1:-1])
            masks.append(mask[1:-1, 1:-1])
        found.append((np.stack(images)[:, None], np.stack(masks)[:, None]))
    return found


def _crops(name: str, _: None) -> list[tuple[np.ndarray, np.ndarray]]:
    found = []
    for seed, (data, count) in enumerate(zip(three(read(name)), (400, 300, 400), strict=True)):
        mix = {"share": 0.06, "clean": 0.5, "depth": 2, "shrink": SHRINK}
        steel = loss_trials.crops(data, count, (SIDE, SIDE), seed=seed, **mix)
        rim = (steel.windows.shape[2] - SIDE) // 2
        inner = steel.windows[:, :, rim : rim + SIDE, rim : rim + SIDE]
        found.append((inner.numpy(), steel.masks.numpy()))
    return found


def _of_share(name: str, share: float) -> list[tuple[np.ndarray, np.ndarray]]:
    found, rng = [], np.random.default_rng(0)
    for data, count in zip(three(read(name)), (300, 150, 300), strict=True):
        images, masks = [], []
        pool = {image_id: _shrunk(data, image_id, SHRINK // 2) for image_id in data.images["ImageId"]}
        while len(images) < count:
            before = len(images)
            for image_id in rng.permutation(list(pool)):
                image, mask = pool[image_id]
                shares = np.lib.stride_tricks.sliding_window_view(mask, (SIDE, SIDE)).mean((2, 3))
                aim = share * 2 ** rng.uniform(-1, 1) / 1.082  # whose mean is the share
                nearest = np.abs(shares - aim)
                if nearest.min() < 0.1 * aim and len(images) < count:
                    top, left = rng.choice(np.argwhere(nearest < 0.1 * aim))
                    images.append(image[top : top + SIDE, left : left + SIDE])
                    masks.append(mask[top : top + SIDE, left : left + SIDE])
            if len(images) == before:
                raise dataset.DataError(f"{data.name}: no crops with a share of {share}")
        reached = np.mean(masks)
        if abs(reached / share - 1) > 0.2:  # few images have much more than a quarter
            raise dataset.DataError(f"{data.name}: crops reach a share of {reached:.3f}, not {share}")
        found.append((np.stack(images)[:, None], np.stack(masks)[:, None]))
    return found


def _shrunk(data: dataset.SteelData, image_id: str, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Image, uint8, and mask, bool, averaged over blocks of side × side pixels; what is left over is cut off."""
    found = []
    for array in (data.image(image_id), data.mask(image_id)):
        height, width = (n // side for n in array.shape)
        blocks = array[: height * side, : width * side].reshape(height, side, width, side)
        found.append(blocks.mean((1, 3)))
    return np.rint(found[0]).astype(np.uint8), found[1] > 0.5


def train(
    loss: Callable, crops: Crops, steps: int, seed: int, *, batch: int = 4, learning_rate: float = 1e-2,
    width: int = 4, depth: int = 2, norm: str = "all", bias: float | None = None,
    watch: Callable[[int, UNet], None] | None = None,
) -> UNet:
    """A network trained by AdamW, its rate falling in a straight line to 0. The seed decides first weights and order.

    bias: where the head's bias starts. watch: called before each step, and after the last, with the steps taken.
    """
    torch.manual_seed(seed)
    network, rng, order = UNet(width=width, depth=depth, norm=norm, padding="same"), np.random.default_rng(seed), []
    if bias is not None:
        torch.nn.init.constant_(network.head.bias, bias)
    stepper = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=0.0)
    for step in range(steps):
        if watch is not None:
            watch(step, network)
        if len(order) < batch:
            order = rng.permutation(len(crops.images)).tolist()
        chosen, order = order[:batch], order[batch:]
        value = loss(network(crops.images[chosen].float() / 255), crops.masks[chosen])
        for group in stepper.param_groups:
            group["lr"] = learning_rate * (1 - step / steps)
        stepper.zero_grad()
        value.backward()
        stepper.step()
    if watch is not None:
        watch(steps, network)
    return network


def logits(network: UNet, crops: Crops) -> np.ndarray:
    """Outputs in evaluation mode, float32 [N, pixels]."""
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        found = torch.cat([network(part.float() / 255) for part in crops.images.split(50)])
    network.train(was_training)
    return found.flatten(1).numpy()


def dices(predicted: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Hard Dice of each defective image, of bool [N, pixels]; images without a defect have no part in it."""
    defective = masks.any(1)
    predicted, masks = predicted[defective], masks[defective]
    return 2 * (predicted & masks).sum(1) / (predicted.sum(1) + masks.sum(1))


def best_threshold(scores: np.ndarray, masks: np.ndarray, count: int = 80) -> float:
    """The logit above which mean Dice is highest, of 0 and `count` quantiles of the scores."""
    candidates = np.unique(np.append(np.quantile(scores, np.linspace(0.3, 0.9995, count)), 0.0))
    return float(candidates[np.argmax([dices(scores > each, masks).mean() for each in candidates])])


def measured(network: UNet, choose: Crops, report: Crops) -> dict:
    """Scores of a trained network on *report*, with thresholds from *choose*.

    dice_half, dice_chosen: mean Dice of defective images at p > 1/2 and at the threshold of `best_threshold`, whose
    probability is `threshold`; ap: of all pixels; image_dices: at the chosen threshold. Where there are clean images:
    recall and alarms, shares of defective and of clean images of which any pixel is above the threshold at which 9 in
    10 of *choose*'s defective images have one.
    """
    to_choose, to_report = logits(network, choose), logits(network, report)
    masks, truth = choose.masks.flatten(1).numpy(), report.masks.flatten(1).numpy()
    threshold = best_threshold(to_choose, masks)
    chosen = dices(to_report > threshold, truth)
    numbers = {
        "dice_half": float(dices(to_report > 0, truth).mean()),
        "dice_chosen": float(chosen.mean()),
        "ap": average_precision(to_report.ravel(), truth.ravel()),
        "threshold": float(1 / (1 + np.exp(-np.clip(threshold, -500, 500)))),
    }
    if not truth.any(1).all():
        highest, defective = to_report.max(1), truth.any(1)
        level = np.quantile(to_choose.max(1)[masks.any(1)], 0.1)
        numbers |= {"recall": float((highest[defective] >= level).mean()),
                    "alarms": float((highest[~defective] >= level).mean())}
    return {k: round(v, 5) for k, v in numbers.items()} | {"image_dices": [round(float(d), 3) for d in chosen]}
