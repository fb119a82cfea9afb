"""Converts any readable data set to Severstal's layout: train.csv and train_images/, with unchanged image files."""

import csv
import io
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from steelnb.data import dataset, digests
from steelnb.data.dataset import SteelData
from steelnb.data.images import DataError, names
from steelnb.data.labels import LABEL_COLUMNS, SEVERSTAL_CLASSES, SIZE
from steelnb.data.severstal import CLASS_NAMES, PARTS_TABLE


def convert(data: SteelData, out: str | Path) -> SteelData:
    """Writes `data` into the folder `out`, which must not exist yet, and returns it as read back from there.

    Image files are copied unchanged; folders become part of the name (``a/b.jpg`` → ``a__b.jpg``). If images differ in
    size, train.csv also has columns height and width. classes.csv contains the names of classes, split.csv the data
    set's own split, SHA256SUMS the digests of all files. Masks are the same to the pixel, or DataError is raised.
    """
    out = Path(out).expanduser().absolute()
    if out.exists():
        raise DataError(f"{out}: already exists; choose another name")
    renamed = {i: re.sub(r"[/\\:]+", "__", i) for i in data.images["ImageId"]}
    if len({*map(str.lower, renamed.values())}) < len(renamed):
        counted = Counter(map(str.lower, renamed.values()))
        twice = [name for name in renamed.values() if counted[name.lower()] > 1]
        raise DataError(f"{data.name}: several images would be named {names(twice)}; rename them")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=out.parent) as draft:
        made = Path(draft) / "set"
        (made / "train_images").mkdir(parents=True)
        for image_id, path in zip(data.images["ImageId"], data.images["path"], strict=True):
            shutil.copyfile(path, made / "train_images" / renamed[image_id])
        _write_tables(data, made, renamed)
        _check(data, dataset.read_dataset(made), renamed)
        digests.write(made)
        made.rename(out)
    return dataset.read_dataset(out)


def _write_tables(data: SteelData, made: Path, renamed: dict[str, str]) -> None:
    sizes = {entry.ImageId: (entry.height, entry.width) for entry in data.images.itertuples()}
    several = len({*sizes.values()}) > 1
    rows = [(renamed[i], class_id, text, *(sizes[i] * several))
            for i, class_id, text in zip(*(data.rows[c] for c in LABEL_COLUMNS), strict=True)]
    if not rows:  # a table without rows would be refused as damaged; a clean image may have a row
        rows = [(renamed[data.images["ImageId"].iloc[0]], "", "", *(sizes[data.images["ImageId"].iloc[0]] * several))]
    _table(made / "train.csv", (*LABEL_COLUMNS, *(SIZE * several)), rows)
    if data.class_names or data.classes != SEVERSTAL_CLASSES:
        _table(made / CLASS_NAMES, ("ClassId", "name"),
               zip(data.classes, data.class_names or [""] * len(data.classes), strict=True))
    if data.parts:
        _table(made / PARTS_TABLE, ("ImageId", "part"), [(renamed[i], part) for i, part in data.parts.items()])


def _table(path: Path, columns: Sequence[str], rows: Iterable) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    path.write_text(text.getvalue(), encoding="utf-8", newline="")


def _check(data: SteelData, again: SteelData, renamed: dict[str, str]) -> None:
    """Raises DataError unless the data set read back equals the one that was written."""
    images = data.images.assign(ImageId=data.images["ImageId"].map(renamed)).sort_values("ImageId")
    same = replace(data, images=images, rows=data.rows.assign(ImageId=data.rows["ImageId"].map(renamed)))
    parts = data.parts and {renamed[i]: part for i, part in data.parts.items()}
    equal = (again.classes, again.class_names, again.parts) == (data.classes, data.class_names, parts)
    if same.fingerprint() != again.fingerprint() or not equal:
        raise DataError(f"{data.name}: read back from train.csv it is not the same: a file name or a class name may "
                        "begin or end with a space; rename it")
