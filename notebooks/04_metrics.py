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
# precision needs no threshold: it scores how the network ranks the pixels. And a score of few images is more uncertain than the
# usual interval says.
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
# - *Proved*: every definition, on arrays that you can check by hand; that a monotone change of the probabilities leaves average
#   precision alone.
# - *Recorded*: how often intervals cover (study `intervals`).
# - *Toy*: the scores of one small network on a few images; they show how conventions differ, not how good a network can be.

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

from steelnb import runs
from steelnb.data import sources, synthetic
from steelnb.evaluation import Scores, bootstrap, metrics, recorded
from steelnb.figures import plots
from steelnb.network import inference, pretrained

plots.use_style()
NARROW = 5.0  # inches: legible on a telephone

# %% [markdown]
# ## 1 · A threshold makes a mask, and a mask has three counts
#
# Nine pixels: what a network says of each, and the label. The **threshold** decides which of them are called defect: those with a
# higher probability. Every pixel is then a hit, a false alarm, a miss, or rightly left alone. The scores are ratios of the
# first three ([glossary](00_start_here.ipynb)):
#
# - **precision**: the share of what was called defect that is defect; **recall**: the share of the defect that was found;
# - **Dice**: twice the hits over the sum of both areas, which is the harmonic mean of precision and recall.
#
# **Predict before you run:** the threshold falls from 0.85 to 0.25. Which of the three can only rise?

# %% tags=["nbval-check-output"]
p = np.array([[0.9, 0.8, 0.3], [0.7, 0.4, 0.1], [0.2, 0.1, 0.0]])
t = np.array([[1, 1, 1], [0, 1, 0], [0, 0, 0]], bool)


def dice(mask, truth):
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


for threshold in (0.85, 0.5, 0.25, 0.05):
    mask = p > threshold
    precision, recall = (mask & t).sum() / mask.sum(), (mask & t).sum() / t.sum()
    print(f"p > {threshold:<4}   precision {precision:.2f}   recall {recall:.2f}   Dice {dice(mask, t):.2f}")
    library = metrics.Streaming()
    library.update(*(torch.from_numpy(each)[None, None] for each in (mask, t)))
    theirs = library.scores(empty="skip")
    assert np.allclose((precision, recall, dice(mask, t)), (theirs["precision"], theirs["recall"], theirs["dice"]))
    assert np.isclose(dice(mask, t), 2 * precision * recall / (precision + recall))

# %% [markdown]
# Recall can only rise: a lower threshold takes no pixel back. Precision and Dice go either way. A score that is missing here on
# purpose is **accuracy**, the share of all pixels that are right: 96.8 % of Severstal's pixels are background, so a mask that
# finds nothing has an accuracy of 96.8 %.
#
# ## 2 · Every threshold at once: the curve, and average precision
#
# Call one pixel more defect at a time, in the order of their probabilities, and note precision and recall at each step: that is
# the **precision-recall curve**. **Average precision** (AP) is the area below its steps: the mean, over the defect pixels, of the
# precision at the rank where each is found. It is 1 when every defect pixel ranks above every other pixel, and about the share of
# defect when the ranking is blind.
#
# **Predict:** a second network says exactly a tenth of what the first one says. What are its Dice at ½ and its AP?

# %% tags=["nbval-check-output"]
ranked = t.ravel()[np.argsort(-p.ravel(), kind="stable")]  # the truth, from the highest probability down
precisions = np.cumsum(ranked) / np.arange(1, 10)
by_hand = precisions[ranked].mean()
print("defect, by falling probability:", ranked.astype(int), "  precision:", precisions.round(2)[ranked])
assert np.isclose(by_hand, metrics.average_precision(p.ravel(), t.ravel()))
for name, each in (("the first", p), ("a tenth of it", p / 10)):
    print(f"{name:<14} Dice at p > 1/2: {dice(each > 0.5, t):.2f}   AP {metrics.average_precision(each.ravel(), t.ravel()):.2f}")
assert metrics.average_precision(p.ravel() / 10, t.ravel()) == metrics.average_precision(p.ravel(), t.ravel())

# %% [markdown]
# The second network's mask is black at ½, and it knows exactly as much as the first. Only the order of the pixels enters AP, so
# it tells *cannot rank* from *speaks too softly*; [05](05_bce_imbalance.ipynb) is about that difference. What AP does not give
# you is a mask: for one you need a threshold, chosen on images that are not reported.
#
# ## 3 · A real network
#
# The series' own network: recipe `smoke` (width 8, depth 3), trained on synthetic steel of another seed than this page's.

