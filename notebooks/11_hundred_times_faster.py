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
# # A hundred times faster?
#
# **What else could those 100 hours have bought?** Nobody here has trained for hours, so this page cannot say. In small, on one thread, `fast` reached the
# best Dice of the original's first 500 to 800 steps 6 to 38 times sooner. But there only `fast` had a tuned learning rate. In a second
# race (study `recipes`, smaller still, five seeds), with the learning rates of both swept, it takes 4 to 16 times fewer multiply-adds, and 2 to 9 times fewer
# seconds, to 95 % of the original's best, and after as many steps it ends higher.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/your--name/steelnb/blob/v0.1.0/notebooks/11_hundred_times_faster.ipynb)
# [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/your--name/steelnb/blob/v0.1.0/notebooks/11_hundred_times_faster.ipynb)
#
# | what you will learn | what it needs |
# |---|---|
# | where 100 hours go: work, speed and steps, each counted or measured | a CPU and half a minute |
# | what a second race says, with the learning rates of both swept | 02, 03 and 07 are useful, not needed |
# | how to compare two trainings fairly: same images, same cost, tuned alike, several seeds | the records that come with steelnb |
#
# **What on this page is proved, recorded, toy.** Proved: the counted work of sections 1 and 2. Recorded: the races of section 4
# (`benchmarks/time_to_quality.py`, three seeds a set, the original's rate not tuned) and of section 5 (study `recipes`). Toy: the seconds of section 3.
# New words are in the [glossary](00_start_here.ipynb).

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

from steelnb import runtime
from steelnb.evaluation import recorded
from steelnb.figures import plots, races
from steelnb.network import kinds
from steelnb.network.unet import UNet, cost
from steelnb.training.recipes import FAST, ORIGINAL
from steelnb.training.trainer import Trainer

plots.use_style()
torch.set_num_threads(1)
print(runtime.describe())

# %% [markdown]
# ## 1 · What 100 hours were
#
# Time is work over speed. The work of one training image is three times a forward pass (once forward, twice backward),
# 2.2 TFLOP at the original's size. NVIDIA has published how fast its cards trained the same network on images of 572×572;
# scaled by the work, that gives images a second at the original's size, and with them the images that 100 hours held.

# %% tags=["nbval-check-output"]
original = UNet(**ORIGINAL.model)
step = 3 * 2 * sum(layer.macs for layer in cost(original, 430, 1780))  # counted: FLOP to train on one image
paper = 3 * 2 * sum(layer.macs for layer in cost(UNet(norm="none", out_channels=2), 572, 572))
peaks = {"V100": 15.7, "P100": 9.5, "T4": 8.1}  # quoted: TFLOP/s in float32; tensor cores: V100 125, T4 65
published = {"V100, float32": 19, "V100, mixed": 61, "A100, TF32": 63, "A100, mixed": 141}  # quoted: images/s at 572²
published |= {f"{card}, float32": 19 * peaks[card] / peaks["V100"] for card in ("P100", "T4")}  # computed, by peak
published |= {"T4, mixed": 61 * 65 / 125}  # computed, by peak: hopeful, its memory is three times slower
rates = {card: published[card] * paper / step for card in sorted(published, key=published.get)}
images_of_2020 = rates["P100, float32"] * 100 * 3600
assert 1.3e6 < images_of_2020 < 2.0e6
print(f"training on one image of 430×1780: {step / 1e12:.2f} TFLOP; in 100 hours some {images_of_2020 / 1e6:.1f} million images")


# %%
speeds = pd.DataFrame({"images/s at 430×1780": rates, "times the P100": {card: rate / rates["P100, float32"] for card, rate in rates.items()}})
speeds["computed from"] = ["NVIDIA's V100, by peak" if card[0] in "PT" else "NVIDIA's own figure" for card in rates]
print(speeds.round(1).to_string())

# %% [markdown]
# So a part of the way is open to whoever has a newer card and two lines for mixed precision, and none of it is cleverness. All of it is computed
# from published speeds. The other factor needs no card: **how many images a network has to see, and how large they have to be.**
#
# ## 2 · Two recipes
#
# A recipe is data. Here is where `fast` differs from `original`, and what one step of each costs, counted:

# %% tags=["nbval-check-output"]
def settings(recipe):
    own = recipe.to_dict()
    model = {f"network's {name}": value for name, value in own.pop("model").items()}
    return {name: str(value) for name, value in (model | own).items() if name != "name"}


rows = pd.DataFrame({"original": settings(ORIGINAL), "fast": settings(FAST)}).fillna("–")
print(rows[rows["original"] != rows["fast"]].to_string())
sides = [kinds.training_grid(FAST.model).span(0, side)[1] for side in FAST.crop]
macs = {"original": ORIGINAL.batch * sum(layer.macs for layer in cost(UNet(**ORIGINAL.model), 430, 1780)),
        "fast": FAST.batch * sum(layer.macs for layer in cost(UNet(**FAST.model), *sides))}
