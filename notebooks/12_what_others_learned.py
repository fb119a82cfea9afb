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
# # Start from what others learned
#
# **What does a network reach in a minute if it does not begin with noise?** The original began with random weights and spent 100 hours of
# a GPU. This page begins with weights that come with the library: an encoder that learned on ImageNet's photographs, and a whole network that
# learned on synthetic steel. Thirty steps on six synthetic images, live, show how far ahead of noise each start is (the last line printed says so).
# What that is worth on real steel is the question of the study `pretrained`; section 5 prints what it has recorded so far.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/your--name/steelnb/blob/v0.1.0/notebooks/12_what_others_learned.ipynb)
# [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/your--name/steelnb/blob/v0.1.0/notebooks/12_what_others_learned.ipynb)
#
# | what you will learn | what it needs |
# |---|---|
# | what an encoder that never saw steel makes of a piece of it | a CPU and a minute and a half |
# | what a minute of training adds to it, with six labelled images | 02 and 03 are useful, not needed |
# | how a padded network gives a sheet without seams | synthetic steel, drawn on the spot |
#
# **What on this page is proved, recorded, toy.** Proved: tiles with the network's margin give the whole sheet's answer, up to rounding.
# Recorded: section 5, the study `pretrained` on real images, as far as it is. Toy: the feature maps and the live trainings of sections 2 and
# 3, of seconds, one seed, a few synthetic images. New words are in the [glossary](00_start_here.ipynb).

# %%
# Setup: pip installs steelnb where it is missing, as on Colab; torch and NumPy stay as they are.
import importlib.util, os, subprocess, sys  # isort: skip
if not getattr(importlib.util.find_spec("steelnb"), "origin", None):  # a folder of that name is no package
    source = os.environ.get("STEELNB_SPEC") or sys.exit("no address yet: set STEELNB_SPEC, or make address")
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], capture_output=True, text=True)
    assert done.returncode == 0, f"pip could not install {source}:\n{done.stderr}"

# %%
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from steelnb import runtime, storage
from steelnb.data import dataset, synthetic
from steelnb.evaluation import metrics, recorded
from steelnb.evaluation.bootstrap import mean_interval
from steelnb.figures import borrowed, plots
from steelnb.network import inference, pretrained, weights
from steelnb.network.lite_unet import LiteUNet
from steelnb.training import batches
from steelnb.training.recipes import PRETRAINED
from steelnb.training.trainer import Trainer

plots.use_style()
print(runtime.describe())
folder = Path(tempfile.mkdtemp())
steel = dataset.read_dataset(synthetic.write_dataset(folder / "steel", 32, seed=3, shape=(256, 640), progress=False))
print(steel.describe())

# %% [markdown]
# ## 1 · What is in the box
#
# Two files travel with the library; nothing is downloaded. The first is the stem and the first eleven blocks of EfficientNet-Lite0, trained by
# Google on ImageNet's 1.3 million labelled photographs (Apache-2.0). The second is a whole U-Net on that encoder, trained further on 1,600
# *synthetic* images of steel: no real image of steel had a part in it, so it can be given away. What they are, how they were made and how
# good they are stands in their card, `steelnb/network/files/CARD.md`.

# %% tags=["nbval-check-output"]
card = (pretrained.FILES / "CARD.md").read_text(encoding="utf-8")
for path in (pretrained.ENCODER, pretrained.STEEL):
    digest = storage.sha256(path.read_bytes())
    assert digest in card, f"{path.name} is not the file that the card describes"
    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, SHA-256 {digest[:16]}…, as its card says")
network = LiteUNet()
in_encoder, in_all = (sum(weight.numel() for weight in part.parameters()) for part in (network.encoder, network))
print(f"LiteUNet: {in_all / 1e6:.2f} million weights, {in_encoder / 1e6:.2f} million of them in the encoder; the original: 31 million")

# %% [markdown]
# ImageNet's images are coloured and steel is gray. A first layer that is given the same gray three times computes with the sum of its weights
# over the colours, so the library sums them once: the same function of one channel.
#
# ## 2 · What does an encoder see that never saw steel?
#
# **Predict.** The encoder learned to tell dogs from boats. It is shown a sheet with a scratch. Will any of its 112 deepest maps stand out where the
# defect is? And if the same layers have *random* weights: will none?
#
# A *stride* of 16 means that a map has one cell for 16 × 16 pixels. A map separates a defect if its values there differ from those elsewhere. The
# measure is the area under the ROC curve (AUC): the chance that a cell of the defect has the higher value than one beside it; 0.5 is no
# separation, and below 0.5 the map is counted upside down.


