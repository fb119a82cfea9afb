"""Two processes that share each batch train what one does; a run goes over from one to two and back."""

import os
import signal
import socket

import lives
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelnb.runs.checkpoints import Checkpoints
from steelnb.training import distributed, trainer
from steelnb.training.distributed import World

# No batch norm, whose statistics are each process's own; 11 samples in batches of 4: the last one is of 3.
SAME = dict(model=dict(width=2, depth=1, norm="none"), loss="dice", batch=4, epoch_samples=11, epochs=3)
STEPS = 9


# ---- one process


def test_alone_there_is_nothing_to_agree_on(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    model, value = torch.nn.Linear(1, 1), torch.tensor(3.0)
    for environment in (None, "1"):  # torchrun with one process is one process
        if environment:
            monkeypatch.setenv("WORLD_SIZE", environment)
        with distributed.world() as world:
            assert world == (0, 1)
            assert world.first
            assert world.wrapped(model) is model
            assert world.share([4, 5, 6]) == ([4, 5, 6], 1.0)
            assert world.summed(value) is value
            assert world.agreed(3) == 3
            assert world.broadcast(lambda: "this") == "this"
            with pytest.raises(ZeroDivisionError):
                world.broadcast(lambda: 1 / 0)
        assert not torch.distributed.is_initialized()


@settings(deadline=None, derandomize=True)
@given(size=st.integers(1, 9), batch=st.lists(st.floats(-100, 100), min_size=1, max_size=20))
def test_shares_are_a_partition_whose_weighted_mean_is_the_mean(size, batch):
    parts = [World(rank, size).share(list(range(len(batch)))) for rank in range(size)]
    assert sorted(index for part, factor in parts if factor for index in part) == list(range(len(batch)))
    assert all(part for part, _ in parts)
    mean = sum(factor * np.mean([batch[i] for i in part]) for part, factor in parts) / size
    assert mean == pytest.approx(np.mean(batch), abs=1e-9)


# ---- two


def place(size=2):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return size, "localhost", free.getsockname()[1]


def life_until(folder, run, options, step=None, rank=None, signalled=0):
    """As lives.life; process `signalled` gets a SIGTERM of its own after a step."""
    take = trainer.Trainer.step

    def taken(self, *batch):
        take(self, *batch)
        if self.steps == step and self.world.rank == signalled:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer.Trainer.step = taken
    lives.life(folder, run, options, rank=rank)


def lived(folder, run, processes=1, step=None, signalled=0, **options):
    """Exit codes of a training on so many processes, stopped after a step if one is given."""
    where = place(processes)
    ranks = [(rank, *where) for rank in range(processes)] if processes > 1 else [None]
    both = [
        lives.FORKS.Process(target=life_until, args=(folder, run, dict(options), step, rank, signalled), daemon=True)
        for rank in ranks
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    return [process.exitcode for process in both]


def last(run):
    return Checkpoints(run / "checkpoints").load(print)


def assert_alike(a, b):
    """Weights, history and optimizer within what the order of a float32 sum changes."""
    for name, tensor in a["model"].items():
        torch.testing.assert_close(b["model"][name], tensor, rtol=1e-5, atol=1e-7)
    one, other = (pd.DataFrame(state["history"]).drop(columns="seconds") for state in (a, b))
    pd.testing.assert_frame_equal(one, other, rtol=1e-5, atol=1e-7)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def run_alone(steel_folder, tmp_path_factory):
    """The folder of SAME, trained on one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    assert lived(steel_folder, run, recipe=SAME) == [0]
    return run


@pytest.fixture(scope="module")
def alone(run_alone):
    """Its last checkpoint."""
    return last(run_alone)


@needs_fork
def test_two_processes_train_what_one_does(steel_folder, tmp_path, alone):
    assert lived(steel_folder, tmp_path / "run", 2, recipe=SAME) == [0, 0]
    both = last(tmp_path / "run")
    assert (both["step"], both["epoch"], both["seen"]) == (STEPS, 3, 0)
    assert_alike(alone, both)
    assert [row["processes"] for row in lives.ledger(tmp_path / "run")] == ["2"]
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1  # the first alone writes


@needs_fork
def test_from_one_process_to_two_and_back(steel_folder, tmp_path, alone):
    """Stopped within an epoch each time; on two, by a signal that the second one alone gets."""
    run = tmp_path / "run"
    assert lived(steel_folder, run, 1, step=2, recipe=SAME) == [0]
    assert last(run)["step"] == 2
    assert lived(steel_folder, run, 2, step=5, signalled=1, recipe=SAME) == [0, 0]
    assert last(run)["step"] == 5
    assert lived(steel_folder, run, 1, recipe=SAME) == [0]
    assert_alike(alone, last(run))
    ledger = lives.ledger(run)
    assert [row["processes"] for row in ledger] == ["1", "2", "1"]
    assert [row["to_step"] for row in ledger] == ["2", "5", "9"]
    assert [row["ended"] for row in ledger] == ["told to stop (SIGTERM)"] * 2 + ["finished"]


@needs_fork
def test_what_the_first_refuses_ends_the_second_too(steel_folder, run_alone):
    before = sorted(path.name for path in (run_alone / "checkpoints").iterdir())
    assert lived(steel_folder, run_alone, 2, seed=5, recipe=SAME) == [1, 1]
    assert sorted(path.name for path in (run_alone / "checkpoints").iterdir()) == before


@needs_fork
def test_a_batch_of_one_cannot_be_shared(steel_folder, tmp_path):
    assert lived(steel_folder, tmp_path / "run", 2, recipe=SAME | dict(batch=1)) == [1, 1]
    assert not (tmp_path / "run").exists()
