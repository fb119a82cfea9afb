"""Is recipe `fast` faster than `original` once both have a fair learning rate, and which change matters?

In small: SD-saliency-900 shrunk by 4 to 48 × 48 pixels, width 4, depth 2, everything else as in the recipes.

- original: whole images in batches of 2, skewed geometry (`geometry`), batch norm in the encoder alone, Dice loss, SGD
  of momentum 0.99, a constant rate of 1e-3 … 1e-1, 2560 steps scored on the way;
- fast: crops of 16 (64 of the original image) in batches of 4, three in four on a defect, flips, exact geometry, batch
  norm everywhere, Dice + BCE, moving average of decay 0.98, AdamW, one cycle up to 4e-3 or 1.6e-2, a training a budget;
- nesterov: fast with Nesterov SGD of momentum 0.9, one cycle up to 0.05 … 0.2;
- plain: a same-padding U-Net, crops of 16 in batches of 4, half on a defect, flips, Dice + BCE, AdamW, one cycle.
- fast less one thing, 1280 steps at 4e-3: see `LESS`.

Measured on *report*: mean Dice at p > 1/2 and at the threshold of *choose*, average precision. Cost: multiply-adds of
the forward passes (a third of a training's, for all alike), which no busy machine changes; the processor's seconds
stand beside them. Rate, and the point of a curve, are those of the highest Dice on *choose* at its chosen threshold.

Prediction: the original's best rate is 1e-2, its Dice at the chosen threshold within 0.05 of fast's at the plateau;
fast reaches 50 and 80 % of the original's best for a tenth of its multiply-adds, 95 % for a fifth. Plain is the same as
fast in the end, for a third of the cost a step (no margins): so the speed is that of crops and AdamW, not of valid
convolutions. Nesterov is the same as AdamW. Of the single changes only crops and the optimizer cost more than 0.02.

Decision: fast keeps its name if it reaches 95 % of the original's best, at the original's best rate, for at most half
the multiply-adds, for every seed. If plain reaches the same for fewer still and ends the same as fast (95 % interval of
the paired difference, seeds and images, within ±0.02, or above 0), README recommends plain padding wherever seamless
tiles are not needed. A single change matters where the interval of its difference from fast lies beyond 0.
"""

import time

import numpy as np
import pandas as pd
import torch

from steelnb.network.unet import UNet, cost
from steelnb.training.recipes import FAST, ORIGINAL, Recipe
from steelnb.training.trainer import Trainer
from studies import compare, geometry, steel

HOURS = 0.6
CROP, LONG = 16, 2560
SMALL = dict(width=4, depth=2)
FIRST = FAST.changed(model=SMALL, crop=(CROP, CROP), compile=False)
LESS = {  # fast less one thing
    "AdamW: SGD 0.99 at 1e-2": dict(optimizer="sgd", momentum=0.99, learning_rate=1e-2),
    "one cycle": dict(schedule="constant"),
    "crops: whole images": dict(crop=None),
    "crops on defects": dict(on_defect=0.0),
    "flips": dict(flips=False),
    "moving average": dict(ema=0.0),
    "BCE beside Dice": dict(loss="original_dice"),
    "batch norm in the decoder": dict(model=SMALL | {"norm": "encoder"}),
    "batches of 4: of 2": dict(batch=2),
}
SHARES = (0.5, 0.8, 0.95)
RATES = {"original": (1e-2, 1e-3, 1e-1, 3e-3, 3e-2), "fast": (4e-3, 1.6e-2), "nesterov": (0.05, 0.2),
         "plain": (4e-3, 1.6e-2)}


def cells() -> list[dict]:
    def grid(arms: tuple, budgets: tuple, seeds: range, first: int, last: int) -> list[dict]:
        return [{"arm": arm, "rate": rate, "steps": steps, "seed": seed}
                for seed in seeds for arm in arms for steps in ((LONG,) if arm == "original" else budgets)
                for rate in RATES[arm][first:last]]

    less = [{"arm": f"less {name}", "rate": 4e-3, "steps": 1280, "seed": seed} for seed in range(3) for name in LESS]
    key, main, budgets = ("original", "fast", "plain"), tuple(RATES), (80, 320, 1280)
    return [*grid(key, budgets, range(3), 0, 1), *grid(("original",), (), range(3), 1, 3),
            *grid(key[1:], budgets, range(3), 1, 2), *grid(("nesterov",), budgets, range(3), 0, 2), *less,
            *grid(("original",), (), range(3), 3, 5), *grid(main[1:], (160, 640, 2560), range(3), 0, 2),
            *grid(main, budgets, range(3, 5), 0, 3), *grid(("original",), (), range(3, 5), 3, 5),
            *grid(main[1:], (160, 640, 2560), range(3, 5), 0, 2)]


