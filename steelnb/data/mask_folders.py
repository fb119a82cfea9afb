"""Labels as mask files: in a separate folder, or next to the images, as in published data sets.

- ``images/X`` with ``masks/X`` or ``masks/X_mask`` (or another suffix that fits all), also below ``train/`` and
  ``val/``, or with such folders inside: ``images/training`` and ``annotations/training``.
- side by side, in folders at any depth: ``X.jpg`` with ``X.png``, or ``X.jpg`` with ``X_label.bmp``.

Values {0, 255} or {0, 1} are one class, other values up to 32 are class ids, as are the indices of a coloured palette
PNG. Other values (softened edges) are refused unless a threshold is given. If all masks are of one class, in folders
whose names differ by more than a number, a folder's name is the kind of defect.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from steelnb.data import labelled
from steelnb.data.images import (
    LARGEST_CLASS_ID,
    SUFFIXES,
    DataError,
    by_stem,
    left_out,
    mask_and_colours,
    names,
    size_text,
)
from steelnb.data.label_checks import look_alikes, same_colours
from steelnb.data.labelled import Labelled, Options, class_ids, collect, ids, listed_names, settle_parts
from steelnb.data.tree import MASKS, Tree, part_of

IMAGES = ("images", "image", "imgs", "img", "jpegimages")
JPEG = (".jpg", ".jpeg")
LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".gif", ".pgm", ".ppm")


def folders(tree: Tree) -> list[tuple[Path, Path]]:
    """Pairs of an image folder and a mask folder next to it, by name, each with image files in it."""
    holding = {parent for p in tree.pictures for parent in p.relative_to(tree.folder).parents}
    found = []
    for place in sorted(holding):
        inside = [f for f in holding if f.parent == place and f != place]
        images, masks = ([f for f in inside if f.name.lower() in kind] for kind in (IMAGES, MASKS))
        if len(images) == 1 and masks:
            if len(masks) > 1:
                raise DataError(f"{tree.folder / place}: {images[0].name}/ next to {names(f.name for f in masks)}; "
                                "choose the mask folder with masks=, or move the others")
            found.append((tree.folder / images[0], tree.folder / masks[0]))
    return found


def read_folders(tree: Tree, found: list[tuple[Path, Path]], options: Options) -> Labelled:
    """The data set in these pairs of folders. Raises DataError naming the file."""
    pairs: dict[Path, Path] = {}
    notes, suffixes = [], set()
    for images, masks in found:
        places = _places(images, masks)
        notes += left_out(images, masks) if places == [Path()] else []
        for place in places:
            pictures, labels = by_stem(images / place), by_stem(masks / place)
            suffix = _suffix(pictures, labels)
            suffixes.add(suffix)
            short = {s.removesuffix(suffix): p for s, p in labels.items() if s.endswith(suffix)}
            _complain(tree, pictures, short | {s: p for s, p in labels.items() if not s.endswith(suffix)}, suffix,
                      options, notes)
            pairs |= {pictures[s]: short[s] for s in pictures.keys() & short.keys()}
    if suffix := ", ".join(f"X{s}" for s in sorted(suffixes) if s):
        notes.append(f"the mask of an image X is named {suffix}")
    if len(found) == 1:
        (images, masks) = found[0]
        folder = images.parent if images.parent == masks.parent else tree.folder
        layout = f"{images.name}/ beside {masks.name}/"
    else:
        folder, layout = tree.folder, f"{len(found)} folders of {found[0][0].name}/ beside {found[0][1].name}/"
    return _labelled(Tree(folder, tree.files), pairs, layout, notes, options)


def beside(tree: Tree) -> dict[Path, Path] | None:
    """Image → mask of files side by side, if one rule fits: another file suffix, or a suffix of the stem."""
    by_place: dict[tuple[Path, str], list[Path]] = {}
    for path in tree.pictures:
        by_place.setdefault((path.parent, path.stem), []).append(path)
    twins = [sorted(p, key=lambda q: q.suffix.lower() not in JPEG) for p in by_place.values() if len(p) == 2]
    twins = [(a, b) for a, b in twins if a.suffix.lower() in JPEG and b.suffix.lower() in LOSSLESS]
    if len(twins) * 4 >= len(tree.pictures):  # at least half of the files are in such a pair
        return dict(twins)
    endings = Counter(
        path.stem[len(stem):] for path in tree.pictures for stem in _beginnings(path.stem)
        if (path.parent, stem) in by_place and path.suffix.lower() not in JPEG
    )
    for ending, count in endings.most_common(1):
        if count * 4 >= len(tree.pictures):
            masks = {(p.parent, p.stem): p for p in tree.pictures if p.stem.endswith(ending)}
            return {p: m for (place, stem), m in masks.items()
                    for p in by_place.get((place, stem.removesuffix(ending)), ())}
    return None


def read_beside(tree: Tree, pairs: dict[Path, Path], options: Options) -> Labelled:
    """The data set of images next to their masks. Raises DataError naming the file."""
    image, mask = next(iter(pairs.items()))
    ending = mask.stem.removeprefix(image.stem)
    suffixes = {p.suffix.lower() for p in pairs}
    masks, notes = set(pairs.values()), []
    lone_masks = [p for p in tree.pictures if p not in pairs and p not in masks
                  and (p.stem.endswith(ending) if ending else p.suffix.lower() not in suffixes)]
    lone = [p for p in tree.pictures if p not in pairs and p not in masks and p not in lone_masks]
    for some, what in ((lone, "images without a mask beside them"), (lone_masks, "masks without an image beside them")):
        _leave_out(tree, [tree.name(p) for p in some], what, options, notes)
    return _labelled(tree, pairs, f"side by side, an image X{image.suffix} and its mask X{ending}{mask.suffix}", notes,
                     options)


def _labelled(tree: Tree, pairs: Mapping[Path, Path], layout: str, notes: list[str], options: Options) -> Labelled:
    images = ids(pairs)
    palettes: dict = {}
    first: dict[int, Path] = {}  # the first file with each value

    def masks(image_id: str, shape: tuple[int, int]) -> dict[int, np.ndarray]:
        values, colours = mask_and_colours(path := pairs[images[image_id]], options.mask_threshold)
        same_colours(palettes, path, colours)
        if values.shape != shape:
            raise DataError(f"{path}: the mask is {size_text(*values.shape)}, its image {image_id} is "
                            f"{size_text(*shape)}; export it at the image's size")
        present = np.flatnonzero(np.bincount(values.ravel())).tolist()
        for value in present:
            first.setdefault(value, path)
        return {value: values == value for value in present if value}

    entries, rows = collect(images, masks, options.progress)
    last = max((v for v in first if v != 255), default=0)  # the largest class id
    if 255 in first and last > 1:
        raise DataError(f"{first[255]} contains 0 and 255, {first[last]} class id {last}: two meanings in one folder; "
                        "use class ids in every mask")
    if 0 not in first and last > 1:
        raise DataError(f"{min(pairs.values()).parent}: no mask has a background pixel (0), their values are "
                        f"{names(sorted(first))}; if one of them is the background, replace it by 0")
    kinds = _kinds({i: images[i] for i, *_ in rows}, tree.folder) if last < 2 else {}
    class_names = tuple(sorted(set(kinds.values())))
    rows = [(i, class_names.index(kinds[i]) + 1 if kinds else 1 if v == 255 else v, *rest) for i, v, *rest in rows]
    if not kinds and (listed := listed_names(tree)) and len(listed) >= last:
        class_names = tuple(class_ids(listed, str(tree.folder)))
    if kinds:
        notes = [*notes, "folder names are the kinds of defects"]
    count = len(class_names) or max(last, 1)
    meaning = "0/255" if 255 in first else "0/1" if last < 2 else "of class ids"
    if options.mask_threshold is not None:
        meaning = f"of gray values, defect above {options.mask_threshold}"
    split, note = settle_parts({i: part_of(p, tree.folder) for i, p in images.items()})
    return Labelled(tree.folder, entries, rows, tuple(range(1, count + 1)), class_names, f"{layout}, masks {meaning}",
                    (*notes, *filter(None, [note])), split)


def _kinds(paths: Mapping[str, Path], below: Path) -> dict[str, str]:
    """ImageId → the folder that names the kind of defect of an image; empty if folders do not name kinds.

    It is the only level of the path at which folders differ; names that differ only by a number are not kinds.
    """
    ways = {i: p.relative_to(below).parts[:-1] for i, p in paths.items()}
    if len({len(way) for way in ways.values()}) != 1:
        return {}
    differing = [at for at, words in enumerate(zip(*ways.values(), strict=True)) if len(set(words)) > 1]
    if len(differing) != 1:
        return {}
    kinds = {i: way[differing[0]] for i, way in ways.items()}
    different = {re.sub("[0-9]+", "", kind) for kind in kinds.values()}
    parts = part_of(Path(min(kinds.values()), "x.png"), Path()) is not None
    return kinds if len(different) == len({*kinds.values()}) <= LARGEST_CLASS_ID and not parts else {}


def _places(images: Path, masks: Path) -> list[Path]:
    """Subfolders with images that both folders have, as relative paths; only "." if both have images themselves."""
    for root in (images, masks):
        if not root.is_dir():
            raise DataError(f"{root}: no such folder")
    found = [[Path(os.path.relpath(place, root)) for place, _, files in os.walk(root, followlinks=True)
              if any(Path(f).suffix.lower() in SUFFIXES and f[0] != "." for f in files)]
             for root in (images, masks)]
    if Path() in found[0] and Path() in found[1]:  # deeper folders are ignored, as noted by `left_out`
        return [Path()]
    if {*found[0]} != {*found[1]}:
        one_sided = sorted({*found[0]} ^ {*found[1]})
        raise DataError(f"{images.parent}: {names(one_sided)} has image files only in {images.name}/ or only in "
                        f"{masks.name}/; use the same folders for masks and images")
    return sorted(found[0])


def _suffix(pictures: Mapping[str, Path], labels: Mapping[str, Path]) -> str:
    """The suffix of mask names compared with image names: empty, or one that fits most of them."""
    if pictures.keys() & labels.keys():
        return ""
    endings = Counter(stem[len(begin):] for stem in labels for begin in _beginnings(stem) if begin in pictures)
    return next((ending for ending, count in endings.most_common(1) if count * 2 > len(labels)), "")


def _beginnings(stem: str) -> Iterable[str]:
    """A stem without its last word, its last two words …: X and X_a of X_a_b."""
    return (stem[: m.start()] for m in re.finditer(r"[^A-Za-z0-9]+[A-Za-z]", stem) if m.start())


def _complain(tree: Tree, pictures: dict, labels: dict, suffix: str, options: Options, notes: list[str]) -> None:
    which = f" named as the image with {suffix!r} at the end" if suffix else " of the same stem"
    sides = (pictures, labels, "images without a mask"), (labels, pictures, "masks without an image")
    for these, others, what in sides:
        lone = sorted(these[s].name for s in these.keys() - others.keys())
        if alike := look_alikes(lone, (others[s].name for s in others.keys() - these.keys())):
            raise DataError(f"{tree.folder}: {len(alike)} {what}{which}, but one that differs in case: "
                            f"{names(alike)}; rename one of the two")
        _leave_out(tree, lone, what, options, notes, which)


def _leave_out(tree: Tree, lone: list[str], what: str, options: Options, notes: list[str], which: str = "") -> None:
    if lone:
        notes += labelled.left_out(
            tree.folder, f"{len(lone)} {what}{which}, {names(lone)}", options.skip_missing,
            "Add the missing files (a clean image has an all-zero mask), or leave them out",
        )
