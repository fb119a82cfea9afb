"""Which of the 16 losses is best on steel, at which budget, by ranking and by threshold?

A U-Net of width 4 and depth 2 (padding "same", 7,557 weights) learns by AdamW (rate 1e-2 falling to 0, batches of 4)
from 540 images of SD-saliency-900, or from 400 crops of synthetic steel of which half are clean, in budgets of 80, 320,
640 and 1280 steps, each a training of its own. The seed decides first weights and order, so that all losses of a seed
start from one network and see one order. Measured on *report* (180 images, 400 crops): average precision of the pixels
(ranking alone), mean Dice at p > 1/2 and at the threshold that was best on *choose*, and on synthetic steel the share
of clean crops with an alarm at the threshold where 9 in 10 defective crops of *choose* have one.

Plateau: the last doubling, 640 → 1280, gains less than 0.005 in average precision, mean over seeds; where it gains more
for one of the losses compared, 2560 steps are added behind the grid.

Prediction: at the plateau all are the same by ranking and at the chosen threshold; at p > 1/2
`weighted_bce` is behind by more than 0.02, `bce` and `focal` by less than 0.02; at 80 steps the overlap losses lead at
p > 1/2 by 0.1 and more, and by less than half of that at the chosen threshold. Alarms at equal recall: no loss differs
from `dice_bce` by more than 10 points.
Decision rule: two losses are "the same" where the 95 % interval of their paired difference in Dice at the chosen
threshold (over seeds and images) lies within ±0.02. The best is the loss with the highest mean over both data sets at
the largest budget; the recipes' default, `dice_bce`, stays if on both data sets it is the same as the best, or its
Dice at p > 1/2 is within 0.02 of the best one's there; else the best one takes its place, of those that are the same as
the best the one with the highest Dice at p > 1/2.
"""

import pandas as pd

from steelnb.losses import LOSSES
from studies import compare, steel

HOURS = 2.0
KEY = ("dice_bce", "bce", "dice", "focal", "batch_dice", "tversky")
OTHERS = (
    "weighted_bce", "topk_bce", "original_dice", "squared_dice", "log_dice", "generalised_dice", "focal_tversky",
    "lovasz_hinge", "dice_focal", "dice_boundary",
)
DATA = ("saliency", "synthetic")
BUDGETS = (80, 320, 640, 1280)
GAIN = 0.005  # less than this in average precision by the last doubling: the plateau


def cells() -> list[dict]:
    def grid(losses, budgets, seeds) -> list[dict]:
        return [{"data": data, "loss": loss, "steps": steps, "seed": seed}
                for seed in seeds for data in DATA for loss in losses for steps in budgets]

    return [*grid(KEY, (80, 640), range(3)), *grid(KEY, (1280,), range(3)), *grid(OTHERS, (1280,), range(3)),
            *grid(OTHERS, (80, 640), range(3)), *grid(KEY, (320,), range(3)), *grid(KEY, BUDGETS, range(3, 5)),
            *grid(OTHERS, (320,), range(3)), *grid(OTHERS, BUDGETS, range(3, 5))]


def run(setting: dict) -> dict:
    parts = steel.parts(setting["data"])
    network = steel.train(LOSSES[setting["loss"]], parts.train, setting["steps"], setting["seed"])
    return steel.measured(network, parts.choose, parts.report)


def summary(records: pd.DataFrame) -> str:
    found = [_answer(records)]
    for data, rows in records.groupby("data", sort=True):
        steps = _largest(rows)
        found.append(f"**{data}**, differences from `dice_bce` at {steps} steps, 95 %, paired over seeds and images:")
        found.append(_table(rows, steps))
    return "\n\n".join(found)


def _largest(rows: pd.DataFrame) -> int:
    """The largest budget that every key loss has been given."""
    budgets = [set(rows.loc[rows["loss"] == loss, "steps"]) for loss in KEY]
    return int(max(set.intersection(*budgets) or set(rows["steps"])))


