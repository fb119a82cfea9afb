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
# **What does this U-Net see, and what does it cost?** An output pixel of the original's network can see a square of up to
# 204 pixels, but at the start half of what it feels lies within about 33 pixels of it; training the smaller network of this
# series widened that by a quarter. For that, an image of 256×1600 costs 372 billion multiply-adds, spread over almost all
# levels, while the parameters sit at the bottom and the memory goes to the top.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/your--name/steelnb/blob/v0.1.0/notebooks/03_unet.ipynb)
# [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/your--name/steelnb/blob/v0.1.0/notebooks/03_unet.ipynb)
#
# | what you will learn | what it needs |
# |---|---|
# | the network as a picture and as 25 lines that compute the same as the library's | a CPU, under a minute |
# | how far an output pixel can see, and how far it does, untrained and trained | a trained network, which comes with steelnb |
# | where parameters, memory and work are, and what 100 hours on a P100 buy | nothing to download |
#
# - *Proved*: sizes, counts and what can reach a pixel.
# - *Estimated*, from quoted speeds: hours.
# - *Toy*: what a pixel uses, by one small network, trained once on synthetic steel.
#
# The network is from [Ronneberger et al. 2015](https://arxiv.org/abs/1505.04597); the original (2020) put batch norms into its encoder, and
# cropped its skips so that any size of image ran ([02](02_overlap_tile.ipynb)).

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
from torch import nn
from torch.nn import functional

from steelnb import runs
from steelnb.data import sources
from steelnb.figures import plots, unet_sketch
from steelnb.network import geometry, inference, pretrained, tiles
from steelnb.network.unet import UNet, cost

plots.use_style()
data = sources.open_dataset(progress=False)
print(data.describe())

# %%
network = runs.series_network()
model = network.model

# %% [markdown]
# ## 1 · The network in one picture
#
# Going down, each level has two 3×3 convolutions and a pooling that halves the size; channels double. Going up, a
# transposed convolution doubles the size, the encoder's map of the same level (the *skip*) is cropped and put beside
# it, and two 3×3 convolutions look at both. No convolution pads, so each takes off a frame of one pixel:

# %%
unet_sketch.draw_unet(UNet(), 444, 1788)
plt.show()

# %% [markdown]
# *Figure 1: The original's U-Net, repaired, with batch norm everywhere, on the steel image with its mirrored margins. Boxes: what each level gives.
# Black arrows: 2×2 max pooling. Blue: transposed convolution. Gray: skips, cropped by so many pixels a side. A 1×1
# convolution makes one logit of the last 64 channels.*
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
# The library's `UNet` is the same, plus options and errors that explain. The trained weights fit this class, and both
# give the same logits for a piece of steel, to the last bit:

# %%
short = ShortUNet(**{name: model.config[name] for name in ("width", "depth")}).eval()
short.load_state_dict(model.state_dict())
seen = tiles.input_window(data.image(data.images["ImageId"].iloc[0]), tiles.Tile(0, 0, 64, 64), model.depth)
with torch.inference_mode():
    both = [one(inference.to_tensor(seen)) for one in (short, model)]
assert torch.equal(*both)
print(f"{list(seen.shape)} pixels → {list(both[0].shape[2:])} logits, equal to the last bit")

# %% [markdown]
# ## 2 · What it sees
#
# What *can* reach an output pixel is arithmetic: follow its row or column back to the input, two cells lost for each
# convolution, two cells for one at each pooling. A transposed convolution needs half as many, rounded outwards, and
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
# which outputs are spoiled; do so for each column at once, one image of the batch for each column.

# %% tags=["nbval-check-output"]
print("depth  margin a side  columns that reach an output pixel, by its position modulo 2^depth")
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
# So the original's output pixel can see 188 to 204 columns, our network's 92 to 100. That is what
# *can* matter. What *does*? Take the gradient of one output pixel with respect to the image: large where a small change of
# a gray value would change the logit. [Luo et al. 2016](https://arxiv.org/abs/1701.04128) found this *effective* receptive
# field to be a small part of the theoretical one.
#
# **Predict before you run:** does training widen it, or narrow it?


