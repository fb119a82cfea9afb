"""Strips too long for memory: .npy, TIFF or raw bytes, read window by window.

Every touched page of a memory map counts as resident memory, so each read opens a map of its own over a few rows and
closes it again: pages read earlier take no memory.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile

from steelnb.data import rle
from steelnb.data.images import DataError, check_name, size_text

LARGE = 50_000_000  # pixels above which a TIFF is read as a strip: probabilities would take 0.2 GB per class
READ_BYTES = 2**24  # largest size of one memory map, unless a single row is longer

@dataclass(frozen=True)
class Strip:
    """A gray strip or a mask on disk, uint8 or bool [H, W], read as it is indexed: `strip[top:down, left:right]`.

    offset: bytes before the first pixel. order: "C", row after row, or "F", column after column.
    A slice is a new array. Raises DataError if the file is gone or has become shorter.
    """

    path: Path
    shape: tuple[int, int]
    dtype: type = np.uint8
    offset: int = 0
    order: str = "C"

    ndim = 2

    def __getitem__(self, key: tuple) -> np.ndarray:
        wanted = [part for part in key if part is not Ellipsis]
        lines, across = wanted if self.order == "C" else wanted[::-1]
        size = self.shape if self.order == "C" else self.shape[::-1]
        start, stop, _ = lines.indices(size[0])
        out = np.empty((max(0, stop - start), len(range(*across.indices(size[1])))), self.dtype)
        step = max(1, READ_BYTES // size[1])
        try:
            for line in range(start, stop, step):
                shape = min(step, stop - line), size[1]
                pages = np.memmap(self.path, self.dtype, "r", self.offset + line * size[1], shape)
                out[line - start : line - start + shape[0]] = pages[:, across]
        except (OSError, ValueError) as error:  # ValueError: shorter than the map
            raise DataError(f"{self.path}: can no longer be read: {error}. Was it moved or changed?") from error
        return out if self.order == "C" else out.T

    @property
    def wide(self) -> bool:
        """Whether its length is its width in pixels; a strip that is taller than wide runs down its columns."""
        return self.shape[1] >= self.shape[0]

    def along(self, start: int, stop: int) -> np.ndarray:
        """Pixels start … stop − 1 of its length, [stop − start, width]: transposed if the strip is wide."""
        return self[:, start:stop].T if self.wide else self[start:stop, :]


def is_strip(path: Path, raw: tuple[int, int] | None = None, image_suffixes: tuple[str, ...] = ()) -> bool:
    """Whether a file is a strip: .npy, a TIFF above `LARGE` pixels, or, with `raw`, any file without image suffix."""
    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff") and path.is_file():  # opening a pipe would block
        with contextlib.suppress(Exception), tifffile.TiffFile(path) as file:  # a broken one fails when it is read
            return file.pages[0].imagelength * file.pages[0].imagewidth > LARGE
        return False
    return suffix == ".npy" or (raw is not None and suffix not in image_suffixes)


def open_strip(path: str | Path, raw: tuple[int, int] | None = None) -> Strip:
    """The strip in an .npy file, a TIFF (BigTIFF too), or, with `raw` = (H, W), in a file of H·W bytes.

    Raises DataError, with a remedy, for a file that cannot be read in place as 8-bit gray values.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    check_name(path)
    try:
        if path.suffix.lower() == ".npy":
            strip = _npy(path)
        elif path.suffix.lower() in (".tif", ".tiff"):
            strip = _tiff(path)
        elif raw is None:
            raise DataError(f"{path}: for raw bytes, give height and width in pixels")
        else:
            strip = Strip(path, tuple(raw))
            if path.stat().st_size != math.prod(raw):
                raise DataError(f"{path}: {path.stat().st_size} bytes, but {size_text(*raw)} pixels are "
                                f"{math.prod(raw)}: does it have another size, or a header?")
    except DataError:
        raise
    except Exception as error:  # broken bytes raise ValueError, EOFError, struct.error, TiffFileError …
        raise DataError(f"{path}: not a readable strip: {error}") from error
    there, needed = path.stat().st_size - strip.offset, math.prod(strip.shape)
    if min(strip.shape) < 1:
        raise DataError(f"{path}: a strip needs at least one pixel, this one is {size_text(*strip.shape)}")
    if there < needed:
        raise DataError(f"{path}: cut off: {there} bytes of pixels, and {size_text(*strip.shape)} are {needed}")
    if there > needed and path.suffix.lower() == ".npy":  # a damaged header, or a file still being written
        raise DataError(f"{path}: {there} bytes of pixels, but its header says {size_text(*strip.shape)}, which are "
                        f"{needed}; save it again")
    return strip


def _npy(path: Path) -> Strip:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.memmap) or array.dtype != np.uint8 or array.ndim != 2:
        found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "an archive of arrays"
        raise DataError(f"{path}: a strip is uint8 [H, W], this is {found}; save gray values 0 … 255 with numpy.save")
    return Strip(path, array.shape, offset=array.offset, order="C" if array.flags.c_contiguous else "F")


def _tiff(path: Path) -> Strip:
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        gray = page.samplesperpixel == 1 and page.photometric == tifffile.PHOTOMETRIC.MINISBLACK
        for wrong, what, remedy in (
            (len(file.pages) > 1, f"{len(file.pages)} pages", "save the one you need as a separate file"),
            (not gray, "colours, or white as 0", "save it as 8-bit gray values"),
            (page.dtype != np.uint8, f"{page.bitspersample} bits per pixel ({page.dtype})", "scale it to 0 … 255"),
            (page.compression != 1, f"compressed ({page.compression.name})", "unpack it: tiffcp -c none OLD NEW"),
            (not page.is_final, "its pixels are not in one piece", "rewrite it: tiffcp -c none -s OLD NEW"),
            (page.tags.valueof(274, 1) != 1, "rotated by its orientation tag", "save it upright"),
        ):
            if wrong:
                raise DataError(f"{path}: {what}; a strip is read in place, so {remedy}")
        return Strip(path, page.shape, offset=page.dataoffsets[0])


def begin_array(file: BinaryIO, dtype: type, like: Strip) -> Strip:
    """Writes the header of an .npy file in the shape of `like`; its lines are to be appended along the length."""
    header = {"descr": np.dtype(dtype).str, "fortran_order": like.wide, "shape": tuple(map(int, like.shape))}
    np.lib.format.write_array_header_1_0(file, header)
    return Strip(Path(file.name), like.shape, dtype, file.tell(), "F" if like.wide else "C")


def open_mask(path: Path) -> Strip:
    """A strip's mask written after `begin_array`: bool [H, W]. Raises images.DataError for any other file."""
    try:
        array = np.load(path, mmap_mode="r")
        if array.ndim != 2 or array.dtype != bool:
            raise ValueError(f"{array.dtype}, {array.ndim} dimensions")
        if path.stat().st_size != array.offset + array.size:
            raise ValueError(f"{path.stat().st_size} bytes, but its header says {array.offset + array.size}")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a strip's mask ({error}); remove it") from None
    return Strip(path, array.shape, array.dtype.type, array.offset, "C" if array.flags.c_contiguous else "F")


def run_lengths(mask: Strip) -> Iterator[str]:
    """A mask's run-length text, in pieces; it is column-major for wide and for tall strips."""
    encoder = rle.Encoder()
    step = max(1, READ_BYTES // 2 // mask.shape[0])
    for left in range(0, mask.shape[1], step):
        yield encoder.add(mask[:, left : left + step])
    yield encoder.finish()
