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
# # Results, and what they mean
#
# **How good is it, against the original, and where does it fail?** That depends first on what is counted: the same
# predictions score from 0.15 to 0.40 in the run committed here, by convention alone. The original's 0.63 is a mean over defective label
# rows, and with Severstal's clean images in it the same network could have scored anything from 0.33 to 0.80. Where it fails
# cannot be learned from this page: its network trained for half a minute. It raises an alarm on 14 of 18 clean images, and what the
# choice of a threshold gains, +0.08, has an interval from −0.17 to +0.35.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/your--name/steelnb/blob/v0.1.0/notebooks/10_results.ipynb)
# [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/your--name/steelnb/blob/v0.1.0/notebooks/10_results.ipynb)
#
# | what you will learn | what it needs |
# |---|---|
# | why one network has a dozen Dice scores, and which to compare | a CPU and a minute and a half; your own run, if you have one |
# | how sure a score is, and how to choose a threshold without fooling yourself | |
# | how to look for failures, in pictures; what the original's 0.84 and 0.63 can and cannot mean | |
#
# **What on this page is proved, recorded, toy.** Proved: the arithmetic of clean images (0.33 to 0.80) and of label rows. Recorded: the
# table of suspects (`benchmarks/gap.py`) and how often the intervals cover (study `intervals`). Toy: everything that is scored live, of
# a network of half a minute on synthetic steel, one seed, 40 held-out images; it shows how to judge, not how good anything is.

# %%
# Setup: pip installs steelnb where it is missing, as on Colab; torch and NumPy stay as they are.
import importlib.util, os, subprocess, sys  # isort: skip
if not getattr(importlib.util.find_spec("steelnb"), "origin", None):  # a folder of that name is no package
    source = os.environ.get("STEELNB_SPEC") or sys.exit("no address yet: set STEELNB_SPEC, or make address")
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], capture_output=True, text=True)
    assert done.returncode == 0, f"pip could not install {source}:\n{done.stderr}"

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from steelnb import runs, runtime
from steelnb.data import sources
from steelnb.evaluation import metrics, predictions, report, scores
from steelnb.evaluation.operating_point import Sweep
from steelnb.evaluation.scores import Key, Scores
from steelnb.figures import plots, widgets
from steelnb.figures.threshold import draw_threshold
from steelnb.network import weights
from steelnb.training.recipes import MODERN, SMOKE

plots.use_style()
print(runtime.describe())
data = sources.open_dataset(images=120, progress=False)
stand_in = data.name == "synthetic steel"
print(data.describe())

# %% [markdown]
# ## 1 · A run
#
# `STEELNB_RUN` names a run folder of yours (`python -m steelnb train`, or notebook 09). Without it this page trains one,
# or goes on with the one it began: small in the smoke profile, notebook 09's in the full one. A third of the images is
# held out. All scores below are theirs; the epoch that was kept is the one that did best on them, which flatters.

# %%
full = runtime.profile() == "full"
recipe = MODERN if full else SMOKE.changed(epochs=7, validation=1 / 3, scored=16)
run = runtime.runs_folder() / f"{'09_hundred_hours_modern' if full else '10_results'}_{data.fingerprint()[:8]}"
if yours := os.environ.get("STEELNB_RUN"):
    run = Path(yours).expanduser()
    print(f"loads the run {run.name!r}, named by STEELNB_RUN")
    history = pd.read_csv(run / "history.csv")
else:
    history = runs.train(data, run, recipe, progress=full)
trained = weights.load_network(run, runtime.device())
ids, which = predictions.images_of(trained, data)
print("scored here:", which)

# %%
figure, axes = plt.subplots(1, 2, figsize=(plots.WIDTH, 2.4))
for ax, score, name in zip(axes, ("loss", "dice"), ("loss", "Dice, defective images"), strict=True):
    if f"train_{score}" in history:
        ax.plot(history["epoch"], history[f"train_{score}"], "o-", ms=3, color=plots.INK, label="training crops")
    ax.plot(history["epoch"], history[f"validation_{score}"], "o-", ms=3, color=plots.PREDICTION, label="held-out images")
    ax.margins(y=0.1)
    ax.set(xlabel="epoch", ylabel=name, ylim=(0, None))
    ax.legend()
