"""Training in processes that can be killed: forked from one that has imported torch already, so each begins at once."""

import csv
import multiprocessing
import os
import random
import signal
import threading
import time
import traceback
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from steelnb import runs, storage
from steelnb.data import dataset
from steelnb.runs.checkpoints import read_checkpoint
from steelnb.training.recipes import SMOKE
from steelnb.training.trainer import Trainer

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["lives", "torch.utils.tensorboard", "torch.distributed"])

RECIPE = SMOKE.changed(name="survivor", model=dict(width=3, depth=1), loss="dice", crop=(32, 32), learning_rate=0.02,
                       batch=2, epochs=20, epoch_samples=40, scored=2)


HURRIED = 10  # steps of a life that is to be killed; then it takes half a second for each


def life(
    folder: Path, run: Path, options: dict, die_at: int | None = None, doomed: bool = False, rank: tuple | None = None
) -> None:
    """Trains; dies by SIGKILL right before or after file operation number `die_at`, if it comes to that.

    One that is `doomed` comes to no end of its own, however late a busy machine sends the kill.
    """
    os.environ["STEELNB_HOME"] = str(run.parent / "home")
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a killed process leaves behind
    if rank is not None:
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        os.environ.update(zip(names, map(str, (rank[0], *rank)), strict=True))
    if die_at is not None:
        die_in_a_file_operation(die_at)
    if doomed:
        take_its_time()
    recipe = RECIPE.changed(**options.pop("recipe", {}))
    try:
        data, cpu = dataset.read_dataset(folder), torch.device("cpu")
        runs.train(
            data, run, recipe, device=cpu, checkpoint_seconds=0, progress=False, report=lambda line: None, **options
        )
    except Exception:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def die_in_a_file_operation(number: int) -> None:
    """Of all calls that change files durably, before (even) or after (odd) the `number // 2`-th, this process dies."""
    calls = 0

    def deadly(function):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if number == 2 * calls:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **options)
            if number == 2 * calls + 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    storage.os = type("DeadlyOs", (), {**vars(os)})
    for name in ("fsync", "replace", "truncate", "unlink"):
        setattr(storage.os, name, staticmethod(deadly(getattr(os, name))))


def take_its_time() -> None:
    """Slows the training thread of this process down after some steps; the one that writes goes on as ever."""
    take, steps = Trainer.step, 0

    def slowly(*arguments):
        nonlocal steps
        steps += 1
        if steps > HURRIED:
            time.sleep(0.5)
        take(*arguments)

    Trainer.step = slowly


def start(folder, run, *, die_at=None, doomed=False, rank=None, **options):
    """A life, begun."""
    process = FORKS.Process(target=life, args=(folder, run, options, die_at, doomed, rank), daemon=True)
    process.start()
    return process


def killed_again_and_again(folder: Path, run: Path, kills: int, seed: int = 0, **options) -> dict[str, int]:
    """Begins a training `kills` times, kills it each time, then lets it end. How often in which way it was killed."""
    rng, ways = random.Random(seed), {"by the clock": 0, "in a file operation": 0}
    for number in range(kills + 1):
        way = list(ways)[number % 2]
        last, by_clock = number == kills, way == "by the clock"
        die_at = None if last or by_clock else rng.randrange(2, 120)
        process = start(folder, run, die_at=die_at, doomed=not last, **options)
        if by_clock and not last:
            wait_until_it_trains(process, run)
            time.sleep(rng.uniform(0, 0.25))
            process.kill()
        process.join()
        if last or process.exitcode == 0:  # 0 before the last: it was faster than its end
            assert process.exitcode == 0
            return ways
        assert process.exitcode == -signal.SIGKILL
        ways[way] += 1


def ledger(run: Path) -> list[dict]:
    """The lines of sessions.csv; none where there is none yet."""
    path = run / "sessions.csv"
    return list(csv.DictReader(path.open())) if path.exists() else []


def wait_until_it_trains(process, run: Path) -> None:
    """Until this life has opened its line in the ledger, or has ended."""
    while process.is_alive() and str(process.pid) not in [row["process"] for row in ledger(run)]:
        time.sleep(0.005)


def end_of(run: Path) -> tuple[dict, str]:
    """What a finished run comes to: the SHA-256 of its last and its best weights, and its history without the clock."""
    checkpoints = sorted((run / "checkpoints").glob("step-*.pt"), key=lambda path: path.stat().st_mtime_ns)
    state = read_checkpoint(checkpoints[-1])
    assert (state["step"], state["seen"]) == (state["about"]["steps"], 0), "this run is not finished"
    history = pd.DataFrame(state["history"]).drop(columns="seconds")
    pd.testing.assert_frame_equal(pd.read_csv(run / "history.csv").drop(columns="seconds"), history)
    return {name: hash_of(tensors) for name, tensors in (("last", state["model"]), ("best", best(run)))}, repr(
        history.to_dict("list")
    )


def best(run: Path) -> dict:
    from steelnb.network import weights

    return weights.load_network(run).model.state_dict()


def hash_of(tensors: dict) -> str:
    return storage.sha256(b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors)))
