"""A strip of any length → its masks, in bands at constant memory.

Each band spans the whole width of the strip, so output files grow along its length; masks are stored in that order.
"""

import contextlib
import csv
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm.auto import tqdm

from steelnb import storage
from steelnb.evaluation.operating_point import OperatingPoint
from steelnb.figures.plots import overlay
from steelnb.network import tiles
from steelnb.network.inference import iter_probabilities
from steelnb.network.weights import Trained
from steelnb.prediction import strips
from steelnb.prediction.strip_defects import Defects, SettledDefects
from steelnb.prediction.strips import Strip

BAND = 2**18  # pixels: 256×1024; on a CPU, bands with four times as many took twice as long per pixel
SHORTEST = 512  # pixels along a strip of any width: windows of shorter bands would be mostly margin
PICTURE = (1500, 1600)  # largest size in pixels of an overview without its margin
PLAIN = OperatingPoint()  # p > 0.5
MARGIN, GAP = 76, 3  # pixels of an overview: width of the position labels, and space between rows


def band_shape(shape: tuple[int, int], tile: int | tuple[int, int] | None = None) -> tuple[int, int]:
    """Height and width of a strip's bands: its full width by `tile`; by default about `BAND` pixels."""
    sides = (tile, tile) if isinstance(tile, int) else tile or (max(SHORTEST, BAND // min(shape)),) * 2
    return (shape[0], sides[1]) if shape[1] >= shape[0] else (sides[0], shape[1])


def segment_strip(
    trained: Trained, strip: Strip, masks: Sequence[Path], table: Path, picture: Path, *, classes: Sequence = (None,),
    maps: Sequence[Path] = (), tile: int | tuple[int, int] | None = None, point: OperatingPoint = PLAIN,
    flips: bool = False, progress: bool = False,
) -> None:
    """Writes a strip's output files, each complete or not at all.

    masks: one .npy per class, bool [H, W]; np.load(…, mmap_mode="r") reads them in place.
    table: a CSV with one row per connected defect: left, top, width, height, area in pixels, preceded by its class if
        there are several, in the order in which defects end along the strip.
    picture: `overview` as PNG. maps: probabilities, one .npy per class, uint8 [H, W], round(255 p).
    The masks equal those of the whole strip in memory, up to float rounding, including the minimum area. Raises
    ValueError for an operating point with a guard, storage.StorageError if the disk is full, DataError if the strip
    can no longer be read.
    """
    if point.guard:
        raise ValueError("the guard decides over a whole image; a strip is never clean as a whole: leave the guard out")
    # All files are written while bands come in, under temporary names. A defect below the minimum area may reach back
    # into bands that are on disk already: `Defects` then returns its pixels in `erased`, and they are cleared there.
    wide, per_class = strip.wide, len(classes) > 1
    shape = band_shape(strip.shape, tile)
    with storage.unfinished(*masks, *maps, table, picture) as parts, contextlib.ExitStack() as stack:
        arrays = [stack.enter_context(part.open("wb")) for part in parts[:-2]]
        written = [strips.begin_array(file, np.bool_ if k < len(masks) else np.uint8, strip)
                   for k, file in enumerate(arrays)]
        rows = csv.writer(stack.enter_context(parts[-2].open("w", newline="")))
        rows.writerow([*["ClassId"] * per_class, "left", "top", "width", "height", "area"])
        trackers = [Defects(point.minimum_area) for _ in classes]

        def write_settled(k: int, found: SettledDefects) -> None:
            for (start, stop, low, high), area in zip(found.boxes.tolist(), found.areas.tolist(), strict=True):
                left, top, width, height = start, low, stop - start, high - low
                box = (left, top, width, height) if wide else (top, left, height, width)
                rows.writerow([*[classes[k]] * per_class, *box, area])
            if len(found.erased):
                arrays[k].flush()
                _erase(written[k], found.erased)

        count = len(tiles.tiles(*strip.shape, shape, trained.model.grid))
        bands = iter_probabilities(trained.model, strip, shape, flips)
        for _, p in tqdm(bands, desc=strip.path.name, unit="band", total=count, leave=False, disable=not progress):
            p = p.transpose(0, 2, 1) if wide else p
            for k, (tracker, one) in enumerate(zip(trackers, p, strict=True)):
                mask = np.ascontiguousarray(one > point.threshold)
                found = tracker.add(mask)
                arrays[k].write(mask)
                write_settled(k, found)
                if maps:
                    arrays[len(masks) + k].write(np.rint(255 * np.ascontiguousarray(one)).astype(np.uint8))
        for k, tracker in enumerate(trackers):
            write_settled(k, tracker.finish())
            arrays[k].flush()
        Image.fromarray(overview(strip, written[: len(masks)])).save(parts[-1], format="PNG")


def _erase(mask: Strip, pixels: np.ndarray) -> None:
    """Sets pixels, int64 [P, 2] along and across, of a mask that is being written to background."""
    first, last = pixels[:, 0].min(), pixels[:, 0].max()
    width = min(mask.shape)
    window = np.memmap(mask.path, mask.dtype, "r+", mask.offset + int(first) * width, (int(last - first) + 1, width))
    window[pixels[:, 0] - first, pixels[:, 1]] = False
    window.flush()


def overview(strip: Strip, masks: Sequence[Strip]) -> np.ndarray:
    """A strip as one picture of bounded size, uint8 [h, w, 3]: averaged down and cut into rows of equal length.

    Each row is labelled with the position along the strip at which it starts. A cell has a defect's colour if any of
    its pixels has. A strip that is taller than wide is laid on its side, its first column on top.
    """
    across, length = sorted(strip.shape)
    for factor in itertools.count(1):
        height, cells = -(-across // factor), -(-length // factor)
        lines = -(-cells // PICTURE[1])
        if lines * (height + GAP) <= PICTURE[0]:
            break
    width = min(cells, PICTURE[1])
    gray = np.full((lines * (height + GAP) - GAP, width), 255, np.uint8)
    marks = np.zeros((len(masks), *gray.shape), bool)
    step = max(1, BAND // (factor * across))  # cells at once
    for line in range(lines):
        for left in range(0, width, step):
            start = line * width + left
            stop = min(cells, start + min(step, width - left))
            if start >= stop:
                break
            top, span = line * (height + GAP), (start * factor, min(length, stop * factor))
            place = slice(top, top + height), slice(left, left + stop - start)
            gray[place] = np.rint(_cells(strip.along(*span), factor).mean((1, 3))).T
            for mark, mask in zip(marks, masks, strict=True):
                mark[place] = _cells(mask.along(*span), factor).any((1, 3)).T
    picture = Image.new("RGB", (MARGIN + width, gray.shape[0]), "white")
    picture.paste(Image.fromarray(overlay(gray, marks)), (MARGIN, 0))
    for line in range(lines):
        place = (MARGIN - 6, line * (height + GAP) + height // 2)
        ImageDraw.Draw(picture).text(place, f"{line * width * factor:,}", fill="#333333", anchor="rm")
    return np.asarray(picture)


def _cells(block: np.ndarray, factor: int) -> np.ndarray:
    """[n, width] → [cells, factor, cells, factor]; incomplete cells at the edges repeat the last pixels."""
    pad = [(0, -side % factor) for side in block.shape]
    block = np.pad(block, pad, mode="edge") if any(p[1] for p in pad) else block
    return block.reshape(block.shape[0] // factor, factor, block.shape[1] // factor, factor)
