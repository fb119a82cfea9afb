"""What an audit says of each file and each mask by itself: files as they are, masks out of range, odd masks."""

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

TINY = 16  # pixels of defect in an image; the smallest of 4,130 real Severstal masks has 115
WHOLE_IMAGE_SHARE = 0.95  # share of an image; the largest of them covers 0.90
OVERLAP = 0.1  # share of the smaller of two classes' masks; none of them overlap
OUTLIER = 4.0  # robust standard deviations of log area; none of them is further than 3.7 from its class's median


class Finding(NamedTuple):
    """One thing to look at. severity: "error" (unusable), "warning" (spoils training or score), "note" (good to know).

    text: what it is and what to do. pair: the two images, where it is about duplicates.
    """

    kind: str
    severity: str
    images: tuple[str, ...]
    text: str
    pair: Pair | None = None


def bad_rows(folder: Path) -> Iterator[Finding]:
    """Every row of a Severstal train.csv, in `folder` or one level down, whose text cannot be a mask of its image."""
    tables = (p for p in (folder / "train.csv", *sorted(folder.glob("*/train.csv"))) if p.is_file())
    if (table := next(tables, None)) is None:
        return
    try:
        with long_cells():
            lines = list(csv.DictReader(table.read_text("utf-8-sig").splitlines()))
    except (ValueError, OSError, csv.Error):
        return  # what `dataset.read_dataset` says of it is all that can be said
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
            told = f"train.csv, {error}.{shape} Fix the row, or remove it"
            yield Finding("out of range", "error", (image_id,), told)


def files(data: SteelData) -> Iterator[Finding]:
    """What reading warned of, files that are not what their name says, and images of another size than most."""
    images = data.images
    for note in data.notes:
        if note.startswith("warning: "):
            yield Finding("labels", "warning", (), note.removeprefix("warning: "))
    posing = [i for i, kind in zip(images["ImageId"], images["format"], strict=True)
              if kind == "PNG" and i.lower().endswith((".jpg", ".jpeg"))]
    if posing:
        text = (f"{len(posing)} PNG files under a .jpg name ({names(posing)}): read by their content here, but other "
                "programs may stumble; rename or convert them")
        yield Finding("file type", "note", tuple(posing), text)
    sizes = sorted(images.groupby(["height", "width"])["ImageId"].agg(tuple).items(), key=lambda item: -len(item[1]))
    odd = tuple(i for _, ids in sizes[1:] for i in ids)
    if odd and len(odd) < len(images) / 2:  # else no size is the usual one
        text = (f"{len(odd)} images are not {size_text(*sizes[0][0])}, the most frequent size ({names(odd)}): make "
                "sure that none was resized after it was labelled")
        yield Finding("sizes", "note", odd, text)


def masks(data: SteelData, image_id: str, image: np.ndarray) -> Iterator[Finding]:
    """What is odd in the masks of one image, uint8 [H, W]."""

    def warning(kind: str, text: str) -> Finding:
        return Finding(kind, "warning", (image_id,), f"{image_id}: {text}")

    each = data.masks(image_id)
    union = each.any(0)
    area = int(union.sum())
    if not area:
        return
    if area < TINY:
        yield warning("tiny mask", f"{area} pixels of defect in all; complete the label, or remove it")
    if area > WHOLE_IMAGE_SHARE * union.size:
        yield warning("whole image", f"{area / union.size:.0%} of it is labelled as defect; make sure that the mask "
                      "is not inverted")
    # A patch may be as black as what lies beside the strip: only whole columns and rows without light are no steel.
    lit = image >= DARK
    unlit = (lit.mean(0) < 0.02) | (lit.mean(1) < 0.02)[:, None]  # a strip may be as narrow as that
    if (off := float(unlit[union].mean())) > 0.5:
        yield warning("off the steel", f"{off:.0%} of the defect lies where there is no steel (whole columns or rows "
                      f"below gray {DARK}); make sure that the mask belongs to this image")
    shown = [(class_id, mask, mask.sum()) for class_id, mask in zip(data.classes, each, strict=True) if mask.any()]
    for (one, a, size_a), (other, b, size_b) in combinations(shown, 2):
        if (share := (a & b).sum() / min(size_a, size_b)) > OVERLAP:
            both = f"{data.class_name(one)} and {data.class_name(other)}"
            yield warning("classes overlap", f"{both} share {share:.0%} of the smaller mask; decide for one of them "
                          "there")


def odd_areas(data: SteelData) -> Iterator[Finding]:
    """Masks far smaller or larger than their class's: OUTLIER times 1.4826 MAD of the log area; from 20 masks on."""
    for class_id, rows in data.rows.groupby("ClassId"):
        sizes = np.log(rows["area"].to_numpy(float))
        away = sizes - np.median(sizes)
        spread = 1.4826 * np.median(abs(away))
        if len(rows) < 20 or not spread:
            continue
        for k in np.flatnonzero(abs(away) > OUTLIER * spread):
            image_id, area = rows["ImageId"].iloc[k], rows["area"].iloc[k]
            factor = f"{math.exp(abs(away[k])):.0f} times {'more' if away[k] > 0 else 'less'}"
            text = (f"{image_id}: {area} pixels of {data.class_name(class_id)}, {factor} than the class's median; make "
                    "sure that it is meant")
            yield Finding("odd area", "note", (image_id,), text)
