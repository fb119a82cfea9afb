"""The plain baseline of the small studies: SD-saliency-900 in three parts, and a same-padding U-Net trained on crops.

*train*, *choose* and *report* are two, one and two fifths of the images by seed; images of the same steel, found by
their content (`audit.duplicates`), stay together.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from steelnb.audit import duplicates
from steelnb.data import dataset, splits
from steelnb.losses import LOSSES
from steelnb.network.unet import UNet

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


class Part(NamedTuple):
    """Images of one size: their ids, uint8 pixels [N, H, W], and masks, bool [N, H, W]."""

    ids: list[str]
    images: np.ndarray
    masks: np.ndarray

    def some(self, at_most: int) -> "Part":
        """At most `at_most` of them, evenly spread."""
        every = -(-len(self.ids) // at_most)
        return Part(self.ids[::every], self.images[::every], self.masks[::every])


@lru_cache(maxsize=1)
def _real() -> tuple[dataset.SteelData, dict[str, str]]:
    data = dataset.read_dataset(SHARED / "sd_saliency_900", progress=False)
    return data, duplicates.group_duplicates(duplicates.find_duplicates(data), data.images["ImageId"])


@lru_cache(maxsize=2)
def parts(seed: int) -> dict[str, Part]:
    """*train*, *choose* and *report* of SD-saliency-900."""
    data, groups = _real()
    rest, report = splits.by_group(data, groups, 0.4, seed)
    train, choose = splits.by_group(data.subset(rest), groups, 1 / 3, seed)
    return {name: Part(list(ids), np.stack([data.image(i) for i in ids]), np.stack([data.mask(i) for i in ids]))
            for name, ids in (("train", train), ("choose", choose), ("report", report))}


def fitted(
    images: np.ndarray, masks: np.ndarray, seed: int, steps: int = 600, batch: int = 4, side: int = 64,
    loss: Callable[[Tensor, Tensor], Tensor] = LOSSES["dice_bce"], rate: float = 4e-3,
    watch: Callable[[int, UNet, Tensor, Tensor], None] = lambda *_: None,
) -> UNet:
    """Width 8, depth 3, trained on flipped crops, every second one on a defect; one cycle of AdamW; in eval mode.

    watch: called with the step, the network, its logits and the masks, before the step is taken.
    """
    torch.manual_seed(seed)
    model = UNet(width=8, depth=3, padding="same").to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    rng, defective = np.random.default_rng(seed), np.flatnonzero(masks.any((1, 2)))
    room, drawn = [n - side for n in images.shape[1:]], 0
    for step in range(steps):
        windows, targets = [], []
        for _ in range(batch):
            on_defect, drawn = drawn % 2 == 0, drawn + 1
            i = rng.choice(defective) if on_defect else rng.integers(len(images))
            top, left = (int(rng.integers(n + 1)) for n in room)
            if on_defect:
                centre = rng.choice(np.argwhere(masks[i]))
                top, left = (int(np.clip(c - side // 2, 0, n)) for c, n in zip(centre, room, strict=True))
            flip = [slice(None, None, -1 if rng.random() < 0.5 else 1) for _ in range(2)]
            for array, crops in ((images, windows), (masks, targets)):
                crops.append(array[i, top : top + side, left : left + side][*flip])
        mask = torch.from_numpy(np.stack(targets)[:, None])
        logits = model(torch.from_numpy(np.stack(windows)[:, None] / np.float32(255)))
        watch(step, model, logits, mask)
        optimizer.zero_grad()
        loss(logits, mask).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def probabilities(model: UNet, images: np.ndarray, batch: int = 1) -> np.ndarray:
    """float32 [N, H, W], in the mode that the network is in."""
    with torch.inference_mode():
        return np.concatenate([
            model(torch.from_numpy(images[i : i + batch, None] / np.float32(255)))[:, 0].sigmoid().numpy()
            for i in range(0, len(images), batch)
        ])


def dices(predictions: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Hard Dice of each image, float64 [N]; NaN where the mask is empty."""
    both, total = (predictions & masks).sum((1, 2)), predictions.sum((1, 2)) + masks.sum((1, 2))
    return np.where(masks.any((1, 2)), 2 * both / np.maximum(total, 1), np.nan)


def chosen_threshold(model: UNet, part: Part) -> float:
    """The threshold of the best mean Dice on a part."""
    p = probabilities(model, part.images)
    grid = np.round(np.arange(0.05, 1, 0.05), 2)
    return float(max(grid, key=lambda threshold: np.nanmean(dices(p > threshold, part.masks))))
