"""The widgets as a reader meets them: run from the menu, moved with the mouse, pressed.

What is shown is compared with what the library draws for the numbers beside the sliders. The notebooks are small ones
around the committed cell that shows the widget, and the whole of 02_overlap_tile.
"""

import io
from pathlib import Path

import front
import jupytext
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from steelnb.data import sources
from steelnb.figures import plots, run_progress, tile_window
from steelnb.figures.sign_trick import draw_sign_trick
from steelnb.figures.threshold import draw_threshold
from steelnb.runs.session import REASONS

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
SLOWEST = 2000  # milliseconds from a change to its picture at which a test fails; a tenth of that is usual
SIGTERM = REASONS[4]


@pytest.fixture(autouse=True)
def style():
    with plots.plt.rc_context():
        plots.use_style()
        yield
    plots.plt.close("all")


def text_of(slug):
    return jupytext.read(next(NOTEBOOKS.glob(f"{slug}_*.py")), fmt="py:percent")


def cell_with(slug, call):
    """The cell of a committed notebook that holds a call."""
    (source,) = [cell.source for cell in text_of(slug).cells if call in cell.source and cell.cell_type == "code"]
    return source


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def same_picture(book, figure):
    """Whether what is shown is what the library draws, but for single pixels at edges.

    Colab's matplotlib sets other letters than the one here, so there only the size is compared; that the widget shows
    what its twin draws is tested without a browser by `make test-colab`, too.
    """
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    shown, drawn = pixels(book.png()), pixels(file.getvalue())
    alike = shown.shape == drawn.shape
    return alike and (isinstance(book.front, front.Colab) or (abs(shown - drawn).max(-1) > 40).mean() < 0.002)


def explore(book, twin, slider=0):
    """Drags one slider there and back; `twin` draws what has to be shown at the sliders' numbers."""
    assert same_picture(book, twin())
    assert book.stretched() == 1
    book.screenshot("before")
    for end in (0.85, 0.2):
        value, shown = book.readout(slider), book.png()
        assert book.drag(end, slider) >= 2, "one picture at the end, none on the way"
        assert book.readout(slider) != value
        assert book.png() != shown
        assert same_picture(book, twin())
    book.screenshot("after")
    book.check()


def measure(book, times, widget, slider=0):
    times[f"{widget}, {book.front.NAME}"] = taken = book.milliseconds(slider)
    assert sorted(taken)[len(taken) // 2] < SLOWEST, taken
    book.check()


def test_the_sign_trick_explorer(either, page, times):
    imports = "from steelnb.figures import plots, widgets\n\nplots.use_style()"
    book = either.open(page, "sign_trick", [imports, cell_with("06", "widgets.explore_sign_trick(")])
    book.run_all()
    explore(book, lambda: draw_sign_trick(book.readout()))
    measure(book, times, "sign trick")


STEEL = """import numpy as np
from scipy.ndimage import gaussian_filter

from steelnb.data import synthetic_drawing
from steelnb.figures import plots, widgets

plots.use_style()
sample = next(sample for sample in (synthetic_drawing.draw(seed=1, index=i) for i in range(20)) if sample.masks.any())
shown, images, true_masks = {"median": 0}, [sample.image], [sample.masks.any(0)]
noise = gaussian_filter(np.random.default_rng(0).normal(size=sample.image.shape), 9)
found = 0.75 * gaussian_filter(true_masks[0].astype(np.float32), 8) + 2 * abs(noise)
keep = [found.clip(0, 1)[None, None]]"""


def test_the_threshold_explorer(either, page, times):
    book = either.open(page, "threshold", [STEEL, cell_with("10", "widgets.explore_threshold(")])
    book.run_all()
    exec(STEEL, there := {})
    image, probability, mask = there["images"][0], there["keep"][0][0].max(0), there["true_masks"][0]
    explore(book, lambda: draw_threshold(image, probability, mask, book.readout()))
    measure(book, times, "threshold")


def overlap_tile(book, data):
    """What the overlap-tile explorer of notebook 02 has to show."""
    cell, there = cell_with("02", "widgets.explore_overlap_tile("), {}
    exec(cell.partition("image_id =")[0], there)
    image = data.image(there["largest_defect"](data))

    def twin():
        column, row, side = (int(book.readout(slider)) for slider in range(3))
        return tile_window.draw_overlap_tile(image, row, column, side)

    return twin


def test_the_overlap_tile_explorer(either, page, times, monkeypatch):
    some = ("from steelnb.data import sources\nfrom steelnb.figures import plots, tile_window, widgets\n\n"
            "plots.use_style()\ndata = sources.open_dataset(images=6)")
    book = either.open(page, "overlap_tile", [some, cell_with("02", "widgets.explore_overlap_tile(")])
    book.run_all()
    monkeypatch.setenv("STEELNB_HOME", str(either.home))
    twin = overlap_tile(book, sources.open_dataset(images=6, progress=False))
    for slider in range(3):
        explore(book, twin, slider)
    measure(book, times, "overlap tile")


def test_the_whole_of_notebook_02(lab, page, monkeypatch):
    book = lab.open(page, "02_overlap_tile", text_of("02"))
    book.run_all(seconds=300)
    assert len(book.code()) > 10
    book.show("widgets.explore_overlap_tile(")
    monkeypatch.setenv("STEELNB_HOME", str(lab.home))
    explore(book, overlap_tile(book, sources.open_dataset(progress=False)))


TRAINING = """import os
import subprocess
import sys

from steelnb.data import synthetic
from steelnb.figures import plots, widgets

plots.use_style()
folder, killed = synthetic.write_dataset("steel", 12, seed=3, shape=(64, 200), progress=False), "watched"
command = [sys.executable, "-m", "steelnb", "train", "--data", str(folder), "--run", killed, "--quiet",
           "--recipe", "smoke",
           "--set", 'model={"width": 4, "depth": 2}', "--set", "crop=[48, 48]", "--set", "epoch_samples=100",
           "--epochs", "200", "--checkpoint-seconds", "0"]"""


def test_the_monitor_of_a_training_and_its_stop_button(either, page):
    watched, run = cell_with("09", "widgets.monitor_training("), either.root / "watched"
    book = either.open(page, "monitor", [TRAINING, watched, "process.poll()"])
    book.run_all()
    for _ in range(2):  # by itself, from epoch to epoch
        book.wait_for_another()
    assert "of 5,000" in book.label.inner_text()
    assert " left" in book.label.inner_text()
    assert book.stretched() == 1
    book.screenshot("before")
    stop = page.locator(f"{either.BOOK} .widget-button")
    stop.click()
    page.wait_for_function("([label, end]) => label.innerText.endsWith(end)", timeout=30_000,
                           arg=[book.label.element_handle(), f"last session: {SIGTERM}"])
    assert stop.is_disabled()
    book.screenshot("after")
    book.check()
    assert pd.read_csv(run / "sessions.csv")["ended"].iloc[-1] == SIGTERM
    assert same_picture(book, run_progress.draw_run(run))
    assert not book.code()[-1]["outputs"]  # while it trained: None
    book.run_last()
    page.wait_for_function(f"{book.cells}.at(-1).outputs.length == 1", timeout=30_000)
    assert book.code()[-1]["outputs"][0]["data"]["text/plain"] == "3"  # in good order
