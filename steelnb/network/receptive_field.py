"""Whether a network can be tiled, and on which grid: found by dye, for any `nn.Module`.  Taught in 02_overlap_tile.

Tiles answer as the whole image does where each window carries all the surroundings that can change what is kept of it
(`margin`), and where windows begin at multiples of the network's strides (`stride`). The dye is NaN: whatever is
computed from it is NaN as well, whether a weight is 0 or a ReLU is dead, so what stays clean cannot depend on it. A
layer that looks at the whole image (global pooling, squeeze-and-excitation, instance norm, attention) stains all of
the output; such a network is refused.
"""

import copy
import math

import torch

from steelnb.network.geometry import Grid

BASE = 192  # pixels: a multiple of the strides below
SHORT = (64, 192, 384)  # pixels from which a size for the other axis is looked for
STRIDES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
LOOK_FAR = ("Adaptive", "GlobalAvg", "Squeeze", "SEModule", "SELayer", "InstanceNorm", "GroupNorm", "LayerNorm",
            "Attention", "Transformer")  # in the names of layers that look at the whole image


class NotTileable(ValueError):
    """A network whose answer for a tile is not that for the whole image. The message says why."""


def find_grid(model: torch.nn.Module, channels: int = 1, longest: int = 3072) -> Grid:
    """The grid on which `model`, float [N, channels, H, W] → [N, K, H', W'], can be tiled; takes seconds.

    Works on a copy in float64 on the CPU, in eval mode; `model` stays as it is. Set it as `model.grid`, and
    `inference.predict_logits` takes the network. The larger margin of both axes holds for both.
    Raises NotTileable, naming layers to look at: where an output depends on pixels more than `longest` / 2 away, and
    where no shift of up to 64 pixels leaves the answer as it is.
    """
    model = copy.deepcopy(model).cpu().double().eval()
    with torch.inference_mode():
        grids = [_along(model, channels, longest, axis) for axis in (2, 3)]
    margin, stride = max(g.margin for g in grids), math.lcm(*(g.stride for g in grids))
    if len({g.remainder for g in grids}) > 1:
        raise NotTileable("its windows have other sizes down than across")
    lost = min(g.margin for g in grids)
    return Grid(lost + -(-(margin - lost) // stride) * stride, stride, grids[0].remainder % stride)


def _along(model: torch.nn.Module, channels: int, longest: int, axis: int) -> Grid:
    """The grid along one axis, of an image that is long there and short across."""
    across = _accepted(model, channels, axis, None, *SHORT)
    length = BASE
    while True:  # until the image is long enough to see both ends of what the dye stains
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
            # Windows hold whole blocks of `stride` outputs, and some pixels more where their sides ask for it: how far
            # does dye lie before the first and after the last pixel of a block that it stains?
            spare = stride - 1 + (length - 2 * lost) % stride
            far = [max(last // stride * stride - at, at - first // stride * stride - spare)
                   for at, (first, last) in zip([place - lost for place in places], stains, strict=True)]
            return Grid(lost + -(-max(0, max(far) - lost) // stride) * stride, stride, length % stride)
        if 2 * length > longest:
            raise NotTileable(_reason(model, stride, stains, length))


def _accepted(model: torch.nn.Module, channels: int, axis: int, across: int | None, *least: int) -> int:
    """The first length from one of `least` on that the network takes; across None: of a square."""
    error = None
    for n in (start + more for start in least for more in range(STRIDES[-1])):
        try:
            _run(model, torch.zeros(1, channels, across or n, n, dtype=torch.float64), axis)
        except (RuntimeError, ValueError) as refusal:
            error = refusal
        else:
            return n
    raise NotTileable(f"it takes no image of {least[-1]} to {least[-1] + STRIDES[-1] - 1} pixels: {error}")


def _run(model: torch.nn.Module, images: torch.Tensor, axis: int) -> torch.Tensor:
    """The answer with the examined axis last."""
    y = model(images.transpose(2, 3) if axis == 2 else images)
    if not isinstance(y, torch.Tensor) or y.ndim != 4:
        raise NotTileable("its answer is no map [N, K, H, W]")
    return y.transpose(2, 3) if axis == 2 else y


def _stained(model: torch.nn.Module, field: torch.Tensor, length: int, place: int, axis: int) -> tuple | None:
    """The first and the last output that a column of dye at `place` stains; None: an edge is among them."""
    dyed = field[..., :length].clone()
    dyed[..., place] = torch.nan
    y = _run(model, dyed, axis)
    stained = y.isnan().any(dim=2).any(dim=1)[0].nonzero().flatten()
    if len(stained) == 0:  # dropped between two strides
        return (place - (length - y.shape[3]) // 2,) * 2
    first, last = int(stained[0]), int(stained[-1])
    return None if first == 0 or last == y.shape[3] - 1 else (first, last)


def _stride(model: torch.nn.Module, field: torch.Tensor, length: int, clear: int, axis: int) -> int | None:
    """The smallest shift of the image that only shifts the answer, `clear` pixels from the ends; None: there is none,
    or too little is left to see it."""
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
    looks = f"; layers that look at all of it: {', '.join(far)}" if far else ""
    if None in stains:
        return (f"one pixel changes outputs all over an image of {length} pixels{looks}. A network without global "
                "pooling, squeeze-and-excitation, attention and norms over the image can be tiled")
    return f"no shift of up to {STRIDES[-1]} pixels leaves its answer as it is{looks}"
