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
# same weights as one that was never stopped: not similar ones, the same bits. This page shows a recorded run over many
# killed sessions, and kills one live.
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
# The [original](https://github.com/dosp0911/Steel_image_Segmentation) trained for 100 hours on one Tesla P100 in Colab,
# where a session ends after hours. It saved weights, optimizer and epoch, and its `load_model` brought back the weights alone
# ([`util.py` at 6569714](https://github.com/dosp0911/Steel_image_Segmentation/blob/6569714edf511b2a5e9eb8e1cdeccab56f1b7337/util.py)).
#
# **What on this page is proved, recorded, toy.** Proved: a killed run ends with the same bits (here, and in the tests), and a file is old
# or new whichever line is the last to run. Recorded: the long run (study `long_run`, one seed) and what forgetting costs in Dice (study
# `resume`); the cells print how far either is. Toy: the distances of section 2, of 40 steps. What 100 hours on a GPU *reach* is not
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
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from steelnb import runs, runtime, storage
from steelnb.data import sources
from steelnb.evaluation import recorded
from steelnb.figures import long_run, plots, run_progress, widgets
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
# ## 1 · The hundred hours, in small
#
# **Recorded**: the study `long_run` trains recipe `original` (Dice loss, SGD with momentum 0.99, batches of 2, the original's geometry,
# no augmentation) on a third of the 900 real images of
# [SD-saliency-900](https://github.com/SongGuorong/MCITF), at width 4 instead of 64, for 200 epochs. Its sessions are ended by SIGTERM,
# by SIGKILL and by their own budget in turn. It leaves its history and its list of sessions after each of them, whether it is finished or
# not. One seed: an example, not an estimate.

# %%
EPOCHS = 200  # that the study has planned
history, sessions = (recorded.csv(f"long_run-original-{kind}") for kind in ("history", "sessions"))
assert list(history["epoch"]) == list(range(1, len(history) + 1)), "an epoch is missing, or stands there twice"
assert (sessions["from_step"].to_numpy()[1:] == sessions["to_step"].to_numpy()[:-1]).all(), "a session did not go on where one ended"
finished = len(history) >= EPOCHS
state = "finished" if finished else "unfinished"
ends = sessions["ended"].map(long_run.ending).replace("unfinished", "killed, or not over when this was recorded").value_counts()
accuracy = history["validation_original_accuracy"]
best, last = history.loc[accuracy.idxmax()], history.iloc[-1]
print(f"{state}: {len(history)} of {EPOCHS} epochs, {len(sessions)} sessions, {sessions['hours'].sum():.2f} h on one thread of a CPU")
print("sessions:", ", ".join(f"{count} {how}" for how, count in ends.items()))
print(f"best validation accuracy {accuracy.max():.3f} in epoch {best['epoch']:.0f}, {last['validation_original_accuracy']:.3f} in the last")
gap = last["validation_loss"] - last["train_loss"]
print(f"Dice loss in the last epoch: training {last['train_loss']:.3f}, validation {last['validation_loss']:.3f}, apart by {gap:+.3f}")

# %%
long_run.draw_long_run(history, sessions)
plt.show()

# %% [markdown]
# *Figure 1: The original's three curves, training loss, validation loss and validation accuracy (its own: Dice at threshold ½ per image,
# mean over 60 held-out images, all with a defect), the ends of sessions as vertical lines, the best epoch as a ring; at the bottom,
# how far the two losses are apart. Study `long_run`, arm `original`, as far as it is recorded.*
#
# A session that was killed leaves no mark on the curves: the next one takes up its last checkpoint. The lowest panel is the question of
# page 10: the original's losses ended 0.21 apart (0.15 and 0.36). The study's rule, written before its first record: the gap *opens* if Dice on
# training and on validation images differ by 0.15 or more at the last epoch, *opens in part* from 0.05. Losses of one epoch are not
# that measure: while training, batch norm uses the batch's own statistics.

# %%
try:
    measured = recorded.records("long_run").query("arm == 'original'")