print("\nmultiply-adds of a step's forward pass:", ", ".join(f"{name} {count / 1e9:,.1f} G" for name, count in macs.items()))
print(f"a step of fast is {macs['original'] / macs['fast']:.0f} times cheaper")
assert 100 < macs["original"] / macs["fast"] < 160

# %% [markdown]
# | change | why |
# |---|---|
# | exact geometry, batch norm in the decoder | no skewed skips, every pixel predicted (02); steadier activations |
# | whole masks, clean images too | a label row calls the other classes' defects background (10) |
# | AdamW at 0.004 instead of SGD at 0.001 with momentum 0.99 | each weight gets a step of its own size |
# | width 32 instead of 64 | a quarter of the work for each pixel |
# | depth 3, crops of 64×64, batches of 4 | fewer pixels, though a valid network pays for the margin around each crop |
# | three crops in four on a defect | 94 % of the pixels of *defective* images are background |
# | Dice + BCE, flips, one cycle, moving average | what the field would advise; whether it pays here is seen below |
#
# A cheap step is no speed yet: it may teach less.
#
# ## 3 · How long is a step? Live
#
# **Predict.** The networks eight times narrower, on one thread: is a step of `fast` cheaper by as much as counted?

# %%
NARROWER = 8


def seconds_a_step(recipe, height, width, steps):
    """The quickest of some steps on random pixels; how it goes on learning from them is of no interest."""
    narrow = recipe.changed(model=recipe.model | {"width": recipe.model["width"] // NARROWER}, compile=False)
    trainer, taken = Trainer(narrow, 1, steps, 0, torch.device("cpu")), []
    windows = torch.randint(0, 256, (recipe.batch, 1, height, width), dtype=torch.uint8)
    with torch.inference_mode():
        masks = trainer.averaged(windows[:1].float())[:, :1] > 0
    masks = masks.expand(recipe.batch, *masks.shape[1:]).clone()
    trainer.begin()
    for _ in range(steps):
        began = time.process_time()
        trainer.step(windows, masks, 1.0, recipe.batch)
        taken.append(time.process_time() - began)
    return min(taken)


slow, quick = seconds_a_step(ORIGINAL, 430, 1780, 2), seconds_a_step(FAST, *sides, 8)
print(f"a step of the original takes {slow:.2f} s, one of fast {quick:.3f} s: {slow / quick:.0f} times less, counted {macs['original'] / macs['fast']:.0f}")
assert slow > 20 * quick

# %% [markdown]
# Counted and measured work differ, because small layers use a processor less well; on a large GPU the difference is larger still. So the fair race
# below counts the work, and prints no hours.
#
# ## 4 · The first races: tuned against untuned
#
# **Recorded** on 2026-11-24: 800 steps of the original on synthetic steel, 500 on the real images of
# [SD-saliency-900](https://github.com/SongGuorong/MCITF), at its rate of 2020; `fast` at a rate that was chosen on such races. Three seeds each, width 8.

# %% tags=["nbval-check-output"]
record = recorded.recorded_result("time_to_quality")
table = pd.DataFrame([
    {"data": name, "seed": row["seed"], "original's best Dice": row["target"], "its seconds": row["original_cpu_seconds"],
     "fast's seconds to it": row["fast"]["cpu_seconds"], "times sooner": row["fast"]["ratio"]}
    for name in ("synthetic", "sd_saliency_900") for row in record["data"][name]["by_seed"]
]).round(2)
print(table.to_string(index=False))
sooner = table["times sooner"]
print(f"\n{sooner.min():.0f} to {sooner.max():.0f} times sooner, the original's learning rate not tuned")

# %% [markdown]
# What this does **not** say: that the original would never catch up, nor that the ratio is the recipe's. It took a thousandth of its steps of 2020, at a
# rate that nobody tuned for so few. Which change did it? From the original down, one change a line on top of those before it, until the original's
# best of the same seed is reached:

# %%
lines = record["waterfall"]["sd_saliency_900"]["lines"]
steps = np.diff(np.log(races.shares_of_the_first(lines)), axis=0)  # of each change, a number per seed
beyond = [line["change"] for line, step in zip(lines[1:], steps, strict=True) if np.prod(recorded.seed_interval(step)[1:]) > 0]
races.draw_waterfall(lines, beyond)
plt.show()
print("changes beyond the spread of the three seeds:", ", ".join(beyond) or "none")
assert not beyond, "the text below says that none is"

# %% [markdown]
# *Figure 1: Recorded, SD-saliency-900: seconds until the original's best Dice, in per cent of the seconds that the original took; a dot per
# seed, an open triangle where it was not reached within the original's seconds. A line would be black if it differed from the one above beyond the spread
# of the seeds.*
#
# Every line is gray. With *AdamW at 0.004* two seeds fall to 20 % and one to 63 %: three seeds are too few for a 95 % interval, and the change is two at
# once, optimizer and rate. From *one cycle* on only three budgets were tried (a sixteenth, a quarter, all), so small differences mean nothing.
#
# ## 5 · The fair race: the rates of both swept
#
# **Recorded**, in the study `recipes`: SD-saliency-900 shrunk to 48×48, networks of width 4 and depth 2. The original at five learning rates
# from 0.001 to 0.1 for 2,560 steps; `fast`, the same with Nesterov SGD, and *plain*, a U-Net that pads with zeros, at two rates each, a training per
# budget whose length is known beforehand; the original is scored along one training. The rate is chosen on images that are not reported; often it is the first
# or the last of those tried. Cost is counted in multiply-adds of forward passes, which no busy machine changes. At this size a step of `fast` is only 2 times
# cheaper than one of the original, not 131: the race measures what a step teaches, and nothing follows from it for full size.
#
# **Predict.** What was written before the first record: at its best rate the original comes within 0.05 of fast's Dice; `fast` reaches 95 % of the original's
# best for a fifth of the multiply-adds; plain is as good as `fast` for fewer still. The decision: `fast` keeps its name if it needs at most half, for every seed.

# %%
study = recorded.records("recipes")
points = pd.DataFrame([{"arm": cell.arm, "rate": cell.rate, "seed": cell.seed} | point for cell in study.itertuples() for point in cell.curve])
whole = points[points["arm"].isin(races.ARMS)]


def best(some):
    """Of each arm and seed the point that is best on images that are not reported."""
    return some.loc[some.groupby(["arm", "seed"])["choose"].idxmax()].set_index(["arm", "seed"])


chosen, ratios = best(whole), []
at_best = whole.merge(chosen["rate"].reset_index()).assign(run=lambda table: table["seed"])
for (arm, seed), runs in at_best.groupby(["arm", "seed"]):
    aim = chosen.loc[("original", seed), "dice_chosen"]
    row = {f"{share:.0%}": runs.loc[runs["dice_chosen"] >= share * aim, "gigamacs"].min() for share in (0.5, 0.8, 0.95, 1.0)}
    ratios.append({"arm": arm, "seed": seed} | row | {"seconds, 95%": runs.loc[runs["dice_chosen"] >= 0.95 * aim, "seconds"].min()})
ratios = pd.DataFrame(ratios).set_index(["arm", "seed"])
ratios = ratios.loc["original"] / ratios[ratios.index.get_level_values("arm") != "original"]  # of the same seed
print("rates chosen:", *(f"{arm} {', '.join(f'{rate:g}' for rate in of)}" for arm, of in chosen["rate"].groupby("arm")), sep="\n  ")
print("\ntimes fewer multiply-adds, and seconds, to a share of the original's best Dice (NaN: never)")
print(ratios.sort_index().round(1).to_string())
of_fast = ratios.xs("fast", level="arm")
assert of_fast["95%"].min() >= 2, "by the rule of the study fast would lose its name"
assert [*of_fast["95%"].agg(["min", "max"]).round()] == [4, 16] and [*of_fast["seconds, 95%"].agg(["min", "max"]).round()] == [2, 9], "the top says so"

# %%
races.draw_curves(at_best, "gigamacs", "dice_chosen", "Each recipe at the best of its learning rates", (0.5, 0.8, 0.95))
plt.gca().set(xlabel="billions of multiply-adds, forward (log)", ylabel="Dice, threshold chosen elsewhere")
plt.show()

# %% [markdown]
# *Figure 2: Recorded, study `recipes`: Dice on images that chose nothing over the cost, each recipe at the best of its learning rates, a line per seed; a point of
# the blue lines is a training of that length. Gray: shares of the mean of the original's highest points.*
#
# So `fast` keeps its name, and most of the prediction fails: a fifth of the multiply-adds is not reached for every seed, and the original's best rate is no
# tenfold of that of 2020 but 0.001 to 0.003. Ratios are powers of two because budgets are. Compare now at equal steps, and *plain* at equal cost too:

# %%
def against(arm, other, some, others):
    """Mean difference of Dice from another arm's, of the same seeds and images, with its interval over both; the numbers of the seeds."""
    one, two = (table["image_dices"].loc[name] for table, name in ((some, arm), (others, other)))
    gains = np.array([np.subtract(one[seed], two[seed]) for seed in sorted(set(one.index) & set(two.index))])
    return recorded.seeds_and_images_interval(gains), gains.mean(1)


last = best(whole.query("step == 2560"))
less = points[points["arm"].str.startswith("less")].set_index(["arm", "seed"])
as_long = whole.query("arm == 'fast' and rate == 0.004 and step == 1280").set_index(["arm", "seed"])
found = {f"{arm}, 2560 steps": against(arm, "fast", last, last) for arm in ("original", "plain", "nesterov")}
found["plain 2560, fast 640"] = against("plain", "fast", last, best(whole.query("step == 640")))
found |= {arm.split(":")[0]: against(arm, "fast", less, as_long) for arm in dict.fromkeys(less.index.get_level_values("arm"))}
intervals, gains = ({name: pair[k] for name, pair in found.items()} for k in (0, 1))
races.draw_differences(gains, intervals, "Dice, less that of fast", "Dice against that of fast")
plt.show()
for name, (mean, low, high) in intervals.items():
    print(f"{mean:+.3f} [{low:+.3f} … {high:+.3f}]  {name}" + "  *" * (low * high > 0))
lower = (less.loc["less BCE beside Dice", "dice_half"] - as_long.loc["fast", "dice_half"]).dropna()
beyond = {name for name, (_, low, high) in intervals.items() if low * high > 0}
assert {"original, 2560 steps", "plain 2560, fast 640", "less AdamW", "less crops on defects", "less batches of 4", "less crops"} <= beyond, "as the text says"
assert not beyond & {"nesterov, 2560 steps", "less flips", "less moving average", "less BCE beside Dice"} and lower.max() < 0, "as the text says"
gained = last["dice_chosen"] - best(whole.query("step == 1280"))["dice_chosen"]
print("the last doubling gained", ", ".join(f"{arm} {gain:+.2f}" for arm, gain in gained.groupby("arm").mean().items()))

# %% [markdown]
# *Figure 3: Recorded, study `recipes`: Dice at the chosen threshold less that of `fast` after as many steps (1,280 for `fast` less one thing), and of plain at equal
# multiply-adds; a gray dot per seed, the mean with its 95 % interval over seeds and images, black (and starred above) only where that lies beyond 0.*
#
# After as many steps `fast` ends above the original, and no difference between AdamW and Nesterov SGD is shown. *Plain* ends below `fast` for a quarter of
# the multiply-adds; at equal multiply-adds it is ahead. In seconds that gains little, since small layers use a processor badly, and by the rule (the same in the
# end) it does not take `fast`'s place. None has reached its plateau.
#
# Undone, these cost Dice: crops on defects, batches of 4 (of 2 half as many images are seen), and AdamW for SGD of momentum 0.99. That SGD had one rate, 0.01, not
# tuned, so its line says nothing of the optimizer. Whole images in place of crops gain, for four times the work. Flips and the moving average show nothing; BCE
# beside Dice nothing at a chosen threshold, but without it Dice at p > ½ is lower for each seed.

# %% tags=["headline"]
fewer, quicker = (of_fast[name].agg(["min", "max"]) for name in ("95%", "seconds, 95%"))
print(f"untuned rival: {sooner.min():.0f} to {sooner.max():.0f} times sooner; rates of both swept, to 95 %: {quicker.iloc[0]:.0f} to {quicker.iloc[1]:.0f}")

# %% [markdown]
# ## What to remember
#
# - A speed-up is a ratio at a quality. "Times faster" without the target, the images and the clock is not a number.
# - A tuned recipe against an untuned one measures the tuning too. Sweep both, or say so.
# - A newer card and half precision are one factor (computed), another recipe is a second one (recorded, on small networks). Whether the two multiply is
#   open: small steps leave a large card idle.
# - A colour, or a word, for a difference only where it is beyond the spread of the seeds.
#
# ## Exercises
#
# 1. Give section 3 four threads. Which of the two steps gains more, and why?
# 2. Make `fast`'s crops 32×32, then 128×128. How many multiply-adds does a *predicted* pixel cost each time?
# 3. Run `make study ONLY=recipes` with a sixth learning rate for the original.
#
# ## Further reading
#
# - Jordan 2024, [94 % on CIFAR-10 in 3.29 seconds on a single GPU](https://arxiv.org/abs/2404.00498): a recipe as a race.
# - Loshchilov, Hutter 2019, [Decoupled weight decay regularization](https://arxiv.org/abs/1711.05101): AdamW.
# - Smith, Topin 2018, [Super-convergence](https://arxiv.org/abs/1708.07120): one cycle.
# - NVIDIA, [U-Net for PyTorch and TensorFlow: performance](https://github.com/NVIDIA/DeepLearningExamples): the published speeds.
# - Next: [12 · Start from what others learned](12_what_others_learned.ipynb)
