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
# # Results, and what they mean
#
# **How good is it, against the original, and where does it fail?** That depends first on what is counted: the same predictions score low or
# high by convention alone. The original's 0.63 is a mean over defective label rows, and with Severstal's clean images in it the same network could
# have scored anything from 0.33 to 0.80. On real steel that they never saw, the weights that come with the library find a part of the
# defects and raise an alarm on all 15 clean images: section 1 has the numbers, from records.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/your--name/steelnb/blob/v0.1.0/notebooks/10_results.ipynb)
# [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/your--name/steelnb/blob/v0.1.0/notebooks/10_results.ipynb)
#
# | what you will learn | what it needs |
# |---|---|
# | what is found on real steel, by record | a CPU and a minute; your own run, if you have one |
# | why one network has a dozen Dice scores, and which to compare | |
# | how sure a score is, how to choose a threshold without fooling yourself, how to look for failures | |
#
# **What on this page is proved, recorded, toy.** Proved: the arithmetic of clean images (0.33 to 0.80) and of label rows. Recorded: section 1
# (study `pretrained`, `benchmarks/held_out_steel.py`, `benchmarks/real_steel.py`), the long run, the table of suspects (`benchmarks/gap.py`) and
# how often the intervals cover (study `intervals`). Toy: what is scored live, of one small network on synthetic steel. New words are in the
# [glossary](00_start_here.ipynb).

# %%
# Setup: pip installs steelnb where it is missing, as on Colab; torch and NumPy stay as they are.
import importlib.util, os, subprocess, sys  # isort: skip
if not getattr(importlib.util.find_spec("steelnb"), "origin", None):  # a folder of that name is no package
    source = os.environ.get("STEELNB_SPEC") or sys.exit("no address yet: set STEELNB_SPEC, or make address")
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], capture_output=True, text=True)
    assert done.returncode == 0, f"pip could not install {source}:\n{done.stderr}"

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from steelnb import runs, runtime
from steelnb.data import sources
from steelnb.evaluation import metrics, predictions, recorded, scores
from steelnb.evaluation.bootstrap import mean_interval
from steelnb.evaluation.operating_point import Sweep
from steelnb.evaluation.scores import Key, Scores, Value
from steelnb.figures import plots, real_steel, widgets
from steelnb.figures.threshold import draw_threshold
from steelnb.network import pretrained, weights
from steelnb.training.recipes import SMOKE

plots.use_style()
print(runtime.describe())


def mean(values):
    """The mean over images with its 95 % interval, by the library's bootstrap, and how many there are."""
    return Value(*mean_interval(values), len(values))


def shown_as(value):
    return f"{value.value:.2f} [{value.low:.2f}–{value.high:.2f}]"


# %% [markdown]
# ## 1 · On real steel
#
# **Recorded.** Whole images, mean Dice at p > ½. The *shipped weights* and the *series' U-Net* saw synthetic steel alone, so all that is real is held
# out. The *long run* of page 09 learned on a third of SD-saliency-900: of the 180 images there, 130 were not in its training, but 9 of these had a part in
# choosing its epoch. `smoke` was trained on each set (`benchmarks/real_steel.py`), its epoch chosen on the images that it is scored on, which flatters it; its
# intervals are of an older, narrower kind. The rest is `benchmarks/held_out_steel.py` and the study `pretrained`.
#
# **Predict.** A network that learned on drawings of steel alone: what is its Dice on photographs? And on how many of 15 clean images does it find a defect?

# %%
NAMES = {"synthetic": "shipped weights", "severstal": "Severstal", "saliency": "SD-saliency-900"}
real, alarms, study = {}, [], recorded.records("pretrained")
for (data_name, arm, seconds), cells in study.groupby(["data", "arm", "seconds"], sort=False):
    by_seed = [np.concatenate(list(of["image_dices"])) for _, of in cells.sort_values("fold").groupby("seed") if len(of) == {"severstal": 5, "saliency": 1}[data_name]]
    if by_seed:  # all folds of at least one seed
        name = f"{NAMES.get(arm, arm)}{f' ({seconds} s)' if seconds else ''}, {NAMES[data_name]}"
        real[name] = mean(np.mean(by_seed, axis=0))
        peaks, clean_peaks = (np.concatenate(list(cells[each])) for each in ("defect_peaks", "clean_peaks"))
        alarms.append({"": name, "seeds": len(by_seed), "defects": len(peaks), "touched": (peaks > 0.5).mean(), "clean images": len(clean_peaks),
                       "with an alarm": (clean_peaks > 0.5).mean() if len(clean_peaks) else np.nan})
