"""Finds images that show the same steel by their content: copies, also mirrored, turned, brightened or compressed.

There are two stages. First, each image becomes a texture of 32×32 cells: gray values averaged over a cell, minus their
surroundings, divided by the local contrast, without unlit steel, so that lighting, gradients and black bands do not
matter. The 8 symmetries of a square only reorder these cells, so comparing all pairs in all 8 ways is a matrix product.
Second, similar images are compared on about 6,400 cells that keep the image's shape. For 12,568 images both stages take
0.2 GB of memory.

Not found: crops of one another; copies shifted by more than one and a half cells of the second stage (8×8 pixels in an
image of 256×1600); and copies of steel without texture, or lit on less than about 6 % of its width, unless every pixel
is equal. Wrongly found: smooth steel with strong streaks at the same positions, as in consecutive shots of a strip,
which belong on one side of a split anyway.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter, minimum_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from steelnb.data.dataset import SteelData

SYMMETRIES = ("same way up", "mirrored top-bottom", "mirrored left-right", "turned by 180°", "mirrored at the diagonal",
              "turned left by 90°", "turned right by 90°", "mirrored at the other diagonal")
SIDE, CELLS = 32, 6400  # of the two stages
COMPARED_AT_ONCE = 1024  # images per block of the matrix product
DARK = 10  # gray level below which steel counts as unlit, or as the black beside the strip
# Thresholds between values measured on real and synthetic steel: 46,280 copies of 445 images in all 8 ways (JPEG
# quality 50 to 90, brightness and contrast ±10 %, noise of 3 levels, shifts of 1 to 3 pixels, scale 0.8) score 0.52 or
# more in the first stage and 0.61 or more in the second; SD-saliency's own five pairs 0.58 and 0.80. The most similar
# different images reach 0.58 in the second (two shots of one scratch), in Severstal 0.06.
CANDIDATE, SAME = 0.5, 0.6


class Pair(NamedTuple):
    """Two images of the same steel: `b`, turned by `symmetry` (see `turned`), matches `a`.

    similarity: correlation of the textures, SAME … 1. identical: every pixel is equal.
    """

    a: str
    b: str
    symmetry: str
    similarity: float
    identical: bool


def turned(array: np.ndarray, symmetry: str) -> np.ndarray:
    """A view of an image or masks, [..., H, W], turned by one of SYMMETRIES; ValueError for any other name."""
    if symmetry not in SYMMETRIES:
        raise ValueError(f"symmetry is {symmetry!r}; it can be {', '.join(SYMMETRIES)}")
    return _turned(array, SYMMETRIES.index(symmetry))


class DuplicateFinder:
    """Collects images one by one and finds pairs of the same steel; pixels are re-read only for the most similar."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._coarse: list[np.ndarray] = []  # float32 [SIDE, SIDE], norm 1, or all 0: no texture
        self._fine: list[np.ndarray] = []  # float16 [rows, columns]
        self._shapes: list[tuple[int, int]] = []
        self._digests: list[bytes] = []

    def add(self, image_id: str, image: np.ndarray) -> None:
        """Adds one image, uint8 [H, W]."""
        fine = texture(thumbnail(image, *_grid(image.shape)))
        coarse = texture(thumbnail(image, SIDE, SIDE))
        length = np.linalg.norm(coarse) if fine.any() else 0.0
        self._ids.append(image_id)
        self._coarse.append(coarse / length if length else np.zeros_like(coarse))
        self._fine.append(fine.astype(np.float16))
        self._shapes.append(image.shape)
        self._digests.append(blake2b(str(image.shape).encode() + image.tobytes(), digest_size=16).digest())

    def pairs(self, read: Callable[[str], np.ndarray], progress: bool = False) -> list[Pair]:
        """Every pair of the same steel, most similar first. read: ImageId → pixels again, uint8 [H, W].

        Images without texture (black, or of one gray) form pairs only if all their pixels are equal, each with the
        next such image. For each block of images, the most similar candidates are compared, at most 50 per image.
        """
        best: dict[tuple[int, int], tuple[float, int]] = {}
        for i, j, symmetry in self._candidates(progress):
            score = _agreement(self._fine[i], _turned(self._fine[j], symmetry))
            if score >= SAME and score > best.get((i, j), (0.0, 0))[0]:
                best[i, j] = score, symmetry
        found = [
            Pair(self._ids[i], self._ids[j], SYMMETRIES[symmetry], round(min(score, 1.0), 4),
                 score > 0.99 and self._equal(i, j, symmetry, read))
            for (i, j), (score, symmetry) in best.items()
        ]
        blank: dict[bytes, int] = {}
        for j, coarse in enumerate(self._coarse):
            if not coarse.any():
                if (i := blank.get(self._digests[j])) is not None:
                    found.append(Pair(self._ids[i], self._ids[j], SYMMETRIES[0], 1.0, True))
                blank[self._digests[j]] = j
        return sorted(found, key=lambda pair: (-pair.similarity, pair.a, pair.b))

    def _candidates(self, progress: bool) -> Iterable[tuple[int, int, int]]:
        """Positions of two images with similar coarse textures, and the symmetry under which they are similar."""
        cells = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
        orders = [_turned(cells, k).ravel() for k in range(8)]
        textures = np.array(self._coarse, np.float32).reshape(-1, SIDE * SIDE)
        shapes = np.array(self._shapes, float).reshape(-1, 2)
        aspect = np.log(shapes[:, 0] / shapes[:, 1])
        starts = range(0, len(textures), COMPARED_AT_ONCE)
        for first in tqdm(starts, "compare", unit="block", disable=not progress):
            rows = textures[first : first + COMPARED_AT_ONCE]
            for second in range(first, len(textures), COMPARED_AT_ONCE):
                columns, found = textures[second : second + COMPARED_AT_ONCE], []
                for k, order in enumerate(orders):
                    turned_aspect = aspect[second : second + COMPARED_AT_ONCE] * (-1 if k & 4 else 1)
                    fits = abs(aspect[first : first + COMPARED_AT_ONCE, None] - turned_aspect) < 0.1
                    if fits.any():
                        scores = rows @ columns[:, order].T
                        i, j = np.nonzero((scores >= CANDIDATE) & fits)
                        found.append(np.stack([scores[i, j], i + first, j + second, np.full(len(i), k)], axis=1))
                pairs = np.concatenate(found) if found else np.empty((0, 4))
                pairs = pairs[pairs[:, 1] < pairs[:, 2]]
                pairs = pairs[np.argsort(-pairs[:, 0], kind="stable")][: 50 * len(rows)]
                yield from pairs[:, 1:].astype(int).tolist()

    def _equal(self, i: int, j: int, symmetry: int, read: Callable[[str], np.ndarray]) -> bool:
        if symmetry == 0:
            return self._digests[i] == self._digests[j]
        return np.array_equal(read(self._ids[i]), _turned(read(self._ids[j]), symmetry))


