"""Image and mask files on disk: listing, headers, pixels; files that cannot be right are refused.

Every error is a DataError that names the file. Formats are recognised by content: a PNG with a .jpg name can be read.
"""

import csv
import os
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from steelnb.data import image_tags

LARGEST_CLASS_ID = 32  # above it, values in a mask are more likely gray levels than classes
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")  # those that image_tags knows
PAGED = ("TIFF", "GIF", "PNG", "WEBP")  # formats that hold several pages or an animation
SUFFIXES = (".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LONGEST_CELL = 2**31 - 1  # characters; the csv module's default limit is too small for the text of a noisy mask
SUMS = "SHA256SUMS"  # digests of files, see `digests`
SYNTHETIC_MARK = "SYNTHETIC.txt"  # file in every set made by synthetic.write_dataset


class DataError(ValueError):
    """A data set cannot be used: the message says what is wrong, in which file and row, and what to do."""


def gray(path: Path) -> np.ndarray:
    """An image file's gray values, uint8 [H, W], 0.299 R + 0.587 G + 0.114 B, as a new array."""
    with _loaded(path) as picture:
        return np.array(picture.convert("L"))


def headers(paths: Mapping[str, Path], progress: bool) -> pd.DataFrame:
    """ImageId, path, format, height, width of image files, sorted by ImageId; the pixels are not decoded."""
    entries = []
    for image_id, path in tqdm(sorted(paths.items()), "images", unit="file", disable=not progress):
        with open_image(path) as picture:
            _refuse(path, image_tags.not_as_they_are(path, picture), image_tags.turned(picture))
            entries.append((image_id, path, picture.format, picture.height, picture.width))
    if not entries:
        raise DataError("no image has a label, so there is nothing to read")
    return pd.DataFrame(entries, columns=["ImageId", "path", "format", "height", "width"])


@contextmanager
def _loaded(path: Path, mask: bool = False, exact: bool = True):
    """The file opened and decoded, if its pixels arrive unchanged and upright, and its checksums are right."""
    with open_image(path) as picture:
        _refuse(path, image_tags.not_as_they_are(path, picture, mask), image_tags.turned(picture))
        _refuse(path, image_tags.lossy(path, picture) if mask and exact else "")
        image_tags.verify(path, picture)
        picture.load()
        _refuse(path, image_tags.turned(picture, decoded=True))
        yield picture


def _refuse(path: Path, *problems: str) -> None:
    if problem := next(filter(None, problems), ""):
        raise DataError(f"{path}: {problem}")


@contextmanager
def open_image(path: Path):
    """The file as a Pillow image, its format recognised by content. Errors are DataErrors naming the file."""
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if not path.is_file():  # opening a pipe would block
        raise DataError(f"{path}: a folder or a pipe, not an image file; remove it")
    check_name(path)
    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.format in PAGED and picture.n_frames > 1:
                raise DataError(f"{path}: {picture.n_frames} pages; save the one you need as a separate file")
            yield picture
    except (DataError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path}: {error} Cut the strip into pieces, or, from Python, raise "
                        "PIL.Image.MAX_IMAGE_PIXELS before reading a file that you trust") from error
    except Exception as error:  # for damaged files Pillow raises OSError, SyntaxError, struct.error, zlib.error …
        size = f"{path.stat().st_size} bytes" if path.is_file() else "gone"
        raise DataError(f"{path} ({size}): not a readable image: {error}. Copy it again, or remove it") from error


def check_name(path: Path) -> None:
    """Raises DataError for a file name that cannot be written in a table: not UTF-8, or with a control character."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise DataError(f"{shown}: the name is not UTF-8 and cannot be written in a table; rename the file") from None
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in path.name):
        raise DataError(f"{path.parent / repr(path.name)}: a control character in the name; rename the file")


@contextmanager
def long_cells():
    """Allows the csv module to read cells of any length."""
    limit = csv.field_size_limit(LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder, by their suffix, sorted. Raises DataError if there are none."""
    files = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    if not files:
        others = f"; {_others(folder)}" if _others(folder) else ""
        raise DataError(f"{folder}: no image files ({' '.join(sorted(SUFFIXES))}){others}")
    return sorted(files)


def left_out(*folders: Path) -> list[str]:
    """Notes on the files in each folder that `image_files` and `by_stem` ignore, if any."""
    return [f"left out of {folder.name}/: {others}" for folder in folders if (others := _others(folder))]


