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
# # The failure clinic: black masks, a Dice of 1.9, a loss of −1000
#
# **My masks are black, my Dice is 1.9, my loss is −1000: what is wrong?** Probably not the network. Each of these numbers
# belongs to one mistake in the masks, the activation, a sum or the way of scoring. Find the symptom in the table and
# follow its link: a cell there causes the symptom on purpose, measures it, and measures it again with the mistake repaired.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/your--name/steelnb/blob/v0.1.0/notebooks/08_failure_clinic.ipynb)
# [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/your--name/steelnb/blob/v0.1.0/notebooks/08_failure_clinic.ipynb)
#
# | what you will learn | what it needs |
# |---|---|
# | how sixteen mistakes look, what causes each, and how to repair it | a CPU, a minute; nothing is downloaded |
# | which of the repairs a study on real steel bears out, with how many seeds | the records that come with steelnb |
#
# | what you see | cause | repair |
# |---|---|---|
# | **a number that cannot be** | | |
# | [Dice above 1, up to 1.99; a Dice loss below 0](#dice-above-1) | the mask is 0/255 | `mask > 0` |
# | [a loss far below 0, −1000](#loss-below-0) | Dice on outputs without a sigmoid | a loss on logits |
# | [NaN, or a Dice loss of exactly 1, in half precision](#nan) | sums or logarithms in float16 | sums in float32, BCE on logits |
# | **outputs that do not change** | | |
# | [every mask black](#all-black) | all probabilities below ½, the training is young | choose a threshold, train longer |
# | [every mask white](#all-white) | the mask is 0/255; or Dice's first steps | `mask > 0`; train longer |
# | [no probability below 0.5](#stuck-at-half) | two sigmoids, in the network and in the loss | one |
# | [Dice stays at 0.5](#dice-stuck) | nothing is found, half of the images are clean and count 1 | score the defective images |
# | [the loss changes with the batch, never with the step](#no-gradient) | a threshold before the loss | none in training |

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

from steelnb import losses
from steelnb.data import sources, splits
from steelnb.evaluation import metrics
from steelnb.figures import narrow, plots
from steelnb.losses import broken
from steelnb.training import loss_trials

plots.use_style()
table = {}  # symptom: the number with the fault and without it


def row(symptom, faulty, sound):
    table[symptom] = float(faulty), float(sound)
    print(f"{symptom}: {float(faulty):.4g}; without the fault {float(sound):.4g}")


# %% [markdown]
# <a id="dice-above-1"></a>
# ## 1 · Dice is 1.99, the Dice loss is negative
#
# A mask read from a PNG file is often 0 and 255. Dice is 2Σpt / (Σp + Σt): with t = 255 its numerator is 255 times too large,
# its denominator by less. The right mask scores nearly 2, and so does calling everything a defect, so a network trained
# with it turns white ([symptom 5](#all-white)). Between the two the loss lies from 0 to −0.99.
#
# **Repair:** `mask > 0` where masks are read. Assert it there: `assert mask.max() <= 1`.

# %%
mask = torch.zeros(1, 1, 256, 1600)
mask[..., 60:160, 400:646] = 1  # 6 % of a whole image
right, white, black = 12 * mask - 6, torch.full_like(mask, 6.0), torch.full_like(mask, -6.0)
found = {}
for name, outputs in {"the right mask": right, "all white": white, "all black": black}.items():
    found[name] = [1 - loss(outputs, mask).item() for loss in (broken.byte_mask_dice_loss, losses.dice_loss)]
    row(f"Dice of {name}, mask 0/255", *found[name])
assert found["the right mask"][0] > 1.9 > 1 > found["the right mask"][1]
assert found["all white"][0] > 1.8 and found["all white"][1] < 0.2

figure, (ax,) = narrow.panels(1.9)
narrow.before_after(ax, found, "Dice as computed; the line is the most it can be", limit=1)
plt.show()