# %%
def separation(maps, mask):
    """AUC of each map, [C, h, w], between the cells of the defect and all others, 0.5 … 1."""
    height, width = maps.shape[1:]
    inside = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(mask)[None].float(), (height, width))[0] > 0.5
    ranks = maps.flatten(1).argsort(1).argsort(1).double() + 1
    yes, no = int(inside.sum()), int((~inside).sum())
    auc = (ranks[:, inside.flatten()].sum(1) - yes * (yes + 1) / 2) / (yes * no)
    return torch.maximum(auc, 1 - auc)


def features(start, image):
    """The encoder's maps at strides 2, 4, 8 and 16 of an image, uint8 [H, W], with what `start` fills in."""
    torch.manual_seed(0)
    model = LiteUNet()
    pretrained.start(model, start)
    seen = []
    model.encoder.register_forward_hook(lambda module, given, maps: seen.extend(maps))
    with torch.inference_mode():
        model.eval()(torch.from_numpy(image)[None, None].float() / 255)
    return [maps[0] for maps in seen]


defective = [name for name in steel.images["ImageId"] if steel.mask(name).any()]
lit = [name for name in defective if steel.image(name).mean(0).min() > 20]  # a black band beside the strip would be all that a map shows
large = sorted(lit, key=lambda name: -steel.mask(name).sum())[:6]
image, mask = steel.image(large[0]), steel.mask(large[0])
maps = {start: features(start, image) for start in ("noise", "imagenet", "steel")}

# %%
borrowed.draw_features(image, mask, {"random weights": maps["noise"][-1], "from ImageNet": maps["imagenet"][-1]}, separation)
plt.show()

# %% [markdown]
# *Figure 1: A sheet of synthetic steel with its defects outlined, and of the 112 deepest maps (stride 16) of each encoder the one that separates
# them best, with its AUC. Dark and bright are low and high; each map on its own scale. Neither encoder has seen steel.*

# %%
rows = []
for name in large:
    for start in maps:
        found = features(start, steel.image(name))
        rows += [{"start": start, "stride": 2 ** (k + 1), "AUC": float(separation(level, steel.mask(name)).max())}
                 for k, level in enumerate(found)]
best = pd.DataFrame(rows).dropna().groupby(["start", "stride"], sort=False)["AUC"].mean().unstack("stride").round(2)
print(f"AUC of the best map, mean over {len(large)} images with large defects, lit all over:")
print(best.to_string())
ahead = best.loc["imagenet"] - best.loc["noise"]
assert best.loc["noise"].min() > 0.6 and ahead[2] < 0 and ahead[4] < 0 and abs(ahead[8]) < 0.05 < ahead[16], "the text below says so"

# %% [markdown]
# *Random* layers do not fail: some of their maps brighten where the steel is dark, and a map chosen after looking is flattered, the more maps
# there are. So what a trained encoder has to beat is the row *noise*, not 0.5. It loses at strides 2 and 4, ties at 8, and wins at the deepest
# level only. What the maps are worth together, a training has to show.
#
# ## 3 · A minute of training, live
#
# The same network, the same images, the same steps, from three starts: *noise* (random weights), *imagenet* (the encoder alone, its decoder
# random), *steel* (all of it). Recipe `pretrained`: half Dice half cross entropy, AdamW, one cycle, flips, brightness; the encoder learns at
# a sixth of the rate, from noise at the full one. Crops and batch are smaller than the recipe's, to fit into seconds. There are six labelled
# images to learn from; eight others are scored.
#
# **Predict.** After 30 steps: who is ahead? And does the start that already knows synthetic steel gain or lose by them?

# %%
STEPS, POINTS, CPU = 30, (15, 30), torch.device("cpu")
torch.set_num_threads(1)
small = PRETRAINED.changed(crop=(160, 160), batch=4, validation=0.01)
held_out, to_train_on = defective[:8], defective[8:14]
clean = [name for name in steel.images["ImageId"] if name not in defective][:4]
assert len(to_train_on) == 6 and not set(held_out) & set(to_train_on)


def scores(model):
    """Mean hard Dice at p > ½ on the held-out images, and the share of clean ones with an alarm."""
    masks = {name: inference.predict_probabilities(model, steel.image(name)) > 0.5 for name in held_out + clean}
    dice = [metrics.dice(masks[name][None], steel.mask(name)[None, None], empty="skip").item() for name in held_out]
    return float(np.mean(dice)), float(np.mean([masks[name].any() for name in clean]))


