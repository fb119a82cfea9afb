"""Run-length text of the Severstal labels ⇄ masks.  Taught in 01_data_exploration.

A label such as ``"37607 3 37858 8"`` lists pairs *start length*: pixels are counted from 1, down the columns first
(column-major), so on a 256-row image pixel 257 is the top of the second column. Runs are sorted and do not overlap.
"""

import numpy as np


class RLEError(ValueError):
    """Run-length text is not a mask of the given image. The message names the row and the reason."""


def runs(rle: str | float | None, size: int, row: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Starts (counted from 0) and lengths of the runs in `rle`, both int64 [R], for an image of `size` pixels.

    Empty text, None and NaN (pandas' value of an empty cell) are a mask without runs. Raises RLEError naming `row`.
    """

    def refuse(reason: str) -> RLEError:
        return RLEError(f"{row or 'run-length text'}: {reason}")

    if not isinstance(rle, str):
        if rle is not None and not (isinstance(rle, float) and rle != rle):
            raise refuse(f"expected text, got {type(rle).__name__} {rle!r}")
        rle = ""
    if rle == "":
        return np.empty(0, np.int64), np.empty(0, np.int64)
    numbers = rle.split()
    if not (digits := "".join(numbers)).isdigit() or not digits.isascii():
        bad = next((n for n in numbers if not (n.isascii() and n.isdigit())), rle)
        raise refuse(f"{bad[:20]!r} is not a positive whole number")
    if len(numbers) % 2:
        raise refuse(f"{len(numbers)} numbers, an odd count: they must be pairs of start and length")
    if max(map(len, numbers)) > 18:
        raise refuse(f"a number of {max(map(len, numbers))} digits runs past the image of {size} pixels")
    pairs = np.fromstring(" ".join(numbers), np.int64, sep=" ").reshape(-1, 2)
    starts, lengths = pairs[:, 0] - 1, pairs[:, 1]
    if starts.min() < 0:
        raise refuse("a start of 0: pixels are counted from 1")
    if lengths.min() < 1:
        raise refuse("a run of length 0")
    ends = starts + lengths
    if len(starts) > 1 and (starts[1:] < ends[:-1]).any():
        at = int((starts[1:] < ends[:-1]).argmax()) + 1
        problem = "is not sorted: it starts before" if starts[at] < starts[at - 1] else "overlaps"
        raise refuse(f"run {at + 1} (start {starts[at] + 1}) {problem} the run before it")
    if ends[-1] > size:
        raise refuse(f"the last run ends at pixel {ends[-1]}, past the image of {size} pixels")
    return starts, lengths


def decode(rle: str | float | None, shape: tuple[int, int] = (256, 1600), row: str = "") -> np.ndarray:
    """The mask, bool [H, W], of run-length text for an image of `shape` (H, W) in pixels.

    The array is column-major in memory, like the text, so `encode` needs no copy.
    Raises RLEError naming `row` if the text is not a mask of that shape.
    """
    height, width = shape
    starts, lengths = runs(rle, height * width, row)
    boundaries = np.empty(2 * len(starts) + 2, np.int64)  # 0, start, end, start, end, …, size
    boundaries[0], boundaries[-1] = 0, height * width
    boundaries[1:-1:2] = starts
    boundaries[2:-1:2] = starts + lengths
    values = np.zeros(len(boundaries) - 1, bool)
    values[1::2] = True
    return np.repeat(values, np.diff(boundaries)).reshape(width, height).T


def encode(mask: np.ndarray) -> str:
    """The run-length text of a mask, bool or 0/1 of any dtype, [H, W]; an empty mask gives ``""``.

    Raises RLEError for another number of axes and for values other than 0 and 1 (0/255 may be a mistake).
    """
    encoder = Encoder()
    return encoder.add(mask) + encoder.finish()


class Encoder:
    """Encodes a mask given in blocks of columns, from left to right; memory grows with the block.

    The texts of all `add` calls and of `finish`, joined, equal that of `encode` for the whole mask.
    """

    def __init__(self) -> None:
        self._height: int | None = None
        self._place = 0  # pixels added so far
        self._start: int | None = None  # start of a run that is still open
        self._gap = ""  # separator before the next number

    def add(self, mask: np.ndarray) -> str:
        """The text of the runs that end in the next columns, bool or 0/1 [H, w]. Raises RLEError."""
        pixels, height = _pixels(mask), len(mask)
        if self._height not in (None, height):
            raise RLEError(f"columns of {height} pixels after columns of {self._height}: not parts of one mask")
        self._height = height
        if not len(pixels):
            return ""
        edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
        if pixels[0] != (self._start is not None):
            edges = np.append(0, edges)
        edges += self._place
        if self._start is not None:
            edges = np.append(self._start, edges)
        self._place += len(pixels)
        self._start = int(edges[-1]) if pixels[-1] else None
        return self._text(edges[: len(edges) // 2 * 2])

    def finish(self) -> str:
        """The text of the run that ends with the last pixel, if there is one."""
        return "" if self._start is None else self._text(np.array([self._start, self._place]))

    def _text(self, edges: np.ndarray) -> str:
        edges[1::2] -= edges[::2]
        edges[::2] += 1
        text = self._gap * bool(len(edges)) + " ".join(map(str, edges.tolist()))
        self._gap = self._gap or " " * bool(len(edges))
        return text


def area(rle: str | float | None) -> int:
    """Number of pixels in run-length text, without making the mask. Raises RLEError."""
    return int(runs(rle, np.iinfo(np.int64).max)[1].sum())


def _pixels(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask down its columns, bool [H·W]. Raises RLEError as `encode`."""
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise RLEError(f"a mask has two axes [H, W], got shape {mask.shape}")
    ones = mask.dtype == np.uint8 and mask.max(initial=0) <= 1
    defect = mask.view(bool) if ones else mask.astype(bool)
    if mask.dtype != bool and not ones and not (defect == mask).all():
        other = mask[defect != mask][0]
        raise RLEError(f"a mask holds 0 and 1 only, got {other}: compare first, e.g. `mask > 0`")
    return defect.ravel(order="F")
