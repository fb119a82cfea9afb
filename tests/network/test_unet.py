"""The network: the paper's and the original's numbers, where norms stand, how it starts, what it refuses, its cost."""

import re

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from steelnb.network import geometry
from steelnb.network.unet import UNet, cost


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def by_hand(width, depth, in_channels=1, out_channels=1, norm="none"):
    """Parameters, added up from the paper's Figure 1."""
    double = lambda a, b, normed: 9 * a * b + b + 9 * b * b + b + 4 * b * normed  # noqa: E731
    channels = [width * 2**level for level in range(depth + 1)]
    total = sum(double(a, b, norm != "none") for a, b in zip([in_channels, *channels], channels, strict=False))
    for c in channels[:-1]:
        total += 4 * 2 * c * c + c + double(2 * c, c, norm == "all")
    return total + width * out_channels + out_channels


def norms(part):
    return sum(isinstance(module, nn.BatchNorm2d) for module in part.modules())


def test_the_original_s_size():
    with torch.device("meta"):
        assert parameters(UNet.original()) == 31_038_529 == by_hand(64, 4, norm="encoder")
        assert parameters(UNet(norm="none")) == 31_030_593 == by_hand(64, 4)


@pytest.mark.parametrize("norm", ["all", "encoder", "none"])
@pytest.mark.parametrize(("width", "depth", "channels"), [(2, 1, (1, 1)), (3, 2, (3, 4)), (8, 4, (1, 4))])
def test_parameters_by_hand(width, depth, channels, norm):
    model = UNet(*channels, width=width, depth=depth, norm=norm)
    assert parameters(model) == by_hand(width, depth, *channels, norm)


@pytest.mark.parametrize(("norm", "encoder", "decoder"), [("all", 6, 4), ("encoder", 6, 0), ("none", 0, 0)])
def test_where_the_norms_are(norm, encoder, decoder):
    model = UNet(width=2, depth=2, norm=norm)
    assert (norms(model.encoder), norms(model.decoder)) == (encoder, decoder)
    assert norms(model) == encoder + decoder
    for block in (*model.encoder, *model.decoder):
        kinds = [type(layer).__name__ for layer in block]
        normed = "BatchNorm2d" in kinds
        assert kinds == (["Conv2d", "BatchNorm2d", "ReLU"] if normed else ["Conv2d", "ReLU"]) * 2


def test_the_original_and_the_default_differ_as_told():
    assert UNet.original(width=1).config == UNet(width=1, norm="encoder", crop="ceil").config
    changed = dict(UNet(width=1).config, norm="encoder", crop="ceil")
    assert UNet.original(width=1).config == changed
    assert UNet.original(width=1, crop="exact", out_channels=4).config == changed | {"crop": "exact", "out_channels": 4}
    assert UNet.original(width=2, depth=2)(torch.rand(1, 1, 45, 50)).shape == (1, 1, 4, 8)


def test_starts_as_the_paper_says():
    torch.manual_seed(0)
    model = UNet(width=16, depth=3)
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            continue
        assert not layer.bias.any(), name
        weight, n = layer.weight.detach(), layer.weight.numel()
        incoming = layer.in_channels * (9 if layer.kernel_size == (3, 3) else 1)  # a 2×2 stride 2 pixel has one source
        std = (2 / incoming) ** 0.5
        assert abs(weight.mean()) < 5 * std / n**0.5, name
        assert weight.std() == pytest.approx(std, rel=5 / (2 * n) ** 0.5), name
        if n > 5000:  # normal, not uniform or cut off
            assert (weight.abs() > 2 * std).double().mean() == pytest.approx(0.0455, abs=0.01), name
            assert weight.abs().max() > 3 * std, name


def test_activations_neither_fade_nor_explode():
    torch.manual_seed(0)
    model = UNet(width=16, depth=3, norm="none").eval()
    with torch.inference_mode():
        logits = model(torch.randn(1, 1, 108, 108))
    assert 0.05 < logits.std() < 20


def test_same_seed_same_network():
    models = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        models.append(UNet(width=2, depth=2))
    image = torch.rand(2, 1, 44, 48)
    assert torch.equal(models[0](image), models[1](image))
    assert not torch.equal(models[0](image), models[2](image))


@pytest.mark.parametrize("norm", ["all", "encoder", "none"])
def test_state_dict_round_trip(norm):
    model = UNet(width=2, depth=2, norm=norm, out_channels=4)
    image = torch.rand(2, 1, 44, 48)
    model(image)  # moves the running statistics
    again = UNet(**model.config)
    again.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(image), again.eval()(image))
    assert again.config == model.config


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("crop", ["exact", "ceil", "floor"])
def test_sizes_and_channels(classes, crop):
    model = UNet(in_channels=3, out_channels=classes, width=2, depth=3, crop=crop)
    height, width = geometry.input_size(1, 3), geometry.input_size(30, 3)
    out = model(torch.rand(2, 3, height, width))
    assert out.shape == (2, classes, geometry.output_size(height, 3), geometry.output_size(width, 3))
    assert out.dtype == torch.float32


def test_crops_agree_at_exact_sizes_and_not_elsewhere():
    torch.manual_seed(0)
    models = [UNet(width=4, depth=2, norm="none", crop=crop) for crop in ("exact", "ceil", "floor")]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    exact, odd = torch.rand(1, 1, 44, 48), torch.rand(1, 1, 45, 49)  # skips of 41 and 45 cells cropped to 8 and 12
    assert torch.equal(models[0](exact), models[1](exact))
    assert torch.equal(models[0](exact), models[2](exact))
    assert not torch.allclose(models[1](odd), models[2](odd))


