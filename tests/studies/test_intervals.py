"""The library took what won, widened percentiles; the others against SciPy; coverage where theory knows it."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from steelnb.evaluation import scores
from studies import intervals


def test_scores_report_the_interval_that_won():
    rng = np.random.default_rng(1)
    held, top, bottom = scores.Scores(replicates=intervals.REPLICATES, seed=5), [], []
    for _ in range(9):
        mask, p = rng.random((1, 12, 12)) < 0.3, rng.random((1, 12, 12))
        held.update(p, mask)
        top.append(2 * ((p > 0.5) & mask).sum() / ((p > 0.5).sum() + mask.sum()))
        bottom.append(1.0)
    low, high = intervals.intervals(np.array([top]), np.array([bottom]), seed=5)["widened"]
    value = held.values()[scores.Key("Dice", "any", scores.DEFECTIVE)]
    assert (low[0], high[0]) == pytest.approx((value.low, value.high), abs=1e-12)


def test_t_and_bca_agree_with_scipy():
    rng = np.random.default_rng(0)
    x = rng.gamma(2.0, size=(1, 30))
    found = intervals.intervals(x, np.ones_like(x), seed=0)
    low, high = stats.t.interval(0.95, 29, x.mean(), stats.sem(x[0]))
    assert (found["t"][0][0], found["t"][1][0]) == pytest.approx((low, high))
    for method, name in (("BCa", "BCa"), ("percentile", "percentile")):
        theirs = stats.bootstrap((x[0],), np.mean, n_resamples=20000, method=name, rng=0).confidence_interval
        width = theirs.high - theirs.low
        assert found[method][0][0] == pytest.approx(theirs.low, abs=0.06 * width)
        assert found[method][1][0] == pytest.approx(theirs.high, abs=0.06 * width)


def test_widened_tail_is_hesterbergs_table():
    assert [round(intervals.widened_tail(n), 4) for n in (5, 10, 20)] == [0.0010, 0.0086, 0.0159]


def test_standard_error_of_a_ratio_against_the_jackknife():
    rng = np.random.default_rng(3)
    bottom = rng.gamma(5.0, size=(1, 400))
    top = bottom * rng.random((1, 400))
    without = (top.sum() - top) / (bottom.sum() - bottom)
    jackknife = np.sqrt(399 / 400 * ((without - without.mean()) ** 2).sum())
    assert intervals.standard_error(top, bottom, np.ones((400, 1)))[0, 0] == pytest.approx(jackknife, rel=0.02)


def test_t_covers_a_normal_population_and_the_plain_bootstrap_does_not():
    x = np.random.default_rng(0).normal(5, 1, (4000, 1))
    found = {row["method"]: row for row in intervals.coverage(x, np.ones_like(x), 7, 3000, 0, "normal")}
    assert found["t"]["covered"] == pytest.approx(0.95, abs=0.012)
    assert found["widened"]["covered"] == pytest.approx(0.95, abs=0.02)
    assert found["library"]["covered"] < 0.92
    for row in found.values():
        assert row["covered"] + row["above"] + row["below"] == pytest.approx(1, abs=1e-4)


def test_summary_is_drawn_from_any_part_of_the_records():
    x = np.random.default_rng(0).beta(4, 2, (300, 1))
    rows = [row for n in intervals.SIZES for row in intervals.coverage(x, np.ones_like(x), n, 100, 0, "dice")]
    text = intervals.summary(pd.DataFrame([intervals.cells()[0] | {"coverage": rows}]))
    assert "| sd_saliency_900 | dice | 7 |" in text
    assert "By the rule **" in text
