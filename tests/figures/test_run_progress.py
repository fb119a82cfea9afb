"""What a run folder tells: a real one to its last digit, and any wreck of one without an error."""

import json
import time

import numpy as np
import pandas as pd
import pytest
import torch

from steelnb import runs
from steelnb.data import synthetic
from steelnb.data.dataset import read_dataset
from steelnb.figures import run_progress
from steelnb.runs.session import SESSION_COLUMNS
from steelnb.training.recipes import SMOKE


def history(rows=3):
    columns = {"epoch": range(1, rows + 1), "step": range(10, 10 * rows + 1, 10), "seconds": 1.0, "train_loss": 0.9,
               "validation_loss": 0.8, "validation_dice": np.linspace(0.1, 0.3, rows)}
    return pd.DataFrame(columns)


def ledger(*rows):
    """A sessions.csv of rows (from_step, to_step, hours, hours_in_all, ended)."""
    lines = [f"{i},2026-11-24 08:00:00,77,cpu,1,{','.join(map(str, row))}" for i, row in enumerate(rows, 1)]
    return "\n".join([",".join(SESSION_COLUMNS), *lines]) + "\n"


@pytest.fixture
def run(tmp_path):
    """A folder as a killed and then resumed training would have it, in its third epoch of five."""
    history(2).to_csv(tmp_path / "history.csv", index=False)
    rows = (0, 10, 0.1, 0.1, "killed"), (10, 25, 0.05, 0.15, "")
    (tmp_path / "sessions.csv").write_text(ledger(*rows), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"steps": 50}), encoding="utf-8")
    return tmp_path


def test_a_real_run_is_told_as_it_was(tmp_path):
    synthetic.write_dataset(tmp_path / "steel", 8, shape=(48, 96))
    data = read_dataset(tmp_path / "steel", progress=False)
    recipe = SMOKE.changed(model=dict(width=2, depth=1), crop=(32, 32), epochs=2, epoch_samples=8, scored=2)
    quiet = dict(device=torch.device("cpu"), progress=False, report=lambda line: None)
    table = runs.train(data, tmp_path / "run", recipe, **quiet)
    told = run_progress.progress(tmp_path / "run")
    assert told.finished
    assert (told.step, told.total) == (table["step"].iloc[-1],) * 2
    assert told.seconds_left == 0
    np.testing.assert_allclose(told.history["train_loss"], table["train_loss"])
    assert told.line().startswith(f"epoch 2 · step {told.step} of {told.total} · ")
    assert told.line().endswith("finished")
    left, right = run_progress.draw_run(tmp_path / "run").axes
    np.testing.assert_allclose(left.lines[1].get_ydata(), table["validation_loss"])
    np.testing.assert_allclose(right.lines[0].get_ydata(), table["validation_dice"])


def test_step_and_time_come_from_the_ledger_between_epochs(run, monkeypatch):
    told = run_progress.progress(run)
    assert (told.step, told.total, told.ended, told.finished) == (25, 50, "", False)
    assert told.seconds_left == pytest.approx(25 * 0.05 * 3600 / 15)  # 25 steps at this session's 15 in 0.05 h
    assert told.line() == "epoch 2 · step 25 of 50 · 9 min so far · about 5 min left"
    assert time.time() - told.written < 60
    monkeypatch.setattr(run_progress.time, "time", lambda: told.written + 7.2)
    assert told.age() == "last written 7 s ago"


def test_an_epoch_scored_after_the_last_checkpoint_counts(run):
    history(3).to_csv(run / "history.csv", index=False)  # to step 30; the ledger says 25
    assert run_progress.progress(run).step == 30


def test_an_end_that_is_told_is_in_the_history(run, monkeypatch):
    """Both files are written while they are read: an end may be seen too late, never before the rows it ends."""
    read_dataset = run_progress._rows

    def and_then_it_ended(path):
        rows = read_dataset(path)
        history(5).to_csv(run / "history.csv", index=False)
        (run / "sessions.csv").write_text(ledger((0, 50, 0.2, 0.2, "finished")), encoding="utf-8")
        return rows

    monkeypatch.setattr(run_progress, "_rows", and_then_it_ended)
    told = run_progress.progress(run)
    assert not told.finished
    assert len(told.history) == 5
    assert run_progress.progress(run).finished


def test_a_session_that_has_only_begun_takes_the_pace_of_the_earlier_ones(run):
    rows = (0, 20, 0.1, 0.1, "killed"), (20, 20, 0.0001, 0.1, "")
    (run / "sessions.csv").write_text(ledger(*rows), encoding="utf-8")
    assert run_progress.progress(run).seconds_left == pytest.approx(30 * 360 / 20)


def test_what_stopped_it_is_told(run):
    (run / "sessions.csv").write_text(ledger((0, 20, 0.1, 0.1, "told to stop (SIGTERM)")), encoding="utf-8")
    assert run_progress.progress(run).line().endswith("last session: told to stop (SIGTERM)")


@pytest.mark.parametrize("name", ["history.csv", "sessions.csv", "config.json"])
@pytest.mark.parametrize(
    "content", [None, b"", b"\xff\xfe\x00", b"{", b"[]", b'{"steps": "many"}', b'{"steps": Infinity}',
                pytest.param(b"[" * 100_000, id="deep"), b"epoch,step\n1", b"\n\n", b'"',
                b"a\x00b", b"epoch,step,train_loss\n1,2,3,4,5\n\n1,x,\n", b"epoch,step,train_loss\n1,inf,0.5\n"]
)
def test_a_missing_or_half_written_file_is_left_out(run, name, content):
    (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content)
    told = run_progress.progress(run)
    if name == "history.csv":
        assert len(told.history) == 0
        assert told.step == 25
    assert told.line()
    run_progress.draw_run(run)


def test_every_beginning_of_every_file_can_be_read(run):
    for name in ("history.csv", "sessions.csv", "config.json"):
        whole = (run / name).read_bytes()
        for length in range(len(whole)):
            (run / name).write_bytes(whole[:length])
            assert run_progress.progress(run).line()
        (run / name).write_bytes(whole)


def test_nothing_there_says_so(tmp_path):
    told = run_progress.progress(tmp_path / "no run")
    assert (told.line(), told.age()) == ("nothing has been written yet", "")
    left, right = run_progress.draw_run(tmp_path).axes
    assert left.get_title(loc="left") == right.get_title(loc="left") == "no epoch scored yet"


def test_titles_say_the_best_epoch_or_that_there_is_none(run):
    left, right = run_progress.draw_run(run).axes
    assert right.get_title(loc="left") == "best Dice 0.30, in epoch 2"
    assert left.get_title(loc="left") == "loss 0.900, on validation images 0.800"
    history().assign(validation_dice=np.nan).to_csv(run / "history.csv", index=False)
    assert run_progress.draw_run(run).axes[1].get_title(loc="left") == "no defect to validate on"
