"""Measures whether any `nn.Module` can be tiled, and on which grid.  Taught in 02_overlap_tile.

Tiles give the same result as the whole image if each window includes all pixels that the outputs kept from it depend on
(`margin`), and if windows start at multiples of the network's strides (`stride`). Dependence is found with NaN: every
value computed from NaN is NaN, even with a weight of 0 or a dead ReLU, so an output that is not NaN cannot depend on
the NaN input. A layer over the whole image (global pooling, squeeze-and-excitation, instance norm, attention) makes the
whole output NaN; such a network is refused.
"""

import copy
import math

import torch

from steelnb.network.geometry import Grid

BASE = 192  # pixels: a multiple of the strides below
SHORT = (64, 192, 384)  # pixels: start values of the search for a size of the other axis
STRIDES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
LOOK_FAR = ("Adaptive", "GlobalAvg", "Squeeze", "SEModule", "SELayer", "InstanceNorm", "GroupNorm", "LayerNorm",
            "Attention", "Transformer")  # parts of the names of layers over the whole image


class NotTileable(ValueError):
    """Tiles of this network would not give the result of the whole image. The message says why."""


def find_grid(model: torch.nn.Module, channels: int = 1, longest: int = 3072) -> Grid:
    """The grid on which `model`, float [N, channels, H, W] → [N, K, H', W'], can be tiled; takes seconds.

    Works on a copy in float64 on the CPU, in eval mode; `model` is not changed. With `model.grid` set to it,
    `inference.predict_logits` accepts the network. The larger of the margins of both axes is used for both.
    Raises NotTileable, naming layers to check, if an output depends on pixels more than `longest` / 2 away, or if no
    shift of up to 64 pixels merely shifts the output.
    """
    model = copy.deepcopy(model).cpu().double().eval()
    with torch.inference_mode():
        grids = [_along(model, channels, longest, axis) for axis in (2, 3)]
    margin, stride = max(g.margin for g in grids), math.lcm(*(g.stride for g in grids))
    if len({g.remainder for g in grids}) > 1:
        raise NotTileable("the sizes of its windows differ between height and width")
    lost = min(g.margin for g in grids)
    return Grid(lost + -(-(margin - lost) // stride) * stride, stride, grids[0].remainder % stride)


def _along(model: torch.nn.Module, channels: int, longest: int, axis: int) -> Grid:
    """The grid along one axis, measured on an image that is long along it and short across."""
    across = _accepted(model, channels, axis, None, *SHORT)
    length = BASE
    while True:  # until the image is long enough to contain both ends of the NaN outputs
        length = _accepted(model, channels, axis, across, 2 * length)
        stride = None
        field = torch.rand(1, channels, across, length + STRIDES[-1], dtype=torch.float64,
                           generator=torch.Generator().manual_seed(0))
        lost = (length - _run(model, field[..., :length], axis).shape[3]) // 2
        stains = [_stained(model, field, length, length // 2, axis)]
        if None not in stains:
            reach = max(abs(length // 2 - lost - end) for end in stains[0])
            stride = _stride(model, field, length, reach + STRIDES[-1], axis)
        if stride:
            places = range(length // 2, length // 2 + stride)
            stains = [_stained(model, field, length, place, axis) for place in places]
        if stride and None not in stains:
            # Windows contain whole blocks of `stride` outputs, and a few more pixels if their sides require it: how far
            # is the NaN input before the first and after the last pixel of a block that it makes NaN?
            spare = stride - 1 + (length - 2 * lost) % stride
            far = [max(last // stride * stride - at, at - first // stride * stride - spare)
                   for at, (first, last) in zip([place - lost for place in places], stains, strict=True)]
            return Grid(lost + -(-max(0, max(far) - lost) // stride) * stride, stride, length % stride)
        if 2 * length > longest:
            raise NotTileable(_reason(model, stride, stains, length))


def _accepted(model: torch.nn.Module, channels: int, axis: int, across: int | None, *least: int) -> int:
    """The first length, from one of `least` on, that the network accepts; across None: of a square."""
    error = None
    for n in (start + more for start in least for more in range(STRIDES[-1])):
        try:
            _run(model, torch.zeros(1, channels, across or n, n, dtype=torch.float64), axis)
        except (RuntimeError, ValueError) as refusal:
            error = refusal
        else:
            return n
    raise NotTileable(f"it accepts no image of {least[-1]} to {least[-1] + STRIDES[-1] - 1} pixels: {error}")


def _run(model: torch.nn.Module, images: torch.Tensor, axis: int) -> torch.Tensor:
    """The output, with the examined axis last."""
    y = model(images.transpose(2, 3) if axis == 2 else images)
    if not isinstance(y, torch.Tensor) or y.ndim != 4:
        raise NotTileable("its output is not a map [N, K, H, W]")
    return y.transpose(2, 3) if axis == 2 else y


def _stained(model: torch.nn.Module, field: torch.Tensor, length: int, place: int, axis: int) -> tuple | None:
    """The first and the last output that a column of NaN at `place` makes NaN; None if one of them is at an edge."""
    dyed = field[..., :length].clone()
    dyed[..., place] = torch.nan
    y = _run(model, dyed, axis)
    stained = y.isnan().any(dim=2).any(dim=1)[0].nonzero().flatten()
    if len(stained) == 0:  # dropped between two strides
        return (place - (length - y.shape[3]) // 2,) * 2
    first, last = int(stained[0]), int(stained[-1])
    return None if first == 0 or last == y.shape[3] - 1 else (first, last)


def _stride(model: torch.nn.Module, field: torch.Tensor, length: int, clear: int, axis: int) -> int | None:
    """The smallest shift of the image that merely shifts the output, `clear` pixels from the ends; None if there is
    none, or the image is too short to tell."""
    whole = _run(model, field[..., :length], axis)
    if whole.shape[3] < 2 * clear:
        return None
    scale = whole.abs().max()
    for shift in STRIDES:
        moved = _run(model, field[..., shift : length + shift], axis)
        there = whole[..., clear + shift : whole.shape[3] - clear + shift]
        if (moved[..., clear : moved.shape[3] - clear] - there).abs().max() <= 1e-9 * scale:
            return shift
    return None


def _reason(model: torch.nn.Module, stride: int | None, stains: list, length: int) -> str:
    far = sorted({type(m).__name__ for m in model.modules() if any(word in type(m).__name__ for word in LOOK_FAR)})
    looks = f"; layers over the whole image: {', '.join(far)}" if far else ""
    if None in stains:
        return (f"one pixel changes outputs all over an image of {length} pixels{looks}. A network without global "
                "pooling, squeeze-and-excitation, attention and norms over the image can be tiled")
    return f"no shift of up to {STRIDES[-1]} pixels merely shifts its output{looks}"
