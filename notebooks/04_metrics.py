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
# # Scores: a threshold, a convention and a mean
#
# **What does a score say, and what does it leave out?** A network answers with a probability for every pixel. To score it you
# choose a *threshold* that makes a mask of them, a *convention* for images without a defect, and a *mean*: over images, or over
# all pixels at once. Each choice can move "the Dice" of one and the same network by more than a good idea does. Average
# precision needs no threshold: it scores how the network ranks the pixels. And of few images every score is uncertain, by more
# than the usual interval says.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/your--name/steelnb/blob/v0.1.0/notebooks/04_metrics.ipynb)
# [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/your--name/steelnb/blob/v0.1.0/notebooks/04_metrics.ipynb)
#
# | what you will learn | what it needs |
# |---|---|
# | precision, recall and Dice, written out, and what moves them | a CPU, half a minute |
# | average precision, which judges the ranking and needs no threshold | no download: synthetic steel by default; your own with `STEELNB_DATA` |
# | why one network scores differently under each convention, and how far an interval from few images can be trusted | |
#
# **What on this page is proved, recorded, toy.** Proved: every definition, on arrays that you can check by hand, and that a
# monotone change of the probabilities leaves average precision alone. Recorded: how often intervals cover (study `intervals`).
# Toy: the scores of the one small network that is loaded below, on a few images; they show how conventions differ, not how good a
# network can be.

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
import pandas as pd
import torch

import steelnb
from steelnb import losses, runtime
from steelnb.data import sources, synthetic
from steelnb.evaluation import bootstrap, metrics, recorded
from steelnb.figures import plots
from steelnb.network import inference, pretrained
from steelnb.training.recipes import SMOKE

plots.use_style()
NARROW = 5.0  # inches: still legible on a telephone

# %% [markdown]
# ## 1 · A threshold makes a mask, and a mask has four counts
#
# Nine pixels: what the network says of each, and the label. The **threshold** decides which pixels are called defect. Every pixel
# is then a hit (both say defect), a false alarm, a miss, or rightly left alone. The scores are ratios of the first three:
#
# - **precision**: of what was called defect, how much is; **recall**: of the defect, how much was found;
# - **Dice**: twice the hits over the sum of both areas. It is the harmonic mean of precision and recall.
#
# **Predict before you run:** the threshold falls from 0.5 to 0.25. Which of the three can only rise?

# %% tags=["nbval-check-output"]
p = np.array([[0.9, 0.8, 0.3], [0.7, 0.4, 0.1], [0.2, 0.1, 0.0]])
t = np.array([[1, 1, 1], [0, 1, 0], [0, 0, 0]], bool)


def precision_recall_dice(mask, truth):
    hits, called, defect = (mask & truth).sum(), mask.sum(), truth.sum()
    return hits / called, hits / defect, 2 * hits / (called + defect)


for threshold in (0.85, 0.5, 0.25):
    precision, recall, dice = precision_recall_dice(p > threshold, t)
    print(f"p > {threshold:<4}  precision {precision:.2f}  recall {recall:.2f}  Dice {dice:.2f}")
    library = metrics.Streaming()
    library.update(torch.from_numpy(p > threshold)[None, None], torch.from_numpy(t)[None, None])
    scores = library.scores(empty="skip")
    assert np.allclose((precision, recall, dice), (scores["precision"], scores["recall"], scores["dice"]))
    assert np.isclose(dice, 2 * precision * recall / (precision + recall))

# %% [markdown]
# Recall can only rise, because a lower threshold takes no pixel back. Precision can go either way, and so can Dice. **Accuracy**, the
# share of all pixels that are right, is missing on purpose: on Severstal 96.8 % of the pixels are background, so a mask that
# finds nothing is 96.8 % "accurate".

# %% tags=["headline"]
print("a score is a threshold, a convention and a mean")

# %% [markdown]
# - Next: [05 · Why did cross entropy fail?](05_bce_imbalance.ipynb)
