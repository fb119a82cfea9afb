# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Overlap-tile: a whole sheet, and a strip without end
#
# **How does a network that shrinks its input segment a whole sheet, and a strip without end?** Each tile is shown the
# surroundings that the network consumes, beyond the sheet's edge a mirror image stands in for them, and every tile starts
# at a multiple of 2^depth. Then any tiling gives the same mask as the whole sheet, border included; without the
# surroundings, seams appear. The same holds for a network that pads, once its margin is known.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/your--name/steelnb/blob/v0.1.0/notebooks/02_overlap_tile.ipynb)
# [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/your--name/steelnb/blob/v0.1.0/notebooks/02_overlap_tile.ipynb)
#
# | what you will learn | what it needs |
# |---|---|
# | the crop with its mirrored window and the tiling loop, in a few lines each | a CPU, about a minute |
# | what tiles by themselves, zeros and skewed skips change in a mask | a trained network, which comes with steelnb |
# | how to tile a network of your own, and how large its margin has to be | nothing to download |
#
# - *Proved*: the sizes, the shift, and tiles = whole sheet, for whatever weights and images.
# - *Recorded*: what the shift, the filling and tiles by themselves cost in Dice (study `geometry`).
# - *Toy*: how many pixels seams flip, on one sheet with one small network.
#
# The strategy is from [Ronneberger et al. 2015](https://arxiv.org/abs/1505.04597), Figures 1 and 2.

# %%
# Setup: pip installs steelnb where it is missing, as on Colab; torch and NumPy stay as they are.
import importlib.util, os, subprocess, sys  # isort: skip
if not getattr(importlib.util.find_spec("steelnb"), "origin", None):  # a folder of that name is no package
    source = os.environ.get("STEELNB_SPEC") or sys.exit("no address yet: set STEELNB_SPEC, or make address")
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], capture_output=True, text=True)
    assert done.returncode == 0, f"pip could not install {source}:\n{done.stderr}"

# %%
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import torch

import steelnb
from steelnb import runs, runtime
from steelnb.data import sources
from steelnb.evaluation import recorded
from steelnb.figures import plots, tile_window, tiling, widgets
from steelnb.network import geometry, inference, pretrained, tiles
from steelnb.network.receptive_field import find_grid
from steelnb.network.unet import UNet, cost

plots.use_style()
data = sources.open_dataset(progress=False)
print(data.describe())

# %% [markdown]
# One trained network runs through this series: a small U-Net (an eighth of the original's width, three poolings instead
# of four) that has seen synthetic steel only. It comes with the library:

# %%
network = runs.series_network()
model = network.model

# %% [markdown]
# ## 1 · A valid convolution takes two pixels
#
# A 3×3 convolution without padding (a *valid* one, see the [glossary](00_start_here.ipynb)) has no answer at the
# outermost pixels, so each one takes a pixel on every side. A U-Net has two of them at each level on the way down, two at
# the bottom, two at each level on the way up; a pooling halves, a transposed convolution doubles. That is all:


# %%
def output_size(n, depth):
    for _ in range(depth):
        n = (n - 4) // 2  # two convolutions, one pooling that rounds down
    n = n - 4
    for _ in range(depth):
        n = 2 * n - 4  # one transposed convolution, two convolutions
    return n


assert all(output_size(n, 4) == geometry.output_size(n, 4) for n in range(188, 3000))
print("depth 4:", {n: output_size(n, 4) for n in (572, 430, 1780, 444, 1788)})

# %% [markdown]
# 572 → 388 is the paper's Figure 1. 430 × 1780 → 244 × 1588 is what the original (2020) fed and got for its 256 × 1600
# images ([`dosp0911/Steel_image_Segmentation`](https://github.com/dosp0911/Steel_image_Segmentation): margins of 87 and 90
# pixels): twelve rows and twelve columns are missing. Does a network agree, at every depth?

