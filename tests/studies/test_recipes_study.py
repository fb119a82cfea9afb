"""Batches are cut from the images they come from; costs by hand; who reached what from records made up."""

import numpy as np
import pandas as pd
import pytest
import torch

from steelnb.training.recipes import FAST, ORIGINAL
from studies import recipes, steel


@pytest.fixture(scope="module")
def crops():
    """Each pixel of an image is told by its gray value and its image's number in the mask's place."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (8, 1, 48, 48), dtype=np.uint8)
    return steel.Crops(torch.from_numpy(images), torch.from_numpy(images > 250))


@pytest.mark.parametrize("arm", ["fast", "plain", "original", "less crops: whole images"])
def test_windows_and_masks_belong_together(crops, arm):
    recipe = recipes.recipe_of(arm, 1e-2)
    feed = recipes.Feed(crops, recipe, 0)
    for _ in range(5):
        windows, masks = feed.batch()
        assert len(windows) == recipe.batch
        side = recipe.crop[0] if recipe.crop else 48
        assert masks.shape[2:] == (side, side)
        start = {"exact": 20, "skewed": 21, "same": 0}[recipes.geometry_of(recipe)]
        inner = windows[..., start : start + side, start : start + side]
        assert torch.equal(inner > 250, masks)


def test_crops_on_defects_hold_one(crops):
    feed = recipes.Feed(crops, recipes.recipe_of("fast", 1e-2).changed(on_defect=1.0), 0)
    assert all(feed.batch()[1].any((1, 2, 3)).all() for _ in range(20))


def test_recipes_are_the_librarys_but_for_their_size():
    mine, theirs = (each.to_dict() for each in (recipes.recipe_of("fast", 4e-3), FAST))
    assert {key for key in theirs if mine.get(key) != theirs[key]} == {"model", "crop", "compile"}
    mine, theirs = (each.to_dict() for each in (recipes.recipe_of("original", 1e-3), ORIGINAL))
    assert {key for key in theirs if mine[key] != theirs[key]} == {"model"}
    assert {k: ORIGINAL.model[k] for k in ("norm", "crop")} == {"norm": "encoder", "crop": "ceil"}


def test_each_change_is_one_and_has_an_effect():
    fast = recipes.recipe_of("fast", 4e-3)
    assert all(recipes.recipe_of(f"less {name}", 4e-3) != fast for name in recipes.LESS)


def test_multiply_adds_of_the_plain_network_by_hand():
    level = {0: 16 * 16, 1: 8 * 8, 2: 4 * 4}
    down = [(0, 1, 4), (0, 4, 4), (1, 4, 8), (1, 8, 8), (2, 8, 16), (2, 16, 16)]
    convolutions = [*down, (1, 16, 8), (1, 8, 8), (0, 8, 4), (0, 4, 4)]
    total = sum(9 * a * b * level[at] for at, a, b in convolutions)
    total += 4 * 16 * 8 * level[2] + 4 * 8 * 4 * level[1] + 4 * level[0]  # upwards, and the head
    assert recipes.forward_multiply_adds(recipes.recipe_of("plain", 1e-2)) == total


def made_up():
    def point(step, macs, dice):
        return {"step": step, "gigamacs": macs, "seconds": macs, "choose": dice, "dice_chosen": dice, "dice_half": dice,
                "ap": dice, "image_dices": [dice, dice]}

    rows = [("original", 1e-2, [(80, 10, 0.2), (160, 20, 0.4), (320, 40, 0.5)]), ("original", 1e-3, [(320, 40, 0.1)]),
            ("fast", 4e-3, [(80, 2, 0.3)]), ("fast", 4e-3, [(320, 8, 0.6)]),
            ("plain", 4e-3, [(320, 4, 0.45)])]
    return pd.DataFrame([{"arm": arm, "rate": rate, "steps": 0, "seed": 0, "curve": [point(*p) for p in curve]}
                         for arm, rate, curve in rows])


def test_reached_takes_the_first_point_at_the_best_rate_and_nan_where_never():
    found = recipes.reached(recipes.points(made_up())).set_index(["arm", "share"])["gigamacs"]
    assert found["original", 0.5] == 20
    assert found["original", 0.8] == 20
    assert found["original", 0.95] == 40
    assert found["fast", 0.5] == 2
    assert found["fast", 0.95] == 8
    assert found["plain", 0.8] == 4
    assert np.isnan(found["plain", 0.95])


def test_summary_says_ratios_and_never():
    text = recipes.summary(made_up())
    assert "fast 50%: 10.0, 80%: 2.5, 95%: 5.0" in text
    assert "95%: never" in text


def test_fast_less_one_thing_is_held_against_fast_after_as_many_steps():
    less = pd.DataFrame([{"arm": "less flips", "rate": 4e-3, "steps": 80, "seed": 0, "curve": [
        {"step": 80, "gigamacs": 2, "seconds": 2, "choose": 0.25, "dice_chosen": 0.25, "dice_half": 0.25, "ap": 0.25,
         "image_dices": [0.25, 0.25]}]}])
    row = next(line for line in recipes.summary(pd.concat([made_up(), less])).splitlines() if "less flips" in line)
    assert "-0.050" in row  # and not −0.35, which is the distance from the longest training
