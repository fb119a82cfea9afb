"""What does forgetting one part of the state at a restart do to the final Dice?

A U-Net of width 4 and depth 2 learns 320 steps (2.4 epochs of batches of 4, Dice + BCE, one cycle, moving average of
decay 0.98, which is what is scored) from SD-saliency-900 shrunk by 4, with AdamW (rate 1e-2) or SGD of momentum 0.99
(rate 1e-2, the original's kind). At the cut, after half of the steps or 24 before the end, training stops, one part of
`Trainer.state()` takes the value that it has in a new program, and training takes the steps that are left. Nine cuts:

- nothing; optimizer (moments and momenta); schedule (begins its cycle again); position (the epoch is seen again from
  the order of the first); random (all generators; batches follow from seed, epoch and index);
- usual random (the same where batches are drawn from torch's global generator, seeded at the top of the program, beside
  an undisturbed training of that kind); average (starts again from the weights); statistics (the running means and
  variances of the batch norms); all but the weights.

Measured on *report*: mean Dice at p > 1/2 and at the threshold of *choose*, average precision; and whether all weights
are the same to the last bit.

Prediction: nothing and random: the same bits. Of the others only two change the final Dice at p > 1/2 by more than
0.02: schedule and all but the weights, which end in mid-cycle at a high rate (both cuts: −0.02 to −0.06, SGD more).
Statistics cost more than 0.1 at the late cut and nothing at the early one; optimizer, position, average and usual
random stay within ±0.02. So a checkpoint of weights alone costs Dice through the schedule, not through the moments.

Decision: a part *matters* where the 95 % interval of the paired change in Dice at p > 1/2 (t over ten seeds) lies
wholly beyond ±0.02, is *harmless* where it lies within, else *open*. What matters at either cut with either optimizer
has to be in every checkpoint; what is harmless everywhere is kept for the same bits, and documentation says so.
"""

import copy

import numpy as np
import pandas as pd
import torch

from steelnb.training.recipes import SMOKE, Recipe
from steelnb.training.trainer import Trainer
from studies import compare, steel

