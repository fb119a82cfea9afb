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
# **How does a network that shrinks its input segment a whole sheet?** Give it the neighbourhood that it eats, mirror
# what lies beyond the edge, and start every tile at a multiple of 2^depth: then any tiling gives the same mask as the
# whole image, border included.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/your--name/steelnb/blob/v0.1.0/notebooks/02_overlap_tile.ipynb)
# [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/your--name/steelnb/blob/v0.1.0/notebooks/02_overlap_tile.ipynb)
#
# | what you will learn | what it needs |
# |---|---|
# | why 572 becomes 388, and which input sizes are sound | a CPU, under a minute |
# | why the original (2020) looked up to 8 pixels past its own features, and never saw 5.4 % of its pixels | nothing trained: geometry holds for any weights |
# | how tiles give *exactly* the whole-image answer, and a strip of any length fits in memory | |
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
import matplotlib.pyplot as plt
import numpy as np
import torch

from steelnb import runtime
from steelnb.data import sources
from steelnb.figures import plots, tile_window, widgets
from steelnb.network import geometry, inference, tiles
from steelnb.network.unet import UNet, cost

plots.use_style()
data = sources.open_dataset(progress=False)
print(data.describe())

# %% [markdown]
# ## 1 · A valid convolution takes two pixels
#
# A 3×3 convolution without padding has no answer at the outermost pixels, so each one takes a pixel on every side.
# A U-Net has two a level on the way down, two at the bottom, two a level on the way up; a pooling halves, a transposed
# convolution doubles. That is all there is to it:


# %%
def output_size(n, depth=4):
    for _ in range(depth):
        n = (n - 4) // 2  # two convolutions, one pooling that rounds down
    n = n - 4
    for _ in range(depth):
        n = 2 * n - 4  # one transposed convolution, two convolutions
    return n


assert all(output_size(n) == geometry.output_size(n) for n in range(188, 3000))
print({n: output_size(n) for n in (572, 430, 1780, 444, 1788)})

# %% [markdown]
# 572 → 388 is the paper's Figure 1. 430 × 1780 → 244 × 1588 is what the original fed and got for its 256 × 1600 images:
# twelve rows and twelve columns are missing. Does a real network agree, at every depth?

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
# To predict the first pixel of an image, the network must be shown 92 pixels that do not exist. Zeros would be a lie that
# it has never met inside an image; a mirror image continues the texture. The original repeated the edge pixel, which
# NumPy calls `symmetric`, not `reflect`. Written as *which pixel stands at place i*, it is one line, and it goes on for
# ever, further than one image width:

# %% tags=["nbval-check-output"]
places = tiles.mirror_index(-5, 9, size=4)
print("place", *[f"{i:>3}" for i in range(-5, 9)])
print("pixel", *[f"{i:>3}" for i in places])
assert np.array_equal(places, np.pad(np.arange(4), 5, mode="symmetric"))

# %% [markdown]
# Now the paper's Figure 2, on steel: to predict the **yellow** rectangle, the network must see the **blue** one. Drag the
# tile along the strip, into a corner, and make it larger: how much of what the network sees is made up by the mirror?


# %%
def largest_defect(data):
    return max(data.rows.itertuples(), key=lambda row: (row.area < 60_000) * row.area).ImageId


image_id = largest_defect(data)
image = data.image(image_id)
height, width = image.shape
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
# Small tiles are dear: most of what the network computes is margin. So a tile is as large as memory allows.
#
# ## 3 · The original's sizes: a hidden shift
#
# The original mirrored 87 and 90 pixels to reach 430 × 1780. Neither is of the form 16*k* − 4, so somewhere a pooling
# meets an odd number and drops a row. The decoder then pastes the encoder's features (the *skip*) beside features that
# came from below, and the two no longer look at the same place.
#
# **Predict before you run:** by how many input pixels, at worst?

# %% tags=["nbval-check-output"]
for n, name in ((430, "height"), (1780, "width"), (444, "height"), (1788, "width")):
    met = geometry.levels(n)
    print(f"{name:<6} {n:>4}: skip → needed", *[f"{m.skip:>4} → {m.up:<4}" for m in met], "shift", geometry.skew(n))
assert geometry.skew(1780) == [8, 4, 4, 4] and geometry.skew(430) == [0, 0, 2, 1]

# %% [markdown]
# Eight pixels at the deepest level, four at each finer one, always to the same side: that is arithmetic. Is it true of a
# real network? Ask it: let the **gray value be the coordinate** and make every kernel an average; the output is then the
# coordinate that the network looks at. A max pooling takes the larger neighbour, so ask twice, with the ramp rising and
# falling: the mean of both is the centre. To hear one path at a time, cut the others off.


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
# The network confirms the arithmetic, to six digits. Here is the same as a picture, with noise for an image: how much one
# output pixel depends on each input column, through the deep path and through the deepest skip.


