"""The notebooks run on a reader's own images: few, small, portrait, of several sizes, all defective, of two classes.

01 always; every other notebook that opens the reader's data with STEELNB_EVERY_NOTEBOOK=1, which takes minutes each.
"""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from book import fresh
from notebooks import environment, execute
from steelnb.data import synthetic_drawing

BOOKS = Path(__file__).resolve().parents[2] / "notebooks"
OPENS = re.compile(r"open_dataset\((?!\"synthetic\")")
OWN = sorted(path.stem for path in BOOKS.glob("*.py") if OPENS.search(path.read_text(encoding="utf-8")))
ALWAYS = ("01_data_exploration",)
SETS = {  # images, their sizes in turn, every which is clean, classes
    "three images": (3, [(96, 128)], 3, 1),
    "small and all defective": (6, [(96, 96)], None, 1),
    "portrait": (8, [(300, 200)], 3, 1),
    "five sizes": (10, [(96, 128), (128, 96), (64, 200), (150, 150), (97, 131)], 3, 1),
    "two classes": (12, [(96, 160)], 3, 2),
}


def write(folder, count, shapes, every, classes):
    """Images and masks in `folder`, drawn until as many as wanted are clean and defective."""
    for part in ("images", "masks"):
        (folder / part).mkdir()
    drawn = 0
    for seed in range(10_000):
        image, masks = synthetic_drawing.draw(7, seed, shapes[drawn % len(shapes)])
        defect = masks.any(0)
        if defect.any() == bool(every and drawn % every == every - 1):
            continue
        mask = defect * np.uint8(255 if classes == 1 else 1 + drawn % classes)
        Image.fromarray(image).save(folder / "images" / f"{drawn}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{drawn}.png")
        drawn += 1
        if drawn == count:
            return folder
    raise AssertionError("too few drawings of the kind wanted")


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("name", OWN)
def test_a_notebook_runs_on_ones_own_data(tmp_path, name, kind):
    if name not in ALWAYS and not os.environ.get("STEELNB_EVERY_NOTEBOOK"):
        pytest.skip("minutes each: set STEELNB_EVERY_NOTEBOOK=1")
    (folder := tmp_path / "steel").mkdir()
    data = write(folder, *SETS[kind])
    home = str(tmp_path / "home")
    env = environment(home, STEELNB_PROFILE="smoke", STEELNB_HOME=home, STEELNB_DATA=str(data), OMP_NUM_THREADS="1")
    book = fresh(BOOKS / f"{name}.py")
    assert execute(book, BOOKS, env) == ""
    printed = "".join(out.get("text", "") for cell in book.cells for out in cell.get("outputs", ()))
    assert f"{SETS[kind][0]} images" in printed  # it was this set
