"""What takes a network takes the one on a pretrained encoder: training to the bit, weights, ONNX, masks of files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from steelnb import runs
from steelnb.network import pretrained, weights
from steelnb.network.lite_unet import LiteUNet
from steelnb.prediction import onnx_export
from steelnb.prediction.files import predict_files
from steelnb.training.recipes import PRETRAINED
from steelnb.training.trainer import Trainer

SMALL = PRETRAINED.changed(batch=2, crop=(32, 48), epochs=2, epoch_samples=4, start="imagenet")


def train(steel, folder, recipe=SMALL, **options):
    lines = []
    runs.train(steel, folder, recipe, device=torch.device("cpu"), progress=False, report=lines.append, **options)
    return lines


@pytest.fixture(scope="module")
def trained(steel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    train(steel, folder)
    return folder


def test_it_stops_and_goes_on_to_the_same_bits(steel, trained, tmp_path):
    assert any("goes on" in line for line in train(steel, tmp_path / "run", session_hours=1e-9))
    train(steel, tmp_path / "run")
    once, twice = (weights.load_network(run).model.state_dict() for run in (trained, tmp_path / "run"))
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_the_weights_know_their_kind_and_the_recipe_what_is_new(trained):
    found = weights.load_network(trained)
    assert isinstance(found.model, LiteUNet)
    assert found.metadata["network"] == {"kind": "lite", "in_channels": 1, "out_channels": 1}
    recipe = json.loads((trained / "config.json").read_text())["recipe"]
    assert (recipe["start"], recipe["model"]) == ("imagenet", {"kind": "lite"})


def test_the_encoder_moves_by_a_sixth_of_the_rate():
    trainer = Trainer(SMALL, 1, 10, 0, torch.device("cpu"))
    rates = {id(p): group["initial_lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(trainer.model.parameters()))
    for name, weight in trainer.model.named_parameters():
        assert rates[id(weight)] == pytest.approx(3e-3 / (6 if name.startswith("encoder.") else 1)), name


def test_a_mask_a_class(steel, tmp_path):
    train(steel, tmp_path / "run", SMALL.changed(per_class=True), steps=1)
    assert weights.load_network(tmp_path / "run").model.config["out_channels"] == 4


def test_masks_of_files(trained, steel, tmp_path):
    Image.fromarray(np.full((37, 203), 90, np.uint8)).save(tmp_path / "one.png")
    outcome = predict_files(weights.load_network(trained), [tmp_path / "one.png"], tmp_path / "out", tile=64)
    assert not outcome.failed
    (mask,) = (tmp_path / "out").glob("one*mask*.png")
    assert np.asarray(Image.open(mask)).shape[:2] == (37, 203)


def test_onnx_at_several_sizes(trained, tmp_path):
    pytest.importorskip("onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    found = weights.load_network(trained)
    batches = [(1, 16, 16), (2, 48, 80)]
    assert onnx_export.check_export(onnx_export.packed(found), found, batches) < 1e-3
    use = onnx_export.use(found)
    assert (use["margin"], use["multiple"], use["remainder"], use["smallest"]) == (208, 16, 0, 16)
    fixed = onnx_export.use(found, onnx_export.window_of(found.model, (30, 40)))
    assert (fixed["margin"], fixed["input"]["shape"], fixed["output"]["shape"]) == (0, [1, 1, 32, 48], [1, 1, 32, 48])


@pytest.mark.skipif(not pretrained.STEEL.exists(), reason="no weights on synthetic steel are in this checkout")
def test_the_weights_in_the_box_can_be_used_and_begun_with():
    found = weights.load_network(pretrained.STEEL)
    assert found.metadata["recipe"]["name"] == "pretrained"
    for outputs in (1, 4):
        model = LiteUNet(1, outputs)
        before = model.head.weight.clone()
        pretrained.start(model, "steel")
        same = [name for name, tensor in model.state_dict().items()
                if torch.equal(tensor, found.model.state_dict()[name])]
        assert len(same) == len(model.state_dict()) - 2 * (outputs > 1)
        assert torch.equal(before, model.head.weight) == (outputs > 1)
