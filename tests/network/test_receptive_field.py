"""Dye finds the margin and the stride of networks that are known by arithmetic, and of others; tiles then fit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from steelnb.network import geometry, inference
from steelnb.network.geometry import Grid
from steelnb.network.lite_unet import LiteUNet
from steelnb.network.receptive_field import NotTileable, find_grid
from steelnb.network.unet import UNet


class Gate(nn.Module):
    """Squeeze-and-excitation: each channel times a number that comes from all of the image."""

    def __init__(self):
        super().__init__()
        self.look, self.squeeze = nn.Conv2d(1, 2, 3, padding=1), nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        x = self.look(x)
        return x * self.squeeze(x).sigmoid()


class Pixelwise(nn.Module):
    """Three convolutions at a third of the resolution, and back by a shuffle: a stride that is no power of two."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, 3), nn.ReLU(), nn.Conv2d(4, 9, 3, padding=1), nn.PixelShuffle(3))

    def forward(self, x):
        return self.layers(x)


@pytest.fixture(autouse=True)
def same_weights():
    """A network of width 1 whose ReLUs all happen to be dead has a smaller grid than its layers say."""
    torch.manual_seed(1)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_valid_unet_has_the_grid_that_arithmetic_says(depth):
    model = UNet(width=1, depth=depth)
    assert find_grid(model) == model.grid == Grid(geometry.margin(depth), 2**depth, -4 % 2**depth)


@pytest.mark.parametrize("depth", [2, 3])
def test_a_padded_unet_too(depth):
    model = UNet(width=1, depth=depth, padding="same")
    assert find_grid(model) == model.grid


@pytest.mark.parametrize(("model", "grid"), [
    (nn.Conv2d(1, 1, 1), Grid(0, 1)),
    (nn.Conv2d(1, 1, 5), Grid(2, 1)),
    (nn.Conv2d(1, 2, 3, padding=2, dilation=2), Grid(2, 1)),
    (nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2)), Grid(0, 2)),
    (Pixelwise(), Grid(3, 3)),
])
def test_networks_known_by_hand(model, grid):
    assert find_grid(model) == grid


@pytest.mark.parametrize(("model", "named"), [
    (Gate(), "AdaptiveAvgPool2d"),
    (nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.InstanceNorm2d(2)), "InstanceNorm2d"),
    (nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.GroupNorm(1, 2)), "GroupNorm"),
])
def test_what_looks_at_the_whole_image_is_refused_by_name(model, named):
    with pytest.raises(NotTileable, match=f"outputs all over an image .*layers over the whole image: {named}"):
        find_grid(model)


def test_answers_that_are_no_map_are_refused():
    with pytest.raises(NotTileable, match="not a map"):
        find_grid(nn.Flatten())
    with pytest.raises(NotTileable, match="it accepts no image of 384 to 447 pixels"):
        find_grid(nn.Conv2d(3, 1, 3))


def test_the_network_stays_as_it_is():
    model = UNet(width=1, depth=1).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    find_grid(model)
    assert model.training
    assert next(model.parameters()).dtype == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_lite_unet_has_the_grid_that_dye_finds():
    assert find_grid(LiteUNet()) == LiteUNet.grid._replace(mirror=None)


# ---- tile = whole


def noisy(model):
    """In eval mode, its batch norms no identity."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(0.5, 2)
    return model.eval()


torch.manual_seed(0)
NETWORKS = {
    "valid": noisy(UNet(width=2, depth=2)),
    "padded": noisy(UNet(width=2, depth=2, padding="same")),
    "third": Pixelwise().eval(),
}
NETWORKS["third"].grid = find_grid(NETWORKS["third"])


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(sorted(NETWORKS)), st.integers(1, 90), st.integers(1, 90), st.integers(1, 50),
       st.integers(1, 50), st.booleans(), st.sampled_from([None, 0, 1, 3]))
def test_tiles_are_the_whole_image(name, height, width, down, across, flips, mirror):
    model, image = NETWORKS[name], np.random.default_rng(height).random((height, width), np.float32)
    grid = model.grid
    if name != "valid" and mirror is not None:
        model.grid = grid._replace(mirror=mirror * grid.stride)
    try:
        whole = inference.predict_probabilities(model, image, 10**4, flips=flips)
        tiled = inference.predict_probabilities(model, image, (down, across), flips=flips)
    finally:
        model.grid = grid
    assert whole.shape == (1, height, width)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_tiles_are_the_whole_image_for_the_lite_unet():
    torch.manual_seed(1)
    model, image = noisy(LiteUNet()), np.random.default_rng(0).random((300, 530), np.float32)
    whole = inference.predict_logits(model, image, 10**4)
    tiled = inference.predict_logits(model, image, (170, 300))
    assert whole.std() > 0.01
    np.testing.assert_allclose(tiled, whole, atol=1e-5 * np.abs(whole).max())


def test_a_smaller_margin_has_an_error_that_falls():
    torch.manual_seed(1)
    model, image = noisy(UNet(width=2, depth=3, padding="same")), np.random.default_rng(0).random((96, 200), np.float32)
    errors = inference.margin_errors(model, image, [0, 8, 16, 32, 48], tile=40)
    assert list(errors) == [0, 8, 16, 32, 48]
    assert errors[0] > errors[16] > errors[48]
    assert errors[48] <= 1e-6
    with pytest.raises(ValueError, match=r"margin 20 is no multiple .* stride 8; the next ones are 16 and 24,"):
        inference.margin_errors(model, image, [20])
    with pytest.raises(ValueError, match="a valid network loses its margin"):
        inference.margin_errors(NETWORKS["valid"], image, [4])


def test_a_chosen_margin_leaves_the_mirror_beyond_the_image_as_it_was():
    model = UNet(width=2, depth=3, padding="same")
    assert inference.grid_with_margin(model, 16) == Grid(16, 8, mirror=48)
    assert inference.grid_with_margin(NETWORKS["valid"], NETWORKS["valid"].grid.margin).margin == 20
    assert inference.grid_with_margin(LiteUNet(), 64) == LiteUNet.grid._replace(margin=64)
    with pytest.raises(ValueError, match="margin -8 is no multiple"):
        inference.grid_with_margin(model, -8)


@pytest.mark.parametrize("encoder", ["resnet18", "mobilenet_v2"])
def test_networks_of_segmentation_models_pytorch(encoder):
    smp = pytest.importorskip("segmentation_models_pytorch", reason="segmentation-models-pytorch is not installed")
    fits(smp.Unet(encoder, encoder_weights=None, in_channels=1))


def test_networks_of_monai():
    nets = pytest.importorskip("monai.networks.nets", reason="MONAI is not installed")
    shared = dict(spatial_dims=2, in_channels=1, out_channels=1)
    fits(nets.UNet(**shared, channels=(4, 8, 16), strides=(2, 2), norm="batch"))
    with pytest.raises(NotTileable, match="InstanceNorm2d"):
        find_grid(nets.BasicUNet(**shared, features=(4, 4, 8, 8, 8, 4)))


def fits(model):
    model = noisy(model)
    model.grid = find_grid(model)
    image = np.random.default_rng(0).random((2 * model.grid.stride + 5, 5 * model.grid.margin), np.float32)
    whole = inference.predict_logits(model, image, 10**4)
    tiled = inference.predict_logits(model, image, (50, 2 * model.grid.margin))
    np.testing.assert_allclose(tiled, whole, atol=1e-5 * max(1, np.abs(whole).max()))
