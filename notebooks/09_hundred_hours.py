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
# # A hundred hours on sessions that end
#
# **How do I train for 100 hours where a session ends after some hours?** Write down, often and so that no kill can spoil
# it, *everything* that the next step depends on, and begin every session by looking for it. Then a killed run ends with the
# same weights as one that was never stopped: not similar ones, the same bits. This page shows a recorded run of 25 sessions
# (1.7 hours), and kills one live.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/your--name/steelnb/blob/v0.1.0/notebooks/09_hundred_hours.ipynb)
# [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/your--name/steelnb/blob/v0.1.0/notebooks/09_hundred_hours.ipynb)
#
# | what you will learn | what it needs |
# |---|---|
# | what the original's three curves look like in a run of many sessions | a CPU and a minute or two; to train for real, a GPU and days |
# | what a checkpoint must hold, and what forgetting a part of it costs | for Colab: room on Google Drive for four checkpoints, 0.25 GB each at the original's size |
# | how to write a file that a kill cannot spoil; how often to write it | |
#
# The [original](https://github.com/dosp0911/Steel_image_Segmentation) trained for 100 hours on one Tesla P100 in Colab. It saved weights, optimizer and epoch, and its `load_model` brought back the weights alone
# ([`util.py` at 6569714](https://github.com/dosp0911/Steel_image_Segmentation/blob/6569714edf511b2a5e9eb8e1cdeccab56f1b7337/util.py)).
#
# **What on this page is proved, recorded, toy.** Proved: a killed run ends with the same bits (here, and in the tests), and a file is old
# or new whichever line is the last to run. Recorded: the long run (study `long_run`, one seed) and what forgetting costs in Dice (study
# `resume`, ten seeds). Toy: the distances of section 2, of 40 steps. What 100 hours on a GPU *reach* is not
# claimed. New words are in the [glossary](00_start_here.ipynb).

# %%
# Setup: pip installs steelnb where it is missing, as on Colab; torch and NumPy stay as they are.
import importlib.util, os, subprocess, sys  # isort: skip
if not getattr(importlib.util.find_spec("steelnb"), "origin", None):  # a folder of that name is no package
    source = os.environ.get("STEELNB_SPEC") or sys.exit("no address yet: set STEELNB_SPEC, or make address")
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], capture_output=True, text=True)
    assert done.returncode == 0, f"pip could not install {source}:\n{done.stderr}"

# %%
import copy
import json
import os
import subprocess
import sys
import textwrap
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from steelnb import runs, runtime, storage
from steelnb.data import sources
from steelnb.evaluation import recorded
from steelnb.figures import long_run, plots, run_progress, widgets
from steelnb.network import weights
from steelnb.runs import checkpoints, intervals, kill_points
from steelnb.training import batches
from steelnb.training.recipes import MODERN, ORIGINAL, SMOKE
from steelnb.training.trainer import Trainer
from steelnb.training.validation import logits_and_mask

plots.use_style()
print(runtime.describe())
DRIVE = False  # on Colab True: the run lives on your Google Drive, and STEELNB_DATA may name an archive there
runs_folder = runtime.drive_folder() / "runs" if DRIVE else runtime.runs_folder()
data = sources.open_dataset(progress=False)
print(data.describe())

# %% [markdown]
# ## 1 · The hundred hours, in small
#
# **Recorded**: the study `long_run` trains recipe `original` (Dice loss, SGD with momentum 0.99, batches of 2, the original's geometry,
# no augmentation) on 298 of the 900 real images of
# [SD-saliency-900](https://github.com/SongGuorong/MCITF), at width 4 instead of 64, for 200 epochs. Its sessions are ended in turn by
# SIGTERM (a request, which the training obeys after its next step), by SIGKILL (the process ends at once) and by their own budget of
# time. One seed: an example, not an estimate. An *arm* is one of the variants that a study compares; this one is arm `original`.

