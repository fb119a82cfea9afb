"""The widgets as a reader meets them: in JupyterLab, run from its menu, moved with the mouse.

ipywidgets 8 is what is tested.
"""

import base64
import io
from pathlib import Path

import jupytext
import numpy as np
import pandas as pd
import pytest
from conftest import LEFT, TIMES
from PIL import Image

from steelnb import locate, plots, run_view, tile_view, views
from steelnb.session import REASONS

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
SIGTERM = REASONS[4]
SLOWEST = 2000  # milliseconds from a change to its picture at which a test fails; see `TIMES` for what it takes
NOISE = ()  # parts of errors in the console that are not ours, each with its reason
PICTURE = ".jp-Notebook .widget-image"


def text_of(slug):
    return jupytext.read(next(NOTEBOOKS.glob(f"{slug}_*.py")), fmt="py:percent")


def cell_with(slug, call):
    """The cell of a committed notebook that shows the widget."""
    (source,) = [cell.source for cell in text_of(slug).cells if call in cell.source and cell.cell_type == "code"]
    return source


class Notebook:
    """A notebook in JupyterLab, seen and used through the page."""

    MODEL = "window.jupyterapp.shell.currentWidget.content.model.toJSON().cells.filter(c => c.cell_type == 'code')"
    KERNEL = "window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status"

    def __init__(self, lab, page, name, cells):
        """cells: sources, or a whole notebook."""
        self.page, self.name = page, name
        if isinstance(cells, list):
            kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
            cells = jupytext.reads("".join(f"# %%\n{source}\n\n" for source in cells), fmt="py:percent")
            cells.metadata["kernelspec"] = kernel
        jupytext.write(cells, lab.root / f"{name}.ipynb")
        page.goto(f"{lab.address}/lab/workspaces/{name}/tree/{name}.ipynb?token={lab.token}&reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        page.wait_for_function(f"{self.KERNEL} == 'idle'", timeout=60_000)

    def run_all(self, seconds=60):
        """Run → Run All Cells, until the last cell has run or one has failed."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        over = "cells.every(c => c.execution_count) || cells.some(c => c.outputs.some(o => o.output_type == 'error'))"
        self.page.wait_for_function(
            f"() => {{const cells = {self.MODEL}; return ({over}) && {self.KERNEL} == 'idle'}}", timeout=1000 * seconds
        )
        self.check()

    def show(self, call):
        """Brings the cell with a call into view: cells far away are not in the page."""
        self.page.evaluate("""call => {
            const book = window.jupyterapp.shell.currentWidget.content;
            book.activeCellIndex = book.widgets.findIndex(cell => cell.model.sharedModel.source.includes(call));
            return book.scrollToItem(book.activeCellIndex, "start");
        }""", call)  # fmt: skip
        self.page.wait_for_selector(PICTURE)

    def code(self):
        return self.page.evaluate(self.MODEL)

    def check(self):
        """Every code cell has run, in order, none ended in an error, and the console shows none."""
        cells = self.code()
        errors = [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
        assert not errors, "\n".join(errors[0]["traceback"])
        assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
        assert not [line for line in self.page.said if not any(part in line for part in NOISE)]

    def png(self):
        """The picture that is shown, as the bytes that the browser has."""
        read = """async image => {
            const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
            return btoa(bytes.reduce((text, byte) => text + String.fromCharCode(byte), ""));
        }"""
        return base64.b64decode(self.page.locator(PICTURE).evaluate(read))

    def source(self):
        return self.page.locator(PICTURE).get_attribute("src")

    def screenshot(self, moment):
        self.page.screenshot(path=LEFT / f"{self.name}-{moment}.png")

    def settled(self, quiet=300):
        """Waits until the picture has not changed for `quiet` milliseconds."""
        before = None
        while before != (before := self.source()):
            self.page.wait_for_timeout(quiet)

    def drag(self, share, slider=0):
        """Drags a slider's handle to a share of its bar, over twenty places; how many pictures were seen on the way."""
        handle = self.page.locator(".jp-Notebook .noUi-handle").nth(slider)
        handle.scroll_into_view_if_needed()
        box, bar = handle.bounding_box(), self.page.locator(".jp-Notebook .noUi-base").nth(slider).bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        seen = {self.source()}
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for step in np.linspace(x, bar["x"] + share * bar["width"], 21)[1:]:
            self.page.mouse.move(step, y)
            self.page.wait_for_timeout(20)
            seen.add(self.source())
        self.page.mouse.up()
        self.settled()
        return len(seen | {self.source()}) - 1

    def readout(self, slider=0):
        """The number beside a slider."""
        return float(self.page.locator(".jp-Notebook .widget-readout").nth(slider).inner_text().replace("−", "-"))

    def milliseconds(self, moves=9, slider=0):
        """From a key on the slider's handle to the new picture loaded, in the browser's clock, once a move."""
        handle = self.page.locator(".jp-Notebook .noUi-handle").nth(slider)
        self.page.locator(PICTURE).evaluate("""(image, handle) => {
            window.steelnb = {times: []};
            handle.addEventListener("keydown", () => window.steelnb.began = performance.now(), true);
            image.addEventListener("load", () => window.steelnb.times.push(performance.now() - window.steelnb.began));
        }""", handle.element_handle())  # fmt: skip
        handle.focus()
        for move in range(moves):
            self.page.keyboard.press("ArrowRight" if self.readout(slider) < 0 or move % 2 else "ArrowLeft")
            self.page.wait_for_function(f"window.steelnb.times.length == {move + 1}", timeout=30_000)
        return [round(time) for time in self.page.evaluate("window.steelnb.times")]


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def same_picture(png, figure):
    """Whether what is shown is what the library draws, but for single pixels at edges."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    shown, drawn = pixels(png), pixels(file.getvalue())
    return shown.shape == drawn.shape and (abs(shown - drawn).max(-1) > 40).mean() < 0.002


@pytest.fixture(autouse=True)
def style():
    with plots.plt.rc_context():
        plots.use_style()
        yield
    plots.plt.close("all")


def explore(book, twin, ends=(0.85, 0.2), slider=0):
    """Drags one slider there and back, and compares what is shown with what the library draws for the readouts."""
    before = book.png()
    assert same_picture(before, twin())
    book.screenshot("before")
    frames = [book.drag(end, slider) for end in ends]
    assert min(frames) >= 2, f"{frames} pictures while it was dragged"
    after = book.png()
    assert after != before
    assert pixels(after).shape == pixels(before).shape  # nothing jumps
    assert same_picture(after, twin())
    book.screenshot("after")
    book.check()


def measure(book, name, slider=0):
    TIMES[name] = book.milliseconds(slider=slider)
    assert sorted(TIMES[name])[len(TIMES[name]) // 2] < SLOWEST, TIMES[name]
    book.check()


def test_the_sign_trick_explorer(lab, page):
    imports = "from steelnb import plots, widgets\n\nplots.use_style()"
    book = Notebook(lab, page, "sign_trick", [imports, cell_with("05", "widgets.explore_sign_trick(")])
    book.run_all()
    explore(book, lambda: views.draw_sign_trick(book.readout()))
    measure(book, "sign trick")


STEEL = """import numpy as np
from scipy.ndimage import gaussian_filter
from steelnb import drawing, plots, widgets

plots.use_style()
sample = next(sample for sample in (drawing.draw(seed=1, index=i) for i in range(20)) if sample.masks.any())
shown, images, true_masks = {"median": 0}, [sample.image], [sample.masks.any(0)]
noise = gaussian_filter(np.random.default_rng(0).normal(size=sample.image.shape), 9)
keep = [(0.75 * gaussian_filter(true_masks[0].astype(np.float32), 8) + 2 * abs(noise)).clip(0, 1)[None, None]]"""


def test_the_threshold_explorer(lab, page):
    book = Notebook(lab, page, "threshold", [STEEL, cell_with("08", "widgets.explore_threshold(")])
    book.run_all()
    there = {}
    exec(STEEL, there)
    what = there["images"][0], there["keep"][0][0].max(0), there["true_masks"][0]
    explore(book, lambda: views.draw_threshold(*what, book.readout()))
    measure(book, "threshold")


def test_the_whole_of_notebook_02_and_its_overlap_tile_explorer(lab, page, monkeypatch):
    book = Notebook(lab, page, "02_overlap_tile", text_of("02"))
    book.run_all(seconds=300)
    assert len(book.code()) > 10
    book.show("widgets.explore_overlap_tile(")
    monkeypatch.setenv("STEELNB_HOME", str(lab.home))
    data, there = locate.find(progress=False), {}
    exec(cell_with("02", "def largest_defect(").partition("image_id =")[0], there)
    image = data.image(there["largest_defect"](data))

    def twin():
        column, row, side = (int(book.readout(slider)) for slider in range(3))
        return tile_view.draw_overlap_tile(image, row, column, side)

    for slider in range(3):
        explore(book, twin, slider=slider)
    measure(book, "overlap tile")


TRAINING = """import sys

from steelnb import plots, synthetic, widgets

plots.use_style()
folder = synthetic.write("steel", 12, seed=3, shape=(64, 200), progress=False)
killed = "watched"
command = [sys.executable, "-m", "steelnb", "train", "--data", str(folder), "--run", killed, "--quiet",
           "--set", 'model={"width": 4, "depth": 2}', "--set", "crop=[48, 48]", "--set", "epoch_samples=200",
           "--epochs", "500", "--checkpoint-seconds", "0"]"""


def test_the_monitor_of_a_training_and_its_stop_button(lab, page):
    imports = "import os\nimport subprocess"
    watched = cell_with("07", "widgets.monitor_training(")
    book = Notebook(lab, page, "monitor", [imports, TRAINING, watched, "process.poll()"])
    book.run_all()
    text, stop = page.locator(".jp-Notebook .widget-hbox .widget-label"), page.get_by_role("button", name="Stop")
    for _ in range(2):  # by itself, epoch by epoch
        before = book.source()
        page.wait_for_function(f"document.querySelector('{PICTURE}').src != '{before}'", timeout=60_000)
    assert "of 25,000" in text.inner_text()
    assert "left" in text.inner_text()
    book.screenshot("before")
    stop.click()
    told = f"last session: {SIGTERM}"
    page.wait_for_function("told => document.querySelector('.jp-Notebook .widget-hbox .widget-label')"
                           ".innerText.endsWith(told)", arg=told, timeout=30_000)  # fmt: skip
    assert stop.is_disabled()
    book.screenshot("after")
    run = lab.root / "watched"
    assert pd.read_csv(run / "sessions.csv")["ended"].iloc[-1] == SIGTERM
    assert list((run / "checkpoints").glob("*.pt"))
    assert same_picture(book.png(), run_view.draw_run(run))
    book.check()
    page.locator(".jp-Notebook .jp-CodeCell").last.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    page.wait_for_function(f"{book.MODEL}.at(-1).outputs.length == 1", timeout=30_000)
    assert book.code()[-1]["outputs"][0]["data"]["text/plain"] == "0"
