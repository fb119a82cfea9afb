"""Size arithmetic of a valid U-Net (Ronneberger et al. 2015, Figure 1).  Taught in 02_overlap_tile.

Every 3×3 convolution without padding removes 2 pixels of height and width, every pooling halves them, every transposed
convolution doubles them. `depth` is the number of poolings; the paper and the original have 4.
"""

from typing import NamedTuple


class GeometryError(ValueError):
    """A size that the network does not accept. The message names the next sizes that work."""


class Level(NamedTuple):
    """Sizes along one axis at one resolution: of the encoder's map (`skip`) and of the decoder's (`up`) that it is
    cropped to, from `start`."""

    skip: int
    up: int
    start: int
    stride: int  # pixels of the input from one cell of this level to the next


class Grid(NamedTuple):
    """The windows that a network accepts, along each axis.

    margin: surroundings on each side of the predicted pixels; no output depends on pixels further away.
    stride: window sides are stride · k + remainder. Predicted pixels start at multiples of the stride from the image's
        first pixel, so that the network's strided layers always fall on the same pixels.
    mirror: number of mirrored pixels beyond an image's edge, at most `margin`; None: `margin`.
    """

    margin: int
    stride: int
    remainder: int = 0
    mirror: int | None = None

    @classmethod
    def of_unet(cls, depth: int = 4) -> "Grid":
        """The grid of a valid U-Net with `depth` poolings."""
        return cls(margin(depth), 2**depth, (-4) % 2**depth)

    def span(self, start: int, length: int, size: int | None = None) -> tuple[int, int]:
        """Start and length of the smallest window that predicts `length` pixels from `start` on, on an axis of `size`
        pixels; None: far from any edge."""
        begin, end = start - self.margin, start + length + self.margin
        if size is not None and self.mirror is not None:
            begin, end = max(begin, -self.mirror), min(end, size + self.mirror)
        return begin, end - begin + (self.remainder - (end - begin)) % self.stride


def margin(depth: int = 4) -> int:
    """Pixels lost on each side between input and output at exact sizes: 92 at depth 4."""
    _check_depth(depth)
    return 6 * 2**depth - 4


def is_exact(n: int, depth: int = 4) -> bool:
    """Whether every pooling of an input of `n` pixels is even, so that no pixel is dropped and nothing is shifted."""
    return _output(n, depth) >= 1 and n % 2**depth == (-4) % 2**depth


def output_size(n: int, depth: int = 4) -> int:
    """Output pixels for `n` input pixels, with poolings that round down: 572 → 388, and 430 → 244 as in the original.

    Raises GeometryError if no pixel is left.
    """
    out = _output(n, depth)
    if out < 1:
        raise GeometryError(f"an input of {n} pixels is too small for depth {depth}: " + _advice(n, depth))
    return out


def input_size(n_out: int, depth: int = 4) -> int:
    """Smallest exact input whose output covers `n_out` pixels: 256 → 444, 1600 → 1788."""
    if n_out < 1:
        raise GeometryError(f"an output needs at least 1 pixel, got {n_out}")
    needed = n_out + 2 * margin(depth)
    return needed + (-4 - needed) % 2**depth


def check_exact(n: int, depth: int = 4) -> None:
    """Raises GeometryError, naming the sizes that work, unless `n` is exact."""
    if not is_exact(n, depth):
        raise GeometryError(
            f"an input of {n} pixels does not fit depth {depth}: exact sizes are 2^{depth}·k − 4, at least "
            f"{input_size(1, depth)}; " + _advice(n, depth)
        )


def crop_start(outer: int, inner: int, crop: str = "ceil") -> int:
    """Start of the centre crop of `inner` from `outer` pixels: an odd difference rounds up ("ceil") or down."""
    return -(-(outer - inner) // 2) if crop == "ceil" else (outer - inner) // 2


def levels(n: int, depth: int = 4, crop: str = "ceil") -> list[Level]:
    """The levels at which encoder and decoder are joined, for an input of `n` pixels, deepest first.

    `crop`: rounding of the centre crop's start if the difference is odd: "ceil" (the original's) or "floor".
    """
    if crop not in ("ceil", "floor"):
        raise GeometryError(f"crop is {crop!r}; it can be ceil or floor")
    output_size(n, depth)
    skips, size = [], n
    for _ in range(depth):
        skips.append(size - 4)
        size = (size - 4) // 2
    size -= 4
    met = []
    for level in reversed(range(depth)):
        up = 2 * size
        met.append(Level(skips[level], up, crop_start(skips[level], up, crop), 2**level))
        size = up - 4
    return met


def skew(n: int, depth: int = 4, crop: str = "ceil") -> list[float]:
    """Shift of the deep path against the skip that it is joined to, in pixels of the input, deepest level first.

    Positive: the skip shows pixels further down (or right) than the deep features. Zero everywhere at exact sizes. The
    original's 1780 gives [8, 4, 4, 4] and its 430 gives [0, 0, 2, 1]; with 1788 and 444 there is no shift.
    """
    # Follow the centre, in input pixels, of each map's cell 0: a valid convolution moves it in by one cell, a pooling
    # by half a cell, a transposed convolution back by half a (finer) cell.
    centre, stride, skip_centres = 0.0, 1, []
    for _ in range(depth):
        centre += 2 * stride
        skip_centres.append(centre)
        centre += stride / 2
        stride *= 2
    centre += 2 * stride
    shifts = []
    for met, skip_centre in zip(levels(n, depth, crop), reversed(skip_centres), strict=True):
        stride //= 2
        centre -= stride / 2
        shifts.append(skip_centre + met.start * stride - centre)
        centre += 2 * stride
    return shifts


def _output(n: int, depth: int) -> int:
    _check_depth(depth)
    for _ in range(depth):
        n = (n - 4) // 2
    n -= 4
    for _ in range(depth):
        if n < 1:
            return 0
        n = 2 * n - 4
    return max(n, 0)


def _advice(n: int, depth: int) -> str:
    above = max(n + (-4 - n) % 2**depth, input_size(1, depth))
    below = above - 2**depth
    sizes = [s for s in (below, above, above + 2**depth) if s >= input_size(1, depth)]
    return f"the next sizes that work are {', '.join(map(str, sizes[:2]))}"


def _check_depth(depth: int) -> None:
    if not 1 <= depth <= 8:
        raise GeometryError(f"depth is the number of poolings, 1 to 8, got {depth}")
