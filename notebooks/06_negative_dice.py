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
#   accelerator: GPU
#   colab:
#     gpuType: T4
# ---

# %% [markdown]
# # Negative Dice: a loss that falls while the outputs turn negative
#
# **How can a loss fall while the outputs turn negative?** Dice is a ratio of sums that were never meant to be negative. Without a
# sigmoid both can be, and two minus signs cancel: the "Dice" of a network that says −7 everywhere is as good as that of one that
# says +7. Between the two lies a pole, where the loss has no lower end.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/your--name/steelnb/blob/v0.1.0/notebooks/06_negative_dice.ipynb)
# [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/your--name/steelnb/blob/v0.1.0/notebooks/06_negative_dice.ipynb)
#
# | what you will learn | what it needs |
# |---|---|
# | the sign trick on a single number, with a slider | a CPU and about a minute; a larger network and more seeds, on a T4 14 minutes planned: 2.6 PFLOP in single precision at 3 TFLOP/s |
# | what becomes of a network that meets it, over 8 seeds: not always what the original (2020) reported | 02 and 03 are useful, not needed |
# | which squaring repairs it and which does not; how an error message was silenced; the fix | synthetic steel, drawn on the spot |
#
# - *Proved*: the curve, its pole and its slope, the signs of the gradients, the bounds of each squared form, and that a threshold
#   cuts the gradient.
# - *Toy*: what networks end with in 100 to 800 steps, on two to eight seeds, read at one threshold.
#
# The original listed its problems in a row; this page follows numbers 2 to 5 and gives each a verdict. They stand in its
# [README at 1093c7b](https://github.com/dosp0911/Steel_image_Segmentation/blob/1093c7bd08cd9593d6b3dc361f89f81a92076de2/README.md).

# %%
# Setup: pip installs steelnb where it is missing, as on Colab; torch and NumPy stay as they are.
import importlib.util, os, subprocess, sys  # isort: skip
if not getattr(importlib.util.find_spec("steelnb"), "origin", None):  # a folder of that name is no package
    source = os.environ.get("STEELNB_SPEC") or sys.exit("no address yet: set STEELNB_SPEC, or make address")
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], capture_output=True, text=True)
    assert done.returncode == 0, f"pip could not install {source}:\n{done.stderr}"

# %%
import hashlib

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from steelnb import losses, runtime
from steelnb.data import sources, splits
from steelnb.evaluation import metrics
from steelnb.figures import plots, widgets
from steelnb.figures.sign_trick import NEGATIVE, POSITIVE, draw_outputs, draw_sign_trick, sign_trick
from steelnb.losses import broken
from steelnb.network.unet import UNet
from steelnb.training import loss_trials

plots.use_style()
NARROW = 5.0  # inches: legible on a telephone
print(runtime.describe())

# %% [markdown]
# ## 1 · One number
#
# Dice compares a prediction *x* with a mask *t*: twice the overlap over the sum of both areas, 2Σ*xt* / (Σ*x* + Σ*t*). The original
# first gave it what came out of the network, any real number (its smoothing of 1e-4 included):


# %%
def raw_dice(x, t, smooth=1e-4):
    overlap, total = (x * t).sum((2, 3)), x.sum((2, 3)) + t.sum((2, 3))
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean()


x, t = torch.randn(4, 1, 48, 48), (torch.rand(4, 1, 48, 48) < 0.06).float()
assert torch.allclose(raw_dice(x, t), broken.raw_dice_loss(x, t))

# %% [markdown]
# Let the network say the same number *x* at every pixel, and let a share *f* = 6 % of the pixels be defect, as on
# Severstal's defective images. Then a whole loss is a curve over one number, 1 − 2*fx* / (*x* + *f*).
#
# **Predict before you run:** which way does gradient descent push *x* if it starts at −0.1?

# %% tags=["nbval-check-output"]
signs = {True: "−", False: "+"}
print("     x   numerator / denominator     loss   slope")
for x in (-100.0, -1.0, -0.1, -0.065, -0.03, 0.03, 1.0, 100.0):
    here = sign_trick(x, share=0.06)
    print(f"{x:>7}          ({signs[here.numerator < 0]}) / ({signs[here.denominator < 0]})"
          f"           {here.loss:>6.2f}   {here.slope:.1e}")
    assert here.slope < 0

