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
# On this page *proved* are the sizes, the shift and tiles = whole sheet (asserted for whatever weights and images);
# *recorded* is what the shift, the filling and tiles by themselves cost in Dice (the study `geometry`); *toy* is how many pixels seams flip,
# seen here on one sheet with one small network. The strategy is from
# [Ronneberger et al. 2015](https://arxiv.org/abs/1505.04597), Figures 1 and 2.

# %%
# Setup: pip installs steelnb where it is missing, as on Colab; torch and NumPy stay as they are.
import importlib.util, os, subprocess, sys  # isort: skip
if not getattr(importlib.util.find_spec("steelnb"), "origin", None):  # a folder of that name is no package
    source = os.environ.get("STEELNB_SPEC") or sys.exit("no address yet: set STEELNB_SPEC, or make address")
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], capture_output=True, text=True)
    assert done.returncode == 0, f"pip could not install {source}:\n{done.stderr}"

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import steelnb
from steelnb import runtime
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
if pretrained.SERIES.exists():
    network = steelnb.load_network(pretrained.SERIES)
    print(f"loaded, not trained here: {pretrained.SERIES.name}, {network.metadata['steps']:,} steps on "
          f"{network.metadata['data']['name']}")
else:
    run = runtime.new_run("02_overlap_tile")
    steelnb.train(data, run, steelnb.recipes.SMOKE)
    network = steelnb.load_network(run)
    print("no weights came with this copy: trained here for a minute")
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
# continues the texture. The original repeated the edge pixel, which NumPy calls `symmetric`, not `reflect`. *Which pixel
# stands at place i* is one line, and it goes on for ever, further than one width of the image:

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
# the **blue** one. Drag the tile along the strip and into a corner: how much of what it sees does the mirror make up?

# %%
def largest_defect(data):
    return max(data.rows.itertuples(), key=lambda row: (row.area < 60_000) * row.area).ImageId


image_id = largest_defect(data)
image, mask = data.image(image_id), data.mask(image_id)
widgets.explore_overlap_tile(image)

# %%
tile_window.draw_overlap_tile(image)
plt.show()
first = tile_window.tile_window(image.shape, 0, 0, 176)
largest = tile_window.tile_window(image.shape, 0, 0, max(image.shape))
assert largest.pixels * first.tile.height * first.tile.width <= first.pixels * image.size
print(f"pixels seen for a pixel predicted: {first.pixels / first.tile.height / first.tile.width:.1f} with this tile, "
      f"{largest.pixels / image.size:.1f} with one as large as the image")

# %% [markdown]
# *Figure 1: The overlap-tile strategy on steel, after Figure 2 of Ronneberger et al. Black dashes: the image. Bluish:
# the mirror. Yellow: the pixels to predict. Blue: the pixels that a depth-4 U-Net must see for them, 92 more on every side.*
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
print(f"largest difference of a logit: my loop and the library's {np.abs(tiled - library).max():.0e}, "
      f"tiles and whole sheet {np.abs(tiled - whole).max():.0e}, of {scale:.0f}")
assert np.abs(tiled - library).max() < 1e-5 * scale
assert np.abs(tiled - whole).max() < 1e-5 * scale

# %%
found = tiled > 0  # a logit above 0 is a probability above ½
tiling.draw_sheet_to_mask(sheet, found, label, model.grid, side)
plt.show()
overlap = 2 * (found & label).sum() / (found.sum() + label.sum())
print(f"Dice of this mask with its label, at p > ½: {overlap:.2f}")

# %% [markdown]
# *Figure 2: From sheet to mask. Middle: what the network is given; bluish is the mirrored border, yellow the tiles, dark
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
print("                        largest Δp   pixels of the mask that flip   of its defect pixels")
for name, logits in {**{names[fill]: by_themselves[fill] for fill in names}, "overlap-tile": tiled}.items():
    changed = ((logits > 0) != (whole > 0)).sum()
    print(f"{name:<22}  {difference(logits).max():>10.1e}  {changed:>29,}  {changed / max(1, (whole > 0).sum()):>20.1%}")
assert difference(tiled).max() < 1e-4 < difference(by_themselves["symmetric"]).max()

# %%
tiling.draw_differences({
    "Tiles alone, zeros beyond them": difference(by_themselves["constant"]),
    "Tiles alone, mirrored": difference(by_themselves["symmetric"]),
    "Overlap-tile: rounding": difference(tiled),
})
plt.show()

# %% [markdown]
# *Figure 3: Tiles against the whole sheet. Alone, each tile errs along its border, where its neighbours would have gone
# on. Zeros change more than a mirror: in its training images such darkness stood for the end of the strip. With their
# surroundings, tiles differ from the whole sheet by rounding.*
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
print(f"zeros instead of the mirror flip {changed.sum():,} pixels of the mask; probabilities change up to "
      f"{1 + from_edge[difference(zeros) > 1e-6].max()} pixels from the edge")
assert difference(zeros)[from_edge > margin + 8].max(initial=0) < 1e-6

tiling.draw_differences({"Zeros beyond the sheet against the mirror": difference(zeros)})
plt.show()

