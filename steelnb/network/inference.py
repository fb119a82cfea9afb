"""From an image to probabilities: windows → network → logits → sigmoid.  Taught in 02_overlap_tile.

Prediction of files and strips, scores during training and the report all use this module, so a score and a written mask
are always made from the same probabilities. An image is anything with a shape that can be sliced: an array, a memory
map, a strip on disk.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from scipy.special import expit
from tqdm.auto import tqdm

from steelnb import runtime
from steelnb.network.geometry import Grid
from steelnb.network.tiles import Tile, input_place, original_window, tiles, window
from steelnb.network.weights import check_answer


def iter_logits(
    model: torch.nn.Module, image: np.ndarray, tile: int | tuple[int, int] | None = None, progress: bool = False
) -> Iterator[tuple[Tile, np.ndarray]]:
    """Yields each tile with its logits, float32 [K, h, w]; memory grows with the tile, not with the image.

    model: a network with a `grid`: `unet.UNet`, `lite_unet.LiteUNet`, or any other, after
        `model.grid = receptive_field.find_grid(model)`. It runs on its own device in `runtime.autocast`'s precision, in
        eval mode; its mode is restored afterwards.
    image: uint8 (0…255) or float (0…1) [H, W], or [C, H, W] for a network with C channels; can be a memory map.
    Raises ValueError for any other image, and for a network without a grid.
    """
    grid = getattr(model, "grid", None)
    if grid is None:
        raise ValueError(f"{type(model).__name__} has no grid, without which tiles would not fit together: set "
                         "model.grid = receptive_field.find_grid(model)")
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f"an image is [H, W] or [C, H, W] with at least one pixel, got shape {image.shape}")
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"an image is uint8 (0…255) or float (0…1), got {image.dtype}")
    places = tiles(*image.shape[-2:], tile, grid)
    was_training = model.training
    model.eval()
    try:
        for place in tqdm(places, desc="tiles", unit="tile", disable=not progress):
            there = input_place(place, grid, image.shape[-2:])
            logits = _forward(model, window(image, *there))
            top = place.top - there.top - (there.height - logits.shape[1]) // 2
            left = place.left - there.left - (there.width - logits.shape[2]) // 2
            yield place, logits[:, top : top + place.height, left : left + place.width]
    finally:
        model.train(was_training)


def predict_logits(
    model: torch.nn.Module, image: np.ndarray, tile: int | tuple[int, int] | None = None, progress: bool = False
) -> np.ndarray:
    """Logits of every pixel, float32 [K, H, W], for an image of any size from 1×1 up. `logits > 0` is p > 0.5.

    Arguments as for `iter_logits`, which is for strips that do not fit into memory. The result does not depend on
    `tile`, up to float rounding.
    """
    return _whole(iter_logits(model, image, tile, progress), image.shape[-2:])


def iter_probabilities(
    model: torch.nn.Module, image: np.ndarray, tile: int | tuple[int, int] | None = None, flips: bool = False
) -> Iterator[tuple[Tile, np.ndarray]]:
    """Yields each tile with its probabilities, float32 [K, h, w]; `flips` averages the logits over four flips.

    Raises weights.WeightsError if the network returns NaN; otherwise as `iter_logits`.
    """
    if flips:  # a new wrapper is in training mode, and would pass it on
        model = FlipAveraged(model).train(model.training)
    for place, logits in iter_logits(model, image, tile):
        check_answer(logits)
        yield place, probability(logits)


def predict_probabilities(
    model: torch.nn.Module, image: np.ndarray, tile: int | tuple[int, int] | None = None, flips: bool = False
) -> np.ndarray:
    """Probabilities of every pixel, float32 [K, H, W]; as `iter_probabilities`."""
    return _whole(iter_probabilities(model, image, tile, flips), image.shape[-2:])


def margin_errors(
    model: torch.nn.Module, image: np.ndarray, margins: Iterable[int], tile: int | tuple[int, int] = 256
) -> dict[int, float]:
    """Margin → largest difference of a probability between tiles with this margin and the whole image.

    For a padded network, whose exact margin (`model.grid.margin`) is often much larger than needed: choose one by its
    error, then set `model.grid = grid_with_margin(model, …)`. Raises ValueError as `grid_with_margin`.
    """
    exact, answers = model.grid, {}
    grids = {margin: grid_with_margin(model, margin) for margin in margins}
    whole = predict_probabilities(model, image, image.shape[-2:])
    try:
        for margin, model.grid in grids.items():
            answers[margin] = float(np.abs(predict_probabilities(model, image, tile) - whole).max())
    finally:
        model.grid = exact
    return answers


def grid_with_margin(model: torch.nn.Module, margin: int) -> Grid:
    """The grid of a padded network with `margin` pixels around each tile instead of its exact margin: less work, and
    seams with the errors of `margin_errors`.

    The mirrored pixels beyond the image's edges do not change. Raises ValueError for a margin below 0 or not on the
    network's stride, naming the next ones that are, and for a valid network, which loses its margin.
    """
    exact = model.grid
    if getattr(model, "padding", "") == "valid" and margin != exact.margin:
        raise ValueError(f"a valid network loses its margin of {exact.margin} pixels: it cannot have another one")
    if margin < 0 or (margin - exact.margin) % exact.stride:
        below = max(0, margin // exact.stride * exact.stride)
        raise ValueError(f"margin {margin} is no multiple of the network's stride {exact.stride}; the next ones are "
                         f"{below} and {below + exact.stride}, and {exact.margin} is exact")
    return exact._replace(margin=margin, mirror=exact.margin if exact.mirror is None else exact.mirror)


def predict_original(model: torch.nn.Module, image: np.ndarray) -> np.ndarray:
    """Logits, float32 [K, h, w], of the centre of an image, uint8 [H, W], that the original's geometry predicts.

    256×1600 gives 244×1588 (`tiles.original_output`).
    """
    was_training = model.training
    model.eval()
    try:
        return _forward(model, original_window(image))
    finally:
        model.train(was_training)


def probability(logits: np.ndarray) -> np.ndarray:
    """The sigmoid of logits, same shape and dtype; above 0.5 exactly where a logit is above 0, despite rounding."""
    p = expit(logits)
    return np.where(logits > 0, np.maximum(p, np.nextafter(p.dtype.type(0.5), p.dtype.type(1))), p)


def _forward(model: torch.nn.Module, pixels: np.ndarray) -> np.ndarray:
    """Logits, float32 [K, h, w], of one window."""
    weight = next(model.parameters())
    seen = to_tensor(pixels).to(weight)
    if weight.device.type == "cpu":  # in this layout its convolutions take 40 to 70 % of the time
        seen = seen.to(memory_format=torch.channels_last)
    with torch.inference_mode(), runtime.autocast(weight.device):
        return model(seen)[0].float().cpu().numpy()


def _whole(tiles_of_it: Iterator[tuple[Tile, np.ndarray]], shape: tuple[int, int]) -> np.ndarray:
    out = None
    for place, part in tiles_of_it:
        if out is None:
            out = np.empty((len(part), *shape), np.float32)
        out[:, *place.region] = part
    return out


class FlipAveraged(torch.nn.Module):
    """A network whose logits are the mean over the four flips of its input; four times the work.

    It can replace the network everywhere. Exact windows have the same margin on every side, so flipped poolings fall on
    the same pixels, and the result still does not depend on the tiling.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.grid, self.config = model, model.grid, getattr(model, "config", {})
        self.train(model.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, K, h, w] of windows [N, C, H, W]."""
        return self.flipped(x).mean(0)

    def flipped(self, x: torch.Tensor) -> torch.Tensor:
        """The logits of each flip, flipped back, [4, N, K, h, w]; the first is not flipped."""
        return torch.stack([self.model(x.flip(axes)).flip(axes) for axes in ((), (2,), (3,), (2, 3))])


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """uint8 (0…255) or float (0…1), [H, W] or [C, H, W] → float32 [1, C, H, W] in 0…1.

    Raises ValueError for floats outside 0…1 and for NaN, which would become a wrong mask.
    """
    tensor = torch.tensor(np.ascontiguousarray(image)).float()
    if image.dtype == np.uint8:
        tensor.div_(255)
    elif not (tensor.min() >= 0 and tensor.max() <= 1):
        raise ValueError(f"a float image is in 0…1, got {tensor.min():g} … {tensor.max():g}: divide by 255?")
    return tensor[None, None] if tensor.ndim == 2 else tensor[None]