except FileNotFoundError:
    measured = pd.DataFrame()
for _, row in measured.iterrows():
    on_training, on_validation = (np.mean(row[f"{part}_images_dice"]) for part in ("train", "validation"))
    apart = on_training - on_validation
    verdict = "opens" if apart >= 0.15 else "opens in part" if apart >= 0.05 else "does not open"
    print(f"after {row['epochs']} epochs Dice {on_training:.3f} on training images, {on_validation:.3f} on others: the gap {verdict}")
if measured.empty:
    print(f"The study is {state}, after {len(history)} of {EPOCHS} epochs: no answer about the gap yet.")

# %% [markdown]
# ## 2 · What does the next step depend on?
#
# The weights, of course; so does "resume" in many a notebook, and nothing else. But an optimizer step also depends on
# the optimizer's moments, on where the learning rate stands in its schedule, on which samples come next and on every
# random number drawn on the way.
#
# **Predict.** A small network trains for 40 steps. We stop it after 20, throw *one* of these away, and go on. Which
# omissions change the outcome? All of them? Does the random state?
#
# One step of a training, as page 00 writes it out, is forward, loss, backward, optimizer step. The `Trainer` is the part of the library that holds all of it; `state()` gives it as a dict, `restore(state)` takes
# it back.

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
figure, ax = plt.subplots(figsize=(long_run.WIDTH, 3.2))
looks = [(plots.INK, "-"), (plots.PREDICTION, "-"), (plots.INK, "--"), (plots.PREDICTION, "--")]
visible = {name: d for name, d in apart.items() if d.any()}
for (name, distance), (colour, line) in zip(visible.items(), looks, strict=True):
    ax.semilogy(range(CUT + 1, STEPS + 1), distance, line, color=colour, label=f"{name}: {distance[-1]:.1%} off")
ends = [distance[-1] for distance in visible.values()]
ax.axvline(CUT, color=plots.FAINT, linestyle="--")
ax.set(title=f"After 20 steps the weights are {min(ends):.1%} to {max(ends):.1%} away",
       xlabel="step (the cut is at the dashed line)", ylabel="distance of the weights", xlim=(CUT - 1, STEPS),
       xticks=range(CUT, STEPS + 1, 5), ylim=(1e-4, 0.1))
ax.legend(loc="lower right")
plt.show()

# %% [markdown]
# *Figure 2: Relative distance between the weights of the continued and of the undisturbed training, on a logarithmic
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
# ## 3 · Does it cost Dice?
#
# Other weights need not be worse ones. **Recorded**: the study `resume` trains a small U-Net on shrunk real images for 320 steps, forgets one
# part at the middle or 24 steps before the end, and scores what comes out on images that chose nothing. A part *matters* where the 95 % interval
# of the change in Dice at p > ½ lies wholly beyond ±0.02, and is *harmless* where it lies within; between the two the study cannot tell.

# %%
study = recorded.records("resume")
base = {names: cells["arms"].map(lambda arms: arms["undisturbed"]["dice_half"]).mean() for names, cells in study.groupby(["optimizer", "cut"])}
when = {"half": "cut at half", "late": "cut 24 steps before the end"}
rows = []
for cell in study.itertuples():
    panel = f"{cell.optimizer}, {when[cell.cut]} (Dice {base[cell.optimizer, cell.cut]:.2f})"
    for name, numbers in cell.arms.items():
        if not name.startswith("undisturbed"):
            beside = cell.arms["undisturbed, usual batches" if name == "usual random" else "undisturbed"]
            rows.append({"panel": panel, "seed": cell.seed, "forgotten": name,
                         "change": numbers["dice_half"] - beside["dice_half"], "same bits": numbers["same_bits"]})
changes = pd.DataFrame(rows)
complete = len(study) == 40  # 2 optimizers × 2 cuts × 10 seeds
print(f"{len(study)} of 40 cells recorded{'' if complete else ': provisional'}; seeds in each panel: "
      f"{', '.join(map(str, changes.groupby('panel', sort=False)['seed'].nunique()))}")