# %%
history, sessions = (recorded.csv(f"long_run-original-{kind}") for kind in ("history", "sessions"))
assert list(history["epoch"]) == list(range(1, 201)), "an epoch is missing, or stands there twice"
assert (sessions["from_step"].to_numpy()[1:] == sessions["to_step"].to_numpy()[:-1]).all(), "a session did not go on where one ended"
assert len(sessions) == 25 and round(sessions["hours"].sum(), 1) == 1.7, "the page begins with these"
ends = sessions["ended"].map(long_run.ending).value_counts()
accuracy = history["validation_original_accuracy"]
best, last = history.loc[accuracy.idxmax()], history.iloc[-1]
print(f"{len(history)} epochs, {len(sessions)} sessions, {sessions['hours'].sum():.2f} h on one thread of a CPU")
print("sessions:", ", ".join(f"{count} {how}" for how, count in ends.items()))
print(f"best validation accuracy {accuracy.max():.3f} in epoch {best['epoch']:.0f}, {last['validation_original_accuracy']:.3f} in the last")
gap = last["validation_loss"] - last["train_loss"]
print(f"last epoch's Dice loss: training {last['train_loss']:.3f}, validation {last['validation_loss']:.3f}, apart {gap:+.3f}")

# %%
long_run.draw_long_run(history, sessions)
plt.show()

# %% [markdown]
# *Figure 1: The original's three curves, training loss, validation loss and validation accuracy (its own: Dice at threshold ½ per image,
# mean over 60 held-out images, all with a defect), the ends of sessions as vertical lines, the best epoch as a ring; at the bottom,
# how far the two losses are apart. Study `long_run`, arm `original`.*
#
# A session that was killed leaves no mark on the curves: the next one takes up its last checkpoint. The lowest panel is the question of
# page 10: the original's losses ended 0.21 apart (0.15 and 0.36). The study's rule, written before its first record: the gap *opens* if Dice on
# training and on validation images differ by 0.15 or more at the last epoch, *opens in part* from 0.05. Losses of one epoch are not
# that measure: while training, batch norm uses the batch's own statistics. Arm `flips` has mirrored samples besides, and 100
# epochs: half the length, so its gap is no answer to whether flips close this one. Arm `uninterrupted` is a second run of the first 20 epochs.

# %%
measured = recorded.records("long_run").set_index("arm")
for arm, row in measured.iterrows():
    on_training, on_validation = (np.mean(row[f"{part}_images_dice"]) for part in ("train", "validation"))
    gap = on_training - on_validation
    verdict = "opens" if gap >= 0.15 else "opens in part" if gap >= 0.05 else "does not open"
    print(f"{arm}, {row['epochs']} epochs: gap {gap:+.3f}, {verdict} (training {on_training:.3f}, validation {on_validation:.3f})")
if "uninterrupted" in measured.index:
    first = [measured.loc[arm, "history_sha256"]["20"] for arm in ("original", "uninterrupted")]
    print(f"the first 20 epochs and those of the second run, in {measured.loc['uninterrupted', 'sessions']} sessions of other lengths: "
          f"{'the same' if first[0] == first[1] else 'not the same'} to the last bit")

# %% [markdown]
# ## 2 · What does the next step depend on?
#
# The weights, of course. In many notebooks "resume" restores nothing else. But an optimizer step also depends on the optimizer's moments,
# on where the learning rate stands in its schedule, on which samples come next and on every random number drawn on the way. What the
# trained network answers depends on one thing more, the *running statistics* of its batch norms: they are no weights, and only eval mode
# uses them.
#
# One step is forward, loss, backward, optimizer step ([00](00_start_here.ipynb)). The `Trainer` is the part of the library that holds all
# of this; `state()` gives it as a dict, `restore(state)` takes it back.
#
# **Predict.** A small network trains for 40 steps. We stop it after 20, forget *one* of these parts, and go on. Which omissions change the
# weights? All of them? Does the random state?

