"""Checks for readable but implausible labels: row-major text, inconsistent colours, all pixels defect or none."""

import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath

import numpy as np
import pandas as pd

from steelnb.data.images import DataError, names

ROW_MAJOR = 3.0  # ratio of pieces, read by columns and by rows; at most 1.0 for 4,130 real Severstal masks
LEAST_PIECES = 10  # fewer pieces may be dots, which are separate in either order
MOST_DEFECT = 0.95  # share of all pixels of a set


def pieces(starts: np.ndarray, lengths: np.ndarray, stride: int) -> int:
    """Number of runs that touch no run of the previous line (`stride` pixels earlier): the pieces of a mask."""
    ends = starts + lengths
    if not len(starts):
        return 0
    first = np.searchsorted(ends, starts - stride, side="right").clip(max=len(starts) - 1)
    touching = (starts[first] < ends - stride) & (ends[first] > starts - stride)
    return int((~touching).sum())


def refuse_row_major(table: Path, counts: Iterable[tuple[int, int]]) -> None:
    """Raises DataError if masks are in many pieces when read by columns, and not when read by rows.

    counts: for each label, its `pieces` by columns and by rows.
    """
    down, along = (sum(count) for count in zip((0, 0), *counts, strict=True))
    if down >= LEAST_PIECES and down > ROW_MAJOR * along:
        raise DataError(f"{table}: its run-lengths count pixels along the rows, but Severstal's go down the columns: "
                        f"by columns the defects are in {down} pieces, by rows in {along}. Write them again with "
                        "steelnb.data.rle.encode(mask)")


def same_colours(seen: dict, path: Path, colours: Mapping[int, tuple]) -> None:
    """Raises DataError if an index has another colour than in an earlier file's palette, or a colour another index.

    seen: the result of earlier calls, {} at first; changed in place. colours: class id → R, G, B.
    """
    for index, colour in colours.items():
        for this, that in ((("index", index), ("colour", colour)), (("colour", colour), ("index", index))):
            before, other = seen.setdefault(this, (that, path))
            if before != that:
                raise DataError(f"{path}: {this[0]} {this[1]} of its palette is {that[0]} {that[1]}, in that of "
                                f"{other.name} {before[1]}; which class is it? Export all with one palette")


def look_alikes(wanted: Iterable[str], there: Iterable[str]) -> list[str]:
    """Wanted names for which there is one that differs only in case, suffix or Unicode form, in words."""

    def key(name: str) -> str:
        return unicodedata.normalize("NFKC", PurePath(name).stem.strip()).casefold()

    found = {key(name): name for name in there}
    return [f"{name} (there is {found[key(name)]})" for name in dict.fromkeys(wanted) if key(name) in found]


def doubts(images: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """Warnings about implausible labels of a whole set, for `SteelData.notes`."""
    pixels = int((images["height"] * images["width"]).sum())
    share = rows["area"].sum() / max(pixels, 1)
    if not len(rows):
        return ["warning: no image shows a defect, so nothing can be learned from this set, and Dice means little"]
    if share > MOST_DEFECT:
        return [f"warning: {share:.0%} of all pixels are labelled as defect; are the masks inverted, or is one of the "
                f"classes {names(sorted(set(rows['ClassId'].tolist())))} the background?"]
    return []
