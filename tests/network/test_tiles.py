"""Overlap-tile: NumPy's mirror, tiles that equal the whole image, every pixel once, and memory that does not grow."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelnb.network import geometry, inference, tiles
from steelnb.network.inference import FlipAveraged
from steelnb.network.tiles import Tile
from steelnb.network.unet import UNet

SIDES = st.integers(1, 7)
MARGINS = st.tuples(st.integers(0, 30), st.integers(0, 30))
EITHER = st.one_of(st.integers(1, 40), st.tuples(st.integers(1, 40), st.integers(1, 40)))


def fixed(examples):
    return settings(deadline=None, derandomize=True, max_examples=examples)


def network(depth, width=2, seed=0, **options):
    """Random weights, batch norms that have seen something, eval mode."""
    torch.manual_seed(seed)
    model = UNet(width=width, depth=depth, **options)
    n = geometry.input_size(9, depth)
    model(torch.rand(2, options.get("in_channels", 1), n, n))
    return model.eval()


def whole(model, image):
    """The reference: NumPy pads the image once, the network sees all of it, the surplus is cut off."""
    pads = [(0, 0)] * (image.ndim - 2)
    for n in image.shape[-2:]:
        depth = getattr(model, "model", model).depth
        margin = geometry.margin(depth)
        pads.append((margin, geometry.input_size(n, depth) - n - margin))
    padded = torch.from_numpy(np.pad(image, pads, mode="symmetric"))
    padded = padded / 255 if image.dtype == np.uint8 else padded
    with torch.inference_mode():
        logits = model(padded.reshape(1, -1, *padded.shape[-2:]).to(next(model.parameters()).dtype))
    return logits[0, :, : image.shape[-2], : image.shape[-1]].double().numpy()


# ---- mirror and window


@given(SIDES, SIDES, MARGINS, MARGINS, st.sampled_from([(), (3,), (2, 3)]), st.sampled_from([np.uint8, np.float64]))
@fixed(150)
def test_mirror_is_numpy_s_symmetric_pad(height, width, rows, columns, before, dtype):
    image = np.random.default_rng(0).integers(0, 256, (*before, height, width)).astype(dtype)
    expected = np.pad(image, [(0, 0)] * len(before) + [rows, columns], mode="symmetric")
    mirrored = tiles.mirror(image, rows, columns)
    assert mirrored.dtype == dtype
    assert np.array_equal(mirrored, expected)


def test_mirror_by_hand():
    assert tiles.mirror_index(-5, 9, 4).tolist() == [3, 3, 2, 1, 0, 0, 1, 2, 3, 3, 2, 1, 0, 0]
    assert tiles.mirror_index(-2, 2, 1).tolist() == [0, 0, 0, 0]
    assert tiles.mirror(np.array([[1, 2, 3]]), (1, 0), (2, 1)).tolist() == [[2, 1, 1, 2, 3, 3]] * 2
    image = np.zeros((256, 1600), np.uint8)
    assert tiles.mirror(image, (87, 87), (90, 90)).shape == (430, 1780)


@given(SIDES, SIDES, st.integers(-40, 40), st.integers(-40, 40), st.integers(1, 30), st.integers(1, 30))
@fixed(200)
def test_window_is_a_piece_of_the_endless_mirror(height, width, top, left, rows, columns):
    image = np.arange(height * width).reshape(height, width)
    endless = np.pad(image, 80, mode="symmetric")
    expected = endless[80 + top : 80 + top + rows, 80 + left : 80 + left + columns]
    assert np.array_equal(tiles.window(image, top, left, rows, columns), expected)


def test_window_that_lies_in_the_mirror_alone_is_turned():
    image = np.arange(20).reshape(4, 5)
    assert np.array_equal(tiles.window(image, -4, 0, 4, 5), image[::-1])
    assert np.array_equal(tiles.window(image, 0, 5, 4, 5), image[:, ::-1])
    assert np.array_equal(tiles.window(image, 5, 6, 2, 3), image[2:0:-1, 3:0:-1])


def test_window_inside_is_a_plain_slice():
    image = np.random.default_rng(0).integers(0, 256, (2, 30, 40)).astype(np.uint8)
    for rows in (slice(3, 9), slice(0, 30), slice(29, 30)):
        for columns in (slice(5, 25), slice(0, 40), slice(0, 1)):
            cut = tiles.window(image, rows.start, columns.start, rows.stop - rows.start,
                                      columns.stop - columns.start)
            assert np.array_equal(cut, image[:, rows, columns])


def test_window_reads_only_what_it_needs(tmp_path):
    class Counted(np.ndarray):
        read = 0

        def __getitem__(self, key):
            part = super().__getitem__(key)
            Counted.read += part.size
            return part

    image = np.zeros((64, 10_000), np.uint8).view(Counted)
    tiles.window(image, -20, 5000, 104, 104)
    assert Counted.read == 64 * 104


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_input_window_is_an_exact_size_around_the_tile(depth):
    image = np.random.default_rng(0).random((50, 60))
    tile, margin = Tile(16, 32, 20, 28), geometry.margin(depth)
    seen = tiles.input_window(image, tile, depth)
    assert seen.shape == (geometry.input_size(20, depth), geometry.input_size(28, depth))
    assert np.array_equal(seen[margin : margin + 20, margin : margin + 28], image[tile.region])


# ---- tiles


@given(st.integers(1, 90), st.integers(1, 90), EITHER, st.integers(1, 4))
@fixed(150)
def test_tiles_cover_every_pixel_once_from_the_grid(height, width, side, depth):
    covered = np.zeros((height, width), int)
    places = tiles.tiles(height, width, side, depth)
    for place in places:
        covered[place.region] += 1
        assert place.top % 2**depth == place.left % 2**depth == 0
        assert (covered[place.region].shape) == (place.height, place.width)
        assert min(place.height, place.width) > 0
    assert (covered == 1).all()
    assert places == sorted(places)
    sides = (side, side) if isinstance(side, int) else side
    for used, n, wanted in ((places[0].height, height, sides[0]), (places[0].width, width, sides[1])):
        assert used == min(n, -(-wanted // 2**depth) * 2**depth)


def test_tiles_by_hand():
    assert tiles.tiles(256, 1600) == [Tile(0, 0, 256, 1600)]  # one forward for a Severstal image
    assert tiles.tiles(40, 50, 17) == [Tile(0, 0, 32, 32), Tile(0, 32, 32, 18), Tile(32, 0, 8, 32),
                                              Tile(32, 32, 8, 18)]
    assert tiles.tiles(3, 5, (2, 4), depth=1) == [Tile(0, 0, 2, 4), Tile(0, 4, 2, 1), Tile(2, 0, 1, 4),
                                                         Tile(2, 4, 1, 1)]
    assert Tile(2, 4, 1, 3).region == (slice(2, 3), slice(4, 7))


@pytest.mark.parametrize(("height", "width", "tile"), [(0, 5, None), (5, 0, 8), (5, 5, 0), (5, 5, -16), (5, 5, (9, 0))])
def test_tiles_refuse_nothing(height, width, tile):
    with pytest.raises(ValueError, match="at least 1 pixel per side"):
        tiles.tiles(height, width, tile)


# ---- prediction


@given(st.integers(1, 45), st.integers(1, 45), EITHER, st.sampled_from([1, 2, 3]), st.integers(0, 9))
@fixed(60)
def test_tiles_equal_the_whole_in_double_precision(height, width, tile, depth, seed):
    model = network(depth, width=1 + seed % 3, seed=seed).double()
    image = np.random.default_rng(seed).random((height, width), np.float32)
    expected = whole(model, image)
    scale = max(1, np.abs(expected).max())
    for place, logits in predict_double(model, image, tile):
        assert np.abs(logits - expected[:, *place.region]).max() <= 1e-10 * scale


def predict_double(model, image, tile):
    """`predict_tiles`, but what the network said before it was rounded to float32."""
    heard = []
    hook = model.register_forward_hook(lambda _, __, out: heard.append(out[0]))
    for place, logits in inference.iter_logits(model, image, tile):
        exact = heard[-1][:, : place.height, : place.width].numpy()
        assert exact.dtype == np.float64
        assert np.array_equal(logits, exact.astype(np.float32))
        yield place, exact
    hook.remove()


@given(st.integers(1, 45), st.integers(1, 45), EITHER, st.sampled_from([1, 2, 3]), st.booleans())
@fixed(40)
def test_tiles_equal_the_whole_in_single_precision(height, width, tile, depth, of_bytes):
    model = network(depth, norm="encoder", crop="ceil")
    image = np.random.default_rng(height).random((height, width), np.float32)
    image = (255 * image).astype(np.uint8) if of_bytes else image
    expected, tiled = whole(model, image), inference.predict_logits(model, image, tile)
    assert tiled.shape == (1, height, width)
    assert tiled.dtype == np.float32
    assert np.abs(tiled - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (70, 1), (2, 3), (17, 33)])
def test_any_size_from_one_pixel_up_at_depth_4(shape):
    model = network(4, width=1)
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    one, many = inference.predict_logits(model, image), inference.predict_logits(model, image, 16)
    assert one.shape == many.shape == (1, *shape)
    np.testing.assert_allclose(one, many, rtol=0, atol=1e-5 * max(1, np.abs(one).max()))
    np.testing.assert_allclose(one, whole(model, image), rtol=0, atol=1e-5 * max(1, np.abs(one).max()))


def test_channels_in_and_out():
    model = network(2, in_channels=3, out_channels=4)
    image = np.random.default_rng(0).integers(0, 256, (3, 21, 34)).astype(np.uint8)
    tiled = inference.predict_logits(model, image, (8, 12))
    assert tiled.shape == (4, 21, 34)
    np.testing.assert_allclose(tiled, whole(model, image), rtol=0, atol=1e-5)
    gray = image[:1]
    single = network(2)
    assert np.array_equal(inference.predict_logits(single, gray), inference.predict_logits(single, gray[0]))


def test_bytes_and_fractions_are_the_same_image():
    model, image = network(2), np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8)
    expected = inference.predict_logits(model, image)
    for dtype in (np.float32, np.float64):
        assert np.allclose(inference.predict_logits(model, image.astype(dtype) / 255), expected, atol=1e-6)
    with pytest.raises(ValueError, match="a float image is in 0…1, got nan"):
        inference.to_tensor(np.array([[0.5, np.nan]]))
    tensor = inference.to_tensor(np.array([[0, 51, 255]], np.uint8))
    assert (tensor.shape, tensor.dtype) == ((1, 1, 1, 3), torch.float32)
    assert torch.equal(tensor.flatten(), torch.tensor([0, 51, 255]) / 255)
    assert inference.to_tensor(np.zeros((3, 4, 5))).shape == (1, 3, 4, 5)


def test_the_image_is_left_alone():
    image = np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8)
    image.setflags(write=False)
    inference.predict_logits(network(1), image[:, ::-1], 8)  # a view that runs backwards, too


def test_half_precision_networks_give_float32():
    model, image = network(1), np.random.default_rng(0).random((20, 30), np.float32)
    expected = inference.predict_logits(model, image)
    logits = inference.predict_logits(model.bfloat16(), image, 8)
    assert logits.dtype == np.float32
    assert np.allclose(logits, expected, atol=0.1 * np.abs(expected).max())


def test_a_seam_would_show():
    """The oracle is sharp: tiles off the grid, or without their neighbourhood, do not give the whole."""
    model, image = network(2), np.random.default_rng(0).random((40, 40), np.float32)
    expected = whole(model, image)
    off_grid = tiles.window(image, 2 - 20, -20, geometry.input_size(16, 2), geometry.input_size(40, 2))
    with torch.inference_mode():
        shifted = model(inference.to_tensor(off_grid))[0, :, :16, :40].numpy()
    alone = inference.predict_logits(model, image[:, 16:32])
    assert np.abs(shifted - expected[:, 2:18]).max() > 1e-3
    assert np.abs(alone - expected[:, :, 16:32]).max() > 1e-3


# ---- averaged over flips


def test_the_average_is_that_of_four_flips_by_hand():
    model, x = network(2, width=3), torch.rand(2, 1, 52, 60)
    with torch.inference_mode():
        plain, down = model(x), model(x.flip(2)).flip(2)
        across, both = model(x.flip(3)).flip(3), model(x.flip(2).flip(3)).flip(3).flip(2)
        averaged, each = FlipAveraged(model)(x), FlipAveraged(model).flipped(x)
    assert each.shape == (4, 2, 1, 12, 20)
    for turned, expected in zip(each, (plain, down, across, both), strict=True):
        assert torch.equal(turned, expected)
    np.testing.assert_allclose(averaged, (plain + down + across + both) / 4, rtol=0, atol=1e-6)
    assert (averaged - plain).abs().max() > 1e-3


@given(st.integers(1, 45), st.integers(1, 45), EITHER, st.sampled_from([1, 2, 3]), st.integers(0, 9))
@fixed(25)
def test_tiles_change_no_average_over_flips(height, width, tile, depth, seed):
    model = FlipAveraged(network(depth, seed=seed, norm="encoder")).eval()
    image = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    expected, tiled = whole(model, image), inference.predict_logits(model, image, tile)
    assert tiled.shape == (1, height, width)
    assert np.abs(tiled - expected).max() <= 2e-5 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2)])
@pytest.mark.parametrize(("depth", "height", "width"), [(1, 6, 20), (2, 8, 28), (3, 12, 36), (4, 20, 36)])
def test_a_flipped_image_has_the_flipped_average(depth, height, width, axes):
    """Where the window has no surplus on one side: sides of 4 more than a multiple of 2^depth."""
    model = FlipAveraged(network(depth, out_channels=2)).eval()
    assert all(geometry.input_size(n, depth) == n + 2 * geometry.margin(depth) for n in (height, width))
    image = np.random.default_rng(0).random((height, width), np.float32)
    forth = inference.predict_logits(model, image)
    back = inference.predict_logits(model, np.flip(image, [axis - 1 for axis in axes]))
    np.testing.assert_allclose(back, np.flip(forth, axes), rtol=0, atol=2e-5 * max(1, np.abs(forth).max()))
    alone = inference.predict_logits(model.model, np.flip(image, [axis - 1 for axis in axes]))
    assert np.abs(np.flip(alone, axes) - inference.predict_logits(model.model, image)).max() > 1e-3


def test_the_average_stands_where_the_network_stands():
    model = network(2, in_channels=3, out_channels=4)
    averaged, image = FlipAveraged(model), np.random.default_rng(0).integers(0, 256, (3, 21, 34)).astype(np.uint8)
    assert (averaged.grid, averaged.config) == (model.grid, model.config)
    assert inference.predict_logits(averaged, image).shape == (4, 21, 34)
    places = [place for place, _ in inference.iter_logits(averaged, image, 16)]
    assert places == tiles.tiles(21, 34, 16, 2)
    assert inference.predict_logits(FlipAveraged(UNet(width=1, depth=1, padding="same")), image[0]).shape == (1, 21, 34)


@pytest.mark.parametrize("training", [True, False])
def test_averaging_leaves_the_network_in_the_mode_it_was_in(training):
    """Also where the wrapper is new, and thinks that it is training."""
    model = network(1).train(training)
    inference.predict_logits(FlipAveraged(model), np.zeros((20, 20), np.uint8), 8)
    assert all(layer.training is training for layer in model.modules())


# ---- what the model is left as


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored(training):
    model, image = network(1), np.zeros((20, 20), np.uint8)
    modes = []
    model.register_forward_hook(lambda module, _, __: modes.append((module.training, torch.is_grad_enabled())))
    running = {name: value.clone() for name, value in model.named_buffers()}
    model.train(training)
    logits = inference.predict_logits(model, image, 8)
    assert modes == [(False, False)] * 9
    assert model.training is training
    assert all(layer.training is training for layer in model.modules())
    assert all(torch.equal(value, running[name]) for name, value in model.named_buffers())
    assert np.array_equal(logits, inference.predict_logits(model.eval(), image, 8))
    assert torch.is_grad_enabled()


def test_the_mode_is_restored_when_abandoned():
    model = network(1).train()
    generator = inference.iter_logits(model, np.zeros((20, 20), np.uint8), 8)
    next(generator)
    assert not model.training
    assert torch.is_grad_enabled()  # the caller's own code between tiles can still train something else
    generator.close()
    assert model.training


def test_the_mode_is_restored_after_an_error():
    model = network(1).train()
    with pytest.raises(ValueError, match=r"takes \[N, 1, H, W\]"):
        inference.predict_logits(model, np.zeros((2, 20, 20), np.uint8))
    assert model.training


# ---- refusals


def test_a_network_without_a_grid_is_refused():
    with pytest.raises(ValueError, match=r"Conv2d has no grid, .*: set model.grid = "):
        inference.predict_logits(torch.nn.Conv2d(1, 1, 3), np.zeros((20, 20), np.uint8))


@pytest.mark.parametrize("shape", [(), (20,), (1, 1, 20, 20), (0, 20), (20, 0), (0, 20, 20)])
def test_shapes_that_are_no_image_are_refused(shape):
    with pytest.raises(ValueError, match=r"an image is \[H, W\] or \[C, H, W\] with at least one pixel, got shape"):
        inference.predict_logits(UNet(width=1, depth=1), np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int64, complex, object])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match=r"uint8 \(0…255\) or float \(0…1\), got "):
        inference.predict_logits(UNet(width=1, depth=1), np.zeros((20, 20), dtype))


# ---- memory

STRIP = """
import resource, sys
import numpy as np, torch
from steelnb.network import inference
from steelnb.network.unet import UNet