try:
    record = recorded.recorded_result("held_out_steel")
except FileNotFoundError:
    record = {"networks": {}}
for name, network in record["networks"].items():
    for data_name, found in network["sets"].items():
        real.setdefault(f"{name}, {data_name}", mean(found["image_dices"]))
for run in recorded.recorded_result("real_steel")["runs"]:
    if not run["mask_a_class"]:
        of = next(s for s in run["report"]["scores"] if (s["score"], s["over"], s["area"], s["prediction"]) == ("Dice", *scores.OVER[:1], "whole image", "hard"))
        real[f"smoke, trained on it, {'Severstal' if of['n'] < 45 else 'SD-saliency-900'}"] = Value(of["value"], of["low"], of["high"], of["n"])
print("mean hard Dice at p > ½ over images with a defect, 95 % interval over images")
for name, value in real.items():
    print(f"{name:<42}{shown_as(value)}  n = {value.n}")
for each in alarms:
    print(f"\n{each['']}: {each['touched']:.0%} of {each['defects']} defects touched", end="")
    print(f", {each['with an alarm']:.0%} of {each['clean images']} clean images with an alarm" if each["clean images"] else "")
assert next(each for each in alarms if each[""] == "shipped weights, Severstal")["with an alarm"] == 1, "the text says all of 15"
stated = {"shipped weights, SD-saliency-900": 0.31, "smoke, trained on it, SD-saliency-900": 0.74, "long run, SD-saliency-900": 0.78,
          "shipped weights, Severstal": 0.41, "smoke, trained on it, Severstal": 0.43}
assert all(abs(real[name].value - dice) < 0.005 for name, dice in stated.items()), "the text below Figure 1 says so"

# %%
unseen = {name for name in real if name.startswith(("shipped weights", "series' U-Net")) or name == "long run, Severstal"}
reach = ["{:.2f} to {:.2f}".format(*(f([value.value for name, value in real.items() if (name in unseen) == new]) for f in (min, max))) for new in (True, False)]
real_steel.draw_scores(real, "Dice at p > ½, images with a defect", unseen, f"Never seen: {reach[0]}; trained on its kind: {reach[1]}")
plt.show()

# %% [markdown]
# *Figure 1: Recorded: mean hard Dice over real images with a defect, with 95 % intervals over images; hollow where fewer than ten. Dots: steel of a kind that
# the network never saw; diamonds: trained on images of this set. An interval knows nothing of another seed or another plant.*
#
# So drawings of steel teach a network to find some defects on photographs, and not to keep silent on clean steel. Networks that learned on SD-saliency-900
# score 0.74 and 0.78 there, those that did not 0.25 and 0.31; on Severstal 35 images of it are worth nothing that seven images could show (0.41; 0.43). The licence of the real images does not let them be shown. What the shipped weights did there can be:

# %%
examples = {f"{data_name}, {which}: Dice {each['dice']:.2f}": real_steel.error_map(each["codes"], each["shape"])
            for data_name, found in record["networks"].get("shipped weights", {"sets": {}})["sets"].items() if data_name == "Severstal"
            for which, each in found["maps"].items()}
plots.stack(examples or {"not recorded yet": np.full((20, 400, 3), 245, np.uint8)}, width=plots.NARROW)
plt.show()

# %% [markdown]
# *Figure 2: Recorded: the shipped weights on three real Severstal images, the best, the median and the worst by Dice, drawn without the steel, one pixel
# in four. Green: found. Orange: missed. Pink: false alarm.*
#
# ## 2 · One network, many scores
#
# This section and sections 4 to 7 are live. The network is that of the series: a small U-Net that learned on synthetic steel and comes with the library; it is
# scored on synthetic images that it was not trained on.
# `STEELNB_RUN` names a run folder of yours instead (`python -m steelnb train`, or page 09), `STEELNB_DATA` your images. At most 64 images are
# scored here; `python -m steelnb evaluate` takes all.

# %%
data = sources.open_dataset(progress=False)
print(data.describe())
source = Path(os.environ.get("STEELNB_RUN") or pretrained.SERIES).expanduser()
if not source.exists():  # no weights came with the library: a short training takes their place
    source = runtime.runs_folder() / f"10_results_{data.fingerprint()[:8]}"
    runs.train(data, source, SMOKE.changed(epochs=3, scored=8), progress=False)