assert changes[changes["forgotten"].isin(("nothing", "random"))]["same bits"].all(), "nothing was forgotten, and the bits are others"

# %%
long_run.draw_changes(changes)
plt.show()

# %% [markdown]
# *Figure 3: Change of the final Dice at p > ½ when one part of the state is forgotten at the cut; a dot per seed, a diamond for their mean.
# In brackets the Dice of those that nobody interrupted. "usual random": batches drawn from the global generator. Study `resume`, as far as it is recorded.*

# %%
def verdict_of(values):
    """The study's: matters, harmless, open; from the t interval of the mean over seeds."""
    from scipy import stats

    if not values.any():
        return "harmless"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.inf
    low, high = values.mean() - half, values.mean() + half
    return "harmless" if low > -0.02 and high < 0.02 else "matters" if high < -0.02 or low > 0.02 else "open"


table = changes.groupby(["forgotten", "panel"], sort=False)["change"].agg(["mean", verdict_of]).unstack("panel")
said = changes.groupby(["forgotten", "panel"], sort=False)["change"].agg(verdict_of).unstack("panel")
short = {panel: panel.partition(" (")[0].replace("cut 24 steps before the end", "late").replace("cut at ", "") for panel in said}
shown = {short[panel]: [f"{table['mean', panel][name]:+.3f} {said[panel][name]}" for name in said.index] for panel in said}
print(pd.DataFrame(shown, index=said.index).to_string())
matters = [name for name in said.index if (said.loc[name] == "matters").any()]
harmless = [name for name in said.index if (said.loc[name] == "harmless").all()]
print(f"\nmatters somewhere: {', '.join(matters) or 'none'}; harmless everywhere: {', '.join(harmless) or 'none'}; the others: open")
late = next(panel for panel in said if panel.startswith("adamw, cut 24"))
assert matters == ["statistics"] and table["mean", late].idxmin() == "statistics", "the text below says so"
assert {"optimizer", "position", "random", "average"} <= {*harmless}, "and so of these"

# %% [markdown]
# So the part whose loss costs Dice is none of those that tutorials name. It is the *running statistics* of the batch norms: they are no parameters, so a
# checkpoint of `model.parameters()` leaves them out (`state_dict()` holds them), and 24 steps are too few to measure them again. Moments, place in
# the epoch, random state and moving average are harmless in Dice here, within ±0.02. The schedule is open: begun anew at half-time the training ends at a high rate, and its
# Dice spreads. With SGD the undisturbed Dice is so low that there is little to lose, and *harmless* says little.
#
# What is harmless in Dice is kept in the checkpoint all the same: for the same bits, which are what section 7 can check. Weights that
# only *resemble* those of an undisturbed run could hide any error of the resumption.
#
# ## 4 · A file that a kill cannot spoil
#
# `torch.save(state, "checkpoint.pt")` empties the file first and then fills it. Whoever dies in between has neither the old checkpoint nor
# the new one. The cure is five lines: write under another name, force it to the disk, read it back, and only then give it its name, which
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
# **Predict.** Another process writes `new` over `old` and dies before the n-th line of the function, for each n. What does the file hold then?

# %%
DIES = """
import os, sys
from pathlib import Path
{imported}
{source}
code, lines = {name}.__code__, 0
def before_a_line(frame, event, _):
    global lines
    lines += event == "line"
    if event == "line" and lines == {at}:
        os._exit(9)  # as a kill: nothing is flushed, closed or cleared away
    return before_a_line
sys.settrace(lambda frame, event, _: before_a_line if frame.f_code is code else None)
{name}(Path(sys.argv[1]), b"new" * 1000)
"""


