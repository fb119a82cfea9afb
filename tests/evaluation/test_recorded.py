"""Recorded results come from their newest file, in a checkout and where steelnb is installed."""

import json
from pathlib import Path

import numpy as np
import pytest

from steelnb.evaluation import recorded


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "PLACES", (tmp_path / "results", tmp_path / "benchmarks"))
    for place in recorded.PLACES:
        place.mkdir()
    return recorded.PLACES


def leave(place: Path, name: str, **result) -> None:
    (place / f"{name}.json").write_text(json.dumps(result), encoding="utf-8")


def test_the_newest_of_either_place(places):
    leave(places[0], "gap-2026-09-30", run=1)
    leave(places[1], "gap-2026-11-24", run=2)
    leave(places[1], "gap-2025-12-31", run=3)
    leave(places[1], "gap_year-2026-12-31", run=4)
    assert recorded.recorded_result("gap") == {"run": 2}
    assert recorded.recorded_result("gap_year") == {"run": 4}


def test_what_is_not_there_is_said(places):
    with pytest.raises(FileNotFoundError, match="none at all"):
        recorded.recorded_result("gap")
    leave(places[0], "gap-2026-09-30", run=1)
    with pytest.raises(FileNotFoundError, match="'tiles'; recorded are: gap"):
        recorded.recorded_result("tiles")


def test_the_results_of_the_repository_are_found():
    folder = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
    newest = max(folder.glob("time_to_quality-*.json"))
    assert recorded.recorded_result("time_to_quality") == json.loads(newest.read_text(encoding="utf-8"))


def test_a_table_beside_the_records(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "RECORDS", (tmp_path,))
    with pytest.raises(FileNotFoundError, match="no table 'run'; there are: none at all"):
        recorded.csv("run")
    (tmp_path / "run-history.csv").write_text("epoch,loss\n1,0.5\n", encoding="utf-8")
    assert recorded.csv("run-history").to_dict("list") == {"epoch": [1], "loss": [0.5]}


def test_an_interval_over_seeds_is_students():
    mean, low, high = recorded.seed_interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert (high - mean, mean - low) == pytest.approx((2.4841, 2.4841), abs=1e-4)  # 4.3027 · 1 / √3
    assert recorded.seed_interval([0.5])[0] == 0.5
    assert all(limit != limit for limit in recorded.seed_interval([0.5])[1:])
    assert recorded.seed_interval([])[0] != recorded.seed_interval([])[0]


def test_an_interval_over_seeds_and_images_takes_both_into_account():
    rng = np.random.default_rng(0)
    assert recorded.seeds_and_images_interval(np.full((3, 20), 0.25)) == pytest.approx((0.25, 0.25, 0.25))
    of_images = np.tile(rng.normal(size=200), (3, 1))  # seeds alike
    mean, low, high = recorded.seeds_and_images_interval(of_images)
    assert (low, high) == pytest.approx((mean - 1.96 / 200**0.5, mean + 1.96 / 200**0.5), abs=0.02)
    of_seeds = np.repeat(np.array([[-1.0], [0.0], [1.0]]), 200, 1)  # images alike: the means of 27 draws of three
    assert recorded.seeds_and_images_interval(of_seeds) == pytest.approx((0, -1, 1))
