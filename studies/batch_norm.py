"""How much of the original's gap between training and validation is its batch norm in batches of two?

The original normalised in the encoder alone, in batches of 2. In training mode a batch norm uses the statistics of the
batch; in eval mode, running means over the last batches; "recalibrated" means over 100 batches of the training part,
taken with the final weights. A U-Net of width 6 and depth 2 (padding "same", norm "encoder") learns the original's Dice
loss by the original's SGD (rate 1e-3, momentum 0.99) from a third of SD-saliency-900's training part (180 images, so
that a gap opens) for 40 epochs, in batches of 2 or of 16 (the same images per epoch; the rate times 8, so that an image
counts the same). Dice of each image at p > 1/2, in each mode, on 180 training images and 180 of *report*; training mode
in batches of the size trained with.

The gap is Dice on the training images less Dice on *report*. What batch norm explains of it is the gap in eval mode
less the gap with one mode on both sides that is free of running statistics: recalibrated.

Prediction: the gap in eval mode with batches of 2 is 0.05 to 0.15; recalibrating changes Dice on either part by less
than 0.02 and the gap by less than 0.02; training mode in batches of 2 is worse than eval mode by 0.02 to 0.05 on both
parts alike, so it hides nothing of the gap; batches of 16 have the same gap within ±0.03.
Decision rule: README's "overfitting by elimination" stands where the 95 % interval (paired over seeds, five) of the gap
with recalibrated statistics less the gap in eval mode lies within ±0.02, and that of batches of 16 against 2 within
±0.05. It falls where recalibration or the larger batch closes more than half of the gap.
"""

import copy

import numpy as np
import pandas as pd
import torch

from steelnb.losses import LOSSES
from steelnb.network.unet import UNet
from studies import compare, steel

HOURS = 0.4
EPOCHS, IMAGES = 40, 180
MODES = ("train", "eval", "recalibrated")


def cells() -> list[dict]:
    return [{"batch": batch, "seed": seed} for seed in range(5) for batch in (2, 16)]


def run(setting: dict) -> dict:
    parts, batch, seed = steel.parts("saliency"), setting["batch"], setting["seed"]
    chosen = np.random.default_rng(0).permutation(len(parts.train.images))[:IMAGES]
    training = steel.Crops(parts.train.images[chosen], parts.train.masks[chosen])
    torch.manual_seed(seed)
    network, rng = UNet(width=6, depth=2, norm="encoder", padding="same"), np.random.default_rng(seed)
    stepper = torch.optim.SGD(network.parameters(), 1e-3 * batch / 2, 0.99)
    curve = []
    for epoch in range(EPOCHS):
        for order in np.array_split(rng.permutation(IMAGES), max(1, IMAGES // batch)):
            loss = LOSSES["original_dice"](network(training.images[order].float() / 255), training.masks[order])
            stepper.zero_grad()
            loss.backward()
            stepper.step()
        if (epoch + 1) % 10 == 0:
            dices = {"training": _dice(network, training), "report": _dice(network, parts.report)}
            curve.append({"epoch": epoch + 1, **dices})
    numbers = {"curve": curve}
    for part, crops in (("training", training), ("report", parts.report)):
        numbers[f"{part}_eval"] = _dice(network, crops)
        numbers[f"{part}_train"] = _in_training_mode(network, crops, batch)
        numbers[f"{part}_recalibrated"] = _dice(recalibrated(network, training, batch), crops)
    return numbers


def _dice(network: UNet, crops: steel.Crops) -> float:
    return _mean(steel.logits(network, crops), crops)


def _mean(logits: np.ndarray, crops: steel.Crops) -> float:
    return round(float(steel.dices(logits > 0, crops.masks.flatten(1).numpy()).mean()), 5)


def _in_training_mode(network: UNet, crops: steel.Crops, batch: int) -> float:
    """With each batch's own statistics; on a copy, whose running ones may move."""
    moved = copy.deepcopy(network).train()
    with torch.no_grad():
        found = [moved(images.float() / 255).flatten(1) for images in crops.images.split(batch)]
    return _mean(torch.cat(found).numpy(), crops)


def recalibrated(network: UNet, crops: steel.Crops, batch: int, batches: int = 100) -> UNet:
    """A copy whose statistics are plain means over so many random batches."""
    again, rng = copy.deepcopy(network).train(), np.random.default_rng(0)
    for module in again.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over all batches
    with torch.no_grad():
        for _ in range(batches):
            again(crops.images[rng.choice(len(crops.images), batch, replace=False)].float() / 255)
    return again.eval()


def summary(records: pd.DataFrame) -> str:
    at = records.set_index(["batch", "seed"])
    gaps = {mode: at[f"training_{mode}"] - at[f"report_{mode}"] for mode in MODES}
    lines = []
    for batch in sorted(set(records["batch"])):
        for mode in MODES:
            of, gap = at.loc[batch], gaps[mode].loc[batch]
            against = "–" if mode == "eval" else compare.over_seeds(gap, gaps["eval"].loc[batch])
            lines.append(f"| {batch} | {mode} | {len(of)} | {compare.mean_range(of[f'training_{mode}'])} | "
                         f"{compare.mean_range(of[f'report_{mode}'])} | {gap.mean():+.3f} | {against} |")
    head = ("| batch | statistics | seeds | Dice, training images | Dice, *report* | gap | gap less that in eval mode "
            "(95 %, seeds) |\n|---|---|---|---|---|---|---|")
    return "\n".join([_answer(gaps, set(records["batch"])), "", head, *lines])


def _answer(gaps: dict[str, pd.Series], batches: set[int]) -> str:
    if not {2, 16} <= batches:
        return "No answer yet: batches of 2 and of 16 are both needed."
    gap = gaps["eval"].loc[2]
    again = compare.over_seeds(gaps["recalibrated"].loc[2], gap)
    larger = compare.over_seeds(gaps["eval"].loc[16], gap)
    falls = -again.mean > gap.mean() / 2 or -larger.mean > gap.mean() / 2
    stands = again.same and larger.low > -0.05 and larger.high < 0.05
    verdict = "falls" if falls else "stands" if stands else "is neither confirmed nor refuted"
    return (
        f"With batches of 2 the gap in eval mode is {gap.mean():+.3f}; recalibrated statistics change it by {again}, "
        f"batches of 16 by {larger}.\n\"Overfitting by elimination\" {verdict}; seeds: {again.seeds}."
    )