def run(setting: dict) -> dict:
    arm, steps, seed = setting["arm"], setting["steps"], setting["seed"]
    recipe, parts = recipe_of(arm, setting["rate"]), steel.parts("saliency")
    at = {80 * 2**k for k in range(6)} if arm == "original" else {steps}
    trainer, curve, seconds = Trainer(recipe, 1, steps, seed, torch.device("cpu")), [], 0.0
    feed = Feed(parts.train, recipe, seed)
    each = forward_multiply_adds(recipe)
    trainer.begin()
    for step in range(1, steps + 1):
        mark = time.process_time()
        windows, masks = feed.batch()
        trainer.step(windows, masks, 1.0, recipe.batch)
        seconds += time.process_time() - mark
        if step in at:
            curve.append({"step": step, "gigamacs": round(step * recipe.batch * each / 1e9, 3),
                          "seconds": round(seconds, 2)} | scores(trainer.averaged, parts, recipe))
            trainer.begin()
    return {"curve": curve}


def recipe_of(arm: str, rate: float) -> Recipe:
    """A recipe in small."""
    if arm == "original":
        return ORIGINAL.changed(model=SMALL | {"norm": "encoder", "crop": "ceil"}, learning_rate=rate)
    recipe = FIRST.changed(learning_rate=rate)
    if arm == "nesterov":
        return recipe.changed(optimizer="sgd", nesterov=True)
    if arm == "plain":
        return recipe.changed(model=SMALL | {"padding": "same"}, on_defect=0.5, ema=0.0)
    return recipe.changed(**LESS[arm.removeprefix("less ")]) if arm.startswith("less ") else recipe


def geometry_of(recipe: Recipe) -> str:
    """The arm of `geometry` whose windows a recipe's network takes."""
    if recipe.geometry == "original":
        return "skewed"
    return "same" if recipe.model.get("padding") == "same" else "exact"


