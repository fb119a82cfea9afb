"""The answers are what their rules say: on records made up so that the answer is known."""

import numpy as np
import pandas as pd
import pytest

from steelnb.training.recipes import ORIGINAL
from studies import batch_norm, imbalance, long_run, losses


def test_a_gap_opens_from_the_epoch_after_which_it_stays_open():
    train = np.zeros(12)
    validation = np.array([0, 0.2, 0, 0, 0, 0, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2])
    assert long_run.opens_at(train, validation, window=1) == 7
    assert long_run.opens_at(train, 0 * train) is None
    assert long_run.opens_at(train, train + 1) == 1


def test_the_long_run_changes_the_width_alone():
    of = {arm: long_run.recipe({"arm": arm, "width": 4}) for arm in ("original", "flips")}
    assert of["original"].changed(model=ORIGINAL.model) == ORIGINAL
    assert of["original"].model == ORIGINAL.model | {"width": 4}
    assert of["flips"].changed(flips=False) == of["original"]


def made_up(dices, halves):
    rng, rows = np.random.default_rng(0), []
    for cell in losses.cells():
        if cell["loss"] in dices and cell["steps"] in (80, 640) and cell["seed"] < 3:
            noise = rng.normal(scale=0.002, size=50)
            rows.append(cell | {"ap": 0.5, "dice_half": halves[cell["loss"]], "dice_chosen": dices[cell["loss"]],
                                "alarms": 0.1, "image_dices": (dices[cell["loss"]] + noise).tolist()})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("of_dice_bce", "stays"), [((0.599, 0.5), True), ((0.5, 0.585), True), ((0.5, 0.5), False)])
def test_the_default_stays_while_it_is_the_same_as_the_best_or_as_good_at_one_half(of_dice_bce, stays):
    dices, halves = dict.fromkeys(losses.KEY, 0.55), dict.fromkeys(losses.KEY, 0.4)
    dices |= {"tversky": 0.6, "dice": 0.597, "dice_bce": of_dice_bce[0]}
    halves |= {"tversky": 0.59, "dice": 0.595, "dice_bce": of_dice_bce[1]}
    told = losses.summary(made_up(dices, halves))
    assert "`tversky` is best" in told
    assert "Provisional, before the plateau (saliency at 640 steps: no doubling is recorded" in told
    assert ("`dice_bce` stays the default" in told) == stays
    if not stays:
        assert "`dice` should be the default" in told  # the same as the best, and higher at p > ½
    assert "No answer yet" in losses.summary(made_up({"bce": 0.5}, {"bce": 0.5}))


@pytest.mark.parametrize(("gain", "reached"), [(0.004, True), (0.006, False)])
def test_the_plateau_is_where_no_key_loss_gains_by_the_last_doubling(gain, reached):
    gains = [gain if cell["loss"] == "bce" and cell["steps"] > 640 else 0.0 for cell in losses.cells()]
    rows = [cell | {"ap": 0.5 + more} for cell, more in zip(losses.cells(), gains, strict=True)]
    assert (losses._standing(pd.DataFrame(rows)) == "") == reached


def test_bce_is_silent_and_not_blind_where_it_ranks_before_it_speaks():
    def cell(arm, seed, ap, dice):
        points = zip(imbalance.LOOKED, ap, dice, strict=True)
        curve = [{"step": step, "ap": a, "dice_half": d, "dice_chosen": d} for step, a, d in points]
        return {"share": 0.03, "arm": arm, "seed": seed, "curve": curve}

    late, early = [0, 0, 0, 0, 0.1, 0.5, 0.6], [0, 0.2, 0.5, 0.6, 0.6, 0.6, 0.6]
    rows = [cell("bce", s, early, late) for s in range(3)] + [cell("dice", s, early, early) for s in range(3)]
    rows += [cell("prior", s, early, [d + 0.01 * s for d in early]) for s in range(3)]
    told = imbalance.summary(pd.DataFrame(rows))
    assert "3%: silent, not blind" in told
    assert "`prior` at 3%" in told
    blind = [cell("bce", s, [0.1] * 6 + [0.1 + 0.001 * s], late) for s in range(3)]
    assert "3%: cannot learn" in imbalance.summary(pd.DataFrame(blind + rows[3:6]))


@pytest.mark.parametrize(
    ("again", "larger", "verdict"), [(0.1, 0.1, "stands"), (0.03, 0.1, "falls"), (0.1, 0.04, "falls")]
)
def test_elimination_stands_unless_statistics_or_batch_explain_half_of_the_gap(again, larger, verdict):
    rows = []
    for cell in batch_norm.cells():
        gap = 0.1 if cell["batch"] == 2 else larger
        modes = {"train": gap, "eval": gap, "recalibrated": again if cell["batch"] == 2 else gap}
        rows.append(cell | {f"training_{mode}": 0.5 + value + 0.001 * cell["seed"] for mode, value in modes.items()}
                    | {f"report_{mode}": 0.5 for mode in modes})
    assert f'elimination" {verdict}' in batch_norm.summary(pd.DataFrame(rows))
