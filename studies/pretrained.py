"""How much does an encoder trained elsewhere give, at equal seconds of the processor?

- saliency: SD-saliency-900, 80 : 20 by groups of near-duplicates (the same split for all seeds), trained on whole
  resolution; arms `smoke`, `fast` and `pretrained` as shipped but for their number of steps, `noise` (the network of
  `pretrained` without what its encoder learned), and `steel` (from the weights on synthetic steel that travel with the
  library).
- severstal: the 45 real images, five folds that hold clean and defective images in equal shares; each fold is scored by
  a training on the other four. The arm `synthetic` trains on none of them: the weights that travel, as they are.

A training lasts as many steps as fit into `seconds` of this process's processor time on one thread, by the median of
its own first steps; scores are of its last step, at p > ½. Seconds spent in all stand beside.

Measured: mean Dice over images with a defect; the share of clean images with an alarm; for each labelled component the
highest probability in it, and for each clean image the highest anywhere, from which follows how many clean images raise
an alarm at the threshold that finds half of the components.

Prediction: on saliency after 600 s pretrained 0.85, noise 0.78, smoke and fast 0.68 to 0.74; on severstal after 300 s
steel > pretrained > smoke and fast by 0.03 at each step; synthetic as good as smoke. At half of the components found
no arm alarms on less than 20 % of the clean images.

Decision rule: `pretrained` (from `steel` where that is better) becomes the default of `train` if it is above both smoke
and fast on both sets, for every seed there is; with three seeds the 95 % interval of the paired difference over seeds
and images lies above 0.
"""

import time
from functools import cache

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from steelnb import storage
from steelnb.data import dataset
from steelnb.network import inference, pretrained
from steelnb.network.weights import load_network
from steelnb.training import batches
from steelnb.training.recipes import RECIPES, Recipe
from steelnb.training.trainer import Trainer
from studies import compare, runner, steel

HOURS = 9.0
SEVERSTAL = runner.HERE.parents[1] / "shared" / "data" / "severstal"
FOLDS = 5
ARMS = {
    "smoke": ("smoke", {}),
    "fast": ("fast", {}),
    "pretrained": ("pretrained", dict(start="imagenet")),
    "steel": ("pretrained", dict(start="steel")),
    "noise": ("pretrained", dict(start="noise", encoder_rate=1.0)),
}


def cells() -> list[dict]:
    def of(data: str, arms: list[str], seconds: int, seed: int, folds: range) -> list[dict]:
        return [dict(data=data, arm=arm, seconds=seconds, seed=seed, fold=fold) for fold in folds for arm in arms]

    found = of("saliency", ["pretrained", "smoke", "fast"], 60, 0, range(1))  # a first look
    found += of("severstal", ["synthetic"], 0, 0, range(FOLDS))
    for seed in range(3):
        found += of("saliency", ["pretrained", "smoke", "fast"], 600, seed, range(1))
        found += of("severstal", ["pretrained", "steel", "fast", "smoke"], 300, seed, range(FOLDS))
        found += of("saliency", ["steel", "noise"], 600, seed, range(1))
    return found + [c for seed in range(3) for c in of("saliency", ["pretrained"], 1800, seed, range(1))]


def run(setting: dict) -> dict:
    train, held_out = parts(setting["data"], setting["fold"])
    started, steps = time.process_time(), 0
    if setting["arm"] == "synthetic":
        model = load_network(pretrained.STEEL).model
    else:
        name, changes = ARMS[setting["arm"]]
        model, steps = trained(train, RECIPES[name].changed(**changes), setting["seconds"], setting["seed"])
    seconds = time.process_time() - started
    about = {"steps": steps, "processor_seconds": round(seconds)}
    if setting["arm"] in ("synthetic", "steel"):
        about["weights"] = storage.sha256(pretrained.STEEL.read_bytes())[:16]
    return about | scores(model, held_out)


@cache
def parts(name: str, fold: int) -> tuple[dataset.SteelData, dataset.SteelData]:
    """What is trained on and what is scored. Severstal's folds deal out clean and defective images in turn."""
    if name == "saliency":
        data = steel.read("saliency")
        ids = sorted(steel.splits.by_image(data, 0.2, steel.SPLIT_SEED).validation)
    else:
        data = dataset.read_dataset(SEVERSTAL)
        table = data.images.sort_values(["masks", "ImageId"], key=lambda c: c > 0 if c.name == "masks" else c)
        ids = table["ImageId"].tolist()[fold::FOLDS]
    return data.subset(set(data.images["ImageId"]) - {*ids}), data.subset(ids)


def trained(data: dataset.SteelData, recipe: Recipe, seconds: float, seed: int) -> tuple[torch.nn.Module, int]:
    """A network trained for about `seconds` of processor time, in eval mode, and its number of steps."""
    samples = samples_of(data, recipe, seed)
    first = Trainer(recipe, 1, 100, seed, torch.device("cpu"))
    steps = max(20, round(seconds / np.median(list(feed(first, samples, recipe, 8))[2:])))
    return trained_for(samples, recipe, steps, seed), steps