def _others(folder: Path) -> str:
    """The contents of a folder other than image files and hidden files, in words."""
    others = [p for p in sorted(folder.iterdir())
              if p.suffix.lower() not in SUFFIXES and not p.name.startswith(".") and p.name != SUMS]
    files, folders = ([p.name for p in others if p.is_dir() == kind] for kind in (False, True))
    found = [f"{len(files)} files without an image suffix, {names(files)}"] * bool(files)
    return "; ".join(found + [f"{len(folders)} folders, {names(folders)}"] * bool(folders))


def by_stem(folder: Path) -> dict[str, Path]:
    """The image files of a folder by `nfc` name without suffix. Raises DataError if two have the same one."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in image_files(folder):
        if (stem := nfc(path.stem)) in found:
            raise DataError(f"{folder}: {found[stem].name} and {path.name} have the same stem; rename or remove one")
        found[stem] = path
    return found


def nfc(name: str) -> str:
    """A name in Unicode form NFC: macOS and some tools write é as e and an accent (NFD), others as one character."""
    return unicodedata.normalize("NFC", name)


def names(items: Iterable, most: int = 3) -> str:
    """The first few items and the number of others, for a message."""
    items = [str(i) for i in dict.fromkeys(items)]
    return ", ".join(items[:most]) + ("" if len(items) <= most else f", … ({len(items) - most} more)")


def size_text(height: int, width: int) -> str:
    """A size as text, such as 256×1600."""
    return f"{height}×{width}"


def mask_values(path: Path, threshold: int | None = None) -> np.ndarray:
    """The values of a mask file, uint8 [H, W]: {0, 255}, or class ids up to LARGEST_CLASS_ID.

    threshold: gray values above it are defect (255), the others background. Without it, other values raise DataError.
    """
    return mask_and_colours(path, threshold)[0]


def mask_and_colours(path: Path, threshold: int | None = None) -> tuple[np.ndarray, dict[int, tuple[int, int, int]]]:
    """`mask_values`, and the colours of the class ids present if the palette is coloured: id → R, G, B."""
    colours = {}
    with _loaded(path, mask=True, exact=threshold is None) as picture:
        values, bands = np.asarray(picture), picture.getbands()
        if picture.mode == "P":  # gray palettes show values, coloured ones class ids (the palette's indices)
            used = np.unique(values)
            palette = np.array(picture.getpalette("RGB")).reshape(-1, 3)[used]
            if (palette == palette[:, :1]).all():
                values = np.asarray(picture.convert("L"))
            elif threshold is not None:
                raise DataError(f"{path}: a coloured palette means class ids, not gray values; leave the threshold out")
            elif len(np.unique(palette, axis=0)) < len(palette):
                raise DataError(f"{path}: two indices of its palette have the same colour, so its classes cannot be "
                                "distinguished; export one colour per index")
            elif used[0] == 0 and palette[0].any():
                raise DataError(f"{path}: index 0 of its palette is not black, so not background; export class ids")
            else:
                colours = dict(zip(used.tolist(), map(tuple, palette.tolist()), strict=True))
    if bands[-1] == "A":
        if (values[..., -1] < 255).any():
            raise DataError(f"{path}: a mask with transparency; export it as gray values without alpha")
        values = values[..., :-1]
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise DataError(f"{path}: a coloured mask; export gray values: 0 and 255, or class ids")
        values = values[..., 0]
    if threshold is not None:
        if values.dtype not in (np.uint8, bool):
            raise DataError(f"{path}: a mask threshold needs 8 bits per pixel; export it with 8 bits")
        values = values * np.uint8(255) if values.dtype == bool else values
        return np.where(values > threshold, 255, 0).astype(np.uint8), colours
    small = values.dtype == np.uint8  # counting is faster than sorting
    found = np.flatnonzero(np.bincount(values.ravel(), minlength=256)) if small else np.unique(values)
    if not {*found.tolist()} <= {0, 255} and not {*found.tolist()} <= {*range(LARGEST_CLASS_ID + 1)}:
        raise DataError(f"{path}: mask values {names(found.tolist(), 8)}; a mask has values 0 and 255, or class ids up "
                        f"to {LARGEST_CLASS_ID} (0: no defect). If these are gray values, as along softened edges, set "
                        "the value above which a pixel is defect: mask_threshold=127 (--mask-threshold 127)")
    return values.astype(np.uint8), colours