best = history["validation_dice"].idxmax()
axes[0].set_title(f"Loss over {history['epoch'].iloc[-1]} epochs")
axes[1].set_title(f"Best at epoch {history['epoch'][best]}: {history['validation_dice'][best]:.2f}")
plt.show()

# %% [markdown]
# *Figure 1: Training and validation curves of this run. Crops for training are centred on defects half of the time, so the
# two losses are not on one scale. The Dice here is of at most `recipe.scored` held-out images, to save time; below, all of
# them are scored.*
#
# ## 2 · One network, many scores
#
# The network gives each pixel a probability. Everything below is counted from these, once:

# %%
class Kept:
    """Probabilities and masks, image after image, on disk: in memory those of all Severstal would take 12 GB."""

    def __init__(self):
        self.file, self.places = tempfile.TemporaryFile(), []  # noqa: SIM115 — as long as the page lives

    def append(self, probabilities, masks):
        self.places.append((self.file.seek(0, os.SEEK_END), masks.shape))
        probabilities.tofile(self.file)
        masks.tofile(self.file)

    def __getitem__(self, index):
        start, shape = self.places[index]
        self.file.seek(start)
        return tuple(np.fromfile(self.file, kind, np.prod(shape)).reshape(shape) for kind in (np.float32, bool))


keep = Kept()
labels = predictions.labels_of(trained, data)
here = Scores(labels)
for probabilities, masks, rows, *_ in predictions.iter_predictions(trained, data, ids):
    here.update(probabilities, masks, rows)
    keep.append(probabilities, masks)
values, label = here.values(), "all" if len(labels) > 1 else labels[0]
print(f"{here.images} images, {here.clean} of them clean")

# %% [markdown]
# **Predict.** Mean Dice over images with a defect; over all images, a clean one counting 1 if nothing was found and 0
# otherwise; over batches of two, pooled; over all pixels pooled. Hard (at p > 0.5) or soft (on the probabilities). Over
# the whole image or the original's centre. How far apart can these be, for the *same* predictions?

# %%
conventions = [key for key in values if key.score == "Dice" and key.label == label and values[key].n]
figure, ax = plt.subplots(figsize=(plots.WIDTH, 3.4))
looks = {("hard", scores.WHOLE_IMAGE): (plots.INK, "o"), ("soft", scores.WHOLE_IMAGE): (plots.PREDICTION, "o"),
         ("hard", scores.CENTRE): (plots.INK, "D"), ("soft", scores.CENTRE): (plots.PREDICTION, "D")}
rows = list(dict.fromkeys(key.over for key in conventions))
for key in conventions:
    value, (colour, mark) = values[key], looks[key.prediction, key.area]
    shift = 0.16 * (list(looks).index((key.prediction, key.area)) - 1.5)
    ax.errorbar(value.value, rows.index(key.over) + shift, xerr=[[value.value - value.low], [value.high - value.value]],
                fmt=mark, ms=5, color=colour, elinewidth=1,
                label=f"{key.prediction}, {key.area}" if key.over == rows[0] else None)
spread = [values[key].value for key in conventions]
ax.set(yticks=range(len(rows)), yticklabels=rows, xlim=(0, None), xlabel="Dice, with 95 % interval")
ax.set_title(f"The same predictions score {min(spread):.2f} to {max(spread):.2f}")
ax.invert_yaxis()
figure.legend(fontsize=8, ncols=4, loc="outside lower left")
plt.show()

# %% [markdown]
# *Figure 2: Every Dice of one set of predictions. Bars: 95 % bootstrap intervals over images. "label rows": each row of the
# CSV by itself, the image's other classes as background, as the original had its samples.*
#
# The bootstrap draws the held-out images again and again with replacement and scores each draw: how much would the number
# move if other images of the same kind had been held out? (The scores of each image are kept, and the weights are drawn at the
# end: each image counts 0, 1, 2 … times, a Poisson number of its own that follows from the seed and its place, so draws differ a
# little in size. Drawing them during the pass gave the same numbers.)
# It knows nothing of another seed, another training or another plant. And with few images its intervals are **too narrow**: in the
# study `intervals` (720 images of known scores, three networks on each of two sets, 4,000 samples a size) a nominal 95 % holds the
# truth in 89 % of samples of 7 images, 90 % of 10, 92 % of 18 and of 25, 93 % of 50 and 94 % of 180; Dice of pooled pixels
# fares worse (83 % at 7 on synthetic steel). So read the bars here as 90 % or so, and those of the ten images of Severstal too.
# `report` writes all of it, by class where there are classes, with precision, recall, false alarms and defects
# counted one by one:

