"""Checks of single files and masks: file types, masks out of range, unusual masks."""

import csv
import math
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from steelnb.audit.duplicates import DARK, Pair
from steelnb.data import rle
from steelnb.data.dataset import DataError, SteelData
from steelnb.data.images import long_cells, names, open_image, size_text

TINY = 16  # defect pixels in an image; the smallest of 4,130 real Severstal masks has 115
WHOLE_IMAGE_SHARE = 0.95  # share of an image; the largest of these masks covers 0.90
OVERLAP = 0.1  # share of the smaller of two classes' masks; none of these masks overlap
OUTLIER = 4.0  # robust standard deviations of log area; none of these masks is beyond 3.7 of its class's median


class Finding(NamedTuple):
    """One finding. severity: "error" (unusable), "warning" (spoils training or scores), "note" (worth knowing).

    text: the problem and its remedy. pair: the two images, for findings about duplicates.
    """

    kind: str
    severity: str
    images: tuple[str, ...]
    text: str
    pair: Pair | None = None


def bad_rows(folder: Path) -> Iterator[Finding]:
    """Every row of a Severstal train.csv, in `folder` or one level below, whose text is not a mask of its image."""
    tables = (p for p in (folder / "train.csv", *sorted(folder.glob("*/train.csv"))) if p.is_file())
    if (table := next(tables, None)) is None:
        return
    try:
        with long_cells():
            lines = list(csv.DictReader(table.read_text("utf-8-sig").splitlines()))
    except (ValueError, OSError, csv.Error):
        return  # the error of `dataset.read_dataset` covers this
    sizes: dict[str, tuple[int, int]] = {}
    for number, line in enumerate(lines, 2):
        image_id = line.get("ImageId") or (line.get("ImageId_ClassId") or "").rpartition("_")[0]
        path = table.parent / "train_images" / Path(image_id).name
        if not image_id or not line.get("EncodedPixels") or not path.is_file():
            continue
        try:
            if image_id not in sizes:
                with open_image(path) as picture:
                    sizes[image_id] = picture.height, picture.width
            rle.runs(line["EncodedPixels"].strip(), math.prod(sizes[image_id]), f"line {number}, image {image_id}")
        except (rle.RLEError, DataError) as error:
            shape = f" The image is {size_text(*sizes[image_id])}." if image_id in sizes else ""
            text = f"train.csv, {error}.{shape} Fix the row, or remove it"
            yield Finding("out of range", "error", (image_id,), text)


def files(data: SteelData) -> Iterator[Finding]:
    """Warnings from reading, files whose type differs from their suffix, and images of an unusual size."""
    images = data.images
    for note in data.notes:
        if note.startswith("warning: "):
            yield Finding("labels", "warning", (), note.removeprefix("warning: "))
    posing = [i for i, kind in zip(images["ImageId"], images["format"], strict=True)
              if kind == "PNG" and i.lower().endswith((".jpg", ".jpeg"))]
    if posing:
        text = (f"{len(posing)} PNG files under a .jpg name ({names(posing)}): read by their content here, but other "
                "programs may fail; rename or convert them")
        yield Finding("file type", "note", tuple(posing), text)
    sizes = sorted(images.groupby(["height", "width"])["ImageId"].agg(tuple).items(), key=lambda item: -len(item[1]))
    odd = tuple(i for _, ids in sizes[1:] for i in ids)
    if odd and len(odd) < len(images) / 2:  # else no size is the usual one
        text = (f"{len(odd)} images are not {size_text(*sizes[0][0])}, the most frequent size ({names(odd)}): check "
                "that none was resized after it was labelled")
        yield Finding("sizes", "note", odd, text)


def masks(data: SteelData, image_id: str, image: np.ndarray) -> Iterator[Finding]:
    """Findings about the masks of one image, uint8 [H, W]."""

    def warning(kind: str, text: str) -> Finding:
        return Finding(kind, "warning", (image_id,), f"{image_id}: {text}")

    each = data.masks(image_id)
    union = each.any(0)
    area = int(union.sum())
    if not area:
        return
    if area < TINY:
        yield warning("tiny mask", f"{area} defect pixels in total; complete the label, or remove it")
    if area > WHOLE_IMAGE_SHARE * union.size:
        yield warning("whole image", f"{area / union.size:.0%} of it is labelled as defect; check that the mask "
                      "is not inverted")
    # A patch of steel may be as black as the background beside the strip: only whole dark columns or rows count.
    lit = image >= DARK
    unlit = (lit.mean(0) < 0.02) | (lit.mean(1) < 0.02)[:, None]  # 2 %, because strips can be narrow
    if (off := float(unlit[union].mean())) > 0.5:
        yield warning("off the steel", f"{off:.0%} of the defect lies where there is no steel (whole columns or rows "
                      f"below gray {DARK}); check that the mask belongs to this image")
    shown = [(class_id, mask, mask.sum()) for class_id, mask in zip(data.classes, each, strict=True) if mask.any()]
    for (one, a, size_a), (other, b, size_b) in combinations(shown, 2):
        if (share := (a & b).sum() / min(size_a, size_b)) > OVERLAP:
            both = f"{data.class_name(one)} and {data.class_name(other)}"
            yield warning("classes overlap", f"{both} share {share:.0%} of the smaller mask; choose one of them there")


def odd_areas(data: SteelData) -> Iterator[Finding]:
    """Masks much smaller or larger than others of their class: beyond OUTLIER times 1.4826 MAD of the log area; for
    classes with at least 20 masks."""
    for class_id, rows in data.rows.groupby("ClassId"):
        sizes = np.log(rows["area"].to_numpy(float))
        away = sizes - np.median(sizes)
        spread = 1.4826 * np.median(abs(away))
        if len(rows) < 20 or not spread:
            continue
        for k in np.flatnonzero(abs(away) > OUTLIER * spread):
            image_id, area = rows["ImageId"].iloc[k], rows["area"].iloc[k]
            factor = f"{math.exp(abs(away[k])):.0f} times {'more' if away[k] > 0 else 'less'}"
            text = (f"{image_id}: {area} pixels of {data.class_name(class_id)}, {factor} than the class's median; "
                    "check that it is intended")
            yield Finding("odd area", "note", (image_id,), text)