def find_duplicates(data: SteelData, progress: bool = False) -> list[Pair]:
    """Every pair of images of `data` that show the same steel. Raises images.DataError if one cannot be decoded."""
    finder = DuplicateFinder()
    for image_id in tqdm(data.images["ImageId"], "describe", unit="image", disable=not progress):
        finder.add(image_id, data.image(image_id))
    return finder.pairs(data.image, progress)


def group_duplicates(pairs: Sequence[Pair], ids: Iterable[str]) -> dict[str, str]:
    """ImageId → group: images connected by pairs, directly or through others, form a group named by its first ImageId.

    An image without a pair is a group of its own. Raises ValueError for a pair with an image that is not in `ids`.
    """
    ids = sorted(ids)
    position = {image_id: i for i, image_id in enumerate(ids)}
    if strange := {i for pair in pairs for i in pair[:2]} - position.keys():
        raise ValueError(f"image {min(strange)!r} of a pair is not among the {len(ids)} ids")
    ends = np.array([[position[pair.a], position[pair.b]] for pair in pairs], int).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(ids), len(ids)))
    labels = connected_components(graph, directed=False)[1] if ids else []
    first: dict[int, str] = {}
    return {image_id: first.setdefault(int(label), image_id) for image_id, label in zip(ids, labels, strict=True)}