# %%
def dependence(width, level=None, repeats=8):
    """Share of an output pixel's gradient in each input column, columns counted from the pixel itself."""
    model, total = one_path(UNet(width=1, norm="none", crop="ceil"), level), torch.zeros(241)
    generator = torch.Generator().manual_seed(0)
    for repeat in range(repeats):
        image = torch.rand(1, 1, 188, width, generator=generator, dtype=torch.float64, requires_grad=True)
        column = width // 2 - 100 + 2 * repeat  # different places in the 16-pixel rhythm of the poolings
        model(image)[0, 0, 1, column].backward()
        centre = column + geometry.margin(4)
        total += image.grad[0, 0].abs().sum(0)[centre - 120 : centre + 121].float()
    return total / total.sum()


figure, axes = plt.subplots(1, 2, figsize=(plots.WIDTH, 2.8), sharey=True)
columns = np.arange(-120, 121)
for ax, width_in, name in zip(axes, (1780, 1788), ("The original's 1780: 8 px apart", "1788: together"), strict=True):
    for level, label, colour in ((None, "deep path", "#0072B2"), (3, "deepest skip", "#D55E00")):
        share = dependence(width_in, level).numpy()
        ax.fill_between(columns, share, color=colour, alpha=0.35, label=label, lw=0)
        ax.axvline((columns * share).sum(), color=colour, lw=1.2)
    ax.set(title=name, xlabel="input column − output column (px)")
axes[0].set_ylabel("share of the gradient")
axes[0].legend(loc="upper left")
plt.show()

# %% [markdown]
# *Figure 2: What one output pixel depends on, measured by gradients at 1780 columns (the original) and 1788 (exact).
# Lines: centres of mass. At 1780 the skip, which is there to say exactly where things are, looks 8 pixels aside.*
#
# Training can learn to live with a constant shift, but the kernels that must undo it are kernels that cannot do something
# else. The other loss is plain to see: the frame that no output pixel covers.

# %%
out = geometry.output_size(430), geometry.output_size(1780)
unseen = 1 - out[0] * out[1] / (256 * 1600)
assert out == (244, 1588) and round(unseen, 3) == 0.054

frame = np.ones((height, width), bool)
frame[6:-6, 6:-6] = False
masks = [data.mask(name) for name in data.images["ImageId"]]
lost = [mask[6:-6, 6:-6].sum() < mask.sum() for mask in masks if mask.any()]
print(f"never predicted: {unseen:.1%} of a 256×1600 image; it cuts {sum(lost)} of {len(lost)} defective images' masks")

figure = plots.stack({
    "The frame that the original never predicts": plots.overlay(image, frame[None], ["#56B4E9"], alpha=0.9),
})
plt.show()

# %% [markdown]
# *Figure 3: Six pixels a side, 5.4 % of a 256×1600 image, lie outside the original's output (blue). Defects that touch the
# strip's edge, as most of Severstal's classes 2 and 3 do, are cut there.*
#
# ## 4 · The repair
#
# Take the smallest input of the form 16*k* − 4 whose output covers the image: 444 × 1788 for 256 × 1600. Nothing is
# dropped, nothing is shifted, every pixel is predicted. The price is small:

# %% tags=["nbval-check-output"]
n = geometry.input_size(256), geometry.input_size(1600)
assert geometry.skew(n[0]) == geometry.skew(n[1]) == [0, 0, 0, 0]
before = sum(layer.macs for layer in cost(UNet.original(), 430, 1780))
after = sum(layer.macs for layer in cost(UNet(), *n))
print(f"input {n[0]}×{n[1]}, output {geometry.output_size(n[0])}×{geometry.output_size(n[1])}")
print(f"{before / 1e9:.0f} → {after / 1e9:.0f} billion multiply-adds: {after / before - 1:+.1%}")

# %% [markdown]
# The repaired network refuses the sizes that would shift, and says which ones work:

# %% tags=["nbval-check-output"]
try:
    UNet(width=1)(torch.zeros(1, 1, 430, 1780))
except geometry.GeometryError as error:
    print(error)
else:
    raise AssertionError("430 should have been refused")

# %% [markdown]
# ## 5 · Tiles that equal the whole
#
# A tile's output depends only on the input around it, so predicting tile by tile should change nothing. It holds if the
# poolings fall on the same pixels, that is, if tiles start at multiples of 2^depth = 16. `tiles.tiles` sees to
# that. **Predict:** what happens to a tile that starts 8 pixels off?

# %%
torch.manual_seed(0)
model = UNet(width=8, depth=4)
with torch.no_grad():  # show it some steel, so that its batch norms know the range
    for i in range(20):
        patch = tiles.window(image, 0, 16 * i, 204, 204)
        model(inference.to_tensor(patch).expand(2, -1, -1, -1))
model.eval()
small = image[:, : min(width, 640)]
whole = inference.predict_logits(model, small)

