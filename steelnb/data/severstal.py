"""Severstal's layout: ``train.csv`` next to ``train_images/``.

Columns are ``ImageId,ClassId,EncodedPixels`` (now: an image without a row is clean) or
``ImageId_ClassId,EncodedPixels`` (2019: an image is clean if all its rows are empty). Sets written by `conversion` may
also have classes.csv, split.csv and the sizes of images.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from steelnb.data import labelled, mask_folders, rle
from steelnb.data import labels as label_tables
from steelnb.data.images import DataError, headers, image_files, left_out, names, nfc, size_text
from steelnb.data.label_checks import look_alikes, pieces, refuse_row_major
from steelnb.data.labelled import Labelled, Options, check_size, settle_parts
from steelnb.data.labels import SEVERSTAL_CLASSES, SIZE
from steelnb.data.tree import walk

CLASS_NAMES, PARTS_TABLE = "classes.csv", "split.csv"


def find(folder: Path, alone: bool) -> Path | None:
    """The folder with train.csv and train_images/: `folder`, or the only one in it; None if there is none.

    Raises DataError for several, and, if it must be `alone`, for other data sets next to it.
    """
    for roots in ([folder], sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")):
        found = [r for r in roots if (r / "train.csv").is_file() and (r / "train_images").is_dir()]
        others = _others(folder, found[0]) if found and found != [folder] else []
        if len(found) > 1 or (others and alone):
            raise DataError(f"{folder}: several data sets, {names([r.name for r in found] + others)}; choose one")
        if found:
            return found[0]
    return None


def _others(folder: Path, known: Path) -> list[str]:
    """Other folders in `folder` than a known data set that contain images and masks."""
    return sorted({images.parent.name for images, _ in mask_folders.folders(walk(folder))
                   if not images.is_relative_to(known)})


def read(folder: Path, options: Options) -> Labelled:
    """The data set in `folder`. Raises DataError naming the file and the line."""
    csv, notes, classes = folder / "train.csv", left_out(folder / "train_images"), dict.fromkeys(SEVERSTAL_CLASSES, "")
    converted = (folder / CLASS_NAMES).exists()
    if converted:
        classes = label_tables.read_class_names(folder / CLASS_NAMES)
    table, form = label_tables.labels(csv, tuple(classes))
    paths = _paths(folder)
    table = _with_images(csv, table, paths, options.skip_missing, notes)
    if form == "2019":
        paths = _with_rows(folder, table, paths, options.skip_missing, notes)
    images = headers(paths, options.progress)
    rows = _rows(csv, table, images, converted)
    class_names = tuple(name or f"class {k}" for k, name in classes.items()) if any(classes.values()) else ()
    layout = f"train.csv ({','.join(label_tables.FORMS[form])}) beside train_images/"
    parts = _parts(folder / PARTS_TABLE, images["ImageId"].tolist(), notes)
    return Labelled(folder, images, rows, tuple(classes), class_names, layout, tuple(notes), parts)


def _paths(folder: Path) -> dict[str, Path]:
    """ImageId → file of train_images/."""
    paths: dict[str, Path] = {}
    for path in image_files(folder / "train_images"):
        if paths.setdefault(nfc(path.name), path) != path:
            raise DataError(f"{path}: two files with this name, in two Unicode forms; remove one")
    return paths


def _with_images(
    csv: Path, table: pd.DataFrame, paths: Mapping[str, Path], skip_missing: bool, notes: list[str]
) -> pd.DataFrame:
    """The rows whose image exists; others raise DataError, or are left out with a note."""
    absent = table[~table["ImageId"].isin(paths)]
    if alike := look_alikes(absent["ImageId"], sorted(paths.keys() - set(table["ImageId"]))):
        # If the row were left out, its image would count as clean.
        raise DataError(f"{csv}, line {absent['line'].iloc[0]}: {len(alike)} images listed under another name than in "
                        f"train_images/, {names(alike)}; rename the files, or correct the rows")
    if len(absent):
        what = f"{absent['ImageId'].nunique()} images listed but absent from train_images/, {names(absent['ImageId'])}"
        where = f"{csv}, line {absent['line'].iloc[0]}"
        notes += labelled.left_out(where, what, skip_missing, "Add them, or leave their rows out")
    return table[table["ImageId"].isin(paths)]


def _with_rows(
    folder: Path, table: pd.DataFrame, paths: dict[str, Path], skip_missing: bool, notes: list[str]
) -> dict[str, Path]:
    """The images with a row, as all have in the 2019 form; others raise DataError, or are left out with a note."""
    if unlisted := sorted(set(paths) - set(table["ImageId"])):
        what = f"{len(unlisted)} images without a row in train.csv, {names(unlisted)}"
        notes += labelled.left_out(folder / "train_images", what, skip_missing, "In the 2019 form clean images have "
                                   "rows too: complete the file, or leave these images out")
    return {name: path for name, path in paths.items() if name not in {*unlisted}}


def _rows(csv: Path, table: pd.DataFrame, images: pd.DataFrame, converted: bool) -> list[tuple[str, int, str, int]]:
    """The rows with a mask (ImageId, class, run-lengths, area), each checked against its image.

    converted: whether `conversion` wrote the run-lengths, which are then in the right order.
    """
    rows = table[table["EncodedPixels"] != ""].rename(columns={name: f"stated_{name}" for name in SIZE})
    rows = rows.merge(images[["ImageId", "height", "width"]], on="ImageId", how="left")
    sizes = Counter(zip(rows["height"], rows["width"], strict=True)).most_common()
    found, counts = [], []
    for row in rows.itertuples():
        where = f"{csv}, line {row.line}, image {row.ImageId}"
        if "stated_width" in rows:
            check_size((row.stated_height, row.stated_width), (row.height, row.width), where)
        elif (row.height, row.width) != sizes[0][0]:
            # A label refers to pixels of the image it was drawn on: on a resized one it would be a different mask.
            raise DataError(f"{where}: the image is {size_text(row.height, row.width)}, the others "
                            f"{size_text(*sizes[0][0])}. Restore its size, or use images/ and masks/ for images "
                            "of several sizes")
        try:
            runs = rle.runs(row.EncodedPixels, row.height * row.width, where)
        except rle.RLEError as error:
            raise DataError(f"{error}. The image is {size_text(row.height, row.width)}") from error
        found.append((row.ImageId, int(row.ClassId), row.EncodedPixels, int(runs[1].sum())))
        counts.append((pieces(*runs, row.height), pieces(*runs, row.width)))
    if not converted:
        refuse_row_major(csv, counts)
    return found


def _parts(file: Path, ids: list[str], notes: list[str]) -> dict[str, str] | None:
    """The split in split.csv, if there is one; adds a note on it."""
    if not file.exists():
        return None
    given = label_tables.read_parts(file)
    if wrong := [i for i in ids if given.get(i) not in ("train", "validation", "test")]:
        raise DataError(f"{file}: {len(wrong)} images without a part, {names(wrong)}; add train, validation or test")
    parts, note = settle_parts({i: given[i] for i in ids})
    notes += [note] * bool(note)
    return parts
