"""Procedural steel with the statistics of Severstal's labels.

Class shares are the published counts. Areas, counts and shapes of the labels started from fits to 1,119 published mask
rows (at most 350 per class) and were then adjusted by hand until drawn sets had the same statistics; the appearance was
matched by eye. Labels differ from the painted defects: a label is a loose polygon, the defect in it may be faint, and
marks that only look like defects have no label. So a Dice of 1 is impossible here, as on real steel.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter
from skimage.draw import polygon2mask

CLASSES = (1, 2, 3, 4)

# How many of Severstal's 12,568 train images show which classes.
COMBINATIONS = {(): 5902, (3,): 4759, (1,): 769, (4,): 516, (3, 4): 284, (2,): 195, (1, 3): 91, (1, 2): 35,
                (2, 3): 14, (1, 2, 3): 2, (2, 4): 1}
BAND_SHARE = 0.38  # share of images that extend beyond the strip's edge


class Sample(NamedTuple):
    """One image, uint8 [H, W], and its masks, bool [4, H, W], in the order of CLASSES."""

    image: np.ndarray
    masks: np.ndarray


class Habit(NamedTuple):
    """Statistics of the labels of one class; lengths in pixels of a 256×1600 image."""

    counts: tuple[float, ...]  # % of masks with 1, 2, 3 … components
    # ln(mask area in % of the image) = a + b ln(count) ± sd; `a` slightly above the fit: bands and overlaps lose area
    area: tuple[float, float, float]
    aspect: tuple[float, float]  # ln(height / width) of a component: mean, sd
    full: float  # share of components that run from the top edge to the bottom edge
    edge: float  # share of the others that touch one of the two
    spread: float  # sd of the sideways distance of components from the middle of their cluster
    uneven: float  # sd of ln(component area) within a mask
    rough: float  # depth of the dents in the label's outline


HABITS = {
    1: Habit((46, 11, 7, 5, 5, 6, 6, 5, 4, 3, 2), (-.70, .65, .61), (.58, .45), .01, .15, 150, .6, .3),
    2: Habit((75, 22, 3), (-.30, .47, .59), (2.1, .40), .28, .62, 60, .4, .15),
    3: Habit((28, 27, 18, 11, 7, 4, 3, 2), (.50, .70, 1.06), (.60, 1.1), .44, .34, 420, .8, .3),
    4: Habit((39, 30, 14, 8, 5, 4), (1.57, .42, .89), (-.26, .60), .02, .28, 260, .8, .5),
}


def draw(seed: int, index: int, shape: tuple[int, int] = (256, 1600)) -> Sample:
    """Draws image `index` of the set `seed`: uint8 [H, W] and bool [4, H, W], a pure function of its arguments.

    Defects and marks scale with the root of H·W, so areas keep their share of the image. Classes are spread evenly over
    COMBINATIONS, so a small set has the shares of a large one. Raises ValueError for a shape below 32×32.
    """
    height, width = shape
    if min(shape) < 32:
        raise ValueError(f"synthetic steel of {height}×{width} pixels is too small to show defects: use 32×32 or more")
    rng = np.random.default_rng([seed, index])
    unit = (height * width / (256 * 1600)) ** 0.5
    turn = (np.random.default_rng(seed).random() + index * 0.6180339887498949) % 1  # golden ratio: spread evenly
    classes = list(COMBINATIONS)[np.searchsorted(np.cumsum(list(COMBINATIONS.values())), turn * 12568, side="right")]
    gap = round(rng.uniform(.04, .92) * width) if rng.random() < BAND_SHARE else 0
    left, right = (gap, width) if rng.random() < .5 else (0, width - gap)

    gray = _steel(rng, shape, unit)
    _marks(rng, gray, left, right, unit, reflections=.05 if classes else .14)
    masks = np.zeros((4, *shape), bool)
    for kind in classes:
        _defects(rng, gray, masks, kind, left, right, unit)
    if gap:
        _band(rng, gray, left, right, unit)
    return Sample(np.clip(gray, 0, 255).astype(np.uint8), masks)


def _noise(rng, shape, *cell):
    """Smooth noise, float32 [H, W], spread about 1; `cell`: the height and width in pixels over which it changes."""
    grid = [max(2, min(n, round(n / c) + 1)) for n, c in zip(shape, cell, strict=True)]
    return np.asarray(Image.fromarray(rng.standard_normal(grid, np.float32)).resize(shape[::-1], Image.BICUBIC))


def _steel(rng, shape, unit):
    """Clean lit steel, float32 [H, W]: uneven light, streaks along the rolling direction (down), grain."""
    height, width = shape
    level = np.interp(rng.random(), [0, .1, .5, .9, 1], [42, 60, 94, 120, 145])
    gray = _noise(rng, shape, 150 * unit, 60 * unit) * rng.uniform(.02, .06)
    gray += _noise(rng, shape, 50 * unit, 2 * unit) * rng.uniform(.01, .04)
    for cell, size in ((500, .12), (90, .05), (20, .025), (4, .02)):
        gray += size * _noise(rng, (1, width), 1, cell * unit)
    gray += 1 + rng.normal(0, .13) * np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    # The mean of 2×2 random bytes: nearly normal, with the camera grain's correlation of neighbouring pixels.
    grain = rng.integers(0, 256, (height + 1, width + 1), np.uint8).astype(np.float32)
    grain = grain[1:] + grain[:-1]
    grain = (grain[:, 1:] + grain[:, :-1]) / 148 - 3.45
    rough = np.interp(rng.random(), [0, .5, 1], [.028, .055, .1]) * np.exp(.35 * _noise(rng, (1, width), 1, 90 * unit))
    gray += rough * grain * (1 + .15 * grain)  # brighter peaks than pits
    return gray * np.float32(level)


def _lines(rng, shape, count, thickness):
    """Thin lines that run down a window and wander a little, float32 [H, W] in 0–1."""
    height, width = shape
    across = np.arange(width, dtype=np.float32)
    alpha = np.zeros(shape, np.float32)
    for _ in range(count):
        middle = rng.uniform(.3, .7) * width + _noise(rng, (height, 1), height / 2, 1) * width * .06
        breaks = np.clip(_noise(rng, (height, 1), height / rng.uniform(3, 25), 1) * rng.uniform(0, .8) + .8, 0, 1)
        reach = max(.6, thickness * rng.uniform(.5, 1.6))
        alpha = np.maximum(alpha, breaks * np.exp(-(((across - middle) / reach) ** 2)))
    return alpha


def _defects(rng, gray, masks, kind, left, right, unit, visible=None):
    """Paints defects of class `kind` and their labels, in place; with `visible`, traces too faint for a label."""
    height, width = gray.shape
    habit = HABITS[kind]
    count = 1 + np.searchsorted(np.cumsum(habit.counts), rng.random() * sum(habit.counts))
    a, b, sd = habit.area
    percent = min(np.exp(a + b * np.log(count) + sd * rng.standard_normal()), 70 * (right - left) / width)
    spans = rng.random(count) < habit.full
    sizes = rng.lognormal(0, habit.uneven, count) * (1 + spans)  # those that span the strip are the larger ones
    sizes *= percent / 100 * height * width / sizes.sum() * (.3 if visible else 1)
    centre = rng.uniform(left, right)
    if kind < 3 and right - left < width:  # near the strip's edge, where it is in sight
        reach = (20 + rng.exponential(110)) * unit
        centre = left + reach if left else right - reach
    contrast = visible or rng.uniform(.4, 1.3)
    for size, full in zip(sizes, spans & (sizes > 2000 * unit**2), strict=True):
        corners = _outline(rng, full or kind == 2, habit.rough)
        y, x = corners.T
        filled = abs(y @ np.roll(x, 1) - x @ np.roll(y, 1)) / 2  # the polygon's share of its box
        tall = height if full else (size / filled * np.exp(rng.normal(*habit.aspect))) ** .5
        least = max(2, 9 * unit)
        h = int(np.clip(round(tall), least, height))
        w = int(np.clip(round(size / filled / h), least, max(2, .95 * (right - left))))
        for _ in range(12):  # labels of one image rarely overlap
            y = rng.choice([0, height - h]) if rng.random() < habit.edge else rng.integers(0, height - h + 1)
            x = round(rng.normal(centre, habit.spread * unit) - w / 2)
            if not left <= x <= right - w:
                x = rng.integers(left, right - w + 1)
            part = np.s_[y:y + h, x:x + w]
            if not masks[:, *part].any():
                break
        if not visible:
            masks[kind - 1][part] |= polygon2mask((h, w), corners * (h, w) - .5)
            masks[kind - 1, y + h // 2, x + w // 2] = True  # the smallest label keeps a pixel
        # The defect is smaller than its label, off its middle, and fades out.
        inner = (corners - .5) * rng.uniform(.75, 1.05, 2) + .5 + rng.normal(0, .04, 2)
        soft = uniform_filter(polygon2mask((h, w), inner * (h, w) - .5).astype(np.float32), max(1, min(h, w) // 5))
        gray[part] = PAINTERS[kind](rng, gray[part], soft, contrast * rng.uniform(.6, 1.2), unit)


def _outline(rng, straight, rough):
    """The corners of a hand-drawn polygon, float [n, 2] as (y, x), filling the unit square from edge to edge."""
    if straight:  # two near parallel sides
        down = np.sort([0, *rng.random(2), 1])
        sides = [np.c_[down, rng.normal(0, .25) * down + side + rng.normal(0, .06, 4)] for side in (0, 1)]
        corners = np.concatenate([sides[0], sides[1][::-1]])
    else:
        n = round(4 + 20 * rough * rng.uniform(.3, 1.2))
        angle = (np.arange(n) + rng.uniform(-.35, .35, n)) * 2 * np.pi / n
        corners = np.c_[np.sin(angle), np.cos(angle)] * (1 - rough * rng.random((n, 1)))
    return (corners - corners.min(0)) / np.ptp(corners, axis=0)


def _pits(rng, gray, soft, visible, unit):
    """Class 1: small dark pits with glints."""
    pit = np.clip(_noise(rng, gray.shape, 9 * unit, 6 * unit) + .5, 0, 2)
    glint = np.clip(_noise(rng, gray.shape, 4 * unit, 3 * unit) - 1, 0, 1)
    return gray * (1 + soft * visible * (2.5 * glint - .32 * pit))


def _dark_lines(rng, gray, soft, visible, unit):
    """Class 2: thin dark lines down the strip."""
    return gray * (1 - .6 * visible * soft * _lines(rng, gray.shape, rng.integers(1, 3), 2 * unit))


def _scratches(rng, gray, soft, visible, unit):
    """Class 3: scratches down the strip; where the label is wide, bright torn or dark blotched patches."""
    height, width = gray.shape
    if height > 3 * width or rng.random() < .2:
        lines = _lines(rng, gray.shape, rng.integers(1, 4), max(1.8 * unit, width * .05))
        specks = np.clip(_noise(rng, gray.shape, 8 * unit, 3 * unit) - 1, 0, 1) * (lines > .3)
        return gray * (1 + soft * visible * (1.5 * specks - .5 * lines))
    if rng.random() < .55:
        torn = _noise(rng, gray.shape, 4 * unit, rng.choice([5, 22]) * unit)
        torn = torn + .7 * _noise(rng, gray.shape, 25 * unit, 25 * unit)
        return gray * (1 + soft * visible * (1.6 * np.clip(torn - .8, 0, 1) - .15))
    blotch = _noise(rng, gray.shape, 30 * unit, 6 * unit) + .6 * _noise(rng, gray.shape, 6 * unit, 3 * unit)
    return gray * (1 - .5 * soft * visible * np.clip(3 * blotch, 0, 1))


def _rolled_in(rng, gray, soft, visible, unit):
    """Class 4: creased, rolled-in metal, lit from above."""
    soft = np.clip(2.5 * soft - .75 + .4 * _noise(rng, gray.shape, 20 * unit, 20 * unit), 0, 1) * (soft > .1)  # frayed
    along = rng.uniform(1, 2.5)
    relief = sum(cell * np.abs(_noise(rng, gray.shape, cell * unit, cell * along * unit)) for cell in (40, 14, 5))
    slope = np.diff(relief + 60 * soft, axis=0, prepend=0, append=0)
    slope = (slope[1:] + slope[:-1]) / (slope[1:-1].std() + 1e-6)
    alpha = np.clip(1.5 * soft * visible, 0, 1)
    return gray * (1 + alpha * (.17 * np.clip(slope, -3, 4) - rng.uniform(.05, .35)))


PAINTERS = {1: _pits, 2: _dark_lines, 3: _scratches, 4: _rolled_in}


def _marks(rng, gray, left, right, unit, reflections):
    """Paints marks that are not defects, in place: water, sparkle, ripple, oil, reflections, streaks, dust, traces."""
    height, width = gray.shape

    def zone(narrow, wide):  # some columns, as a view, and how strongly each of them is marked
        w = int(np.clip(rng.uniform(narrow, wide) * unit, 4, width))
        x = int(np.clip(rng.uniform(left, right) - w / 2, 0, width - w))
        return gray[:, x:x + w], np.sin(np.linspace(0, np.pi, w, dtype=np.float32))

    def noise(part, *cell):
        return _noise(rng, part.shape, *np.multiply(cell, unit))

    for _ in range(rng.poisson(1.3)):  # water marks
        part, weight = zone(80, 700)
        wet = noise(part, rng.uniform(30, 120), rng.uniform(4, 14)) + .35 * noise(part, 9, 3) + 1.5 * weight
        part *= 1 - rng.uniform(.08, .28) * np.clip(4 * (wet - 2), 0, 1)
    for _ in range(rng.poisson(.9)):  # sparkle
        part, weight = zone(60, 600)
        part *= 1 + rng.uniform(.3, 1.2) * np.clip(noise(part, 2, 3) + .7 * noise(part, 70, 25) + weight - 2.2, 0, 1.5)
    if rng.random() < .35:  # ripple across the rolling direction
        part, weight = zone(300, 1600)
        part *= 1 + rng.uniform(.03, .09) * weight * noise(part, rng.uniform(3, 5), rng.uniform(30, 90))
    for _ in range(rng.poisson(.5)):  # oil
        part, weight = zone(40, 260)
        spot = 3 * weight * noise(part, 90, 50) + .5 * noise(part, 9, 7)
        part *= 1 - rng.uniform(.08, .25) * np.clip(spot - 1.2, 0, 1)
    for _ in range(rng.integers(1, 6) * (rng.random() < reflections)):  # white splashes with a dark eye
        part, weight = zone(15, 70)
        splash = noise(part, 30, 10) + .5 * noise(part, 5, 4) + weight
        part[(splash > 1.5) & (splash < 2.6)] = 250
    for _ in range(rng.poisson(1.5)):  # faint streaks
        part, _ = zone(20, 60)
        top, end = np.sort(rng.integers(0, height + 1, 2)) if rng.random() < .6 else (0, height)
        if end - top > 2:
            lines = _lines(rng, part[top:end].shape, rng.integers(1, 3), rng.uniform(1, 3) * unit)
            part[top:end] *= 1 - rng.uniform(-.1, .3) * lines
    dust = rng.integers(0, gray.size, rng.poisson(150))
    gray.ravel()[dust] *= rng.choice([.55, 1.6], len(dust))
    if rng.random() < .3:
        _defects(rng, gray, np.zeros((4, *gray.shape), bool), rng.choice([1, 2, 3, 3]), left, right, unit, visible=.25)


def _band(rng, gray, left, right, unit):
    """Paints the black beyond the strip's edge, and the strip's bright or dark rim, in place."""
    away = np.arange(gray.shape[1], dtype=np.float32) - left if left else right - 1 - np.arange(gray.shape[1])
    reach = rng.uniform(3, 40) * unit
    gray *= 1 + rng.choice([-.4, .3, .8]) * np.exp(-((np.maximum(away, 0) / reach) ** 4)).astype(np.float32)
    dark = gray[:, :left] if left else gray[:, right:]
    dark[:] = 1.5 + dark % 3