# %% [markdown]
# The slope is negative **everywhere**, −2*f*² / (*x* + *f*)²: descent always raises *x*. From −0.1 that leads to the pole at
# *x* = −Σ*t*/*N* = −*f*, where numerator and denominator are both negative, their ratio is a positive "Dice" without an
# upper end, and the loss falls below zero, where no Dice loss can be. One step too far, and it is at +∞.
#
# Far away the slope is all but gone, and the loss is 1 − 2*f* = 0.88 at −100 **and** at +100. The loss cannot tell an
# image without a single defect pixel from one that is all defect.
#
# In a live notebook a slider appears here; below it the same picture stands still.

# %%
widgets.explore_sign_trick(share=0.06)

# %%
draw_sign_trick(-0.1, share=0.06)
plt.show()

# %% [markdown]
# *Figure 1: The loss over one constant output. Blue: both signs negative. Gray: only the numerator is; the loss is above 1. Red:
# both positive, where Dice was meant to be. The arrow is the way of gradient descent, to the right on all three. Below, the two
# sums at the point.*
#
# A number takes this path alone. In an image the pixels differ, and so do their gradients: for a background pixel,
# ∂loss/∂*x* = 2Σ*xt* / (Σ*x* + Σ*t*)², whose sign is that of the overlap. So while outputs inside the defect are positive on
# the whole, every background pixel is pushed **down**, with no floor at 0, until the denominator is gone.

# %% tags=["nbval-check-output"]
mask = torch.zeros(1, 1, 10, 10)
mask[..., :2, :3] = 1  # 6 of 100 pixels
for inside, outside in ((0.5, 0.5), (-0.5, -0.5)):
    x = torch.where(mask > 0, inside, outside).requires_grad_()
    broken.raw_dice_loss(x, mask).backward()
    moves = {name: "up" if x.grad[mask == value].mean() < 0 else "down" for name, value in (("defect", 1), ("background", 0))}
    print(f"all outputs {inside:+}: descent moves", ", ".join(f"{name} {way}" for name, way in moves.items()))
    assert moves == ({"defect": "up", "background": "down"} if inside > 0 else {"defect": "down", "background": "up"})

# %% [markdown]
# Below the pole everything is mirrored: background up, defect **down**. The network would learn the mask upside down, and
# its loss would fall while it does. That is the sign trick in full.
#
# ## 2 · A network, eight times
#
# Which side of the pole do the first steps land on? One run proves nothing. Here are eight seeds (first weights, order of batches), with
# the original's optimizer (SGD, learning rate 0.001, momentum 0.99:
# [`train_model.ipynb` at 8514c39](https://github.com/dosp0911/Steel_image_Segmentation/blob/8514c3966d07d0da27da65199f4851b4c4ac27e5/train_model.ipynb)),
# batches of 2 and batch norm in the encoder only
# ([`model.py` at d3b4367](https://github.com/dosp0911/Steel_image_Segmentation/blob/d3b43672e3ff0cfab05831e530307509b2c9a500/model.py)).
# An output above 0.5 counts as defect. The images are crops of synthetic steel.
#
# **Predict:** how many of the eight end with negative outputs, and how good is the best mask among them?

# %%
FULL = runtime.profile() == "full"
STEEL = dict(size=(256, 512), shrink=1, depth=4) if FULL else {}  # a third of an image, a quarter of the original's width
NETWORK = dict(width=16, depth=4) if FULL else dict(width=4, depth=2)
ORIGINAL = dict(optimizer="sgd", learning_rate=1e-3, momentum=0.99, batch=2, model=NETWORK | {"norm": "encoder"})
SEEDS, STEPS = (range(14), 400) if FULL else (range(8), 200)

data = sources.open_dataset("synthetic", images=512 if FULL else 64, progress=False)
parts = splits.by_image(data, 0.4)
training = loss_trials.crops(data.subset(parts.train), 96, share=0.06, **STEEL)
held_out = loss_trials.crops(data.subset(parts.validation), 32, share=0.06, seed=1, **STEEL)
everything = metrics.dice(torch.ones_like(held_out.masks), held_out.masks, empty="skip").mean().item()
print(f"{len(training.masks)} crops to train on, {training.share:.1%} defect; {len(held_out.masks)} held out")
print(f"hard Dice of 'all defect' on them: {everything:.3f}")

