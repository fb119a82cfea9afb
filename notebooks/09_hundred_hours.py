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
# **How do I train for 100 hours where no session lasts 12?** Write down, often and so that no kill can spoil it,
# *everything* that the next step depends on, and begin every session by looking for it. Then a killed run ends with the
# same weights as one that was never stopped: not similar ones, the same bits. This page kills one to show it.
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/your--name/steelnb/blob/v0.1.0/notebooks/09_hundred_hours.ipynb)
# [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/your--name/steelnb/blob/v0.1.0/notebooks/09_hundred_hours.ipynb)
#
# | what you will learn | what it needs |
# |---|---|
# | what a checkpoint must hold, and what happens when one thing is missing | a CPU and a minute or two; to train for real, a GPU and days |
# | how to start, stop and continue a long run on Colab, Kaggle or your own machines | for Colab: room on Google Drive for four checkpoints, 0.25 GB each at the original's size |
# | what the run does when the disk is full, a file is damaged, a session ends | |
#
# The [original](https://github.com/dosp0911/Steel_image_Segmentation) trained for 100 hours on one Tesla P100 in Colab,
# where a session ends after hours. Nothing on this page needs a GPU to be proved: a kill is a kill. What 100 hours on a
# GPU *reach* is not claimed here.

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
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display

from steelnb import runs, runtime
from steelnb.data import sources
from steelnb.figures import plots, run_progress, widgets
from steelnb.network import weights
from steelnb.runs import checkpoints, intervals
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
# ## 1 · What does the next step depend on?
#
# The weights, of course; so does "resume" in many a notebook, and nothing else. But an optimizer step also depends on
# the optimizer's moments, on where the learning rate stands in its schedule, on which samples come next and on every
# random number drawn on the way.
#
# **Predict.** A small network trains for 40 steps. We stop it after 20, throw *one* of these away, and go on. Which
# omissions change the outcome? All of them? Does the random state?
#
# The `Trainer` is the part of the library that holds all of it; `state()` gives it as a dict, `restore(state)` takes
# it back.

# %%
CUT, STEPS = 20, 40
small = SMOKE.changed(model=dict(width=4, depth=2), crop=(48, 48), epoch_samples=4 * STEPS, epochs=5, scored=2)
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
# Now the amputations. What is "forgotten" takes the value that it has in a new network, as it would in a notebook that
# loads nothing but weights.

# %%
PARTS = {
    "nothing": (),
    "optimizer": ("optimizer",),
    "schedule": ("scheduler",),
    "position in the epoch": ("epoch", "seen", "step"),
    "random state": ("random",),
}


def distances(feed, forgotten):
    """How far the weights are from the undisturbed ones after each step, relative to their length."""
    undisturbed, state = interrupted(feed)
    trainer = Trainer(small, 1, STEPS, seed=0, device=cpu)
    fresh = copy.deepcopy(trainer.state())
    steps_to_take = STEPS - CUT
    trainer.restore({key: fresh[key] if key in forgotten else value for key, value in state.items()})
    trail = go_on(trainer, feed, trainer.steps + steps_to_take)
    return ((trail - undisturbed).norm(dim=1) / undisturbed.norm(dim=1)).numpy()


apart = {name: distances(by_index, keys) for name, keys in PARTS.items()}
apart["random state, usual batches"] = distances(by_global_generator, PARTS["random state"])
usual_and_whole = distances(by_global_generator, PARTS["nothing"])

# %%
figure, ax = plt.subplots(figsize=(plots.WIDTH, 3))
colours = [plots.DEFECT, plots.PREDICTION, plots.HIT, plots.FALSE_ALARM]
visible = {name: d for name, d in apart.items() if d.any()}
for (name, distance), colour in zip(visible.items(), colours, strict=True):
    ax.semilogy(range(CUT + 1, STEPS + 1), distance, color=colour, label=f"{name}: {distance[-1]:.1%} off")
ends = [distance[-1] for distance in visible.values()]
ax.axvline(CUT, color=plots.FAINT, linestyle="--")
ax.set(title=f"Forget one part, and the weights end up {min(ends):.1%} to {max(ends):.1%} away",
       xlabel="step (the cut is at the dashed line)", ylabel="distance of the weights", xlim=(CUT - 1, STEPS),
       xticks=range(CUT, STEPS + 1, 5), ylim=(1e-4, 0.1))
