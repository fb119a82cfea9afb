"""A schedule is fitted to the hours or refused, and a training that found nothing is told why."""

import json

import pytest

from steelnb.runs import TrainingError, advice, identity
from steelnb.training.recipes import FAST, SMOKE


@pytest.mark.parametrize(("total", "hours", "seconds", "steps"), [
    (600, 1.0, 1.0, 600), (600, 0.1, 1.0, 288), (10_000, 1.0, 0.5, 5760), (40, 1.0, 1.0, 40), (75, 1.0, 48.0, 60),
])
def test_as_many_steps_as_fit(total, hours, seconds, steps):
    assert advice.fitted_steps(total, hours, seconds) == steps


def test_too_few_to_learn_are_refused_with_the_hours_that_it_takes():
    with pytest.raises(TrainingError, match=r"time for 28 steps here \(1 s each\).*at least 0\.021 hours"):
        advice.fitted_steps(600, 0.01, 1.0)
    assert advice.fitted_steps(600, 0.021, 1.0) == 60


def test_a_run_keeps_the_recipe_it_was_begun_with(tmp_path):
    assert identity.recipe_name_of(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({"recipe": {"name": "fast"}}))
    assert identity.recipe_name_of(tmp_path) == "fast"
    (tmp_path / "config.json").write_text("{")
    assert identity.recipe_name_of(tmp_path) is None


def rows(dice, losses=(0.5, 0.5), step=1000):
    return [{"step": step, "train_loss": loss, "validation_dice": dice} for loss in losses]


def test_what_found_something_is_left_alone(steel):
    assert advice.explain_failure(rows(0.06), SMOKE, steel) == ""
    assert advice.explain_failure(rows(float("nan")), SMOKE, steel) == ""  # nothing to find
    assert advice.explain_failure([], SMOKE, steel) == ""


@pytest.mark.parametrize(("changes", "history", "cause"), [
    ({}, rows(0.0, step=20), "20 steps are few: try --steps 600"),
    ({}, rows(0.01, losses=(0.9, 0.7)), "the loss was still falling: train for more steps"),
    (dict(loss="bce"), rows(0.0), "loss bce can be low with only background predicted"),
    (dict(loss="original_dice"), rows(0.0), "no gradient where nothing is found"),
    ({}, rows(0.0), "check whether the masks match their images"),
])
def test_causes(steel, changes, history, cause):
    told = advice.explain_failure(history, SMOKE.changed(**changes), steel)
    assert told.startswith("It found nothing: Dice on defective images is 0.0")
    assert cause in told


def test_clean_sets_and_small_defects(steel):
    clean = steel.images[steel.images["masks"] == 0]["ImageId"].tolist()
    one = steel.subset([*clean, steel.rows["ImageId"].iloc[0]])
    one.rows["area"] = 100
    told = advice.explain_failure(rows(0.0), FAST.changed(on_defect=0.1), one)
    if len(clean) > 2:
        assert "of the images are clean, and crops seldom show a defect" in told
    assert "smaller than 10 × 10 pixels" in told


def test_no_cause_is_named_that_does_not_hold(steel):
    """Half of the images show a defect, the loss stands still, the defects are large: none of the common causes."""
    assert 0 < (steel.images["masks"] == 0).mean() < 0.6
    assert steel.rows["area"].median() ** 0.5 > 12
    for history in (rows(0.0), rows(0.0, losses=(0.5,)), rows(0.0, losses=(0.5, 0.46)), rows(0.0, losses=(0.4, 0.5))):
        for recipe in (SMOKE, SMOKE.changed(crop=None)):
            told = advice.explain_failure(history, recipe, steel)
            assert told.partition("most likely first: ")[2].startswith("check whether the masks match"), told