# %% [markdown]
# *Figure 1: Dice of three outputs against a mask of 0 and 255, and against the same mask of 0 and 1. With the fault, all white
# scores as well as the truth.*
#
# <a id="loss-below-0"></a>
# ## 2 · The loss is −1000
#
# Dice on outputs that can be negative has a pole where Σx = −Σt. On its left numerator and denominator are both
# negative, their ratio is a large positive "Dice", and the loss falls without end. Notebook
# [06](06_negative_dice.ipynb) is about this one alone.
#
# **Repair:** a loss that takes logits and applies the sigmoid itself.

# %%
below_pole = torch.full_like(mask, -0.0604)  # the pole is at −0.06006
row("loss of a constant output of −0.0604", broken.raw_dice_loss(below_pole, mask), losses.dice_loss(below_pole, mask))
row("the same at −0.060066", *(loss(torch.full_like(mask, -0.060066), mask)
                               for loss in (broken.raw_dice_loss, losses.dice_loss)))
assert broken.raw_dice_loss(below_pole, mask) < -10 and losses.dice_loss(below_pole, mask) >= 0

figure, (ax,) = narrow.panels(2.2)
at = np.r_[np.linspace(-0.2, -0.0602, 60), np.nan, np.linspace(-0.0598, 0.2, 60)]
for loss, colour, name in ((broken.raw_dice_loss, narrow.BROKEN, "no sigmoid"), (losses.dice_loss, narrow.MENDED, "sigmoid")):
    values = [loss(torch.full((1, 1, 32, 200), x), mask[..., ::8, ::8]).item() if x == x else x for x in at]
    ax.plot(at, values, color=colour, label=name)
ax.axhspan(-6, 0, color=plots.FAINT, alpha=0.25, lw=0)
ax.set(ylim=(-6, 8), xlabel="the output of every pixel", ylabel="Dice loss")
narrow.legend(ax)
plt.show()

# %% [markdown]
# *Figure 2: Dice loss of one constant output, with and without a sigmoid. No Dice loss lies in the gray part.*
#
# <a id="nan"></a>
# ## 3 · NaN in half precision, or a loss of exactly 1
#
# float16 ends at 65,504; a whole image has 409,600 pixels. Once Σp + Σt overflows, Dice is finite over infinite: the loss
# is exactly 1 and has no gradient. Once the numerator overflows too it is NaN. Small crops fit, so a test on crops
# passes. Cross entropy written with `log(1 − p)` gives NaN as soon as one p rounds to 1, in float16 from a logit of 8.3.
#
# **Repair:** sum in float32 (`logits.float()`), cross entropy on logits. Autocast does neither for a loss of your own.

# %%
ones, unsure = torch.ones_like(mask), right / 3  # probabilities of 0.12 and 0.88
row("Dice loss of a fair guess, float16", broken.half_dice_loss(unsure, mask), losses.dice_loss(unsure, mask))
row("Dice loss of a full mask, float16", broken.half_dice_loss(right.abs(), ones), losses.dice_loss(right.abs(), ones))
assert broken.half_dice_loss(right.abs(), ones).isnan() and broken.half_dice_loss(unsure, mask) == 1
assert losses.dice_loss(right.abs(), ones) < 0.01 and losses.dice_loss(unsure, mask) < 0.7
sure = torch.full((1, 1, 1, 1), 9.0, dtype=torch.float16)
row("BCE of a sure and right pixel, float16", broken.probability_bce_loss(sure, sure > 0), losses.bce_loss(sure, sure > 0))
assert broken.probability_bce_loss(sure, sure > 0).isnan() and losses.bce_loss(sure, sure > 0) < 1e-3

# %%
figure, (top, bottom) = narrow.panels(1.7, 1.7)
widths = np.arange(100, 1601, 50)
for loss, colour, name in ((broken.half_dice_loss, narrow.BROKEN, "float16"), (losses.dice_loss, narrow.MENDED, "float32")):
    values = [loss(torch.full((1, 1, 256, int(n)), -1.0), torch.ones(1, 1, 256, int(n))).item() for n in widths]
    top.plot(256 * widths, values, color=colour, label=name)