print("tile      tiles   largest difference from the whole image")
for side in (16, 50, 64, 200, (256, 96)):
    tiled = inference.predict_logits(model, small, tile=side)
    difference = np.abs(tiled - whole).max()
    print(f"{side!s:<10} {len(tiles.tiles(*small.shape, side)):>4}   {difference:.1e} of {np.abs(whole).max():.1f}")
    assert difference < 1e-4 * np.abs(whole).max()

# %%
def predict_at(offset, left=240, size=128):
    """A tile predicted by itself, its input window starting `offset` pixels off the grid of 16."""
    start = left - offset
    window = tiles.input_window(small, tiles.Tile(0, start, small.shape[0], size + 16))
    with torch.inference_mode():
        return model(inference.to_tensor(window)).numpy()[0, 0, : small.shape[0], offset : offset + size]


there = whole[0, :, 240:368] if small.shape[1] >= 368 else None
differences = [np.abs(predict_at(offset) - there).mean() for offset in range(17)] if there is not None else [0] * 17
on_grid, off_grid = max(differences[0], differences[16]), min(differences[1:16])
assert there is None or on_grid < 1e-4 < off_grid

figure, ax = plt.subplots(figsize=(plots.WIDTH * 0.7, 2.4))
ax.bar(range(17), np.maximum(differences, 1e-7), color=["#0072B2" if d < 1e-4 else "#D55E00" for d in differences])
ax.set(yscale="log", xticks=range(0, 17, 4), xlabel="tile starts this many pixels off the grid", ylabel="mean |Δ logit|",
       title="Only multiples of 16 give the whole image's answer")
plt.show()

# %% [markdown]
# *Figure 4: The same 128 columns, predicted from windows that start 0 to 16 pixels off the grid. At 0 and 16 only rounding
# remains; between, the poolings pair other pixels, and the answer changes.*
#
# ## 6 · A strip without end
#
# If tiles equal the whole, the whole never needs to be in memory. Steel comes off the mill as a strip, so let it: the
# image below is a memory map, the mask another, and between them only one tile lives at a time.

# %%
import tempfile
from pathlib import Path


def segment_strip(model, folder, length, tile=(256, 1024)):
    """Segments a strip of `length` columns from file to file; the peak memory of this process afterwards, in MB."""
    strip = np.memmap(Path(folder) / "strip.u8", np.uint8, "w+", shape=(length // 256, 256, 256))
    strip[:] = small[:256, :256] if min(small.shape) >= 256 else 90
    strip = strip.reshape(256, length)
    mask = np.memmap(Path(folder) / "mask.u8", bool, "w+", shape=strip.shape)
    for place, logits in inference.iter_logits(model, strip, tile):
        mask[place.region] = logits[0] > 0
    return runtime.peak_memory()


light = UNet(width=2, depth=2).eval()
with tempfile.TemporaryDirectory() as folder:
    peaks = {length: segment_strip(light, folder, length) for length in (4096, 8192, 65536)}
for length, peak in peaks.items():
    print(f"256 × {length:>6}: peak memory of this process {peak:.0f} MB")
grown = peaks[65536] - peaks[8192]
logits = 256 * 65536 * 4 / 2**20
print(f"a strip 8 times as long took {max(grown, 0):.0f} MB more; its logits alone would be {logits:.0f} MB")
assert not grown >= 60  # NaN on Windows

# %% tags=["headline"]
price = f"{after / before - 1:+.1%} work"
print(f"tiles = whole image; the original's 8-pixel shift measured; {unseen:.1%} of border repaired for {price}")

# %% [markdown]
# ## What to remember
#
# - A valid U-Net of depth 4 takes 92 pixels a side; sound inputs are 16*k* − 4. The original's 430 × 1780 shifted its
#   skips by up to 8 pixels and left 5.4 % of each image unpredicted; 444 × 1788 repairs both for 6 % more work.
# - Beyond the edge stands a mirror, inside it the true neighbourhood. Tiles that start at multiples of 2^depth give the
#   whole image's answer, up to rounding, for any weights.
# - So memory is bounded by the tile: `python -m steelnb predict --tile 256 …` segments strips of any length.
#
# ## Exercises
#
# 1. The original's crops start at `ceil`. What would `floor` have changed? Try `geometry.skew(1780, crop="floor")`.
# 2. Why is the shift at the deepest level twice that of the next one? Follow 1780 through four poolings by hand.
# 3. Replace the mirror by zeros (edit `window` to return zeros outside) and predict the first 20 columns. What changes?
#
# ## Further reading
#
# - Ronneberger, Fischer, Brox 2015, [U-Net](https://arxiv.org/abs/1505.04597): Figure 2 and section 3.
# - Odena et al. 2016, [Deconvolution and checkerboard artifacts](https://distill.pub/2016/deconv-checkerboard/).
# - Next: [03 · What does this U-Net see, and what does it cost?](03_unet.ipynb)
