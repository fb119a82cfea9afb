"""What do the original's skewed skips, the border's filling and padding inside the network cost in Dice?

A U-Net of width 4 learns whole images of SD-saliency-900, shrunk by 4 to 48 × 48 pixels (Dice + BCE, batches of 4,
AdamW, rate 1e-2 falling to 0), and predicts every pixel. Arms, otherwise equal (same first weights, same order):

- exact: valid convolutions, an input that fits (88 pixels at depth 2), its margin mirrored; zeros, edge: the same with
  a margin of zeros or of the repeated edge pixel;
- skewed: as the original had it, an input that does not fit (91 at depth 2: each skip lies 2 pixels off, 1 and 2 cells
  of its level; 147 at depth 3: 4 pixels at each of three levels; the original's columns: 8, 4, 4, 4 at depth 4);
- same: no margin, zeros padded inside every convolution; same, mirrored: its input mirrored as exact's, then cut.

Measured on *report* at the threshold of *choose* and at p > 1/2: mean Dice; of pixels within 4 of the border (16 of the
original image); boundary Dice (of the pixels of both masks within 1 of their own outline; Cheng 2021 as Dice); average
precision. On the networks exact and same, tiles of 24 × 24: naive (each by itself, its own border filled), blended
(overlap a half, Gaussian weights of σ = 3 as MONAI's, each by itself), overlap-tile (true surroundings): pixels that
flip against the whole image's answer at p > 1/2, Dice within 2 pixels of the seams beside the whole image's there.

Budgets 320, 640 and 1280 steps, each a training of its own; plateau: the last doubling gains less than 0.005.

Prediction: skewed against exact within ±0.02 in Dice at depth 2 and 3 (the network learns the shift), boundary Dice
0.01 to 0.03 lower. Zeros and edge against mirror: the same in Dice, zeros 0.01 to 0.04 lower within 4 of the border.
Same against exact: the same overall, 0.00 to 0.03 lower at the border. Naive tiles flip 1 to 3 % of the pixels and cost
0.02 to 0.06 Dice near seams, blended a third of that, overlap-tile flips none.

Decision: two arms are the same where the 95 % interval of the paired difference in Dice at the chosen threshold, over
seeds and images, lies within ±0.02; one is worse where its interval lies below 0. If skewed is the same as exact at
both depths, the repair is worth its tidiness and its seamless tiles and no claim of a higher Dice is made for it.
"""

import numpy as np
import pandas as pd
import torch

from steelnb.losses import LOSSES
from steelnb.network import geometry
from steelnb.network.tiles import mirror_index
from steelnb.network.unet import UNet
from studies import compare, steel

HOURS = 0.5
SIDE, RIM, TILE, NEAR = steel.SIDE, 4, 24, 2
SKEWED = {2: 91, 3: 147}  # inputs that do not fit, by depth
ARMS = ("exact", "skewed", "zeros", "edge", "same", "same, mirrored")
PLACES = ("dice", "border", "outline")  # whole image, near its border, near the masks' outlines


def cells() -> list[dict]:
    def grid(arms: tuple, depth: int, steps: int, seeds: range) -> list[dict]:
        return [{"arm": arm, "depth": depth, "steps": steps, "seed": seed} for seed in seeds for arm in arms]

    two = ("exact", "skewed")
    return [*grid(ARMS, 2, 640, range(3)), *grid(two, 3, 640, range(3)), *grid(ARMS, 2, 1280, range(3)),
            *grid(two, 3, 1280, range(3)), *grid(ARMS, 2, 640, range(3, 5)), *grid(ARMS, 2, 1280, range(3, 5)),
            *grid(ARMS, 2, 320, range(5))]


