"""Sizes of a valid U-Net: the paper's, the original's, and what real networks give, refuse and look at."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelnb.network import geometry
from steelnb.network.geometry import GeometryError
from steelnb.network.unet import UNet

fixed = settings(deadline=None, derandomize=True, max_examples=200)
DEPTHS = range(1, 7)


def ghost(depth, crop):
    """A network that computes shapes only, and leaves it to PyTorch to refuse a size."""
    with torch.device("meta"):
        model = UNet(width=1, depth=depth, norm="none", crop=crop)
    model._check = lambda images: None
    return model


def shape_seen(model, height, width):
    """Output height and width, or None where PyTorch finds nothing left to convolve."""
    try:
        out = model(torch.empty(1, 1, height, width, device="meta")).shape[2:]
    except RuntimeError:
        return None
    return tuple(out) if min(out) > 0 else None


def leaves(n, depth):
    """Whether an input of `n` pixels leaves an output at all."""
    try:
        return geometry.output_size(n, depth) > 0
    except GeometryError:
        return False


def smallest(depth):
    """The smallest input, exact or not, that leaves an output."""
    return next(n for n in range(1, 2000) if leaves(n, depth))


@pytest.mark.parametrize(("n", "out"), [(572, 388), (430, 244), (1780, 1588), (444, 260), (1788, 1604), (188, 4)])
def test_known_sizes(n, out):
    assert geometry.output_size(n) == out


def test_known_needs():
    assert geometry.input_size(256) == 444
    assert geometry.input_size(1600) == 1788
    assert geometry.input_size(388) == 572
    assert [geometry.margin(depth) for depth in DEPTHS] == [8, 20, 44, 92, 188, 380]
    assert geometry.is_exact(572)
    assert not geometry.is_exact(430)
    assert not geometry.is_exact(1780)
    assert not geometry.is_exact(172)  # of the form 16k − 4, but nothing is left


@pytest.mark.parametrize("depth", DEPTHS)
def test_exact_sizes_on_a_network(depth):
    model = ghost(depth, "ceil")
    for k in range(3):
        n = geometry.input_size(1, depth) + k * 2**depth
        assert geometry.is_exact(n, depth)
        out = n - 2 * geometry.margin(depth)
        assert shape_seen(model, n, n + 2**depth) == (out, out + 2**depth)
        assert geometry.output_size(n, depth) == out


@pytest.mark.parametrize("crop", ["ceil", "floor"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_any_size_on_a_network(depth, crop):
    model, first = ghost(depth, crop), smallest(depth)
    for n in range(first, first + 2 ** (depth + 1), max(1, 2**depth // 8 - 1)):
        assert shape_seen(model, n, n + 1) == (geometry.output_size(n, depth), geometry.output_size(n + 1, depth))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_too_small_is_too_small_on_a_network(depth):
    model, first = ghost(depth, "ceil"), smallest(depth)
    for n in range(first - 2 ** (depth + 1), first):
        assert shape_seen(model, n, first + 20) is None
        with pytest.raises(GeometryError, match="too small"):
            geometry.output_size(n, depth)


def test_shapes_without_data_are_the_shapes_with_data():
    model = UNet(width=1, depth=2, norm="none", crop="floor")
    with torch.inference_mode():
        for height, width in ((44, 48), (45, 51), (62, 47)):
            seen = model(torch.zeros(1, 1, height, width)).shape[2:]
            assert tuple(seen) == (geometry.output_size(height, 2), geometry.output_size(width, 2))


@given(st.integers(1, 5000), st.sampled_from(DEPTHS))
@fixed
def test_input_size_is_the_smallest_exact_one_that_covers(wanted, depth):
    n = geometry.input_size(wanted, depth)
    geometry.check_exact(n, depth)
    assert geometry.output_size(n, depth) >= wanted
    smaller = n - 2**depth  # the exact size before
    assert not geometry.is_exact(smaller, depth) or geometry.output_size(smaller, depth) < wanted
    assert not any(geometry.is_exact(m, depth) for m in range(smaller + 1, n))


@given(st.integers(1, 3000), st.sampled_from(DEPTHS))
@fixed
def test_exact_means_that_no_pooling_drops_a_pixel(n, depth):
    size, even = n, True
    for _ in range(depth):
        size -= 4
        even &= size % 2 == 0
        size //= 2
    assert geometry.is_exact(n, depth) == (even and leaves(n, depth))
    if geometry.is_exact(n, depth):
        assert set(geometry.skew(n, depth)) == set(geometry.skew(n, depth, "floor")) == {0}
        assert all((met.skip - met.up) % 2 == 0 for met in geometry.levels(n, depth))


def test_known_skews():
    assert geometry.skew(430) == [0, 0, 2, 1]
    assert geometry.skew(1780) == [8, 4, 4, 4]
    assert geometry.skew(444) == geometry.skew(1788) == geometry.skew(572) == [0, 0, 0, 0]


def test_levels_of_the_paper():
    """Figure 1 of the paper: sizes 64, 136, 280, 568 in the encoder meet 56, 104, 200, 392 in the decoder."""
    met = geometry.levels(572)
    assert [level.skip for level in met] == [64, 136, 280, 568]
    assert [level.up for level in met] == [56, 104, 200, 392]
    assert [level.start for level in met] == [4, 16, 40, 88]
    assert [level.stride for level in met] == [8, 4, 2, 1]


def test_levels_of_an_odd_difference():
    odd = [(c, f) for c, f in zip(geometry.levels(430), geometry.levels(430, crop="floor"), strict=True)
           if (c.skip - c.up) % 2]
    assert [c.skip - c.up for c, _ in odd] == [81]
    assert [(c.start, f.start) for c, f in odd] == [(41, 40)]


def columns_seen(model, n, level):
    """The column of the input that the output looks at on average, through one path alone: the skip at `level`, or the
    deep path (None). Kernels average and the image is a ramp, so gray values are columns; a max pooling takes the
    larger of two, so the ramp rises once and falls once."""
    model = model.double()
    for name, weight in model.named_parameters():
        inputs = weight.shape[0] if name.startswith("up") else weight[0].numel()
        torch.nn.init.constant_(weight, 0 if name.endswith("bias") else 1 / inputs)
    for at, block in enumerate(model.decoder):
        from_skip, from_below = block[0].weight.data.chunk(2, dim=1)
        from_skip *= 2 * (at == level)
        from_below *= 2 * (at != level)
    ramp = torch.arange(n, dtype=torch.float64).expand(1, 1, smallest(model.depth), n)
    with torch.inference_mode():
        return ((model(ramp) - model(n - ramp) + n) / 2).mean().item()


@pytest.mark.parametrize("crop", ["ceil", "floor"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_skew_is_what_a_network_looks_at(depth, crop):
    model = UNet(width=1, depth=depth, norm="none", crop=crop)
    first = geometry.input_size(4, depth)
    for n in range(first, first + 2**depth + 1):
        deep = columns_seen(model, n, None)
        seen = [columns_seen(model, n, level) - deep for level in reversed(range(depth))]
        assert seen == pytest.approx(geometry.skew(n, depth, crop), abs=1e-9)


@given(st.integers(-50, 3000), st.sampled_from(DEPTHS))
@fixed
def test_a_refusal_names_the_next_sizes_and_they_work(n, depth):
    if geometry.is_exact(n, depth):
        return
    with pytest.raises(GeometryError, match=rf"{n} pixels .*depth {depth}.*next sizes that work are") as refusal:
        geometry.check_exact(n, depth)
    named = [int(size) for size in str(refusal.value).rpartition("work are ")[2].split(", ")]
    assert len(named) == 2
    assert named[1] - named[0] == 2**depth
    assert all(geometry.is_exact(size, depth) for size in named)
    least = geometry.input_size(1, depth)
    assert named[0] < n < named[1] or (n < least and named[0] == least)


def test_refusals_by_hand():
    with pytest.raises(GeometryError, match=r"430 pixels.* 2\^4·k − 4, at least 188; the next .* 428, 444$"):
        geometry.check_exact(430)
    with pytest.raises(GeometryError, match=r"50 pixels is too small for depth 4: .* 188, 204$"):
        geometry.output_size(50)
    for call in (geometry.levels, geometry.skew):
        with pytest.raises(GeometryError, match="too small"):
            call(50)
    for n in (0, -1):
        with pytest.raises(GeometryError, match=f"at least 1 pixel, got {n}"):
            geometry.input_size(n)
    assert issubclass(GeometryError, ValueError)


@pytest.mark.parametrize("depth", [0, -1, 9, 1000])
def test_refuses_an_impossible_depth(depth):
    for call in (lambda d: geometry.margin(d), lambda d: geometry.output_size(572, d), lambda d: geometry.skew(572, d),
                 lambda d: geometry.input_size(256, d), lambda d: geometry.check_exact(572, d)):
        with pytest.raises(GeometryError, match=f"number of poolings, 1 to 8, got {depth}"):
            call(depth)