# %%
network = runs.series_network()
data = sources.open_dataset(images=24, progress=False)
print(data.describe())
ids = list(data.images["ImageId"])
ids = ids[:: -(-len(ids) // 24)]  # of a large set 24
assert data.fingerprint() != network.metadata["data"]["fingerprint"], "it has seen these images"
probabilities = [inference.predict_probabilities(network.model, data.image(each))[0] for each in ids]
masks = [data.mask(each) for each in ids]
defective = [n for n, mask in enumerate(masks) if mask.any()]
print(f"{len(ids)} images, {len(ids) - len(defective)} of them clean")

# %%
every = max(1, round((sum(mask.size for mask in masks) / 1e6) ** 0.5))  # of large sets every fourth row and column, say
pixels = np.concatenate([p[::every, ::every].ravel() for p in probabilities])
truth = np.concatenate([mask[::every, ::every].ravel() for mask in masks])
precision, recall, at = metrics.precision_and_recall(pixels, truth)
ap = metrics.average_precision(pixels, truth)


def mean_dice(threshold, images):
    return np.mean([dice(probabilities[n] > threshold, masks[n]) for n in images])


thresholds = np.linspace(0.02, 0.98, 25)
choose, report = defective[::2], defective[1::2] or defective
best = thresholds[np.argmax([mean_dice(each, choose) for each in thresholds])]
curve = [mean_dice(each, defective) for each in thresholds]
half, chosen = (mean_dice(each, report) for each in (0.5, best))
print(f"AP {ap:.2f}; a blind ranking would have {truth.mean():.3f}, the share of defect")
print(f"p > {best:.2f}, best on {len(choose)} of the images with a defect: Dice {chosen:.2f} on the others; p > 1/2: {half:.2f}")
assert 0 <= ap <= 1 and (np.diff(recall) >= 0).all()
usual_network = data.name == "synthetic steel" and pretrained.SERIES.exists()  # the text is about these
assert not usual_network or abs(chosen - half) < 0.05

# %%
figure, (above, below) = plt.subplots(2, 1, figsize=(NARROW, 4.6))
above.step(recall, precision, where="pre", color=plots.INK)
place = np.searchsorted(-at, -0.5)  # the last pixel above 1/2
if place > 0:
    above.plot(recall[place - 1], precision[place - 1], "o", color=plots.PREDICTION, label="p > ½")
    above.legend(loc="upper right")
above.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1), title=f"Average precision {ap:.2f}: the area below")
below.plot(thresholds, curve, color=plots.INK)
below.axvline(0.5, color=plots.PREDICTION, lw=1, ls="--")
below.set(xlabel="threshold", ylabel="mean Dice", xlim=(0, 1), ylim=(0, 1), title="Dice of images with a defect, by threshold")
plt.show()

# %% [markdown]
# *Figure 1: Above, precision and recall over all pixels of all images, each threshold a point of the curve; dot: p > ½. Below, the mean
# Dice of images with a defect, dashes: ½.*
#
# For this network the threshold hardly matters, less than 0.05 of Dice on the other images; the convention and the mean matter
# far more (section 5).
#
# ## 4 · Images without a defect: the convention
#
# Dice of an image without a defect and without an alarm is 0 / 0. Three answers are in use: it counts **one** (Kaggle's rule, and the
# original's, whose [`Dice`](https://github.com/dosp0911/Steel_image_Segmentation/blob/cff0598b0cf57e573b707852ba94b88ba6976081/Metrics.py)
# adds 1e-4 above and below), or **zero**; or the image is left out: **skip**, this series' rule, leaves out every image without a
# defect, even one with a false alarm. Four images, counted by hand:

# %% tags=["nbval-check-output"]
cases = {  # prediction, mask
    "found half": ("11000000", "11110000"), "found all": ("00110000", "00110000"),
    "rightly nothing": ("00000000", "00000000"), "false alarm": ("00000001", "00000000"),
}
bits = torch.tensor([[[int(bit) for bit in text] for text in pair] for pair in cases.values()], dtype=torch.bool)
prediction, mask = bits[:, 0, None, None], bits[:, 1, None, None]  # [4, 1, 1, 8]
table = pd.DataFrame({empty: metrics.dice(prediction, mask, empty=empty)[:, 0] for empty in metrics.EMPTY}, index=list(cases))
table.loc["mean of images"] = table.mean()  # leaves out what is not a number
pooled = dice(prediction, mask).item()
print(table.round(2).to_string())
print(f"all pixels pooled, by any rule: {pooled:.2f}")
assert np.allclose(table.loc["mean of images"], [(2 / 3 + 1 + 1 + 0) / 4, (2 / 3 + 1) / 2, (2 / 3 + 1) / 4])
assert np.isclose(pooled, 2 * 4 / (5 + 6))

# %% [markdown]
# **Predict:** what does a network that never finds anything score on Severstal, under each rule? No network is needed, only counts of
# the competition's `train.csv`:

# %% tags=["nbval-check-output"]
real = synthetic.COMBINATIONS  # how many of Severstal's train images show which classes
images, rows = sum(real.values()), sum(n * len(shown) for shown, n in real.items())
print(f"{images} images, {real[()]} of them clean; {rows} labels of an image and one of four classes")
print(f"black masks: Dice {real[()] / images:.2f} if empty counts one, {1 - rows / (4 * images):.2f} class by class; else 0")

# %% [markdown]
# Kaggle scores each image four times, once for each class; 4 × 12,568 − 7,095 of those 50,272 masks are empty, which is 86 %.
# On the competition's test images this number was 0.8556, and its winner scored 0.90883: the whole contest took place in five
# hundredths. A Dice without its convention says little.
#
# ## 5 · One network, eight Dices
#
# The rest of the choices: a mean over **images**, in which small defects count as much as large ones; over **batches** (here of
# two), whose pixels are pooled first; or over all **pixels pooled**, which the largest defects decide. And **hard** (of a mask) or
# **soft** (probabilities in place of the mask, 2Σ*pt* / (Σ*p* + Σ*t*)): a Dice *loss* is 1 − soft Dice, because a mask has no
# gradient, and so it is no 1 − Dice of the masks.

# %%
scores = Scores(replicates=1000)
for probability, mask in zip(probabilities, masks, strict=True):
    scores.update(probability[None], mask[None])
named = {key: value for key, value in scores.values().items() if key.score == "Dice" and key.area == "whole image"}
dices = {kind: {key.over: value for key, value in named.items() if key.prediction == kind} for kind in ("hard", "soft")}
for over in dices["hard"]:
    print(f"{over:<24}" + "".join(f"{kind} {dices[kind][over].value:.3f}   " for kind in dices))
each = np.array([dice(probabilities[n] > 0.5, masks[n]) for n in defective])
assert np.isclose(each.mean(), dices["hard"]["images with a defect"].value)
loss = np.mean([1 - 2 * p[t].sum() / (p.sum() + t.sum()) for p, t in ((probabilities[n], masks[n]) for n in defective)])
assert np.isclose(loss, 1 - dices["soft"]["images with a defect"].value, atol=1e-4)
clean = [n for n in range(len(ids)) if not masks[n].any()]
alarms = np.mean([(probabilities[n] > 0.5).any() for n in clean])
print(f"black masks: hard 0 on images with a defect, {len(clean) / len(ids):.3f} on all images, empty = 1;\n"
      f"this network raises an alarm on {alarms:.0%} of the clean images")
if usual_network:  # the text below says so
    assert alarms > 0.5 and len(clean) / len(ids) > dices["hard"]["all images, empty = 1"].value
    assert np.ptp([value.value for value in dices["hard"].values()]) > 5 * abs(chosen - half)

# %%
figure, ax = plt.subplots(figsize=(NARROW, 2.5))
for kind, colour in (("hard", plots.INK), ("soft", plots.PREDICTION)):
    ax.plot([value.value for value in dices[kind].values()], range(len(dices[kind])), "o", color=colour, label=kind, ms=8)
least, most = (end(value.value for of in dices.values() for value in of.values()) for end in (min, max))
ax.set(yticks=range(len(dices["hard"])), yticklabels=dices["hard"], xlabel="Dice", xlim=(0, 1), ylim=(3.5, -0.5),
       title=f"One network: Dice from {least:.2f} to {most:.2f}")
ax.legend(loc="lower right")
plt.show()