# %% [markdown]
# *Figure 4: What a border of zeros changes. No pixel further than the margin (and the rhythm of the poolings) from the
# edge can notice.*
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

figure, ax = plt.subplots(figsize=(6, 2.4))
ax.bar(offsets, np.maximum(off, 1e-7), color=[plots.PREDICTION if offset % 8 == 0 else plots.DEFECT for offset in offsets])
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
for n, name in ((430, "height"), (1780, "width"), (444, "height"), (1788, "width")):
    met = geometry.levels(n)
    print(f"{name:<6} {n:>4}: skip → needed", *[f"{m.skip:>4} → {m.up:<4}" for m in met], "shift", geometry.skew(n))
strides = [m.stride for m in geometry.levels(1780)]
print("at 1780, shift in cells of the level:", [s / n for s, n in zip(geometry.skew(1780), strides, strict=True)])
assert geometry.skew(1780) == [8, 4, 4, 4]
assert geometry.skew(430) == [0, 0, 2, 1]
assert strides == [8, 4, 2, 1]

# %% [markdown]
# Eight pixels at the deepest level, four at each finer one, always to the same side. Eight sounds like much: at that
# level a cell stands for 8 × 8 pixels (its *stride* is 8), so it is **one cell**; at the finest level four pixels are four
# cells. That is arithmetic. Is it true of a network? Let the **gray value be the coordinate** and every kernel an
# average; the output is then the coordinate that the network looks at. A max pooling takes the larger neighbour, so ask
# twice, with the ramp rising and falling: the mean of both is the centre. To measure one path, cut the others off.


# %%
def one_path(model, level=None):
    """Averaging kernels, and one path left: the skip at `level`, or (None) the deep path through the bottom."""
    model = model.double().eval()
    for name, weight in model.named_parameters():
        inputs = weight.shape[0] if name.startswith("up") else weight[0].numel()
        torch.nn.init.constant_(weight, 1 / inputs if name.endswith("weight") else 0)
    for at, block in enumerate(model.decoder):
        weight = block[0].weight.data
        half = weight.shape[1] // 2  # the skip's channels come first
        weight[:, :half] *= 2 if at == level else 0
        weight[:, half:] *= 0 if at == level else 2
    return model


def columns_seen(width, level=None):
    """The column of the input that each column of the output looks at."""
    model = one_path(UNet(width=1, norm="none", crop="ceil"), level)
    ramp = torch.arange(width, dtype=torch.float64).expand(1, 1, 188, width)
    with torch.inference_mode():
        return ((model(ramp) + width - model(width - ramp)) / 2)[0, 0].mean(0)


# %% tags=["nbval-check-output"]
print("width   level: columns between a skip and the deep path, measured (predicted)")
for width_in in (430, 1780, 1788):
    deep = columns_seen(width_in)
    measured = [abs((columns_seen(width_in, level) - deep).mean().item()) for level in (3, 2, 1, 0)]
    predicted = geometry.skew(width_in)
    assert np.allclose(measured, predicted, atol=1e-6)
    print(f"{width_in:>5}  ", *[f"{m:4.1f} ({p:g})" for m, p in zip(measured, predicted, strict=True)])

# %% [markdown]
# The network confirms the arithmetic, to six digits. The original also left a frame of six pixels that no output pixel
# covers. The repair of both is the smallest input of the form 16*k* − 4 whose output covers the image: 444 × 1788.

# %% tags=["nbval-check-output"]
out = geometry.output_size(430), geometry.output_size(1780)
unseen = 1 - out[0] * out[1] / (256 * 1600)
assert out == (244, 1588)
assert round(unseen, 3) == 0.054
n = geometry.input_size(256), geometry.input_size(1600)
assert geometry.skew(n[0]) == geometry.skew(n[1]) == [0, 0, 0, 0]
before = sum(layer.macs for layer in cost(UNet.original(), 430, 1780))
after = sum(layer.macs for layer in cost(UNet(), *n))
print(f"original: 430×1780 → {out[0]}×{out[1]}, {unseen:.1%} of a 256×1600 image never predicted")
print(f"repair:   {n[0]}×{n[1]} → {geometry.output_size(n[0])}×{geometry.output_size(n[1])}")
print(f"{before / 1e9:.0f} → {after / 1e9:.0f} billion multiply-adds: {after / before - 1:+.1%}")
try:
    UNet(width=1)(torch.zeros(1, 1, 430, 1780))
except geometry.GeometryError as error:
    print("the repaired network refuses other sizes:", error)
else:
    raise AssertionError("430 should have been refused")