def across(pairs: Sequence[Pair], sides: Sequence[Iterable[str]]) -> list[Pair]:
    """The pairs with one image on each of two sides."""
    one, other = map(set, sides)
    return [p for p in pairs if (p.a in one and p.b in other) or (p.a in other and p.b in one)]


def thumbnail(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Mean gray of rows × columns equal cells, float32 [rows, columns]; a pixel on a cell border counts in part.

    Turning an image turns its thumbnail exactly.
    """
    return _cells(image.shape[0], rows) @ image.astype(np.float32) @ _cells(image.shape[1], columns).T


def texture(cells: np.ndarray) -> np.ndarray:
    """A thumbnail minus its surroundings, divided by their contrast, float32 [H, W]: about -3 … 3, and 0 where unlit.

    All 0 without texture: less than 3 % lit (one of 32 columns is more), contrast below 0.05 gray levels, or fewer
    than 8 cells per side. 1 gray level is added to the contrast, which keeps noise on smooth steel small.
    """

    def around(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, 2, mode="reflect", truncate=3)

    lit = (minimum_filter(cells, 3, mode="nearest") > DARK).astype(np.float32)
    if min(cells.shape) < 8 or lit.mean() < 0.03:
        return np.zeros_like(cells)
    weight = around(lit) + 1e-6
    detail = lit * (cells - around(cells * lit) / weight)
    contrast = np.sqrt(around(detail**2) / weight)
    detail /= contrast + 1
    return detail if np.sqrt((detail**2).mean()) > 0.05 else np.zeros_like(cells)


def _agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two textures, the best over shifts by up to one and a half cells in steps of half a cell; -1 … 1.
    """
    a, b = a.astype(np.float32), b.astype(np.float32)
    if a.shape != b.shape:  # a copy in another size
        b = _cells(b.shape[0], a.shape[0]) @ b @ _cells(b.shape[1], a.shape[1]).T
    inner = a[2:-2, 2:-2]

    def best(shifted: np.ndarray) -> float:
        windows = np.lib.stride_tricks.sliding_window_view(shifted[1:-1, 1:-1], inner.shape)
        products = np.einsum("ij,klij->kl", inner, windows)
        energies = np.einsum("klij,klij->kl", windows, windows)
        return float((products / np.sqrt((inner**2).sum() * energies + 1e-9)).max())

    score = best(b)
    if score < 0.3:  # most candidates; half a cell raises a copy's 0.4 to 0.6, and another image's 0.37 to 0.46
        return score
    return max(score, best(_half(b, 0)), best(_half(b, 1)), best(_half(_half(b, 0), 1)))


def _half(cells: np.ndarray, axis: int) -> np.ndarray:
    """Shifted by half a cell: cubic interpolation."""
    before, after, next_but_one = (np.roll(cells, -step, axis) for step in (-1, 1, 2))
    return (9 * (cells + after) - before - next_but_one) / 16


def _grid(shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of about CELLS square cells, none smaller than a pixel."""
    side = max(np.sqrt(shape[0] * shape[1] / CELLS), 1.0)
    return max(round(shape[0] / side), 1), max(round(shape[1] / side), 1)


@lru_cache(64)
def _cells(size: int, cells: int) -> np.ndarray:
    """float32 [cells, size]: the weight of each pixel in the mean of each cell."""
    edges, pixels = np.linspace(0, size, cells + 1), np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (overlap.clip(0) * cells / size).astype(np.float32)


def _turned(array: np.ndarray, k: int) -> np.ndarray:
    array = array.swapaxes(-1, -2) if k & 4 else array
    return array[..., :: -1 if k & 1 else 1, :: -1 if k & 2 else 1]