class Feed:
    """Batches of windows, uint8 [n, 1, h, w], and masks, bool [n, 1, H, W], in epochs of a random order."""

    def __init__(self, crops: steel.Crops, recipe: Recipe, seed: int) -> None:
        self.images, self.masks = (part[:, 0].numpy() for part in crops)
        self.recipe, self.kind, self.rng, self.order = recipe, geometry_of(recipe), np.random.default_rng(seed), []

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        if len(self.order) < self.recipe.batch:
            self.order = self.rng.permutation(len(self.images)).tolist()
        chosen, self.order = self.order[: self.recipe.batch], self.order[self.recipe.batch :]
        pairs = [self.drawn(self.images[i], self.masks[i]) for i in chosen]
        return tuple(torch.from_numpy(np.stack(each)[:, None]) for each in zip(*pairs, strict=True))

    def drawn(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One sample of an image, flipped and cut as the recipe says."""
        if self.recipe.flips:
            down, across = (slice(None, None, step) for step in self.rng.choice((-1, 1), 2))
            image, mask = image[down, across], mask[down, across]
        top = left = 0
        side = self.recipe.crop[0] if self.recipe.crop else steel.SIDE
        if self.recipe.crop:
            room = steel.SIDE - side
            top, left = self.rng.integers(0, room + 1, 2).tolist()
            if self.rng.random() < self.recipe.on_defect:
                centre = self.rng.choice(np.argwhere(mask))
                top, left = np.clip(centre - side // 2, 0, room).tolist()
        window = geometry.seen(image[None], self.kind, self.recipe.model["depth"], top, left, side)[0]
        return window.copy(), mask[top : top + side, left : left + side].copy()


def forward_multiply_adds(recipe: Recipe) -> int:
    """Of one sample."""
    side = recipe.crop[0] if recipe.crop else steel.SIDE
    image = np.zeros((1, steel.SIDE, steel.SIDE), np.uint8)
    shape = geometry.seen(image, geometry_of(recipe), recipe.model["depth"], side=side).shape[1:]
    return sum(layer.macs for layer in cost(UNet(**recipe.model), *shape))


def scores(network: UNet, parts: steel.Parts, recipe: Recipe) -> dict:
    """Of *report*; `choose` is the best Dice on *choose*, at the threshold that is used on *report*."""
    to_choose, to_report = (
        geometry.flat(geometry.answers(network, part.images[:, 0].numpy(), geometry_of(recipe)))
        for part in (parts.choose, parts.report)
    )
    network.train()
    masks, truth = (geometry.flat(part.masks[:, 0].numpy()) for part in (parts.choose, parts.report))
    threshold = steel.best_threshold(to_choose, masks)
    chosen = steel.dices(to_report > threshold, truth)
    numbers = {"choose": steel.dices(to_choose > threshold, masks).mean(), "dice_chosen": chosen.mean(),
               "dice_half": steel.dices(to_report > 0, truth).mean(),
               "ap": steel.average_precision(to_report.ravel(), truth.ravel())}
    numbers = {name: round(float(number), 5) for name, number in numbers.items()}
    return numbers | {"image_dices": [round(float(dice), 3) for dice in chosen]}


# ---- what came out

def points(records: pd.DataFrame) -> pd.DataFrame:
    """A row per point of every curve."""
    return pd.DataFrame([{"arm": cell.arm, "rate": cell.rate, "seed": cell.seed} | point
                         for cell in records.itertuples() for point in cell.curve])


def best(found: pd.DataFrame) -> pd.DataFrame:
    """For each arm and seed the point that is best on *choose*."""
    return found.loc[found.groupby(["arm", "seed"])["choose"].idxmax()].set_index(["arm", "seed"])


def at_equal_budget(found: pd.DataFrame) -> pd.DataFrame:
    """The points of `LESS`, and those of fast with the same rate and number of steps."""
    of = found[found["arm"].str.startswith("less")]
    whole = found[(found["arm"] == "fast") & found["rate"].isin(of["rate"]) & found["step"].isin(of["step"])]
    return pd.concat([of, whole]).set_index(["arm", "seed"])


def reached(found: pd.DataFrame, number: str = "dice_chosen") -> pd.DataFrame:
    """A row per arm, seed and share of the original's best: multiply-adds and seconds until it, NaN where never.

    The arm's rate is that of its best point on *choose*.
    """
    chosen, rows = best(found), []
    for (arm, seed), point in chosen.iterrows():
        if arm.startswith("less") or ("original", seed) not in chosen.index:
            continue
        of = found[(found["arm"] == arm) & (found["seed"] == seed) & (found["rate"] == point["rate"])]
        for share in SHARES:
            there = of[of[number] >= share * chosen.loc[("original", seed), number]]
            first = there.loc[there["gigamacs"].idxmin()] if len(there) else {"gigamacs": np.nan, "seconds": np.nan}
            rows.append({"arm": arm, "seed": seed, "share": share, "gigamacs": first["gigamacs"],
                         "seconds": first["seconds"]})
    return pd.DataFrame(rows)


def summary(records: pd.DataFrame) -> str:
    found = points(records)
    chosen = best(found)
    if not {"original", "fast", "plain"} <= {*chosen.index.get_level_values("arm")}:
        return "No answer yet: original, fast and plain are not all recorded."
    ratios = reached(found).pivot_table(index=["arm", "seed"], columns="share", values="gigamacs", dropna=False)
    told = {}
    for arm in ("fast", "plain"):
        shares = (ratios.loc["original"] / ratios.loc[arm]).dropna(how="all")
        told[arm] = ", ".join(f"{share:.0%}: {_each(shares[share])}" for share in SHARES)
    ended = best(found[found["step"] == LONG])  # after as many steps each
    gap = {pair: _difference(ended, *pair) for pair in (("fast", "original"), ("plain", "fast"))}
    equal = at_equal_budget(found)
    lines = [
        "How many times fewer multiply-adds than the original, each at its best rate, to a share of the original's "
        f"best Dice, a number per seed: fast {told['fast']}; plain {told['plain']}.",
        f"After {LONG} steps each, Dice at the chosen threshold: fast less original {gap['fast', 'original']}; plain "
        f"less fast {gap['plain', 'fast']}, for a quarter of the multiply-adds.",
        "",
        "| arm | seeds | rates chosen | Dice, p > ½ | chosen threshold | AP | less fast's, after as many steps | GMAC "
        "| seconds |",
        "|---" * 9 + "|",
    ]
    for arm in dict.fromkeys(found["arm"]):
        of = chosen.loc[arm]
        less = "–" if arm == "fast" else _difference(equal if arm.startswith("less") else ended, arm, "fast")
        numbers = [compare.mean_range(of[name]) for name in ("dice_half", "dice_chosen", "ap")]
        rates = ", ".join(f"{rate:g}" for rate in of["rate"])
        spent = f"{of['gigamacs'].mean():.1f} | {of['seconds'].mean():.0f}"
        lines.append(f"| {arm} | {len(of)} | {rates} | {' | '.join(numbers)} | {less} | {spent} |")
    return "\n".join([*lines, "", *_curves(found)])


def _each(ratios: pd.Series) -> str:
    return " / ".join("never" if np.isnan(ratio) else f"{ratio:.1f}" for ratio in ratios)


def _difference(chosen: pd.DataFrame, one: str, other: str) -> str:
    if not {one, other} <= {*chosen.index.get_level_values("arm")}:
        return "–"
    pair = [chosen["image_dices"].loc[name] for name in (one, other)]
    if not set(pair[0].index) & set(pair[1].index):
        return "–"
    found = compare.over_seeds_and_images(*pair)
    return f"{found}{' same' if found.same else ''}"


def _curves(found: pd.DataFrame) -> list[str]:
    """Mean Dice at the chosen threshold by steps, and what the last doubling gained."""
    found = found[~found["arm"].str.startswith("less")]
    table = found.pivot_table(index=["arm", "rate"], columns="step", values="dice_chosen")
    lines = ["Mean Dice at the chosen threshold after so many steps:", ""]
    lines += [f"| arm | rate | {' | '.join(map(str, table.columns))} |", "|---" * (2 + table.shape[1]) + "|"]
    for (arm, rate), row in table.iterrows():
        lines.append(f"| {arm} | {rate:g} | {' | '.join('' if np.isnan(d) else f'{d:.3f}' for d in row)} |")
    return lines
