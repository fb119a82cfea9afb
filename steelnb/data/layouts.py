"""Recognises the labels in a folder, by content and not by file names alone."""

from collections.abc import Callable
from pathlib import Path

from steelnb.data import coco, cvat, labelme, mask_folders, yolo
from steelnb.data.images import DataError, names
from steelnb.data.labelled import Labelled, Options, load_json
from steelnb.data.tree import PARTS, Tree, walk

FORMATS = ("severstal", "masks", "coco", "labelme", "cvat", "yolo")
MOST_JSON = 50  # unreadable files after which a folder counts as one without JSON labels


def recognise(folder: Path, wanted: str | None = None) -> Callable[[Options], Labelled]:
    """The reader of the labels in `folder`. wanted: one of FORMATS, if there are several kinds.

    Raises DataError if there are none, or several kinds, naming what was found.
    """
    tree, broken = walk(folder), []
    found: dict[str, tuple[str, Callable[[Options], Labelled]]] = {}
    for kind, look in (("coco", _json), ("cvat", _xml), ("yolo", _yolo), ("masks", _masks)):
        if wanted in (None, kind, "labelme" if kind == "coco" else kind):
            found |= look(tree, broken)
    if broken and not found.keys() & {"masks", "yolo"}:
        raise broken[0]  # only some of the labels are readable
    if not found and wanted in (None, "masks") and (pairs := mask_folders.beside(tree)):
        return lambda options: mask_folders.read_beside(tree, pairs, options)
    if wanted:
        found = {kind: each for kind, each in found.items() if kind == wanted}
    if len(found) > 1:
        kinds = ", ".join(f"{kind} ({what})" for kind, (what, _) in found.items())
        raise DataError(f"{folder}: several kinds of labels, {kinds}; choose one with format= (--format "
                        f"{next(iter(found))})")
    if found:
        return next(iter(found.values()))[1]
    inside = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    there = names((p.name + "/" * p.is_dir() for p in inside), 8) or "nothing"
    what = f" with labels of the kind {wanted}" if wanted else ""
    raise DataError(f"{folder}: no data set{what}. Looked for train.csv and train_images/ (Severstal), images/ and "
                    "masks/, images next to their masks, COCO and LabelMe JSON, CVAT XML, YOLO's labels/, here and "
                    f"below; found {there}")


def _json(tree: Tree, broken: list[DataError]) -> dict:
    """COCO's and LabelMe's files. If the first file with the stem of an image is LabelMe's, all such files are."""
    stems = {p.with_suffix("") for p in tree.pictures}
    files = tree.with_suffix(".json")
    twins = [f for f in files if f.with_suffix("") in stems]
    kinds: dict[str, list[Path]] = {"coco": [], "labelme": []}
    for file in (*[f for f in files if f.with_suffix("") not in stems], *twins):
        if kinds["labelme"] and file in twins:
            continue
        if not any(kinds.values()) and len(broken) > MOST_JSON:
            break
        try:
            document = load_json(file)
        except DataError as error:
            broken.append(error)
            continue
        for kind, is_kind in (("coco", coco.is_coco), ("labelme", labelme.is_labelme)):
            if is_kind(document):
                kinds[kind].append(file)
    if kinds["labelme"]:
        kinds["labelme"] = sorted({*kinds["labelme"], *twins} - {*kinds["coco"]})
    readers = {"coco": coco.read, "labelme": labelme.read}
    return {kind: (names(map(tree.name, these)), _reader(readers[kind], tree, these))
            for kind, these in kinds.items() if these}


def _xml(tree: Tree, broken: list[DataError]) -> dict:
    these = []
    for file in tree.with_suffix(".xml"):
        try:
            if cvat.is_cvat(cvat.parse(file)):
                these.append(file)
        except DataError as error:
            broken.append(error)
            if not these and len(broken) > MOST_JSON:
                break
    return {"cvat": (names(map(tree.name, these)), _reader(cvat.read, tree, these))} if these else {}


def _yolo(tree: Tree, broken: list[DataError]) -> dict:
    these = yolo.label_files(tree)
    return {"yolo": (names(map(tree.name, these)), _reader(yolo.read, tree, these))} if these else {}


def _masks(tree: Tree, broken: list[DataError]) -> dict:
    found = mask_folders.folders(tree)
    places = [images.parent for images, _ in found]
    if tree.folder in places:  # pairs of folders further below are ignored
        found = [pair for pair in found if pair[0].parent == tree.folder]
    elif len(found) > 1 and not all(p.name.lower() in PARTS for p in places):
        raise DataError(f"{tree.folder}: several data sets, {names(p.name for p in places)}; choose one")
    what = ", ".join(f"{tree.name(i)}/ beside {tree.name(m)}/" for i, m in found[:2])
    return {"masks": (what, _reader(mask_folders.read_folders, tree, found))} if found else {}


def _reader(read: Callable, tree: Tree, found: list) -> Callable[[Options], Labelled]:
    return lambda options: read(tree, found, options)