HOURS = 0.3
STEPS, BATCH = 320, 4
CUTS = {"half": STEPS // 2, "late": STEPS - 24}
FORGOTTEN = {
    "nothing": (), "optimizer": ("optimizer",), "schedule": ("scheduler",), "position": ("epoch", "seen"),
    "random": ("random",), "usual random": ("random",), "average": ("average",), "statistics": (),
    "all but the weights": ("average", "optimizer", "scheduler", "scaler", "random", "epoch", "seen", "step"),
}
CPU = torch.device("cpu")


def cells() -> list[dict]:
    return [{"optimizer": optimizer, "cut": cut, "seed": seed}
            for seed in range(10) for cut in CUTS for optimizer in ("adamw", "sgd")]


def run(setting: dict) -> dict:
    recipe, cut, seed = recipe_of(setting["optimizer"]), CUTS[setting["cut"]], setting["seed"]
    parts, arms = steel.parts("saliency"), {}
    for usual in (False, True):
        state, undisturbed = interrupted(recipe, parts.train, cut, seed, usual)
        wanted = undisturbed.averaged.state_dict()
        arms["undisturbed, usual batches" if usual else "undisturbed"] = steel.measured(
            undisturbed.averaged, parts.choose, parts.report
        )
        for name in FORGOTTEN:
            if (name == "usual random") == usual:
                trainer = resumed(recipe, state, name, seed)
                trained(trainer, parts.train, cut, STEPS, seed, usual)
                arms[name] = steel.measured(trainer.averaged, parts.choose, parts.report)
                there = trainer.averaged.state_dict()
                arms[name]["same_bits"] = all(torch.equal(wanted[key], there[key]) for key in wanted)
    for numbers in arms.values():
        del numbers["image_dices"]
    return {"arms": arms}


def recipe_of(optimizer: str) -> Recipe:
    """The smoke recipe, small, with a moving average; `padding` "same", so that images are windows."""
    how = {"adamw": dict(learning_rate=1e-2), "sgd": dict(learning_rate=1e-2, momentum=0.99)}[optimizer]
    model = dict(width=4, depth=2, padding="same")
    return SMOKE.changed(model=model, optimizer=optimizer, weight_decay=0.0, ema=0.98, **how)


def interrupted(recipe: Recipe, crops: steel.Crops, cut: int, seed: int, usual: bool) -> tuple[dict, Trainer]:
    """The state at the cut, and the trainer after all steps, never stopped."""
    trainer = Trainer(recipe, 1, STEPS, seed, CPU)
    trained(trainer, crops, 0, cut, seed, usual)
    state = copy.deepcopy(trainer.state())
    trained(trainer, crops, cut, STEPS, seed, usual)
    return state, trainer


def resumed(recipe: Recipe, state: dict, forgotten: str, seed: int) -> Trainer:
    """A new trainer restored from `state`, except for the forgotten part."""
    trainer = Trainer(recipe, 1, STEPS, seed, CPU)
    fresh = copy.deepcopy(trainer.state())
    state = copy.deepcopy(state)
    for key in FORGOTTEN[forgotten]:
        if key == "average":
            state["average"] = copy.deepcopy(state["model"])
        else:
            state[key] = fresh[key]
    if forgotten == "statistics":
        for network in ("model", "average"):
            state[network] |= {key: value for key, value in fresh[network].items() if ".running_" in key}
    trainer.restore(state)
    return trainer


def trained(trainer: Trainer, crops: steel.Crops, first: int, last: int, seed: int, usual: bool) -> None:
    """Takes the steps from `first` to `last`; the order follows from seed, epoch and place in it, unless `usual`."""
    trainer.begin()
    for _ in range(first, last):
        if usual:
            chosen = torch.randint(len(crops.images), (BATCH,)).tolist()
        else:
            if trainer.seen + BATCH > len(crops.images):
                trainer.epoch, trainer.seen = trainer.epoch + 1, 0
            order = np.random.default_rng([seed, trainer.epoch]).permutation(len(crops.images))
            chosen = order[trainer.seen : trainer.seen + BATCH].tolist()
        trainer.step(crops.images[chosen], crops.masks[chosen], 1.0, BATCH)


# ---- what came out

def changes(records: pd.DataFrame, number: str = "dice_half") -> pd.DataFrame:
    """A row per optimizer, cut and forgotten part: the paired change over seeds; how often all bits are equal."""
    rows = []
    for (optimizer, cut), cells_of in records.groupby(["optimizer", "cut"], sort=False):
        arms = cells_of.set_index("seed")["arms"]
        for name in FORGOTTEN:
            beside = "undisturbed, usual batches" if name == "usual random" else "undisturbed"
            values, base = (arms.map(lambda each, key=key: each[key][number]) for key in (name, beside))
            difference = compare.over_seeds(values, base)
            same_bits = arms.map(lambda each, key=name: each[key]["same_bits"]).mean()
            said = {"optimizer": optimizer, "cut": cut, "forgotten": name, "verdict": verdict(difference)}
            rows.append(said | {"change": difference, "undisturbed": base.mean(), "same_bits": same_bits})
    return pd.DataFrame(rows)


def verdict(difference: compare.Difference) -> str:
    if difference.same or difference.mean == difference.low == difference.high == 0:
        return "harmless"
    beyond = difference.high < -compare.SAME or difference.low > compare.SAME
    return "matters" if beyond else "open"


def summary(records: pd.DataFrame) -> str:
    found, chosen = changes(records), changes(records, "dice_chosen")
    of = found.groupby("forgotten", sort=False)["verdict"]
    matters = [name for name, said in of if (said == "matters").any()]
    harmless = [name for name, said in of if (said == "harmless").all()]
    bits = [name for name, share in found.groupby("forgotten", sort=False)["same_bits"] if (share == 1).all()]
    worst = found.loc[found["change"].map(lambda each: each.mean).idxmin()]
    lines = [
        f"Forgetting matters for {', '.join(matters) or 'no part'}; worst: {worst['forgotten']} ({worst['optimizer']}, "
        f"{worst['cut']} cut), {worst['change']} in Dice at p > ½.",
        f"Harmless everywhere: {', '.join(harmless) or 'none'}; the same to the last bit: "
        f"{', '.join(bits) or 'none'}.",
        "",
        f"Change of final Dice at p > ½ (95 %, paired over {records['seed'].nunique()} seeds); in brackets that at the "
        "chosen threshold:",
        "",
    ]
    base = found.groupby(["optimizer", "cut"], sort=False)["undisturbed"].first()
    columns = list(base.index)  # in the order of the records; that of `.groups` depends on pandas
    lines += ["| forgotten | " + " | ".join(f"{o}, {c} (Dice {base[o, c]:.3f})" for o, c in columns) + " |",
              "|---" * (len(columns) + 1) + "|"]
    for name in FORGOTTEN:
        told = []
        for optimizer, cut in columns:
            at = (found["forgotten"] == name) & (found["optimizer"] == optimizer) & (found["cut"] == cut)
            row, other = found[at].iloc[0], chosen[at].iloc[0]["change"].mean
            told.append("same bits" if row["same_bits"] == 1 else f"{row['change']} [{other:+.3f}] {row['verdict']}")
        lines.append(f"| {name} | " + " | ".join(told) + " |")
    return "\n".join(lines)
