"""Weights go to a file and come back; anything else in a file is refused."""

import errno
import hashlib
import json
import random
import struct
import tracemalloc

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
    with pytest.raises(WeightsError, match="no permission to read this file"):
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
        with pytest.raises(WeightsError, match=r"weights\.safetensors: head\.weight contains NaN, infinity or"):
            weights.load_network(path)
    save_file({name: t.half() if t.is_floating_point() else t for name, t in state.items()}, path, about)
    assert weights.load_network(path).model.head.weight.dtype == torch.float32


def metadata(model, **about):
    return {weights.KEY: json.dumps({"network": model.config} | about)}


@pytest.mark.parametrize(
    "classes",
    [["/../../X", "b"], [1, 1], [1.0, 2.0], [True, 2], ["1", "2"], [0, 1], [-1, 1], [None, 1], [[1], 2], "12",
     [1, 2, 3]],
)
def test_classes_that_cannot_name_files_are_refused(tmp_path, classes):
    """They stand in the names of mask files: with "/../../X" a mask would be written outside of its folder."""
    model, path = UNet(width=2, depth=2, out_channels=2), tmp_path / "weights.safetensors"
    for good in ([1, 2], [3, 1], []):
        save_file(model.state_dict(), path, metadata(model, data={"classes": good}))
        assert weights.load_network(path).metadata["data"]["classes"] == good
    save_file(model.state_dict(), path, metadata(model, data={"classes": classes}))
    with pytest.raises(WeightsError, match=r"does not describe a network of this version: .*classes"):
        weights.load_network(path)


def test_names_of_images_are_text(saved):
    path, model = saved
    save_file(model.state_dict(), path, metadata(model, validation=["a.png", ["b.png"]]))
    with pytest.raises(WeightsError, match="'validation' in its metadata contains other values than image names"):
        weights.load_network(path)


def test_a_small_file_cannot_ask_for_a_large_network(saved):
    """Width 64 and depth 8 are 32 GB; what the file holds is compared with that before any memory is taken."""
    path, model = saved
    for large in ({"width": 64, "depth": 8}, {"width": 10**12, "depth": 2}, {"width": 10**30, "depth": 2}):
        save_file(model.state_dict(), path, {weights.KEY: json.dumps({"network": large})})
        tracemalloc.start()
        with pytest.raises(WeightsError, match="does not describe a network"):
            weights.load_network(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
        tracemalloc.stop()
    save_file({"head.weight": torch.zeros(1)}, path, {weights.KEY: json.dumps({"network": {"width": 64, "depth": 8}})})
    with pytest.raises(WeightsError, match=r"decoder\.0\.0\.bias is missing, and the network's is \[64\]"):
        weights.load_network(path)


def test_loading_draws_nothing_at_random(saved):
    before = torch.get_rng_state()
    weights.load_network(saved[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_flipped_bit_is_refused_or_changes_nothing(saved):
    path, model = saved
    whole, text = path.read_bytes(), json.dumps(weights.load_network(path).metadata)
    rng, refused = random.Random(0), 0
    for place in [rng.randrange(8 * len(whole)) for _ in range(400)]:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            trained = weights.load_network(path)
        except WeightsError:
            refused += 1
        else:
            assert json.dumps(trained.metadata) == text
            assert all(torch.equal(model.state_dict()[k], v) for k, v in trained.model.state_dict().items())
    assert refused >= 390  # the rest hit the name of the digest or white space


def test_files_from_before_the_digest_load(saved):
    path, model = saved
    save_file(model.state_dict(), path, metadata(model))
    assert torch.equal(weights.load_network(path).model.head.weight, model.head.weight)
    save_file(model.state_dict(), path, metadata(model) | {weights.DIGEST: "0" * 64})
    with pytest.raises(WeightsError, match=r"changed since it was written \(its SHA-256 differs\)"):
        weights.load_network(path)


def test_the_digest_is_sha_256_of_names_types_shapes_and_bytes():
    tensors = {"b": torch.tensor([[1.5, -2.0]]), "a": torch.tensor(3)}
    content = b"texta torch.int64 []\n" + struct.pack("<q", 3)
    content += b"b torch.float32 [1, 2]\n" + struct.pack("<2f", 1.5, -2)
    assert weights.digest_of(tensors, "text") == hashlib.sha256(content).hexdigest()