def trained(start):
    """The scores before, halfway and at the end."""
    recipe = small.changed(start=start, encoder_rate=1.0 if start == "noise" else small.encoder_rate)
    items = [batches.Item(name) for name in to_train_on]
    samples, _ = batches.training_and_validation_samples(steel, recipe, 0, (items, items[:1]))
    trainer, rows, epoch = Trainer(recipe, 1, STEPS, 0, CPU), [], 0
    rows.append((0, *scores(trainer.averaged)))
    while trainer.steps < STEPS:
        trainer.begin()
        for batch in batches.iter_batches(samples, recipe, epoch):
            trainer.step(*batch)
            if trainer.steps in POINTS:
                rows.append((trainer.steps, *scores(trainer.averaged)))
                trainer.begin()
            if trainer.steps == STEPS:
                break
        epoch += 1
    return pd.DataFrame(rows, columns=["step", "dice", "alarms"]).assign(start=start)


began = time.process_time()
live = pd.concat([trained(start) for start in ("noise", "imagenet", "steel")])
print(f"{time.process_time() - began:.0f} s of the processor for three trainings and their scores")

# %%
borrowed.draw_starts(live, f"{STEPS} steps on six labelled images, live")
plt.show()

# %% [markdown]
# *Figure 2: Mean Dice at p > ½ on eight held-out synthetic images over training steps, from three starts, with six labelled images; one seed, so a
# difference of a few hundredths says nothing.*

# %%
print(live.pivot(index="start", columns="step", values="dice").round(2).to_string())
at_end = live[live["step"] == STEPS].set_index("start")
print(f"of {len(clean)} clean images with an alarm at the end:", ", ".join(f"{start} {share * len(clean):.0f}" for start, share in at_end["alarms"].items()))
gained = at_end.loc["steel", "dice"] - live.query("start == 'steel' and step == 0")["dice"].item()
print(f"`steel` gained {gained:+.2f} by its 30 steps")

# %% [markdown]
# ## 4 · The sheet without seams
#
# Page 02 tiles a *valid* network: its output shrinks, so nothing unseen is ever guessed. This one is padded with zeros. Zeros at a tile's edge are not
# steel, and the network treats them as if they were. The same rule mends it: give each tile its *margin* of real surroundings, start it on the
# grid of strides, and throw the margin's answer away. For this network 208 pixels are exact; what a smaller margin costs can be measured.

# %%
shipped = weights.load_network(pretrained.STEEL).model
sheets = (synthetic.draw(9, index, (256, 800)) for index in range(60))
sheet = next(s for s in sheets if 0.02 < s.masks.mean() * 4 < 0.1 and s.image.mean(0).min() > 20)
picture, truth = sheet.image, sheet.masks.any(0)
whole = inference.predict_probabilities(shipped, picture, picture.shape)[0]
errors = inference.margin_errors(shipped, picture, (0, 32, 64, 96, 208), tile=256)
exact = shipped.grid
shipped.grid = inference.grid_with_margin(shipped, 0)
padded = inference.predict_probabilities(shipped, picture, 256)[0]
shipped.grid = exact
mirrored = np.concatenate([inference.predict_probabilities(shipped, picture[:, left : left + 256])[0] for left in range(0, 800, 256)], axis=1)
print("largest difference of a probability from the whole sheet's:")
for margin, error in errors.items():
    print(f"{error:8.1g}   with a margin of {margin} px")
print(f"{np.abs(mirrored - whole).max():8.1g}   without a margin, each tile mirrored by 32 px as if it were an image")
assert errors[208] < 1e-5 < errors[0] and np.isclose(np.abs(padded - whole).max(), errors[0])

# %%
borrowed.draw_sheet(picture, truth, whole, padded)
plt.show()

# %% [markdown]
# *Figure 3: A synthetic sheet of 256×800 with what the shipped weights find on it: found in green, missed in orange, false alarms in pink; below,
# by how much tiles of 256 without a margin differ from the whole (black: most): where the network is in doubt, up to 208 pixels from a seam. With the
# margin of 208 the difference is rounding.*
#
# A mirrored edge resembles steel, so it does less harm than zeros; the margin does none, and costs arithmetic. `predict --margin` chooses.
#
# ## 5 · What the record says about real steel
#
# **Recorded**: study `pretrained` gives recipes the same seconds of one thread, on the 900 real images of SD-saliency-900 (720 to train on, 180
# scored) and on 45 real Severstal images in five folds. Arm `synthetic` is the shipped weights without any training on real images.

# %%
study = recorded.records("pretrained")
FOLDS = {"severstal": 5, "saliency": 1}
rows = []
for (data, arm, seconds, seed), cells in study.groupby(["data", "arm", "seconds", "seed"], sort=False):
    if len(cells) == FOLDS[data]:
        dices = np.concatenate([np.array(each, float) for each in cells["image_dices"]])
        clean_peaks = np.concatenate([np.array(each, float) for each in cells["clean_peaks"]])
        alarms = (clean_peaks > 0.5).mean() if len(clean_peaks) else np.nan
        rows.append({"data": data, "arm": arm, "seconds": seconds, "seed": seed, "images": len(dices), "dice": dices.mean(), "alarms": alarms})
