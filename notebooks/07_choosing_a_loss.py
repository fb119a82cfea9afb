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
# # Choosing a loss: sixteen sound ones, and why a quick race does not decide
#
# **Which loss should I take?** Section 4 prints what the study `losses` says, by a rule that was written down before its first
# record, and whether that is final; until it is, the recipes keep `dice_bce`. The race of 80 steps on this page is a *warning*:
# change the threshold or the number of steps, and its order changes.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/your--name/steelnb/blob/v0.1.0/notebooks/07_choosing_a_loss.ipynb)
# [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/your--name/steelnb/blob/v0.1.0/notebooks/07_choosing_a_loss.ipynb)
#
# | what you will learn | what it needs |
# |---|---|
# | how far sixteen losses seem apart after 80 steps at p > ½, and what is left of it at a chosen threshold | a CPU, a minute or two; on a T4 10 minutes planned: 4.7 PFLOP in half precision at 8 TFLOP/s |
# | Dice and average precision over the number of steps, from the records of a study | the records that come with steelnb |
# | what each loss costs, and how hard each pushes where there is no defect | nothing trained |
#
# **Proved, recorded, toy.** Proved: the pushes of section 5, by arithmetic on given outputs. Recorded: sections 3 and 4.
# Toy: the race of section 2 and the times of section 5; they rank nothing. How a *broken* loss looks is the subject of
# [08](08_failure_clinic.ipynb).

# %%
# Setup: pip installs steelnb where it is missing, as on Colab; torch and NumPy stay as they are.
import importlib.util, os, subprocess, sys  # isort: skip
if not getattr(importlib.util.find_spec("steelnb"), "origin", None):  # a folder of that name is no package
    source = os.environ.get("STEELNB_SPEC") or sys.exit("no address yet: set STEELNB_SPEC, or make address")
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], capture_output=True, text=True)
    assert done.returncode == 0, f"pip could not install {source}:\n{done.stderr}"

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from steelnb import losses, runtime
from steelnb.data import sources, splits
from steelnb.evaluation import metrics, recorded
from steelnb.figures import budgets, narrow, plots
from steelnb.training import loss_trials, recipes

plots.use_style()
pd.set_option("display.max_colwidth", None, "display.width", 200)
full = runtime.profile() == "full"
steel = sources.open_dataset("synthetic", images=512 if full else 64, progress=False)
print(steel.describe())

# %% [markdown]
# ## 1 · Sixteen, in four families
#
# All take logits (a network's outputs before the sigmoid) and a mask, apply the sigmoid themselves and sum in float32. Their
# papers and equations are in the docstrings of `steelnb.losses`; most are a line or two. Dice loss, written out:


# %%
def dice_by_hand(logits, mask, smooth=1.0):
    p = logits.sigmoid()
    overlap, total = (p * mask).sum((2, 3)), p.sum((2, 3)) + mask.sum((2, 3))
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean()


logits = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
assert torch.isclose(dice_by_hand(logits, (logits > 1).float()), losses.dice_loss(logits, logits > 1))

# %%
families = {
    "pixels": ["bce", "focal", "topk_bce"],
    "pixels, weighted": ["weighted_bce"],
    "overlap": ["dice", "batch_dice", "original_dice", "squared_dice", "log_dice", "generalised_dice",
                "tversky", "focal_tversky", "lovasz_hinge"],
    "mixed": ["dice_bce", "dice_focal", "dice_boundary"],
}
family = {name: kind for kind, names in families.items() for name in names}
assert set(family) == set(losses.LOSSES)
lines = {name: losses.LOSSES[name].__doc__.splitlines()[0].replace("`", "") for name in family}
pd.Series(lines).to_frame("what it is")

# %% [markdown]
# ## 2 · The race that looks like an answer
#
# One small U-Net, one optimizer (AdamW, its learning rate falling to 0), one budget. A seed fixes the first weights and the
# batches, so the loss is all that differs. A quarter of the crops is clean, the others are 6 % defect on average. Three parts
# by image: networks learn from *train*, thresholds are chosen on *choose*, Dice is of the defective crops of *report*.
#
# **Predict before you run**, at p > ½ after 80 steps: which of the four families is last, and by how much? How much of that is
# left when each network may choose its threshold on other crops? And after four times the steps?

# %%
if full:
    geometry, steps, batch, wide = dict(size=(256, 512), shrink=1, share=None, depth=4), 400, 2, 16
