"""A recipe refuses what it cannot mean, and older runs find theirs unchanged."""

import hashlib
import json

import pytest
import torch

from steelnb import runtime
from steelnb.training.recipes import FAST, ORIGINAL, PRETRAINED, RECIPES, SMOKE

# What config.json of a run held before there were moving averages.
BEFORE = {
    "name", "model", "loss", "optimizer", "learning_rate", "momentum", "weight_decay", "schedule", "batch", "epochs",
    "epoch_samples", "samples", "validation", "scored", "geometry", "crop", "on_defect", "flips", "per_class",
}


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"fast", "pretrained"}))
def test_recipes_of_before_read_as_before(name):
    assert set(RECIPES[name].to_dict()) == BEFORE


@pytest.mark.parametrize(("name", "digest"), [
    ("original", "2f1234b8fbdc5886"), ("modern", "fa059af2b90d0410"), ("fast", "a951fb738793b67a"),
    ("smoke", "f4901d1baa57253c"), ("pretrained", "b100cc4470509010"),
])
def test_recipes_are_those_of_the_records(name, digest):
    """Whatever was measured with a recipe was measured with these values: other ones make its numbers void."""
    values = json.dumps(RECIPES[name].to_dict(), sort_keys=True)
    assert hashlib.sha256(values.encode()).hexdigest()[:16] == digest, values


def test_what_is_new_is_told_where_it_is_on():
    on = dict(ema=0.9, channels_last=True, compile=True)
    assert SMOKE.changed(**on).to_dict() == SMOKE.to_dict() | on
    assert ORIGINAL.changed(nesterov=True).to_dict() == ORIGINAL.to_dict() | {"nesterov": True}
    assert json.loads(json.dumps(FAST.to_dict()))["ema"] == FAST.ema
    new = dict(start="imagenet", encoder_rate=0.5, brightness=0.1, scoring=0.1)
    assert set(PRETRAINED.to_dict()) == BEFORE | new.keys() | {"channels_last"}
    for name in new:
        assert name not in PRETRAINED.changed(**{name: {"start": "noise", "encoder_rate": 1}.get(name, 0)}).to_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(ema=-0.1), r"ema is -0\.1; it can be a number from 0 to 1"),
        (dict(ema=1.5), r"ema is 1\.5; it can be a number from 0 to 1"),
        (dict(ema=True), "ema is True; it can be a number from 0 to 1"),
        (dict(ema=1), r"ema is 1, an average that never changes; try 0\.99, or 0 for none"),
        (dict(channels_last="yes"), "channels_last is 'yes'; it can be True or False"),
        (dict(compile=1), "compile is 1; it can be True or False"),
        (dict(nesterov=None), "nesterov is None; it can be True or False"),
        (dict(crop=5), "crop is 5; it can be two numbers of pixels, or None"),
        (dict(crop=True), "crop is True; it can be two numbers of pixels, or None"),
        (dict(model=5), "model is 5; it can be the network's arguments as JSON, .*, of width, depth, norm, .*"),
        (dict(model="{bad"), "model is '{bad'; it can be .*"),
        (dict(model={"foo": 1}), r"model is {'foo': 1}; it can be .*"),
        (dict(model={"in_channels": 3}), r"model is {'in_channels': 3}; it can be .*"),
        (dict(model={"kind": "moon"}), r"model is {'kind': 'moon'}; it can be .*"),
        (dict(model={"kind": "lite", "depth": 3}), r"model is {'kind': 'lite', 'depth': 3}; it can be .*"),
        (dict(start="imagenet"), "start and encoder_rate are for a network of kind lite"),
        (dict(encoder_rate=0.5), "start and encoder_rate are for a network of kind lite"),
        (dict(start="moon"), "start is 'moon'; it can be noise, imagenet, steel"),
        (dict(brightness=2), "brightness is 2; it can be a number from 0 to 1"),
        (dict(model={"kind": "lite"}, geometry="original"), "the original's geometry is for a valid U-Net, not .*"),
        (dict(nesterov=True), "nesterov needs optimizer sgd with a momentum"),
        (dict(nesterov=True, optimizer="sgd", momentum=0), "nesterov needs optimizer sgd with a momentum"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(ValueError, match=f"^recipe smoke: {message}$"):
        SMOKE.changed(**changes)


@pytest.mark.parametrize(
    ("capability", "triton", "pays"), [((6, 0), True, False), ((7, 0), True, True), ((9, 0), False, False)]
)
def test_compiled_where_the_card_allows(monkeypatch, capability, triton, pays):
    """Colab's and Kaggle's P100 is a 6.0."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(runtime, "_has", lambda module: triton)
    assert runtime.compiles(torch.device("cuda")) is pays
    assert not runtime.compiles(torch.device("cpu"))