# %% tags=["nbval-check-output"]
print("depth  margin a side  sizes that work       smallest  256 needs  1600 needs")
for depth in range(1, 7):
    n = geometry.input_size(1, depth)
    with torch.inference_mode():
        seen = UNet(width=1, depth=depth)(torch.zeros(1, 1, n, n + 2**depth)).shape
    assert list(seen[2:]) == [geometry.output_size(n, depth), geometry.output_size(n + 2**depth, depth)]
    rule = f"{2**depth}k − 4"
    needs = geometry.input_size(256, depth), geometry.input_size(1600, depth)
    print(f"{depth:>5}  {geometry.margin(depth):>13}  {rule:<20}  {n:>8}  {needs[0]:>9}  {needs[1]:>10}")

# %% [markdown]
# ## 2 · Beyond the edge: a mirror
#
# To predict the first pixel of a sheet, our network of depth 3 must be shown 44 pixels that do not exist. A mirror image
# continues the texture. The original's mirror shows the edge pixel twice (NumPy: `symmetric`; `reflect` shows it once).
# *Which pixel stands at place i* is one line, and it goes on for ever, further than one width of the image:

# %% tags=["nbval-check-output"]
def mirror_index(start, stop, size):
    place = np.arange(start, stop) % (2 * size)
    return np.minimum(place, 2 * size - 1 - place)


places = tiles.mirror_index(-5, 9, size=4)
print("place", *[f"{i:>3}" for i in range(-5, 9)])
print("pixel", *[f"{i:>3}" for i in places])
assert np.array_equal(places, np.pad(np.arange(4), 5, mode="symmetric"))
assert np.array_equal(places, mirror_index(-5, 9, 4))

# %% [markdown]
# With it, the crop of a tile with its mirrored window is four lines. It is the library's, pixel for pixel:


# %%
def window_of(image, top, left, height, width, depth):
    """The pixels that a network sees for height × width pixels from (top, left) on: uint8 [h, w]."""
    margin = geometry.margin(depth)
    rows = mirror_index(top - margin, top - margin + geometry.input_size(height, depth), image.shape[0])
    columns = mirror_index(left - margin, left - margin + geometry.input_size(width, depth), image.shape[1])
    return image[rows[:, None], columns]


image = data.image(data.images["ImageId"].iloc[0])
for place in tiles.tiles(*image.shape, 96, depth=3):
    assert np.array_equal(window_of(image, *place, depth=3), tiles.input_window(image, place, depth=3))

# %% [markdown]
# The paper's Figure 2 on steel, at the original's depth of 4: to predict the **yellow** rectangle, the network must see
# the **turquoise** one. In a live notebook, drag the tile along the strip and into a corner: how much of what it sees
# does the mirror make up?

# %%
def largest_defect(data):
    return max(data.rows.itertuples(), key=lambda row: (row.area < 60_000) * row.area).ImageId


image_id = largest_defect(data)
image, mask = data.image(image_id), data.mask(image_id)
widgets.explore_overlap_tile(image, side=256)

# %%
tile_window.draw_overlap_tile(image, side=256)
plt.show()
first = tile_window.tile_window(image.shape, 0, 0, 256)
largest = tile_window.tile_window(image.shape, 0, 0, max(image.shape))
assert largest.pixels * first.tile.height * first.tile.width <= first.pixels * image.size
print(f"pixels seen for a pixel predicted: {first.pixels / first.tile.height / first.tile.width:.1f} with this tile, "
      f"{largest.pixels / image.size:.1f} with one as large as the image")

# %% [markdown]
# *Figure 1: The overlap-tile strategy on steel, after Figure 2 of Ronneberger et al. Black dashes: the image; paler: not
# seen. Tinted: the mirror. Yellow: the pixels to predict. Turquoise: the pixels that a depth-4 U-Net must see for them,
# 92 more on every side.*
#
# In small tiles most of the computation is margin. So a tile is as large as memory allows.
#
# ## 3 · From sheet to mask
#
# The tiling loop: for each tile its window, the network's answer, the part of it that belongs to the tile.


# %%
def segment_by_tiles(model, image, side):
    """Logits of every pixel, float32 [H, W], tile by tile; `side` is a multiple of 2^depth."""
    logits = np.empty(image.shape, np.float32)
    for top in range(0, image.shape[0], side):
        for left in range(0, image.shape[1], side):
            height, width = min(side, image.shape[0] - top), min(side, image.shape[1] - left)
            window = window_of(image, top, left, height, width, model.depth)
            with torch.inference_mode():
                answer = model(torch.from_numpy(window)[None, None].float() / 255)[0, 0].numpy()
            logits[top : top + height, left : left + width] = answer[:height, :width]
    return logits


