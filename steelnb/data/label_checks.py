"""Labels that can be read but cannot be meant: row by row, other colours in another file, all steel or none."""

import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath

import numpy as np
import pandas as pd

from steelnb.data.images import DataError, names

ROW_MAJOR = 3.0  # times more pieces than read the other way; of 4,130 real Severstal masks, none has more than 1.0
LEAST_PIECES = 10  # below, pieces may be dots, which lie apart in either order
MOST_DEFECT = 0.95  # share of all pixels of a set


def pieces(starts: np.ndarray, lengths: np.ndarray, stride: int) -> int:
    """How many runs touch no run of the line before, which began `stride` pixels earlier: the pieces of a mask."""
    ends = starts + lengths
    if not len(starts):
        return 0
    first = np.searchsorted(ends, starts - stride, side="right").clip(max=len(starts) - 1)
    touching = (starts[first] < ends - stride) & (ends[first] > starts - stride)
    return int((~touching).sum())


def refuse_row_major(table: Path, counts: Iterable[tuple[int, int]]) -> None:
    """Raises DataError where masks fall to pieces as they are read, down the columns, and not along the rows.

    counts: of each label, its `pieces` down the columns and along the rows.
    """
    down, along = (sum(count) for count in zip((0, 0), *counts, strict=True))
    if down >= LEAST_PIECES and down > ROW_MAJOR * along:
        raise DataError(f"{table}: its run-lengths count pixels along the rows, but Severstal's go down the columns: "
                        f"read so, the defects are {down} pieces, along the rows {along}. Write them again with "
                        "steelnb.data.rle.encode(mask)")


def same_colours(seen: dict, path: Path, colours: Mapping[int, tuple]) -> None:
    """Raises DataError where a palette's index has another colour than in a file before, or a colour another index.

    seen: what earlier calls met, {} at first. colours: class id → R, G, B.
    """
    for index, colour in colours.items():
        for this, that in ((("index", index), ("colour", colour)), (("colour", colour), ("index", index))):
            before, other = seen.setdefault(this, (that, path))
            if before != that:
                raise DataError(f"{path}: {this[0]} {this[1]} of its palette is {that[0]} {that[1]}, in that of "
                                f"{other.name} {before[1]}; which class is it? Export all with one palette")


def look_alikes(wanted: Iterable[str], there: Iterable[str]) -> list[str]:
    """Names that are wanted, and those there that differ from them in case, suffix or Unicode form alone."""

    def key(name: str) -> str:
        return unicodedata.normalize("NFKC", PurePath(name).stem.strip()).casefold()

    found = {key(name): name for name in there}
    return [f"{name} (there is {found[key(name)]})" for name in dict.fromkeys(wanted) if key(name) in found]


def doubts(images: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """What makes a labelled set, as a whole, unlikely to be meant; for `SteelData.notes`."""
    pixels = int((images["height"] * images["width"]).sum())
    share = rows["area"].sum() / max(pixels, 1)
    if not len(rows):
        return ["warning: no image shows a defect, so nothing can be learned from this set, and Dice says little of it"]
    if share > MOST_DEFECT:
        return [f"warning: {share:.0%} of all pixels are labelled as defect; are the masks inverted, or is one of the "
                f"classes {names(sorted(set(rows['ClassId'].tolist())))} the background?"]
    return []