else:
    geometry, steps, batch, wide = dict(size=(24, 24), shrink=8, depth=1), 80, 4, 8
budget = dict(batch=batch, decay=True, model=dict(width=wide, depth=geometry["depth"]), half=True)
few = ["bce", "focal", "tversky", "dice", "batch_dice", "dice_bce"]  # those that get four times the steps as well


def three_parts(data, **changes):
    sides = splits.by_image(data, 0.5)
    rest = splits.by_image(data.subset(sides.validation), 0.5)
    clean = {} if full else dict(clean=0.25)
    wanted = [(sides.train, 192 if full else 96), (rest.train, 24 if full else 60), (rest.validation, 60)]
    return [loss_trials.crops(data.subset(ids), count, seed=seed, **geometry | clean | changes)
            for seed, (ids, count) in enumerate(wanted)]


def mean_dice(outputs, masks, threshold):
    return metrics.dice(outputs > threshold, masks, empty="skip").nanmean().item()


def race(names, parts, steps, seeds):
    """Dice of each loss and seed at p > ½ and at the threshold that is best on *choose*."""
    (train, choose, report), rows = parts, []
    for name, seed in [(name, seed) for name in names for seed in seeds]:
        model = loss_trials.trial(losses.LOSSES[name], train, choose, seed=seed, steps=steps, every=steps, **budget).model
        here, there = (loss_trials.logits(model, part, half=True) for part in (choose, report))
        candidates = [0.0, *np.quantile(here.numpy(), np.linspace(0.5, 0.999, 40))]
        scores = [mean_dice(here, choose.masks, each) for each in candidates]
        best = candidates[int(np.argmax(scores))]
        assert not max(scores) < scores[0]  # on *choose*, never worse than p > ½
        rows.append({"loss": name, "seed": seed, "half": mean_dice(there, report.masks, 0.0),
                     "chosen": mean_dice(there, report.masks, best), "threshold": 1 / (1 + np.exp(-best))})
    return pd.DataFrame(rows)


# %%
parts = three_parts(steel)
everything = mean_dice(torch.ones_like(parts[2].masks).float(), parts[2].masks, 0.5)
began = time.perf_counter()
short, long = race(family, parts, steps, range(2)), race(few, parts, 4 * steps, range(2))
print(f"{len(short)} networks of {steps} steps and {len(long)} of {4 * steps} in {time.perf_counter() - began:.0f} s; "
      f"calling everything a defect scores Dice {everything:.2f}")
half, chosen = (short.groupby("loss")[name].mean() for name in ("half", "chosen"))
later = long.groupby("loss")[["half", "chosen"]].mean()
result = pd.DataFrame({f"p > ½, {steps} steps": half, "chosen threshold": chosen, f"p > ½, {4 * steps} steps": later["half"],
                       "chosen": later["chosen"]}).rename_axis(None)
result.sort_values(f"p > ½, {steps} steps", ascending=False).map("{:.2f}".format).replace("nan", "–")

# %%
figure, (ax,) = narrow.panels(4.4)
order = half.sort_values().index
for name, table, colour, marker, shift in (("half", short, "#888888", "v", 0.2), ("chosen", short, plots.PREDICTION, "o", 0.0),
                                           ("chosen", long, plots.PREDICTION, "D", -0.2)):
    at = table.groupby("loss")[name].agg(["mean", "min", "max"]).reindex(order)
    places = np.arange(len(order)) + shift
    ax.hlines(places, at["min"], at["max"], color=colour, lw=2, alpha=0.4)
    label = f"{steps if table is short else 4 * steps} steps, {'p > ½' if name == 'half' else 'chosen threshold'}"
    ax.scatter(at["mean"], places, color=colour, facecolor="none" if table is long else colour, marker=marker, s=22, label=label)
ax.axvline(everything, color=plots.FAINT, ls="--", lw=1)
ax.set(yticks=range(len(order)), yticklabels=order, xlim=0, xlabel="Dice, defective crops of report")
narrow.legend(ax, 1)
plt.show()

# %% [markdown]
# *Figure 1: One race, three readings: mean of two seeds, and each of them at the ends of a bar. Dashed: Dice of calling everything a defect. A toy: crops of synthetic steel, networks of seconds.*