middle = int(np.argwhere(mask)[:, 1].mean())
left = int(np.clip(middle - 320, 0, max(0, image.shape[1] - 640))) // 16 * 16
sheet, label = image[:, left : left + 640], mask[:, left : left + 640]  # the rest is only smaller on the page
side = max(8, min(128, max(sheet.shape) // 16 * 8))  # at least two tiles
whole = inference.predict_logits(model, sheet)[0]
tiled = segment_by_tiles(model, sheet, side)
library = inference.predict_logits(model, sheet, tile=side)[0]
scale = np.abs(whole).max()
print(f"largest difference of a logit, of {scale:.0f}: my loop and the library's {np.abs(tiled - library).max():.0e}, "
      f"tiles and whole sheet {np.abs(tiled - whole).max():.0e}")
assert np.abs(tiled - library).max() < 1e-5 * scale
assert np.abs(tiled - whole).max() < 1e-5 * scale

# %%
found = tiled > 0  # a logit above 0 is a probability above ½
tiling.draw_sheet_to_mask(sheet, found, label, model.grid, side)
plt.show()
overlap = 2 * (found & label).sum() / (found.sum() + label.sum())
print(f"Dice of this mask with its label, at p > ½: {overlap:.2f}")

# %% [markdown]
# *Figure 2: From sheet to mask. Middle: what the network is given; tinted is the mirrored border, yellow the tiles, dark
# blue the window of one of them. Below: green is found, orange missed, pink a false alarm.*
#
# ## 4 · Tiles by themselves
#
# And without the surroundings, each tile cut out and segmented by itself, its own border mirrored (or filled with
# zeros)? **Predict before you run:** what share of the mask's pixels changes?


# %%
def alone(model, image, side, fill):
    """Logits, float32 [H, W], of tiles that see nothing of each other; `fill` is numpy.pad's mode beyond a tile."""
    logits = np.empty(image.shape, np.float32)
    margin = model.grid.margin
    for place in tiles.tiles(*image.shape, side, model.grid):
        sides = [geometry.input_size(n, model.depth) - n - margin for n in (place.height, place.width)]
        window = np.pad(image[place.region], [(margin, more) for more in sides], mode=fill)
        with torch.inference_mode():
            logits[place.region] = model(inference.to_tensor(window))[0, 0, : place.height, : place.width].numpy()
    return logits


def difference(logits):
    return np.abs(inference.probability(logits) - inference.probability(whole))


by_themselves = {fill: alone(model, sheet, side, fill) for fill in ("symmetric", "constant")}
flips = {fill: ((logits > 0) != (whole > 0)).sum() for fill, logits in by_themselves.items()}
names = {"symmetric": "tiles alone, mirrored", "constant": "tiles alone, zeros"}
print("largest Δp  pixels that flip  of the mask's")
for name, logits in {**{names[fill]: by_themselves[fill] for fill in names}, "overlap-tile": tiled}.items():
    changed = ((logits > 0) != (whole > 0)).sum()
    print(f"{difference(logits).max():>10.1e}  {changed:>16,}  {changed / max(1, (whole > 0).sum()):>13.1%}  {name}")
assert difference(tiled).max() < 1e-4 < difference(by_themselves["symmetric"]).max()

# %%
tiling.draw_differences({
    "Tiles alone, mirrored": difference(by_themselves["symmetric"]),
    "Tiles alone, zeros beyond them": difference(by_themselves["constant"]),
    "Overlap-tile: rounding": difference(tiled),
})
plt.show()

# %% [markdown]
# *Figure 3: Tiles against the whole sheet. Alone, each tile errs along its border, where its neighbours would have gone
# on. Zeros change more than a mirror, probably because such darkness stood for the end of the strip in its training
# images. With their surroundings, tiles differ from the whole sheet by rounding.*
#
# ### Zeros beyond the sheet
#
# A sheet has an edge of its own, where no neighbour exists. What if its border of 44 pixels is zeros, not a mirror?

# %%
margin = model.grid.margin
padded = np.pad(sheet, [(margin, geometry.input_size(n, model.depth) - n - margin) for n in sheet.shape])
with torch.inference_mode():
    zeros = model(inference.to_tensor(padded))[0, 0, : sheet.shape[0], : sheet.shape[1]].numpy()
from_edge = np.minimum.outer(*(np.minimum(np.arange(n), n - 1 - np.arange(n)) for n in sheet.shape))
changed = (zeros > 0) != (whole > 0)
print(f"zeros instead of the mirror flip {changed.sum():,} pixels of the mask;\nprobabilities change up to "
      f"{1 + from_edge[difference(zeros) > 1e-6].max()} pixels from the edge")
assert difference(zeros)[from_edge > margin + 8].max(initial=0) < 1e-6

tiling.draw_differences({"Zeros beyond the sheet against the mirror": difference(zeros)})
plt.show()

# %% [markdown]
# *Figure 4: What a border of zeros changes: nothing further from the edge than the margin and, by the position modulo 8,
# a few pixels more.*
#
# Both fillings are invented, and this network was *trained* with mirrors. What a network loses that is trained with zeros
# from the start, section 6 takes from the record.
#
# ## 5 · Tiles start on the grid
#
# Tiles equal the whole if the poolings fall on the same pixels, that is, if windows start at multiples of 2^depth, here
# 8. **Predict:** what happens to a tile that starts 4 pixels off?


# %%
def predict_at(offset, left, size=64):
    """Columns left … left + size, from a window that starts `offset` pixels off the grid."""
    window = window_of(sheet, 0, left - offset, sheet.shape[0], size + 8, model.depth)
    with torch.inference_mode():
        return model(inference.to_tensor(window))[0, 0, : sheet.shape[0], offset : offset + size].numpy()


at = max(0, sheet.shape[1] // 2 - 32) // 8 * 8
offsets = range(9)
off = [np.abs(predict_at(offset, at)[:, : sheet.shape[1] - at] - whole[:, at : at + 64]).mean() for offset in offsets]
assert max(off[0], off[8]) < 1e-5 * scale < min(off[1:8])

figure, ax = plt.subplots(figsize=(plots.NARROW, 2.4))
ax.bar(offsets, np.maximum(off, 1e-7), color=[plots.PREDICTION if offset % 8 == 0 else plots.INK for offset in offsets])
ax.set(yscale="log", xlabel="tile starts this many pixels off the grid", ylabel="mean |Δ logit|",
       title="Multiples of 8 give the whole sheet's answer")
plt.show()

# %% [markdown]
# *Figure 5: The same columns, predicted from windows that start 0 to 8 pixels off the grid. At 0 and 8 rounding remains;
# between, the poolings pair other pixels, and the answer changes.*
#
# ## 6 · The original's sizes: a hidden shift
#
# The original mirrored 87 and 90 pixels to reach 430 × 1780. Neither is of the form 16*k* − 4, so somewhere a pooling
# meets an odd number and drops a row. The decoder then puts the encoder's features (the *skip*) beside features that
# came from below, and the two no longer look at the same place.
#
# **Predict before you run:** by how many input pixels, at worst?

# %% tags=["nbval-check-output"]
print("      level   shift (px)   in cells of the level")
for n in (430, 1780):
    for level, (met, shift) in enumerate(zip(reversed(geometry.levels(n)), reversed(geometry.skew(n)), strict=True)):
        print(f"{n:>5}{level:>6}{shift:>13g}{shift / met.stride:>18g}")
assert geometry.skew(1780) == [8, 4, 4, 4]  # from the deepest level up
assert geometry.skew(430) == [0, 0, 2, 1]

# %% [markdown]
# Eight pixels at the deepest level, four at each finer one, always to the same side. Eight sounds like much: at that
# level a cell stands for 8 × 8 pixels (its *stride* is 8), so it is **one cell**; at the finest level four pixels are four
# cells. A test of the library holds networks to this arithmetic: with averaging kernels, and the gray value as the
# coordinate, a network puts out the coordinate that it looks at (`tests/network/test_geometry.py`).
#
# The original also left a frame of six pixels that no output pixel covers. The repair of both is the smallest input of
# the form 16*k* − 4 whose output covers the image: 444 × 1788.

# %% tags=["nbval-check-output"]
out = geometry.output_size(430), geometry.output_size(1780)
unseen = 1 - out[0] * out[1] / (256 * 1600)
assert out == (244, 1588)
assert round(unseen, 3) == 0.054
n = geometry.input_size(256), geometry.input_size(1600)
assert geometry.skew(n[0]) == geometry.skew(n[1]) == [0, 0, 0, 0]  # no shift at any level
before = sum(layer.macs for layer in cost(UNet.original(), 430, 1780))
after = sum(layer.macs for layer in cost(UNet(), *n))
print(f"original: 430×1780 → {out[0]}×{out[1]}, {unseen:.1%} of a 256×1600 image never predicted")
print(f"repair:   {n[0]}×{n[1]} → {geometry.output_size(n[0])}×{geometry.output_size(n[1])}")
print(f"{before / 1e9:.0f} → {after / 1e9:.0f} billion multiply-adds: {after / before - 1:+.1%}")
try:
    UNet(width=1)(torch.zeros(1, 1, 430, 1780))
except geometry.GeometryError as error:
    print(textwrap.fill(f"the repaired network refuses other sizes: {error}", 90))
else:
    raise AssertionError("430 should have been refused")

# %% [markdown]
# ### What does it cost in Dice?
#
# A network can learn to live with a constant shift, so arithmetic does not answer this; trainings do. The study
# `geometry` trains small U-Nets (width 4) on 900 real images, SD-saliency-900, shrunk to 48 × 48, with the same first
# weights and order of images: exact; skewed as the original's; with zeros or the last pixel repeated outwards
# (*edge*, as NumPy calls it) in place of the mirror; and *padded* inside. Its rule, written down before: two are equal
# where the 95 % interval of the difference in Dice on held-out images lies within ±0.02; one is worse where it lies below
# 0, better where it lies above.


# %%
def paired(part, arm, place):
    """Mean difference from the exact network, same seeds and images, its 95 % interval, the number of seeds."""
    lists = part.set_index(["arm", "seed"])[f"image_{place}"].map(lambda dices: np.array(dices, float))
    seeds = [seed for way, seed in lists.index if way == arm and ("exact", seed) in lists.index]
    if not seeds:
        return None
    each = np.array([lists[arm, seed] - lists["exact", seed] for seed in seeds])  # NaN: no defect there
    rng = np.random.default_rng(0)
    drawn = [np.nanmean(each[np.ix_(*(rng.integers(0, n, n) for n in each.shape))]) for _ in range(1000)]
    return np.nanmean(each), *np.quantile(drawn, (0.025, 0.975)), len(seeds)


PLANNED = 102  # trainings
try:
    study = recorded.records("geometry")
except FileNotFoundError:
    print("the study has no record yet: what the shift and the fillings cost in Dice is not known")
    study = None
if study is not None:
    state = "finished" if len(study) >= PLANNED else "provisional, verdicts too"
    print(f"{state}: {len(study)} of {PLANNED} trainings; Dice less that of the exact network")
    print("whole image [95 %]        verdict  border  network           depth  steps  seeds")
    longest = study[study["steps"] == study.groupby("depth")["steps"].transform("max")]
    differences = {}
    for (depth, steps), part in longest.groupby(["depth", "steps"]):
        for arm in ("skewed", "zeros", "edge", "same", "same, mirrored"):
            if found_pair := paired(part, arm, "dice"):
                mean, low, high, seeds = found_pair
                differences[arm, depth] = mean, low, high
                verdict = ("equal" if low > -0.02 and high < 0.02 else
                           "worse" if high < 0 else "better" if low > 0 else "open")
                print(f"{mean:+.3f} [{low:+.3f} … {high:+.3f}]  {verdict:<7}  {paired(part, arm, 'border')[0]:+.3f}  "
                      f"{arm.replace('same', 'padded'):<16}  {depth:>5}  {steps:>5}  {seeds:>5}")
    if len(study) >= PLANNED:  # the text below says so
        assert differences["zeros", 2][2] < 0 and differences["skewed", 2][1] < 0 < differences["skewed", 2][2]
        assert differences["skewed", 3][1] > 0 and differences["same", 2][1] < 0 < differences["same", 2][2]

# %% [markdown]
# Read at a threshold chosen on other images, after the largest number of steps; *border*: within 4 of the 48 pixels' edge. So zeros beyond the border cost
# Dice, most of it near the border. The shift costs none that is shown: at depth 2 its interval holds 0, at depth 3 it lies above. The repair is worth its
# tidiness and its seamless tiles, and no claim of a higher Dice is made for it. None of the networks has reached its plateau.
#
# The study also cut its images into
# tiles of 24 × 24, in three ways: by themselves (*naive*), by themselves with half of each overlapping the next and
# blended, and overlap-tile:

# %%
if study is not None:
    print("flipped, of the   Dice near seams\n  defect pixels  (the whole image's)  tiles         network  depth  steps  seeds")
    ratios = {}
    for (arm, depth, steps), part in longest.dropna(subset=["tiles"]).groupby(["arm", "depth", "steps"]):
        ways = part["tiles"].tolist()
        for way in [way for way in ways[0] if way != "whole"]:
            flipped, there, intact = (np.mean([each[name][number] for each in ways]) for name, number in (
                (way, "of_defect"), (way, "seam_dice"), ("whole", "seam_dice")))
            ratios[arm, depth, steps, way] = flipped
            print(f"{flipped:>15.1%}  {there:.3f} ({intact:.3f})        {way:<12}  {arm.replace('same', 'padded'):<7}  "
                  f"{depth:>5}  {steps:>5}  {len(ways):>5}")
    for (arm, depth, steps, way), flipped in ratios.items():
        if arm == "same" and ("exact", depth, steps, way) in ratios:
            print(f"{way}, depth {depth}, {steps} steps: padded flips {flipped / ratios['exact', depth, steps, way]:.1f} times as many")
    exact = [each["overlap-tile"]["of_defect"] for each in study.loc[study["arm"] == "exact", "tiles"]]
    assert not any(exact), "overlap-tile flips pixels in a record"

# %% [markdown]
# In every record overlap-tile flips no pixel of the exact network. The padded network's tiles meet zeros on all sides; the
# last lines compare it with the exact one at the same depth and steps.
#
# ## 7 · Any network
#
# Most networks today pad inside: their output is as large as their input, and nobody mirrors anything. They can be
# tiled without a seam as well, if each window carries all surroundings that can change what is kept of it, and starts on
# the grid of the network's strides. Both numbers can be *measured*, with a dye that no weight washes out: NaN. Stain one
# column, and see which outputs it reaches. `find_grid` does that for any `nn.Module`; here for the network that `steelnb
# predict` uses, a padded U-Net on EfficientNet-Lite0, which has no squeeze-and-excitation:

# %% tags=["nbval-check-output"]
lite = steelnb.load_network(pretrained.STEEL).model
grid = find_grid(lite)
print(f"margin {grid.margin} pixels, stride {grid.stride}")
assert (grid.margin, grid.stride) == (lite.grid.margin, lite.grid.stride)

squeeze = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.InstanceNorm2d(4))
try:
    find_grid(squeeze)
except ValueError as error:
    print(textwrap.fill(f"refused: {error}", 90))
else:
    raise AssertionError("a norm over the whole image cannot be tiled")

# %% [markdown]
# 208 pixels on every side is a lot. How much is lost with less? `margin_errors` compares tiles with the whole, for your
# network and your image:

# %%
piece = sheet[:256, :384]
margins = [0, 16, 32, 48, 64, 96, 128, 160, 208]
errors = inference.margin_errors(lite, piece, margins, tile=128)
print("margin  largest Δp  pixels seen for a pixel predicted")
for margin, error in errors.items():
    print(f"{margin:>6}  {error:>10.1e}  {(128 + 2 * margin) ** 2 / 128**2:>6.1f}")
assert errors[208] < 1e-4
if data.name == "synthetic steel":  # the text below says so
    assert errors[128] < 0.01
    assert errors[64] > 0.4

figure, ax = plt.subplots(figsize=(plots.NARROW, 2.6))
ax.plot(margins, np.maximum([*errors.values()], 1e-7), "o-", color=plots.PREDICTION)
enough = next(margin for margin in margins if errors[margin] < 0.1)
short = min((errors[margin] for margin in margins if margin < enough), default=0)
ax.set(yscale="log", xticks=margins, xlabel="margin (px)", ylabel="largest difference\nof a probability",
       title=f"Below {enough} px some probability is off by {short:.1f} or more")
plt.show()

# %% [markdown]
# *Figure 6: The pretrained network in tiles of 128 × 128 against the whole piece of sheet (one image). Margin 0 is what
# is commonly done: tiles by themselves, padded with zeros inside the network. 208 is exact (0, drawn at 10⁻⁷).*
#
# The outermost 80 pixels hardly matter: with a margin of 128 no probability moves by 0.01, with 64 some move by 0.4. So
# choose a margin by the error that you can bear: `python -m steelnb predict --margin 128 …`, or
# `model.grid = inference.grid_with_margin(model, 128)`. A valid network has no such choice; it insists on its margin.
#
# ## 8 · A strip without end
#
# If tiles equal the whole, the whole never needs to be in memory. Steel comes off the mill as a strip, so let it: the
# image below is a memory map, the mask another, and between them only one tile lives at a time.

# %%
import tempfile
from pathlib import Path


def segment_strip(model, folder, length, tile=(256, 1024)):
    """Segments a strip of `length` columns from file to file; the peak memory of this process afterwards, in MB."""
    strip = np.memmap(Path(folder) / "strip.u8", np.uint8, "w+", shape=(length // 256, 256, 256))
    strip[:] = sheet[:256, :256] if min(sheet.shape) >= 256 else 90
    strip = strip.reshape(256, length)
    mask = np.memmap(Path(folder) / "mask.u8", bool, "w+", shape=strip.shape)
    for place, logits in inference.iter_logits(model, strip, tile):
        mask[place.region] = logits[0] > 0
    return runtime.peak_memory()


with tempfile.TemporaryDirectory() as folder:
    peaks = {length: segment_strip(model, folder, length) for length in (4096, 8192, 65536)}
for length, peak in peaks.items():
    print(f"256 × {length:>6}: peak memory of this process {peak:.0f} MB")
grown = peaks[65536] - peaks[8192]
logits = 256 * 65536 * 4 / 2**20
print(f"a strip 8 times as long took {max(grown, 0):.0f} MB more; its logits alone would be {logits:.0f} MB")
assert not grown >= 60  # NaN on Windows

# %% tags=["headline"]
print(f"tiles = whole sheet; alone they flip {flips['symmetric']:,} pixels (zeros: {flips['constant']:,}); "
      f"{unseen:.1%} of border repaired")

# %% [markdown]
# ## What to remember
#
# - A valid U-Net of depth 4 takes 92 pixels a side (depth 3: 44); sound inputs are 16*k* − 4 (8*k* − 4). The original's
#   430 × 1780 shifted its skips by up to 8 pixels, one cell at that level, and left 5.4 % of each image unpredicted;
#   444 × 1788 repairs both for 6 % more work. Whether that gains Dice, the record says, not the arithmetic.
# - A tile needs its surroundings: true ones inside the sheet, a mirror beyond it. With them, and on the grid, tiles give
#   the whole sheet's answer up to rounding, for any weights. Alone, they leave seams.
# - So memory is bounded by the tile, and a strip may be of any length. A padded network takes part as soon as its margin
#   and stride are known.
#
# ## Exercises
#
# 1. The original's crops start at `ceil`. What would `floor` have changed? Try `geometry.skew(1780, crop="floor")`.
# 2. Why is the shift at the deepest level twice that of the next one? Follow 1780 through four poolings by hand.
# 3. Blend overlapping tiles with weights that fall towards their borders instead of giving them surroundings. How many
#    pixels flip, and what does it cost in time?
#
# ## Further reading
#
# - Ronneberger, Fischer, Brox 2015, [U-Net](https://arxiv.org/abs/1505.04597): Figure 2 and section 3.
# - Odena et al. 2016, [Deconvolution and checkerboard artifacts](https://distill.pub/2016/deconv-checkerboard/).
# - Next: [03 · What does this U-Net see, and what does it cost?](03_unet.ipynb)