real = pd.DataFrame(rows)
print(real.groupby(["data", "arm", "seconds"], sort=False).agg(
    seeds=("seed", "nunique"), images=("images", "first"), dice=("dice", "mean"), alarms=("alarms", "mean")).round(3).to_string())
untrained = real[real["arm"] == "synthetic"].iloc[0]
wanted = {("saliency", arm, 600) for arm in ("pretrained", "smoke", "fast", "steel", "noise")}
wanted |= {("severstal", arm, 300) for arm in ("pretrained", "steel", "fast", "smoke")}
have = wanted & set(real[["data", "arm", "seconds"]].itertuples(index=False, name=None))
print(f"\n{len(have)} of the {len(wanted)} planned trainings on real steel are recorded with one seed or more")

# %%
if have:
    borrowed.draw_recorded(real)
    plt.show()
else:
    print("no start can be compared with another on real steel yet")

# %% [markdown]
# *Recorded, and drawn as soon as there is more than one arm: mean hard Dice at p > ½ over real images with a defect, none of which the network was
# trained on; a dot per seed, a row per arm and number of seconds.*
#
# The decision rule was written before the first record: recipe `pretrained` becomes the default of `train` if it is above `smoke` and `fast` on both
# sets for every seed, and the interval over seeds and images lies above 0.
#
# ## 6 · Beside 100 hours and 0.63
#
# The original reached Dice 0.63 on its validation part of Severstal, after 100 hours on a GPU and some 5,676 labelled rows of it. The shipped weights saw
# no real image of steel at all:

# %%
dices = np.concatenate([np.array(each, float) for each in study.query("data == 'severstal' and arm == 'synthetic'")["image_dices"]])
_, low, high = mean_interval(dices)
print(f"shipped weights, no real image seen: Dice {untrained['dice']:.2f} [{low:.2f}–{high:.2f}]\n"
      f"on {untrained['images']} real Severstal images with a defect; alarms on {untrained['alarms']:.0%} of 15 clean ones")
assert f"Dice {untrained['dice']:.2f} [" in card
assert untrained["alarms"] == 1, "the text below says that every clean image raises an alarm"

# %% [markdown]
# Three things keep that from being a comparison. The images are not the original's validation images, and thirty are few. Its convention was
# label rows (page 10), ours whole images. And "no hours" is bookkeeping: ImageNet's labels and the encoder's training were paid for by
# others, at a cost far beyond 100 hours. That is the point of borrowing: it is paid *once*, and what one has to add for
# steel is what the study measures.
#
# What that number hides: every one of the 15 clean images raises an alarm. As a start for a training on your own images this may serve; as an
# inspection it does not.
#
# ```
# python -m steelnb train --data steel --run run --recipe pretrained
# ```

# %% tags=["headline"]
ends = live[live["step"] == STEPS].set_index("start")["dice"]
print(f"{STEPS} steps, six images: Dice {ends['steel']:.2f} from steel, {ends['imagenet']:.2f} ImageNet, {ends['noise']:.2f} noise; "
      f"real steel, untrained: {untrained['dice']:.2f}")

# %% [markdown]
# ## What to remember
#
# - A start from others' weights costs nothing to try, ; whether it is worth most where labels are few is the question of the study
#   `how_many_masks`, not recorded yet.
# - A picture of a feature map proves nothing: among a hundred maps, random ones too, some lights up where the defect is.
# - A gain on images of the kind that the start was trained on is no evidence for another kind. Score where you will work.
# - A padded network is seamless too, if each tile carries its margin and starts on the grid of strides.
#
# ## Exercises
#
# 1. Freeze the encoder (`encoder_rate=0`). How much of the lead is left with 2 masks, how much with 6?
# 2. Train from noise four times as long. Does it catch up, with 6 masks and with 2?
# 3. Give your own images in place of the synthetic ones (`sources.open_dataset(folder)`). Is *steel* still ahead of *imagenet*?
#
# ## Further reading
#
# - Tan, Le 2019, [EfficientNet](https://arxiv.org/abs/1905.11946); the Lite variants leave out squeeze-and-excitation.
# - Yosinski et al. 2014, [How transferable are features in deep neural networks?](https://arxiv.org/abs/1411.1792)
# - He, Girshick, Dollár 2019, [Rethinking ImageNet pre-training](https://arxiv.org/abs/1811.08883): with enough data and time noise catches up.
# - Back to the start: [00 · Start here](00_start_here.ipynb)