# %%
def pieces(n, count):
    """Pieces of steel, n × n pixels, each around the middle of a defect: float [count, 1, n, n] in 0…1."""
    rows = data.rows.sort_values("area", ascending=False)
    names, found = rows.ImageId.unique(), []
    for k in range(count):
        name, aside = names[k % len(names)], 24 * (k // len(names))  # of few images: others of their places
        row, column = np.argwhere(data.mask(name)).mean(0).astype(int)
        found.append(tiles.window(data.image(name), row - n // 2, column - n // 2 + aside, n, n))
    return torch.from_numpy(np.stack(found))[:, None] / 255


def felt(networks, count=24):
    """|d logit / d pixel| of the output pixel in the middle, averaged over networks and pieces, sum 1: float [n, n]."""
    depth = networks[0].depth
    n, pixel = geometry.input_size(1, depth) + 2**depth, 2 ** (depth - 1)
    images, total = pieces(n, count), torch.zeros(n, n)
    for each in networks:
        images.requires_grad_().grad = None
        each.eval().requires_grad_(False)(images)[:, 0, pixel, pixel].sum().backward()
        gradient = images.grad.abs().sum(1)
        sums = gradient.sum((1, 2), keepdim=True)
        total += (gradient / sums.clamp(min=1e-12)).mean(0)  # every network and piece counts the same
    return (total / total.sum()).numpy()


def radius(gradient, centre, share):
    """Radius of the circle around `centre` that holds a share of the gradient, in pixels."""
    away = np.hypot(*(np.indices(gradient.shape) - centre)).ravel()
    order = np.argsort(away)
    return away[order][np.searchsorted(gradient.ravel()[order].cumsum(), share)]


def untrained(seed, **changes):
    torch.manual_seed(seed)
    return UNet(**model.config | changes)


# %%
depth = model.depth
centre = 2 ** (depth - 1) + geometry.margin(depth)
first, last = field(2 ** (depth - 1), depth)
side = last - first + 1
maps = {"Untrained": felt([untrained(seed) for seed in range(8)]), "Trained": felt([model])}
radii = {name: (centre, *(radius(gradient, centre, share) for share in (0.5, 0.95))) for name, gradient in maps.items()}
print(f"each output pixel can see {side} × {side} pixels; of its gradient")
for name, (_, half, most) in radii.items():
    print(f"  {name.lower():<9}: half within {half:.0f} px ({np.pi * half**2 / side**2:.0%} of the square), "
          f"95 % within {most:.0f} px")
    outside = maps[name].copy()
    outside[first : last + 1, first : last + 1] = 0
    assert outside.sum() == 0  # nothing is felt that cannot be seen
    assert half < side / 3
if data.name == "synthetic steel" and pretrained.SERIES.exists():
    assert radii["Trained"][1] > radii["Untrained"][1]  # what the text below says
deep = felt([untrained(seed, depth=4) for seed in range(4)], 8)
half_4 = radius(deep, 8 + geometry.margin(4), 0.5)
print(f"the original's depth, untrained: half within {half_4:.0f} px of 204 × 204")

# %%
titles = {name: f"{name}: half within {radii[name][1]:.0f} px" for name in maps}
unet_sketch.draw_sensitivity({titles[name]: maps[name] for name in maps}, (first, last),
                             {titles[name]: radii[name] for name in maps})
plt.show()

# %% [markdown]
# *Figure 2: The gradient of the logit in the middle, at defects, averaged over 24 pieces of steel (untrained: and over 8
# networks). White square: what can reach that logit. Cyan circles: half (solid) and 95 % (dashed) of the gradient.*
#
# Training widens the inner circle, from about 17 to about 21 pixels, and hardly moves the outer one: this network uses more
# of its surroundings than random weights do, and still half of what it feels lies on a seventh of what it can see.
# (Luo et al. saw effective fields grow in training as well.) It is one network, trained once, on synthetic steel. For real
# steel: a Severstal defect of class 4 is about 98 × 124 pixels (median of its pieces), so most of what decides about a
# pixel is a part of one such defect.
#
# ## 3 · What it costs
#
# `unet.cost` lists every convolution with its parameters, the numbers that it puts out (*activations*) and its
# multiply-adds (MAC). Summed over the levels of the original, for one of its images:

# %% tags=["nbval-check-output"]
with torch.device("meta"):  # shapes without data: nothing is stored
    original = UNet.original()
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
assert sum(p.numel() for p in original.parameters()) == 31_038_529  # with 9,000 of batch norm

# %%
shares = 100 * table / table.sum(1, keepdims=True)
figure, ax = plt.subplots(figsize=(plots.NARROW, 2.6))
for k, (share, name, colour) in enumerate(
    zip(shares, ("parameters", "activations", "multiply-adds"), ("#CCCCCC", "#888888", plots.INK), strict=True)
):
    ax.bar(np.arange(5) + 0.27 * (k - 1), share, 0.25, color=colour, label=name)
ax.set(xticks=range(5), ylabel="% of the network's", ylim=(0, 75))
ax.set_title("Parameters at the bottom, activations at the top")
ax.set_xticklabels([f"level {level}\n1/{2**level} size" for level in range(5)])
ax.legend(loc="upper center", ncols=3)
ax.grid(axis="x", visible=False)
plt.show()
assert shares[0, 3:].sum() > 85  # parameters
assert shares[1, 0] > 50  # activations
assert np.ptp(shares[2, :4]) < 5  # multiply-adds

# %% [markdown]
# *Figure 3: Where the original's 31 M parameters, 328 M activations and 372 G multiply-adds are. Halving the resolution
# quarters the pixels, doubling the channels quadruples the weights of a kernel: the work stays, the rest moves.*
#
# A table that one program made alone should be checked. By hand for one layer, the first of the decoder, 1024 channels to
# 512 by a 3×3 kernel on 36×204 places; and by PyTorch's own counter for the whole network (a multiply-add is two FLOP):

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
    "scaled from the V100's speed, by peak and FLOP": v100_images * (paper / step) * (p100 / v100),
}
print(f"forward {2 * macs / 1e12:.3f} TFLOP, training {step / 1e12:.2f} TFLOP an image")
print("images/s  in 100 h  epochs of 5,676")
for name, rate in rates.items():
    print(f"{rate:>8.1f}  {rate * 360_000 / 1e6:>6.1f} M  {rate * 360_000 / 5676:>15.0f}  {name}")
achieved = v100_images * paper
print(f"by this count the V100 did {achieved / 1e12:.1f} TFLOP/s, {achieved / v100:.0%} of its peak")
assert achieved > v100

# %% [markdown]
# The first row looks like an upper bound and is not quite one: by the same count, the V100 beat its own peak. Libraries
# may compute a 3×3 convolution with fewer multiplications than its definition has
# ([Winograd's way](https://arxiv.org/abs/1509.09308)). So take the rows together: about 1.5 to 1.7 million images, or 270 to
# 300 epochs of 5,676 label rows (80 % of Severstal's 7,095, which were its samples), if the card was always busy. It is an
# estimate, not a record.
#
# ### In memory
#
# Weights are the smaller part. To go backward, PyTorch keeps what each layer needs: count it through its hook for saved
# tensors, on the *meta* device, where a tensor has a size but takes no memory.


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


# %% tags=["nbval-check-output"]
kept = kept_for_backward(original, 2, 430, 1780)
weights = 3 * 4 * sum(p.numel() for p in original.parameters())
print(f"outputs of the convolutions alone, batch 2:   {2 * 4 * activations / 2**30:.2f} GiB")
print(f"what autograd keeps, batch 2, float32:        {kept / 2**30:.2f} GiB")
print(f"weights, their gradients, SGD's momentum:     {weights / 2**30:.2f} GiB")
with torch.device("meta"):
    larger, repaired = (kept_for_backward(UNet(norm=norm), 2, 444, 1788) for norm in ("encoder", "all"))
print(f"at 444×1788, norm in the encoder only:        {larger / 2**30:.2f} GiB")
print(f"the repaired default, norm everywhere:        {repaired / 2**30:.2f} GiB")
assert round(larger / kept, 2) == 1.05
assert kept > 2 * 4 * activations

# %% [markdown]
# The larger input keeps 5 % more; the rest of the rise is batch norm in the decoder, which the default adds. Not counted:
# the gradients that live for a moment on the way back, and the workspace of the convolution library. So 16 GB hold the
# original's batch of 2 with ease, and it could have been larger; half precision halves most of it.

# %% tags=["headline"]
(_, before, _), (_, after, _) = radii.values()
print(f"{macs / 1e9:.0f} GMAC, {parameters / 1e6:.1f} M parameters; of {side} px that it can see, half of what it feels "
      f"lies within {before:.0f} px untrained and within {after:.0f} px trained")

# %% [markdown]
# ## What to remember
#
# - 31 M parameters, seven eighths of them in the two deepest levels; 372 G multiply-adds an image, almost evenly over
#   the upper four; at batch 2 training keeps 4.7 GiB of activations, about half of them at full resolution.
# - What an output pixel can see is arithmetic: 188 to 204 pixels a side at depth 4, 92 to 100 at depth 3. What it uses is
#   less, and a property of the weights: measure it on the trained network, not on the plan.
#
# ## Exercises
#
# 1. Halve `width`. What becomes of parameters, activations and multiply-adds? Predict, then ask `cost`.
# 2. Measure `felt` at clean steel instead of defects (choose the pieces from clean images). Does the network look further?
# 3. Set the skip's half of the weights of `decoder[0][0]` to zero (the first half of its input channels) and measure
#    `felt` once more. How much of the spike in the middle is gone?
#
# ## Further reading
#
# - Ronneberger, Fischer, Brox 2015, [U-Net](https://arxiv.org/abs/1505.04597): Figure 1, and section 3 on the weights.
# - He, Zhang, Ren, Sun 2015, [Delving deep into rectifiers](https://arxiv.org/abs/1502.01852): section 2.2.
# - Luo, Li, Urtasun, Zemel 2016, [Understanding the effective receptive field](https://arxiv.org/abs/1701.04128).
# - Next: [04 · What does a score say, and what does it leave out?](04_metrics.ipynb)