# %%
CUT, STEPS = 20, 40
small = SMOKE.changed(model=dict(width=4, depth=2), crop=(48, 48), epoch_samples=4 * STEPS, epochs=4, scored=2)
cpu = torch.device("cpu")  # what is to be the same to the last bit is computed on one kind of device
samples, _ = batches.training_and_validation_samples(data, small, seed=0)


def by_index(trainer):
    """This library's batches: they follow from (seed, epoch, index), so they can begin anywhere."""
    return batches.iter_batches(samples, small, trainer.epoch, trainer.seen)


def by_global_generator(trainer):
    """The usual way: whatever torch's global random generator says next."""
    while True:
        picked = [samples[int(i)] for i in torch.randint(len(samples), (small.batch,))]
        yield *map(torch.stack, zip(*picked, strict=True)), 1.0, small.batch


# %%
def go_on(trainer, feed, until):
    """Trains to step `until`; the weights after each step, as one vector."""
    trail = []
    trainer.begin()
    for batch in feed(trainer):
        trainer.step(*batch)
        trail.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]).clone())
        if trainer.steps == until:
            return torch.stack(trail)


def interrupted(feed):
    """The undisturbed trail from the cut on, and the state at the cut."""
    trainer = Trainer(small, 1, STEPS, seed=0, device=cpu)
    go_on(trainer, feed, CUT)
    state = copy.deepcopy(trainer.state())
    return go_on(trainer, feed, STEPS), state


# %% [markdown]
# Now we forget one part at a time: it gets the value it has in a new training.

# %%
PARTS = {
    "nothing": (),
    "optimizer": ("optimizer",),
    "schedule": ("scheduler",),
    "position in the epoch": ("epoch", "seen", "step"),
    "running statistics": ("statistics",),
    "random state": ("random",),
}


def distances(feed, forgotten):
    """How far the weights are from the undisturbed ones after each step, relative to their length."""
    undisturbed, state = interrupted(feed)
    trainer = Trainer(small, 1, STEPS, seed=0, device=cpu)
    fresh = copy.deepcopy(trainer.state())
    steps_to_take = STEPS - CUT
    state |= {key: fresh[key] for key in forgotten if key in state}
    if "statistics" in forgotten:
        state["model"] |= {key: value for key, value in fresh["model"].items() if ".running_" in key}
    trainer.restore(state)
    trail = go_on(trainer, feed, trainer.steps + steps_to_take)
    return ((trail - undisturbed).norm(dim=1) / undisturbed.norm(dim=1)).numpy()


apart = {name: distances(by_index, keys) for name, keys in PARTS.items()}
apart["random state, usual batches"] = distances(by_global_generator, PARTS["random state"])
usual_and_whole = distances(by_global_generator, PARTS["nothing"])

# %%
figure, ax = plt.subplots(figsize=(plots.NARROW, 3.2))
looks = [(plots.INK, "-"), (plots.PREDICTION, "-"), (plots.INK, "--"), (plots.PREDICTION, "--")]
visible = {name: d for name, d in apart.items() if d.any()}
for (name, distance), (colour, line) in zip(visible.items(), looks, strict=True):
    ax.semilogy(range(CUT + 1, STEPS + 1), distance, line, color=colour, label=f"{name}: {distance[-1]:.1%} off")
ends = [distance[-1] for distance in visible.values()]
ax.axvline(CUT, color=plots.FAINT, linestyle="--")
ax.set(title=f"After 20 steps the weights are {min(ends):.1%} to {max(ends):.1%} away",
       xlabel="step (the cut is at the dashed line)", ylabel="distance of the weights", xlim=(CUT - 1, STEPS),
       xticks=range(CUT, STEPS + 1, 5), ylim=(1e-4, 0.1), yticks=(1e-4, 1e-3, 1e-2, 1e-1), yticklabels=("0.01 %", "0.1 %", "1 %", "10 %"))
ax.legend(loc="lower right")
plt.show()