# %%
plain, overlap = families["pixels"], [name for name in families["overlap"] if name != "lovasz_hinge"]
gaps = {name: table[overlap].mean() - table[plain].mean() for name, table in (("half", half), ("chosen", chosen))}
same_order, at_length = half.corr(chosen, method="spearman"), half[few].corr(later["chosen"], method="spearman")
print(f"overlap losses − plain pixel losses: {gaps['half']:+.2f} Dice at p > ½, {gaps['chosen']:+.2f} at a chosen threshold")
print(f"rank correlation with the order of {steps} steps at p > ½:\n"
      f"  {same_order:5.2f}   {steps} steps, chosen threshold, 16 losses\n"
      f"  {at_length:5.2f}   {4 * steps} steps, chosen threshold, six losses")
assert full or (at_length < 0 < same_order < 1 and gaps["half"] > 0.1 and gaps["chosen"] < 0.5 * gaps["half"]), "the text says so"

# %% [markdown]
# In this toy more than half of the distance between the families is the threshold (Lovász left out: it is still near its start),
# and after four times the steps the order of six losses even turns round. Plain pixel losses keep their probabilities below ½
# longer ([05](05_bce_imbalance.ipynb)). A comparison has to say its threshold, who chose it on what, and its budget.
#
# ## 3 · What the record says: every budget, two thresholds, average precision
#
# The study `losses` trains the same small padded U-Net (7,557 weights) with each loss on SD-saliency-900 (real steel, 540
# images to learn from) and on crops of synthetic steel (half of them clean). A budget is a training of its own; the *plateau* is
# where twice the steps gain next to nothing. Six *key* losses get every budget first. Average precision needs no threshold: it
# measures how well the network ranks pixels ([04](04_metrics.ipynb)).

# %%
study = recorded.records("losses")
PLANNED = 16 * 2 * 4 * 5  # losses, data sets, budgets, seeds
KEY = ["dice_bce", "bce", "dice", "focal", "batch_dice", "tversky"]
print(f"{len(study)} of {PLANNED} trainings are recorded" + (": provisional" if len(study) < PLANNED else ""))
for data, rows in study.groupby("data"):
    seeds = rows.groupby(["loss", "steps"])["seed"].nunique()
    print(f"{data}: {rows['loss'].nunique()} of 16 losses, budgets of {', '.join(map(str, sorted(set(rows['steps']))))} steps, "
          f"{'–'.join(map(str, sorted({seeds.min(), seeds.max()})))} seeds each")
quoted = study[study["seed"] < 3].groupby(["data", "loss", "steps"])[["dice_half", "dice_chosen", "ap"]].mean().round(3)
first = quoted.loc["saliency"].xs(80, level="steps")
assert first.loc["bce", ["dice_half", "dice_chosen"]].tolist() == [0.121, 0.270]  # the text below
assert first.loc["dice", ["dice_half", "dice_chosen"]].tolist() == [0.381, 0.443]
later = quoted.loc["synthetic"].xs(640, level="steps")
assert later.loc[["bce", "focal", "dice_bce"], "dice_half"].max() < 0.002
assert quoted.loc["synthetic", "dice_bce", 1280]["dice_half"] == 0.264

# %% [markdown]
# At 80 steps (SD-saliency-900, 3 seeds) `bce` scores 0.121 at p > ½ and 0.270 at the chosen threshold, `dice` 0.381 and 0.443. So
# on real steel a third of their distance is the threshold: 0.26 becomes 0.17. How it goes on:

# %%
shown = [name for name in family if name in set(study["loss"])]
budgets.draw_budgets(study[study["data"] == "saliency"], shown)
plt.show()

# %% [markdown]
# *Figure 2: SD-saliency-900, the 180 images of the part "report": one panel per recorded loss, mean and range of the seeds.*

# %%
budgets.draw_budgets(study[study["data"] == "synthetic"], shown)
plt.show()

# %% [markdown]
# *Figure 3: Mean and range of the seeds on 400 crops of synthetic steel, half of them clean, for the same losses.*
#
# With clean crops among them the threshold matters more: after 640 steps `bce`, `focal` and `dice_bce` still find nothing at
# p > ½ (Dice below 0.002, 3 seeds). After twice as many `dice_bce` speaks (0.264), and the other two hardly.
#
# ## 4 · The rule, and the recommendation
#
# Written down before the first record: at the largest budget of all six key losses the best is that with the highest Dice at
# the chosen threshold, averaged over both data sets. `dice_bce` stays the default if, on both, it is *the same* (95 % interval
# of the paired difference, over seeds and images, within ±0.02), or within 0.02 of the best at p > ½. Otherwise the best takes
# its place, or, of those that are the same as the best, the one with the highest Dice at p > ½. The rule speaks at the
# plateau: the last doubling of the steps gained less than 0.005 of average precision.