# %% [markdown]
# ### What does it cost in Dice?
#
# A network can learn to live with a constant shift, so arithmetic does not answer this; trainings do. The study
# `geometry` trains small U-Nets (width 4) on 900 real images, SD-saliency-900, shrunk to 48 × 48, with the same first
# weights and order of images: exact; skewed as the original's; with zeros or the repeated edge pixel in place of the
# mirror; and padded inside (*same*). Its rule, written down before: two are the same where the 95 % interval of the
# difference in Dice on held-out images lies within ±0.02; one is worse where it lies below 0.


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
    state = "finished" if len(study) >= PLANNED else "provisional"
    print(f"{state}: {len(study)} of {PLANNED} trainings; Dice less that of the exact network, chosen threshold")
    print("depth  steps  arm             seeds  whole image                near the border")
    for (depth, steps), part in study.groupby(["depth", "steps"]):
        for arm in ("skewed", "zeros", "edge", "same", "same, mirrored"):
            if found_pair := paired(part, arm, "dice"):
                mean, low, high, seeds = found_pair
                border = paired(part, arm, "border")
                verdict = "same" if low > -0.02 and high < 0.02 else "worse" if high < 0 else "open"
                print(f"{depth:>5}  {steps:>5}  {arm:<14}  {seeds:>5}  {mean:+.3f} [{low:+.3f} … {high:+.3f}] {verdict:<5}"
                      f" {border[0]:+.3f} [{border[1]:+.3f} … {border[2]:+.3f}]")

# %% [markdown]
# Where a row says *same*, the repair earns no Dice, and none is claimed for it: then it is worth its whole border and
# tiles that fit together. Where it says *open*, the trainings so far cannot tell. The study also cut its images into tiles
# of 24 × 24, in three ways: by themselves (*naive*), by themselves with half of each overlapping the next and blended, and
# overlap-tile:

# %%
if study is not None:
    print("network  depth  steps  seeds  tiles         flipped, of the defect pixels   Dice near seams (the whole image's)")
    for (arm, depth, steps), part in study.dropna(subset=["tiles"]).groupby(["arm", "depth", "steps"]):
        ways = part["tiles"].tolist()
        for way in [way for way in ways[0] if way != "whole"]:
            flipped, there, intact = (np.mean([each[name][number] for each in ways]) for name, number in (
                (way, "of_defect"), (way, "seam_dice"), ("whole", "seam_dice")))
            print(f"{arm:<7}  {depth:>5}  {steps:>5}  {len(ways):>5}  {way:<12}  {flipped:>29.1%}   {there:.3f} ({intact:.3f})")
    exact = [each["overlap-tile"]["of_defect"] for each in study.loc[study["arm"] == "exact", "tiles"]]
    assert not any(exact), "overlap-tile flips pixels in a record"

# %% [markdown]
# In every record overlap-tile flips no pixel; the other ways differ from the whole image, and most for the padded (*same*)
# network, whose tiles meet zeros on all sides.
#
# ## 7 · Any network
#
# Most networks today pad inside: their output is as large as their input, and nobody mirrors anything. They can be
# tiled without a seam as well, if each window carries all surroundings that can change what is kept of it, and starts on
# the grid of the network's strides. Both numbers can be *measured*, with a dye that no weight washes out: NaN. Stain one
# column, and see which outputs it reaches. `find_grid` does that for any `nn.Module`; here for the network that `steelnb
# predict` uses, a padded U-Net on EfficientNet's first blocks:

# %% tags=["nbval-check-output"]
lite = steelnb.load_network(pretrained.STEEL).model
grid = find_grid(lite)
print(f"margin {grid.margin} pixels, stride {grid.stride}")
assert (grid.margin, grid.stride) == (lite.grid.margin, lite.grid.stride)

squeeze = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.InstanceNorm2d(4))
try:
    find_grid(squeeze)
except ValueError as error:
    print("refused:", error)
else:
    raise AssertionError("a norm over the whole image cannot be tiled")

# %% [markdown]
# 208 pixels on every side is a lot: most of that can change an output, but hardly does. How much is lost with less?
# `margin_errors` compares tiles with the whole, for your network and your image:

# %%
piece = sheet[:256, :384]
margins = [0, 16, 32, 48, 64, 96, 128, 160, 208]
errors = inference.margin_errors(lite, piece, margins, tile=128)
print("margin  largest Δp   pixels seen for a pixel predicted, tiles of 256")
for margin, error in errors.items():
    print(f"{margin:>6}  {error:>10.1e}  {(256 + 2 * margin) ** 2 / 256**2:>6.1f}")
assert errors[208] < 1e-4

figure, ax = plt.subplots(figsize=(6, 2.6))
ax.plot(margins, np.maximum([*errors.values()], 1e-7), "o-", color=plots.PREDICTION)
ax.set(yscale="log", xticks=margins, xlabel="margin (px)", ylabel="largest difference\nof a probability",
       title="The error falls as tiles see more of their surroundings")
plt.show()

# %% [markdown]
# *Figure 6: The pretrained network in tiles of 128 × 128 against the whole piece of sheet (one image). Margin 0 is what
# is commonly done: tiles by themselves, padded with zeros inside the network. 208 is exact.*
#
# So choose a margin by the error that you can bear: `python -m steelnb predict --margin 128 …`, or
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
price = f"{after / before - 1:+.1%} work"
print(f"tiles = whole sheet; tiles alone flip {flips['symmetric']:,} pixels (zeros: {flips['constant']:,}); "
      f"the original's shift measured; {unseen:.1%} of border repaired for {price}")

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