# %%
runs = {}
for seed in SEEDS:
    seen = []

    def recorded(x, mask, seen=seen):
        seen.append((loss := broken.raw_dice_loss(x, mask)).item())
        return loss

    trial = loss_trials.trial(recorded, training, held_out, seed=seed, steps=STEPS, every=STEPS // 10, threshold=0.5, **ORIGINAL)
    runs[seed] = trial.history, np.array(seen), loss_trials.logits(trial.model, held_out)

# %%
def outcome(x):
    """Where a network's outputs ended, by the share of them above 0.5 and below 0."""
    if (x < 0).float().mean() > 0.95:
        return "negative"
    return "positive" if (x > 0.5).float().mean() > 0.95 else "mixed"


def ranking(x):
    """Average precision of outputs for the held-out crops: whether they rank the pixels, whatever the threshold."""
    return metrics.average_precision(x.numpy().ravel(), held_out.masks.numpy().ravel())


table = pd.DataFrame([
    {
        "seed": seed, "mean at first": history["mean"].iloc[0], "mean at last": x.double().mean().item(),
        "outcome": outcome(x), "one number": bool(x.std() < 1e-3 * x.abs().mean()),
        "lowest loss": seen.min(), "steps below 0": int((seen < 0).sum()),
        "first 20": np.median(seen[:20]), "last 20": np.median(seen[-20:]),
        "best Dice": history["dice"].max(), "Dice": history["dice"].iloc[-1], "AP": ranking(x), "AP of −x": ranking(-x),
    }
    for seed, (history, seen, x) in runs.items()
]).set_index("seed")
counts = table["outcome"].value_counts()
short = {"mean at first": "x first", "mean at last": "x last", "outcome": "ends", "one number": "one x", "steps below 0": "loss < 0",
         "best Dice": "best", "Dice": "Dice", "AP": "AP", "AP of −x": "AP of −x"}
print(table[[*short]].rename(columns=short).round(3).to_string(formatters={"x last": "{:.3g}".format}))

# %% [markdown]
# *x first*, *x last*: the mean output on held-out crops, before and after; *one x*: the network says the same at every pixel (its
# ReLUs are dead, only the last bias is left); *loss < 0*: on so many steps; *best* and *Dice*: hard Dice on the way and at the end,
# mean over held-out crops, all with a defect; *AP*: average precision ([04](04_metrics.ipynb)) of the outputs at the end, and of the
# outputs turned upside down; a blind ranking has 0.06.

# %%
negative, positive = (int(counts.get(which, 0)) for which in ("negative", "positive"))
below = int((table["steps below 0"] > 0).sum())
on_negative = table[table["outcome"] == "negative"]
print(f"of {len(table)} seeds: {negative} negative everywhere, {positive} positive everywhere, "
      f"{len(table) - negative - positive} mixed")
print(f"{below} had a loss below 0 at some step; at the end, Dice is {table['Dice'].max():.3f} at best, 'all defect' {everything:.3f}")
ranks = table["AP"] > 3 * held_out.share
print(f"{ranks.sum()} rank the pixels, with AP {table.loc[ranks, 'AP'].min():.2f} to {table.loc[ranks, 'AP'].max():.2f}; "
      f"a blind ranking has {held_out.share:.2f}")
print(f"loss of the negative ones at the end: {on_negative['last 20'].min():.2f} to {on_negative['last 20'].max():.2f}, "
      f"1 − 2f = {1 - 2 * training.share:.2f}")
assert FULL or (negative >= 1 and positive >= 1), "the outcome depends on the seed"
assert FULL or negative + positive >= 0.75 * len(table)
assert FULL or (ranks.any() and not ranks[on_negative.index].any())
assert FULL or below >= len(table) / 4, "a loss below 0 is what a sound Dice loss cannot have"
assert FULL or table["Dice"].max() < everything + 0.05, "what a seed finds on its way, it does not keep"

# %%
figure, axes = plt.subplots(3, 1, figsize=(NARROW, 6.3), sharex=True)
colours = {"negative": NEGATIVE, "positive": POSITIVE, "mixed": plots.FAINT}
for seed, (history, seen, _) in runs.items():
    colour = colours[table.loc[seed, "outcome"]]
    axes[0].plot(history["step"], history["mean"], color=colour, lw=1.2)
    axes[1].plot(pd.Series(seen).rolling(20, min_periods=1).median(), color=colour, lw=1.2)
    axes[1].plot(np.flatnonzero(seen < 0), seen[seen < 0].clip(-1.4), "o", color=colour, ms=3)
    axes[2].plot(history["step"], history["dice"], color=colour, lw=1.2)
axes[0].set_yscale("symlog", linthresh=1)
axes[0].yaxis.get_major_locator().set_params(numticks=7)
axes[0].set(title=f"Mean output: {negative} end negative, {positive} positive", ylabel="mean output x (symlog)")
axes[1].axhline(0, color=plots.INK, lw=1, ls=":")
axes[1].set(title=f"Loss, running median of 20: {below} of {len(table)} go below 0", ylabel="1 − “Dice”", ylim=(-1.5, 2))
axes[2].axhline(everything, color=plots.INK, lw=1, ls="--")
axes[2].text(STEPS, everything + 0.01, "“all defect”", ha="right")
axes[2].set(title=f"Hard Dice, held out: at most {table['Dice'].max():.2f} at the end", xlabel="step", ylabel="Dice", ylim=(-0.02, 0.5))
plt.show()

# %% [markdown]
# *Figure 2: Eight seeds with the raw Dice loss and the original's optimizer. Blue ends negative everywhere, red positive everywhere.
# Dots: single batches with a loss below 0 (those below −1.4 at −1.4). The loss can be anything near the pole; a network that says one number rests near 0.88, others go on falling. Some networks find
# defects on their way out; none keeps them within these 200 steps, read at 0.5.*
#
# So the original's observation is half of it. Outputs do turn negative, on some seeds; on the others they blow up the
# other way, and it would have reported "everything is defect". So far the loss of the *negative* ones has not fallen: it
# rests near 1 − 2*f*, where the sign of the outputs plays no part. Every output of the positive ones lies above the threshold, so
# their Dice is that of "all defect"; and yet some of them rank the pixels (*AP*). A threshold of 0.5 means nothing to outputs of this
# size: like the black one in [05](05_bce_imbalance.ipynb), an all-white mask, too, may only be a badly placed threshold.
#
# But the original trained for hours. Take a negative seed whose outputs still differ between pixels, and wait. **Predict:** on
# which pixels will the outputs be lowest?

# %%
alive = on_negative[~on_negative["one number"]]
patient = alive.index[0] if len(alive) else on_negative.index[0]
longer = []


def recorded(x, mask):
    longer.append((loss := broken.raw_dice_loss(x, mask)).item())
    return loss


trial = loss_trials.trial(recorded, training, held_out, seed=patient, steps=4 * STEPS, every=4 * STEPS, threshold=0.5, **ORIGINAL)
x = loss_trials.logits(trial.model, held_out)
inside, outside = x[held_out.masks].mean().item(), x[~held_out.masks].mean().item()
fell = np.median(longer[STEPS - 50 : STEPS]) - np.median(longer[-50:])
print(f"seed {patient}: median loss of 50 batches {np.median(longer[STEPS - 50 : STEPS]):.2f} after {STEPS} steps, "
      f"{np.median(longer[-50:]):.2f} after {4 * STEPS}")
print(f"mean output inside defects {inside:,.0f}, outside {outside:,.0f}; Dice {trial.history['dice'].iloc[-1]:.2f}, "
      f"AP {ranking(x):.2f}, upside down {ranking(-x):.2f}")
assert FULL or trial.history["dice"].iloc[-1] < everything + 0.05
assert FULL or not len(alive) or (outcome(x) == "negative" and inside < outside and fell > 0.1 and ranking(x) < ranking(-x))

# %% [markdown]
# There it is, as the original reports it: the loss falls, every output is negative, and Dice is 0. And it is the mirror of
# learning: outputs are lowest **inside the defects**. The network finds them, upside down.
#
# ## 3 · "Tried, not fixed": squares
#
# The original then squared "the sum in the denominator", so that nothing negative is left, and reports that it did not help. Which
# form ran is not in the versions that we have read; a comment in its
# [`Metrics.ipynb` at 6569714](https://github.com/dosp0911/Steel_image_Segmentation/blob/6569714edf511b2a5e9eb8e1cdeccab56f1b7337/notebook/Metrics.ipynb)
# has 2(a,b) / (a·a + b·b). Squares can be put in several places. Which reading fails, and which would have worked? First without a
# network, on 32×32 free numbers, pushed by Adam from −0.5 and from +0.5, eight times each.
#
# **Predict:** one of the four squared forms below has a lower end *and* finds the mask from both starts. Which?

# %%
FORMS = {
    "none: 2Σxt / (Σx + Σt)": lambda x, t: broken.raw_dice_loss(x, t),
    "sum: 2Σxt / (Σx + Σt)²": lambda x, t: broken.squared_denominator_dice_loss(x, t, squared="sum"),
    "both: 2(Σxt)² / (Σx² + Σt²)": lambda x, t: broken.raw_squared_dice_loss(x, t, squared="sums"),
    "ratio: (2Σxt / (Σx + Σt))²": lambda x, t: broken.raw_squared_dice_loss(x, t, squared="ratio"),
    "pixels: 2Σxt / (Σx² + Σt²)": lambda x, t: broken.squared_denominator_dice_loss(x, t, squared="pixels"),
    "sigmoid, then Dice": lambda x, t: losses.original_dice_loss(x, t),
}
none, squared_sum, both, ratio, pixels, sigmoid = FORMS


# %%
row, column = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
disc = ((row - 16) ** 2 + (column - 12) ** 2 < 20).expand(8, 1, 32, 32)


def descend(form, start, steps=300):
    """Free outputs after 300 steps of Adam: the lowest loss on the way, Dice at x > 0.5 and, upside down, at x < −0.5."""
    x = start + 0.1 * torch.randn(disc.shape, generator=torch.Generator().manual_seed(0))
    optimizer, lowest = torch.optim.Adam([x.requires_grad_()], lr=0.05), np.inf
    threshold = 0.0 if "sigmoid" in form else 0.5
    for _ in range(steps):
        optimizer.zero_grad()
        (loss := FORMS[form](x, disc)).backward()
        optimizer.step()
        lowest = min(lowest, loss.item())
    return lowest, *(metrics.dice(side > threshold, disc, empty="skip").mean().item() for side in (x, -x))


# %%
free = pd.DataFrame([
    {"form": form, "start": start} | dict(zip(("lowest loss", "Dice", "upside down"), descend(form, start), strict=True))
    for form in FORMS for start in (-0.5, 0.5)
]).pivot(index="form", columns="start").loc[list(FORMS)]
print(free.rename(index=lambda form: form.partition(":")[0].partition(",")[0]).round(2).to_string())

# %%
dice, upside_down, lowest = free["Dice"], free["upside down"], free["lowest loss"].min(axis=1)
assert (dice.loc[[pixels, sigmoid]] > 0.95).all(axis=None) and (lowest[[pixels, sigmoid]] > -0.01).all()
assert dice.loc[both, -0.5] < 0.05 and upside_down.loc[both, -0.5] > 0.95 and dice.loc[both, 0.5] > 0.95
assert (lowest[[none, squared_sum, both, ratio]] < -1).all()

# %% [markdown]
# - **none** finds the mask from +0.5 and does not from −0.5: free numbers that start right of the pole can stay there.
# - **sum**, the words taken literally, keeps the pole at Σ*x* = −Σ*t*; it now has one sign on both sides, and where the
#   overlap Σ*xt* is positive the loss falls without end towards it. Free numbers find the mask on their way there, but the mask is
#   not the goal: its "Dice" is 1 / (2Σ*t*), so the loss of a perfect answer on a 48×48 crop is 0.996, of nothing at all 1.
# - **both** forgets the sign: *x* = −*t* scores as *x* = *t* does. **ratio** forgets it too and keeps the pole, and
#   *x* = −*t* lies exactly on it. Whoever starts below zero learns the mask upside down, with a loss far below zero.
# - **pixels** is bounded by 1 and best at *x* = *t*, whatever the start. It is the form of V-Net (Milletari et al. 2016,
#   section 3), there on probabilities. It works.
#
# And in a network? Five of the forms (not *ratio*), four seeds, all under the same terms: the same first weights and batches, batch
# norm everywhere, batches of 4, AdamW at 0.003, so that 100 steps are enough to learn something. **Predict** for each form whether
# it beats "all defect", and which of them can end upside down.


# %%
def five_networks(steps, seeds):
    """What each form's networks put out for the held-out crops, and a row per form and seed."""
    trained, rows = {}, []
    for form in (none, squared_sum, both, pixels, sigmoid):
        threshold = 0.0 if form == sigmoid else 0.5
        for seed in seeds:
            trial = loss_trials.trial(FORMS[form], training, held_out, seed=seed, steps=steps, every=steps, model=NETWORK,
                                      learning_rate=3e-3, threshold=threshold)
            trained[form, seed] = x = loss_trials.logits(trial.model, held_out)
            flipped = metrics.dice(x < -threshold, held_out.masks, empty="skip").mean().item()
            rows.append({"form": form, "seed": seed, "first mean": trial.history["mean"].iloc[0], "upside down": flipped,
                         "lowest loss": trial.history["loss"].min(), "Dice": trial.history["dice"].iloc[-1]})
    return trained, pd.DataFrame(rows).set_index(["form", "seed"])


trained, path = five_networks(300 if FULL else 100, SEEDS[:4])

# %%
by_form = path.groupby("form", sort=False)
median, best = by_form["Dice"].median(), by_form["Dice"].max()
flipped_best = by_form["upside down"].max()
for form in median.index:
    beyond = (path.loc[form]["Dice"] > everything).sum()
    print(f"Dice {median[form]:.2f} ({by_form['Dice'].min()[form]:.2f} to {best[form]:.2f}), above 'all defect' on {beyond} of "
          f"{len(path.loc[form])} seeds: {form}")
over_none = int((path.loc[squared_sum]["Dice"] > path.loc[none]["Dice"]).sum())
print(f"the squared sum is better than no square on {over_none} of {len(path.loc[none])} seeds")
assert FULL or over_none == 1, "the text below says so"
assert FULL or (median[none] < median[squared_sum] < 0.65 * median[sigmoid])
assert FULL or (median[pixels] > everything + 0.08 and median[sigmoid] > everything + 0.08)
assert FULL or max(median[squared_sum], median[none]) < median[sigmoid] - 0.08
assert FULL or max(by_form["Dice"].min()[[squared_sum, none]]) < everything, "neither can be relied on"
assert FULL or (by_form["Dice"].min()[both] < 0.05 and flipped_best[both] > everything + 0.05), "a seed ends upside down"
assert FULL or by_form["lowest loss"].min()[both] < -10

# %%
lowest = path.loc[both, "first mean"].idxmin()  # the seed whose first outputs were lowest
crop = int(metrics.dice(trained[both, lowest] < -0.5, held_out.masks, empty="skip").argmax())  # most right, upside down
rim = [(window - inner) // 2 for window, inner in zip(held_out.windows.shape[2:], held_out.masks.shape[2:], strict=True)]
inner = held_out.windows[crop, 0, rim[0] :, rim[1] :][tuple(map(slice, held_out.masks.shape[2:]))]
draw_outputs(inner.numpy(), held_out.masks[crop, 0].numpy(),
             {form: trained[form, lowest][crop, 0].numpy() for form in (none, squared_sum, both, pixels, sigmoid)})
plt.show()

# %% [markdown]
# *Figure 3: One held-out crop, its label, and what the five networks put out; red above zero, blue below, each on its own scale (the
# range stands below it). One seed of four, the one whose first outputs were lowest.*
#
# With numerator and denominator squared (*both*), this network found the defect but marks it with negative numbers. All four seeds:

# %%
figure, ax = plt.subplots(figsize=(NARROW, 3.2))
for place, form in enumerate(median.index):
    values = path.loc[form]
    jitter = place + np.linspace(-0.18, 0.18, len(values))
    ax.plot(values["Dice"], jitter, "o", color=POSITIVE, ms=7, alpha=0.8, label=None if place else "above the threshold")
    if form != sigmoid:
        ax.plot(values["upside down"], jitter, "o", mfc="none", color=NEGATIVE, ms=7, label=None if place else "x < −0.5")
ax.axvline(everything, color=plots.INK, lw=1, ls="--")
ax.text(everything + 0.005, -0.5, "“all defect”", va="center")
works = [form.split(":")[0].split(",")[0] for form in median.index if by_form["Dice"].min()[form] > everything + 0.05]
ax.set(yticks=range(len(median)), yticklabels=[form.replace(": ", "\n") for form in median.index], xlim=(-0.02, 0.8),
       ylim=(4.5, -0.8), xlabel="hard Dice, held-out crops")
figure.suptitle(f"{'Only ' if works else ''}{' and '.join(f'“{form}”' for form in works) or 'No form'}\n"
                f"beat{'' if len(works) > 1 else 's'} “all defect” on every seed", x=0.01, ha="left", fontsize=10, fontweight="bold")
ax.legend(loc="upper right")
plt.show()

# %% [markdown]
# *Figure 4: Four seeds of each form after 100 steps, the same first weights and batches. Filled: the outputs above the threshold as a mask.
# Open: the outputs below −0.5 as a mask, which is what a network that has learned upside down would score.*
#
# So "tried, not fixed" fits the words taken literally: the squared sum is better than no square on one of four seeds (its median is
# higher), about half as good as the fix, and learns nothing on one seed. It fits squaring both sums on the seed that begins below
# zero. Squares of the pixels in the denominator alone beat "all defect" on every seed, at a price: outputs are no probabilities,
# and they leave 0…1. And the raw form itself, under these gentler terms, beats "all defect" on two of four seeds. The order of the
# forms is of 100 steps and four seeds at one threshold; the poles and bounds behind it are proved.
#
# ## 4 · "Tried, not fixed": a threshold
#
# Next the original thresholded the outputs at 0.5 before the loss, so that they would be 0 or 1. A comparison has no
# derivative. **Predict:** what does PyTorch do at `backward`?

# %% tags=["nbval-check-output"]
batch, target = training.windows[:2].float() / 255, training.masks[:2]
torch.manual_seed(0)
model = UNet(**NETWORK)
try:
    broken.thresholded_dice_loss(loss_trials.outputs(model, batch, target), target).backward()
except RuntimeError as error:
    print(f"{type(error).__name__}: {error}")
    said = str(error)
else:
    said = ""
assert "does not require grad" in said, "a threshold has no gradient: backward should have been refused"

# %% [markdown]
# That is a clear message, and the original never saw it. Its code
# ([`Metrics.py` at 6132613](https://github.com/dosp0911/Steel_image_Segmentation/blob/61326131cc9031db2dd271ab0cd2aeeebadc17b3/Metrics.py),
# `DICELoss`) asked for gradients on prediction **and target** first, in four lines like these:

# %% tags=["nbval-check-output"]
prediction, labels = loss_trials.outputs(model, batch, target), target.float()
prediction.requires_grad_(True)
labels.requires_grad_(True)
thresholded = (prediction >= 0.5).float()
loss = raw_dice(thresholded, labels)
loss.backward()
gradients = [weight.grad for weight in model.parameters()]
print("backward ran; the prediction, thresholded, requires a gradient:", thresholded.requires_grad)
print("the labels got a gradient:", labels.grad is not None)
print("weights with a gradient:", sum(g is not None for g in gradients), "of", len(gradients))
assert not thresholded.requires_grad and labels.grad is not None and all(g is None for g in gradients)

# %% [markdown]
# The loss depends on the *labels*, and they ask for a gradient, so there is something to differentiate and no error. The
# gradient runs to the labels; the network is not in the graph. An optimizer skips weights whose `.grad` is `None`,
# without a word. A hundred steps of "training":


# %%
def fingerprint(model):
    """A hash of every weight, to the last bit (batch norms' running statistics are no weights)."""
    return hashlib.sha256(b"".join(w.detach().cpu().numpy().tobytes() for w in model.parameters())).hexdigest()[:12]


def first_network(seed=0):
    torch.manual_seed(seed)
    return UNet(**NETWORK)


silenced = loss_trials.trial(broken.original_thresholded_dice_loss, training, held_out, steps=100, every=50, threshold=0.5, model=NETWORK)
sound = loss_trials.trial(losses.original_dice_loss, training, held_out, steps=5, every=5, model=NETWORK)
before, after = fingerprint(first_network()), fingerprint(silenced.model)
gradients = [weight.grad is not None for weight in silenced.model.parameters()]
print(f"weights before {before}, after 100 steps {after}; {sum(gradients)} of {len(gradients)} have a gradient")
print(f"with a sigmoid instead, after 5 steps: {fingerprint(sound.model)}")
assert before == after and not any(gradients)
assert fingerprint(sound.model) != before and all(w.grad is not None for w in sound.model.parameters())

# %% [markdown]
# Not a bit has moved. What makes this failure so hard to see is that something does move: the loss, from batch to batch,
# and the batch norms' running averages, which learn without gradients, so that even the outputs for held-out images drift.

# %%
drift = {name: (value - dict(first_network().named_buffers())[name].to(value.device)).abs().max().item()
         for name, value in silenced.model.named_buffers() if name.endswith("running_mean")}
print("mean held-out output at steps 0, 50, 100:", *silenced.history["mean"].round(3))
assert max(drift.values()) > 0

# %% [markdown]
# Two habits catch it: never call `requires_grad_` on a network's output or on labels, and, before a long run, assert that
# every weight has a gradient after the first `backward`.
#
# ## 5 · The fix: a sigmoid
#
# With *p* = 1 / (1 + e^−*x*) between 0 and 1, both sums are positive, there is no pole to reach, and 1 − Dice lies between
# 0 and 1. Section 3 has it beside the raw form on equal terms; here it is with the optimizer of section 2:

# %%
bounds, reached, ranked = [], [], []
for seed in SEEDS[:2]:
    fixed = loss_trials.trial(losses.original_dice_loss, training, held_out, seed=seed, steps=STEPS // 2, every=STEPS // 10, **ORIGINAL)
    p = loss_trials.logits(fixed.model, held_out).sigmoid()
    ranked.append(ranking(p))
    reached.append(fixed.history["dice"].iloc[-1])
    bounds.append((fixed.history["loss"].min(), fixed.history["loss"].max(), p.min().item(), p.max().item()))
lowest_loss, highest_loss = min(b[0] for b in bounds), max(b[1] for b in bounds)
print(f"loss within {lowest_loss:.2f} … {highest_loss:.2f}, probabilities within "
      f"{min(b[2] for b in bounds):.3f} … {max(b[3] for b in bounds):.3f}, over {len(bounds)} seeds")
assert lowest_loss >= 0 and highest_loss <= 1
print(f"Dice there after {STEPS // 2} steps: {min(reached):.2f} to {max(reached):.2f}; 'all defect' {everything:.2f};\n  "
      f"AP {min(ranked):.2f} to {max(ranked):.2f}, a blind ranking {held_out.share:.2f}")
assert FULL or max(reached) < everything + 0.03, "no better than all defect: the page says so"
print(f"on equal terms (section 3): sigmoid {median[sigmoid]:.2f}, {by_form['Dice'].min()[sigmoid]:.2f} at worst; "
      f"raw {median[none]:.2f}, {by_form['Dice'].min()[none]:.2f} at worst")
assert FULL or by_form["Dice"].min()[none] < everything < by_form["Dice"].min()[sigmoid] - 0.05

# %% [markdown]
# The loss is sound at once, which is proved. That a network *learns* by it is another matter: with the original's optimizer, after 100
# steps and on two seeds (section 2 had 200 steps and eight) its Dice is that of "all defect", its AP 0.08 to 0.13: too short to
# compare. On section 3's terms (AdamW, batch norm everywhere) all four seeds learn with the sigmoid, and two of four beat "all
# defect" without: a toy comparison.
#
# ## 6 · The original's five statements

# %%
for number, statement, verdict, *evidence in (
    (1, "cross entropy drowns in background, training is unstable", "see 05"),
    (2, "raw Dice: outputs turn negative while the loss falls", "refined",
     f"{negative} of {len(table)} seeds; {positive} blow up positive",
     f"seed {patient} in {4 * STEPS} steps: loss down by {fell:.2f}, AP {ranking(x):.2f}, upside down {ranking(-x):.2f}"),
    (3, "squaring the denominator's sum does not help", "refined",
     f"sum: Dice {median[squared_sum]:.2f}, {by_form['Dice'].min()[squared_sum]:.2f} at worst, no fix; squared pixels: "
     f"{median[pixels]:.2f}, {by_form['Dice'].min()[pixels]:.2f} at worst, a fix"),
    (4, "a threshold before the loss: nothing trains", "confirmed",
     f"{sum(gradients)} of {len(gradients)} weights with a gradient, hash {'unchanged' if before == after else 'changed'}"),
    (5, "a sigmoid in front is the fix", "confirmed for the loss",
     f"loss within 0 … 1; on equal terms Dice {median[sigmoid]:.2f}, raw {median[none]:.2f}, 'all defect' {everything:.2f}"),
):
    print(f"{number} {verdict}: {statement}", *evidence, sep="\n    ")

# %% tags=["headline"]
print(f"raw Dice over {len(table)} seeds: {negative} all negative, {positive} all positive; "
      f"on equal terms raw {median[none]:.2f}, sigmoid {median[sigmoid]:.2f}")

# %% [markdown]
# ## What to remember
#
# - Dice is meant for numbers from 0 to 1. On raw outputs it has a pole at Σ*x* = −Σ*t*, no lower end, and the same value far
#   out on both sides: a loss below 0, or one that sits at 1 − 2*f*, is the sign of it.
# - One seed is an anecdote, and eight are a hint. The same code goes all negative or all positive by its seed alone.
# - The sigmoid repairs the loss; it does not choose optimizer, learning rate, budget or threshold: with the original's optimizer the
#   networks had hardly begun to learn after 100 steps.
# - An error that stops a run is a gift. `requires_grad_(True)` on the labels turns it into a hundred hours of nothing: check that every
#   weight has a gradient.
#
# ## Exercises
#
# 1. Give the raw form a head start: set the last bias to +1 (`model.head.bias`). Do seeds still go negative?
# 2. Run section 2 with `optimizer="adamw", learning_rate=1e-2`. The outputs stay small. Does any seed learn?
# 3. Sum over the batch instead of each image (`per="batch"` in `losses.dice_loss`): where is the raw form's pole then?
# 4. Find the smallest smoothing that would keep the raw form's denominator positive. Why is it no cure?
#
# ## Further reading
#
# - Milletari, Navab, Ahmadi 2016, [V-Net](https://arxiv.org/abs/1606.04797), section 3: Dice as a loss, with squares.
# - Drozdzal et al. 2016, [The importance of skip connections](https://arxiv.org/abs/1608.04117): Dice with plain sums.
# - PyTorch, [Autograd mechanics](https://pytorch.org/docs/stable/notes/autograd.html): what requires a gradient, and when.
# - The library's `losses.broken`: the broken losses of this page and three more, each with its symptom.
# - Next: [07 · Which loss should I take?](07_choosing_a_loss.ipynb)