# %%
def paired(a, b):
    """95 % interval of the mean difference of lists of scores, by seed; seeds and images are drawn with replacement."""
    gains = [np.subtract(a[seed], b[seed]) for seed in sorted(set(a.index) & set(b.index))]
    return np.array(recorded.seeds_and_images_interval(np.array(gains))[1:])


def rule(study):
    """What the study says: the best loss, those that are the same, the loss to take, and whether it is final."""
    last, gains = {}, []
    for data, rows in study.groupby("data"):
        steps = max(set.intersection(*(set(rows.loc[rows["loss"] == name, "steps"]) for name in KEY)))
        last[data] = rows[rows["steps"] == steps].set_index(["loss", "seed"])
        ap = rows[rows["loss"].isin(KEY)].set_index(["loss", "seed", "steps"])["ap"].unstack()
        gains.append((ap[steps] - ap.get(steps // 2, np.nan)).groupby("loss").mean())
    chosen, half = (pd.DataFrame({data: rows.groupby("loss")[name].mean() for data, rows in last.items()}).dropna()
                    for name in ("dice_chosen", "dice_half"))
    best = chosen.mean(axis=1).idxmax()
    same = {data: {name for name in chosen.index if np.abs(paired(rows["image_dices"].loc[name],
            rows["image_dices"].loc[best])).max() < 0.02} for data, rows in last.items()}
    stays = all("dice_bce" in same[data] or half[data]["dice_bce"] > half[data][best] - 0.02 for data in last)
    tied = sorted(set.intersection(*same.values()) - {best})
    return dict(best=best, tied=tied, take="dice_bce" if stays else half.mean(axis=1)[[best, *tied]].idxmax(),
                final=all((gain < 0.005).all() for gain in gains), chosen=chosen, half=half, last=last)


# %%
says = rule(study)
table = says["chosen"].add_suffix(", chosen").join(says["half"].add_suffix(", p > ½"))
table.insert(0, "mean, chosen", says["chosen"].mean(axis=1))
table["seeds"] = [min(len(rows.loc[name]) for rows in says["last"].values()) for name in table.index]
print(" and ".join(f"{data}: {rows['steps'].iloc[0]} steps" for data, rows in says["last"].items()))
table.sort_values("mean, chosen", ascending=False).round(3)

# %%
defaults = {recipe.loss for name, recipe in recipes.RECIPES.items() if name != "original"}
print(f"best: {says['best']}; the same as the best: {', '.join(says['tied']) or 'none'}; the rule would take {says['take']}")
print("final: the last doubling gained less than 0.005" if says["final"] else
      "provisional, before the plateau: until it is final the default stays as it is")
recommended = says["take"] if says["final"] else "dice_bce"
print(f"recommended, and the recipes' default: {recommended}")
assert defaults == {recommended}, f"the recipes have {defaults}, the study recommends {recommended}"

# %% [markdown]
# Once the study is final, the recipes agree with the line *recommended*, or this cell is red. Two more columns of the record are
# worth a look: who ranks best, and who raises alarms on clean crops at the threshold that finds 9 in 10 defective crops of the
# part *choose*. On *report* they find a few more or less than that, so compare alarms with care.

# %%
columns = {"ap": "average precision", "recall": "defective crops found", "alarms": "clean crops with an alarm"}
for data, rows in says["last"].items():
    by_loss = rows.groupby("loss")[[name for name in columns if rows.get(name, pd.Series()).notna().any()]].mean()
    print(data, by_loss.rename(columns=columns).sort_values("average precision", ascending=False).rename_axis(None).round(2).to_string(),
          "" if "alarms" in by_loss else "(this set has no clean images)", sep="\n")

# %% [markdown]
# ## 5 · What does not depend on a training
#
# **An empty mask.** Put a false alarm of 50 pixels on a clean 64 × 64 crop: how hard does each loss push it down, compared
# with how hard it pulls up the same 50 pixels where they are a missed defect?


# %% tags=["nbval-check-output"]
def push(loss, false_alarm=True):
    """Σ|∂loss/∂logit| on 50 pixels: a false alarm on an empty mask, or the same pixels as a missed defect."""
    spot = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    spot[..., 10:15, 20:30] = True
    x = torch.where(spot & torch.tensor(false_alarm), 2.0, -2.0) - 6.0 * ~spot
    x.requires_grad_()
    loss(x, spot & torch.tensor(not false_alarm)).backward()
    return x.grad[spot].abs().sum().item()


pushes = pd.Series({name: push(losses.LOSSES[name]) / push(losses.LOSSES[name], False) for name in family})
print(pushes.sort_values().map("{:.3f}".format).to_string())
assert pushes["original_dice"] < 1e-4 < pushes["dice"] < 1 / 60 < pushes["log_dice"] < 1 / 6 < pushes["bce"]

# %% [markdown]
# The unweighted pixel losses and Lovász push as hard as they pull; plain Dice with less than a sixtieth of that, its variants and
# its mixes with up to a sixth (`log_dice`). The original's Dice, smoothed by 10⁻⁴ pixels, does not push at all; it trained on
# defective rows alone, where that is never noticed. How many alarms a trained network raises does not follow from this: see the
# record above.
#
# **The price** of a loss, forward and backward on one image of 256 × 1600 pixels, is small beside the network's:

# %%
scene = torch.zeros(1, 1, 256, 1600, dtype=torch.bool)
scene[..., 60:160, 400:646] = True  # 6 %
noise = torch.randn(scene.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()


def milliseconds(loss, rounds=5):
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        loss(noise, scene).backward()
        taken.append(1e3 * (time.perf_counter() - began))
    return min(taken)


price = pd.Series({name: milliseconds(losses.LOSSES[name]) for name in family}).sort_values()
print("milliseconds, the quickest of five:", ", ".join(f"{name} {ms:.0f}" for name, ms in price.iloc[[0, -2, -1]].items()))

# %% [markdown]
# Lovász sorts all pixels; the boundary loss measures distances with SciPy on the CPU, so on a GPU it makes the GPU wait.
#
# ## 6 · On your own images
#
# Where a data set is found or named (`STEELNB_DATA`), the same short race runs on it, with six losses, on crops as they
# come, and with the same warning.

# %%
found = sources.open_dataset(progress=False)
if found.name == steel.name:
    print("no other data set here: the same on your images with STEELNB_DATA=folder")
else:
    least = int(found.images[["height", "width"]].min().min())
    try:
        theirs = three_parts(found, share=None, shrink=max(1, min(geometry["shrink"], least // 32)))  # as they come
        own = race(few, theirs, steps, range(2)).groupby("loss")[["half", "chosen"]].agg(["mean", "min", "max"])
        print(found.describe(), own.round(2).to_string(), sep="\n")
    except ValueError as error:  # too few images
        print(f"{found.describe()}\n{error}")

# %% tags=["headline"]
print(f"overlap − pixel losses {gaps['half']:+.2f} Dice at p > ½, {gaps['chosen']:+.2f} at a chosen threshold; "
      f"take {recommended}{'' if says['final'] else ' (provisional)'}")

# %% [markdown]
# ## Remember
#
# - A race of seconds at p > ½ measures its threshold and its budget. Choose the threshold on other images, go to the plateau,
#   compare pairs over seeds and images, and call two losses the same only where the interval says so.
# - The recommendation is the line *recommended* of section 4; once it is final, the recipes follow it.
# - What a loss does with an empty mask is arithmetic and can be known before any training.
#
# ## Exercises
#
# 1. Give `bce` sixteen times the steps. Where does it end beside `dice` at p > ½, and at the chosen threshold?
# 2. Let `lovasz_hinge` take over from a network that `bce` has trained. Was it the start that it lacked?
# 3. Draw `tversky` for α from 0.1 to 0.9 in the plane of precision and recall.
#
# ## Further reading
#
# - [Ma et al. 2021](https://doi.org/10.1016/j.media.2021.102035), *Loss odyssey in medical image segmentation*: twenty losses,
#   none best everywhere; mixes with Dice were the most robust.
# - [Berman et al. 2018](https://arxiv.org/abs/1705.08790), the Lovász losses;
#   [Kervadec et al. 2019](https://arxiv.org/abs/1812.07032), the boundary loss;
#   [Lin et al. 2017](https://arxiv.org/abs/1708.02002), focal.
# - [Isensee et al. 2021](https://doi.org/10.1038/s41592-020-01008-z), nnU-Net, which takes Dice + cross entropy everywhere.
# - Next: [08 · The failure clinic](08_failure_clinic.ipynb)
