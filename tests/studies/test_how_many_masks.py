"""What the study says follows from made-up records whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from studies import how_many_masks

NOISE = {1: 0.1, 5: 0.3, 20: 0.5, 90: 0.6, 360: 0.7, 540: 0.7}


def records(gain, budgets=(160, 640)):
    rng, rows = np.random.default_rng(0), []
    for cell in how_many_masks.cells():
        if cell["steps"] in budgets:
            dice = NOISE[cell["images"]] + gain[cell["arm"]] - 0.05 * (cell["steps"] == 640)
            images = dice + rng.normal(scale=0.003, size=40)
            rows.append(cell | {"choose_half": dice, "dice_half": images.mean(), "dice_chosen": dice + 0.01, "ap": dice,
                                "image_dices": images.tolist()})
    return pd.DataFrame(rows)


def test_a_start_is_worth_the_images_that_noise_would_need():
    told = how_many_masks.summary(records({"noise": 0, "imagenet": 0.1, "steel": 0.2}))
    assert "With 5 labelled images `imagenet` reaches 0.40, what noise needs about 10 for." in told  # √(5 · 20)
    assert "With 5 labelled images `steel` reaches 0.50, what noise needs about 20 for." in told
    assert "With 1 labelled image `steel`" in told
    assert "`steel` reaches 0.90, what noise needs more than 540 for." in told
    assert "; 160]" in told
    assert "; 640]" not in told  # the budget with the higher Dice on *choose*


def test_nothing_is_said_where_the_starts_are_alike():
    told = how_many_masks.summary(records(dict.fromkeys(how_many_masks.ARMS, 0)))
    assert told.startswith("No difference from noise is shown yet.")


@pytest.mark.parametrize(("dice", "said"), [(0.05, "at most 1"), (0.3, "about 5"), (0.71, "more than 540")])
def test_the_number_is_read_off_the_curve(dice, said):
    assert how_many_masks.needed(records({"noise": 0, "imagenet": 0, "steel": 0}, (160,)), dice) == said


def test_the_first_cells_have_every_arm_and_number():
    cells = how_many_masks.cells()
    first = [cell for cell in cells if cell["steps"] == 160 and cell["seed"] == 0]
    assert cells[1 : 1 + len(first)] == first
    assert {(cell["arm"], cell["images"]) for cell in first} == {(a, n) for a in how_many_masks.ARMS for n in NOISE}
