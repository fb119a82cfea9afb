"""Procedural steel in Severstal's own layout, drawn to the statistics of the real labels; the same seed, the same steel.

Shares, areas, counts and shapes come from the published labels (12,568 images; fitted on 2,845 mask rows). What is
painted is not what is labelled: a label is a loose polygon, the defect in it may be faint, and marks that only look like
defects carry no label. So a Dice of 1 cannot be reached here, as it cannot on real steel.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import uniform_filter
from skimage.draw import polygon2mask
from tqdm import tqdm

from steelnb import rle

CLASSES = (1, 2, 3, 4)

# How many of Severstal's 12,568 train images show which classes.
COMBINATIONS = {(): 5902, (3,): 4759, (1,): 769, (4,): 516, (3, 4): 284, (2,): 195, (1, 3): 91, (1, 2): 35,
                (2, 3): 14, (1, 2, 3): 2, (2, 4): 1}
BAND_SHARE = 0.38  # images that look past the strip's edge


class Sample(NamedTuple):
    """One drawn image, uint8 [H, W], and its masks, bool [4, H, W], in the order of CLASSES."""

    image: np.ndarray
    masks: np.ndarray


class Habit(NamedTuple):
    """How the labels of one class measure; lengths in pixels of a 256×1600 image."""

    counts: tuple[float, ...]  # share of masks with 1, 2, 3 … components
    area: tuple[float, float, float]  # ln(mask area in % of the image) = a + b ln(count) ± sd
    aspect: tuple[float, float]  # ln(height / width) of a component: mean, sd
    full: float  # share of components that run from the top edge to the bottom edge
    edge: float  # share of the others that touch one of the two
    spread: float  # how far components lie from the middle of their cluster, sideways
    corners: tuple[int, int]  # of the label's polygon, fewest and most
    rough: float  # how far its corners dent inwards


HABITS = {
    1: Habit((.46, .11, .07, .05, .05, .06, .06, .05, .04, .03, .02), (-.76, .65, .61), (.58, .50), .01, .14, 150,
             (5, 8), .30),
    2: Habit((.75, .22, .03), (-.47, .47, .59), (2.05, .40), .12, .60, 60, (6, 8), .15),
    3: Habit((.28, .27, .18, .11, .07, .04, .03, .02), (.50, .70, 1.06), (.41, 1.1), .36, .34, 420, (6, 9), .30),
    4: Habit((.39, .30, .14, .08, .05, .04), (1.48, .42, .89), (-.26, .60), .02, .28, 260, (9, 16), .50),
}


def draw(seed: int, index: int, shape: tuple[int, int] = (256, 1600)) -> Sample:
    """Draw image number `index` of the set `seed`: uint8 [H, W] and bool [4, H, W], a pure function of its arguments.

    Defects and marks scale with the root of H·W, so that areas keep their share of the image. Which classes an image
    shows walks evenly through COMBINATIONS, so a small set has the shares of a large one. Raises ValueError for a
    shape below 32×32. Drawn to the statistics of Severstal's labels.
    """
    height, width = shape
    if min(shape) < 32:
        raise ValueError(f"synthetic steel of shape {height}×{width} is too small to show defects: take 32×32 or more")
    rng = np.random.default_rng([seed, index])
    unit = (height * width / (256 * 1600)) ** 0.5
    share = (np.random.default_rng(seed).random() + index * 0.6180339887498949) % 1  # golden ratio: evenly spread
    classes = list(COMBINATIONS)[np.searchsorted(np.cumsum(list(COMBINATIONS.values())), share * 12568, side="right")]
    gap = rng.uniform(.03, .93) * width if rng.random() < BAND_SHARE else 0
    left, right = (round(gap), width) if rng.random() < .5 else (0, width - round(gap))

    gray = _steel(rng, shape, unit)
    _marks(rng, gray, left, right, unit, clean=not classes)
    masks = np.zeros((4, *shape), bool)
    for kind in classes:
        _defects(rng, gray, masks, kind, left, right, unit)
    if gap:
        _band(rng, gray, left, right, unit)
        masks[:, :, :left] = masks[:, :, right:] = False
    return Sample(np.clip(gray, 0, 255).astype(np.uint8), masks)


def write(folder, images: int, *, seed: int = 0, shape: tuple[int, int] = (256, 1600), form: str = "now",
          test_images: int = 0, progress: bool = True) -> Path:
    """Write a set in Severstal's layout: `train_images/*.jpg`, `train.csv`, `test_images/*.jpg`; returns the folder.

    `form` is the CSV's: "now" (`ImageId,ClassId,EncodedPixels`, defective rows only) or "2019"
    (`ImageId_ClassId,EncodedPixels`, four rows an image). `train.csv` comes last: a folder without it is unfinished.
    Raises ValueError for a folder that already holds a set, no images, an unknown form, or a shape below 32×32.
    """
    folder = Path(folder)
    if images < 1 or test_images < 0:
        raise ValueError(f"cannot write {images} train and {test_images} test images: take at least 1 and 0")
    if form not in ("now", "2019"):
        raise ValueError(f'unknown form {form!r} of train.csv: take "now" or "2019"')
    held = [name for name in ("train.csv", "train_images", "test_images") if (folder / name).is_file()
            or (folder / name).is_dir() and any((folder / name).iterdir())]
    if held:
        raise ValueError(f"{folder} already holds {', '.join(held)}, and a set is never overwritten: "
                         "choose another folder, or delete this one first")
    draw(seed, 0, shape)  # a bad shape fails here, before anything is written
    rows = []
    for number in tqdm(range(images + test_images), desc="drawing steel", unit="image", disable=not progress):
        name = f"{(number * 0x9E3779B97 + seed * 0x2545F4915 + 0x2CC93B) % 16**9:09x}.jpg"  # odd factor: no name twice
        sample = draw(seed, number, shape)
        part = folder / ("train_images" if number < images else "test_images")
        part.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.image).convert("RGB").save(part / name, quality=90)
        if number < images:
            rows += [(name, kind, rle.encode(mask)) for kind, mask in zip(CLASSES, sample.masks, strict=True)]
    table = pd.DataFrame(rows, columns=["ImageId", "ClassId", "EncodedPixels"]).sort_values(["ImageId", "ClassId"])
    if form == "now":
        table = table[table.EncodedPixels != ""]
    else:
        table.insert(0, "ImageId_ClassId", table.ImageId + "_" + table.ClassId.astype(str))
        table = table[["ImageId_ClassId", "EncodedPixels"]]
    table.to_csv(folder / "train.csv.part", index=False)
    os.replace(folder / "train.csv.part", folder / "train.csv")
    return folder


def _noise(rng, shape, *cell):
    """Smooth noise, float32 [H, W], spread about 1; `cell` is the height and width in pixels over which it changes."""
    grid = [max(2, min(n, round(n / c) + 1)) for n, c in zip(shape, cell, strict=True)]
    return np.asarray(Image.fromarray(rng.standard_normal(grid, np.float32)).resize(shape[::-1], Image.BICUBIC))


def _steel(rng, shape, unit):
    """Clean lit steel, float32 [H, W]: uneven light, streaks along the rolling direction (down), grain."""
    height, width = shape
    level = np.interp(rng.random(), [0, .1, .5, .9, 1], [38, 59, 92, 120, 150])
    columns = sum(size * _noise(rng, (1, width), 1, cell * unit)
                  for cell, size in ((500, .12), (90, .05), (20, .025), (3, .015)))
    rows = rng.normal(0, .18) * np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    gray = 1 + columns + rows + _noise(rng, shape, 150 * unit, 60 * unit) * rng.uniform(.02, .07)
    # The mean of 2×2 random bytes: near normal, and as correlated between neighbours as the camera's grain.
    grain = rng.integers(0, 256, (height + 1, width + 1), np.uint8).astype(np.float32)
    grain = grain[1:] + grain[:-1]
    grain = (grain[:, 1:] + grain[:, :-1]) / 148 - 3.45
    gray += grain * np.interp(rng.random(), [0, .5, 1], [.035, .065, .11])
    return gray * np.float32(level)


def _lines(rng, shape, count, thickness):
    """Thin lines that run down a window and wander a little, float32 [H, W] in 0–1."""
    height, width = shape
    across = np.arange(width, dtype=np.float32)
    alpha = np.zeros(shape, np.float32)
    for _ in range(count):
        middle = rng.uniform(.3, .7) * width + _noise(rng, (height, 1), height / 3, 1) * width * .07
        breaks = np.clip(_noise(rng, (height, 1), height / rng.uniform(3, 12), 1) * rng.uniform(0, .6) + .8, 0, 1)
        size = max(.6, thickness * rng.uniform(.6, 1.6))
        alpha = np.maximum(alpha, np.exp(-(((across - middle) / size) ** 2)) * breaks)
    return alpha


def _defects(rng, gray, masks, kind, left, right, unit, strength=None):
    """Paint one image's defects of class `kind` into `gray` and, if `strength` is left open, their labels into `masks`."""
    height, width = gray.shape
    habit = HABITS[kind]
    count = 1 + int(np.searchsorted(np.cumsum(habit.counts), rng.random() * sum(habit.counts)))
    base, slope, spread = habit.area
    percent = min(np.exp(base + slope * np.log(count) + spread * rng.standard_normal()), 50 * (right - left) / width)
    sizes = rng.lognormal(0, .45, count)
    sizes *= percent / 100 * height * width / sizes.sum()
    if kind < 3:  # near the strip's edge, if it is in sight
        reach = min(rng.exponential(110) + 25, 1600) * unit
        centre = left + reach if left or (right == width and rng.random() < .5) else right - reach
    else:
        centre = rng.uniform(left, right)
    visible = rng.uniform(.25, 1.15) if strength is None else strength
    for size in sizes:
        full = rng.random() < habit.full
        corners = _outline(rng, habit, full)
        filled = abs(np.sum(corners[:, 0] * np.roll(corners[:, 1], 1) - corners[:, 1] * np.roll(corners[:, 0], 1))) / 2
        tall = height if full else (size / filled * np.exp(rng.normal(*habit.aspect))) ** .5
        h = int(np.clip(round(tall), 2, height))
        w = int(np.clip(round(size / filled / h), 2, max(2, (right - left) * .9)))
        for _ in range(12):  # labels of one image do not overlap
            y = rng.choice([0, height - h]) if rng.random() < habit.edge else rng.integers(0, height - h + 1)
            x = int(np.clip(rng.normal(centre, habit.spread * unit) - w / 2, left, max(left, right - w)))
            window = np.s_[y:y + h, x:x + w]
            if not masks[:, y:y + h, x:x + w].any():
                break
        if strength is None:
            masks[kind - 1][window] |= polygon2mask((h, w), corners * (h, w) - .5)
            masks[kind - 1][y + h // 2, x + w // 2] = True  # a tiny label keeps a pixel
        # The defect itself is smaller than its label, off its middle, and fades out.
        inner = (corners - .5) * rng.uniform(.6, 1.0, 2) + .5 + rng.normal(0, .04, 2)
        soft = uniform_filter(polygon2mask((h, w), inner * (h, w) - .5).astype(np.float32), max(1, round(5 * unit)))
        gray[window] = PAINTERS[kind](rng, gray[window], soft, visible * rng.uniform(.6, 1.2), unit)


def _outline(rng, habit, full):
    """The corners of a hand-drawn polygon, float [n, 2], (y, x), that fills the unit square from edge to edge."""
    if full or habit.aspect[0] > 2:
        down = np.sort(np.r_[0, rng.random(2), 1])
        lean = rng.normal(0, .12) * down
        sides = [np.c_[down, lean + rng.normal(0, .06, 4)], np.c_[down, lean + 1 + rng.normal(0, .06, 4)][::-1]]
        corners = np.concatenate(sides)
    else:
        n = rng.integers(*habit.corners, endpoint=True)
        angle = (np.arange(n) + rng.uniform(-.35, .35, n)) * 2 * np.pi / n
        radius = 1 - habit.rough * rng.random(n)
        corners = np.c_[np.sin(angle), np.cos(angle)] * radius[:, None]
    return (corners - corners.min(0)) / np.ptp(corners, axis=0)


def _pits(rng, gray, soft, visible, unit):
    """Class 1: small dark pits with bright rims."""
    pit = _noise(rng, gray.shape, 9 * unit, 6 * unit)
    glint = _noise(rng, gray.shape, 4 * unit, 3 * unit) > 1.2
    return gray - soft * visible * (gray.mean() * .35 * np.clip(pit + .6, 0, 2) - 120 * glint)


def _dark_lines(rng, gray, soft, visible, unit):
    """Class 2: thin dark lines down the strip."""
    return gray * (1 - .6 * visible * soft * _lines(rng, gray.shape, rng.integers(1, 3), 2 * unit))


def _scratches(rng, gray, soft, visible, unit):
    """Class 3: scratches down the strip, or patches: bright and torn, dark and blotched."""
    height, width = gray.shape
    if height > 3 * width or rng.random() < .2:
        lines = _lines(rng, gray.shape, rng.integers(1, 4), max(1.8 * unit, width * .05))
        specks = _noise(rng, gray.shape, 8 * unit, 3 * unit) > 1.3
        return gray * (1 - soft * visible * (.45 * lines - .5 * specks * (lines > .3)))
    if rng.random() < .55:
        torn = _noise(rng, gray.shape, 4 * unit, rng.choice([4, 20]) * unit) + rng.uniform(-.3, .3)
        return gray + soft * visible * (150 * (torn > .9) - 18)
    blotch = np.clip(3 * (_noise(rng, gray.shape, 30 * unit, 6 * unit) + .3), 0, 1)
    return gray * (1 - .5 * soft * visible * blotch)


def _rolled_in(rng, gray, soft, visible, unit):
    """Class 4: rough rolled-in metal, lit from above."""
    size = np.array(gray.shape) + 1
    stretch = rng.uniform(1, 2.5)
    ground = sum(cell * _noise(rng, size, cell * unit, cell * stretch * unit) for cell in (30, 12, 5))
    slope = ground[1:, 1:] - ground[:-1, :-1]
    slope /= slope.std() + 1e-6
    level = gray.mean() * rng.uniform(.55, 1.1)
    alpha = np.clip(1.3 * soft * visible, 0, 1)
    return gray * (1 - alpha) + alpha * (level + .2 * (gray - gray.mean()) + 22 * slope) - 90 * soft * (1 - soft) * alpha


PAINTERS = {1: _pits, 2: _dark_lines, 3: _scratches, 4: _rolled_in}


def _marks(rng, gray, left, right, unit, clean):
    """Paint what is no defect, in place: water marks, sparkle, ripple, oil, reflections, faint streaks, faint scars."""
    height, width = gray.shape

    def zone(narrow, wide):  # a band of columns as a view, and how strongly each of them is marked
        w = int(np.clip(rng.uniform(narrow, wide) * unit, 4, width))
        x = int(np.clip(rng.uniform(left - w / 2, right - w / 2), 0, width - w))
        return gray[:, x:x + w], np.sin(np.linspace(0, np.pi, w, dtype=np.float32))

    for _ in range(rng.poisson(1.2)):  # water marks
        part, weight = zone(80, 600)
        wet = _noise(rng, part.shape, rng.uniform(30, 90) * unit, rng.uniform(4, 12) * unit) + 1.5 * weight > 1.9
        part *= 1 - rng.uniform(.08, .3) * wet
    for _ in range(rng.poisson(.8)):  # sparkle
        part, weight = zone(60, 500)
        part += (_noise(rng, part.shape, 3 * unit, 2 * unit) + weight > 2.6) * rng.uniform(30, 110)
    if rng.random() < .35:  # ripple across the rolling direction
        part, weight = zone(300, 1200)
        wave = np.arange(height, dtype=np.float32)[:, None] / (rng.uniform(6, 11) * unit)
        part *= 1 + rng.uniform(.03, .1) * weight * np.sin(2 * np.pi * (wave + _noise(rng, part.shape, 60 * unit, 90 * unit)))
    for _ in range(rng.poisson(.5)):  # oil
        part, weight = zone(40, 220)
        spot = _noise(rng, part.shape, 90 * unit, 50 * unit) * weight
        part *= 1 - rng.uniform(.08, .25) * np.clip(3 * spot - 1.2, 0, 1)
    if rng.random() < (.14 if clean else .05):  # reflections: white splashes with a dark eye
        for _ in range(rng.integers(1, 5)):
            part, weight = zone(15, 60)
            splash = _noise(rng, part.shape, 25 * unit, 9 * unit) + .4 * _noise(rng, part.shape, 4 * unit, 4 * unit) + weight
            part[(splash > 1.4) & (splash < 2.3)] = 250
    for _ in range(rng.poisson(1.5)):  # faint streaks
        part, _ = zone(20, 60)
        top, end = np.sort(rng.integers(0, height + 1, 2)) if rng.random() < .6 else (0, height)
        if end - top > 2:
            lines = _lines(rng, (end - top, part.shape[1]), rng.integers(1, 3), rng.uniform(1, 3) * unit)
            part[top:end] *= 1 - rng.uniform(-.1, .3) * lines
    if rng.random() < .25:  # scars too faint for the annotator
        nothing = np.zeros((4, *gray.shape), bool)
        _defects(rng, gray, nothing, rng.choice(CLASSES, p=[.3, .1, .5, .1]), left, right, unit, strength=.2)


def _band(rng, gray, left, right, unit):
    """Paint the black beyond the strip's edge and the strip's bright or dark rim, in place."""
    rim = max(2, round(rng.uniform(3, 30) * unit))
    inside = np.s_[:, left:left + rim] if left else np.s_[:, right - rim:right]
    gray[inside] *= rng.choice([.55, 1.5, 1.9])
    for outside in (np.s_[:, :left], np.s_[:, right:]):
        gray[outside] = 1.5 + gray[outside] % 3
