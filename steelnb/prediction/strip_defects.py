"""Connected defects of a mask processed band by band, exactly as if the whole mask were labelled at once."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from steelnb.evaluation.operating_point import TOUCHING


class SettledDefects(NamedTuple):
    """The defects that are complete after a band.

    boxes: int64 [D, 4], first and past-the-last line along the strip, then pixel across it. areas: int64 [D], in
    pixels. erased: int64 [E, 2], pixels (along, across) of earlier bands that belong to defects below the minimum area.
    """

    boxes: np.ndarray
    areas: np.ndarray
    erased: np.ndarray


class OpenDefect(NamedTuple):
    """A defect that reaches the last line; its pixels, int64 [P, 2], are kept while it may be too small."""

    box: np.ndarray
    area: int
    pixels: np.ndarray


class Defects:
    """Labels bands of lines, bool [n, width], one after another; pixels that touch at a corner belong to one defect.

    minimum_area: defects with fewer pixels are erased, as by `OperatingPoint`. Memory grows with the band, and with
    minimum_area times the number of defects on one seam between bands.
    """

    def __init__(self, minimum_area: int = 0) -> None:
        self.minimum_area = minimum_area
        self._line = 0  # lines added so far
        self._open: list[OpenDefect] = []
        self._seam: np.ndarray | None = None  # for each pixel of the last line: 0, or 1 + index in _open

    def add(self, band: np.ndarray) -> SettledDefects:
        """Adds the next band, and erases from it (in place) the defects that end in it and are too small."""
        # 1. Nodes: the connected parts of this band, then the open defects of earlier bands; box and area of each.
        labels, count = ndimage.label(band, TOUCHING)
        nodes = count + len(self._open)
        boxes = np.array([[s.start, s.stop, t.start, t.stop] for s, t in ndimage.find_objects(labels)], np.int64)
        boxes = boxes.reshape(-1, 4) + np.array([self._line, self._line, 0, 0])
        boxes = np.concatenate([boxes, *(item.box[None] for item in self._open)])
        areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        areas = np.concatenate([areas, [item.area for item in self._open]]).astype(np.int64)

        # 2. Groups: nodes that touch across the seam are one defect; add up areas, enclose boxes.
        groups, group = self._merge(labels[0], count, nodes)
        area = np.zeros(groups, np.int64)
        np.add.at(area, group, areas)
        box = np.tile(np.array([np.iinfo(np.int64).max, 0, np.iinfo(np.int64).max, 0]), (groups, 1))
        for column, extreme in enumerate((np.minimum, np.maximum) * 2):
            extreme.at(box[:, column], group, boxes[:, column])
        goes_on = np.zeros(groups, bool)  # groups with a pixel in the band's last line
        last = labels[-1] - 1  # −1: no defect
        goes_on[group[last[last >= 0]]] = True
        small = area < self.minimum_area

        # 3. Groups that end here and are too small: erased from this band, their pixels in earlier bands returned.
        pieces: dict[int, list[np.ndarray]] = {}  # pixels of earlier bands, by group
        for item, g in zip(self._open, group[count:], strict=True):
            pieces.setdefault(g, []).append(item.pixels)
        ended = [p for g, parts in pieces.items() if small[g] and not goes_on[g] for p in parts]
        erased = np.concatenate([np.empty((0, 2), np.int64), *ended])
        band[np.append(False, (small & ~goes_on)[group[:count]])[labels]] = False

        # 4. Groups that go on: open defects of the next band. Only small ones need their pixels.
        number = np.zeros(groups, np.int64)
        number[goes_on] = np.arange(1, goes_on.sum() + 1)
        self._seam = np.append(0, number[group[:count]])[labels[-1]]
        self._open = []
        for g in np.flatnonzero(goes_on):
            parts = [np.empty((0, 2), np.int64)]
            if small[g]:
                here = max(0, len(band) - self.minimum_area)  # fewer pixels than minimum_area span fewer lines
                near = np.append(False, group[:count] == g)[labels[here:]]
                parts += [*pieces.get(g, []), np.argwhere(near) + np.array([here + self._line, 0])]
            self._open.append(OpenDefect(box[g], int(area[g]), np.concatenate(parts)))
        self._line += len(band)
        settled = ~goes_on & ~small
        return SettledDefects(box[settled], area[settled], erased)

    def finish(self) -> SettledDefects:
        """The defects that end with the strip."""
        width = 1 if self._seam is None else len(self._seam)
        return self.add(np.zeros((1, width), bool))

    def _merge(self, first: np.ndarray, count: int, nodes: int) -> tuple[int, np.ndarray]:
        """Number of groups, and the group of each node; nodes are grouped by pixels that touch across the seam."""
        pairs = [np.empty((2, 0), np.int64)]
        for shift in (-1, 0, 1) if self._seam is not None else ():
            here, before = first[max(0, shift) :], self._seam[max(0, -shift) :]
            here, before = here[: len(before)], before[: len(here)]
            met = (here > 0) & (before > 0)
            pairs.append(np.stack([here[met] - 1, count + before[met] - 1]))
        rows, columns = np.concatenate(pairs, axis=1)
        return connected_components(coo_array((np.ones(len(rows)), (rows, columns)), shape=(nodes, nodes)), False)
