"""The training loop of one session: steps, scores, checkpoints, stops."""

import contextlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

from steelnb import runtime, storage
from steelnb.losses import LOSSES
from steelnb.network import weights
from steelnb.runs import advice, identity
from steelnb.runs.checkpoints import Checkpoints
from steelnb.runs.identity import TrainingError
from steelnb.runs.session import REASONS, Session
from steelnb.training import batches
from steelnb.training.samples import Samples
from steelnb.training.trainer import Trainer
from steelnb.training.validation import validate


class Stop(Exception):
    """Ends the loop at a point from which it can resume. Its argument is a number in session.REASONS."""


class Loop:
    """The loop of one session: restores the saved state or starts a run, then `run_to_the_end`.

    A context that leaves no file incomplete. When it is constructed, there is a checkpoint of the state, so nothing is
    lost by a kill from then on.

    parts: samples to train on and to validate on. config: see `identity.run_config`. saved: the newest checkpoint's
    state, None for a new run. every: seconds between checkpoints. report: called with each line, progress: shows a bar.
    Raises TrainingError if the saved state does not fit the recipe.
    """

    def __init__(
        self, trainer: Trainer, parts: tuple[Samples, Samples], session: Session, checkpoints: Checkpoints,
        config: dict, saved: dict | None, every: float, report: Callable[[str], None], progress: bool,
    ) -> None:
        self.trainer, self.session, self.checkpoints, self.config = trainer, session, checkpoints, config
        self.training, self.validation = parts
        self.device, self.world, self.recipe = trainer.device, trainer.world, trainer.recipe
        self.report = report if self.world.first else lambda line: None
        self.run, self.total, self.every = session.run, config["steps"], every
        self.length = batches.epoch_length(self.training, self.recipe)
        self.ended, self._last_read, self._read_step, self._log_is_written = "finished", 0.0, -1, True
        hours = self._restore(saved) if saved else 0.0
        self.first_step = trainer.steps
        session.begin(hours, trainer.steps, _device_name(self.device), self.world.size)
        self._announce(new=saved is None)
        self.events = None
        if self.world.first:
            from torch.utils.tensorboard import SummaryWriter  # a second to import, for training alone

            _write_json(self.run / "config.json", self.config)
            self._write_history()
            if saved is None:
                self.save()
                self.checkpoints.wait()
            self.events = SummaryWriter(str(self.run / "tensorboard"), purge_step=trainer.steps + 1)
        self.bar = tqdm(total=self.total, initial=trainer.steps, desc="train", unit="step",
                        disable=not (progress and self.world.first))

    def __enter__(self) -> "Loop":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        for part in (self.bar, self.events):
            if part is not None:
                with contextlib.suppress(OSError):  # TensorBoard's events are not essential
                    part.close()
        with contextlib.suppress(storage.StorageError) if kind else contextlib.nullcontext():
            self.checkpoints.wait()

    def _restore(self, saved: dict) -> float:
        """Restores a saved state; returns the hours of earlier sessions."""
        changed = identity.differences(saved["about"], self.config)
        try:
            hours = float(saved["hours"])
            self.trainer.restore(saved, changed=bool(changed))
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise TrainingError(f"{self.run}: its checkpoint does not fit this recipe: {error}") from None
        if not identity.same_scores(saved["about"], self.config):
            self.trainer.best = -1.0
            self.report("validation images or labels have changed: the best epoch is chosen among the next ones")
        return hours

    def _announce(self, new: bool) -> None:
        trainer, session = self.trainer, self.session
        if new:
            self.report(f"{session.line(0, 0, 0)} · a new run of {self.total} steps")
        elif self.finished:
            self.report(
                f"{session.line(0, 0, 0)} · this run is finished: {trainer.steps} steps, {trainer.epoch} epochs"
            )
        else:
            self.report(f"{session.line(0, trainer.steps, self.total - trainer.steps)} · goes on after step "
                        f"{trainer.steps} of {self.total}, in epoch {trainer.epoch + 1}")
        if self.recipe.compile and not runtime.compiles(self.device):
            self.report("not compiled: torch.compile needs a CUDA card of capability 7.0 or newer, and Triton")

    @property
    def finished(self) -> bool:
        """Whether all steps are done and the last epoch is scored."""
        return self.trainer.steps >= self.total and self.trainer.seen == 0

    def run_to_the_end(self) -> None:
        """Trains until all steps are done or a stop is requested; everything is on disk when it returns."""
        try:
            while not self.finished:
                self._train_to_the_end_of_the_epoch()
                self._score()
        except Stop as stop:
            self.ended = REASONS[stop.args[0]]
        except torch.OutOfMemoryError:
            raise TrainingError(
                f"the GPU has too little memory for batches of {self.recipe.batch}: use a smaller batch or a smaller "
                "crop, and free the memory of other notebooks (restart their kernels). " + self._kept()
            ) from None
        if not self.world.first:
            return
        if self.trainer.steps > self.first_step or self.ended != "finished":
            self.save()
        self.checkpoints.wait()
        self.session.note(to_step=self.trainer.steps, ended=self.ended)
        if self.ended != "finished":
            how = "With more hours it" if self.ended == REASONS[1] else "The same call, or command,"
            self.report(f"{self.ended}: after step {self.trainer.steps} of {self.total}. {how} goes on")
        elif explanation := advice.explain_failure(self.trainer.history, self.recipe, self.training.data):
            self.report(explanation)
        if self.checkpoints.written:
            share = self.checkpoints.spent / (3600 * self.session.elapsed)
            self.report(f"{self.checkpoints.written} checkpoints took {share:.2%} of this session's time")

    def save(self, best: dict | None = None) -> None:
        """Saves a checkpoint and, given the scores of the best epoch so far, weights.safetensors too."""
        state = self.trainer.state() | {"about": self.config, "hours": self.session.total}
        if not math.isfinite(loss := self.trainer.mean_loss):
            raise TrainingError(self._not_finite(f"the loss became {loss}"))
        parts = [state[name].values() for name in ("model", "average") if name in state]
        if not all(tensor.isfinite().all() for part in parts for tensor in part):
            raise TrainingError(self._not_finite("a weight became infinite or NaN"))
        about = self.config | {"epoch": self.trainer.epoch, "scores": best}

        def save_weights(copy: dict) -> None:
            if best is not None:
                scored = copy.get("average", copy["model"])
                weights.save_network(self.run / "weights.safetensors", self.trainer.averaged, about, scored)

        self.checkpoints.save(
            state, self.trainer.steps, best is not None, before=save_weights,
            after=lambda copy: self.session.note(to_step=copy["step"]),
        )

    def _train_to_the_end_of_the_epoch(self) -> None:
        trainer = self.trainer
        if trainer.seen >= self.length or trainer.steps >= self.total:
            return  # trained, but stopped before it was scored
        trainer.begin()
        for batch in batches.iter_batches(
            self.training, self.recipe, trainer.epoch, trainer.seen, self.world.share, self.device
        ):
            trainer.step(*batch)
            self.bar.update()
            self._between_steps()
            if trainer.steps >= self.total:
                break
        if self._read_step != trainer.steps:  # else one step would have two points in TensorBoard
            self._read_loss()

    def _between_steps(self) -> None:
        if time.perf_counter() - self._last_read >= 1:
            self._read_loss()
        if reason := self.world.agreed(self.session.asked_to_stop()):
            raise Stop(reason)
        if self.world.first and self.checkpoints.due(self.every):
            self.save()

    def _read_loss(self) -> None:
        """Reads the loss, which waits for the GPU: once per second, and before an epoch is scored."""
        self._last_read, self._read_step, loss = time.perf_counter(), self.trainer.steps, self.trainer.mean_loss
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
        scores = self.world.broadcast(
            lambda: validate(trainer.averaged, self.validation, loss, not self.bar.disable, stop_if_asked)
        )
        if not math.isfinite(scores["loss"]):
            raise TrainingError(self._not_finite(f"the validation loss became {scores['loss']}"))
        better = trainer.end_epoch(scores)
        if not self.world.first:
            return
        row = trainer.history[-1]
        self._write_history()
        self._event("epoch", row)
        if better or self.checkpoints.due(self.every):
            self.save(scores if better else None)
        line = session.line(trainer.steps - self.first_step, trainer.steps, self.total - trainer.steps)
        epochs = math.ceil(self.total / math.ceil(self.length / self.recipe.batch))
        self.report(
            f"{line} · epoch {trainer.epoch:>3} of {epochs} · loss {row['train_loss']:.3f} · validation loss "
            f"{scores['loss']:.3f} · Dice on defective images {scores['dice']:.3f}"
        )

    def _event(self, group: str, values: dict[str, float]) -> None:
        """Writes to TensorBoard; an error there does not stop the run."""
        try:
            for name, value in values.items():
                if self.events is not None:
                    self.events.add_scalar(f"{group}/{name}", value, self.trainer.steps)
        except OSError as error:
            self.events = None
            self.report(f"no more events for TensorBoard in this session: {error}")

    def _write_history(self) -> None:
        """Writes history.csv; a failure does not stop the run, and the next epoch writes everything."""
        path = self.run / "history.csv"
        try:
            if self.trainer.history:
                storage.write_file(path, pd.DataFrame(self.trainer.history).to_csv(index=False).encode())
            else:  # an old file may contain an epoch that is in no checkpoint
                storage.delete_file(path)
            self._log_is_written = True
        except storage.StorageError as error:
            if self._log_is_written:
                self.report(f"the run continues without its log: {error}")
            self._log_is_written = False

    def _not_finite(self, what: str) -> str:
        return (
            f"{what} in epoch {self.trainer.epoch + 1}, near step {self.trainer.steps}: lower the learning rate "
            f"({self.recipe.learning_rate:g}), and resume with accept_changes. " + self._kept()
        )

    def _kept(self) -> str:
        best = f"; the best weights have Dice {max(self.trainer.best, 0):.3f}" if self.trainer.history else ""
        return f"The last checkpoint is untouched{best}"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def _write_json(path: Path, content: dict) -> None:
    storage.write_file(path, json.dumps(content, indent=1, ensure_ascii=False).encode())