top.set(xlabel="pixels in the sum (p = 0.27, all defect)", ylabel="Dice loss", ylim=(0, 1.1))
narrow.legend(top)
logits = torch.arange(0, 16.1, 0.1)
for loss, colour, kind in ((broken.probability_bce_loss, narrow.BROKEN, torch.float16),
                           (losses.bce_loss, narrow.MENDED, torch.float16)):
    each = [loss(x.view(1, 1, 1, 1).to(kind), torch.zeros(1, 1, 1, 1)).item() for x in logits]
    bottom.plot(logits, each, color=colour, lw=2)
bottom.set(xlabel="logit of one wrong pixel", ylabel="cross entropy", ylim=(0, 17))
plt.show()

# %% [markdown]
# *Figure 3: Above, Dice loss over the number of pixels: in float16 it jumps to 1 and stays there. Below, cross entropy of a false
# alarm: written with log(1 − p) in float16 it ends (is infinite) at a logit of 8.3.*
#
# ## The patient for the next two: a network of seconds
#
# A small U-Net on crops of synthetic steel, 80 steps. Three parts by image: it learns from *train*, thresholds are chosen
# on *choose*, and what is shown is of *report*. Nothing here says how good a network can be.

# %%
steel = sources.open_dataset("synthetic", images=64, progress=False)
SMALL, MODEL, CPU = dict(size=(24, 24), shrink=8, depth=1), dict(width=8, depth=1), torch.device("cpu")
sides = splits.by_image(steel, 0.5)
rest = splits.by_image(steel.subset(sides.validation), 0.5)
train, choose, report = (
    loss_trials.crops(steel.subset(ids), count, clean=0.25, seed=seed, **SMALL)
    for seed, (ids, count) in enumerate([(sides.train, 96), (rest.train, 60), (rest.validation, 60)])
)


def fit(loss, steps=80, **options):
    options = dict(steps=steps, every=steps, decay=True, model=MODEL, device=CPU) | options
    return loss_trials.trial(loss, train, choose, **options)


print(f"{steel.name}: {len(train.masks)}, {len(choose.masks)} and {len(report.masks)} crops, {train.share:.1%} defect")

# %% [markdown]
# <a id="all-black"></a>
# ## 4 · Every mask is black
#
# With 5 % of defect, cross entropy first makes everything improbable; the defect becomes *more* probable than the rest long
# before it becomes more probable than ½. Such a network is silent, and may still rank the pixels: notebook
# [05](05_bce_imbalance.ipynb).
#
# **Repair:** look at the probabilities, choose the threshold on other images, then train longer. If they are all equal,
# and stay so, the network has learnt nothing: look at the gradient ([symptom 8](#no-gradient)).

# %%
silent = fit(losses.bce_loss, steps=64).model
at_choose, at_report = (loss_trials.logits(silent, part) for part in (choose, report))
candidates = at_choose.quantile(torch.linspace(0.5, 0.999, 60)).tolist()
mean_dice = [metrics.dice(at_choose > each, choose.masks, empty="skip").nanmean().item() for each in candidates]
chosen = candidates[int(np.argmax(mean_dice))]
half, mended = (metrics.dice(at_report > each, report.masks, empty="skip").nanmean() for each in (0.0, chosen))
row(f"Dice of a silent network at p > ½ (then at p > {1 / (1 + np.exp(-chosen)):.2f})", half, mended)
inside, outside = (at_report[report.masks == kind].median().item() for kind in (True, False))
assert half < 0.1 and mended > half + 0.1 and inside > outside

