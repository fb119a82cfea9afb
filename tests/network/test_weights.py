"""Weights go to a file and come back; anything else in a file is refused."""

import errno

import pytest
import torch
from safetensors.torch import save_file

from steelnb import storage
from steelnb.network import weights
from steelnb.network.unet import UNet
from steelnb.network.weights import WeightsError


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = UNet(width=2, depth=2)
    model(torch.rand(2, 1, 44, 44))  # batch norms that have seen something
    weights.save_network(tmp_path / "weights.safetensors", model, {"recipe": {"name": "tiny"}, "Größe": "256×1600"})
    return tmp_path / "weights.safetensors", model


def test_round_trip(saved):
    path, model = saved
    trained = weights.load_network(path)
    state = model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in trained.model.state_dict().items())
    assert not trained.model.training
    assert trained.metadata["network"] == model.config
    assert trained.metadata["Größe"] == "256×1600"
    assert [p.name for p in path.parent.iterdir()] == ["weights.safetensors"]


def test_a_run_folder_will_do(saved):
    assert weights.load_network(saved[0].parent).metadata["recipe"]["name"] == "tiny"


def test_failing_to_write_leaves_the_old_file(saved, monkeypatch):
    path, model = saved
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        weights.save_network(path, model, {})
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1


def test_damage_is_refused(saved, tmp_path):
    path, _ = saved
    whole = path.read_bytes()
    for length in (0, 4, 200, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="truncated"):
            weights.load_network(path)
    with pytest.raises(WeightsError, match="no such file"):
        weights.load_network(tmp_path / "nothing")


def test_a_file_that_may_not_be_read_is_not_called_missing(saved, monkeypatch):
    monkeypatch.setattr(weights.os, "access", lambda path, mode: False)  # file modes do not hold back root
    with pytest.raises(WeightsError, match="may not be read by you"):
        weights.load_network(saved[0])


def test_other_contents_are_refused(saved, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="not written by steelnb"):
        weights.load_network(tmp_path / "other.safetensors")
    about = '{"network": {"width": 2, "depth": 2}}'
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors", {weights.KEY: about})
    with pytest.raises(WeightsError, match="does not describe a network"):
        weights.load_network(tmp_path / "odd.safetensors")
    torch.save(UNet(width=1, depth=1), tmp_path / "pickle.pt")
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        weights.load_network(tmp_path / "pickle.pt")


@pytest.mark.parametrize("part", ["recipe", "data", "training", "validation"])
@pytest.mark.parametrize("value", ["null", "5", '"x"'])
def test_metadata_of_another_kind_are_refused(saved, part, value):
    path, model = saved
    about = f'{{"network": {{"width": 2, "depth": 2}}, "{part}": {value}}}'
    save_file(model.state_dict(), path, {weights.KEY: about})
    with pytest.raises(WeightsError, match=f"does not describe a network of this version: '{part}' in its metadata"):
        weights.load_network(path)


def test_metadata_that_are_no_object_are_refused(saved):
    path, model = saved
    for about in ("[1]", "null", "5", '{"network": [1]}', '{"network": {"width": "2"}}', '{"network": {"norm": []}}'):
        save_file(model.state_dict(), path, {weights.KEY: about})
        with pytest.raises(WeightsError, match="does not describe a network"):
            weights.load_network(path)


def test_weights_that_would_say_nothing_are_refused(saved):
    """A NaN makes every mask empty; a network of whole numbers is another network."""
    path, model = saved
    state, about = model.state_dict(), {weights.KEY: '{"network": {"width": 2, "depth": 2}}'}
    for wrong in (state["head.weight"] * float("nan"), state["head.weight"] / 0, state["head.weight"].to(torch.int8)):
        save_file(state | {"head.weight": wrong}, path, about)
        with pytest.raises(WeightsError, match=r"weights\.safetensors: head\.weight holds NaN, infinity or numbers of"):
            weights.load_network(path)
    save_file({name: t.half() if t.is_floating_point() else t for name, t in state.items()}, path, about)
    assert weights.load_network(path).model.head.weight.dtype == torch.float32
