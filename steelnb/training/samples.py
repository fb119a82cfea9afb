"""Training samples with mirrored surroundings.

A sample is what a valid U-Net needs to predict one rectangle of an image: an input window (mirrored beyond the image's
edges) and the mask of the rectangle. The rectangle and the flip depend only on (seed, epoch, index), so any sample of
any epoch can be drawn again by itself.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from steelnb.data import rle
from steelnb.data.dataset import SteelData
from steelnb.data.image_cache import ImageCache
from steelnb.network import tiles
from steelnb.network.geometry import Grid
from steelnb.network.tiles import ORIGINAL_MARGINS, Tile, original_output


class Item(NamedTuple):
    """One entry of an epoch: an image, and the label rows of its mask (None: all rows)."""

    image_id: str
    rows: tuple[int, ...] | None = None


class Samples(Dataset):
    """Pairs of input window, uint8 [1, h, w], and mask, uint8 0/1 [K, H, W], for `items` of a data set.

    geometry: "exact" (mirrored margins for a network without skew) or "original" (margins of 87 and 90 pixels; the
        mask is cropped to the centre that the network predicts, starting at the ``ceil`` of half the difference).
    depth: of a valid U-Net, or the grid of any network's windows.
    crop: (H, W) of the rectangle drawn from each image, for a valid network no larger than the median image; a smaller
        image is extended by its mirror image, with its mask. None: the whole image.
    on_defect: share of crops that are centred on a defect pixel, if the image has one.
    flips: mirror left-right and top-bottom at random.
    brightness: b replaces each gray value x by x · g + s, one pair per window, g in 1 ± b and s in ± 128 b.
    per_class: one mask per class (K of them) instead of their union.
    The random choices depend on (seed, epoch, index): call `set_epoch` before each epoch.
    """

    def __init__(
        self, data: SteelData, cache: ImageCache, items: Sequence[Item], depth: int | Grid = 4, *,
        geometry: str = "exact", crop: tuple[int, int] | None = None, on_defect: float = 0.0, flips: bool = False,
        brightness: float = 0.0, per_class: bool = False, seed: int = 0,
    ) -> None:
        if geometry not in ("exact", "original"):
            raise ValueError(f"geometry is {geometry!r}; it can be exact or original")
        if geometry == "original" and crop is not None:
            raise ValueError("the original's geometry needs whole images, not crops")
        self.data, self.cache, self.items, self.depth = data, cache, list(items), depth
        self.geometry, self.on_defect, self.flips, self.brightness = geometry, on_defect, flips, brightness
        self.per_class, self.seed, self.epoch = per_class, seed, 0
        self.resident = None  # these samples on a GPU, if they fit there: see `batches.pixels`
        self.crop = crop and tuple(crop)
        if crop and tiles.grid_of(depth).margin:  # median, because the smallest image would shrink every crop
            self.crop = tuple(
                min(n, int(data.images[side].median())) for n, side in zip(crop, ("height", "width"), strict=True)
            )
        self._rows = data.rows[["ImageId", "ClassId", "EncodedPixels"]].to_numpy()
        self._rows_of: dict[str, list[int]] = {}
        for position, image_id in enumerate(data.rows["ImageId"]):
            self._rows_of.setdefault(image_id, []).append(position)

    def __getstate__(self) -> dict:
        """For another process: without the samples on a GPU."""
        return self.__dict__ | {"resident": None}

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which determines crops and flips."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.items)

    @property
    def planes(self) -> int:
        """Number of masks per sample: K."""
        return len(self.data.classes) if self.per_class else 1

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        item = self.items[index]
        image = self.cache[item.image_id]
        mask = self.mask(item, image.shape)
        drawn = self.draw(index, image.shape, lambda *flip: np.flatnonzero(flipped(mask.any(0), *flip)))
        flip = drawn.down, drawn.across
        window = tiles.window(flipped(image, *flip), *drawn.window)
        window = window.copy() if drawn.light is None else drawn.light[window]
        mask = tiles.window(flipped(mask, *flip), *drawn.output).copy()  # a flipped row of one pixel is contiguous
        return torch.from_numpy(window[None]), torch.from_numpy(mask.view(np.uint8))

    def draw(self, index: int, shape: tuple[int, int], defects: Callable[[bool, bool], Sequence[int]]) -> "CropPlan":
        """Random crop, flips and brightness of sample `index` in this epoch, from an image of `shape` (H, W).

        defects: (down, across) → the defect pixels of the image with these flips, as indices row by row; called only
            if the crop is to be centred on one.
        """
        rng = np.random.default_rng([self.seed, self.epoch, index])
        down, across = (rng.random(2) < 0.5).tolist() if self.flips else (False, False)
        if self.geometry == "original":
            (above, below), (before, behind) = ORIGINAL_MARGINS
            window = Tile(-above, -before, shape[0] + above + below, shape[1] + before + behind)
            return CropPlan(window, original_output(shape, self.depth), down, across, self._light(rng))
        height, width = self.crop or shape
        top = left = 0
        if self.crop:
            room = max(shape[0] - height, 0), max(shape[1] - width, 0)
            top, left = (int(rng.integers(0, r + 1)) for r in room)
            if rng.random() < self.on_defect and (count := len(pixels := defects(down, across))):
                row, column = divmod(int(pixels[rng.integers(count)]), shape[1])
                top, left = min(max(row - height // 2, 0), room[0]), min(max(column - width // 2, 0), room[1])
        output = Tile(top, left, height, width)
        return CropPlan(tiles.input_place(output, self.depth), output, down, across, self._light(rng))

    def _light(self, rng: np.random.Generator) -> np.ndarray | None:
        if not self.brightness:
            return None
        gain, shift = 1 + self.brightness * rng.uniform(-1, 1), 128 * self.brightness * rng.uniform(-1, 1)
        return np.rint(np.clip(gain * np.arange(256) + shift, 0, 255)).astype(np.uint8)

    def mask(self, item: Item, shape: tuple[int, int]) -> np.ndarray:
        """Bool [K, H, W]: one mask per class, or one union of all that the item's rows label."""
        classes = self.data.classes if self.per_class else (None,)
        mask = np.zeros((len(classes), *shape), bool)
        for position in self._rows_of.get(item.image_id, ()) if item.rows is None else item.rows:
            _, class_id, text = self._rows[position]
            mask[classes.index(class_id) if self.per_class else 0] |= rle.decode(text, shape, item.image_id)
        return mask


class CropPlan(NamedTuple):
    """Positions of a sample in the flipped image: the window that the network sees (it may extend beyond the border),
    and the rectangle that it predicts; the flips; the gray values."""

    window: Tile
    output: Tile
    down: bool
    across: bool
    light: np.ndarray | None = None  # uint8 [256]: new gray value of each gray value


def flipped(array: np.ndarray, down: bool, across: bool) -> np.ndarray:
    """A view of an array [..., H, W], mirrored top-bottom, left-right or both."""
    return array[..., :: -1 if down else 1, :: -1 if across else 1]
