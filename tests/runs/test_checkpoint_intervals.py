"""The chosen interval, against sessions that are killed at any moment: by a clock that is only counted."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from steelnb.runs import checkpoints, intervals
from steelnb.runs.checkpoints import Checkpoints
from steelnb.runs.intervals import Cost, choose, expected

HOUR = 3600.0
# (hours of a session, seconds that a checkpoint holds the training up, seconds until it is safe, seconds of a step)
CASES = {
    "Colab, 1.5 h, on its own disk": (1.5, Cost(0.3, 1.0), 1.0),
    "Colab, 12 h, on Drive": (12.0, Cost(0.3, 9.0), 4.0),
    "Colab, 24 h, large steps": (24.0, Cost(2.0, 6.0), 15.0),
    "Kaggle, 9 h": (9.0, Cost(0.5, 2.0), 4.0),
    "so dear that 1 % decides": (1.5, Cost(8.0, 12.0), 2.0),
}


def killed(monkeypatch, folder, every, length, cost, step):
    """(seconds of work lost, seconds spent) by a session that trains for `length` seconds of a pretended clock."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: clock.now)
    kept, work, spent = Checkpoints(folder), 0.0, 0.0
    kept._saved_at, kept._cost = 0.0, cost.held_up  # the one before the first step
    written = [(0.0, 0.0)]  # when it was safe, and the work in it
    while clock.now + step <= length:
        clock.now, work = clock.now + step, work + step
        if kept.due(every):
            began, held = clock.now, min(cost.held_up, length - clock.now)
            clock.now, spent = began + held, spent + held
            kept._saved_at = clock.now
            written.append((began + cost.until_safe, work))
    work += max(0.0, length - clock.now)  # of the step in which it dies
    return work - max(done for safe, done in written if safe <= length), spent


@pytest.mark.parametrize("case", CASES)
def test_it_predicts_what_a_hundred_kills_cost(case, monkeypatch, tmp_path):
    hours, cost, step = CASES[case]
    plan = choose(hours * HOUR, cost, step)
    lengths = hours * HOUR * np.random.default_rng(0).uniform(0.5, 1.5, 100)
    found = np.array([killed(monkeypatch, tmp_path, plan.seconds, length, cost, step) for length in lengths])
    lost, spent = found.mean(0)
    assert lost + spent == pytest.approx(plan.lost + plan.spent, rel=0.1)
    assert spent == pytest.approx(plan.spent, rel=0.1)


@pytest.mark.parametrize("case", CASES)
def test_no_other_interval_loses_less(case):
    """By the formula; where checkpoints are dear, none that takes at most 1 % of the time does."""
    hours, cost, step = CASES[case]
    best = choose(hours * HOUR, cost, step)
    for times in np.geomspace(0.1, 10, 41):
        other = expected(times * best.seconds, hours * HOUR, cost, step)
        if other.spent <= 0.01 * other.session:
            assert other.lost + other.spent >= 0.97 * (best.lost + best.spent)


def test_it_is_never_so_often_that_checkpoints_take_more_than_1_percent():
    assert choose(HOUR, Cost(8.0, 12.0)).seconds == 800
    assert choose(HOUR, Cost(8.0, 12.0)).spent <= 0.01 * HOUR


def test_it_grows_with_the_session_and_with_the_cost():
    short, long = (choose(hours * HOUR, Cost(0.3, 1.0)).seconds for hours in (1.5, 24))
    assert long == pytest.approx(4 * short)
    assert choose(HOUR, Cost(0.0, 0.0), step=2.0).seconds == 2.0


def test_a_session_without_a_length_is_refused():
    with pytest.raises(ValueError, match="its length is needed"):
        choose(0, Cost(0.3, 1.0))


def test_the_cost_is_measured_where_the_run_will_live(tmp_path):
    cost = intervals.cost_of({"weights": torch.zeros(100_000)}, tmp_path)
    assert 0 < cost.held_up <= cost.until_safe
    assert not list(tmp_path.iterdir())