def test_logits_are_unbounded_and_every_weight_learns():
    torch.manual_seed(0)
    model = UNet(width=2, depth=2)
    logits = model(torch.rand(2, 1, 60, 60))
    assert logits.min() < 0 < logits.max()  # no sigmoid or ReLU behind the head
    logits.square().sum().backward()
    for name, weight in model.named_parameters():
        if name.endswith("weight"):
            assert weight.grad.any(), name


def test_shifting_the_image_by_the_grid_shifts_the_logits():
    torch.manual_seed(0)
    model, image = UNet(width=2, depth=2).double().eval(), torch.rand(1, 1, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.allclose(model(image[..., 4:, 8:]), model(image)[..., 4:, 8:], atol=1e-12)


@pytest.mark.parametrize("size", [(16, 24), (8, 8), (40, 16)])
def test_same_padding_keeps_the_size(size):
    assert UNet(width=2, depth=3, padding="same")(torch.rand(2, 1, *size)).shape == (2, 1, *size)


@pytest.mark.parametrize(("height", "width", "axis"), [(45, 44, "height"), (44, 46, "width"), (40, 44, "height")])
def test_an_inexact_size_is_refused_by_axis(height, width, axis):
    bad = height if axis == "height" else width
    message = rf"^{axis}: an input of {bad} pixels does not fit depth 2.*next sizes that work are 44, 48$"
    with pytest.raises(geometry.GeometryError, match=message):
        UNet(width=1, depth=2)(torch.rand(1, 1, height, width))


@pytest.mark.parametrize("crop", ["ceil", "floor"])
def test_a_size_that_leaves_nothing_is_refused(crop):
    model = UNet(width=1, depth=2, crop=crop, norm="none")
    with pytest.raises(geometry.GeometryError, match=r"^width: an input of 30 pixels is too small for depth 2"):
        model(torch.rand(1, 1, 45, 30))


@pytest.mark.parametrize("size", [(16, 20), (20, 16), (0, 8)])
def test_same_padding_refuses_other_sizes(size):
    axis = "width" if size[1] == 20 else "height"
    with pytest.raises(geometry.GeometryError, match=rf"^{axis}: \d+ pixels are not a multiple of 8"):
        UNet(width=1, depth=3, padding="same")(torch.rand(1, 1, *size))


@pytest.mark.parametrize("shape", [(1, 3, 44, 44), (1, 44, 44), (44, 44), (1, 0, 44, 44)])
def test_wrong_channels_are_refused(shape):
    with pytest.raises(ValueError, match=rf"takes \[N, 1, H, W\], got {re.escape(str(list(shape)))}"):
        UNet(width=1, depth=2)(torch.zeros(shape))


@pytest.mark.parametrize(("wrong", "message"), [
    (dict(norm="batch"), "norm is 'batch'; it can be all, encoder, none"),
    (dict(crop="centre"), "crop is 'centre'; it can be exact, ceil, floor"),
    (dict(padding="reflect"), "padding is 'reflect'; it can be valid, same"),
    (dict(width=0), "at least 1"), (dict(in_channels=0), "at least 1"), (dict(out_channels=-1), "at least 1"),
    (dict(depth=0), "depth is the number of poolings"), (dict(depth=9), "depth is the number of poolings"),
])
def test_wrong_options_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        UNet(**{"width": 1, "depth": 2} | wrong)


def test_cost_of_the_original():
    with torch.device("meta"):
        model = UNet.original()
    layers = cost(model, 430, 1780)
    assert round(sum(layer.macs for layer in layers) / 1e9) == 372
    repaired = sum(layer.macs for layer in cost(model, 444, 1788))
    assert round(100 * (repaired / sum(layer.macs for layer in layers) - 1)) == 6
    assert layers[0] == ("encoder.0.0", 0, 64, 428, 1778, 9 * 64 + 64, 9 * 64 * 428 * 1778)
    assert layers[0].activations == 64 * 428 * 1778
    assert layers[-1] == ("head", 0, 1, 244, 1588, 65, 64 * 244 * 1588)
    assert [x.level for x in layers] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 3, 2, 2, 2, 1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(("options", "size"), [
    (dict(), (44, 48)), (dict(crop="ceil", norm="encoder"), (45, 51)), (dict(padding="same", out_channels=4), (16, 24)),
    (dict(in_channels=3, norm="none"), (60, 44)),
])
def test_cost_is_what_pytorch_counts(options, size):
    model = UNet(width=3, depth=2, **options).eval()
    seen = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(lambda _, __, out, name=name: seen.update({name: tuple(out.shape[1:])}))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, options.get("in_channels", 1), *size))
    layers = cost(model, *size)
    assert 2 * sum(layer.macs for layer in layers) == counter.get_total_flops()  # a multiply-add is two
    assert {layer.name: (layer.channels, layer.height, layer.width) for layer in layers} == seen
    of_norms = sum(p.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert sum(layer.parameters for layer in layers) == parameters(model) - of_norms


def test_cost_leaves_the_network_and_the_seed_alone():
    torch.manual_seed(0)
    model = UNet(width=2, depth=2)
    expected = torch.rand(3)
    torch.manual_seed(0)
    UNet(width=2, depth=2)
    cost(model, 44, 44)
    assert all(not layer._forward_hooks for layer in model.modules())
    assert model.training
    assert torch.equal(torch.rand(3), expected)  # "nothing is computed": no random weights are drawn either


def test_cost_refuses_what_the_network_refuses():
    with pytest.raises(geometry.GeometryError, match=r"^height: "):
        cost(UNet(width=1, depth=2), 45, 44)
