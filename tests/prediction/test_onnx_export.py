"""The ONNX file answers as PyTorch does, at sizes it was never shown; it says how to use it; a wrong one is refused.

Needs the extra `onnx` (pip install 'steelnb[onnx]'), except for what is said where that is missing.
"""

import json
import math
import sys

import numpy as np
import pytest
import torch

from steelnb import storage
from steelnb.network import geometry, inference, weights
from steelnb.network import tiles as overlap_tile
from steelnb.network.unet import UNet
from steelnb.network.weights import Trained
from steelnb.prediction import onnx_export
from steelnb.prediction.onnx_export import ExportError

EXTRA = "needs the extra onnx: pip install 'steelnb[onnx]'"
ABOUT = {"recipe": {"name": "tiny"}, "data": {"classes": [1, 2, 3]}, "scores": {"dice": 0.5, "false": math.nan},
         "Größe": "256×1600"}


@pytest.fixture
def onnx():
    return pytest.importorskip("onnx", reason=EXTRA)


@pytest.fixture
def ort(onnx):
    return pytest.importorskip("onnxruntime", reason=EXTRA)


def trained(**config) -> Trained:
    """A network whose batch norms have seen something, so that each of their four tensors matters."""
    torch.manual_seed(0)
    model = UNet(**dict(width=2, depth=2) | config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.5, 1.5)
    return Trained(model.eval(), ABOUT)


def run(ort, content, windows):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(content, options).run(None, {"windows": windows.astype(np.float32)})[0]


def changed(onnx, content, change):
    """The file after `change` to its protobuf."""
    proto = onnx.load_from_string(content)
    change(proto)
    return proto.SerializeToString()


@pytest.mark.parametrize(
    "config",
    [
        {},
        dict(depth=1, in_channels=3, out_channels=4),
        dict(depth=4),
        dict(norm="encoder", crop="ceil", depth=4),
        dict(norm="none", crop="floor", depth=3),
        dict(padding="same", depth=3),
    ],
    ids=lambda config: " ".join(map(str, config.values())) or "default",
)
def test_answers_as_pytorch_at_every_kind_of_size(ort, config):
    network = trained(**config)
    assert onnx_export.check_export(onnx_export.packed(network), network) < 1e-4
    batches = onnx_export.sizes(network.model)
    assert {1, 3} <= {n for n, _, _ in batches}
    assert any(h != w for _, h, w in batches)
    for _, height, width in batches:  # all of them are sizes that the network takes
        network.model._check(torch.empty(1, network.model.config["in_channels"], height, width))


@pytest.mark.parametrize(
    "config",
    [{}, dict(norm="encoder", crop="ceil", depth=3), dict(crop="floor"), dict(padding="same", out_channels=2)],
    ids=lambda config: " ".join(map(str, config.values())) or "default",
)
def test_a_fixed_size_has_no_shape_left_to_reckon(onnx, ort, config, tmp_path):
    """OpenCV 4's cv2.dnn takes neither free axes nor shapes that are computed in the graph."""
    network = trained(**config)
    size = (40, 60)
    exported = onnx_export.to_onnx(network, tmp_path / "fixed.onnx", size)
    assert exported.difference < 1e-4
    model = onnx.load(exported.path)
    kinds = {node.op_type for node in model.graph.node}
    assert kinds <= {"Conv", "ConvTranspose", "BatchNormalization", "Relu", "MaxPool", "Slice", "Concat"}
    ends = (*model.graph.input, *model.graph.output)
    shapes = {end.name: [side.dim_value for side in end.type.tensor_type.shape.dim] for end in ends}
    use = json.loads({p.key: p.value for p in model.metadata_props}["steelnb_use"])
    assert shapes == {"windows": use["input"]["shape"], "logits": use["output"]["shape"]}
    assert use["other_sizes"] == "an error"
    _, _, height, width = shapes["windows"]
    windows = np.random.default_rng(0).random((1, 1, height, width), np.float32)
    with torch.inference_mode():
        expected = network.model(torch.from_numpy(windows)).numpy()
    assert list(expected.shape) == shapes["logits"]
    assert all(n >= wanted for n, wanted in zip(expected.shape[2:], size, strict=True))
    assert np.abs(run(ort, exported.path.read_bytes(), windows) - expected).max() < 1e-4
    for wrong in (np.zeros((2, 1, height, width)), np.zeros((1, 1, height, width + 4))):
        with pytest.raises(Exception, match="Got invalid dimensions"):
            run(ort, exported.path.read_bytes(), wrong)
    with pytest.raises(ExportError, match="at least one pixel, got 0x9"):
        onnx_export.to_onnx(network, tmp_path / "no.onnx", (0, 9))


