"""Cells are run once, by whoever comes first, and their records survive a kill."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from filelock import FileLock

from steelnb.evaluation import recorded
from studies import runner

ROOT = Path(__file__).resolve().parents[2]


def study(count=3, run=None):
    ran = []

    def once(setting):
        ran.append(setting["seed"])
        return run(setting) if run else {"square": setting["seed"] ** 2}

    return SimpleNamespace(cells=lambda: [{"arm": "a", "seed": seed} for seed in range(count)], run=once, ran=ran)


def test_each_cell_is_run_once_and_recorded(tmp_path):
    cells = study()
    assert runner.work("some", cells, tmp_path, tmp_path) == 0
    assert runner.work("some", cells, tmp_path, tmp_path) == 0
    assert cells.ran == [0, 1, 2]
    rows = recorded.lines(tmp_path / "some.jsonl")
    assert [row["setting"]["seed"] for row in rows] == [0, 1, 2]
    assert {"study", "setting", "versions", "commit", "cpu_seconds", "date", "numbers"} == rows[0].keys()
    table = recorded.table(rows)
    assert table["square"].tolist() == [0, 1, 4]
    assert table["arm"].tolist() == ["a"] * 3


@pytest.mark.parametrize("left", range(1, 60, 7))
def test_a_torn_last_line_is_cut_off_and_its_cell_runs_again(tmp_path, left):
    runner.work("some", study(), tmp_path, tmp_path)
    path = tmp_path / "some.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-left])
    again = study()
    runner.work("some", again, tmp_path, tmp_path)
    assert again.ran == [2]
    assert [row["setting"]["seed"] for row in recorded.lines(path)] == [0, 1, 2]


def test_a_spoilt_line_elsewhere_is_named(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text('{"a": 1}\n{"a"\n{"a": 2}\n')
    with pytest.raises(ValueError, match=r"some\.jsonl, line 2"):
        recorded.lines(path)


def test_a_cell_that_another_process_runs_is_left_to_it(tmp_path):
    cells = study()
    with FileLock(tmp_path / f"some-{runner.key({'seed': 1, 'arm': 'a'})}.lock"):
        runner.work("some", cells, tmp_path, tmp_path)
    assert cells.ran == [0, 2]


def test_a_cell_that_fails_leaves_no_record_and_stops_no_other(tmp_path, capsys):
    cells = study(run=lambda setting: {"inverse": 1 / (setting["seed"] - 1)})
    assert runner.work("some", cells, tmp_path, tmp_path) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert [row["setting"]["seed"] for row in recorded.lines(tmp_path / "some.jsonl")] == [0, 2]
    assert runner.work("some", study(run=lambda _: {"x": float("nan")}), tmp_path, tmp_path) == 1  # NaN is no JSON


def test_killed_at_any_moment_the_records_are_whole(tmp_path):
    """Three processes at once, killed again and again, leave each cell once."""
    script = (
        "import sys, time; from pathlib import Path; from types import SimpleNamespace; from studies import runner\n"
        "cells = lambda: [{'seed': seed} for seed in range(40)]\n"
        "def run(setting): time.sleep(0.02); return {'text': 'x' * 20000}\n"
        "folder = Path(sys.argv[1])\n"
        "runner.commit = lambda: None\n"
        "runner.work('some', SimpleNamespace(cells=cells, run=run), folder, folder)\n"
    )
    path = tmp_path / "some.jsonl"
    for _ in range(30):
        started = [subprocess.Popen([sys.executable, "-c", script, tmp_path], cwd=ROOT) for _ in range(3)]
        before = len(recorded.lines(path))
        while len(recorded.lines(path)) < min(40, before + 5) and any(each.poll() is None for each in started):
            time.sleep(0.01)
        for each in started:
            each.send_signal(signal.SIGKILL)
            each.wait()
        if len(recorded.lines(path)) == 40:
            break
    assert sorted(json.loads(line)["setting"]["seed"] for line in path.read_text().splitlines()) == [*range(40)]


def test_a_number_may_not_bear_a_settings_name():
    row = {"study": "s", "setting": {"seed": 1}, "numbers": {"seed": 2}, "cpu_seconds": 0, "date": "", "commit": None}
    with pytest.raises(ValueError, match="seed is both a setting and a number"):
        recorded.table([row])


def test_records_that_are_not_there_are_named():
    with pytest.raises(FileNotFoundError, match="no records of 'nothing'"):
        recorded.records("nothing")


@pytest.mark.parametrize("name", runner.names())
def test_a_study_says_what_it_expects_and_its_cells_differ(name):
    module = runner.load(name)
    assert runner.question(module).endswith("?")
    assert "Predict" in module.__doc__
    assert "Decision" in module.__doc__
    cells = module.cells()
    assert json.loads(json.dumps(cells)) == cells
    assert len({runner.key(setting) for setting in cells}) == len(cells)
    assert all("seed" in setting for setting in cells)


@pytest.mark.parametrize("name", runner.names())
def test_each_record_is_of_a_present_cell_and_a_part_of_them_can_be_summarised(name):
    done, wanted = runner.finished(name), {runner.key(setting) for setting in runner.load(name).cells()}
    assert done.keys() <= wanted, "the grid was changed after its records: keep its cells, add others behind them"
    rows = list(done.values())
    for part in {1, len(rows) // 2, len(rows)} - {0} if rows else ():
        assert runner.load(name).summary(recorded.table(rows[:part])).strip()


@pytest.mark.parametrize("name", runner.names())
def test_the_readme_is_drawn_from_the_records(name):
    text = (runner.HERE / "README.md").read_text(encoding="utf-8")
    complete = len(runner.finished(name)) == len(runner.load(name).cells())  # the others may be running now
    expected = runner.section(name) if complete else f"## `{name}`: "
    assert expected in text, "python -m studies --readme"


def test_every_file_of_records_has_its_study():
    assert {path.stem for path in runner.RECORDS.glob("*.jsonl")} <= set(runner.names())
    assert isinstance(runner.listing(), pd.DataFrame)
