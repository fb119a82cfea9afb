"""Training and validation: by image, by group, or by row as the original did.  Taught in 01_data_exploration."""

import hashlib
from collections.abc import Hashable, Mapping
from math import floor
from typing import NamedTuple

from steelnb.data.dataset import SteelData


class Split(NamedTuple):
    """ImageIds of both sides, each sorted."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


class RowSplit(NamedTuple):
    """Positions in `data.rows` of both sides: one row, that is one class of one image, is one sample."""

    train: tuple[int, ...]
    validation: tuple[int, ...]


def by_image(data: SteelData, validation: float = 0.2, seed: int = 0) -> Split:
    """Splits images, stratified by their set of classes (clean is one).  Taught in 01_data_exploration.

    Of a stratum of n ≥ 2 images, round(n · validation) go to validation, but at least 1 and at most n - 1. Strata of a
    single image are pooled into one; a last single image goes to training, so a data set of one has no validation.
    SHA-256 of seed and ImageId decides which images: the same on every machine and NumPy, in any row order. If the data
    has groups (`SteelData.with_groups`), the images of a group stay together, as in `by_group`. If the set comes with
    its own split (`SteelData.parts`), that is returned, independent of `validation`, `seed` and groups. Raises
    ValueError unless 0 < validation < 1.
    """
    _check(validation)
    if data.parts:
        sides = (tuple(sorted(i for i, part in data.parts.items() if part == side)) for side in ("train", "validation"))
        return Split(*sides)
    return by_group(data, data.groups or {i: i for i in data.images["ImageId"]}, validation, seed)


def by_group(data: SteelData, groups: Mapping[str, Hashable], validation: float = 0.2, seed: int = 0) -> Split:
    """As `by_image`, but images of one group (ImageId → group) stay together.

    The stratum of a group is the set of all classes of its images. Groups go to validation while they fit into the
    stratum's share; if none fits, the smallest does. Raises ValueError for images without a group, and unless
    0 < validation < 1.
    """
    _check(validation)
    members: dict[Hashable, list[str]] = {}
    shown: dict[Hashable, set[int]] = {}
    for image_id, classes in sorted(zip(data.images["ImageId"], data.images["classes"], strict=True)):
        if image_id not in groups:
            raise ValueError(f"image {image_id!r} has no group: every image needs one (if alone, its own ImageId)")
        members.setdefault(groups[image_id], []).append(image_id)
        shown.setdefault(groups[image_id], set()).update(classes)
    strata: dict[tuple[int, ...], list[list[str]]] = {}
    for group, ids in members.items():
        strata.setdefault(tuple(sorted(shown[group])), []).append(ids)
    pooled = [units[0] for units in strata.values() if len(units) == 1]
    held_out: set[str] = set()
    for units in (*strata.values(), pooled):
        if len(units) > 1:
            held_out.update(_take(units, validation, seed))
    ids = sorted(data.images["ImageId"])
    return Split(tuple(i for i in ids if i not in held_out), tuple(i for i in ids if i in held_out))


def by_row(data: SteelData, validation: float = 0.2) -> RowSplit:
    """The original's split: the first int(rows · (1 - validation)) rows train.  Taught in 01_data_exploration.

    The others validate; nothing is shuffled. An image with two classes has two rows, so it can be on both sides: see
    `leaks`. Clean images have no row and are on neither side. Raises ValueError unless 0 < validation < 1.
    """
    _check(validation)
    first = int(len(data.rows) * (1 - validation))
    return RowSplit(tuple(range(first)), tuple(range(first, len(data.rows))))


def leaks(data: SteelData, split: Split | RowSplit, groups: Mapping[str, Hashable] | None = None) -> tuple[str, ...]:
    """ImageIds on both sides, or whose group is on both, sorted.  Taught in 01_data_exploration."""
    row_ids = data.rows["ImageId"].tolist()
    sides = [{row_ids[i] for i in side} if isinstance(split, RowSplit) else set(side) for side in split]
    group_of = {i: i if groups is None else groups[i] for i in sides[0] | sides[1]}
    both = {group_of[i] for i in sides[0]} & {group_of[i] for i in sides[1]}
    return tuple(sorted(i for i in group_of if group_of[i] in both))


def _take(units: list[list[str]], validation: float, seed: int) -> list[str]:
    """The ImageIds of some of two or more units, with about the share `validation` of all images."""
    images = sum(map(len, units))
    wanted = min(max(floor(images * validation + 0.5), 1), images - 1)
    units = sorted(units, key=lambda ids: hashlib.sha256(f"{seed} {ids[0]}".encode()).digest())
    chosen: list[str] = []
    for ids in units:
        if len(chosen) + len(ids) <= wanted:
            chosen += ids
    return chosen or min(units, key=len)


def _check(validation: float) -> None:
    if not 0 < validation < 1:
        raise ValueError(f"validation is the share of images held out, between 0 and 1, got {validation!r}")