def test_opencv_takes_a_fixed_size(tmp_path):
    """Where OpenCV is installed, which the library itself does not need."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    pytest.importorskip("onnx", reason=EXTRA)
    network = trained(crop="ceil", norm="encoder")
    path = onnx_export.to_onnx(network, tmp_path / "fixed.onnx", (40, 60)).path
    height, width = onnx_export.window_of(network.model, (40, 60))
    windows = np.random.default_rng(0).random((1, 1, height, width), np.float32)
    net = cv2.dnn.readNetFromONNX(str(path))
    net.setInput(windows)
    with torch.inference_mode():
        expected = network.model(torch.from_numpy(windows)).numpy()
    assert np.abs(net.forward() - expected).max() < 1e-4


def test_the_original_at_its_own_odd_size(ort):
    """430 × 1780 fits no pooling: crops of odd differences, which a traced graph rounds the other way."""
    network = Trained(UNet.original(width=2).eval(), {})
    assert (1, 430, 1780) in onnx_export.sizes(network.model)
    content = onnx_export.packed(network)
    windows = np.random.default_rng(0).random((1, 1, 430, 1780), np.float32)
    with torch.inference_mode():
        expected = network.model(torch.from_numpy(windows)).numpy()
    assert expected.shape == (1, 1, 244, 1588)
    assert np.abs(run(ort, content, windows) - expected).max() < 1e-4
    floor = Trained(UNet.original(width=2, crop="floor").eval(), {})
    floor.model.load_state_dict(network.model.state_dict())
    assert np.abs(run(ort, onnx_export.packed(floor), windows) - expected).max() > 1e-2


@pytest.mark.parametrize("side", [20, 43, 45, 46, 47, 49])
def test_a_size_that_the_network_refuses_is_an_error_in_the_runtime_too(ort, side):
    network = trained()
    assert not geometry.is_exact(side, 2)
    with pytest.raises(Exception, match=r"(?i)concat|dimension|shape"):
        run(ort, onnx_export.packed(network), np.zeros((1, 1, 44, side)))


def test_an_image_from_the_file_alone_equals_predict(ort, onnx, tmp_path):
    """As a program without steelnb would: sizes, mirror and threshold from the JSON in the file."""
    network = trained()
    onnx_export.to_onnx(network, tmp_path / "model.onnx")
    told = {p.key: p.value for p in onnx.load(tmp_path / "model.onnx").metadata_props}
    use = json.loads(told["steelnb_use"])
    image = np.random.default_rng(1).integers(0, 256, (37, 61), np.uint8)
    fitting = [next(n for n in range(use["smallest"], 999, use["multiple"]) if n >= side + 2 * use["margin"])
               for side in image.shape]
    assert all(n % use["multiple"] == use["remainder"] for n in fitting)

    def mirrored(n, size):
        j = (np.arange(n) - use["margin"]) % (2 * size)
        return np.minimum(j, 2 * size - 1 - j)

    rows, columns = (mirrored(n, size) for n, size in zip(fitting, image.shape, strict=True))
    window = image[rows][:, columns].astype(np.float32) / use["input"]["divide_by"]
    logits = run(ort, (tmp_path / "model.onnx").read_bytes(), window[None, None])[0, :, :37, :61]
    assert np.abs(logits - inference.predict_logits(network.model, image)).max() < 1e-5


def test_tiles_equal_the_whole_image(ort):
    network, image = trained(), np.random.default_rng(2).integers(0, 256, (70, 90), np.uint8)
    content, whole = onnx_export.packed(network), inference.predict_logits(network.model, image)
    tiles = overlap_tile.tiles(*image.shape, tile=(24, 32), depth=2)
    assert len(tiles) == 9
    for tile in tiles:
        window = inference.to_tensor(overlap_tile.input_window(image, tile, 2)).numpy()
        logits = run(ort, content, window)[0, :, : tile.height, : tile.width]
        assert np.abs(logits - whole[:, *tile.region]).max() < 1e-5


def test_the_file_is_one_and_says_what_it_is(onnx, tmp_path):
    network = trained(out_channels=3)
    exported = onnx_export.to_onnx(network, tmp_path / "model.onnx")
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["model.onnx"]
    proto = onnx.load(exported.path)
    told = {p.key: json.loads(p.value, parse_constant=pytest.fail) for p in proto.metadata_props}
    assert told["steelnb"] == {"network": network.model.config} | ABOUT | {"scores": {"dice": 0.5, "false": None}}
    use = told["steelnb_use"]
    assert (use["margin"], use["smallest"], use["multiple"], use["remainder"]) == (20, 44, 4, 0)
    assert use["output"]["classes"] == [1, 2, 3]
    dims = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*proto.graph.input,
            *proto.graph.output)]
    assert dims == [["N", 1, "h", "w"], ["N", 3, "h_out", "w_out"]]
    state = network.model.state_dict()
    kept = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert all(np.array_equal(kept[k], v) for k, v in state.items() if not k.endswith("num_batches_tracked"))
    assert onnx_export.packed(network) == exported.path.read_bytes()
    assert f"{tmp_path}" not in str(told)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_the_numbers_told_are_those_of_the_geometry(depth):
    use = onnx_export.use(trained(depth=depth, width=1))
    fits = [n for n in range(600) if geometry.is_exact(n, depth)]
    assert fits == list(range(use["smallest"], 600, use["multiple"]))
    assert {n % use["multiple"] for n in fits} == {use["remainder"]}
    assert {n - geometry.output_size(n, depth) for n in fits} == {2 * use["margin"]}


def test_channels_have_names():
    assert onnx_export.use(trained())["output"]["classes"] == ["defect"]
    assert onnx_export.use(trained(out_channels=3))["output"]["classes"] == [1, 2, 3]
    assert onnx_export.use(Trained(trained(out_channels=2).model, {}))["output"]["classes"] == [1, 2]


def test_nothing_is_printed(ort, tmp_path, capfd, recwarn):
    onnx_export.to_onnx(trained(), tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_a_wrong_file_is_refused(onnx, ort, tmp_path):
    network = trained()
    content = onnx_export.packed(network)
    other = trained(crop="floor")
    with pytest.raises(ExportError, match="does not describe the network"):
        onnx_export.check_export(content, other)

    def one_weight(proto):
        tensor = next(t for t in proto.graph.initializer if t.name == "decoder.0.0.weight")
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[0, 0, 0, 0] += 0.05
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    def one_crop(proto):
        for name, values in (("crop.0.start", [15, 16]), ("crop.0.end", [-17, -16])):
            tensor = next(t for t in proto.graph.initializer if t.name == name)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(values), name))

    def no_number(proto):
        tensor = next(t for t in proto.graph.initializer if t.name == "head.bias")
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([np.nan], np.float32), tensor.name))

    for change in (one_weight, one_crop, no_number):
        with pytest.raises(ExportError, match="a logit differs"):
            onnx_export.check_export(changed(onnx, content, change), network)

    def stride(proto):  # gives the traced size an answer, and no other
        axes = next(t for t in proto.graph.initializer if t.name == "crop.0.end")
        axes.CopyFrom(onnx.numpy_helper.from_array(np.array([24, 24]), axes.name))

    onnx_export.check_export(changed(onnx, content, stride), network, [(1, 44, 44)])
    with pytest.raises(ExportError, match="fails at"):
        onnx_export.check_export(changed(onnx, content, stride), network)
    (tmp_path / "cut.onnx").write_bytes(content[:1000])
    with pytest.raises(ExportError, match=r"cut\.onnx: ONNX Runtime cannot read it"):
        onnx_export.check_export(tmp_path / "cut.onnx", network)


def test_what_fails_the_check_is_not_written(ort, tmp_path, monkeypatch):
    (tmp_path / "model.onnx").write_bytes(b"the one before")
    right = onnx_export.packed
    monkeypatch.setattr(onnx_export, "packed", lambda network, *_: right(trained(norm="none")))
    with pytest.raises(ExportError, match="does not describe"):
        onnx_export.to_onnx(trained(), tmp_path / "model.onnx")
    monkeypatch.setattr(onnx_export, "packed", right)
    monkeypatch.setattr(storage.os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(storage.StorageError, match="Make room"):
        onnx_export.to_onnx(trained(), tmp_path / "model.onnx")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == {"model.onnx": b"the one before"}


def test_weights_go_to_onnx(ort, tmp_path):
    network = trained()
    weights.save_network(tmp_path / "weights.safetensors", network.model, network.metadata)
    exported = onnx_export.to_onnx(weights.load_network(tmp_path / "weights.safetensors"), tmp_path / "model.onnx")
    assert onnx_export.check_export(exported.path, network) == exported.difference < 1e-4
    assert "same logits in ONNX Runtime as in PyTorch" in str(exported)


def test_what_cannot_be_exported_says_so(onnx, tmp_path, monkeypatch):
    with pytest.raises(ExportError, match=r"must end in \.onnx"):
        onnx_export.to_onnx(trained(), tmp_path / "weights.safetensors")
    with pytest.raises(ExportError, match="FlipAveraged has no translation"):
        onnx_export.packed(Trained(inference.FlipAveraged(trained().model), {}))
    strange = trained()
    strange.model.encoder[0][2] = torch.nn.GELU()
    with pytest.raises(ExportError, match=r"encoder\.0\.2: GELU"):
        onnx_export.packed(strange)
    monkeypatch.setattr(onnx_export, "LARGEST", 1000)
    with pytest.raises(ExportError, match="smaller width"):
        onnx_export.packed(trained())
    assert not list(tmp_path.glob("*.*"))


def test_a_file_ends_below_two_gigabytes():
    """That is where protobuf ends; a MB stays for the graph."""
    assert 2**31 - 2**21 <= onnx_export.LARGEST <= 2**31 - 2**20


@pytest.mark.parametrize(("shift", "scale"), [(0.9e-4, 1e-3), (1.1e-4, 1e-3), (0.9e-2, 100), (1.1e-2, 100)])
def test_a_logit_may_differ_by_a_ten_thousandth_of_the_largest_or_of_one(onnx, ort, shift, scale):
    network = trained()
    with torch.no_grad():
        network.model.head.weight.zero_()
        network.model.head.bias.fill_(scale)
    content = onnx_export.packed(network)

    def move(proto):
        (bias,) = (tensor for tensor in proto.graph.initializer if tensor.name == "head.bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(np.float32([scale + shift]), bias.name))

    moved = changed(onnx, content, move)
    if shift / max(1, scale) < 1e-4:
        assert onnx_export.check_export(moved, network, [(1, 44, 44)]) == pytest.approx(shift, rel=0.05)
    else:
        with pytest.raises(ExportError, match="a logit differs from PyTorch's by"):
            onnx_export.check_export(moved, network, [(1, 44, 44)])


def test_without_the_packages(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match=r"onnx is not installed: pip install 'steelnb\[onnx\]'"):
        onnx_export.to_onnx(trained(), tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"onnxruntime is not installed: pip install 'steelnb\[onnx\]'"):
        onnx_export.check_export(b"", trained())


def test_unchecked_is_said(onnx, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    exported = onnx_export.to_onnx(trained(), tmp_path / "model.onnx")
    assert exported.difference is None
    assert "not checked: onnxruntime is not installed" in str(exported)
    assert exported.path.is_file()
