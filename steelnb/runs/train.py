"""One recipe trained on one data set, over any number of sessions.  Taught in 09_hundred_hours.

A run folder holds

    config.json          recipe, seed, data, versions: the settings that must match to resume the run
    history.csv          one row per epoch: losses and scores
    groups.csv           which images show the same steel and stay on one side of the split
    sessions.csv         one row per session: start, duration, device, why it ended
    tensorboard/         the curves, updated while training
    checkpoints/         everything needed to resume as if the run had never stopped
    weights.safetensors  the epoch with the best validation Dice on defective images (so that Dice is slightly too high)
"""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from steelnb import runtime
from steelnb.data.dataset import SteelData
from steelnb.data.image_cache import ImageCache
from steelnb.data.images import size_text
from steelnb.runs import advice, copies, identity
from steelnb.runs.checkpoints import Checkpoints
from steelnb.runs.identity import TrainingError
from steelnb.runs.session import Session
from steelnb.runs.training_loop import Loop
from steelnb.training import batches, distributed
from steelnb.training.recipes import Recipe
from steelnb.training.samples import Samples
from steelnb.training.trainer import Trainer


def train(
    data: SteelData,
    run: str | Path,
    recipe: Recipe,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    hours: float | None = None,
    session_hours: float | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    checkpoint_seconds: float = 60.0,
    accept_changes: bool = False,
    ignore_copies: bool = False,
    progress: bool = True,
    report: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Trains a network on `data` by `recipe`, or resumes the run in `run`. Returns the history, one row per epoch.

    epochs: instead of the recipe's number; steps: instead of epochs (the last epoch may then be incomplete).
    hours: without epochs and steps, a one-cycle schedule is shortened to end within these hours; see `advice`.
    hours, session_hours: limits in wall-clock hours for all sessions and for this one. At a limit, on Ctrl-C, on the
        notebook's stop button and on SIGTERM, it stops cleanly at the next step, with a checkpoint. To resume, call it
        again.
    checkpoint_seconds: between checkpoints; longer if they would cost more than 1 % of the time. 0: after every step.
    accept_changes: resumes although recipe, seed, length, data or steelnb's version differ from those of the run.
        Images stay on their side of the split; new images are split among themselves.
    ignore_copies: do not search for images that show the same steel (by default they stay on one side of the split).
    progress: shows a bar over steps. report: called with one line per session and per epoch. All randomness follows
        from `seed`.
    Seconds in the history are of training alone, without the scoring between epochs. `history.attrs["ended"]` is
    "finished", or why this session stopped earlier.

    Raises TrainingError for a different run in the folder, images of several sizes without crops, a loss that is not
    finite, and a GPU without enough memory; ValueError for data that cannot be split; storage.StorageError if files
    cannot be written; SessionError if another process uses the run; CheckpointError if no checkpoint is usable. The
    last good checkpoint always remains, and the run folder is not created before the data has been read.
    """
    run = Path(run)
    with distributed.world() as processes:
        device = device or runtime.device()
        if recipe.batch < processes.size:
            raise TrainingError(f"a batch of {recipe.batch} cannot be divided among {processes.size} processes")
        groups = None
        if not ignore_copies:
            groups = processes.broadcast(partial(copies.find_groups, data, recipe, run, progress))
            data = copies.with_copies_grouped(data, groups, report if processes.first else lambda line: None)
        fresh = batches.split_items(data, recipe, seed)
        cache = ImageCache(data, progress=progress and processes.first)
        if recipe.crop is None and recipe.batch > 1 and len(data.images[["height", "width"]].drop_duplicates()) > 1:
            raise TrainingError(f"{data.name}: images of several sizes do not fit into one batch: use a recipe with "
                                "crops, or a batch of 1")
        if processes.first:
            (run / "checkpoints").mkdir(parents=True, exist_ok=True)
            copies.save_groups(groups, run)
        # Data workers of a GPU training outlive a killed run by a few seconds, and hold its lock.
        patience = 10.0 if device.type == "cuda" else 1.0
        outputs = len(data.classes) if recipe.per_class else 1
        with (
            runtime.threads_for(recipe.model, device),
            Session(run, hours, session_hours, patience, leads=processes.first, report=report) as session,
        ):
            checkpoints = Checkpoints(run / "checkpoints", competes=device.type == "cpu")
            saved = processes.broadcast(partial(identity.newest_state, run, checkpoints, report))
            sides = identity.kept_sides(saved["about"], data, recipe, seed, fresh) if saved else fresh
            parts = batches.training_and_validation_samples(data, recipe, seed, sides, cache)
            if processes.first and parts[0].crop != (recipe.crop and tuple(recipe.crop)):
                report(f"crops are {size_text(*parts[0].crop)} instead of {size_text(*recipe.crop)}: half of the "
                       "images are no larger")
            per_epoch = math.ceil(batches.epoch_length(parts[0], recipe) / recipe.batch)
            total = steps or (epochs or recipe.epochs) * per_epoch
            if hours is not None and not (steps or epochs) and recipe.schedule == "one-cycle":
                fitted = partial(_fitted_steps, data, recipe, parts[0], total, hours, device, report)
                total = saved["about"]["steps"] if saved else processes.broadcast(fitted)
            config = identity.run_config(data, recipe, seed, total, sides, cache.digest, torch.get_num_threads())
            if saved:
                then = saved["about"]
                processes.broadcast(partial(identity.check_resume, run, then, config, accept_changes, report))
            trainer = Trainer(recipe, outputs, total, seed, device, processes)
            with Loop(
                trainer, parts, session, checkpoints, config, saved, checkpoint_seconds, report, progress
            ) as loop:
                loop.run_to_the_end()
    history = pd.DataFrame(trainer.history)
    history.attrs["ended"] = loop.ended
    return history


def _fitted_steps(
    data: SteelData, recipe: Recipe, samples: Samples, total: int, hours: float, device: torch.device, report: Callable
) -> int:
    """Length, in steps, of a new run that ends within its hours."""
    fit = advice.fitted_steps(total, hours, seconds_a_step(data, recipe, device=device, samples=samples))
    if fit < total:
        report(f"{fit} of the recipe's {total} steps fit into {hours:g} hours; the schedule is shortened to end then")
    return fit


def seconds_a_step(
    data: SteelData, recipe: Recipe, steps: int = 3, device: torch.device | None = None, samples: Samples | None = None
) -> float:
    """Measured seconds per training step here: the median of `steps` steps of a new network, after one to warm up.

    samples: training samples, if they exist already.
    """
    device = device or runtime.device()
    training = samples or batches.training_and_validation_samples(data, recipe, seed=0)[0]
    trainer = Trainer(recipe, len(data.classes) if recipe.per_class else 1, steps + 1, 0, device)
    measured = []
    trainer.begin()
    for batch in batches.iter_batches(training, recipe, 0, device=device):
        before = time.perf_counter()
        trainer.step(*batch)
        trainer.summed.item()  # waits for a GPU
        measured.append(time.perf_counter() - before)
        if len(measured) > steps:
            break
    return float(np.median(measured[1:] or measured))