def _table(rows: pd.DataFrame, steps: int) -> str:
    first = rows[rows["steps"] == 80].set_index(["loss", "seed"])
    last = rows[rows["steps"] == steps].set_index(["loss", "seed"])
    losses = last.groupby("loss")["dice_chosen"].mean().sort_values(ascending=False).index
    clean = "alarms" in last and last["alarms"].notna().any()
    head = ["loss", "seeds", "80 steps: p > ½", "chosen", f"{steps} steps: AP", "p > ½", "chosen", "against dice_bce",
            "last doubling, AP", *(["alarms at 90 % found"] if clean else [])]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for loss in losses:
        at = last.loc[loss]
        early = [compare.mean_range(first.loc[loss][name]) if loss in first.index else "–"
                 for name in ("dice_half", "dice_chosen")]
        gain = "–"
        if "dice_bce" in last.index and loss != "dice_bce":
            difference = compare.over_seeds_and_images(at["image_dices"], last.loc["dice_bce"]["image_dices"])
            gain = f"{difference}{' same' if difference.same else ''}"
        half = rows[(rows["steps"] == steps // 2) & (rows["loss"] == loss)].set_index("seed")["ap"]
        doubling = (at["ap"] - half).dropna()
        late = [compare.mean_range(at[name]) for name in ("ap", "dice_half", "dice_chosen")]
        row = [f"`{loss}`", str(len(at)), *early, *late, gain, f"{doubling.mean():+.3f}" if len(doubling) else "–"]
        lines.append("| " + " | ".join(row + ([f"{at['alarms'].mean():.0%}"] if clean else [])) + " |")
    return "\n".join(lines)


def _standing(records: pd.DataFrame) -> str:
    """Whether the budgets so far reach the plateau, for the key losses; nothing where they do."""
    told = []
    for data, rows in records[records["loss"].isin(KEY)].groupby("data"):
        steps = _largest(rows)
        at = rows.set_index(["loss", "seed", "steps"])["ap"].unstack()
        gain = (at[steps] - at[steps // 2]).groupby("loss").mean() if steps // 2 in at else pd.Series([float("nan")])
        if not (gain < GAIN).all():
            most = f"the last doubling gained up to {gain.max():+.3f}"
            told.append(f"{data} at {steps} steps: {'no doubling is recorded' if gain.isna().all() else most}")
    return f"Provisional, before the plateau ({'; '.join(told)}). " if told else ""


def _answer(records: pd.DataFrame) -> str:
    """Two lines: the best and those that are the same; what the default should be."""
    last = {data: rows[rows["steps"] == _largest(rows)].set_index(["loss", "seed"])
            for data, rows in records.groupby("data")}
    chosen, half, ranking = (
        pd.DataFrame({data: rows.groupby("loss")[name].mean() for data, rows in last.items()}).dropna()
        for name in ("dice_chosen", "dice_half", "ap")
    )
    if len(last) < len(DATA) or not {*KEY} <= {*chosen.index}:
        return "No answer yet: the key losses are not recorded on both data sets."
    mean = chosen.mean(axis=1)
    best = mean.idxmax()
    same = {data: {loss for loss in mean.index if loss != best and compare.over_seeds_and_images(
                   rows["image_dices"].loc[loss], rows["image_dices"].loc[best]).same} for data, rows in last.items()}
    tied = sorted(set.intersection(*same.values()))
    stays = best == "dice_bce" or all(
        "dice_bce" in same[data] or half[data]["dice_bce"] > half[data][best] - compare.SAME for data in last
    )
    choice = half.mean(axis=1)[[best, *tied]].idxmax()
    standing = _standing(records)
    verdict = "`dice_bce` stays the default" if stays else f"`{choice}` should be the default instead of `dice_bce`"
    at_half = "; ".join(f"{data} {half[data]['dice_bce']:.3f} and {half[data][best]:.3f}" for data in last)
    ranked = "; ".join(f"{data} `{by.idxmax()}` {by.max():.3f}" for data, by in ranking.items())
    same_as_best = ", ".join(f"`{name}`" for name in tied) or "none"
    return (
        f"{standing}Of {len(mean)} losses `{best}` is best by Dice at the chosen threshold, {mean[best]:.3f} as the "
        f"mean of both data sets (`dice_bce` {mean['dice_bce']:.3f}, last `{mean.idxmin()}` {mean.min():.3f}); the "
        f"same as the best on both: {same_as_best}. Best by average precision: {ranked}.\n"
        f"By the rule{', so far,' if standing else ''} {verdict}; Dice at p > ½ of `dice_bce` and the best: {at_half}."
    )
