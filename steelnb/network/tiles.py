"""The overlap-tile strategy: seamless masks of any image from a network that shrinks it.  Taught in 02_overlap_tile.

A valid U-Net needs `geometry.margin` more pixels on every side than it predicts (Ronneberger et al. 2015, Figure 2).
Inside the image they come from the neighbourhood, beyond its edge from a mirror image that repeats the edge pixel
(NumPy's "symmetric"). Output pixel (0, 0) is image pixel (0, 0), and tiles start at multiples of 2^depth, where the
poolings fall on the same pixels: so any tiling gives the whole-image answer.
"""

from collections.abc import Iterator
from numbers import Integral, Number
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from steelnb.network import geometry

DEFAULT_TILE = (512, 2048)  # one forward for a Severstal image; memory stays bounded for a strip


class Tile(NamedTuple):
    """A rectangle of output pixels, rows top … top + height, columns left … left + width."""

    top: int
    left: int
    height: int
    width: int

    @property
    def region(self) -> tuple[slice, slice]:
        """Indexes it in an [H, W] array."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def mirror_index(start: int, stop: int, size: int) -> np.ndarray:
    """Which pixel of an axis of `size` pixels stands at each place start … stop − 1 of its endless mirror image.

    int64 [stop − start]. The edge pixel is repeated: places −2, −1, 0, 1 are pixels 1, 0, 0, 1.
    """
    place = np.arange(start, stop) % (2 * size)
    return np.minimum(place, 2 * size - 1 - place)


def window(image: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Rows top … top + height and columns left … left + width of an […, H, W] array mirrored beyond its edges.

    Only the pixels that are needed are read, so `image` can be a memory map of any length. Same dtype.
    """
    rows = mirror_index(top, top + height, image.shape[-2])
    columns = mirror_index(left, left + width, image.shape[-1])
    r, c = rows.min(), columns.min()
    near = np.asarray(image[..., r : rows.max() + 1, c : columns.max() + 1])
    if (r, c) == (top, left) and near.shape[-2:] == (height, width):  # wholly inside: nothing to mirror
        return near
    # Slices beside one another, then whole rows: picking every pixel by its index takes four times as long.
    across = [near[..., way] for way in _ways(left, left + width, image.shape[-1], c)]
    return np.concatenate(across, axis=-1)[..., rows - r, :]


def _ways(start: int, stop: int, size: int, first: int) -> Iterator[slice]:
    """`mirror_index` as slices, forth and back in turn, of an axis that begins at pixel `first`."""
    for copy in range(start // size, -(-stop // size)):
        begin, end = max(start - copy * size, 0), min(stop - copy * size, size)
        if copy % 2:
            last = size - end - first  # of this slice, which runs backwards and stops before index −1
            yield slice(size - 1 - begin - first, last - 1 if last else None, -1)
        else:
            yield slice(begin - first, end - first)


def mirror(image: np.ndarray, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """An […, H, W] array with mirrored margins of (before, after) pixels; the original's were (87, 87) and (90, 90)."""
    height, width = image.shape[-2:]
    return window(image, -rows[0], -columns[0], height + sum(rows), width + sum(columns))


def input_place(output: Tile, depth: int = 4) -> Tile:
    """Where the exact input lies from which a valid U-Net of `depth` predicts the pixels of `output` (and a few more).

    The first output pixel is the tile's first; surplus falls at its bottom and right.
    """
    margin = geometry.margin(depth)
    sides = (geometry.input_size(side, depth) for side in (output.height, output.width))
    return Tile(output.top - margin, output.left - margin, *sides)


def input_window(image: np.ndarray, output: Tile, depth: int = 4) -> np.ndarray:
    """The pixels at `input_place`, […, h, w], mirrored where they lie beyond the image."""
    return window(image, *input_place(output, depth))


def tiles(height: int, width: int, tile: int | tuple[int, int] | None = None, depth: int = 4) -> list[Tile]:
    """Tiles that cover height × width output pixels once each, row by row, starting at multiples of 2^depth.

    tile: output pixels of a tile, one number or (height, width), rounded up to the grid; None: `DEFAULT_TILE`.
    Raises ValueError for a side below 1.
    """
    sides = (tile, tile) if isinstance(tile, Number) else tile or DEFAULT_TILE
    if not all(isinstance(side, Integral) for side in sides):
        raise ValueError(f"a tile is whole pixels, got {tile}")
    if min(sides) < 1 or min(height, width) < 1:
        raise ValueError(f"a tile and an image have at least 1 pixel a side, got tile {sides}, image {height}×{width}")
    grid = 2**depth
    down, right = (-(-side // grid) * grid for side in sides)
    return [
        Tile(top, left, min(down, height - top), min(right, width - left))
        for top in range(0, height, down)
        for left in range(0, width, right)
    ]


def predict_tiles(
    model: torch.nn.Module, image: np.ndarray, tile: int | tuple[int, int] | None = None, progress: bool = False
) -> Iterator[tuple[Tile, np.ndarray]]:
    """Yields each tile with its logits, float32 [K, h, w]; memory grows with the tile, never with the image.

    model: a valid `unet.UNet`; it runs on its own device and dtype, in eval mode, and is left in the mode it was in.
    image: uint8 (0…255) or float (0…1) [H, W], or [C, H, W] for a network of C channels; a memory map will do.
    Raises ValueError for another kind of image, and for a network that is not valid.
    """
    if getattr(model, "padding", None) != "valid":
        raise ValueError("tile-wise prediction equals the whole image only for a valid U-Net (padding='valid')")
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f"an image is [H, W] or [C, H, W] with at least one pixel, got shape {image.shape}")
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"an image is uint8 (0…255) or float (0…1), got {image.dtype}")
    weight = next(model.parameters())
    places = tiles(*image.shape[-2:], tile, model.depth)
    was_training = model.training
    model.eval()
    try:
        for place in tqdm(places, desc="tiles", unit="tile", disable=not progress):
            with torch.inference_mode():
                seen = to_tensor(input_window(image, place, model.depth)).to(weight)
                if weight.device.type == "cpu":  # with pixels outermost its convolutions take 40 to 70 % of the time
                    seen = seen.to(memory_format=torch.channels_last)
                logits = model(seen)
            yield place, logits[0, :, : place.height, : place.width].float().cpu().numpy()
    finally:
        model.train(was_training)


def predict(
    model: torch.nn.Module, image: np.ndarray, tile: int | tuple[int, int] | None = None, progress: bool = False
) -> np.ndarray:
    """Logits of every pixel, float32 [K, H, W], for an image of any size from 1×1 up. `logits > 0` is p > 0.5.

    Arguments as for `predict_tiles`, which serves strips that do not fit into memory. The answer does not depend on
    `tile`, up to float rounding.
    """
    out = None
    for place, logits in predict_tiles(model, image, tile, progress):
        if out is None:
            out = np.empty((len(logits), *image.shape[-2:]), np.float32)
        out[:, *place.region] = logits
    return out


class FlipAveraged(torch.nn.Module):
    """A network whose logits are the mean over the four flips of its input; four times the work.

    Stands wherever the network stands. Exact windows have the same margin on every side, so that flipped poolings fall
    on the same pixels: the answer still does not depend on the tiling.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.depth, self.padding, self.config = model, model.depth, model.padding, model.config
        self.train(model.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, K, h, w] of windows [N, C, H, W]."""
        return self.flipped(x).mean(0)

    def flipped(self, x: torch.Tensor) -> torch.Tensor:
        """The logits of each flip, turned back, [4, N, K, h, w]; the first is not flipped."""
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