ax.legend(loc="lower right")
plt.show()

# %% [markdown]
# *Figure 1: Relative distance between the weights of the continued and of the undisturbed training, on a logarithmic
# scale, when one part of the state is forgotten. Two curves are exactly zero and have no place on it: nothing forgotten,
# and the random state where batches follow from (seed, epoch, index). A fresh schedule is still exact after one step.*
#
# With nothing forgotten the distance is exactly 0, at every step. The random state is the surprise: with *usual* batches,
# drawn from the global generator, forgetting it leads elsewhere like everything else. With batches that follow from
# (seed, epoch, index) there is nothing to forget, and nothing to fast-forward either: a session that begins in the middle
# of an epoch draws only what is left of it. The checkpoint still holds all generators, for networks with dropout.

# %% tags=["nbval-check-output"]
assert not apart["nothing"].any() and not usual_and_whole.any() and not apart["random state"].any()
for name in ("optimizer", "schedule", "position in the epoch", "random state, usual batches"):
    assert apart[name][-1] > 1e-3, f"forgetting the {name} made no difference"
print("exactly the same:", *(name for name, d in apart.items() if not d.any()), sep="\n  forgotten: ")
print("elsewhere:", *(name for name, d in apart.items() if d.any()), sep="\n  forgotten: ")

# %% [markdown]
# ## 2 · Before it starts: how long will it take, and where will it live?
#
# On Colab, set `DRIVE = True` in the cell after the setup and the run lives on your Google Drive, where the next session
# finds it; the images stay on the machine's own disk. Elsewhere it lives in `STEELNB_HOME`. In the *full* profile this
# page trains recipe `modern`; put `ORIGINAL` there for what was done in 2020. In the smoke profile a small run stands in.
#
# How long a session lasts nobody promises: users report 1.5 to 24 hours of Colab; on Kaggle a GPU is lent for 9 hours at
# a time and 30 a week. Say what you expect, and the interval between checkpoints follows: often costs time while all is
# well, seldom costs work when the session is killed, and the sum of both is least at √(2 · cost · length)
# ([Young 1974](https://doi.org/10.1145/361147.361115)). What a checkpoint costs is measured where the run will live.

# %%
full = runtime.profile() == "full"
recipe = MODERN if full else SMOKE.changed(epochs=4, epoch_samples=120, scored=8)
SESSION_HOURS = 11.5  # that you expect of a session, less half an hour; 8.5 on Kaggle
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
print(f"a checkpoint holds the training up for {1000 * cost.held_up:.0f} ms and is safe after {1000 * cost.until_safe:.0f} ms; {interval}")
print(f"the original: {the_original:,.0f} steps in 100 h (estimated) would be {1000 * 100 * 3600 / the_original:.0f} ms a step")

# %% [markdown]
# ## 3 · Train, or continue
#
# There is one call for both. It looks into the run folder: if there is a checkpoint that is whole, it goes on from
# there, else it begins; its first line says which. `hours` is the budget of all sessions together, `session_hours` of
# this one: 11.5 leaves Colab half an hour. The stop button of the notebook, Ctrl-C and SIGTERM end it in good order at
# the next step, with a checkpoint.
#
# The picture is drawn again after each epoch, from `history.csv`; `tensorboard --logdir` on the run folder shows the same
# and more. These are the original's three curves.

# %%
run = runs_folder / f"09_hundred_hours_{recipe.name}_{data.fingerprint()[:8]}"  # other data, another run
CURVES = {"train_loss": "training loss", "validation_loss": "validation loss",
          "validation_original_accuracy": "validation accuracy"}


def draw(axes, history):
    """The original's three curves, so far."""
    for ax, (column, name) in zip(axes, CURVES.items(), strict=True):
        ax.clear()
        ax.plot(history["epoch"], history[column], "o-", ms=3, color=plots.INK)
        ax.set(title=f"{name}: {history[column].iloc[-1]:.3f}", xlabel="epoch", ylim=(0, 1))


def say_and_draw(line):
    """For `report`: prints the line, draws the curves again in place."""
    print(line)
    if "epoch " in line and (run / "history.csv").exists() and len(table := pd.read_csv(run / "history.csv")):
        draw(axes, table)
        live.update(figure)


