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
# # The U-Net: what it sees, and what it costs
#
# **What does this U-Net see, and what does it cost?** Each output pixel can see a square of up to 204 pixels, but half
# of what it feels lies within about 35 pixels of it. For that, an image of 256×1600 costs 372 billion multiply-adds,
# spread over almost all levels, while the parameters sit at the bottom and the memory goes to the top.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/your--name/steelnb/blob/v0.1.0/notebooks/03_unet.ipynb)
# [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/your--name/steelnb/blob/v0.1.0/notebooks/03_unet.ipynb)
#
# | what you will learn | what it needs |
# |---|---|
# | the network as a picture and as 25 lines that compute the same as the library's | a CPU, under a minute |
# | where its parameters, memory and work are, and what 100 hours on a P100 buy | nothing trained, only random weights |
# | how far it sees, measured; what zero padding does to tiles; why the first weights matter | |
#
# The network is from [Ronneberger et al. 2015](https://arxiv.org/abs/1505.04597); the original (2020) put batch norms
# into its encoder.

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
from matplotlib.patches import Circle, Rectangle
from torch import nn
from torch.nn import functional

from steelnb.data import sources
from steelnb.figures import plots
from steelnb.network import geometry, inference, tiles
from steelnb.network.unet import UNet, cost

plots.use_style()
LEVELS = ["#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00"]  # one colour a level, 0 is full resolution
HEAT = plt.get_cmap("magma", 8)  # eight steps: readable as a map, small as a picture
data = sources.open_dataset(progress=False)
print(data.describe())

# %% [markdown]
# ## 1 · The network in one picture
#
# Going down, each level has two 3×3 convolutions and a pooling that halves the size; channels double. Going up, a
# transposed convolution doubles the size, the encoder's map of the same level (the *skip*) is cropped and put beside
# it, and two 3×3 convolutions look at both. No convolution pads, so each takes off a frame of one pixel:

# %%
maps = {layer.name: layer for layer in cost(UNet(), 444, 1788)}
crops = [(met.skip - met.up) // 2 for met in reversed(geometry.levels(444))]
figure, ax = plt.subplots(figsize=(plots.WIDTH * 0.94, 3.9))
ax.set(xlim=(-7, 106), ylim=(-5.5, 0.75))
ax.axis("off")


def draw(name, x, level, shade=1.0, label=True):
    """One map as a box; its channels above, its size below if `label`."""
    layer, y, height = maps[name], -1.3 * level, 0.52 - 0.07 * level
    ax.add_patch(Rectangle((x, y), 3.2, height, color=LEVELS[level], alpha=shade, lw=0))
    ax.text(x + 1.6, y + height + 0.04, layer.channels, ha="center", fontsize=7)
    if label:
        ax.text(x + 1.6, y - 0.05, f"{layer.height}×{layer.width}", ha="center", va="top", fontsize=7)


def arrow(start, end, colour):
    ax.annotate("", end, start, arrowprops=dict(arrowstyle="->", color=colour))


for level in range(5):
    x, right, y = 1 + 6.2 * level, 81.8 - 13.6 * level, -1.3 * level
    draw(f"encoder.{level}.0", x, level, label=False)
    draw(f"encoder.{level}.3", x + 5, level)
    if level < 4:
        arrow((x + 6.8, y - 0.26), (x + 7.6, y - 0.66), plots.INK)
        below = right - 13.6 + 15 if level < 3 else 34.5
        arrow((below, y - 0.66 if level < 3 else y - 1.1), (right + 4.8, y - 0.26), plots.PREDICTION)
        arrow((x + 8.6, y + 0.15), (right - 0.4, y + 0.15), plots.FAINT)
        ax.text((x + right + 8.2) / 2, y + 0.2, f"skip, −{crops[level]} a side", ha="center", fontsize=7)
        ax.add_patch(Rectangle((right, y), 3.2, 0.52 - 0.07 * level, color=LEVELS[level], alpha=0.3, lw=0))
        draw(f"up.{level}", right + 3.2, level, shade=0.65)
        draw(f"decoder.{level}.0", right + 8.4, level, label=False)
        draw(f"decoder.{level}.3", right + 13.4, level)
for x, text, place in ((-4.5, "444×1788\nimage", -2.9), (101, "1 logit", 102.6)):
    ax.add_patch(Rectangle((x, 0), 3.2, 0.52, fill=False, ec=plots.FAINT))
    ax.text(place, -0.05 if x < 0 else 0.56, text, ha="center", va="top" if x < 0 else "bottom", fontsize=7)
ax.set_title("A valid U-Net: 444×1788 pixels in, 260×1604 logits out")
plt.show()

# %% [markdown]
# *Figure 1: The U-Net on the steel image with its mirrored margins. Boxes: what each convolution gives, channels above,
# height × width below. Black arrows: 2×2 max pooling. Blue: transposed convolution. Gray: skips; the palest box is the
# cropped skip, which stands beside what came from below. A 1×1 convolution makes one logit of the last 64 channels.*
#
# As code, it is hardly longer than the sentence above:


# %%
def double_convolution(before, after):
    layers = []
    for channels in (before, after):
        layers += [nn.Conv2d(channels, after, 3), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


class ShortUNet(nn.Module):
    def __init__(self, width=64, depth=4):
        super().__init__()
        c = [width * 2**level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(double_convolution(a, b) for a, b in zip([1, *c[:-1]], c, strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * b, b, 2, stride=2) for b in c[:-1])
        self.decoder = nn.ModuleList(double_convolution(2 * b, b) for b in c[:-1])
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        skips = []
        for block in self.encoder:
            x = block(functional.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for level in reversed(range(len(self.up))):
            x, skip = self.up[level](x), skips[level]
            top, left = ((s - n) // 2 for s, n in zip(skip.shape[2:], x.shape[2:], strict=True))
            skip = skip[:, :, top : top + x.shape[2], left : left + x.shape[3]]
            x = self.decoder[level](torch.cat([skip, x], dim=1))
        return self.head(x)


# %% [markdown]
# The library's `UNet` is the same, plus options and errors that explain. Its weights fit, and the outputs agree:

# %% tags=["nbval-check-output"]
for depth in range(1, 5):
    torch.manual_seed(depth)
    library, short = UNet(width=8, depth=depth).eval(), ShortUNet(width=8, depth=depth).eval()
    short.load_state_dict(library.state_dict())
    image = torch.rand(2, 1, geometry.input_size(20, depth), geometry.input_size(36, depth))
    with torch.inference_mode():
        torch.testing.assert_close(short(image), library(image))
    print(f"depth {depth}: {list(image.shape)} → {list(library(image).shape)}, both agree")

# %% [markdown]
# ## 2 · The original and its repair
#
# The original normalised its encoder only, and cropped its skips so that any image size ran, some of them shifted
# (notebook 02). The repaired default normalises everywhere and takes exact sizes only. **Predict:** how many parameters
# does a batch norm add to 31 million?

# %% tags=["nbval-check-output"]
with torch.device("meta"):  # shapes without data: nothing is stored
    networks = {"the paper's": UNet(norm="none"), "the original": UNet.original(), "the default": UNet()}
print("network         batch norm   skips    parameters   of which batch norm")
for name, model in networks.items():
    parameters = sum(p.numel() for p in model.parameters())  # PyTorch's own count
    convolutions = sum(layer.parameters for layer in cost(model, 444, 1788))
    channels = sum(m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert parameters == convolutions + 2 * channels  # a scale and a shift for each channel
    config = model.config
    print(f"{name:<14}  {config['norm']:<11}  {config['crop']:<7}  {parameters:,}  {parameters - convolutions:>8,}")
assert sum(p.numel() for p in networks["the original"].parameters()) == 31_038_529

# %% [markdown]
# One part in 2,600 to 4,000. All three are "the 31 million U-Net"; what differs between them is behaviour, not size.
#
# ## 3 · Where the work is
#
# `unet.cost` lists every convolution with its parameters, the numbers that it puts out (*activations*) and its
# multiply-adds (MAC). Summed over the levels of the original, for one of its images:

# %% tags=["nbval-check-output"]
original = networks["the original"]
layers = cost(original, 430, 1780)
table = np.array([
    [sum(getattr(layer, what) for layer in layers if layer.level == level) for level in range(5)]
    for what in ("parameters", "activations", "macs")
])
print("level  channels  parameters  activations  multiply-adds")
parameters, activations, macs = table.sum(1)
for level, (p, a, m) in enumerate([*table.T, (parameters, activations, macs)]):
    name, channels = (level, 64 * 2**level) if level < 5 else ("all", "")
    print(f"{name:>5}  {channels:>8}  {p / 1e6:>8.2f} M  {a / 1e6:>9.1f} M  {m / 1e9:>11.1f} G")
assert round(macs / 1e9) == 372

# %%
shares = 100 * table / table.sum(1, keepdims=True)
figure, ax = plt.subplots(figsize=(plots.WIDTH * 0.75, 2.3))
for k, (share, label, colour) in enumerate(
    zip(shares, ("parameters", "activations", "multiply-adds"), ("#BBBBBB", "#56B4E9", "#0072B2"), strict=True)
):
    ax.bar(np.arange(5) + 0.27 * (k - 1), share, 0.25, color=colour, label=label)
ax.set(xticks=range(5), ylabel="% of the network's", ylim=(0, 68))
ax.set_title("Parameters at the bottom, memory at the top, work spread out")
ax.set_xticklabels([f"level {level}\n1/{2**level} size" for level in range(5)])
ax.legend(loc="upper center", ncols=3)
ax.grid(axis="x", visible=False)
plt.show()
assert shares[0, 3:].sum() > 85  # parameters
assert shares[1, 0] > 50  # activations
assert np.ptp(shares[2, :4]) < 5  # multiply-adds

# %% [markdown]
# *Figure 2: Where the original's 31 M parameters, 328 M activations and 372 G multiply-adds are. Halving the resolution
# quarters the pixels, doubling the channels quadruples the weights of a kernel: the work stays, the rest moves.*
#
# Believe no table that one program made alone. By hand for one layer, the first of the decoder, 1024 channels to 512
# by a 3×3 kernel on 36×204 places; and PyTorch's own counter for the whole network (a FLOP is half a multiply-add):

# %% tags=["nbval-check-output"]
from torch.utils.flop_counter import FlopCounterMode

one_layer = 1024 * 512 * 3 * 3 * 36 * 204
assert one_layer == next(layer.macs for layer in layers if layer.name == "decoder.3.0")

with FlopCounterMode(display=False) as counter:
    original(torch.empty(1, 1, 430, 1780, device="meta"))
assert counter.get_total_flops() == 2 * macs
print(f"one layer by hand: {one_layer:,} multiply-adds; all: {counter.get_total_flops():,} FLOP = 2 × {macs:,}")

# %% [markdown]
# ### In hours
#
# Training passes forward once and backward twice (once for the weights, once for the activations), so three times the
# work. What could the original's 100 hours on a Tesla P100 hold?

# %% tags=["nbval-check-output"]
p100, v100, v100_images = 9.5e12, 15.7e12, 19  # quoted: float32 peaks; NVIDIA's V100 training speed at 572², float32
step = 3 * 2 * macs  # computed: FLOP to train on one image
paper = 3 * 2 * sum(layer.macs for layer in cost(UNet(norm="none", out_channels=2), 572, 572))
rates = {
    "counted: each FLOP done, at the P100's peak": p100 / step,
    "scaled: from the V100's speed, by peak and FLOP": v100_images * (paper / step) * (p100 / v100),
    "quoted: this project's estimate": 4.8,
}
print(f"forward {2 * macs / 1e12:.3f} TFLOP, training {step / 1e12:.2f} TFLOP an image")
print("                                                 images/s  images in 100 h  epochs of 5,676")
for name, rate in rates.items():
    print(f"{name:<48} {rate:>8.1f}  {rate * 360_000 / 1e6:>13.1f} M  {rate * 360_000 / 5676:>15.0f}")
achieved = v100_images * paper
print(f"by this count the V100 did {achieved / 1e12:.1f} TFLOP/s, {achieved / v100:.0%} of its peak")
assert achieved > v100

# %% [markdown]
# The first row looks like an upper bound and is not quite one: by the same count, the V100 beat its own peak. Libraries
# may compute a 3×3 convolution with fewer multiplications than its definition has
# ([Winograd's way](https://arxiv.org/abs/1509.09308)). So take the rows together: about 1.5 to 1.7 million images, or
# roughly 300 epochs of 5,676 label rows (80 % of Severstal's 7,095, which were its samples), if the card was always busy.
# It is an estimate, not a record.
#
# ### In memory
#
# Weights are the smaller part. To go backward, PyTorch keeps what each layer needs: let it tell, through its hook for
# saved tensors, on the *meta* device, where a tensor has a size but takes no memory.


# %%
def kept_for_backward(model, batch, height, width):
    """Bytes that autograd keeps alive after a forward pass in training mode, parameters left out."""
    own = {p.untyped_storage()._cdata for p in [*model.parameters(), *model.buffers()]}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # one storage can be saved by several layers: count it once
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = model.train()(torch.empty(batch, 1, height, width, device="meta"))
    assert output.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


# %% [markdown]
# By hand for the original: every encoder convolution's output twice (for its batch norm, and after the ReLU), every
# decoder convolution's once, each map joined from skip and deep path, each pooled map with an 8-byte index a cell, and
# the image.

# %% tags=["nbval-check-output"]
size = {layer.name: layer.activations for layer in layers}
encoder = sum(n for name, n in size.items() if name.startswith("encoder"))
decoder = sum(n for name, n in size.items() if name.startswith("decoder"))
joined = 2 * sum(n for name, n in size.items() if name.startswith("up"))
second = [layer for layer in layers if layer.name.startswith("encoder") and layer.name.endswith(".3")]
pooled = sum(layer.channels * (layer.height // 2) * (layer.width // 2) for layer in second[:-1])
by_hand = 2 * (4 * (2 * encoder + decoder + joined + pooled + 430 * 1780) + 8 * pooled)

kept = kept_for_backward(original, 2, 430, 1780)
assert abs(kept / by_hand - 1) < 1e-3
weights = 3 * 4 * sum(p.numel() for p in original.parameters())
print(f"outputs of the convolutions alone, batch 2:   {2 * 4 * activations / 2**30:.2f} GiB")
print(f"what autograd keeps, batch 2, float32:        {kept / 2**30:.2f} GiB (by hand {by_hand / 2**30:.2f})")
print(f"weights, their gradients, SGD's momentum:     {weights / 2**30:.2f} GiB")
repaired = kept_for_backward(networks["the default"], 2, 444, 1788)
print(f"the repaired default at 444×1788 keeps:       {repaired / 2**30:.2f} GiB")

# %% [markdown]
# Not counted: the gradients that live for a moment on the way back, and the workspace of the convolution library. So 16
# GB hold the original's batch of 2 with ease, and it could have been larger; half precision halves most of it.
#
# ## 4 · How far it sees
#
# What *can* reach an output pixel is arithmetic: follow its row or column back to the input, two cells lost for each
# convolution, two cells for one at each pooling. A transposed convolution asks for half as many, rounded outwards, and
# there the place of the pixel begins to matter:


# %%
def field(pixel, depth):
    """First and last input column that can reach a column of the output, through the deep path."""
    first = last = pixel
    for _ in range(depth):  # back through the decoder: two convolutions, one transposed convolution
        first, last = first // 2, (last + 4) // 2
    last += 4  # the two convolutions at the bottom
    for _ in range(depth):  # back through the encoder: one pooling, two convolutions
        first, last = 2 * first, 2 * last + 1 + 4
    return first, last


# %% [markdown]
# Is it true of a network? Here is a dye that no weight can wash out: **NaN**. Colour one input column with it and see
# which outputs are spoiled; do so for each column at once, one image of the batch a column.

# %% tags=["nbval-check-output"]
print("depth  margin a side  columns that reach an output pixel, by its place in the rhythm of the poolings")
for depth in range(1, 5):
    n = geometry.input_size(1, depth) + 2**depth
    images = torch.zeros(n, 1, geometry.input_size(1, depth), n)
    images[range(n), 0, :, range(n)] = torch.nan
    with torch.inference_mode():
        dyed = UNet(width=1, depth=depth, norm="none")(images)[:, 0, 0].isnan()  # [input column, output column]
    sizes = []
    for pixel, column in enumerate(dyed.T):
        first, last = field(pixel, depth)
        assert torch.equal(column.nonzero()[:, 0], torch.arange(first, last + 1))
        sizes.append(last - first + 1)
    print(f"{depth:>5}  {geometry.margin(depth):>13}  {min(sizes)} to {max(sizes)}")

# %% [markdown]
# So at depth 4 an output pixel can see 188 or 204 columns, depending on its place. That is what *can* matter. What
# *does*? Ask for the gradient of one output pixel with respect to the image: large where a change would be felt.
# Here over random weights as the paper draws them, and pieces of steel around large defects.


# %%
def large_defects():
    """Images with large defects, the largest first; those that a defect fills come last."""
    rows = data.rows.assign(large=data.rows.area >= 60_000)
    return rows.sort_values(["large", "area"], ascending=[True, False]).head(20).ImageId.unique().tolist()


def windows(n, count=4):
    """Pieces of steel, n × n pixels, each around the middle of a large defect: float [count, 1, n, n] in 0…1."""
    names, pieces = large_defects(), []
    for k in range(count):
        name, aside = names[k % len(names)], 40 * (k // len(names))  # of fewer images: others of their places
        row, column = np.argwhere(data.mask(name)).mean(0).astype(int)
        pieces.append(tiles.window(data.image(name), row - n // 2, column - n // 2 + aside, n, n))
    return torch.stack([torch.from_numpy(piece.copy()) for piece in pieces])[:, None] / 255


def felt(depth, seeds=8):
    """|d output / d input|, averaged over networks and steel, sum 1; and the place of the output pixel in it."""
    n = geometry.input_size(1, depth) + 2**depth
    pixel, images, total = 2 ** (depth - 1), windows(n), torch.zeros(n, n)
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = UNet(width=8, depth=depth, norm="none").requires_grad_(False)
        images.requires_grad_().grad = None
        model(images)[:, 0, pixel, pixel].sum().backward()
        gradient = images.grad.abs().sum((0, 1))
        total += gradient / gradient.sum().clamp(min=1e-12)  # every network counts the same
    return (total / total.sum()).numpy(), pixel + geometry.margin(depth)


def radius(gradient, centre, share):
    """Radius of the circle around `centre` that holds a share of the gradient, in pixels."""
    away = np.hypot(*(np.indices(gradient.shape) - centre)).ravel()
    order = np.argsort(away)
    return away[order][np.searchsorted(gradient.ravel()[order].cumsum(), share)]


# %%
print("depth  can see   half within  its area  95 % within  its area")
for depth in range(1, 5):
    gradient, centre = felt(depth)
    first, last = field(2 ** (depth - 1), depth)
    outside = gradient.copy()
    outside[first : last + 1, first : last + 1] = 0
    assert outside.sum() == 0  # nothing is felt that cannot be seen
    side = last - first + 1
    half, most = (radius(gradient, centre, share) for share in (0.5, 0.95))
    areas = [np.pi * r**2 / side**2 for r in (half, most)]
    print(f"{depth:>5}  {side:>3} px    {half:>6.1f} px    {areas[0]:>6.0%}   {most:>6.1f} px    {areas[1]:>6.0%}")
    assert areas[0] < 0.25
    assert areas[1] < 0.8
assert side == 204
assert 25 < half < 45
assert most < 0.85 * side / 2


# %%
def coarse(picture, cell, how=np.mean):
    """Means (or `how`) over cells of `cell` × `cell` pixels."""
    rows, columns = (n // cell for n in picture.shape)
    return how(picture[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell), axis=(1, 3))


figure, axes = plt.subplots(1, 2, figsize=(plots.WIDTH * 0.66, 2.4))
extent = (-0.5, len(gradient) - 0.5, len(gradient) - 0.5, -0.5)  # cells drawn in pixels of the image
steel = coarse((windows(len(gradient), 1)[0, 0] * 255).numpy(), 2).astype(np.uint8) // 8 * 8  # fewer grays
plots.show(axes[0], steel, "It can see all of this …", extent=extent)
heat = coarse(gradient, 3)
heat = np.log10(heat / heat.max() + 1e-9)
plots.show(axes[1], heat, "… and feels mostly this", cmap=HEAT, vmin=-4, vmax=0, extent=extent)
for ax in axes:
    ax.add_patch(Rectangle((first - 0.5, first - 0.5), side, side, fill=False, ec="#56B4E9", lw=2.5))
    for r, style in ((half, "-"), (most, "--")):
        ax.add_patch(Circle((centre, centre), r, fill=False, ec="#F0E442", lw=1.5, ls=style))
figure.colorbar(axes[1].images[0], ax=axes[1], label="log₁₀ (gradient / largest)", shrink=0.9)
plt.show()

# %% [markdown]
# *Figure 3: Depth 4, random weights. Blue square: the 204 × 204 pixels that can reach the output pixel in the middle.
# Yellow circles: half (solid) and 95 % (dashed) of the gradient. Right: the gradient itself, averaged over 8 networks,
# 4 pieces of steel and 3 × 3 pixels.*
#
# [Luo et al. 2016](https://arxiv.org/abs/1701.04128) found the *effective* receptive field of plain convolutional
# networks to be a bump that fills a small part of the theoretical one. A U-Net adds a spike in the middle, the
# shallow skips, to the wide bump of its deep path. It starts there; training can widen or narrow it, and for a trained
# network it should be measured again (exercise 2). For steel: a Severstal defect of class 4 is about 98 × 124 pixels
# (median), so the network begins with a view of about one such defect.
#
# ## 5 · Valid or same
#
# Most U-Nets today pad each convolution with zeros, "same", so that the output is as large as the input and nobody
# needs mirrors. What is the price? Show both kinds, with equal random weights, an image of **one gray value**. There is
# nothing to see in it; whatever structure comes out, the network made itself.


# %%
def twins(seed, width=8):
    """A valid and a same-padded network with equal weights."""
    torch.manual_seed(seed)
    valid = UNet(width=width, norm="none").eval()
    same = UNet(width=width, norm="none", padding="same").eval()
    same.load_state_dict(valid.state_dict())
    return {"valid": valid, "same": same}


outputs = {}
for name, model in twins(seed=0).items():
    n = 320 if name == "same" else geometry.input_size(320)
    with torch.inference_mode():
        outputs[name] = model(torch.full((1, 1, n, n), 0.5))[0, 0, :320, :320].numpy()
    outputs[name] /= outputs[name].std()
cells = {name: output[160:176, 160:176] for name, output in outputs.items()}
from_border = {name: np.abs(output - np.tile(cells[name], (20, 20))) for name, output in outputs.items()}
most_off = {name: off.max() for name, off in from_border.items()}
depth_in = np.minimum(np.arange(320), np.arange(320)[::-1])  # pixels from the nearest border, along one axis
reach = np.minimum.outer(depth_in, depth_in)[from_border["same"] > 1e-4].max() + 1
print("off their own middle 16×16 pixels, repeated, in spreads of the output:")
print(f"valid: {most_off['valid']:.0e}; same: {most_off['same']:.1f}, up to {reach} pixels from the border")
assert most_off["valid"] < 1e-4
assert most_off["same"] > 0.5
assert 90 < reach <= 107  # no output pixel sees further than 107 to a side

# %%
figure, axes = plt.subplots(1, 3, figsize=(plots.WIDTH * 0.8, 2.3))
plots.show(axes[0], outputs["valid"][:64, :64], "Output, corner", cmap=plt.get_cmap("gray", 8))
for ax, name, title in ((axes[1], "same", "Same: what is left"), (axes[2], "valid", "Valid: nothing")):
    mark = np.log10(coarse(np.maximum(from_border[name], 1e-7), 4, np.max))
    plots.show(ax, mark, title, cmap=HEAT, vmin=-7, vmax=1)
figure.colorbar(axes[2].images[0], ax=axes[2], label="log₁₀ (|Δ| / spread)", shrink=0.8)
plt.show()

# %% [markdown]
# *Figure 4: One gray value in. Left: the first 64 × 64 logits of the valid network; they repeat every 16 pixels, which
# is the transposed convolutions, whose four weights differ. The others: what is left when this pattern is taken off,
# over the whole 320 × 320 output (largest of 4 × 4 pixels). Zero padding writes the border over 90 pixels deep.*
#
# (At random weights even a valid network is not flat on a flat image; that
# [checkerboard](https://distill.pub/2016/deconv-checkerboard/) is the same everywhere, and training wears it off. The
# border's pattern depends on *where the border is*.)
#
# In a tile, the border is inside the image. So predict steel whole, and in tiles of 128, both ways; and, for fairness,
# a third way: same padding, but each tile with 112 pixels of its true neighbourhood, cut off afterwards.


# %%
def predict_same(model, image, tile, context=0):
    """Tile by tile with a same-padded network; each tile sees `context` more pixels, as far as the image goes."""
    out = np.empty(image.shape, np.float32)
    for place in tiles.tiles(*image.shape, tile):
        top, left = max(place.top - context, 0), max(place.left - context, 0)
        near = image[top : place.top + place.height + context, left : place.left + place.width + context]
        with torch.inference_mode():
            logits = model(inference.to_tensor(near))[0, 0].numpy()
        out[place.region] = logits[place.top - top :, place.left - left :][: place.height, : place.width]
    return out


name = large_defects()[0]
image, middle = data.image(name), int(np.argwhere(data.mask(name))[:, 1].mean())
height, width = (min(n // 16 * 16, 512) for n in image.shape)  # whole multiples of 16, for same padding
left = int(np.clip(middle - width // 2, 0, image.shape[1] - width))
image = image[:height, left : left + width]
tile = min(128, max(height, width) // 32 * 16)  # at least two
print("largest difference between tiles and whole, in spreads of the logits")
print("seed  valid     same      same, 112 px of context")
for seed in range(3):
    models = twins(seed)
    valid, same = models.values()
    whole = inference.predict_logits(valid, image)[0], predict_same(same, image, max(image.shape))
    tiled = inference.predict_logits(valid, image, tile=tile)[0], predict_same(same, image, tile)
    with_context = predict_same(same, image, tile, context=112)
    seams = [np.abs(t - w) / w.std() for t, w in zip((*tiled, with_context), (*whole, whole[1]), strict=True)]
    print(f"{seed:>4}  {seams[0].max():.0e}     {seams[1].max():.1f}       {seams[2].max():.0e}")
    for seam, low, high in zip(seams, (-1, 0.5, -1), (1e-4, np.inf, 1e-4), strict=True):
        assert low < seam.max() < high

# %%
ratio = image.shape[0] / image.shape[1]
figure, axes = plt.subplots(1, 3, figsize=(plots.WIDTH, plots.WIDTH / 3.3 * ratio + 0.5))
plots.show(axes[0], coarse(image, 3).astype(np.uint8) // 8 * 8, "Steel")
for ax, seam, title in ((axes[1], seams[1], "Same padding: seams"), (axes[2], seams[0], "Valid, overlap-tile: none")):
    largest = np.log10(coarse(np.maximum(seam, 1e-7), 4, np.max))
    plots.show(ax, largest, title, cmap=HEAT, vmin=-7, vmax=1)
figure.colorbar(axes[2].images[0], ax=axes[2], label="log₁₀ (|Δ| / spread)", shrink=0.9)
plt.show()

# %% [markdown]
# *Figure 5: Tiles of 128 against the whole image, for equal random weights (largest of 4 × 4 pixels). Where two tiles
# meet, zero padding changes the answer by more than the whole spread of the logits; the valid network's tiles differ by
# rounding.*
#
# The third column settles whose fault it is: not padding as such, but the neighbourhood that a tile was not given. A
# valid network never forgets to ask for it, and that has a price. Per predicted pixel, against same padding on a whole
# 256×1600 image:

# %% tags=["nbval-check-output"]
with torch.device("meta"):
    valid, same = UNet(), UNet(padding="same")


def work(model, height, width):
    return sum(layer.macs for layer in cost(model, height, width))


ways = {"same, whole image": (work(same, 256, 1600), 256 * 1600), "valid, whole": (work(valid, 444, 1788), 256 * 1600)}
for tile in (512, 256, 128, 64):
    n = geometry.input_size(tile)
    ways[f"valid, tiles of {tile}"] = (work(valid, n, n), tile**2)
print("                    multiply-adds  for pixels  thousands a pixel  times")
times = {}
for name, (macs_way, pixels) in ways.items():
    times[name] = macs_way / pixels / (ways["same, whole image"][0] / (256 * 1600))
    print(f"{name:<19} {macs_way / 1e9:>11.1f} G  {pixels:>10,}  {macs_way / pixels / 1e3:>17.0f}  {times[name]:>5.2f}")
assert round(times["valid, whole"], 2) == 1.31

# %% [markdown]
# So same padding is fine, and a quarter cheaper, for whole images of the size that it was trained on: the border is
# then always in the same place, and training can learn to live with it. For tiles and strips, take a valid network in
# large tiles, or give a same-padded one its context and cut it off, at about the same price.
#
# (Untrained weights show the mechanism, not the damage: the seams of a trained network must be measured on that
# network. That the valid one has none holds for any weights.)
#
# ## 6 · The first weights
#
# The paper asks for weights drawn with standard deviation √(2/N), N the inputs of a neuron
# ([He et al. 2015](https://arxiv.org/abs/1502.01852)). PyTorch's default for a convolution is √6 times smaller.
# **Predict:** what is left after ten convolutions of the difference between one piece of steel and another?


# %%
def default_initialise(module):
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        module.reset_parameters()


def differences(images, norm, he, seed):
    """After each ReLU: how much activations differ from image to image, relative to how the images differ."""
    torch.manual_seed(seed)
    model, spread = UNet(width=16, norm=norm), []
    if not he:
        model.apply(default_initialise)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(
                lambda module, inputs, output: spread.append(output.var(0).mean().sqrt().item())
            )
    with torch.no_grad():
        model.train()(images)
    return np.array(spread) / images.var(0).mean().sqrt().item()


steel = windows(204)
starts = {
    "He, no norm": ("none", True), "PyTorch's default, no norm": ("none", False),
    "He, batch norm": ("all", True), "PyTorch's default, batch norm": ("all", False),
}
signal = {name: np.array([differences(steel, *way, seed) for seed in range(3)]) for name, way in starts.items()}
print("                               after 1 convolution   at the bottom (10)   at the end (18)")
for name, spread in signal.items():
    typical = np.exp(np.log(spread).mean(0))
    print(f"{name:<30} {typical[0]:>19.2g}  {typical[9]:>19.2g}  {typical[17]:>16.2g}")

# %%
figure, ax = plt.subplots(figsize=(plots.WIDTH * 0.7, 2.3))
for (name, spread), style in zip(signal.items(), ("-", "-", "-.", ":"), strict=True):
    colour = "#0072B2" if name.startswith("He") else "#D55E00"
    ax.plot(range(1, 19), np.exp(np.log(spread).mean(0)), style, color=colour, lw=1.5, label=name)
ax.set(yscale="log", xticks=np.arange(1.5, 19, 2), xlabel="level of the 3×3 convolutions, two each, in order",
       xticklabels=[0, 1, 2, 3, 4, 3, 2, 1, 0], ylabel="difference / the input's",
       title="He's weights carry the signal down; the default loses it")
ax.set_ylim(top=1e3)
ax.legend(fontsize=8, ncols=2, loc="upper center")
plt.show()
he, default = signal["He, no norm"], signal["PyTorch's default, no norm"]
assert (he[:, 9] > 0.1).all()
assert (he < 20).all()
assert (default[:, 9] < 1e-3).all()
same_ratio = signal["He, batch norm"] / signal["PyTorch's default, batch norm"]
assert np.abs(np.log2(same_ratio)).max() < 1

# %% [markdown]
# *Figure 6: How much activations differ between four pieces of steel, layer by layer (mean of three seeds).
# Without normalisation, PyTorch's default makes the bottom all but blind; later layers recover through the shallow
# skips, and the deep path is left for training to find. Batch norm makes both the same.*
#
# The repaired network normalises everywhere, so it would survive either. The original normalised its encoder only: its
# decoder's eight 3×3 convolutions depend on how they start.

# %% tags=["headline"]
print(f"{macs / 1e9:.0f} GMAC, {parameters / 1e6:.1f} M parameters; can see {side} px, feels half within {half:.0f}; "
      f"tile seams, in spreads of the logits: same {seams[1].max():.1f}, valid {seams[0].max():.0e}")

# %% [markdown]
# ## What to remember
#
# - 31 M parameters, seven eighths of them in the two deepest levels; 372 G multiply-adds an image, almost evenly over
#   the upper four; at batch 2 training keeps 4.7 GiB of activations, about half of them at full resolution.
# - An output pixel can see 188 to 204 pixels a side; at the start half of what it feels lies within about 35 pixels.
# - Tiles need their neighbourhood. A valid network insists on it (31 % more work on a whole image, no seams); zero
#   padding invents it, harmlessly only where borders are always the same.
#
# ## Exercises
#
# 1. Halve `width`. What becomes of parameters, activations and multiply-adds? Predict, then ask `cost`.
# 2. Train a network (`python -m steelnb train --run first`, a few minutes on a CPU), load it with
#    `steelnb.weights.load`, and measure `felt` on it. Did the receptive field grow?
# 3. Set the skip's half of the weights of `decoder[0][0]` to zero (the first half of its input channels) and measure
#    `felt` once more. How much of the spike in the middle is gone?
#
# ## Further reading
#
# - Ronneberger, Fischer, Brox 2015, [U-Net](https://arxiv.org/abs/1505.04597): Figure 1, and section 3 on the weights.
# - He, Zhang, Ren, Sun 2015, [Delving deep into rectifiers](https://arxiv.org/abs/1502.01852): section 2.2.
# - Luo, Li, Urtasun, Zemel 2016, [Understanding the effective receptive field](https://arxiv.org/abs/1701.04128).
# - Next: [05 · Why did cross entropy fail?](05_bce_imbalance.ipynb)