# %%
print(report.build_report(trained, data, which, here).table())

# %%
strict, lenient = (values[Key("Dice", label, over)] for over in (scores.DEFECTIVE, scores.ALL))
hard = metrics.Streaming()  # the plain scores of notebook 01, for comparison
for probabilities, masks in keep:
    hard.update(probabilities[None] > 0.5, masks[None])
assert np.isclose(strict.value, hard.scores(empty="skip")["dice"], equal_nan=True)
assert np.isclose(lenient.value, hard.scores(empty="one")["dice"])
assert max(spread) - min(spread) > 0.1, "the conventions agree here: then this page has less to say"

# %% [markdown]
# ## 3 · Beside the original
#
# Its figures are quoted from [its README](https://github.com/dosp0911/Steel_image_Segmentation); ours come from the run
# above. They cannot be compared as they stand: other data (here a stand-in unless you gave it Severstal), other hours, other
# convention. Ours is scored here by the one that comes closest to the original's: "label rows", its centre, hard. Do not read a
# gap, or its absence, off the second column: half a minute of training has not reached the regime in which one opens.

# %%
rows_key = Key("Dice", label, scores.ROWS, scores.CENTRE)
if rows_key not in values:  # a mask a class: its rows are its masks
    rows_key = Key("Dice", label, scores.DEFECTIVE)
trained_on = predictions.images_of(trained, data, "train")[0][::2]  # every second one will do
there = Scores(labels)
for each in predictions.iter_predictions(trained, data, trained_on):
    there.update(*each)


def told(value):
    return f"{value.value:.2f} [{value.low:.2f}–{value.high:.2f}]"


ours = f"{data.name}{' (stand-in)' if stand_in else ''}"
minutes = history["seconds"].iloc[-1] / 60
table = pd.DataFrame({
    "the original (2020)": ["Severstal", "100 h, Tesla P100", "label rows, by order", "0.84", "0.63"],
    "this run": [ours, f"{minutes:.1f} min, {runtime.device().type}", "images, at random within classes",
                 told(there.values()[rows_key]), told(values[rows_key])],
}, index=["data", "training", "split", "Dice, training", "Dice, validation"])
table

# %% [markdown]
# ### What 0.63 means
#
# The original's samples were the *rows* of `train.csv`, and a clean image has no row. So its 0.63 is a mean over defective
# images only, though its formula gives an empty mask 1: there were none. Had the 5,902 clean images of the 12,568 been in
# it, the same network could have scored anything in this range, by how often it keeps silent on clean steel:

# %% tags=["nbval-check-output"]
CLEAN, DEFECTIVE_IMAGES = 5902, 6666  # of Severstal's training images


def with_clean(dice, silent):
    """Mean over all images, empty counting 1, of a network with `dice` on defective ones, silent on a share of clean ones."""
    return (dice * DEFECTIVE_IMAGES + silent * CLEAN) / (DEFECTIVE_IMAGES + CLEAN)


for silent in (0.0, 0.5, 0.9, 1.0):
    print(f"0.63 on defective images, silent on {silent:4.0%} of the clean ones: {with_clean(0.63, silent):.2f}")
print(f"an empty answer to everything: {with_clean(0, 1):.2f}")
assert with_clean(0.63, 1) - with_clean(0.63, 0) > 0.45

# %% [markdown]
# That is also why Dice above 0.85 on Severstal usually counts clean images: saying nothing at all already scores 0.47
# that way with one mask an image, and 0.8556 with Kaggle's four. The second trap is the row itself: an image with two
# classes is two samples, each with half of its defect called background. What would a *perfect* network score against
# such rows?

# %%
several = [image_id for image_id in data.images["ImageId"] if (data.rows["ImageId"] == image_id).sum() > 1]
against_rows = []
for image_id in data.rows["ImageId"].unique():
    perfect = data.mask(image_id)
    against_rows += [2 * m.sum() / (m.sum() + perfect.sum()) for m in data.masks(image_id) if m.any()]
