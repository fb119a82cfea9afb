"""A trained network → masks of image files: mask PNG, overlay PNG, run-length CSV.  Taught in 00_start_here."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from steelnb import rle, runtime
from steelnb.files import DataError, gray, image_files
from steelnb.overlap_tile import predict_tiles
from steelnb.plots import overlay
from steelnb.weights import Trained


class PredictError(ValueError):
    """Images that cannot be segmented, or masks that would overwrite a file. The message names it."""


class Outcome(NamedTuple):
    """What `predict_files` did: written file stems with their share of defect pixels, and what failed, by path."""

    written: dict[str, float]
    failed: dict[Path, str]


def segment(trained: Trained, image: np.ndarray, tile: int | tuple[int, int] | None = None) -> np.ndarray:
    """Masks, bool [K, H, W], of a gray image, uint8 [H, W], at p > 0.5; the network's memory grows with the tile."""
    masks = np.zeros((trained.model.config["out_channels"], *image.shape), bool)
    with runtime.autocast(next(trained.model.parameters()).device):
        for place, logits in predict_tiles(trained.model, image, tile):
            masks[:, *place.region] = logits > 0
    return masks


def predict_files(
    trained: Trained, paths: Iterable[str | Path], out: str | Path, *, tile: int | tuple[int, int] | None = None,
    progress: bool = False,
) -> Outcome:  # fmt: skip
    """Segments image files, and folders of them, into the folder `out`.

    Leaves `NAME_mask.png` (0/255; one `NAME_class1_mask.png` … a class for a network with a mask a class),
    `NAME_overlay.png`, and `predictions.csv`: ImageId, EncodedPixels, and ClassId for a network with a mask a class.
    A file that cannot be read is reported and the rest go on. Nothing is overwritten: PredictError is raised where a
    file that would be written exists, where two images have one stem, and where no image is found.
    """
    images, out = list(_expand(paths)), Path(out)
    if not images:
        raise PredictError("no image files to segment: name files or folders")
    stems = [path.stem for path in images]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise PredictError(f"several images are called {twice[0]!r}: their masks would overwrite each other")
    table, outputs = out / "predictions.csv", trained.model.config["out_channels"]
    per_class = outputs > 1
    classes = trained.about.get("data", {}).get("classes", ()) if per_class else (None,)
    classes = classes if len(classes) == outputs else range(1, outputs + 1)
    suffixes = ["_overlay", *(f"_class{class_id}_mask" if per_class else "_mask" for class_id in classes)]
    targets = [table, *(out / f"{stem}{suffix}.png" for stem in stems for suffix in suffixes)]
    if there := next((target for target in targets if target.exists()), None):
        raise PredictError(f"{there} is there already and would be overwritten: name another folder for the masks")
    out.mkdir(parents=True, exist_ok=True)
    written, failed, rows = {}, {}, []
    for path in tqdm(images, desc="predict", unit="image", disable=not progress):
        try:
            image = gray(path)
        except DataError as error:
            failed[path] = str(error)
            continue
        masks = segment(trained, image, tile)
        for class_id, suffix, mask in zip(classes, suffixes[1:], masks, strict=True):
            Image.fromarray(mask.astype(np.uint8) * 255).save(out / f"{path.stem}{suffix}.png")
            rows.append([path.name, *([class_id] if per_class else []), rle.encode(mask)])
        Image.fromarray(overlay(image, masks)).save(out / f"{path.stem}_overlay.png")
        written[path.stem] = float(masks.any(0).mean())
    if not written:
        return Outcome(written, failed)
    unfinished = table.with_suffix(".part")
    with unfinished.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageId", *(["ClassId"] if per_class else []), "EncodedPixels"])
        writer.writerows(rows)
    unfinished.replace(table)
    return Outcome(written, failed)


def _expand(paths: Iterable[str | Path]) -> Iterable[Path]:
    for path in map(Path, paths):
        if path.is_dir():
            yield from image_files(path)
        else:
            yield path
