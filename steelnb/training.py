"""The training of one recipe on one data set, in one run folder, over any number of sessions.

Taught in 07_hundred_hours. A run folder holds

    config.json          recipe, seed, data, versions: what makes this run this run
    history.csv          a row an epoch: losses and scores
    sessions.csv         a row a session: when, how long, on what, how it ended
    tensorboard/         the curves, live
    checkpoints/         everything needed to go on as if nothing had happened
    weights.safetensors  the epoch with the best validation Dice on defective images (which flatters it a little)
"""

import contextlib
import json
import math
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

import steelnb
from steelnb import distributed, durable, loading, runtime, weights
from steelnb.checkpoints import Checkpoints
from steelnb.data import SteelData
from steelnb.evaluate import evaluate
from steelnb.losses import LOSSES
from steelnb.recipes import Recipe
from steelnb.session import REASONS, Session
from steelnb.trainer import Trainer

MUST_MATCH = ("version", "recipe", "seed", "steps", "data")


class TrainingError(RuntimeError):
    """Training that cannot go on. The message says why and what to do."""


class Stop(Exception):
    """Ends the loop where it can go on later. Its argument is a number in session.REASONS."""


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
    progress: bool = True,
    report: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Trains a network on `data` by `recipe`, or goes on where `run` left off. Returns the history, a row an epoch.

    epochs: instead of the recipe's number; steps: instead of epochs (the last epoch may then be a part of one).
    hours, session_hours: of wall clock, over all sessions and in this one, after which it stops cleanly, as it does on
        Ctrl-C, the notebook's stop button and SIGTERM: with a checkpoint, at the next step. Call it again to go on.
    checkpoint_seconds: between checkpoints; longer where they would cost more than 1 % of the time.
    accept_changes: goes on although recipe, seed, length, data or steelnb's version are not those of the run.
    progress: a bar over steps. `report` gets a line a session and an epoch. Everything random follows from `seed`.
    Seconds in the history are of training alone, without the scoring between epochs.

    Raises TrainingError for a run that is not this one, images that make no batch, a loss that is not finite, and a GPU
    without memory; ValueError for data that cannot be split; durable.StorageError where nothing can be written;
    SessionError for a run that another process is busy with; CheckpointError where no checkpoint can be used. All leave
    the last good checkpoint as it is, and the run folder is not made before the data has been read.
    """
    run = Path(run)
    with distributed.world() as processes:
        device = device or runtime.device()
        if recipe.batch < processes.size:
            raise TrainingError(f"a batch of {recipe.batch} cannot be shared by {processes.size} processes")
        parts = loading.parts(data, recipe, seed, progress and processes.first)
        if recipe.crop is None and recipe.batch > 1 and len(data.images[["height", "width"]].drop_duplicates()) > 1:
            raise TrainingError(f"{data.name}: images of several sizes do not fit into one batch: take a recipe with "
                                "crops, or a batch of 1")  # fmt: skip
        per_epoch = math.ceil(loading.epoch_length(parts[0], recipe) / recipe.batch)
        total = steps or (epochs or recipe.epochs) * per_epoch
        trainer = Trainer(recipe, len(data.classes) if recipe.per_class else 1, total, seed, device, processes)
        if processes.first:
            (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        # A GPU's data workers outlive a killed run by some seconds, and hold its lock.
        patience = 10.0 if device.type == "cuda" else 1.0
        with (
            Session(run, hours, session_hours, patience, leads=processes.first) as session,
            _Loop(trainer, parts, total, run, session, checkpoint_seconds, report) as loop,
        ):
            loop.about = _about(data, recipe, seed, total)
            saved = processes.told(partial(_opened, run, loop.about, loop.checkpoints, accept_changes, report))
            loop.open(saved, progress)
            loop.run_to_the_end()
    return pd.DataFrame(trainer.history)


def seconds_a_step(data: SteelData, recipe: Recipe, steps: int = 3, device: torch.device | None = None) -> float:
    """What one step takes here, measured: the median of `steps` real ones on a network made for it, after a first."""
    device = device or runtime.device()
    training, _ = loading.parts(data, recipe, seed=0)
    trainer = Trainer(recipe, len(data.classes) if recipe.per_class else 1, steps + 1, 0, device)
    taken = []
    trainer.begin()
    for batch in loading.batches(training, recipe, 0, device=device):
        before = time.perf_counter()
        trainer.take(*batch)
        trainer.summed.item()  # waits for a GPU
        taken.append(time.perf_counter() - before)
        if len(taken) > steps:
            break
    return float(np.median(taken[1:] or taken))


class _Loop:
    """The parts of one session, and the loop itself; a context that leaves nothing half written."""

    def __init__(self, trainer: Trainer, parts: tuple, total: int, run: Path, session: Session, every: float, report):
        self.trainer, self.total, self.run, self.session, self.every = trainer, total, run, session, every
        self.training, self.validation = parts
        self.device, self.world, self.recipe = trainer.device, trainer.world, trainer.recipe
        self.report = report if self.world.first else lambda line: None
        self.checkpoints = Checkpoints(run / "checkpoints")
        self.length = loading.epoch_length(self.training, self.recipe)
        self.about, self.bar, self.events = {}, None, None
        self._looked = 0.0

    def __enter__(self) -> "_Loop":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        for part in (self.bar, self.events):
            if part is not None:
                with contextlib.suppress(OSError):  # of the events: what matters is elsewhere
                    part.close()
        with contextlib.suppress(durable.StorageError) if kind else contextlib.nullcontext():
            self.checkpoints.wait()

    def open(self, saved: dict | None, progress: bool) -> None:
        """Takes a saved state or begins a run; either way there is a checkpoint before the first step."""
        trainer, session = self.trainer, self.session
        if saved is not None:
            changed = _differences(saved["about"], self.about)
            try:
                trainer.restore(saved, changed=bool(changed))
            except (ValueError, RuntimeError, KeyError) as error:
                raise TrainingError(f"{self.run}: its checkpoint does not fit this recipe: {error}") from None
        self.first_step = trainer.step
        session.begin(saved["hours"] if saved else 0.0, trainer.step, _device_name(self.device), self.world.size)
        if saved is None:
            self.report(f"{session.line(0, 0, 0)} · a new run of {self.total} steps")
        elif self.finished:
            self.report(f"{session.line(0, 0, 0)} · this run is finished: {trainer.step} steps, {trainer.epoch} epochs")
        else:
            self.report(f"{session.line(0, trainer.step, self.total - trainer.step)} · goes on after step "
                        f"{trainer.step} of {self.total}, in epoch {trainer.epoch + 1}")  # fmt: skip
        if self.world.first:
            from torch.utils.tensorboard import SummaryWriter  # a second to import, for training alone

            _write_json(self.run / "config.json", self.about)
            self._write_history()
            if saved is None:
                self.save()
                self.checkpoints.wait()
            self.events = SummaryWriter(str(self.run / "tensorboard"), purge_step=trainer.step + 1)
        self.bar = tqdm(total=self.total, initial=trainer.step, desc="train", unit="step",
                        disable=not (progress and self.world.first))  # fmt: skip

    @property
    def finished(self) -> bool:
        """All steps taken, and the last epoch scored."""
        return self.trainer.step >= self.total and self.trainer.seen == 0

    def run_to_the_end(self) -> None:
        """Epochs until all steps are taken or something asks to stop; ends with everything on the disk."""
        ended = "finished"
        try:
            while not self.finished:
                self._train_to_the_end_of_the_epoch()
                self._score()
        except Stop as stop:
            ended = REASONS[stop.args[0]]
        except torch.OutOfMemoryError:
            raise TrainingError(
                f"the GPU has too little memory for batches of {self.recipe.batch}: take a smaller batch or a smaller "
                "crop, and free what other notebooks hold (restart their kernels). " + self._kept()
            ) from None
        if not self.world.first:
            return
        if self.trainer.step > self.first_step or ended != "finished":
            self.save()
        self.checkpoints.wait()
        self.session.note(to_step=self.trainer.step, ended=ended)
        if ended != "finished":
            self.report(f"{ended}: after step {self.trainer.step} of {self.total}. The same call, or command, goes on")
        if self.checkpoints.written:
            share = self.checkpoints.spent / (3600 * self.session.elapsed)
            self.report(f"{self.checkpoints.written} checkpoints held the training up for {share:.2%} of this session")

    def save(self, best: dict | None = None) -> None:
        """A checkpoint; with the scores of the best epoch so far, also the weights for use elsewhere."""
        state = self.trainer.state() | {"about": self.about, "hours": self.session.total}
        if not all(tensor.isfinite().all() for tensor in self.trainer.model.state_dict().values()):
            raise TrainingError(self._not_finite("a weight became infinite or NaN"))
        about = self.about | {"epoch": self.trainer.epoch, "scores": best}

        def before(copy: dict) -> None:  # the checkpoint is written
            self.session.note(to_step=copy["step"])
            if best is not None:
                weights.save(self.run / "weights.safetensors", self.trainer.model, about, copy["model"])

        self.checkpoints.save(state, self.trainer.step, best is not None, before)

    def _train_to_the_end_of_the_epoch(self) -> None:
        trainer = self.trainer
        if trainer.seen >= self.length or trainer.step >= self.total:
            return  # trained, but a stop came before it was scored
        trainer.begin()
        for batch in loading.batches(
            self.training, self.recipe, trainer.epoch, trainer.seen, self.world.share, self.device
        ):
            trainer.take(*batch)
            self.bar.update()
            self._between_steps()
            if trainer.step >= self.total:
                break
        self._look()

    def _between_steps(self) -> None:
        if time.perf_counter() - self._looked >= 1:
            self._look()
        if reason := self.world.agreed(self.session.asked_to_stop()):
            raise Stop(reason)
        if self.world.first and self.checkpoints.due(self.every):
            self.save()

    def _look(self) -> None:
        """Reads the loss, which makes a GPU wait: once a second, and before an epoch is scored."""
        self._looked, loss = time.perf_counter(), self.trainer.mean_loss
        if not math.isfinite(loss):
            raise TrainingError(self._not_finite(f"the loss became {loss}"))
        self.bar.set_postfix(loss=f"{loss:.3f}")
        self._event("running", {"loss": loss, "learning_rate": self.trainer.optimizer.param_groups[0]["lr"]})

    def _score(self) -> None:
        trainer, session = self.trainer, self.session

        def stop_if_asked() -> None:
            if reason := session.asked_to_stop():
                raise Stop(reason)

        loss = LOSSES[self.recipe.loss]
        scores = self.world.told(
            lambda: evaluate(trainer.model, self.validation, loss, not self.bar.disable, stop_if_asked)
        )
        better = trainer.scored(scores)
        if not self.world.first:
            return
        row = trainer.history[-1]
        self._write_history()
        self._event("epoch", row)
        if better or self.checkpoints.due(self.every):
            self.save(scores if better else None)
        sitting = session.line(trainer.step - self.first_step, trainer.step, self.total - trainer.step)
        epochs = math.ceil(self.total / math.ceil(self.length / self.recipe.batch))
        self.report(
            f"{sitting} · epoch {trainer.epoch:>3} of {epochs} · loss {row['train_loss']:.3f} · validation loss "
            f"{scores['loss']:.3f} · Dice on defective images {scores['dice']:.3f}"
        )

    def _event(self, group: str, values: dict[str, float]) -> None:
        """To TensorBoard; a run does not die of its curves."""
        try:
            for name, value in values.items():
                if self.events is not None:
                    self.events.add_scalar(f"{group}/{name}", value, self.trainer.step)
        except OSError as error:
            self.events = None
            self.report(f"no more events for TensorBoard in this session: {error}")

    def _write_history(self) -> None:
        durable.write(self.run / "history.csv", pd.DataFrame(self.trainer.history).to_csv(index=False).encode())

    def _not_finite(self, what: str) -> str:
        return (
            f"{what} in epoch {self.trainer.epoch + 1}, near step {self.trainer.step}: lower the learning rate "
            f"({self.recipe.learning_rate:g}), and go on with accept_changes. " + self._kept()
        )

    def _kept(self) -> str:
        best = f"; the best weights are of {max(self.trainer.best, 0):.3f} Dice" if self.trainer.history else ""
        return f"The last checkpoint is untouched{best}"


def _about(data: SteelData, recipe: Recipe, seed: int, total: int) -> dict:
    """What makes a run this run; goes into config.json, every checkpoint and the weights."""
    sides = loading.split(data, recipe, seed)
    return {
        "version": steelnb.__version__,
        "recipe": json.loads(json.dumps(recipe.to_dict())),  # as it will be read back: lists, not tuples
        "seed": seed,
        "steps": total,
        "data": {"name": data.name, "fingerprint": data.fingerprint(), "classes": list(data.classes)},
        "training": sorted({item.image_id for item in sides[0]}),
        "validation": sorted({item.image_id for item in sides[1]}),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__},
    }


def _opened(run: Path, about: dict, checkpoints: Checkpoints, accept_changes: bool, report: Callable) -> dict | None:
    """The state to go on from, None for a new run. Raises TrainingError where it is another run's."""
    saved = checkpoints.load(report)
    if saved is None:
        if (run / "history.csv").exists() or (run / "weights.safetensors").exists():
            raise TrainingError(f"{run} holds a run without checkpoints: name another folder, or delete this one")
        return None
    if differences := _differences(saved["about"], about):
        told = "; ".join(differences)
        if not accept_changes:
            raise TrainingError(
                f"{run} holds another run ({told}): give what it was begun with, name another folder, or go on all the "
                "same with accept_changes (--accept-changes)"
            )
        report(f"goes on although this differs: {told}")
    for name, then in saved["about"]["versions"].items():
        if (now := about["versions"][name]) != then:
            report(f"{name} is {now} now and was {then}: the last digits may differ")
    return saved


def _differences(then: dict, now: dict) -> list[str]:
    """In words, what of two runs is not the same."""

    def flat(value, name: str) -> dict:
        if isinstance(value, dict) and value:
            return {k: v for key, inner in value.items() for k, v in flat(inner, f"{name}.{key}").items()}
        return {name: value}

    found = []
    for part in MUST_MATCH:
        a, b = flat(then.get(part), part), flat(now.get(part), part)
        found += [f"{name} was {a.get(name)!r} and is {b.get(name)!r}" for name in a | b if a.get(name) != b.get(name)]
    return found


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def _write_json(path: Path, content: dict) -> None:
    durable.write(path, json.dumps(content, indent=1, ensure_ascii=False).encode())