def run(setting: dict) -> dict:
    arm, depth, parts = setting["arm"], setting["depth"], steel.parts("saliency")
    network = trained(parts.train, arm, depth, setting["steps"], setting["seed"])
    to_choose, to_report = (answers(network, each.images[:, 0].numpy(), arm) for each in (parts.choose, parts.report))
    masks, truth = parts.choose.masks[:, 0].numpy(), parts.report.masks[:, 0].numpy()
    threshold = steel.best_threshold(flat(to_choose), flat(masks))
    numbers = {"ap": steel.average_precision(to_report.ravel(), truth.ravel())}
    for name, level in (("half", 0.0), ("chosen", threshold)):
        found = scored(to_report > level, truth)
        numbers |= {f"{place}_{name}": float(np.nanmean(found[place])) for place in PLACES}
    numbers = {key: round(value, 5) for key, value in numbers.items()}
    for place in PLACES:
        numbers[f"image_{place}"] = [None if np.isnan(dice) else round(float(dice), 3) for dice in found[place]]
    if arm in ("exact", "same"):
        numbers["tiles"] = tiled(network, parts.report.images[:, 0].numpy(), truth, arm)
    return numbers


# ---- windows: what a network sees for a rectangle of an image, and where its answer lies

def seen(images: np.ndarray, arm: str, depth: int, top: int = 0, left: int = 0, side: int = SIDE) -> np.ndarray:
    """The input for side × side pixels from (top, left) of uint8 [N, H, W], the rest filled as the arm does."""
    if arm == "same":
        return images[:, top : top + side, left : left + side]
    before, after = margins(arm, depth, side)
    picked, inside = [], []
    for start, n in zip((top, left), images.shape[1:], strict=True):
        place = np.arange(start - before, start + side + after)
        inside.append((place >= 0) & (place < n))
        clipped = arm in ("zeros", "edge")
        picked.append(np.clip(place, 0, n - 1) if clipped else mirror_index(place[0], place[-1] + 1, n))
    window = images[:, picked[0][:, None], picked[1]]
    return window * (inside[0][:, None] & inside[1]) if arm == "zeros" else window


def margins(arm: str, depth: int, side: int = SIDE) -> tuple[int, int]:
    """Pixels that the input has before and after the rectangle, on each axis."""
    if arm == "skewed":
        more = SKEWED[depth] - SIDE
        return more // 2, more - more // 2
    before = geometry.margin(depth)
    if arm == "same, mirrored":
        before = -(-before // 2**depth) * 2**depth  # on the grid of the poolings
        return before, before
    return before, geometry.input_size(side, depth) - side - before


def made(arm: str, depth: int) -> UNet:
    padding = "same" if arm.startswith("same") else "valid"
    return UNet(width=4, depth=depth, padding=padding, crop="ceil" if arm == "skewed" else "exact")


def cut(outputs: torch.Tensor, arm: str, depth: int, side: int = SIDE) -> torch.Tensor:
    """The answer for the rectangle out of a network's outputs [N, 1, h, w]."""
    start = 0
    if arm == "skewed":
        start = geometry.crop_start(outputs.shape[2], side)
    elif arm == "same, mirrored":
        start = margins(arm, depth, side)[0]
    return outputs[..., start : start + side, start : start + side]


def answers(network: UNet, images: np.ndarray, arm: str, **where: int) -> np.ndarray:
    """Logits, float32 [N, side, side]."""
    network.eval()
    windows = torch.from_numpy(seen(images, arm, network.depth, **where))[:, None]
    with torch.inference_mode():
        outputs = torch.cat([network(part.float() / 255) for part in windows.split(30)])
    return cut(outputs, arm, network.depth, where.get("side", SIDE))[:, 0].numpy()


def trained(crops: steel.Crops, arm: str, depth: int, steps: int, seed: int) -> UNet:
    batch, rate = 4, 1e-2
    torch.manual_seed(seed)
    network, rng, order = made(arm, depth), np.random.default_rng(seed), []
    windows = torch.from_numpy(seen(crops.images[:, 0].numpy(), arm, depth))[:, None]
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.0)
    for step in range(steps):
        if len(order) < batch:
            order = rng.permutation(len(windows)).tolist()
        chosen, order = order[:batch], order[batch:]
        logits = cut(network(windows[chosen].float() / 255), arm, depth)
        value = LOSSES["dice_bce"](logits, crops.masks[chosen])
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return network