def fates(write):
    """What lies under the name after a death before each line: old, new or broken, until one call comes to its end."""
    imported, source = ("from steelnb.storage import write_file", "") if write is storage.write_file else ("", inspect.getsource(write))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        while True:
            (path := Path(folder, "checkpoint")).write_bytes(b"old")
            program = DIES.format(imported=imported, source=source, name=write.__name__, at=len(found) + 1)
            ended = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
            assert ended.returncode in (0, 9), ended.stderr
            found.append({b"old": "old", b"new" * 1000: "new"}.get(path.read_bytes(), "broken"))
            if ended.returncode == 0:
                return found


lives = {write.__name__: fates(write) for write in (write_plainly, write_whole, storage.write_file)}

# %% tags=["nbval-check-output"]
for name, fate in lives.items():
    print(f"{name:<14}", "a kill may leave:", *sorted(set(fate)))
assert "broken" in lives["write_plainly"]
for name in ("write_whole", "write_file"):
    turn = lives[name].index("new")
    assert set(lives[name][:turn]) == {"old"} and set(lives[name][turn:]) == {"new"}

# %% [markdown]
# The last is the library's. That it does the same, in the same order, can be watched where it matters, at the calls to the system:

# %% tags=["nbval-check-output"]
def calls(write):
    """What a function asks of the system, in order."""
    seen = []

    def noting(name):
        real = getattr(os, name)
        return mock.patch(f"os.{name}", lambda *arguments: (seen.append(name), real(*arguments))[1])

    with tempfile.TemporaryDirectory() as folder, noting("fsync"), noting("replace"):
        write(Path(folder, "checkpoint"), b"new")
        assert os.listdir(folder) == ["checkpoint"]  # nothing is left beside it
    return seen


assert calls(write_whole) == calls(storage.write_file)
print("write_whole and the library's write_file:", *calls(storage.write_file))

# %% [markdown]
# The library adds what five lines leave out: a temporary name that nobody can foresee, words for a full disk, a mount that has vanished. Where
# power fails, a disk may still lie about what it has forced out; hence the checksum in each name, and the checkpoint before, which is kept.
#
# ## 5 · Before it starts: how long will it take, and where will it live?
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
recipe = MODERN if full else small
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
# ## 6 · Train, or continue
#
# There is one call for both. It looks into the run folder: if there is a checkpoint that is whole, it goes on from
# there, else it begins; its first line says which. `hours` is the budget of all sessions together, `session_hours` of
# this one: 11.5 leaves Colab half an hour. The stop button of the notebook, Ctrl-C and SIGTERM end it in good order at
# the next step, with a checkpoint. `history.csv` in the run folder has a row per epoch: the columns of figure 1.

# %%
run = runs_folder / f"09_hundred_hours_{recipe.name}_{data.fingerprint()[:8]}"  # other data, another run
if not full:
    run = runtime.new_run("09_undisturbed")  # section 7 compares with it: nothing of an earlier version may lie there
device = runtime.device() if full else cpu
history = runs.train(
    data, run, recipe, hours=hours, session_hours=session_hours, checkpoint_seconds=interval.seconds, device=device, progress=full
)
print(history[["epoch", "step", "train_loss", "validation_loss"]].tail(4).round(3).to_string(index=False))

# %% [markdown]
# ## 7 · Kill it
#
# Now for real, in another process, where it can be killed without killing this page: `python -m steelnb train`, as you
# would run it in a terminal. It has to end as the same training does that nobody disturbs: in the smoke profile that of section 6.

# %%
undisturbed, killed = runtime.new_run("09_undisturbed") if full else run, runtime.new_run("09_killed")
quiet = dict(progress=False, report=lambda line: None)
if full:
    runs.train(data, undisturbed, small, device=cpu, **quiet)

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
print(*(line for line in said.splitlines() if line.startswith("session")), sep="\n")
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
# | session ends, kernel dies, power fails | nothing; the next session writes *killed* into the ledger | the same call again: what section 5 foretold is lost |
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
# ## 10 · Several GPUs, several machines
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
#   goes on is another one. In Dice only the running statistics of the batch norms were missed (study `resume`). Batches that follow from (seed, epoch, index) need no random state and no fast-forward.
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