print(f"{len(several)} of {data.rows['ImageId'].nunique()} defective images have several classes here")
print(f"a perfect network's Dice against label rows: {np.mean(against_rows):.3f}")
assert np.mean(against_rows) <= 1

# %% [markdown]
# Five of 65 images cost 0.06 here. On the real table, where 427 of 6,666 defective images have several classes, a perfect
# network would score 0.955.
#
# ### Where the gap from 0.84 to 0.63 can come from
#
# The suspects, and what `benchmarks/gap.py --write` found on 2026-11-24 (label tables: all 7,095 rows of Severstal, areas among the
# 4,130 whose mask is known; trainings: small U-Nets on 900 real strip images at 100×100, 90 to train on and 450 steps unless
# said, 3 seeds, on a CPU):
#
# | suspect | measured | of the gap of 0.21 |
# |---|---|---|
# | the split by row lets images leak | in the file's order it tears no image; shuffled, 9.7 % of the validation rows would have had their image in training | nothing |
# | label rows as samples | a perfect network scores 0.956 against the training rows and 0.951 against the validation rows | 0.005; but 0.05 of the level on both sides |
# | the metric | the centre moves a perfect score by less than 0.0001 and leaves no known mask empty | nothing |
# | overfitting, or batch norm in batches of two, which these trainings do not tell apart | training 0.74, validation 0.68; with flips 0.72 and 0.69; with four times the images 0.71 and 0.70, with eight times 0.72 and 0.69; with twice the steps 0.85 and 0.74; with 22 images and twice the steps 0.96 and 0.58 | the rest, if nothing else is at work |
#
# So in its split and its metric the original did *not* fool itself: its split, though by row, tears no image, and 0.63 is an honest
# figure for what it counts. "Overfitting by elimination" is as good as the list of suspects, and one is **not settled yet**: the
# original normalised in batches of two, in the encoder alone, and running statistics of such batches can part training from
# validation without any overfitting. The study `batch_norm` has one seed of five: recalibrated statistics change a gap of 0.055 by
# +0.007 there, which neither confirms nor refutes anything; the study `long_run`, which trains the original's recipe in small,
# is at its beginning. Until they are done, overfitting is the likely cause and not a finding. On the small set more images shrink it
# (to 0.01 and 0.03, each seen less often in as many steps; single seeds differ by as much). Nor is a gap by itself a failure:
# twice the steps widened it from 0.06 to 0.11 while validation rose from 0.68 to 0.74. How the remainder divides between missing
# augmentation, length and batch norm cannot be told without training at that size.
#
# ## 4 · What it finds
#
# The best, the median and the worst of the held-out defective images, chosen by Dice and by nothing else:

# %%
class Each:
    """A sequence whose items are made when they are asked for."""

    def __init__(self, make):
        self.make = make

    def __getitem__(self, index):
        return self.make(index)


hard_masks = Each(lambda i: (keep[i][0] > 0.5).any(0))
true_masks = Each(lambda i: keep[i][1].any(0))
images = Each(lambda i: data.image(ids[i]))
dices = np.array([metrics.dice(h[None, None], t[None, None], empty="skip").item()
                  for h, t in zip(hard_masks, true_masks, strict=True)])