# %% [markdown]
# *Figure 2: Relative distance between the weights of the continued and of the undisturbed training, on a logarithmic
# scale, when one part of the state is forgotten. Three curves are exactly zero and have no place on it: nothing forgotten, the running
# statistics, and the random state where batches follow from (seed, epoch, index). A fresh schedule is still exact after one step.*
#
# With nothing forgotten the distance is exactly 0, at every step. The random state is the surprise: with *usual* batches, drawn from the
# global generator, forgetting it leads to other weights like everything else. With batches that follow from (seed, epoch, index) there
# is nothing to forget, and nothing to fast-forward either: a session that begins in the middle of an epoch draws only what is left of
# it. The checkpoint still holds all generators, for networks with dropout. The running statistics change no weight, and section 3 shows
# what they cost.

# %% tags=["nbval-check-output"]
assert not usual_and_whole.any()
for name in ("nothing", "running statistics", "random state"):
    assert not apart[name].any(), f"forgetting {name} made a difference"
for name in ("optimizer", "schedule", "position in the epoch", "random state, usual batches"):
    assert apart[name][-1] > 1e-3, f"forgetting the {name} made no difference"
print("the same weights after forgetting:", *(name for name, d in apart.items() if not d.any()), sep="\n  ")
print("other weights after forgetting:", *(name for name, d in apart.items() if d.any()), sep="\n  ")

# %% [markdown]
# ## 3 · Does it cost Dice?
#
# Other weights need not be worse ones. **Recorded**: the study `resume` trains a small U-Net on shrunk real images for 320 steps, forgets
# one part at the middle or 24 steps before the end, and scores the result on images that chose nothing. What it scores is the *moving
# average* of the weights, which is one more part that can be forgotten; the others are those of section 2. The last row is the original's
# way: the weights come back with their batch norm statistics, as `state_dict()` holds both, and nothing else.
#
# A part *matters* where the 95 % interval of the change in Dice at p > ½ lies wholly beyond ±0.02, is *harmless* where it lies within;
# between the two it is *open*: the study cannot tell.

# %%
study = recorded.records("resume")
base = {names: cells["arms"].map(lambda arms: arms["undisturbed"]["dice_half"]).mean() for names, cells in study.groupby(["optimizer", "cut"])}
names = {"position": "position in the epoch", "random": "random state", "usual random": "random state, usual batches",
         "average": "moving average", "statistics": "running statistics", "all but the weights": "all but weights and statistics"}
rows = []
for cell in study.itertuples():
    panel = f"{cell.optimizer}, cut {cell.cut} (Dice {base[cell.optimizer, cell.cut]:.2f})"
    for name, numbers in cell.arms.items():
        if not name.startswith("undisturbed"):
            beside = cell.arms["undisturbed, usual batches" if name == "usual random" else "undisturbed"]
            rows.append({"panel": panel, "seed": cell.seed, "forgotten": names.get(name, name),
                         "change": numbers["dice_half"] - beside["dice_half"], "same bits": numbers["same_bits"]})
changes = pd.DataFrame(rows)
assert len(study) == 40  # 2 optimizers × 2 cuts × 10 seeds
assert changes[changes["forgotten"].isin(("nothing", "random state"))]["same bits"].all(), "nothing was forgotten, and the bits are others"

# %%
long_run.draw_changes(changes)
plt.show()

# %% [markdown]
# *Figure 3: Change of the final Dice at p > ½ when one part of the state is forgotten at the cut; a dot per seed, a diamond for their mean.
# "Cut half" is in the middle, "cut late" 24 steps before the end. In brackets the Dice without an interruption. Study `resume`.*

# %%
def verdict_of(values):
    """The study's: matters, harmless, open; from the t interval of the mean over seeds."""
    if not values.any():
        return "harmless"
    _, low, high = recorded.seed_interval(values)
    return "harmless" if low > -0.02 and high < 0.02 else "matters" if high < -0.02 or low > 0.02 else "open"