places = report.masks.flatten(1).sum(1).argsort(descending=True)[:2]
margin = (report.windows.shape[-1] - report.masks.shape[-1]) // 2
scenes = []
for place in places:
    image = report.windows[place, 0, margin:-margin, margin:-margin].numpy()
    named = {"mask": report.masks[place, 0], "p > ½": at_report[place, 0] > 0, "p > chosen": at_report[place, 0] > chosen}
    scenes.append({"steel": np.kron(image, np.ones((5, 5), np.uint8))} | {
        name: narrow.outline(image, each.numpy(), plots.DEFECT if name == "mask" else plots.PREDICTION)
        for name, each in named.items()})
narrow.pictures(scenes)
plt.show()

# %% [markdown]
# *Figure 4: Two crops of* report*: black at ½, and the same network at a threshold chosen on other images.*
#
# <a id="all-white"></a>
# ## 5 · Every mask is white
#
# Masks of 0 and 255 again: the overlap counts 255 times, a false alarm once, so calling everything a defect is nearly the
# best answer ([symptom 1](#dice-above-1)). Sound Dice, or a large weight, can look like this in the first steps and leaves
# it.
#
# **Repair:** `mask > 0`. With sound masks: train longer before you judge.

# %%
flooded, sound = (fit(loss, steps=40).model for loss in (broken.byte_mask_dice_loss, losses.dice_loss))
answers = [loss_trials.logits(each, report) > 0 for each in (flooded, sound)]
row("share called defect, masks 0/255", *(each.float().mean() for each in answers))
print(f"defect in truth: {report.share:.3f}")
assert answers[0].float().mean() > 2 * answers[1].float().mean()

scenes = []
for place in places:
    image = report.windows[place, 0, margin:-margin, margin:-margin].numpy()
    named = {"mask": report.masks[place, 0], "trained on 0/255": answers[0][place, 0], "on 0/1": answers[1][place, 0]}
    scenes.append({name: narrow.outline(image, each.numpy(), plots.DEFECT if name == "mask" else plots.PREDICTION)
                   for name, each in named.items()})
narrow.pictures(scenes)
plt.show()

# %% [markdown]
# *Figure 5: The same two crops after 40 steps with Dice loss, on masks of 0 and 255 and on masks of 0 and 1.*
#
# <a id="stuck-at-half"></a>
# ## 6 · No probability below 0.5
#
# The network ends in a sigmoid, and the loss applies another: sigmoid(sigmoid(x)) lies between 0.5 and 0.73, so nothing can
# be called improbable, and the loss cannot come near 0.
#
# **Repair:** one sigmoid. The losses here take logits; a network that ends in a sigmoid goes with none of them.


# %%
def best_constant_pair(loss):
    """The lowest loss that one logit for the defect and one for the background can reach, and their probabilities."""
    x = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([x], 0.5)
    for _ in range(60):
        value = loss(torch.where(mask[..., ::8, ::8] > 0, x[0], x[1]), mask[..., ::8, ::8])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return value.item(), x.detach().sigmoid()


twice, p_twice = best_constant_pair(lambda x, t: losses.dice_loss(x.sigmoid(), t))
once, p_once = best_constant_pair(losses.dice_loss)
row("lowest Dice loss, sigmoid twice", twice, once)
row("lowest probability of background, sigmoid twice", p_twice[1].sigmoid(), p_once[1])
assert twice > 0.8 and once < 0.05 and p_twice[1].sigmoid() >= 0.5 and p_once[1] < 0.05

x = torch.linspace(-8, 8, 100)
figure, (ax,) = narrow.panels(1.9)
ax.plot(x, x.sigmoid().sigmoid(), color=narrow.BROKEN, label="sigmoid twice")
ax.plot(x, x.sigmoid(), color=narrow.MENDED, label="once")
ax.set(xlabel="logit", ylabel="probability", ylim=(0, 1))
narrow.legend(ax)
plt.show()

# %% [markdown]
# *Figure 6: What a logit becomes. After two sigmoids no pixel is below 0.5.*
#
# <a id="dice-stuck"></a>
# ## 7 · Dice stays at 0.5
#
# Kaggle's rule gives a clean image with an empty mask the score 1. With half of the images clean, a network that finds nothing
# scores 0.5, and starts there.
#
# **Repair:** score the defective images alone, and count false alarms on the clean ones beside it.

