"""How many labelled images do you need, from noise, from ImageNet and from synthetic steel?

SD-saliency-900, whole resolution: of the 540 images of *train* the first 1, 5, 20, 90, 360 or all in an order that the
seed decides, so that a larger number holds the smaller ones. The network and recipe `pretrained` as shipped, but for
crops of 96 × 96 pixels in batches of 4 and a number of steps, one cycle each: 160, 640 and 2560. Arms: `noise` (random
weights, one rate for all layers), `imagenet` (the encoder's weights), `steel` (from the weights on synthetic steel that
travel with the library). Without any label only `steel` says anything: its weights as they are.

Measured on *report*, 180 images, whole: mean Dice at p > 1/2 and at the threshold of *choose*, average precision. Of
the budgets an arm and number of images takes the one with the highest Dice on *choose* at p > 1/2. Whoever has five
labelled images has no 180 to choose on: p > 1/2 is what they get, the rest is what a good choice would add.

Prediction: at p > 1/2 with 1, 5, 20, 90, 360 and 540 images noise reaches 0.15, 0.35, 0.5, 0.65, 0.75 and 0.77,
imagenet 0.3, 0.5, 0.65, 0.75, 0.82 and 0.83, and steel 0.4, 0.6, 0.7, 0.76, 0.82 and 0.83, 0.3 without any. So the
start matters most where labels are few: with 20 images, what noise needs 90 for.

Decision rule: "with N images you get what noise needs M for" is said for a start and N where the 95 % interval of its
paired difference from noise with N images (seeds and images) lies above 0; M is then read off the straight lines
between noise's points over the logarithm of the number. `steel` is recommended as the start for N images where its
interval against imagenet lies above -0.02.
"""

from functools import cache

import numpy as np
import pandas as pd
import torch

from steelnb.data import dataset
from steelnb.evaluation.metrics import average_precision
from steelnb.network import inference, pretrained
from steelnb.network.weights import load_network
from steelnb.training.recipes import PRETRAINED
from studies import compare, steel
from studies import pretrained as equal_seconds

HOURS = 5.0
NUMBERS, BUDGETS = (1, 5, 20, 90, 360, 540), (160, 640, 2560)
ARMS = {"noise": dict(start="noise", encoder_rate=1.0), "imagenet": dict(start="imagenet"), "steel": {}}


def cells() -> list[dict]:
    none = [{"arm": "steel", "images": 0, "steps": 0, "seed": 0}]
    return none + [{"arm": arm, "images": images, "steps": steps, "seed": seed}
                   for budgets in (BUDGETS[:2], BUDGETS[2:]) for seed in range(3) for steps in budgets
                   for images in NUMBERS for arm in ARMS]


def run(setting: dict) -> dict:
    train, choose, report = parts()
    if setting["images"]:
        order = np.random.default_rng(setting["seed"]).permutation(sorted(train.images["ImageId"]))
        some = train.subset(order[: setting["images"]].tolist())
        recipe = PRETRAINED.changed(crop=(96, 96), batch=4, **ARMS[setting["arm"]])
        samples = equal_seconds.samples_of(some, recipe, setting["seed"])
        model = equal_seconds.trained_for(samples, recipe, setting["steps"], setting["seed"])
    else:
        model = load_network(pretrained.STEEL).model
    (to_choose, masks), (to_report, truth) = outputs(model, choose), outputs(model, report)
    threshold = steel.best_threshold(to_choose, masks)
    half = steel.dices(to_report > 0, truth)
    numbers = {
        "choose_half": float(steel.dices(to_choose > 0, masks).mean()),
        "dice_half": float(half.mean()),
        "dice_chosen": float(steel.dices(to_report > threshold, truth).mean()),
        "ap": average_precision(to_report.ravel(), truth.ravel()),
    }
    return {k: round(v, 5) for k, v in numbers.items()} | {"image_dices": [round(float(d), 3) for d in half]}


@cache
def parts() -> list[dataset.SteelData]:
    return steel.three(steel.read("saliency"))


def outputs(model: torch.nn.Module, data: dataset.SteelData) -> tuple[np.ndarray, np.ndarray]:
    """Logits and masks of all images, which have one size: float32 and bool [N, pixels]."""
    torch.set_num_threads(1)
    p = np.stack([inference.predict_probabilities(model, data.image(i))[0] for i in data.images["ImageId"]])
    masks = np.stack([data.mask(i) for i in data.images["ImageId"]])
    p = np.clip(p.astype(np.float64), 1e-9, 1 - 1e-9)
    return np.log(p / (1 - p)).reshape(len(p), -1).astype(np.float32), masks.reshape(len(p), -1)


# ---- what came out

def plateaus(records: pd.DataFrame) -> pd.DataFrame:
    """A row per arm, number of images and seed: the budget that is best on *choose*."""
    best = records.groupby(["arm", "images", "seed"], sort=False)["choose_half"].idxmax()
    return records.loc[best].reset_index(drop=True)


def against(found: pd.DataFrame, arm: str, other: str, images: int) -> compare.Difference:
    of = found[found["images"] == images].set_index("seed")
    return compare.over_seeds_and_images(*(of.loc[of["arm"] == name, "image_dices"] for name in (arm, other)))


def needed(found: pd.DataFrame, dice: float) -> str:
    """The number of images with which `noise` reaches this Dice, by straight lines over the logarithm."""
    curve = found[found["arm"] == "noise"].groupby("images")["dice_half"].mean()
    curve = curve[curve.index > 0].cummax()
    if curve.empty or dice > curve.iloc[-1]:
        return f"more than {curve.index[-1]}" if len(curve) else "unknown"
    if dice <= curve.iloc[0]:
        return f"at most {curve.index[0]}"
    return f"about {float(f'{np.exp(np.interp(dice, curve, np.log(curve.index))):.2g}'):.0f}"


def summary(records: pd.DataFrame) -> str:
    found = plateaus(records)
    answers, lines = [], []
    for images, of in found.sort_values("images", kind="stable").groupby("images"):
        told = {arm: compare.mean_range(of.loc[of["arm"] == arm, "dice_half"]) for arm in ARMS}
        gains = {arm: against(found, arm, "noise", images) for arm in ("imagenet", "steel")}
        better = against(found, "steel", "imagenet", images)
        for arm, gain in gains.items():
            if gain.low > 0:
                dice = of.loc[of["arm"] == arm, "dice_half"].mean()
                labelled = f"{images} labelled image{'s' * (images > 1)}"
                wanted = needed(found, dice)
                answers.append(f"With {labelled} `{arm}` reaches {dice:.2f}, what noise needs {wanted} for.")
        chosen, budget = (of.groupby("arm")[column].mean() for column in ("dice_chosen", "steps"))
        row = [str(images)]
        for arm in ARMS:
            row.append(f"{told[arm]} [{chosen[arm]:.3f}; {budget[arm]:.0f}]" if arm in chosen else "–")
        lines.append(f"| {' | '.join(row)} | {'–' if better.seeds < 2 else better} |")
    return "\n".join([*(answers or ["No difference from noise is shown yet."]), "",
                      "Dice of images with a defect at p > ½, mean (least–most of the seeds) [at the threshold of "
                      "*choose*; mean number of steps of the budget taken]:", "",
                      f"| labelled images | {' | '.join(ARMS)} | steel less imagenet |", "|---" * (len(ARMS) + 2) + "|",
                      *lines])