table = changes.groupby(["forgotten", "panel"], sort=False)["change"].agg(["mean", verdict_of]).unstack("panel")
mean, said = table["mean"], table["verdict_of"]
mark = {"matters": "!", "open": "?", "harmless": " "}
print(pd.DataFrame({panel.partition(" (")[0].replace("cut ", ""):
                    [f"{mean[panel][name]:+.3f} {mark[said[panel][name]]}" for name in said.index] for panel in said},
                   index=list(said.index)).to_string())
print("\n! matters, ? open, the others harmless")
matters = [name for name in said.index if (said.loc[name] == "matters").any()]
harmless = [name for name in said.index if (said.loc[name] == "harmless").all()]
late = next(panel for panel in said if panel.startswith("adamw, cut late"))
assert matters == ["running statistics"] and mean[late].idxmin() == "running statistics", "the text below says so"
assert {"optimizer", "position in the epoch", "random state", "moving average"} <= {*harmless}
originals = "all but weights and statistics"
assert (round(mean.loc[originals].min(), 2), round(mean.loc[originals].max(), 2)) == (-0.02, 0.08)
assert sorted(said.loc[originals]) == ["harmless", "open", "open", "open"] and round(mean[late].min(), 2) == -0.22
assert all(said[panel]["schedule"] == ("open" if "half" in panel else "harmless") for panel in said)

# %% [markdown]
# What costs Dice is the *running statistics*: −0.22, forgotten 24 steps before the end with AdamW. They are no parameters, so a checkpoint
# of `model.parameters()` loses them, and 24 steps are too few to measure them again. What the original did, restoring the state dict alone,
# keeps them. It is *open* in three of four cases: between −0.02 and +0.08 in the mean. The schedule is open too where training stops
# at half: it begins anew and ends at a high rate. Moments, position, random state and moving average are harmless, within ±0.02. With SGD
# the undisturbed Dice is so low that there is little to lose, and *harmless* says little.
#
# What is harmless in Dice is kept in the checkpoint all the same: for the same bits, which are what section 7 can check. Weights that
# only *resemble* those of an undisturbed run could hide any error of the resumption.
#
# ## 4 · A file that a kill cannot spoil
#
# `torch.save(state, "checkpoint.pt")` empties the file first and then fills it. A kill in between leaves neither the old checkpoint nor
# the new one. The cure is a few lines: write under another name, force it to the disk, read it back, and only then give it its name, which
# a file system does at once or not at all.

# %%
def write_plainly(path, content):
    with open(path, "wb") as file:
        file.write(content)