# %%
half_clean = torch.zeros(10, 1, 8, 8, dtype=torch.bool)
half_clean[:5, :, :3, :3] = True
nothing = torch.zeros_like(half_clean)
by_rule = {rule: metrics.dice(nothing, half_clean, empty=rule).flatten() for rule in ("one", "skip")}
row("Dice of all black, half of the images clean", by_rule["one"].mean(), by_rule["skip"].nanmean())
assert by_rule["one"].mean() == 0.5 and by_rule["skip"].nanmean() == 0

figure, (ax,) = narrow.panels(1.7)
for rule, colour, name, size in (("one", narrow.BROKEN, "empty counts 1", 60), ("skip", narrow.MENDED, "empty left out", 20)):
    ax.scatter(range(1, 11), by_rule[rule], color=colour, s=size, label=f"{name}: mean {by_rule[rule].nanmean():.1f}")
ax.set(xlabel="image (6 to 10 are clean)", ylabel="Dice", ylim=(-0.1, 1.1), xticks=range(1, 11))
narrow.legend(ax)
plt.show()

# %% [markdown]
# *Figure 7: Ten images, ten empty predictions.*
#
# <a id="no-gradient"></a>
# ## 8 · The loss changes with the batch, never with the step
#
# A comparison has no derivative. `backward()` says so, unless `requires_grad_(True)` on its result hides the error, as the
# original did ([06](06_negative_dice.ipynb)): then no weight has a gradient, and the loss differs only because the
# batches differ.
#
# **Repair:** no threshold before the loss. After the first `backward()`: `assert all(w.grad is not None for w in
# model.parameters())`.


# %%
def learn(loss, steps=60):
    """Losses of a convolution that looks at single pixels, and how many of its two weights have a gradient."""
    torch.manual_seed(0)
    model, values = torch.nn.Conv2d(1, 1, 1), []
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    for step in range(steps):
        batch = slice(8 * (step % 4), 8 * (step % 4) + 8)
        value = loss(model(-8 * train.masks[batch].float() + 4), train.masks[batch])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    return values, sum(weight.grad is not None for weight in model.parameters())


(still, without), (falling, with_gradient) = learn(broken.original_thresholded_dice_loss), learn(losses.original_dice_loss)
row("weights with a gradient, of two", without, with_gradient)
assert without == 0 and with_gradient == 2 and np.ptp(still[::4]) == 0 and falling[-1] < falling[0]

figure, (ax,) = narrow.panels(1.9)
ax.plot(still, color=narrow.BROKEN, label="threshold in the loss")
ax.plot(falling, color=narrow.MENDED, label="sigmoid")
ax.set(xlabel="step (four batches in turn)", ylabel="Dice loss")
narrow.legend(ax)
plt.show()

# %% [markdown]
# *Figure 8: One convolution, four batches in turn. With a threshold in the loss each batch has the same loss each time.*
#
# ## All of them once more

# %% tags=["nbval-check-output"]
for symptom in ("Dice of the right mask, mask 0/255", "loss of a constant output of −0.0604",
                "Dice loss of a fair guess, float16", "BCE of a sure and right pixel, float16",
                "lowest probability of background, sigmoid twice", "Dice of all black, half of the images clean"):
    print("{}: {:.2f} → {:.2f}".format(symptom, *table[symptom]))

# %% tags=["headline"]
print(f"{len(table)} numbers with a fault and without it: Dice {found['the right mask'][0]:.2f} → "
      f"{found['the right mask'][1]:.2f}, loss {table['loss of a constant output of −0.0604'][0]:.0f} → 0.9")

# %% [markdown]
# ## Remember
#
# - Look at the masks first (`mask.unique()`), then at the logits (`min`, `max`), then at the gradient, then at the score's rule.
#
# Next: [09 · How do I train for 100 hours on sessions that end?](09_hundred_hours.ipynb)
