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
# # Start here: from steel to mask
#
# **Does my machine work, and what will I get?** Run this page: it finds (or draws) steel images, trains a small U-Net on
# them, and shows the defects that it finds on images that it has not seen.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/your--name/steelnb/blob/v0.1.0/notebooks/00_start_here.ipynb)
# [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/your--name/steelnb/blob/v0.1.0/notebooks/00_start_here.ipynb)
#
# | what you will learn | what it needs |
# |---|---|
# | the whole path: images → labels → training → masks → a score you can trust; the training loop in fifteen lines | a CPU and about two minutes; a GPU is used if there is one |
# | the same four steps from a terminal, on your own steel | nothing to download: without data, synthetic steel is drawn on the spot |
#
# In 2020 someone trained a U-Net for this on [Kaggle's Severstal images](https://www.kaggle.com/c/severstal-steel-defect-detection),
# for 100 hours on one GPU, and wrote down what went wrong
# ([dosp0911/Steel_image_Segmentation](https://github.com/dosp0911/Steel_image_Segmentation)). This series rebuilds that
# work so that it can be stepped through, checked and believed. Everything measured on this page is a *toy* (see the
# [glossary](#glossary)): a short training on a few images shows how the parts fit together.

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
from scipy.ndimage import gaussian_filter

import steelnb
from steelnb import losses, runtime
from steelnb.evaluation import metrics
from steelnb.figures import plots
from steelnb.network import pretrained
from steelnb.training import Trainer, batches
from steelnb.training.recipes import SMOKE
from steelnb.training.trainer import optimizer_and_schedule

plots.use_style()
WIDTH = 4.8  # inches of a figure: it can be read on a screen of 390 pixels
print(runtime.describe())

# %% [markdown]
# ## 1 · Steel
#
# `steelnb.open_dataset()` takes the folder that `STEELNB_DATA` names, the Severstal images where Kaggle has them attached, or
# else draws **synthetic steel**: procedural images with the layout, sizes, class shares and loose labels of the real set.
# What it found stands in the first line. On synthetic steel the numbers below say that the machinery works, not how good
# it would be on real steel.

# %%
data = steelnb.open_dataset(progress=False)
print(data.describe())

# %% [markdown]
# A label is a mask: which pixels are defect. Here they are tinted and outlined.

