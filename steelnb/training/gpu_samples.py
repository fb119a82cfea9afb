"""A data set kept in the memory of the training GPU; batches are cut, flipped and mirrored there.

Images are stored as bytes and masks as bits: 5.1 + 0.6 GB for all of Severstal. For each batch the CPU sends ten
numbers per sample, so a step of a few milliseconds never waits for pixels. The samples equal those of `Samples`.
"""

import numpy as np
import torch
from torch import Tensor

from steelnb.training.samples import CropPlan, Item, Samples

SHARE = 0.4  # largest part of a device's free memory to use
PIECE = 2**28  # bytes copied to the device at once


class ResidentSamples:
    """`Samples` with pixels and masks on a device. The epoch is that of the `Samples` (`set_epoch`)."""

    def __init__(self, samples: Samples, device: torch.device) -> None:
        self.samples, self.device, self._masks = samples, device, PackedMasks(samples)
        self._pixels = torch.empty(len(samples.cache.pixels), dtype=torch.uint8, device=device)
        for start in range(0, len(self._pixels), PIECE):  # in pieces: a copy of all of Severstal would take 5 GB
            piece = np.array(samples.cache.pixels[start : start + PIECE])
            self._pixels[start : start + PIECE] = torch.from_numpy(piece)
        self._bits = torch.from_numpy(self._masks.bits).to(device)

    @classmethod
    def where_it_fits(cls, samples: Samples, device: torch.device) -> "ResidentSamples | None":
        """On a CUDA device, if it needs at most `SHARE` of the memory that is free there; else None."""
        if device.type != "cuda":
            return None
        needed = len(samples.cache.pixels) + sum(sizes_of_masks(samples).values())
        # Memory that PyTorch has cached from an earlier training counts as free: it is reused on request.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + kept
        return cls(samples, device) if needed <= SHARE * free else None

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Windows, uint8 [n, 1, h, w], and masks, uint8 0/1 [n, K, H, W], on the device.

        Raises ValueError if the samples differ in size.
        """
        # Windows: for each sample, which rows and columns of its image the window shows (mirrored and flipped), as
        # indices into the flat pixels of all images. Masks: the same, but eight pixels of a row share one byte, so the
        # index selects a byte and a shift selects the bit.
        drawn = [self._draw(index) for index in indices]
        if len({(each.window[2:], each.output[2:]) for each in drawn}) > 1:
            raise ValueError("whole images of several sizes do not fit into one batch: set a crop, or batch to 1")
        window, output = drawn[0].window, drawn[0].output
        numbers = torch.tensor([self._numbers(index, each) for index, each in zip(indices, drawn, strict=True)])
        numbers = (numbers.pin_memory() if self.device.type == "cuda" else numbers).to(self.device, non_blocking=True)
        pixel, height, width, bit, down, across, top, left, row, column = numbers.T[:, :, None]

        rows, columns = self._along(top, window.height, height, down), self._along(left, window.width, width, across)
        places = (pixel + rows * width)[:, :, None] + columns[:, None, :]
        windows = self._pixels[places][:, None]
        if drawn[0].light is not None:
            lights = torch.from_numpy(np.stack([each.light for each in drawn])).to(self.device)
            windows = torch.gather(lights, 1, windows.flatten(1).long()).view_as(windows)

        rows, columns = self._along(row, output.height, height, down), self._along(column, output.width, width, across)
        stride = (width + 7) // 8
        planes = torch.arange(self.samples.planes, device=self.device)[:, None]
        lines = bit[..., None] + (planes * height[..., None] + rows[:, None]) * stride[..., None]  # [n, K, H]
        places = lines[..., None] + (columns // 8)[:, None, None]
        return windows, self._bits[places] >> (7 - columns % 8).to(torch.uint8)[:, None, None] & 1

    def _along(self, start: Tensor, count: int, size: Tensor, flip: Tensor) -> Tensor:
        """The pixel of an axis at each of `count` positions from `start`, int64 [n, count]; see `mirror_index`."""
        place = (start + torch.arange(count, device=self.device)) % (2 * size)
        place = torch.minimum(place, 2 * size - 1 - place)
        return torch.where(flip > 0, size - 1 - place, place)

    def _draw(self, index: int) -> CropPlan:
        item = self.samples.items[index]
        shape = self.samples.cache.shape(item.image_id)
        return self.samples.draw(index, shape, lambda *flip: self._masks.defects(item, shape, *flip))

    def _numbers(self, index: int, drawn: CropPlan) -> tuple[int, ...]:
        item = self.samples.items[index]
        where = self.samples.cache.start(item.image_id), *self.samples.cache.shape(item.image_id)
        return *where, self._masks.start[item], drawn.down, drawn.across, *drawn.window[:2], *drawn.output[:2]


def sizes_of_masks(samples: Samples) -> dict[Item, int]:
    """Bytes of each item's masks, as `PackedMasks` keeps them."""
    shapes = {item: samples.cache.shape(item.image_id) for item in samples.items}
    return {item: samples.planes * height * -(-width // 8) for item, (height, width) in shapes.items()}


class PackedMasks:
    """The masks of all items as bits, class after class, each row padded to whole bytes: uint8 [all bytes].

    start: item → its first byte.
    """

    def __init__(self, samples: Samples) -> None:
        self._planes = samples.planes
        sizes = sizes_of_masks(samples)
        ends = np.cumsum(list(sizes.values()))
        self.start = dict(zip(sizes, (ends - list(sizes.values())).tolist(), strict=True))
        self.bits = np.zeros(sum(sizes.values()), np.uint8)
        self._in_row = {}  # defect pixels per row, for items that have any
        for item in sizes:
            shape = samples.cache.shape(item.image_id)
            mask = samples.mask(item, shape)
            if mask.any():
                self._of(item, shape)[:] = np.packbits(mask, axis=-1)
                self._in_row[item] = mask.any(0).sum(1)

    def _of(self, item: Item, shape: tuple[int, int]) -> np.ndarray:
        """The bytes of an item's masks, [K, H, ⌈W / 8⌉]."""
        form = self._planes, shape[0], -(-shape[1] // 8)
        return self.bits[self.start[item] :][: np.prod(form)].reshape(form)

    def defects(self, item: Item, shape: tuple[int, int], down: bool, across: bool) -> "Pixels | tuple":
        """The defect pixels of all classes together, in the form that `Samples.draw` takes."""
        if item not in self._in_row:
            return ()
        return Pixels(self._of(item, shape)[:, :: -1 if down else 1], self._in_row[item][:: -1 if down else 1],
                      shape[1], across)


class Pixels:
    """A sequence of the set bits of packed masks, row by row; indexing unpacks a single row.

    bits: uint8 [K, H, ⌈W / 8⌉]; in_row: int [H], number of set pixels per row.
    """

    def __init__(self, bits: np.ndarray, in_row: np.ndarray, width: int, across: bool) -> None:
        self._bits, self._in_row, self._until, self._width, self._across = bits, in_row, in_row.cumsum(), width, across

    def __len__(self) -> int:
        return int(self._until[-1])

    def __getitem__(self, which: int) -> int:
        row = int(self._until.searchsorted(which, side="right"))
        line = np.unpackbits(np.bitwise_or.reduce(self._bits[:, row]))[: self._width]
        columns = np.flatnonzero(line[:: -1 if self._across else 1])
        return row * self._width + int(columns[which - (self._until[row] - self._in_row[row])])