# %%
figure, axes = plt.subplots(1, 3, figsize=(plots.WIDTH, 2.2))
live = display(figure, display_id=True)
history = runs.train(
    data, run, recipe, hours=hours, session_hours=session_hours, checkpoint_seconds=interval.seconds, progress=full, report=say_and_draw
)
plt.close(figure)

# %% [markdown]
# *Figure 2: The three curves that the original showed, from this run's own history. The accuracy is the original's:
# Dice at threshold 0.5 per image, two empty masks counting 1, so clean steel lifts it. In a run of seconds the checkpoints
# of new bests, which are never put off, may cost more than the 1 % that `checkpoint_seconds` allows; over hours they do not.*
#
# What it finds on two images that it was not trained on:

# %%
trained = weights.load_network(run)
defective = [i for i, item in enumerate(held_out.items) if data.mask(item.image_id).any()][:2] or [0]
pictures = {}
for i in defective:
    logits, mask = logits_and_mask(trained.model, held_out, i)
    image = held_out.cache[held_out.items[i].image_id]
    found = f"found {(logits > 0)[mask].mean():.0%} of its defect pixels" if mask.any() else "clean"
    pictures[f"{held_out.items[i].image_id}: {found}"] = plots.errors(image, (logits > 0).any(0), mask.any(0))
figure = plots.stack(pictures)
plt.show()

# %% [markdown]
# *Figure 3: Held-out images under the best weights so far. Green: found. Orange: missed. Pink: false alarm. After
# so short a training much is missed; this page is about not losing what there is.*
#
# ## 4 · Kill it
#
# Now for real, in another process, where it can be killed without killing this page: `python -m steelnb train`, as you
# would run it in a terminal. First the same training undisturbed, here, to know how it has to end.

# %%
undisturbed, killed = runtime.new_run("07_undisturbed"), runtime.new_run("07_killed")
quiet = dict(progress=False, report=lambda line: None)
how_it_ends = runs.train(data, undisturbed, small, device=cpu, checkpoint_seconds=0, **quiet)

settings = [f"{name}={json.dumps(value)}" for name, value in small.to_dict().items() if value != SMOKE.to_dict()[name]]
command = [sys.executable, "-m", "steelnb", "train", "--data", str(data.folder), "--run", str(killed),
           "--recipe", "smoke", "--checkpoint-seconds", "0", "--quiet", *(word for text in settings for word in ("--set", text))]
print("python -m steelnb train --data … --run … --recipe smoke --checkpoint-seconds 0", *(f"--set {text}" for text in settings))


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
    told = [line for line in said if line.startswith(("session", "checkpoint"))]
    print(*told, f"— killed by signal {-process.returncode}", sep="\n")
    assert process.returncode < 0, "it ended before it could be killed"


begin_and_kill(past_step=50)

# %% [markdown]
# SIGKILL cannot be caught: no handler runs, no file is closed. What is left?

# %%
for path in sorted(killed.rglob("*")):
    if path.is_file() and "tensorboard" not in path.parts:
        print(f"{path.stat().st_size:>8,} bytes  {path.relative_to(killed)}")

# %% [markdown]
# A checkpoint is written under another name, forced to the disk, read back and compared, and only then given its name;
# the manifest, which says which checkpoints count, comes last. A kill before that leaves the one before it. A name
# beginning with a dot and ending in `.part` would be such a leftover; the next session clears it away.
#
# ## 5 · Then break it
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
begin_and_kill(past_step=120)

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
print(*(line for line in said.splitlines() if line.startswith("session")), sep="\n")
print(run_progress.progress(killed).line())

# %%
run_progress.draw_run(killed)
plt.show()

