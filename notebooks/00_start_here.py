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
# | the whole path: images → labels → training → masks → a score you can trust | a CPU and about a minute; a GPU is used if there is one |
# | the same four steps from a terminal, on your own steel | nothing to download: without data, synthetic steel is drawn on the spot |
#
# In 2020 someone trained a U-Net for this on [Kaggle's Severstal images](https://www.kaggle.com/c/severstal-steel-defect-detection),
# for 100 hours on one GPU, and wrote down what went wrong
# ([dosp0911/Steel_image_Segmentation](https://github.com/dosp0911/Steel_image_Segmentation)). This series rebuilds that
# work so that it can be stepped through, checked and believed.

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

from steelnb import runs, runtime
from steelnb.data import sources
from steelnb.figures import plots
from steelnb.training import batches
from steelnb.training.recipes import SMOKE
from steelnb.training.validation import format_scores, logits_and_mask, validate

plots.use_style()
print(runtime.describe())

# %% [markdown]
# ## 1 · Steel
#
# `sources.open_dataset()` takes the folder that `STEELNB_DATA` names, the Severstal images where Kaggle has them attached, or
# else draws **synthetic steel**: procedural images with the layout, sizes, class shares and loose labels of the real set.
# What it found stands in the first line. On synthetic steel the numbers below say that the machinery works, not how good
# it would be on real steel.

# %%
data = sources.open_dataset(progress=False)
print(data.describe())

# %% [markdown]
# A label is a mask: which pixels are defect. Here they are tinted and outlined.

# %%
by_area = data.rows.groupby("ImageId")["area"].sum().sort_values()
examples = by_area.index[[len(by_area) // 4, len(by_area) // 2, -len(by_area) // 8]]
figure = plots.stack({
    f"{name}: {data.mask(name).mean():.1%} of its pixels are labelled as defect":
        plots.overlay(data.image(name), data.mask(name)[None])
    for name in examples
})  # fmt: skip
plt.show()

# %% [markdown]
# *Figure 1: Three images with their labels (vermilion): small, middling and large defects.*
#
# ## 2 · Training
#
# A *recipe* is everything that decides how a network is trained, as data. `SMOKE` is made for a CPU: a U-Net with an
# eighth of the original's channels, crops instead of whole images, half a minute instead of 100 hours. On a GPU
# (`runtime.profile()` is then "full") it trains ten times as long.

# %%
recipe = SMOKE if runtime.profile() == "smoke" else SMOKE.changed(epochs=60)
named = ("model", "loss", "optimizer", "learning_rate", "batch", "epochs", "crop", "flips")
print(*(f"{key}: {getattr(recipe, key)}" for key in named), sep="\n")
print("…", len(recipe.to_dict()) - len(named), "more: recipe.to_dict()")

# %% [markdown]
# How such a network is built stands in [03](03_unet.ipynb), what the losses do in [04](04_bce_imbalance.ipynb) to
# [06](06_choosing_a_loss.ipynb), the rest in [07](07_hundred_hours.ipynb).

# %% [markdown]
# Four fifths of the images train the network, one fifth is held out: it never trains on those, and every score below is
# from them. One thing flatters: the weights kept are those of the epoch that scored best on these same images.

# %%
run = runtime.new_run("00_start_here")
history = runs.train(data, run, recipe, progress=True)

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(plots.WIDTH, 2.4))
left.plot(history["epoch"], history["train_loss"], "o-", color=plots.INK, label="training crops")
left.plot(history["epoch"], history["validation_loss"], "o-", color=plots.PREDICTION, label="held-out images")
first, last = history["train_loss"].iloc[[0, -1]]
left.set(title=f"The training loss goes from {first:.2f} to {last:.2f}", xlabel="epoch", ylabel="Dice + BCE loss",
         ylim=(0, 1.1 * left.dataLim.ymax))  # fmt: skip
left.legend()
right.plot(history["epoch"], history["validation_dice"], "o-", color=plots.DEFECT)
right.set(title=f"Dice on defective images reaches {history['validation_dice'].max():.2f}", xlabel="epoch",
          ylabel="Dice, held-out images", ylim=(0, 1))  # fmt: skip
plt.show()

# %% [markdown]
# *Figure 2: Left, the loss on training crops and on held-out whole images (half of the crops are centred on defects, so
# the two are not on one scale). Right, Dice: twice the overlap over the sum of both areas, 1 is perfect, averaged over
# held-out images that have a defect.*
#
# ## 3 · Masks of images that it has not seen

# %%
from steelnb.evaluation import metrics
from steelnb.network import weights

trained = weights.load_network(run)
_, held_out = batches.training_and_validation_samples(data, recipe, seed=0)
results = [logits_and_mask(trained.model, held_out, index) for index in range(len(held_out))]
dices = [metrics.dice((p > 0)[None], m[None], empty="skip").item() for p, m in results]
defective = sorted((i for i, (_, mask) in enumerate(results) if mask.any()), key=lambda i: -dices[i])
shown = {"best": defective[0], "median": defective[len(defective) // 2], "worst": defective[-1]}

figure = plots.stack({
    f"{which}: {held_out.items[i].image_id}, Dice {dices[i]:.2f}":
        plots.errors(held_out.cache[held_out.items[i].image_id], results[i][0][0] > 0, results[i][1][0])
    for which, i in shown.items()
})  # fmt: skip
plt.show()

# %% [markdown]
# *Figure 3: The best, the median and the worst of the held-out images with a defect. Green: found. Orange: missed.
# Pink: false alarm.*
#
# ## 4 · A score, and what it means
#
# The same masks score very differently under different conventions. Above all: does an image *without* defects, on which
# nothing was found, count as a perfect 1? Kaggle counts it, and then a network that never finds anything already scores
# high. So every number in this series says its convention.

# %%
scores = validate(trained.model, held_out)
print(format_scores(scores))

# %% [markdown]
# Is that any good? The least a network must beat is a mask that ignores the image. The best of those is all defect:

# %%
everything = [2 * mask.mean() / (1 + mask.mean()) for _, mask in results if mask.any()]
constant = np.mean(everything)
print(f"Dice on defective images: all defect {constant:.3f}, nothing 0.000, this network {scores['dice']:.3f}")
assert scores["dice"] > constant, "training has not learned more than a constant mask: give it more epochs"

# %% tags=["headline"]
seconds = history["seconds"].iloc[-1]
print(f"Dice {scores['dice']:.2f} on held-out defective images of {data.name} after {seconds:.0f} s of training")

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
# - Images and labels in, masks out: `sources.open_dataset` → `runs.train` → `weights.load_network` → `validation.logits_and_mask`.
# - Scores are from held-out images and name their convention; "Dice" without one means little.
# - A minute on a CPU shows that everything works. What 100 GPU-hours bought, and what they need not have cost, is the
#   rest of the series.
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
