"""Every recipe on every kind of card, at width 2: trained, stopped, continued, loaded, used."""

import importlib.util
import json
import math

import numpy as np
import pandas as pd
import pretended_gpu
import pytest
import torch
from pretended_gpu import OnCard

from steelnb import __main__ as cli
from steelnb import runs
from steelnb.network import weights
from steelnb.training import batches
from steelnb.training.recipes import RECIPES
from steelnb.training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")  # there is nothing to pin for

RESIDENT, BY_LOADER = None, 10_000  # bytes free on the card
WAYS = pytest.mark.parametrize("free", [RESIDENT, BY_LOADER], ids=["resident", "loader"])


@pytest.fixture(params=pretended_gpu.CARDS)
def card(request):
    return pretended_gpu.CARDS[request.param]


def small(name):
    """The recipe with a network of width 2, or of its own size on small crops, and an epoch of a few samples."""
    recipe = RECIPES[name].changed(epochs=1, scored=2)
    if "width" in recipe.model:
        recipe = recipe.changed(model=recipe.model | {"width": 2})
    else:
        recipe = recipe.changed(crop=(32, 32), batch=2, scored=1)
    return recipe.changed(epoch_samples=3 * recipe.batch)


@WAYS
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_and_goes_on(name, card, free, steel, tmp_path):
    recipe, lines = small(name), []
    with pretended_gpu.pretended(card, free):
        history = runs.train(steel, tmp_path / "run", recipe, steps=2, progress=False, report=lines.append)
        with pytest.raises(runs.TrainingError, match="holds another run"):
            runs.train(steel, tmp_path / "run", recipe, progress=False, report=lines.append)
        history = runs.train(steel, tmp_path / "run", recipe, accept_changes=True, progress=False, report=lines.append)
        trained = weights.load_network(tmp_path / "run", "cuda")
        assert all(tensor.is_cuda and tensor.isfinite().all() for tensor in trained.model.state_dict().values())
    assert np.isfinite(history[["train_loss", "validation_loss"]]).all(axis=None)
    assert pd.read_csv(tmp_path / "run" / "sessions.csv")["device"].eq(card.name).all()
    told = [line for line in lines if line.startswith("not compiled")]
    assert bool(told) == (recipe.compile and (card.name.startswith("Tesla P100") or not has_triton()))


def has_triton():
    return torch.utils._triton.has_triton_package()


@WAYS
def test_a_loader_and_what_lies_on_the_card_give_the_same_batches(free, steel):
    with pretended_gpu.pretended(free=free):
        training, _ = batches.training_and_validation_samples(steel, small("modern"), seed=3)
        drawn = list(batches.iter_batches(training, small("modern"), 0, device=torch.device("cuda")))
        assert (training.resident is None) == (free is BY_LOADER)
        drawn = [(windows.cpu(), masks.cpu()) for windows, masks, _, _ in drawn]
    plain, _ = batches.training_and_validation_samples(steel, small("modern"), seed=3)
    for here, (windows, masks, _, _) in zip(drawn, batches.iter_batches(plain, small("modern"), 0), strict=True):
        assert torch.equal(here[0], windows)
        assert torch.equal(here[1], masks)


@pytest.mark.parametrize("name", ["T4", "A100", "P100"])
def test_a_step_does_not_wait_for_the_card(name, steel):
    """But for the gradient scaler, which has to know whether a gradient was infinite: float16 only."""
    with pretended_gpu.pretended(pretended_gpu.CARDS[name]):
        recipe = small("fast")
        training, _ = batches.training_and_validation_samples(steel, recipe, seed=0)
        trainer = Trainer(recipe, 1, 10, 0, torch.device("cuda"))
        trainer.begin()
        drawn = list(batches.iter_batches(training, recipe, 0, device=torch.device("cuda")))
        trainer.step(*drawn[0])  # its first step makes the optimizer's moments
        before = OnCard.waits
        for batch in drawn[1:]:
            trainer.step(*batch)
        assert OnCard.waits - before <= (len(drawn) - 1) * (name == "T4")


@pytest.mark.parametrize(("name", "card"), [("original", "T4"), ("modern", "A100"), ("fast", "P100")])
def test_what_was_trained_there_is_used_there(name, card, steel, steel_folder, tmp_path, monkeypatch, capsys):
    """The commands, as a user of the card would give them; and the network is the same on a CPU afterwards."""
    monkeypatch.setitem(RECIPES, name, small(name))
    card = pretended_gpu.CARDS[card]
    run, out = tmp_path / "run", tmp_path / "masks"
    scored = ("evaluate", "--data", steel_folder, "--weights", run, "--json", "--replicates", 0, "--quiet")

    def call(*arguments):
        assert cli.main([str(each) for each in arguments]) == 0
        return capsys.readouterr().out

    with pretended_gpu.pretended(card):
        call("train", "--data", steel_folder, "--run", run, "--recipe", name, "--steps", 2, "--quiet")
        there = json.loads(call(*scored))
        call(*scored, "--choose", "--part", "all")
        assert "12 images segmented" in call("predict", "--weights", run, "--out", out, "--quiet",
                                             steel_folder / "train_images")
        call("predict", "--weights", run, "--out", tmp_path / "flipped", "--flips", "--quiet",
             steel_folder / "train_images" / steel.images["ImageId"][0])
        if importlib.util.find_spec("onnxruntime"):
            call("export", "--weights", run, "--out", tmp_path / "model.onnx")
    here = json.loads(call(*scored))
    assert [score["score"] for score in here["scores"]] == [score["score"] for score in there["scores"]]
    for one, other in zip(here["scores"], there["scores"], strict=True):
        if one["score"] == "Dice" and one["prediction"] == "soft":  # half precision moves it in the third digit
            assert math.isclose(one["value"], other["value"], abs_tol=0.02)