# %% [markdown]
# *Figure 4: What the monitor shows at the end: the losses, and Dice on the held-out images with a defect (two of them, in
# this small run). Each epoch stands there once, although three processes had a part in it.*
#
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
# ## 6 · What may go wrong, and what it says
#
# | what happens | what you see | what to do |
# |---|---|---|
# | session ends, kernel dies, power fails | nothing; the next session writes *killed* into the ledger | the same call again: what section 2 foretold is lost |
# | stop button, Ctrl-C, SIGTERM, `session_hours` over | "…: after step N of M. The same call, or command, goes on" | the same call again |
# | disk or Drive full | "cannot write step-… MB …: No space left" | make room (empty Drive's trash), the same call again |
# | Drive has gone | "The folder can no longer be reached" | mount it again, the same call again |
# | newest checkpoint damaged | "has changed since it was written …: the one before it is taken" | nothing |
# | all of them damaged | "no checkpoint … can be used" | bring back a copy; it never starts over by itself |
# | loss NaN or infinite | "the loss became nan …: lower the learning rate" | a lower rate with `accept_changes` |
# | GPU memory too small | "the GPU has too little memory for batches of …" | a smaller batch, restart other kernels |
# | other recipe, seed, data or version than the run's | "holds another run (recipe.batch was 4 and is 8)" | give the old ones, or `accept_changes` |
# | the run is open elsewhere | "is in use by another process" | stop that one; a killed one leaves the file `lock`, but nobody holds it |
#
# One of them, to see that it is so: the finished run, with another learning rate.

# %%
try:
    runs.train(data, killed, small.changed(learning_rate=1e-3), device=cpu, **quiet)
except runs.TrainingError as error:
    print(str(error).replace(str(killed), killed.name))
    assert "recipe.learning_rate was 0.004 and is 0.001" in str(error)
else:
    raise AssertionError("another recipe went on with this run")

# %% [markdown]
# ## 7 · Several GPUs, several machines
#
# Kaggle lends two T4s. `torchrun` starts a process for each; every batch is shared among them, so the recipe stays what it
# is, and a run begun on one goes on on two (the `--` keeps torchrun's own options apart from ours):
#
# ```
# torchrun --nproc-per-node 2 --max-restarts 3 -m steelnb -- train --data kaggle --run run --recipe modern --session-hours 11.5
# ```
#
# In a notebook, put `!` before it. Two machines, each with the data and, for going on elsewhere, the run folder on
# a disk that both see; the same command on both, `MAIN` being the first one's address:
#
# ```
# torchrun --nnodes 2 --nproc-per-node 1 --max-restarts 3 --rdzv-backend c10d --rdzv-endpoint MAIN:29500 --rdzv-id steel \
#     -m steelnb -- train --data steel --run run --recipe modern
# ```
#
# A worker that dies is started again, with all others, from the last checkpoint. Without batch norm and with a loss per
# image, two processes compute what one does, up to rounding (tested). With batch norm each normalises by its own half of
# the batch, which is another, slightly noisier training; a Dice over the batch is one over each half.

# %% tags=["headline"]
kills = (book["ended"] == "killed").sum()
print(f"{kills} kills and a broken checkpoint: same weights, same history, to the last bit")

# %% [markdown]
# ## What to remember
#
# - The next step depends on weights, optimizer, schedule, position and random state. Forget one, and the training that
#   goes on is another one. Batches that follow from (seed, epoch, index) need no random state and no fast-forward.
# - Temporary file, fsync, read back, rename, manifest last: then a kill at any instruction leaves a run that goes on.
# - Start and continue are one call, and it says which it did.
#
# ## Exercises
#
# 1. Forget the running statistics of the batch norms (the buffers in `state["model"]`). Do the weights change? What does?
# 2. Kill the run while a checkpoint is being written: have `storage.os.replace` kill the process. What is left?
# 3. Flip a bit in *every* checkpoint. What does the next session say, and why does it not simply begin anew?
#
# ## Further reading
#
# - Pillai et al. 2014, [All File Systems Are Not Created Equal](https://www.usenix.org/conference/osdi14/technical-sessions/presentation/pillai):
#   what a crash may leave of a file that was merely written.
# - Young 1974, [A first order approximation to the optimum checkpoint interval](https://doi.org/10.1145/361147.361115):
#   two pages, and still the rule; `benchmarks/checkpoints.py` measures the cost of one at the original's size.
# - PyTorch, [Reproducibility](https://pytorch.org/docs/stable/notes/randomness.html) and
#   [torchrun](https://pytorch.org/docs/stable/elastic/run.html).
# - Next: [10 · How good is it, against the original, and where does it fail?](10_results.ipynb)