# ---- tiles

def tiled(network: UNet, images: np.ndarray, truth: np.ndarray, arm: str) -> dict:
    """Flipped pixels and Dice near seams, by the way of tiling, and the whole image's Dice there."""
    whole = answers(network, images, arm)
    seams = np.zeros((SIDE, SIDE), bool)
    for place in range(TILE, SIDE, TILE):
        seams[place - NEAR : place + NEAR] = seams[:, place - NEAR : place + NEAR] = True
    found = {"whole": {"seam_dice": seam_dice(whole > 0, truth, seams)}}
    ways = {"naive": naive, "blended": blended} | ({"overlap-tile": overlapping} if arm == "exact" else {})
    for name, way in ways.items():
        logits = way(network, images, arm)
        flips = (logits > 0) != (whole > 0)
        found[name] = {"flipped": float(flips.mean()), "near_seams": float(flips[:, seams].mean()),
                       "of_defect": float(flips.sum() / truth.sum()), "dice": flat_dice(logits > 0, truth),
                       "seam_dice": seam_dice(logits > 0, truth, seams)}
    return found


def naive(network: UNet, images: np.ndarray, arm: str) -> np.ndarray:
    logits = np.empty(images.shape, np.float32)
    for top, left in np.ndindex(SIDE // TILE, SIDE // TILE):
        region = np.s_[:, top * TILE : (top + 1) * TILE, left * TILE : (left + 1) * TILE]
        logits[region] = answers(network, images[region], arm, side=TILE)
    return logits


def blended(network: UNet, images: np.ndarray, arm: str) -> np.ndarray:
    total, weights = np.zeros((2, *images.shape), np.float32)
    bell = np.exp(-0.5 * ((np.arange(TILE) - (TILE - 1) / 2) / (TILE / 8)) ** 2)
    bell = np.maximum(np.outer(bell, bell), 1e-3).astype(np.float32)
    for top in range(0, SIDE - TILE + 1, TILE // 2):
        for left in range(0, SIDE - TILE + 1, TILE // 2):
            region = np.s_[:, top : top + TILE, left : left + TILE]
            total[region] += bell * answers(network, images[region], arm, side=TILE)
            weights[region] += bell
    return total / weights


def overlapping(network: UNet, images: np.ndarray, arm: str) -> np.ndarray:
    logits = np.empty(images.shape, np.float32)
    for top, left in np.ndindex(SIDE // TILE, SIDE // TILE):
        region = np.s_[:, top * TILE : (top + 1) * TILE, left * TILE : (left + 1) * TILE]
        logits[region] = answers(network, images, arm, top=top * TILE, left=left * TILE, side=TILE)
    return logits


def seam_dice(predicted: np.ndarray, truth: np.ndarray, seams: np.ndarray) -> float:
    return flat_dice(predicted[:, seams], truth[:, seams])


# ---- scores

def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


def flat_dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean Dice over the images that have a defect there."""
    return float(steel.dices(flat(predicted), flat(truth)).mean())


def scored(predicted: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Dice of each image by PLACES, float64 [N]; NaN where there is no defect."""
    rim = np.ones(truth.shape[1:], bool)
    rim[RIM:-RIM, RIM:-RIM] = False
    pairs = {"dice": (predicted, truth), "border": (predicted & rim, truth & rim),
             "outline": (outline(predicted), outline(truth))}
    found = {}
    for place, (one, other) in pairs.items():
        both, total = (one & other).sum((1, 2)), one.sum((1, 2)) + other.sum((1, 2))
        found[place] = np.where(other.any((1, 2)), 2 * both / np.maximum(total, 1), np.nan)
    return found


def outline(masks: np.ndarray) -> np.ndarray:
    """The pixels of masks [N, H, W] that have a neighbour (of four) outside the mask; the image's border is none."""
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)), mode="edge")
    inside = padded[:, :-2, 1:-1] & padded[:, 2:, 1:-1] & padded[:, 1:-1, :-2] & padded[:, 1:-1, 2:]
    return masks & ~inside


# ---- what came out

def differences(records: pd.DataFrame) -> pd.DataFrame:
    """A row per depth, budget and arm: paired difference from exact, by place, at the chosen threshold."""
    rows = []
    for (depth, steps), of in records.groupby(["depth", "steps"]):
        lists = of.set_index(["arm", "seed"])
        for arm in ARMS[1:]:
            if "exact" in lists.index and arm in lists.index:
                row = {"depth": depth, "steps": steps, "arm": arm}
                for place in PLACES:
                    one, other = (lists[f"image_{place}"].loc[name].map(_numbers) for name in (arm, "exact"))
                    row[place] = compare.over_seeds_and_images(one, other)
                rows.append(row)
    return pd.DataFrame(rows)


def _numbers(values: list) -> np.ndarray:
    """Those images that have a score: the same ones in every cell, for the truth decides."""
    return np.array([value for value in values if value is not None], float)


def summary(records: pd.DataFrame) -> str:
    found, tiles = differences(records), tilings(records)
    if found.empty or tiles.empty:
        return "No answer yet: exact and another arm are not both recorded."
    told = []
    for row in found[found["steps"] == found.groupby("depth")["steps"].transform("max")].itertuples():
        said = " same" if row.dice.same else " worse" if row.dice.high < 0 else ""
        told.append(f"{row.arm} (depth {row.depth}, {row.steps} steps) {row.dice}{said}")
    last = tiles[tiles["steps"] == tiles["steps"].max()]
    flips = [f"{row.tiles} {row.flipped:.2%} ({row.arm}, depth {row.depth})" for row in last.itertuples()]
    return "\n".join([
        f"Dice less that of exact geometry: {'; '.join(told)}.",
        f"Pixels that tiles of {TILE} × {TILE} flip: {'; '.join(flips)}.",
        "", _arms(records, found), "", _tiles(tiles),
    ])


def _arms(records: pd.DataFrame, found: pd.DataFrame) -> str:
    head = ("depth", "steps", "arm", "seeds", "AP", "Dice, p > ½", "chosen threshold", "less exact's",
            "near the border", "less exact's", "outline", "less exact's")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    by, groups = found.set_index(["depth", "steps", "arm"]), dict(list(records.groupby(["depth", "steps", "arm"])))
    for key in sorted(groups, key=lambda key: (*key[:2], ARMS.index(key[2]))):
        of, row = groups[key], by.loc[key] if key in by.index else dict.fromkeys(PLACES, "–")
        words = [*map(str, key), str(len(of)), f"{of['ap'].mean():.3f}", f"{of['dice_half'].mean():.3f}"]
        for place in PLACES:
            words += [f"{of[f'{place}_chosen'].mean():.3f}", str(row[place])]
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def tilings(records: pd.DataFrame) -> pd.DataFrame:
    """A row per network, budget and way of tiling: means over seeds."""
    rows = []
    for cell in records.dropna(subset=["tiles"]).itertuples():
        for way, numbers in cell.tiles.items():
            if way != "whole":
                about = {"arm": cell.arm, "depth": cell.depth, "steps": cell.steps, "tiles": way, "seeds": 1}
                rows.append(about | numbers | {"whole": cell.tiles["whole"]["seam_dice"]})
    if not rows:
        return pd.DataFrame()
    by = pd.DataFrame(rows).groupby(["arm", "depth", "steps", "tiles"], sort=False)
    return by.mean().assign(seeds=by.size()).reset_index()


def _tiles(tiles: pd.DataFrame) -> str:
    head = ("network", "depth", "steps", "seeds", "tiles", "flipped", "near seams", "per defect pixel",
            "Dice near seams", "the whole image's there")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in tiles.itertuples():
        words = [row.arm, str(row.depth), str(row.steps), str(row.seeds), row.tiles, f"{row.flipped:.2%}"]
        words += [f"{row.near_seams:.2%}", f"{row.of_defect:.1%}", f"{row.seam_dice:.3f}", f"{row.whole:.3f}"]
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)
