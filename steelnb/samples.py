"""Training samples with mirrored surroundings, from a uint8 cache on disk.  Taught in 02_overlap_tile.

A sample is what a valid U-Net needs to predict one rectangle of an image: an input window
(mirrored where it leaves the image) and the mask of the rectangle. Which rectangle and which flip follow from
(seed, epoch, index) alone, so any sample of any epoch can be drawn again by itself.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from steelnb import rle, runtime
from steelnb.data import SteelData
from steelnb.geometry import crop_start, output_size
from steelnb.overlap_tile import Tile, input_window, mirror

ORIGINAL_MARGINS = ((87, 87), (90, 90))  # rows, columns: 256×1600 → 430×1780


class Item(NamedTuple):
    """One entry of an epoch: an image, and which label rows make its mask (None: all of them)."""

    image_id: str
    rows: tuple[int, ...] | None = None


class ImageCache:
    """Every image of a data set as gray uint8 in one memory-mapped file, decoded once.

    The file is named by the data's fingerprint and its files' places, lengths and times, and written under a temporary
    name first, so an interrupted or changed data set is never mistaken for a finished one. A file that does not decode
    raises files.DataError, naming it.
    """

    def __init__(self, data: SteelData, folder: Path | None = None, progress: bool = False) -> None:
        sizes = data.images["height"].to_numpy() * data.images["width"].to_numpy()
        self._starts = dict(zip(data.images["ImageId"], np.cumsum(sizes) - sizes, strict=True))
        self._shapes = {row.ImageId: (row.height, row.width) for row in data.images.itertuples()}
        # The fingerprint knows ids, sizes and labels; place, length and time of the files stand for their pixels.
        stamps = [(str(path), (s := path.stat()).st_size, s.st_mtime_ns) for path in data.images["path"]]
        name = hashlib.sha256(f"{data.fingerprint()} {stamps}".encode()).hexdigest()[:16]
        self.path = (folder or runtime.cache_folder()) / f"{name}.uint8"
        if not self.path.exists() or self.path.stat().st_size != sizes.sum():
            self._write(data, progress)
        self._pixels = np.memmap(self.path, np.uint8, mode="r")

    def __getitem__(self, image_id: str) -> np.ndarray:
        """uint8 [H, W], read from disk as far as it is used."""
        height, width = self._shapes[image_id]
        start = self._starts[image_id]
        return self._pixels[start : start + height * width].reshape(height, width)

    def _write(self, data: SteelData, progress: bool) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(f".{os.getpid()}.part")
        try:
            with unfinished.open("wb") as file:
                for image_id in tqdm(data.images["ImageId"], desc="decode", unit="image", disable=not progress):
                    file.write(data.image(image_id).tobytes())
            unfinished.replace(self.path)
        finally:
            unfinished.unlink(missing_ok=True)


class Samples(Dataset):
    """Pairs of input window, uint8 [1, h, w], and mask, uint8 0/1 [K, H, W], for `items` of a data set.

    geometry: "exact" (mirrored margins for a network without skew) or "original" (its 87 and 90 pixels; the mask cut
        to the centre that it predicts, the cut starting at ``ceil``).
    crop: (H, W) of the rectangle to draw from each image, no larger than the smallest image; None: the whole image.
    on_defect: share of crops that are centred on a defect pixel, where the image has one.
    flips: mirror left-right and top-bottom at random. per_class: a mask a class (K of them) instead of their union.
    The random choices depend on (seed, epoch, index): call `set_epoch` before each epoch.
    """

    def __init__(
        self, data: SteelData, cache: ImageCache, items: Sequence[Item], depth: int = 4, *, geometry: str = "exact",
        crop: tuple[int, int] | None = None, on_defect: float = 0.0, flips: bool = False, per_class: bool = False,
        seed: int = 0,
    ) -> None:  # fmt: skip
        if geometry not in ("exact", "original"):
            raise ValueError(f"geometry is {geometry!r}; it can be exact or original")
        if geometry == "original" and crop is not None:
            raise ValueError("the original's geometry takes whole images, not crops")
        self.data, self.cache, self.items, self.depth = data, cache, list(items), depth
        self.geometry, self.on_defect, self.flips = geometry, on_defect, flips
        self.per_class, self.seed, self.epoch = per_class, seed, 0
        self.crop = crop and (
            min(crop[0], int(data.images["height"].min())),
            min(crop[1], int(data.images["width"].min())),
        )
        self._rows = data.rows[["ImageId", "ClassId", "EncodedPixels"]].to_numpy()
        self._rows_of: dict[str, list[int]] = {}
        for position, image_id in enumerate(data.rows["ImageId"]):
            self._rows_of.setdefault(image_id, []).append(position)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the crops and flips of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        item, rng = self.items[index], np.random.default_rng([self.seed, self.epoch, index])
        image = self.cache[item.image_id]
        mask = self.mask(item, image.shape)
        if self.flips:
            down, across = (slice(None, None, -1 if flip else 1) for flip in rng.random(2) < 0.5)
            image, mask = image[down, across], mask[:, down, across]
        if self.geometry == "original":
            window, mask = mirror(image, *ORIGINAL_MARGINS), original_crop(mask, self.depth)
        else:
            place = self._draw_crop(mask, rng) if self.crop else Tile(0, 0, *image.shape)
            window, mask = input_window(image, place, self.depth), mask[:, *place.region]
        window, mask = np.ascontiguousarray(window[None]), np.ascontiguousarray(mask)
        return torch.tensor(window), torch.from_numpy(mask.view(np.uint8))

    def mask(self, item: Item, shape: tuple[int, int]) -> np.ndarray:
        """Bool [K, H, W]: a mask a class, or one union of all that the item's rows label."""
        classes = self.data.classes if self.per_class else (None,)
        mask = np.zeros((len(classes), *shape), bool)
        for position in self._rows_of.get(item.image_id, ()) if item.rows is None else item.rows:
            _, class_id, text = self._rows[position]
            mask[classes.index(class_id) if self.per_class else 0] |= rle.decode(text, shape, item.image_id)
        return mask

    def _draw_crop(self, mask: np.ndarray, rng: np.random.Generator) -> Tile:
        height, width = self.crop
        room = mask.shape[1] - height, mask.shape[2] - width
        top, left = (int(rng.integers(0, r + 1)) for r in room)
        if rng.random() < self.on_defect and len(defect := np.flatnonzero(mask.any(0))):
            row, column = divmod(int(rng.choice(defect)), mask.shape[2])
            top, left = min(max(row - height // 2, 0), room[0]), min(max(column - width // 2, 0), room[1])
        return Tile(top, left, height, width)


def original_crop(mask: np.ndarray, depth: int = 4) -> np.ndarray:
    """The centre of a mask, [K, H, W], that the original's geometry predicts: 256×1600 → 244×1588, 6 pixels a side."""
    regions = []
    for n, margins in zip(mask.shape[-2:], ORIGINAL_MARGINS, strict=True):
        out = output_size(n + sum(margins), depth)
        start = crop_start(n, out)
        regions.append(slice(start, start + out))
    return mask[..., *regions]