# %% [markdown]
# *Figure 2: The same network on the same images, scored in eight ways that are all called Dice.*
#
# On all images black masks beat this network, which raises an alarm on most clean ones; on images with a defect they score 0.
#
# ## 6 · Few images: how sure is a mean?
#
# The usual interval resamples the images (a **bootstrap**) and takes the middle 95 % of the means. **Predict:** of 100 such
# intervals from 7 images each, how many contain the true mean?

# %%
weights = bootstrap.poisson_weights(seed=0, first=0, units=len(ids), replicates=1000)[defective]  # how often each image counts
means = bootstrap.ratio(each @ weights, np.ones(len(each)) @ weights)
usual, moved = np.nanquantile(means, (0.025, 0.975)), bootstrap.interval(means, len(each))
theirs = dices["hard"]["images with a defect"]
print(f"Dice of images with a defect {each.mean():.2f}, {len(each)} images:\nusual interval {usual[0]:.2f} … {usual[1]:.2f}, "
      f"widened, as the library's {moved[0]:.2f} … {moved[1]:.2f}")
assert np.allclose(moved, (theirs.low, theirs.high), equal_nan=True)

study = recorded.records("intervals")
cover = pd.DataFrame(study["coverage"].sum()).pivot_table(index="n", columns="method", values="covered", aggfunc="mean")
print(f"study `intervals`, {len(study)} of 6 cells: how often a 95 % interval covers, mean over scores")
cover = cover.rename(columns={"library": "usual"})  # its name in the records, of before the library widened its own
print("images  usual  widened", *(f"{n:>6}{row.usual:>7.0%}{row.widened:>9.0%}" for n, row in cover.iterrows()), sep="\n")
assert cover["usual"][7] < 0.91 < 0.93 < cover["widened"][7]

# %%
figure, ax = plt.subplots(figsize=(NARROW, 2.4))
ax.plot(cover.index, 100 * cover["usual"], "o-", color="#882255", label="usual")
ax.plot(cover.index, 100 * cover["widened"], "o-", color="#44AA99", label="widened")
ax.axhline(95, color=plots.INK, lw=1, ls="--")
ax.set(xscale="log", xlabel="images in the sample", ylabel="covers (%)", ylim=(84, 100), xticks=cover.index,
       xticklabels=cover.index, title=f"With 7 images the usual 95 % interval\nholds the truth {cover['usual'][7]:.0%} of the time")
ax.minorticks_off()
ax.legend()
plt.show()

# %% [markdown]
# *Figure 3: Recorded: real and synthetic steel, 4,000 samples of every size; the mean over scores and networks. “Widened”: the
# percentiles moved out, as is exact for normal numbers (Hesterberg 2015, section 3.3.3).*
#
# Below about fifty images the usual interval is too narrow. The library widens its own since the study decided so
# (`bootstrap.interval`). And no interval of this kind holds more than *other images of the same kind*: another seed of the
# training, another mill or another labeller are not in it.

# %% tags=["headline"]
print(f"one network, eight Dices: {least:.2f} to {most:.2f}; AP {ap:.2f}; "
      f"the usual 95 % interval of 7 images covers {cover['usual'][7]:.0%}")

# %% [markdown]
# ## What to remember
#
# - A threshold belongs to a score. Choose it on images that you do not report, or report average precision, which needs none.
# - Say how empty masks count and what the mean is over. This series reports hard Dice, the mean over images with a defect, unless
#   it says otherwise: it is not raised by easy clean images, and it is blind to false alarms on them. Report the share of clean
#   images with an alarm beside it.
# - Under fifty images the usual bootstrap interval is too narrow: widen it, or do not print it.
#
# ## Exercises
#
# 1. Mark every pixel at random with probability *q*. For which *q* does that beat black masks under `skip`? Under `one`?
# 2. Find two rankings with the same average precision and a different best Dice.
# 3. Take `ids = ids[:7]` and run section 6 with other seeds of the bootstrap. What moves more, the seed or the seven images?
#
# ## Further reading
#
# - Maier-Hein, Reinke et al. 2024, [Metrics reloaded](https://arxiv.org/abs/2206.01653): what each score hides.
# - Hesterberg 2015, [What teachers should know about the bootstrap](https://arxiv.org/abs/1411.5279).
# - Next: [05 · Why did cross entropy fail?](05_bce_imbalance.ipynb)