def write_whole(path, content):
    part = path.with_name(f".{path.name}.part")
    with open(part, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # from the system's memory to the disk
    assert part.read_bytes() == content, "what was read back is not what was written"
    os.replace(part, path)  # at once, or not at all
    if os.name == "posix":  # the new name itself lies in the folder, and that is forced to the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


# %% [markdown]
# **Predict.** Another process writes `new` over `old` and is killed before the n-th line of the function, for each n
# ([kill_points.py](../steelnb/runs/kill_points.py)). What does the file hold then? The third function is the library's.

# %% tags=["nbval-check-output"]
left = {write.__name__: kill_points.contents_after_kills(write) for write in (write_plainly, write_whole, storage.write_file)}
for name, contents in left.items():
    print(f"{name:<14}", "a kill may leave:", *sorted(set(contents)))
assert "broken" in left["write_plainly"]
for name in ("write_whole", "write_file"):
    turn = left[name].index("new")
    assert set(left[name][:turn]) == {"old"} and set(left[name][turn:]) == {"new"}

# %% [markdown]
# The library adds what a few lines leave out: a temporary name that nobody can foresee, words for a full disk, a mount that has vanished.
# Where power fails, a disk may still lose what it reported as written; hence the checksum in each name, and the checkpoint before, which
# is kept.
#
# ## 5 · Before it starts: how long will it take, and where will it live?
#
# On Colab, set `DRIVE = True` in the cell after the setup and the run lives on your Google Drive, where the next session
# finds it; the images stay on the machine's own disk. Elsewhere it lives in `STEELNB_HOME`. In the *full* profile this
# page trains recipe `modern`; put `ORIGINAL` there for what was done in 2020. In the smoke profile a small run stands in.
#
# No service promises how long a session lasts: [Colab's free ones](https://research.google.com/colaboratory/faq.html) end after 12 hours at
# most, often sooner; see [Kaggle's limits](https://www.kaggle.com/docs/notebooks) too. Say what you expect, and the interval between
# checkpoints follows: often costs time while all is well, seldom costs work when the session is killed. The sum of both is least at
# √(2 · cost · length), where length is the time between kills ([Young 1974](https://doi.org/10.1145/361147.361115)). What a checkpoint
# costs is measured where the run will live.

# %%
full = runtime.profile() == "full"
recipe = MODERN if full else small
SESSION_HOURS = 11.5  # that you expect of a session, less half an hour
hours, session_hours = (100, SESSION_HOURS) if full else (None, None)

a_step = runs.seconds_a_step(data, recipe)
samples_to_draw, held_out = batches.training_and_validation_samples(data, recipe, seed=0)
steps = recipe.epochs * int(np.ceil(batches.epoch_length(samples_to_draw, recipe) / recipe.batch))
trainer = Trainer(recipe, 1, 1, 0, runtime.device())
trainer.begin()
trainer.step(*next(iter(batches.iter_batches(samples_to_draw, recipe, 0, device=trainer.device))))
runs_folder.mkdir(parents=True, exist_ok=True)
cost = intervals.cost_of(trainer.state(), runs_folder, competes=trainer.device.type == "cpu")
interval = intervals.choose(3600 * SESSION_HOURS, cost, a_step)
began = time.perf_counter()
logits_and_mask(trainer.model, held_out, 0)
scoring = (time.perf_counter() - began) * len(held_out) * recipe.epochs
here = a_step * steps + scoring
print(f"recipe {recipe.name}: {steps} steps of {1000 * a_step:.0f} ms and {recipe.epochs} times {len(held_out)} images to score: "
      f"about {here / 3600:.1f} h" if here > 1800 else f"{steps} steps of {1000 * a_step:.0f} ms, then scoring: about {here:.0f} s")
the_original = ORIGINAL.epochs * 5676 / ORIGINAL.batch
print(f"a checkpoint holds the training up for {1000 * cost.held_up:.0f} ms and is safe after {1000 * cost.until_safe:.0f} ms")
print(textwrap.fill(str(interval), 90))
print(f"the original: {the_original:,.0f} steps in 100 h (estimated) would be {1000 * 100 * 3600 / the_original:.0f} ms a step")

# %% [markdown]
# ## 6 · Train, or continue
#
# There is one call for both. It looks into the run folder: if there is a checkpoint that is whole, it goes on from
# there, else it begins; its first line says which. `hours` is the budget of all sessions together, `session_hours` of
# this one. The stop button of the notebook, Ctrl-C and SIGTERM end it in good order at
# the next step, with a checkpoint. `history.csv` in the run folder has a row per epoch: the columns of figure 1.

# %%
run = runs_folder / f"09_hundred_hours_{recipe.name}_{data.fingerprint()[:8]}"  # other data, another run
if not full:
    run = runtime.new_run("09_undisturbed")  # section 7 compares with it: nothing of an earlier version may lie there
device = runtime.device() if full else cpu


def brief(line):
    """A line of the log without the time of day and the scores, which the table below has."""
    kept = [part for part in line.split(" · ") if not part.startswith(("ends about", "loss", "validation loss", "Dice"))]
    return textwrap.fill(" · ".join(kept), 90)


history = runs.train(data, run, recipe, hours=hours, session_hours=session_hours, checkpoint_seconds=interval.seconds,
                     device=device, progress=full, report=print if full else lambda line: print(brief(line)))
print(history[["epoch", "step", "train_loss", "validation_loss"]].tail(4).round(3).to_string(index=False))

# %% [markdown]
# ## 7 · Kill it
#
# Now for real, in another process, where it can be killed without killing this page: `python -m steelnb train`, as you
# would run it in a terminal. It must end with the same weights as the run of section 6, which nobody disturbed.

# %%
undisturbed, killed = runtime.new_run("09_undisturbed") if full else run, runtime.new_run("09_killed")
quiet = dict(progress=False, report=lambda line: None)
if full:
    runs.train(data, undisturbed, small, device=cpu, **quiet)

settings = [f"{name}={json.dumps(value)}" for name, value in small.to_dict().items() if value != SMOKE.to_dict()[name]]
command = [sys.executable, "-m", "steelnb", "train", "--data", str(data.folder), "--run", str(killed),
           "--recipe", "smoke", "--checkpoint-seconds", "0", "--quiet", *(word for text in settings for word in ("--set", text))]
print("python -m steelnb train --data … --run … --recipe smoke --checkpoint-seconds 0", *(f"--set '{text}'" for text in settings),
      sep=" \\\n    ")


def ledger(run):
    """The lines of the run's sessions.csv, or None."""
    return pd.read_csv(run / "sessions.csv") if (run / "sessions.csv").exists() else None


# %%
def begin_and_kill(past_step):
    """Starts the command, waits until a checkpoint lies past a step, and kills the process where it stands."""
    process = subprocess.Popen(command, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while process.poll() is None and ((rows := ledger(killed)) is None or rows["to_step"].iloc[-1] < past_step):
        time.sleep(0.01)
    process.kill()
    said = process.communicate()[0].splitlines()
    told = [brief(line) for line in said if any(words in line for words in ("a new run", "goes on", "has changed"))]
    print(*told, f"killed by signal {-process.returncode}", sep="\n")
    assert process.returncode < 0, "it ended before it could be killed"


begin_and_kill(past_step=45)

# %% [markdown]
# SIGKILL cannot be caught: no handler runs, no file is closed. What is left?

# %%
for path in sorted(killed.rglob("*")):
    if path.is_file() and "tensorboard" not in path.parts:
        print(f"{path.stat().st_size:>8,} bytes  {path.relative_to(killed)}")

# %% [markdown]
# Each was written as in section 4; the manifest, which says which checkpoints count, comes last. A kill before that leaves the
# checkpoint before it. A name beginning with a dot and ending in `.part` would be a leftover; the next session clears it away.
#
# ## 8 · Then break it
#
# Disks and cloud drives damage files too. We flip one bit in the middle of the newest checkpoint. Its name holds the
# first 16 digits of its SHA-256, so it cannot pass for whole.

# %%
manifest = json.loads((killed / "checkpoints" / "manifest.json").read_text())
newest = killed / "checkpoints" / manifest["checkpoints"][-1]
content = bytearray(newest.read_bytes())
content[len(content) // 2] ^= 1
newest.write_bytes(content)
try:
    checkpoints.read_checkpoint(newest)
except checkpoints.CheckpointError as error:
    print(error)
    assert "has changed since it was written" in str(error)
else:
    raise AssertionError("a flipped bit passed for a whole checkpoint")

# %% [markdown]
# The same command again. It says what it found, takes the checkpoint before, and goes on; and we kill it once more,
# later.

# %%
begin_and_kill(past_step=100)

# %% [markdown]
# And once more, to the end; watched, this time. The monitor reads nothing but the run folder, so it can watch a training
# in any process, also one that was started in a terminal. Its button sends SIGTERM: press it, if you are quick, and the
# training ends in good order at its next step.

# %%
process = subprocess.Popen(command, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
widgets.monitor_training(killed, process)

# %%
said = process.communicate()[0]
if ledger(killed)["ended"].iloc[-1] != "finished":  # you were quick: the same command goes on
    said += subprocess.run(command, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
assert ledger(killed)["ended"].iloc[-1] == "finished", said
print(*(brief(line) for line in said.splitlines() if "goes on" in line), sep="\n")
print(run_progress.progress(killed).line())

# %% [markdown]
# **The claim**: two kills and a broken checkpoint later, weights and history are those of the undisturbed run, to the
# last bit. Only the seconds differ.

# %% tags=["nbval-check-output"]
ours, theirs = (weights.load_network(folder).model.state_dict() for folder in (undisturbed, killed))
same_weights = all(torch.equal(ours[name], theirs[name]) for name in ours)
histories = [pd.read_csv(folder / "history.csv").drop(columns="seconds") for folder in (undisturbed, killed)]
same_history = histories[0].equals(histories[1])
assert same_weights and same_history
print(f"the same weights: {same_weights}; the same history: {same_history}, {len(histories[0])} epochs")

# %% [markdown]
# Every session has left its line in the ledger, those that were killed as well:

# %%
book = ledger(killed)
print(book[["session", "device", "from_step", "to_step", "hours_in_all", "ended"]].to_string(index=False))
assert (book["ended"] == "killed").sum() == 2 and book["ended"].iloc[-1] == "finished"

# %% [markdown]
# `make bench ONLY=kills` does this a hundred times, at random moments and inside the writing of checkpoints; the tests do
# it twenty times, and again with two processes.
#
# ## 9 · What may go wrong, and what it says
#
# | what happens | what you see | what to do |
# |---|---|---|
# | session ends, kernel dies, power fails | nothing; the next session writes *killed* into `sessions.csv` | the same call again: you lose at most one checkpoint interval |
# | stop button, Ctrl-C, SIGTERM, `session_hours` over | "…: after step N of M. The same call, or command, goes on" | the same call again |
# | disk or Drive full | "cannot write step-… MB …: No space left" | make room (empty Drive's trash), the same call again |
# | loss NaN or infinite | "the loss became nan …: lower the learning rate" | a lower rate with `accept_changes` |
# | other recipe, seed, data or version than the run's | "holds another run (recipe.batch was 4 and is 8)" | give the old ones, or `accept_changes` |
#
# One of them, to see that it is so: the finished run, with another learning rate.

# %%
try:
    runs.train(data, killed, small.changed(learning_rate=1e-3), device=cpu, **quiet)
except runs.TrainingError as error:
    print(textwrap.fill(str(error).replace(str(killed), "run"), 90))
    assert "recipe.learning_rate was 0.004 and is 0.001" in str(error)
else:
    raise AssertionError("another recipe went on with this run")

# %% tags=["headline"]
kills = (book["ended"] == "killed").sum()
print(f"{kills} kills and a broken checkpoint: same weights, same history, to the last bit")

# %% [markdown]
# ## What to remember
#
# - The next step depends on weights, optimizer, schedule, position and random state. Forget one, and the training ends with other weights.
#   In Dice only the running statistics of the batch norms are shown to matter; the schedule is open (study `resume`). Batches that follow from (seed, epoch, index)
#   need no random state and no fast-forward.
# - Temporary file, fsync, read back, rename, manifest last: then a kill at any instruction leaves a run that goes on.
# - Start and continue are one call, and it says which it did.
#
# ## Exercises
#
# 1. Kill the run while a checkpoint is being written: have `storage.os.replace` kill the process. What is left?
# 2. Flip a bit in *every* checkpoint. What does the next session say, and why does it not simply begin anew?
#
# ## Further reading
#
# - Pillai et al. 2014, [All File Systems Are Not Created Equal](https://www.usenix.org/conference/osdi14/technical-sessions/presentation/pillai):
#   what a crash may leave of a file that was merely written.
# - Young 1974, [A first order approximation to the optimum checkpoint interval](https://doi.org/10.1145/361147.361115):
#   two pages, and still the rule; `benchmarks/checkpoints.py` measures the cost of one at the original's size.
# - PyTorch, [Reproducibility](https://pytorch.org/docs/stable/notes/randomness.html); several GPUs or machines: the
#   [guide](../docs/guide.md).
# - Next: [10 · How good is it, against the original, and where does it fail?](10_results.ipynb)
