"""Findings about images that show the same steel: one per group, and whether their labels agree."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from skimage.transform import resize

from steelnb.audit import duplicates
from steelnb.audit.checks import Finding
from steelnb.audit.duplicates import Pair
from steelnb.data.dataset import SteelData
from steelnb.data.images import names

AGREE = 0.5  # intersection over union of two masks of the same steel, below which they contradict each other
AGREE_EQUAL = 0.9  # the same for images with equal pixels, where only the labels can differ
BLOCKS, ALIKE, WHOLE = 4, 0.3, 0.8  # 4×4 blocks per image: in copies, a share of WHOLE correlates by at least ALIKE
Sides = Mapping[str, tuple[set[str], set[str]]]


def headline(groups: Mapping[str, str] | None) -> str:
    """The number of images with a copy, in one line; empty if there are none."""
    sizes = Counter((groups or {}).values())
    several = [size for size in sizes.values() if size > 1]
    return (f"{sum(several):,} of {sum(sizes.values()):,} images show the same steel as another one, in "
            f"{len(several):,} groups") if several else ""


def found_groups(data: SteelData, pairs: Sequence[Pair], groups: Mapping[str, str], sides: Sides) -> Iterator[Finding]:
    """One finding per group of images of the same steel, largest first, and one for contradictory labels.

    sides: for each split, ImageIds to train on and to validate on.
    """
    of_group: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        of_group[groups[pair.a]].append(pair)
    members: dict[str, list[str]] = defaultdict(list)
    for image_id in sorted(groups):
        members[groups[image_id]].append(image_id)
    for group, these in sorted(of_group.items(), key=lambda item: (-len(members[item[0]]), item[0])):
        yield _group(tuple(members[group]), these, sides)
        yield from _contradictions(data, these, len(members[group]))


def _group(ids: tuple[str, ...], pairs: list[Pair], sides: Sides) -> Finding:
    first = pairs[0]
    how = "equal pixels" if all(p.identical for p in pairs) else f"similarity {first.similarity:.2f}"
    way = "" if first.symmetry == duplicates.SYMMETRIES[0] else f", the second {first.symmetry}"
    text = f"{first.a} and {first.b} show the same steel ({how}{way})"
    if len(ids) > 2:
        lowest = min(p.similarity for p in pairs)
        how = how if how == "equal pixels" else f"similarity {lowest:.2f} to {first.similarity:.2f}"
        text = f"{len(ids)} images show the same steel ({how}): {names(ids, 8)}"
    if parted := [name for name, (a, b) in sides.items() if {*ids} & a and {*ids} & b]:
        text += (f" on both sides of a split ({', '.join(parted)}), which makes the score too high: train keeps them "
                 "on one side (unless --ignore-copies); elsewhere split with groups.csv, or keep one")
        return Finding("duplicate across a split", "warning", ids, text, first)
    text += " on one side: keep them together in every split with groups.csv, or keep one"
    return Finding("duplicate", "note", ids, text, first)


def _contradictions(data: SteelData, pairs: list[Pair], size: int) -> Iterator[Finding]:
    """Whether images of the same steel are labelled differently; the first pair of a group is shown."""
    found = [(pair, how) for pair in pairs if (how := _contradiction(data, pair))]
    parts = [pair for pair, _ in found if not _whole(data, pair)]
    found = [(pair, how) for pair, how in found if pair not in parts]
    if found:
        pair, how = found[0]
        more = f"; so are {len(found) - 1} other pairs of this group of {size}" * (len(found) > 1)
        text = f"{pair.a} and {pair.b} show the same steel but are labelled differently ({how}){more}: decide "
        text += "which is right"
        yield Finding("contradictory labels", "warning", _ids(p for p, _ in found), text, pair)
    if parts:
        more = f"; so do {len(parts) - 1} other pairs of this group of {size}" * (len(parts) > 1)
        text = (f"{parts[0].a} and {parts[0].b} share a part and differ elsewhere, as composites do{more}: their "
                "labels may differ, but keep them on one side of a split")
        yield Finding("shared part", "note", _ids(parts), text, parts[0])


def _contradiction(data: SteelData, pair: Pair) -> str:
    """How the labels of two images of the same steel differ; empty if they agree."""
    a, b = data.masks(pair.a), duplicates.turned(data.masks(pair.b), pair.symmetry)
    if a.shape != b.shape:  # a copy of another size
        b = resize(b, a.shape, order=0)
    shown = [tuple(c for c, mask in zip(data.classes, side, strict=True) if mask.any()) for side in (a, b)]
    if shown[0] != shown[1]:
        return " and ".join(", ".join(map(data.class_name, classes)) or "clean" for classes in shown)
    if (common := _common(a.any(0), b.any(0), pair.identical)) < (AGREE_EQUAL if pair.identical else AGREE):
        return f"{common:.0%} of the pixels labelled in either are labelled in both"
    return ""


def _whole(data: SteelData, pair: Pair) -> bool:
    """Whether two images are alike everywhere: most of the blocks with texture correlate."""
    if pair.identical:
        return True
    a, b = data.image(pair.a), duplicates.turned(data.image(pair.b), pair.symmetry)
    rows, columns = (max(round(n / math.sqrt(a.size / duplicates.CELLS)), 8) for n in a.shape)
    a, b = (duplicates.texture(duplicates.thumbnail(np.ascontiguousarray(x), rows, columns)) for x in (a, b))
    moves = [(down, across) for down in (-1, 0, 1) for across in (-1, 0, 1)]
    moved = max((np.roll(b, move, (0, 1)) for move in moves), key=lambda c: float((a * c).sum()))
    blocks = [_blocks(x) for x in (a * moved, a * a, moved * moved)]
    energy = np.sqrt(blocks[1] * blocks[2])
    textured = np.maximum(blocks[1], blocks[2]) > 0.1 * np.maximum(blocks[1], blocks[2]).max()
    return bool((blocks[0][textured] > ALIKE * energy[textured]).mean() >= WHOLE)


def _blocks(values: np.ndarray) -> np.ndarray:
    """Sums over BLOCKS × BLOCKS equal parts."""
    edges = [np.linspace(0, n, BLOCKS + 1).astype(int)[:-1] for n in values.shape]
    return np.add.reduceat(np.add.reduceat(values, edges[0], 0), edges[1], 1)


def _common(a: np.ndarray, b: np.ndarray, exact: bool) -> float:
    """Intersection over union, 1 for two empty masks; unless exact, the best over shifts by up to a cell, since images
    of a pair may be shifted and the masks of a thin defect would not overlap."""
    cell = 0 if exact else math.sqrt(a.size / duplicates.CELLS)
    steps = sorted({round(cell * part) for part in (-1, -0.5, 0, 0.5, 1)})
    ious = [(a & (c := np.roll(b, (down, across), (0, 1)))).sum() / max((a | c).sum(), 1)
            for down in steps for across in steps]
    return float(max(ious)) if a.any() or b.any() else 1.0


def against(data: SteelData, other: SteelData, progress: bool = False) -> Iterator[Finding]:
    """A finding with the number of images of `data` that have a copy in `other`, if any."""
    finder, sets = duplicates.DuplicateFinder(), {"0": data, "1": other}
    for mark, each in sets.items():
        for image_id in each.images["ImageId"]:
            finder.add(f"{mark} {image_id}", each.image(image_id))
    pairs = finder.pairs(lambda marked: sets[marked[0]].image(marked[2:]), progress)
    across = [sorted(pair[:2]) for pair in pairs if pair.a[0] != pair.b[0]]
    if copied := sorted({a[2:]: b[2:] for a, b in reversed(across)}.items()):
        shown = names((f"{a} as {b}" for a, b in copied), 3)
        text = (f"{len(copied):,} of {len(data):,} images of {data.name} have a copy in {other.name} ({shown}): a "
                "score on them measures memory of the training images; leave them out")
        yield Finding("copies in another set", "warning", tuple(a for a, _ in copied), text)


def _ids(pairs: Iterable[Pair]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(i for pair in pairs for i in pair[:2]))