# %%
by_area = data.rows.groupby("ImageId")["area"].sum().sort_values()
examples = by_area.index[[len(by_area) // 4, len(by_area) // 2, -len(by_area) // 8]]


def cut_out(name, draw, *masks, columns=800):
    """A picture of the image and masks, cut out around its defects, its grain smoothed a little."""
    mask = data.mask(name)
    middle = np.flatnonzero(mask.any(0)).mean() if mask.any() else mask.shape[1] / 2
    left = int(np.clip(middle - columns / 2, 0, max(0, mask.shape[1] - columns)))
    return draw(gaussian_filter(data.image(name), 1), *masks)[:, left : left + columns]


figure = plots.stack({
    f"{name}: {data.mask(name).mean():.1%} of its pixels are defect":
        cut_out(name, plots.overlay, data.mask(name)[None])
    for name in examples
}, WIDTH)
plt.show()

# %% [markdown]
# *Figure 1: Three images with their labels (vermilion), cut out around them, their grain smoothed a little: small, middling
# and large defects.*
#
# ## 2 · Training
#
# A *recipe* is everything that decides how a network is trained, as data. `SMOKE` is made for a CPU: a U-Net with an
# eighth of the original's channels, crops instead of whole images, about two minutes instead of 100 hours. On a GPU
# (`runtime.profile()` is then "full") it trains ten times as long.

# %%
recipe = SMOKE if runtime.profile() == "smoke" else SMOKE.changed(epochs=60)
named = ("model", "loss", "optimizer", "learning_rate", "batch", "epochs", "crop", "flips")
print(*(f"{key}: {getattr(recipe, key)}" for key in named), sep="\n")
print("…", len(recipe.to_dict()) - len(named), "more: recipe.to_dict()")

# %% [markdown]
# Training is a loop: take a batch of windows and masks, ask the network, measure the loss, move every weight a little
# against its gradient. A network answers with **logits**, numbers without bounds; their sigmoid is a probability, and a
# logit above 0 is a probability above ½. Here is the loop, for eight steps:

# %%
short = recipe.changed(epoch_samples=8 * recipe.batch)
crops, _ = batches.training_and_validation_samples(data, short, seed=0)
device = runtime.device()


def train_by_hand(steps: int):
    torch.manual_seed(0)  # the first weights are random
    model = steelnb.UNet(**short.model).to(device).train()
    optimizer, schedule = optimizer_and_schedule(model, short, steps)  # AdamW, and how its rate rises and falls
    for windows, masks, *_ in batches.iter_batches(crops, short, epoch=0, device=device):
        windows, masks = windows.to(device), masks.to(device)
        logits = model(windows.float() / 255)[..., : masks.shape[2], : masks.shape[3]]
        loss = losses.dice_bce_loss(logits, masks)
        optimizer.zero_grad()
        loss.backward()  # the gradient of every weight
        optimizer.step()
        schedule.step()
    return model


# %% [markdown]
# The library's `Trainer` does the same, and more around it: half precision on a GPU, several processes, checkpoints.

# %%
mine, trainer = train_by_hand(steps=8), Trainer(short, outputs=1, total=8, seed=0, device=device)
trainer.begin()
for batch in batches.iter_batches(crops, short, epoch=0, device=device):
    trainer.step(*batch)
pairs = list(zip(mine.state_dict().values(), trainer.model.state_dict().values(), strict=True))
if runtime.precision(device) is torch.float32:
    assert all(torch.equal(a, b) for a, b in pairs), "the loop above is no longer the library's"
    print(f"after 8 steps all {sum(a.numel() for a, _ in pairs):,} numbers of both networks are equal, to the last bit")

# %% [markdown]
# How such a network is built stands in [03](03_unet.ipynb), what the losses do in [05](05_bce_imbalance.ipynb) to
# [07](07_choosing_a_loss.ipynb), the rest in [09](09_hundred_hours.ipynb).
#
# Four fifths of the images train the network, one fifth is held out: it never trains on those, and every score below is
# from them. One thing flatters: the weights kept are those of the epoch that scored best on these same images.

# %%
run = runtime.new_run("00_start_here")
history = steelnb.train(data, run, recipe, progress=True)

# %%
figure, (left, right) = plt.subplots(2, 1, figsize=(WIDTH, 4.4))
left.plot(history["epoch"], history["train_loss"], "o-", color=plots.INK, label="training crops")
left.plot(history["epoch"], history["validation_loss"], "o-", color=plots.PREDICTION, label="held-out images")
first, last = history["train_loss"].iloc[[0, -1]]
left.set(title=f"The training loss goes from {first:.2f} to {last:.2f}", xlabel="epoch", ylabel="Dice + BCE loss",
         ylim=(0, 1.1 * left.dataLim.ymax))
left.legend()
right.plot(history["epoch"], history["validation_dice"], "o-", color=plots.PREDICTION)
right.set(title=f"Dice on defective images reaches {history['validation_dice'].max():.2f}", xlabel="epoch",
          ylabel="Dice, held-out images", ylim=(0, 1))
plt.show()

# %% [markdown]
# *Figure 2: Above, the loss on training crops and on held-out whole images (half of the crops are centred on defects, so
# the two are not on one scale). Below, Dice: twice the overlap over the sum of both areas, 1 is perfect, averaged over
# held-out images that have a defect.*
#
# ## 3 · Masks of images that it has not seen

# %%
network = steelnb.load_network(run)
held_out = network.metadata["validation"]
defective = [name for name in held_out if data.mask(name).any()] or [*examples]  # of a few images, all may be clean
found = {name: steelnb.segment(network, data.image(name))[0] for name in [*held_out, *defective]}  # bool [H, W]


def dice(prediction, mask):
    """Twice what both share over the sum of both areas."""
    return 2 * (prediction & mask).sum() / (prediction.sum() + mask.sum())


dices = {name: dice(found[name], data.mask(name)) for name in defective}
for name, value in dices.items():
    both = (torch.from_numpy(each)[None, None] for each in (found[name], data.mask(name)))
    assert np.isclose(value, metrics.dice(*both, empty="skip").item())

# %%
ranked = sorted(dices, key=dices.get)
shown = {"best": ranked[-1], "median": ranked[len(ranked) // 2], "worst": ranked[0]}
figure = plots.stack({
    f"{which}: {name}, Dice {dices[name]:.2f}": cut_out(name, plots.errors, found[name], data.mask(name))
    for which, name in shown.items()
}, WIDTH)
plt.show()

# %% [markdown]
# *Figure 3: The best, the median and the worst of the held-out images with a defect, cut out around it. Green: found.
# Orange: missed. Pink: false alarm.*
#
# ### The network of this series, beside it
#
# The next pages look at a network of the same build that trained longer, on 480 other images of synthetic steel; it
# comes with the library. Here are both on the same image:

# %%
if pretrained.SERIES.exists():
    series = steelnb.load_network(pretrained.SERIES)
    about = series.metadata
    theirs = {name: steelnb.segment(series, data.image(name))[0] for name in defective}
    longer = {name: dice(mask, data.mask(name)) for name, mask in theirs.items()}
    print(f"loaded, not trained here: {pretrained.SERIES.name}, {about['steps']:,} steps on {about['data']['name']}")
    print(f"Dice, mean over {len(defective)} images with a defect: trained here {np.mean([*dices.values()]):.2f}, "
          f"loaded {np.mean([*longer.values()]):.2f}")
else:
    theirs, longer = found, dices
    print("no weights came with this copy: below stands the network trained here twice")

name = shown["median"]
figure = plots.stack({
    f"trained here: Dice {dices[name]:.2f}": cut_out(name, plots.errors, found[name], data.mask(name)),
    f"loaded: Dice {longer[name]:.2f}": cut_out(name, plots.errors, theirs[name], data.mask(name)),
}, WIDTH)
plt.show()

# %% [markdown]
# *Figure 4: The median image once more, by the network that this page trained and by the one that it loaded. Colours as
# above. (On steel of your own, the loaded one has never seen any like it.)*
#
# ## 4 · A score, and what it means
#
# The same masks score very differently under different conventions. Above all: does an image *without* defects, on which
# nothing was found, count as a perfect 1 (Kaggle's rule, *empty = 1*), or is it left out? So every number in this series
# says its convention. Beside this network's scores stand those of black masks, which find nothing:

# %%
report = steelnb.evaluate(network, data, replicates=500)
some = ("Dice, images with a defect", "Dice, all images, empty = 1", "precision", "recall", "clean images with an alarm")
print(*(line[:62].rstrip() for line in report.table().splitlines() if line.startswith(some)), sep="\n")
without = [name for name in held_out if not data.mask(name).any()]
black, alarms = len(without) / len(held_out), np.mean([found[name].any() for name in without])
print(f"black masks: Dice 0 on images with a defect, {black:.3f} on all images, empty = 1")
if data.name == "synthetic steel" and recipe == SMOKE:  # the text below says so
    assert alarms > 0.5
    assert black > (sum(dices.values()) + (1 - alarms) * len(without)) / len(held_out)

# %% [markdown]
# With *empty = 1* the black masks win, though they find nothing: this network raises an alarm on most clean images. In
# brackets: how far chance alone would move each number with other images of the same kind. [04](04_metrics.ipynb)
# explains scores, [10](10_results.ipynb) reads them.
#
# Is that any good? The least a network must beat is a mask that ignores the image. The best of those is all defect:

# %%
everything = np.mean([2 * share / (1 + share) for name in dices if (share := data.mask(name).mean())])
average = np.mean(list(dices.values()))
print(f"Dice on defective images: all defect {everything:.3f}, nothing 0.000, this network {average:.3f}")
if not average > everything:
    print("training has not learned more than a constant mask: give it more epochs, or more images")
assert average > everything or data.name != "synthetic steel"

# %% tags=["headline"]
seconds = history["seconds"].iloc[-1]
print(f"Dice {average:.2f} on held-out defective images of {data.name}; {seconds:.0f} s of training without scoring")

# %% [markdown]
# ## The same from a terminal
#
# ```
# python -m steelnb sample steel --images 64            # or your own: images/ + masks/, or Severstal's train.csv
# python -m steelnb train --data steel --run run
# python -m steelnb evaluate --data steel --weights run
# python -m steelnb predict --weights run --out masks steel/train_images
# ```
#
# Notebooks take your data from the environment: `STEELNB_DATA=folder make lab`, or `make run DATA=folder` for the whole
# series.

# %% tags=["nbval-check-output"]
assert (run / "weights.safetensors").exists()
print("left behind in the run folder:", *sorted(path.name for path in run.iterdir()))

# %% [markdown]
# ## What to remember
#
# - Images and labels in, masks out: `open_dataset` → `train` → `load_network` → `segment`.
# - Scores are from held-out images and name their convention; "Dice" without one means little.
# - What 100 GPU-hours bought, and what they need not have cost, is the rest of the series.
#
# ## Exercises
#
# 1. Train twice as long: `recipe.changed(epochs=12)`. Which of the curves still moves?
# 2. Take the augmentation away: `recipe.changed(flips=False, on_defect=0.0)`. What does it cost?
# 3. Point `STEELNB_DATA` at a folder with `images/` and `masks/` of your own and run this page again.
#
# ## Further reading
#
# - [01 · What is in the data, and what would fool me?](01_data_exploration.ipynb)
# - [02 · How does a network that shrinks its input segment a whole sheet?](02_overlap_tile.ipynb)
# - [03 · What does this U-Net see, and what does it cost?](03_unet.ipynb)
# - [04 · What does a score say, and what does it leave out?](04_metrics.ipynb)
#
# <a id="glossary"></a>
#
# ## Glossary
#
# | term | meaning |
# |---|---|
# | mask | which pixels are defect, as the label says or as the network does |
# | logit | what the network puts out for a pixel, any number; its sigmoid 1 / (1 + e^−x) is a probability |
# | threshold | the probability above which a pixel is called a defect; ½ unless said otherwise |
# | Dice, hard | twice the common area of two masks over the sum of their areas; 1 is perfect |
# | Dice, soft | the same with probabilities in place of a mask; a loss needs it, since a mask has no gradient |
# | IoU | common area over united area; Dice / (2 − Dice) |
# | precision, recall | how much of what was found is defect; how much of the defect was found |
# | AUC | how often a defect pixel has a higher value than one of background; ½ is chance |
# | calibration | whether, of the pixels given a probability of 0.7, seven in ten are defect |
# | average precision | precision averaged over all thresholds: how well the network *ranks* pixels, whatever the threshold |
# | valid convolution | one that uses real neighbours only, so its output is smaller than its input |
# | tile, window | the pixels that are predicted at once; the larger piece of image that is seen for them |
# | skip | features handed from the U-Net's way down to its way up, past the deep layers |
# | batch norm | scales features by their mean and spread: in training those of the batch, afterwards running averages |
# | SGD, AdamW | ways to move the weights: along the gradient with momentum; with a step of its own size for each weight |
# | one-cycle | a learning rate that rises over the first tenth of the steps and falls to 0 over the rest |
# | EMA | exponential moving average of the weights: steadier than the weights of the last step |
# | recipe | everything that decides how a network is trained, as data |
# | seed | the number that fixes what is random: first weights, order of batches, crops |
# | plateau | steps over which a score or loss hardly changes |
# | epoch | one pass over the training samples, or as many as the recipe says |
# | fold, split | which images train the network and which are held out to score it |
# | proved | asserted in code, for any weights and images |
# | recorded | from a study whose records are stored with the library |
# | toy | measured on the page, in seconds, on a small network; it claims nothing about others |
# | cell, arm | one training (or measurement) of a study; the settings that a study compares |