trained = weights.load_network(source)
ids, which = predictions.images_of(trained, data)
ids = ids[:: -(-len(ids) // 64)]
print(f"loaded: {source.name}, {sum(p.numel() for p in trained.model.parameters()) / 1e6:.2f} million weights; scored: {len(ids)}, from {which}")

# %%
labels = predictions.labels_of(trained, data)
here, keep = Scores(labels), []
for probabilities, masks, label_rows, *centre in predictions.iter_predictions(trained, data, ids):
    here.update(probabilities, masks, label_rows, *centre)
    keep.append((probabilities, masks))
values, label = here.values(), "all" if len(labels) > 1 else labels[0]
print(f"{here.images} images, {here.clean} of them clean")

# %% [markdown]
# **Predict.** Mean Dice over images with a defect; over all images, a clean one counting 1 if nothing was found and 0
# otherwise; over batches of two, pooled; over all pixels pooled. Hard (at p > 0.5) or soft (on the probabilities). Over
# the whole image or the original's centre. How far apart can these be, for the *same* predictions?

# %%
conventions = [key for key in values if key.score == "Dice" and key.label == label and values[key].n]
figure, ax = plt.subplots(figsize=(plots.NARROW, 3.8))
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
ax.set_title(f"The same predictions: {min(spread):.2f} to {max(spread):.2f}")
ax.invert_yaxis()
figure.legend(ncols=2, loc="outside lower left")
plt.show()

# %% [markdown]
# *Figure 3: Every Dice of one set of predictions, with 95 % intervals over images. "label rows": each row of the CSV by itself, the image's other
# classes as background, as the original had its samples.*
#
# The interval answers: how much would the number move if other images of the same kind had been scored? It knows nothing of another seed, another training or
# another plant. Plain bootstrap percentiles of few images are too narrow: in the study `intervals` a nominal 95 % holds the truth in
# 89 % of samples of 7 images, in 94 % of 180, so the library moves them out (`bootstrap.widened_tail`).

# %%
strict, lenient = (values[Key("Dice", label, over)] for over in (scores.DEFECTIVE, scores.ALL))
rates = {name: values[Key(name, label)] for name in dict.fromkeys(key.score for key in values if key.over == "") if Key(name, label) in values}
print(f"Dice, images with a defect: {shown_as(strict)}, n = {strict.n}; all images, empty = 1: {shown_as(lenient)}, n = {lenient.n}")
print(*(f"{name}: {shown_as(value)}, n = {value.n}" for name, value in rates.items()), sep="\n")

# %% [markdown]
# ## 3 · Beside the original
#
# The original's figures are its author's own, from its [repository](https://github.com/dosp0911/Steel_image_Segmentation): Dice loss 0.15 on
# training and 0.36 on validation rows, Dice 0.84 and 0.63. Beside them the long run of page 09: the original's recipe in small. The two may not be subtracted
# from one another: other data, another width, other hours. What may be compared is each column with itself.

# %%
history, sessions = (recorded.csv(f"long_run-original-{kind}") for kind in ("history", "sessions"))
last, done = history.iloc[-1], recorded.records("long_run").query("arm == 'original'").iloc[0]
of_training, of_validation = (np.mean(done[f"{part}_images_dice"]) for part in ("train", "validation"))
beside = pd.DataFrame({
    "original": ["Severstal", "width 64, 100 h, P100", "0.15", "0.36", "0.84", "0.63"],
    "long run": ["SD-saliency-900", f"width 4, {sessions['hours'].sum():.1f} h, a CPU thread", f"{last['train_loss']:.2f}",
                 f"{last['validation_loss']:.2f}", f"{of_training:.2f}", f"{of_validation:.2f}"],
}, index=["data", "training", "loss, training", "loss, validation", "Dice, training", "Dice, validation"])
print(beside.to_string())
assert f"{of_training:.2f} {of_validation:.2f} {of_training - of_validation:.2f}" == "0.90 0.78 0.12", "the table below says so"

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
against_rows = []
for image_id in data.rows["ImageId"].unique():
    perfect = data.mask(image_id)
    against_rows += [2 * m.sum() / (m.sum() + perfect.sum()) for m in data.masks(image_id) if m.any()]
print(f"a perfect network's Dice against label rows: {np.mean(against_rows):.3f}")
assert np.mean(against_rows) <= 1

# %% [markdown]
# On the real table, where 427 of 6,666 defective images have several classes, a perfect network would score 0.955.
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
# | the same in the original's own recipe (page 09) | training 0.90, validation 0.78 after 200 epochs at width 4, split by rows | a gap of 0.12 of its own: no share of the 0.21 |
# | batch norm's running statistics, of batches of two | taken anew on training images they change a gap of 0.07 by 0.000 [−0.005 … +0.006] (study `batch_norm`, 5 seeds) | nothing of a small copy's 0.07 |
# | overfitting | training 0.74, validation 0.68; with flips 0.72 and 0.69; with four times the images 0.71 and 0.70, with eight times 0.72 and 0.69; with twice the steps 0.85 and 0.74; with 22 images and twice the steps 0.96 and 0.58 | the rest, if nothing else is at work |
#
# So in its split and its metric the original did *not* fool itself: its split, though by row, tears no image, and 0.63 is an honest
# validation score of what it counts.
#
# On the small set more images shrink the gap (to 0.01 and 0.03; single seeds differ by as much). One suspect is only half cleared: the original normalised in
# batches of two, in the encoder alone. Its running statistics make no gap, but batches of 16 end with a smaller one:
#

# %%
norm = recorded.records("batch_norm").set_index(["batch", "seed"])
gaps = pd.DataFrame({mode: norm[f"training_{mode}"] - norm[f"report_{mode}"] for mode in ("eval", "recalibrated")})
moved = recorded.seed_interval((gaps["recalibrated"] - gaps["eval"])[2])
larger = recorded.seed_interval((gaps["eval"][16] - gaps["eval"][2]).dropna())
print(f"batches of 2, {len(gaps.loc[2])} seeds: gap {gaps['eval'][2].mean():+.3f}; statistics taken anew change it by "
      "{:+.3f} [{:+.3f} … {:+.3f}]".format(*moved))
print("batches of 16 change it by {:+.3f} [{:+.3f} … {:+.3f}]".format(*larger), end="")
print(f", with Dice {norm['report_eval'][16].mean():.2f} on other images instead of {norm['report_eval'][2].mean():.2f}")
assert [round(x, 3) for x in moved] == [0.0, -0.005, 0.006] and larger[2] < 0, "the text says so"

# %% [markdown]
# So by the study's rule "overfitting by elimination" is neither confirmed nor refuted: the larger batches learned less in as many epochs, and a
# network that has learned less overfits less. Nor is a gap by itself a failure: twice the steps widened it from 0.06 to 0.11 while validation rose from
# 0.68 to 0.74.
#
# ## 4 · What it finds
#
# The best, the median and the worst of the defective images scored here, chosen by Dice and by nothing else, each on the lit part of the sheet around its defect:

# %%
hard_masks = [(probabilities > 0.5).any(0) for probabilities, _ in keep]
true_masks = [masks.any(0) for _, masks in keep]
images = [data.image(image_id) for image_id in ids]
dices = np.array([metrics.dice(h[None, None], t[None, None], empty="skip").item()
                  for h, t in zip(hard_masks, true_masks, strict=True)])
defective = [int(i) for i in np.argsort(-dices) if true_masks[i].any()]
assert len(labels) > 1 or np.isclose(strict.value, dices[defective].mean()), "two ways to one number disagree"
clean = [i for i in range(len(ids)) if not true_masks[i].any()]
shown = {"best": defective[0], "median": defective[len(defective) // 2], "worst": defective[-1]}
real_steel.draw_examples({f"{name}: Dice {dices[i]:.2f} (defect outlined)": (images[i], hard_masks[i], true_masks[i]) for name, i in shown.items()})
plt.show()

# %% [markdown]
# *Figure 4: For each of three images the steel with its labelled defect outlined, and below it what was found (green), missed (orange) and falsely
# reported (pink), at p > ½.*
#
# Are small defects harder? Each defective image is a point:

# %%
share = np.array([100 * true_masks[i].mean() for i in defective])
figure, ax = plt.subplots(figsize=(plots.NARROW, 3))
ax.plot(share, dices[defective], "o", ms=4, color=plots.PREDICTION)
rho = spearmanr(share, dices[defective]) if len(defective) > 3 and np.ptp(dices[defective]) else None
ax.set(xscale="log", xlabel="defect pixels, % of the image (log)", ylabel="Dice at p > ½", ylim=(-0.02, 1),
       title=f"Dice and area: rank correlation {rho.statistic:.2f}" if rho else f"{len(defective)} images with a defect")
ax.xaxis.set_major_formatter("{x:g}")
plt.show()
print(f"rank correlation of Dice with the area {rho.statistic:.2f}, p = {rho.pvalue:.2g}, n = {len(defective)}" if rho else "too few images for a correlation")
kinds = data.images.set_index("ImageId")["classes"]
for name in data.classes:
    found = [dices[i] for i in defective if name in kinds[ids[i]]]
    print(f"class {name}: {len(found)} images,", f"mean Dice {np.mean(found):.2f}" if len(found) >= 8 else "too few for a mean")

# %% [markdown]
# *Figure 5: Dice of each defective image against the area of its mask: a small defect is more often missed, and area explains only a part of it.*
#
# ## 5 · The threshold
#
# p > ½ is a habit. Move it (the slider needs a live page):

# %%
i = shown["median"]
widgets.explore_threshold(images[i], keep[i][0].max(0), true_masks[i])

# %%
draw_threshold(images[i], keep[i][0].max(0), true_masks[i], threshold=0.75)
plt.show()

# %% [markdown]
# *Figure 6: The median image at p > 0.75; below, its Dice, precision and recall at every threshold.*
#
# For one image that is a game, for all of them a choice, and a choice must not be made on the images it is reported on. So half of the images choose
# a threshold, the other half report.

# %%
first, second = (set(half) for half in predictions.halves(data, ids))
sweep, other = Sweep(areas=(0,), guards=(0.0,)), Sweep(areas=(0,), guards=(0.0,))
for image_id, (probabilities, masks) in zip(ids, keep, strict=True):
    (sweep if image_id in first else other).update(probabilities, masks)
figure, axes = plt.subplots(2, 1, figsize=(plots.NARROW, 4.6), sharex=True)
for ax, half, name in zip(axes, (sweep, other), ("choose", "report"), strict=True):
    ax.plot(half.thresholds, half.dice_defective[:, 0, 0], color=plots.PREDICTION, label="Dice, images with a defect")
    ax.plot(half.thresholds, half.dice[:, 0, 0], color=plots.INK, label="Dice, all images, empty = 1")
    ax.plot(half.thresholds, half.alarm_rate[:, 0, 0], color=plots.FALSE_ALARM, label="clean images with an alarm")
    ax.axvline(sweep.best().threshold, color=plots.FAINT, lw=1, ls="--")
    ax.set(ylim=(0, 1.02), title=f"the {half.pairs} images that {name}")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left")
ax.set_xlabel("threshold")
plt.show()

# %% [markdown]
# *Figure 7: Scores over the threshold on both halves; dashed, the threshold that the first half chooses with empty = 1. The two conventions want different
# thresholds: one of them never asks what happens on clean steel.*

# %%
def with_empty_as_one(threshold, members):
    return [metrics.dice((p > threshold)[None], m[None], empty="one").mean().item() for name, (p, m) in zip(ids, keep, strict=True) if name in members]


point = sweep.best()
gain = mean(np.subtract(with_empty_as_one(point.threshold, second), with_empty_as_one(0.5, second)))
verdict = "a gain" if gain.low > 0 else "a loss" if gain.high < 0 else "no gain shown"
at, plain = other.at(point), other.at(type(point)())
print(f"{point}, chosen on {len(first)} images; on the other {gain.n}: {gain.value:+.3f} [{gain.low:+.3f} … {gain.high:+.3f}], {verdict}")
print(f"Dice on defective images {plain['dice_defective']:.2f} → {at['dice_defective']:.2f}, clean images with an alarm "
      f"{plain['alarm_rate']:.0%} → {at['alarm_rate']:.0%}")

# %% [markdown]
# Look at both lines. With empty = 1, silence on clean steel is paid in full, so a network that is weak on defects can gain by falling silent: the same effect by
# which an empty answer to everything scored 0.8556 on Kaggle. On a production line one would rather ask for as much Dice as there is at no
# more than so many alarms: `python -m steelnb evaluate --choose --alarms 0.1`, given enough clean images to know a rate of 10 % (of 14 clean
# images, the 95 % interval of one alarm reaches from 0 to a third).
#
# ## 6 · Does 0.8 mean 80 %?
#
# A probability is calibrated if, of all pixels given 0.8, 80 % are defect. Neighbouring pixels err together, so what bears the curve is the number of *images*, not of
# pixels: each half of the images by itself shows how far it is to be trusted.

# %%
figure, ax = plt.subplots(figsize=(plots.NARROW, 3.2))
ax.plot([0, 1], [0, 1], color=plots.FAINT, lw=1)
for members, line, does in ((first, "-", "chose"), (second, "--", "reports")):
    of = Scores(labels)
    for image_id, (probabilities, masks) in zip(ids, keep, strict=True):
        if image_id in members:
            of.update(probabilities, masks)
    pixels, summed, defect = of.calibration
    some = pixels >= 1000
    ax.plot(summed[some] / pixels[some], defect[some] / pixels[some], f"o{line}", ms=4, color=plots.PREDICTION, label=f"the half that {does}")
    near = (summed[some] / pixels[some] > 0.75) & (summed[some] / pixels[some] < 0.85)
    if near.any():
        print(f"of the pixels given 0.75 to 0.85 {(defect[some][near] / pixels[some][near]).mean():.0%} are defect, on the half that {does}")
ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="mean probability of the bin", ylabel="share that is defect",
       title="Under the line: surer than right; over it: less sure")
ax.legend(loc="upper left")
plt.show()

# %% [markdown]
# *Figure 8: Calibration in 20 bins of probability, each half of the images by itself; bins of under 1,000 pixels left out. On the gray line 0.8 means 80 %.*
#
# Half of the crops that it learned on were centred on defects, which steel is not: so above the line or below, these numbers order pixels, and a threshold may be
# put on them. Calculate with them as probabilities only where both halves lie on the line.
#
# ## 7 · Where it fails
#
# Two kinds of failure, each at its worst: the image of which most was missed, and the clean one with the loudest alarm.

# %%
worst = {f"{(true_masks[i] & ~hard_masks[i]).sum():,} defect pixels missed": i
         for i in sorted(defective, key=lambda i: -(true_masks[i] & ~hard_masks[i]).sum())[:1]}
worst |= {f"clean, {hard_masks[i].sum():,} pixels of alarm": i for i in sorted(clean, key=lambda i: -hard_masks[i].sum())[:1]}
real_steel.draw_examples({title: (images[i], hard_masks[i], true_masks[i]) for title, i in worst.items()})
plt.show()

# %% [markdown]
# *Figure 9: The largest miss and the loudest false alarm at p > ½, as in figure 4.*
#
# The share of defects, by size, that were touched at all, covered by half, and wholly; with the number of defects, without which a share says nothing:

# %%
sizes, hits = map(np.concatenate, zip(*(metrics.defects(hard_masks[i], true_masks[i]) for i in defective), strict=True))
found = pd.DataFrame({"touched": hits > 0, "half of it": 2 * hits >= sizes, "all": hits == sizes})
bins = pd.cut(sizes, [0, 1000, 3000, 10000, np.inf], labels=["up to 1,000 px", "to 3,000", "to 10,000", "larger"])
print(found.groupby(bins, observed=True).agg("mean").round(2).assign(defects=pd.Series(bins).value_counts()).to_string())

# %% tags=["headline"]
shipped = next(value for name, value in real.items() if name == "shipped weights, Severstal")
print(f"real Severstal, never seen: Dice {shown_as(shipped)}; {data.name}: {shown_as(strict)}; "
      f"a chosen threshold {gain.value:+.2f} [{gain.low:+.2f} … {gain.high:+.2f}]")

# %% [markdown]
# ## What to remember
#
# - A Dice without its convention is not a number. Compare by "images with a defect", and say beside it how often clean steel raises an alarm.
# - Say n. A bar of one image is no bar; an interval of few images is wide, and the gain of a threshold chosen on few images can hardly be shown.
# - A metric that pays for silence gets silence: look at defective images and at clean ones apart.
# - The original's split and its metric have no part in its gap (recorded). In a small copy
#   batch norm's running statistics have none; batches of two are not cleared. So overfitting is the likeliest rest, neither confirmed nor refuted.
#
# ## Exercises
#
# 1. Choose the threshold on four images instead of half of them, ten times. How far do the choices spread?
# 2. Train with `per_class=True`, and write Kaggle's CSV: `python -m steelnb predict --kaggle …`.
#
# ## Further reading
#
# - Maier-Hein, Reinke et al. 2024, [Metrics reloaded](https://doi.org/10.1038/s41592-023-02151-z): which score for which question.
# - Guo et al. 2017, [On Calibration of Modern Neural Networks](https://arxiv.org/abs/1706.04599).
# - Next: [11 · A hundred times faster?](11_hundred_times_faster.ipynb)
