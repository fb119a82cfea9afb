"""Sets of synthetic steel on disk, in Severstal's own layout.  Taught in 01_data_exploration.

The images are drawn by `synthetic_drawing`; the same seed gives the same set.
"""

import os
from pathlib import Path

import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from steelnb import __version__
from steelnb.data import rle
from steelnb.data.images import SYNTHETIC_MARK
from steelnb.data.synthetic_drawing import CLASSES, COMBINATIONS, Sample, draw

LONGEST_SIDE = 65_500  # of a JPEG that Pillow writes

__all__ = ["CLASSES", "COMBINATIONS", "Sample", "draw", "write_dataset"]


def write_dataset(folder, images: int, *, seed: int = 0, shape: tuple[int, int] = (256, 1600), form: str = "now",
                  test_images: int = 0, progress: bool = True) -> Path:
    """Writes a set in Severstal's layout: `train_images/*.jpg`, `train.csv`, `test_images/*.jpg`. Returns the folder.

    form: of the CSV, "now" (`ImageId,ClassId,EncodedPixels`, defective rows only) or "2019"
    (`ImageId_ClassId,EncodedPixels`, four rows per image). `train.csv` is written last: a folder without it is
    incomplete. Raises ValueError for a folder that contains a set already, fewer than 1 image, and an unknown form.
    """
    folder = Path(folder)
    if images < 1 or test_images < 0:
        raise ValueError(f"cannot write {images} train and {test_images} test images: at least 1 and 0 are needed")
    if max(shape) > LONGEST_SIDE:
        raise ValueError(f"a JPEG has at most {LONGEST_SIDE} pixels per side, not {shape[0]}×{shape[1]}")
    if form not in ("now", "2019"):
        raise ValueError(f'train.csv has no form {form!r}: use "now" or "2019"')
    if held := [*folder.glob("train.csv*"), *folder.glob("t*_images/*")]:
        raise ValueError(f"{folder} already contains {held[0].relative_to(folder)}, and a set is never overwritten: "
                         "choose another folder, or delete this one first")
    draw(seed, 0, shape)  # a bad shape fails here, before anything is written
    rows = []
    for number in tqdm(range(images + test_images), desc="drawing steel", unit="image", disable=not progress):
        name = f"{(number * 0x9E3779B97 + seed * 0x2545F4915 + 0x2CC93B) % 16**9:09x}.jpg"  # odd factor: no name twice
        image, masks = draw(seed, number, shape)
        part = folder / ("train_images" if number < images else "test_images")
        part.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert("RGB").save(part / name, quality=90)
        if number < images:
            rows += [(name, kind, rle.encode(mask)) for kind, mask in zip(CLASSES, masks, strict=True)]
    table = pd.DataFrame(rows, columns=["ImageId", "ClassId", "EncodedPixels"]).sort_values(["ImageId", "ClassId"])
    if form == "now":
        table = table[table.EncodedPixels != ""]
    else:
        table.insert(0, "ImageId_ClassId", table.ImageId + "_" + table.ClassId.astype(str))
        table = table[["ImageId_ClassId", "EncodedPixels"]]
    mark = f"Synthetic steel, made by steelnb {__version__} from seed {seed}: no real image.\n"
    (folder / SYNTHETIC_MARK).write_text(mark)
    table.to_csv(folder / "train.csv.part", index=False)
    os.replace(folder / "train.csv.part", folder / "train.csv")
    return folder
