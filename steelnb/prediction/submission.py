"""Masks → a submission in Kaggle's form: written, read back and compared.

Kaggle scores each pair of image and class separately, empty masks included: so every image has four rows, one per
class, with empty text if nothing was found.
"""

import csv
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from steelnb.data import rle
from steelnb.data.images import long_cells, names, size_text
from steelnb.storage import unfinished

SHAPE = (256, 1600)  # size of the images in Kaggle's run-length text
SUBMITTED_CLASSES = (1, 2, 3, 4)
SUBMISSION_COLUMNS = {"2019": ("ImageId_ClassId", "EncodedPixels"), "now": ("ImageId", "EncodedPixels", "ClassId")}


class SubmissionError(ValueError):
    """The masks cannot be submitted to Kaggle, or a file differs from the prediction. The message says why."""


def check_network(classes: Sequence[int | None]) -> None:
    """Raises SubmissionError for a network without one mask for each of Severstal's four classes."""
    if len(classes) == 1:
        raise SubmissionError("this network has one mask for all defects, and Kaggle scores the four classes "
                              "separately: a submission needs a run that was trained with --per-class")
    if tuple(classes) != SUBMITTED_CLASSES:
        raise SubmissionError(f"this network's classes are {names(classes, 8)}; Kaggle's are 1, 2, 3, 4: a submission "
                              "needs a run that was trained on Severstal's labels with --per-class")


def check_sizes(shapes: Mapping[Path, tuple[int, int]]) -> None:
    """Raises SubmissionError for images (path → height and width) that are not 256×1600."""
    if wrong := [f"{path} ({size_text(*shape)})" for path, shape in shapes.items() if tuple(shape) != SHAPE]:
        raise SubmissionError(f"Kaggle's images are {size_text(*SHAPE)}: {names(wrong)} cannot be in a submission")


def check_names(images: Iterable[str], expected: Iterable[str]) -> None:
    """Raises SubmissionError unless `images` are exactly the expected ones."""
    images, expected = set(images), set(expected)
    if missing := sorted(expected - images):
        raise SubmissionError(f"the sample submission lists images that are missing here: {names(missing)}")
    if extra := sorted(images - expected):
        raise SubmissionError(f"images that the sample submission does not list: {names(extra)}; leave them out")


def read_sample(path: str | Path) -> tuple[tuple[str, ...], list[str]]:
    """The columns of a sample submission, in its order, and its images. Raises SubmissionError for any other file."""
    columns, found = _read(Path(path))
    images = list(dict.fromkeys(row[0] for row in found))
    if not images:
        raise SubmissionError(f"{path}: a sample submission without a row")
    return columns, images


def write_submission(
    path: str | Path, rows: Iterable[tuple[str, int, str]], columns: str | Sequence[str],
    digests: Mapping[tuple[str, int], bytes],
) -> None:
    """Writes rows of image, class and run-length text; `path` appears only after the file was read back and checked.

    columns: "2019", "now", or those of `read_sample`. digests: see `check_submission`, whose errors are raised.
    """
    path = Path(path)
    columns = SUBMISSION_COLUMNS[columns] if isinstance(columns, str) else tuple(columns)
    with unfinished(path) as (part,):
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for image, class_id, text in rows:
                cells = {"ImageId_ClassId": f"{image}_{class_id}", "ImageId": image, "ClassId": class_id}
                writer.writerow([text if name == "EncodedPixels" else cells[name] for name in columns])
        check_submission(part, digests)


def check_submission(path: str | Path, digests: Mapping[tuple[str, int], bytes]) -> None:
    """Reads a submission back. Raises SubmissionError unless it contains exactly the prediction.

    digests: `mask_digest` of the mask of each (image, class). Each pair has one row, all four classes of an image are
    there, and each text decodes to a mask of 256×1600 with that digest.
    """
    path = Path(path)
    seen = set()
    for image, class_id, text in _read(path)[1]:
        row = f"{path}, image {image}, class {class_id}"
        if (image, class_id) not in digests:
            raise SubmissionError(f"{row}: not in the prediction")
        if (image, class_id) in seen:
            raise SubmissionError(f"{row}: listed twice")
        if mask_digest(rle.decode(text, SHAPE, row)) != digests[image, class_id]:
            raise SubmissionError(f"{row}: differs from the predicted mask")
        seen.add((image, class_id))
    images = dict.fromkeys(image for image, _ in digests)
    if lacking := [f"{image}, class {k}" for image in images for k in SUBMITTED_CLASSES if (image, k) not in seen]:
        raise SubmissionError(f"{path}: no row for {names(lacking)}")


def mask_digest(mask: np.ndarray) -> bytes:
    """SHA-256 of a mask, bool [H, W], and its shape."""
    return hashlib.sha256(repr(mask.shape).encode() + np.packbits(mask).tobytes()).digest()


def rows_of(table: Path) -> Iterable[tuple[str, int, str]]:
    """Image, class and text of each row of a `predictions.csv` of several classes."""
    with long_cells(), table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield row["ImageId"], int(row["ClassId"]), row["EncodedPixels"]


def _read(path: Path) -> tuple[tuple[str, ...], Iterable[tuple[str, int, str]]]:
    """The columns, and a generator of the rows."""
    rows = _rows(path)
    return next(rows), rows


def _rows(path: Path):
    try:
        with path.open(newline="", encoding="utf-8-sig") as file, long_cells():
            yield from _checked_rows(path, csv.reader(file))
    except OSError as error:
        raise SubmissionError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SubmissionError(f"{path}: not a readable table ({error})") from error


def _checked_rows(path: Path, reader: Iterator[list[str]]):
    columns = tuple(next(reader, ()))
    if sorted(columns) not in map(sorted, SUBMISSION_COLUMNS.values()):
        forms = " or ".join(",".join(form) for form in SUBMISSION_COLUMNS.values())
        raise SubmissionError(f"{path}: the columns are {','.join(columns)[:80]!r}; a submission's are {forms}")
    yield columns
    for number, cells in enumerate(reader, 2):
        row = dict(zip(columns, cells, strict=False))
        image, _, class_id = row.get("ImageId_ClassId", "").rpartition("_")
        image, class_id = row.get("ImageId", image), row.get("ClassId", class_id)
        if len(cells) != len(columns) or not image:
            raise SubmissionError(f"{path}, line {number}: not {','.join(columns)}: {','.join(cells)[:80]!r}")
        yield image, int(class_id) if class_id.isdecimal() else 0, row["EncodedPixels"]
