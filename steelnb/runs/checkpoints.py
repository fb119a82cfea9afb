"""Everything a run needs to resume, stored so that no kill or full disk can spoil it.  Taught in 09_hundred_hours.

A checkpoint folder has one file per checkpoint, `step-000001200.3f2a….pt`, and `manifest.json`, written last, which
lists the valid ones. A file is a dict written by torch.save, with the first 16 digits of its SHA-256 in its name (after
`-best` if it was the best so far), so each file can be verified by itself, even if the manifest is lost.
"""

import io
import json
import math
import re
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from steelnb import storage

NAME = re.compile(r"step-(\d{9})(-best)?\.([0-9a-f]{16})\.pt")
MANIFEST = "manifest.json"
MOST = 0.01  # largest share of the time spent on checkpoints


class CheckpointError(RuntimeError):
    """Checkpoints cannot be used. The message says which, why, and what to do."""


class Checkpoints:
    """The checkpoints of one run: the newest `keep` and the best, written in the background.

    competes: whether writing slows the caller down, as it does when both use the CPU.
    spent: seconds lost to checkpoints so far: copying the state, waiting for an earlier write, and, if writing
        competes, its CPU time. written: number of checkpoints written.
    """

    def __init__(self, folder: str | Path, keep: int = 2, competes: bool = False) -> None:
        self.folder, self.keep, self.competes = Path(folder), keep, competes
        self.spent, self.written = 0.0, 0
        self._names: list[str] = []  # oldest first, as in the manifest
        self._cost, self._saved_at = 0.0, -math.inf
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future | None = None

    def due(self, every: float) -> bool:
        """Whether to save now: `every` seconds after the last save, later if that would cost more than 1 % of the time
        (0: at any cost), and never while the last checkpoint is still being written."""
        if self._pending is not None and not self._pending.done():
            return False
        return not every or time.perf_counter() - self._saved_at >= max(every, self._cost / MOST)

    def save(
        self, state: dict, step: int, best: bool = False, before: Callable[[dict], None] = lambda copy: None,
        after: Callable[[dict], None] = lambda copy: None,
    ) -> None:
        """Copies `state` in memory and writes it in the background; returns once it is copied.

        state: tensors, plain numbers, text, lists and dicts; TypeError for anything else. before, after: called in the
        background with the copy, before it is written (for files that must exist once the checkpoint does) and after.
        Raises the StorageError of the previous write, if it failed.
        """
        started = time.perf_counter()
        self.wait()
        copy = _copied(state)
        self._saved_at = time.perf_counter()
        self._cost = self._saved_at - started
        self.spent += self._cost
        self._pending = self._writer.submit(self._write, copy, step, best, before, after)

    def wait(self) -> None:
        """Waits until everything is on disk. Raises storage.StorageError if a write failed."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def load(self, report: Callable[[str], None] = print) -> dict | None:
        """The newest intact state, or None if no checkpoint was ever written.

        A checkpoint that is truncated, changed in any byte, empty or missing is reported, and the previous one is used.
        Raises CheckpointError if there are checkpoints but none is usable, so that nobody starts over by mistake.
        """
        names, wrong = self._listed(report), []
        while names:
            try:
                state = read_checkpoint(self.folder / names[-1])
            except CheckpointError as error:
                names.pop()
                wrong.append(str(error))
                report(f"checkpoint {error}: {'the one before it is taken' if names else 'there is none before it'}")
            else:
                self._names = names
                return state
        if wrong:
            raise CheckpointError(
                f"no checkpoint in {self.folder} can be used ({'; '.join(wrong)}). Restore a copy of the folder, or "
                "start a new run in another one"
            )
        return None

    def _listed(self, report: Callable[[str], None]) -> list[str]:
        """The checkpoints' names, oldest first: from the manifest, or from the files if it is missing or damaged."""
        found = sorted(path.name for path in self.folder.glob("step-*.pt") if NAME.fullmatch(path.name))
        try:
            listed = json.loads((self.folder / MANIFEST).read_bytes())
            if listed.pop("sha256") != storage.sha256(json.dumps(listed).encode()):
                raise ValueError
            if all(NAME.fullmatch(name) for name in listed["checkpoints"]):  # TypeError for anything but text
                return listed["checkpoints"]
            raise ValueError
        except FileNotFoundError:
            if found:
                report(f"{MANIFEST} is missing: checkpoints are listed by their file names")
        except (ValueError, KeyError, TypeError, AttributeError):
            report(f"{MANIFEST} is damaged: checkpoints are listed by their file names")
        return found

    def _write(self, state: dict, step: int, best: bool, before: Callable, after: Callable) -> None:
        started = time.thread_time()  # CPU time: waiting for a disk does not slow the training down
        before(state)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        name = f"step-{step:09d}{'-best' * best}.{storage.sha256(content)[:16]}.pt"
        storage.write_file(self.folder / name, content)
        names = [*(n for n in self._names if n != name), name]
        bests = [n for n in names if NAME.fullmatch(n)[2]]
        self._names = [n for n in names if n in names[-self.keep :] + bests[-1:]]
        listed = {"checkpoints": self._names}
        listed["sha256"] = storage.sha256(json.dumps(listed).encode())
        storage.write_file(self.folder / MANIFEST, json.dumps(listed, indent=1).encode())
        for path in self.folder.glob("step-*.pt"):  # those dropped now, and those that a killed process left behind
            if NAME.fullmatch(path.name) and path.name not in self._names:
                storage.delete_file(path)
        storage.delete_unfinished(self.folder)
        after(state)
        self.written += 1
        if self.competes:
            self._cost += time.thread_time() - started
            self.spent += time.thread_time() - started


def read_checkpoint(path: str | Path) -> dict:
    """The state in one checkpoint file, on the CPU. Raises CheckpointError saying what is wrong with it."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path.name} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read ({error.strerror})") from None
    if not content:
        raise CheckpointError(f"{path.name} is empty")
    if (name := NAME.fullmatch(path.name)) is None:
        raise CheckpointError(f"{path.name} is not named like a checkpoint")
    if storage.sha256(content)[:16] != name[3]:
        raise CheckpointError(f"{path.name} has changed since it was written (its SHA-256 differs)")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types; all mean that this file cannot be used
        calls = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it would run {calls[1]}" if calls else f"torch cannot read it ({type(error).__name__})"
        raise CheckpointError(f"{path.name} is refused: {reason}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path.name} is refused: it contains a {type(state).__name__}, not a dict")
    return state


def _copied(value):
    """A deep copy on the CPU, sharing no memory with tensors that training changes. Raises TypeError for values that
    could not be loaded again without running code."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {_copied(key): _copied(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(inner) for inner in value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"a checkpoint contains tensors and plain types, not {type(value).__name__}: {value!r}")