torch.set_num_threads(1)
per = 1 if sys.platform == "darwin" else 1024
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * per / 1e6
image = np.memmap(sys.argv[1], np.uint8, "r", shape=(256, 200_000))
model = UNet(width=1, depth=2, norm="none")
def found(strip):
    return sum(int((logits > 0).size) for _, logits in inference.iter_logits(model, strip, (256, 1024)))
assert found(image[:, :12_000]) == 256 * 12_000
short = peak()
assert found(image) == 256 * 200_000
print(short, peak())
"""


def test_a_long_strip_takes_no_more_memory_than_a_short_one(tmp_path):
    pytest.importorskip("resource", reason="no getrusage here")
    path = tmp_path / "strip.raw"
    strip = np.memmap(path, np.uint8, "w+", shape=(256, 200_000))
    strip[:] = np.random.default_rng(0).integers(0, 256, 200_000, np.uint8)
    strip.flush()
    del strip
    done = subprocess.run([sys.executable, "-c", STRIP, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    short, long = map(float, done.stdout.split())
    # The strip's own pages, 51 MB, may count as ours; its logits would be 205 MB, and as much again as float images.
    assert long - short < 90, f"peak of {short:.0f} MB after a short strip, {long:.0f} MB after the long one"


def test_without_a_depth_it_is_the_original_s():
    """Four levels, in every function that takes a depth."""
    functions = [getattr(module, name) for module in (geometry, tiles) for name in vars(module)
                 if inspect.isfunction(getattr(module, name))]
    defaults = [parameter.default for function in functions
                for name, parameter in inspect.signature(function).parameters.items()
                if name == "depth" and parameter.default is not inspect.Parameter.empty]
    assert len(defaults) > 8
    assert set(defaults) == {4}