def trained_for(samples, recipe: Recipe, steps: int, seed: int) -> torch.nn.Module:
    """A network trained for `steps` steps on samples of `samples_of`, in eval mode."""
    trainer = Trainer(recipe, 1, steps, seed, torch.device("cpu"))
    for _ in feed(trainer, samples, recipe, steps):
        pass
    return trainer.averaged.eval()


def samples_of(data: dataset.SteelData, recipe: Recipe, seed: int):
    """Training samples of every image: what is scored lies elsewhere."""
    torch.set_num_threads(1)
    items = [batches.Item(image_id) for image_id in data.images["ImageId"]]
    return batches.training_and_validation_samples(data, recipe, seed, (items, items[:1]))[0]


def feed(trainer: Trainer, samples, recipe: Recipe, steps: int):
    """Takes `steps` steps, over as many passes as they need; yields the processor's seconds of each."""
    trainer.begin()
    epoch, taken = 0, 0
    while taken < steps:
        mark = time.process_time()
        for batch in batches.iter_batches(samples, recipe, epoch):
            trainer.step(*batch)
            yield time.process_time() - mark
            mark, taken = time.process_time(), taken + 1
            if taken == steps:
                return
        epoch += 1


def scores(model: torch.nn.Module, data: dataset.SteelData) -> dict:
    dices, found, clean = [], [], []
    for image_id in data.images["ImageId"]:
        p, mask = inference.predict_probabilities(model, data.image(image_id))[0], data.mask(image_id)
        if not mask.any():
            clean.append(round(float(p.max()), 4))
            continue
        dices.append(round(float(2 * (mask & (p > 0.5)).sum() / (mask.sum() + (p > 0.5).sum())), 4))
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        found += np.round(ndimage.maximum(p, labels, range(1, count + 1)), 4).tolist()
    alarms = float(np.mean(np.array(clean) > 0.5)) if clean else None
    return {"dice": round(float(np.mean(dices)), 4), "alarms": alarms, "image_dices": dices,
            "defect_peaks": found, "clean_peaks": clean}


# ---- what came out


def whole(records: pd.DataFrame) -> pd.DataFrame:
    """A row per data, arm, seconds and seed, the folds together."""
    rows = []
    for names, group in records.groupby(["data", "arm", "seconds", "seed"]):
        group = group.sort_values("fold")
        dices, peaks, clean = (np.concatenate([np.array(each, float) for each in group[column]])
                               for column in ("image_dices", "defect_peaks", "clean_peaks"))
        rows.append(dict(zip(("data", "arm", "seconds", "seed"), names, strict=True)) | {
            "folds": len(group), "image_dices": dices.tolist(), "dice": dices.mean(),
            "alarms": (clean > 0.5).mean() if len(clean) else np.nan,
            "alarms_at_half": (clean > np.median(peaks)).mean() if len(clean) else np.nan,
            "steps": group["steps"].mean(), "processor_seconds": group["processor_seconds"].mean(),
        })
    return pd.DataFrame(rows)


def summary(records: pd.DataFrame) -> str:
    found = whole(records)
    lines = []
    for data, of in found.groupby("data", sort=False):
        full = of[of["folds"] == (FOLDS if data == "severstal" else 1)]
        best = full.loc[full["dice"].idxmax()] if len(full) else None
        if best is not None:
            lines.append(f"{data}: the highest Dice is {best['dice']:.3f}, of {best['arm']}, "
                         f"{best['seconds']:.0f} s, seed {best['seed']}.")
    lines += ["", "| data | arm | seconds | seeds (folds) | steps | Dice of defective images | clean images with "
              "an alarm at ½ | … where half of the defects are found | less fast's Dice |",
              "|---" * 9 + "|"]
    for names, of in found.groupby(["data", "arm", "seconds"], sort=False):
        data, arm, seconds = names
        share = [("–" if of[c].isna().all() else compare.mean_range(of[c])) for c in ("alarms", "alarms_at_half")]
        lines.append(f"| {data} | {arm} | {seconds} | {len(of)} ({of['folds'].sum()}) | {of['steps'].mean():.0f} | "
                     f"{compare.mean_range(of['dice'])} | {share[0]} | {share[1]} | {_less(found, *names)} |")
    return "\n".join(lines)


def _less(found: pd.DataFrame, data: str, arm: str, seconds: int) -> str:
    at = found[(found["data"] == data) & (found["seconds"] == seconds)]
    pair = [at[at["arm"] == name].set_index("seed")["image_dices"] for name in (arm, "fast")]
    common = [seed for seed in pair[0].index.intersection(pair[1].index) if len(pair[0][seed]) == len(pair[1][seed])]
    if arm == "fast" or not common:
        return "–"
    return str(compare.over_seeds_and_images(pair[0][common], pair[1][common]))