defective = [int(i) for i in np.argsort(-dices) if true_masks[i].any()]
clean = [i for i in range(len(ids)) if not true_masks[i].any()]
shown = {"best": defective[0], "median": defective[len(defective) // 2], "worst": defective[-1]}
figure = plots.panel({
    f"{one}: {ids[i]}, Dice {dices[i]:.2f}": (images[i], hard_masks[i], true_masks[i]) for one, i in shown.items()
})
plt.show()

# %% [markdown]
# *Figure 3: Image, mask, prediction and error. In the error picture green is found, orange missed, pink a false alarm. Three images
# of the network of half a minute: an example of the reading, not of the best that can be had.*
#
# ## 5 · By size and by class
#
# Which defects are hard? Each held-out defective image is a point:

# %%
areas = np.array([100 * true_masks[i].mean() for i in defective])
kinds = [data.images.set_index("ImageId")["classes"][ids[i]] for i in defective]
figure, (left, right) = plt.subplots(1, 2, figsize=(plots.WIDTH, 2.8), width_ratios=(3, 2))
for kind in sorted(set(kinds), key=str):
    at = [k for k, each in enumerate(kinds) if each == kind]
    colour = plots.CLASS_COLOURS.get(kind[0], plots.DEFECT) if len(kind) == 1 else plots.INK
    left.plot(areas[at], dices[[defective[k] for k in at]], "o", ms=4, color=colour,
              label=f"class {kind[0]}" if len(kind) == 1 else "several classes")
left.set(xscale="log", xlabel="defect pixels, % of the image (log)", ylabel="Dice at p > 0.5", ylim=(-0.02, 1))
entries = dict(zip(*reversed(left.get_legend_handles_labels()), strict=True))
figure.legend(entries.values(), entries, fontsize=8, ncols=6, loc="outside lower left")
from scipy.stats import spearmanr

rho = spearmanr(areas, dices[defective]).statistic
left.set_title(f"Larger defects score higher (rank correlation {rho:.2f})" if rho > 0.2 else f"Rank correlation {rho:.2f}")
by_class = {}
for k, kind in enumerate(kinds):
    for one in kind:
        by_class.setdefault(one, []).append(dices[defective[k]])
names = sorted(by_class)
right.bar([f"{n}\n(n = {len(by_class[n])})" for n in names], [np.mean(by_class[n]) for n in names],
          color=[plots.CLASS_COLOURS.get(n, plots.DEFECT) for n in names])
right.set(ylim=(0, 1), xlabel="class in the image", ylabel="mean Dice", title="By class")
plt.show()

# %% [markdown]
# *Figure 4: Left, Dice of each held-out defective image against the area of its mask. Right, the mean by class; an image
# with two classes counts in both. Look at n before the height: a bar of one image says nothing, however bold it is drawn, and
# means of few images move by a tenth and more with the next few.*
#
# ## 6 · The threshold
#
# p > 0.5 is a habit. Move it (the slider needs a live page; below stands the same picture at one value):

# %%
i = shown["median"]
widgets.explore_threshold(images[i], keep[i][0].max(0), true_masks[i])

# %%
draw_threshold(images[i], keep[i][0].max(0), true_masks[i], threshold=0.75)
plt.show()

# %% [markdown]
# *Figure 5: The median image at p > 0.75; below, its Dice, precision and recall at every threshold.*
#
# For one image that is a game, for all of them a choice, and a choice must not be made on the images it is reported on:
# with a free hand over two thousand combinations something always looks good. So half of the held-out images choose (threshold,
# smallest connected defect, and a *guard*: the image is called clean unless its surest 0.025 % of pixels are above a
# value), the other half report.

# %%
first, second = (set(half) for half in predictions.halves(data, ids))
sweep, other = Sweep(), Sweep()
for image_id, (probabilities, masks) in zip(ids, keep, strict=True):
    (sweep if image_id in first else other).update(probabilities, masks)
figure, axes = plt.subplots(1, 2, figsize=(plots.WIDTH, 2.6), sharey=True)
for ax, half, name in zip(axes, (sweep, other), ("the half that chooses", "the half that reports"), strict=True):
    ax.plot(half.thresholds, half.dice_defective[:, 0, 0], color=plots.DEFECT, label="Dice, images with a defect")
    ax.plot(half.thresholds, half.dice[:, 0, 0], color=plots.INK, label="Dice, all images, empty = 1")
    ax.plot(half.thresholds, half.alarm_rate[:, 0, 0], color=plots.FALSE_ALARM, label="clean images with an alarm")
    ax.axvline(sweep.best(areas=False, guards=False).threshold, color=plots.FAINT, lw=1, ls="--")
    ax.set(xlabel="threshold", ylim=(0, 1.02), title=f"{half.pairs} images: {name}")
axes[0].legend(fontsize=8)
plt.show()

# %% [markdown]
# *Figure 6: The threshold curve on both halves; dashed, the threshold that scores highest with empty = 1 on the left one.
# The two conventions want different thresholds: one never asks what happens on clean steel.*
#
# The same choice with all options, and averaging over flips, as `python -m steelnb evaluate --choose` does it:

# %%
choice = report.choose_operating_point(trained, data)
print(*choice.table().rpartition("\noption")[1:], sep="")

# %%
plain, taken = choice.options[0], next(option for option in choice.options if option["taken"])
rows = [option for option in choice.options if option is not plain]
figure, ax = plt.subplots(figsize=(plots.WIDTH, 2.4))
for y, option in enumerate(rows):
    gain = option["gain"]
    ax.errorbar(gain["value"], y, xerr=[[gain["value"] - gain["low"]], [gain["high"] - gain["value"]]], fmt="o",
                color=plots.DEFECT if option["taken"] else plots.INK)
ax.axvline(0, color=plots.INK, lw=1)
ax.set(yticks=range(len(rows)), yticklabels=[option["option"] for option in rows], xlabel="gain in Dice, all images, "
       f"empty = 1, over p > 0.5 ({plain['dice_empty_is_one']:.2f})")
ax.set_title(f"Chosen on one half, the options gain {taken['gain']['value']:+.2f} on the other")
ax.invert_yaxis()
plt.show()

# %% [markdown]
# *Figure 7: What each option gains on the half that did not choose it, with paired 95 % intervals. The one taken
# (vermilion) is the one that was best on the half that chose. Its gain of +0.08, which the title states without it, has an interval from
# −0.17 to +0.35: on these 20 images no option is shown to gain anything, and the interval itself is too narrow (section 2).*
#
# Look at what was chosen, though. With empty = 1, silence on clean steel is paid in full, so a network that is weak on
# defects is paid for falling silent: the point taken may gain in the first column (the interval contains 0) and falls from 0.44 to
# 0.13 in "Dice, defective". It is the
# same effect by which an empty answer to everything scored 0.8556 on Kaggle. On a production line one would rather ask: as
# much Dice as there is at no more than so many false alarms. `--alarms 0.1` chooses like that. Here for several
# limits, again chosen on one half and reported on the other; of so few clean images, a limit is met roughly at best:

# %%
wanted = []
for limit in (1.0, 0.5, 0.25, 0.1) if 0 < sweep.defective < sweep.pairs else ():  # else there is nothing to limit
    point = sweep.best(alarms=limit)
    chosen_on, reported = sweep.at(point), other.at(point)
    wanted.append({"alarms allowed": f"{limit:.0%}", "where chosen": f"{chosen_on['alarm_rate']:.0%}",
                   "reported": f"{reported['alarm_rate']:.0%}", "Dice, defective": f"{reported['dice_defective']:.2f}",
                   "point": str(point)})
print(pd.DataFrame(wanted).to_string(index=False) if wanted else "one kind of image only")

# %% [markdown]
# ## 7 · Does 0.8 mean 80 %?
#
# A probability is calibrated if, of all pixels given 0.8, 80 % are defect. The network was trained to overlap, not to
# estimate, and half of its crops were centred on defects, which real steel is not:

# %%
pixels, summed, defect = here.calibration
some = pixels >= 100
mean, share = summed[some] / pixels[some], defect[some] / pixels[some]
error = float((pixels[some] * abs(mean - share)).sum() / pixels[some].sum())
figure, (left, right) = plt.subplots(1, 2, figsize=(plots.WIDTH, 2.8))
left.plot([0, 1], [0, 1], color=plots.FAINT, lw=1)
left.plot(mean, share, "o-", color=plots.INK, ms=4)
left.set(xlim=(0, 1), ylim=(0, 1), xlabel="mean probability of the bin", ylabel="share that is defect",
         title=f"Expected calibration error {error:.3f}")
right.bar(np.arange(len(pixels)) / len(pixels), pixels / pixels.sum(), 1 / len(pixels), align="edge", color=plots.PREDICTION)
right.set(yscale="log", xlabel="probability", ylabel="share of all pixels (log)", title="Where the pixels are")
plt.show()
print(f"{summed.sum() / pixels.sum():.1%} of all pixels are expected to be defect, {defect.sum() / pixels.sum():.1%} are")

# %% [markdown]
# *Figure 8: Left, calibration in 20 bins of probability, bins of under 100 pixels left out; on the line, 0.8 means 80 %.
# Right, how many pixels are in each bin.*
#
# Of this network of half a minute, 40 images, no interval: it promises too much. In the committed run 0.8 means some 40 %, and of the surest pixels of all two in three are wrong.
# Some of those are whole false alarms, as the next pictures show; how many lie at borders was not counted. So these numbers
# order pixels as long as the curve rises, not at its end; a threshold may be put on them where it rises, and they are no
# probabilities to calculate with. Whether a network that trained to its end is calibrated any better, this page does not say.
#
# ## 8 · Where it fails
#
# Two kinds of failure, each at its worst: the defective images of which most was missed, and the clean ones with the most
# alarm.

# %%
missed = sorted(defective, key=lambda i: -(true_masks[i] & ~hard_masks[i]).sum())[:2]
alarms = sorted(clean, key=lambda i: -hard_masks[i].sum())[:2]
titles = [f"{(true_masks[i] & ~hard_masks[i]).sum():,} defect pixels missed" for i in missed]
titles += [f"clean, {hard_masks[i].sum():,} pixels of alarm" for i in alarms]
figure, axes = plt.subplots(-(-len(titles) // 2), 2, figsize=(6.4, 1.7), squeeze=False)
for ax, i, title in zip(axes.flat, missed + alarms, titles, strict=False):
    plots.show(ax, plots.errors(images[i], hard_masks[i], true_masks[i]), title, interpolation="antialiased")
plt.show()

# %% [markdown]
# *Figure 9: The two largest misses, and the two loudest false alarms, at p > 0.5.*
#
# Is it the small ones that it misses? The share of defects, by size, that were touched at all, covered by half, and wholly:

# %%
sizes, hits = map(np.concatenate, zip(*(metrics.defects(hard_masks[i], true_masks[i]) for i in defective), strict=True))
found = pd.DataFrame({"touched": hits > 0, "half of it": 2 * hits >= sizes, "all": hits == sizes})
bins = pd.cut(sizes, [0, 1000, 3000, 10000, np.inf], labels=["up to 1,000 px", "to 3,000", "to 10,000", "larger"])
by_size = found.groupby(bins, observed=True).agg("mean").round(2)
print(by_size.assign(defects=pd.Series(bins).value_counts()).to_string())

# %% [markdown]
# Not the small ones alone: it touches 84 to 100 % of the defects in each row and covers all of hardly any, of 8 to 19 defects a row
# and one network of half a minute. *Why* it outlines few of them well, loose labels, a short training or its many alarms that touch by
# chance, was not measured.

# %% tags=["headline"]
print(f"Dice {strict.value:.2f} [{strict.low:.2f}–{strict.high:.2f}] on defective images, {lenient.value:.2f} with clean ones; on half "
      f"of them an operating point chosen on the other half takes {plain['dice_empty_is_one']:.2f} to {taken['dice_empty_is_one']:.2f}")

# %% [markdown]
# ## What to remember
#
# - A Dice without its convention is not a number. Compare by "images with a defect", and say beside it how often clean
#   steel raises an alarm.
# - Choose a threshold on images that you will not report. With few images the interval is wide, and still too narrow: 89 % instead of
#   95 % at seven images (study `intervals`).
# - A metric that pays for silence gets silence: look at defective images and at clean ones apart.
# - The original's split and its metric have no part in its gap (recorded). Overfitting is what remains of the suspects that were
#   tested; batch norm in batches of two is not settled (study `batch_norm`, one seed of five).
# - The scores above are of half a minute of training: a way to judge a network, not a judgement of one.
#
# ## Exercises
#
# 1. Train three times as long, without flips and without crops (`flips=False, crop=None`). What becomes of the gap between
#    training and held-out images?
# 2. Change `validation` in the recipe to 1/2. Which intervals shrink, and what does the network lose?
# 3. Train with `per_class=True`, and write Kaggle's CSV: `python -m steelnb predict --kaggle …`.
#
# ## Further reading
#
# - Maier-Hein, Reinke et al. 2024, [Metrics reloaded](https://doi.org/10.1038/s41592-023-02151-z): which score for which
#   question.
# - Chamandy et al. 2012, *Estimating Uncertainty for Massive Data Streams*: the bootstrap that needs no second pass.
# - Guo et al. 2017, [On Calibration of Modern Neural Networks](https://arxiv.org/abs/1706.04599).
# - Next: [11_hundred_times_faster](11_hundred_times_faster.ipynb)
