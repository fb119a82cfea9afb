"""What is forgotten is forgotten and nothing else; a whole state ends in the same bits; verdicts by the interval."""

import numpy as np
import pandas as pd
import pytest
import torch

from studies import compare, resume, steel


@pytest.fixture
def crops():
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 255, (14, 1, 16, 16), dtype=np.uint8))
    return steel.Crops(images, images > 170)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(resume, "STEPS", 12)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("usual", [False, True])
def test_nothing_forgotten_ends_in_the_same_bits_and_each_part_elsewhere(crops, optimizer, usual):
    recipe = resume.recipe_of(optimizer)
    state, whole = resume.interrupted(recipe, crops, 5, 3, usual)
    for name in resume.FORGOTTEN:
        trainer = resume.resumed(recipe, state, name, 3)
        resume.trained(trainer, crops, 5, 12, 3, usual)
        wanted, there = (each.averaged.state_dict() for each in (whole, trainer))
        same = all(torch.equal(wanted[key], there[key]) for key in wanted)
        without_effect = {"nothing"} if usual else {"nothing", "random", "usual random"}
        if usual:
            without_effect |= {"position"}
        assert same == (name in without_effect), name


def test_forgotten_statistics_are_those_of_a_new_network_and_the_weights_stay(crops):
    recipe = resume.recipe_of("adamw")
    state, _ = resume.interrupted(recipe, crops, 5, 0, False)
    network = resume.resumed(recipe, state, "statistics", 0).model.state_dict()
    for key, value in network.items():
        if "running_mean" in key:
            assert not value.any()
        elif "running_var" in key:
            assert (value == 1).all()
        else:
            assert torch.equal(value, state["model"][key])


def test_verdict():
    of = compare.Difference
    assert resume.verdict(of(-0.05, -0.08, -0.03, 5)) == "matters"
    assert resume.verdict(of(-0.05, -0.08, -0.01, 5)) == "open"
    assert resume.verdict(of(-0.01, -0.015, 0.0, 5)) == "harmless"


def test_summary_from_one_cell_and_from_two_seeds():
    arms = {name: {"dice_half": 0.5, "dice_chosen": 0.6, "ap": 0.5, "same_bits": name == "nothing"}
            for name in [*resume.FORGOTTEN, "undisturbed", "undisturbed, usual batches"]}
    cell = {"optimizer": "adamw", "cut": "half", "seed": 0, "arms": arms}
    for rows in ([cell], [cell, cell | {"seed": 1}]):
        text = resume.summary(pd.DataFrame(rows))
        assert "the same to the last bit: nothing" in text
