"""Two front ends with folders of their own, and a notebook in each, used through a page as a reader would.

`JupyterLab` is that of this environment, with ipywidgets 8. `Colab` is the nearest to Google Colab that runs elsewhere:
its ipywidgets 7.7 brings the classic Notebook 6.5 along into .venv-colab (`make test-colab` makes that), whose sliders
are other ones. JupyterLab 4 has no front end for ipywidgets 7.7.
"""

import base64
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import jupytext
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
LEFT = ROOT / "build" / "browser"
NAMES = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser")
COLAB = ROOT / ".venv-colab" / "bin" / "python"
NOISE = ()  # parts of errors in the console that are not ours, each with its reason
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
FOLDERS = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
           "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR", "MPLCONFIGDIR")


def chromium():
    """The browser's path, or None: `STEELNB_CHROMIUM`, else the first on the PATH that tells its version.

    Ubuntu's chromium-browser may be a stub that only names the snap to install.
    """
    if chosen := os.environ.get("STEELNB_CHROMIUM"):
        return chosen
    for path in filter(None, map(shutil.which, NAMES)):
        if subprocess.run([path, "--version"], capture_output=True).returncode == 0:
            return path
    return None


def errors(page):
    """What a page's console has told as an error, but for `NOISE`."""
    return [line for line in page.said if not any(part in line for part in NOISE)]


class Server:
    """A server that knows nothing of the reader's settings, kernels and caches."""

    def __init__(self, folder):
        self.root, self.home, self.token = folder / "notebooks", folder / "home", secrets.token_hex(16)
        self.root.mkdir()
        places = {name: folder / name.lower() for name in FOLDERS}
        for place in places.values():
            place.mkdir()
        self.prepare(places)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "STEELNB", "IPYTHON"))}
        environment |= {name: str(place) for name, place in places.items()}
        environment |= {"STEELNB_PROFILE": "smoke", "STEELNB_HOME": str(self.home), "CUDA_VISIBLE_DEVICES": "",
                        "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.log = folder / "server.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(self.command(), cwd=self.root, env=environment, stdout=log, stderr=log)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def prepare(self, places):
        """What has to lie in the folders before it starts."""

    def _wait(self, seconds=90):
        end = time.monotonic() + seconds
        while True:
            try:
                return urllib.request.urlopen(f"{self.address}/api/status?token={self.token}", timeout=5).close()
            except (urllib.error.URLError, OSError):
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < end, f"no answer for {seconds} s:\n{self.log.read_text()}"
                time.sleep(0.1)

    def close(self):
        """Ends the server; on SIGTERM it shuts its kernels down first."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def open(self, page, name, cells):
        """A notebook with these sources as its cells, or a whole one, opened in the page."""
        if isinstance(cells, list):
            cells = jupytext.reads("".join(f"# %%\n{source}\n\n" for source in cells), fmt="py:percent")
            cells.metadata["kernelspec"] = KERNEL
        jupytext.write(cells, self.root / f"{name}.ipynb")
        page.goto(f"{self.address}/{self.PATH.format(name=name)}?token={self.token}")
        page.wait_for_function(self.IDLE, timeout=60_000)
        return Notebook(self, page, name)


class JupyterLab(Server):
    NAME = "JupyterLab"
    PATH = "lab/workspaces/{name}/tree/{name}.ipynb"
    BOOK, HANDLE, BAR = ".jp-Notebook", ".noUi-handle", ".noUi-base"
    IDLE = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'"
    CELLS = "window.jupyterapp.shell.currentWidget.content.model.toJSON().cells"
    LAST_CELL = ".jp-Notebook .jp-CodeCell >> nth=-1 >> .cm-content"
    SHOW = """call => {
        const book = window.jupyterapp.shell.currentWidget.content;
        book.activeCellIndex = book.widgets.findIndex(cell => cell.model.sharedModel.source.includes(call));
        return book.scrollToItem(book.activeCellIndex, "start");
    }"""

    def prepare(self, places):
        asks = places["JUPYTERLAB_SETTINGS_DIR"] / "@jupyterlab" / "apputils-extension"
        asks.mkdir(parents=True)  # else a note asks on the first start whether news may be fetched
        (asks / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')

    def command(self):
        return [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser",
                "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0",
                f"--ServerApp.root_dir={self.root}", f"--IdentityProvider.token={self.token}",
                "--LabApp.extension_manager=readonly"]

    def run_all(self, page):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


class Colab(Server):
    NAME = "Colab's ipywidgets 7.7"
    PATH = "notebooks/{name}.ipynb"
    BOOK, HANDLE, BAR = "#notebook-container", ".ui-slider-handle", ".ui-slider"
    IDLE = "window.Jupyter?.notebook?.kernel?.is_connected() && !window.Jupyter.notebook.kernel_busy"
    CELLS = "window.Jupyter.notebook.toJSON().cells"
    LAST_CELL = "#notebook-container .code_cell >> nth=-1 >> .CodeMirror"
    SHOW = "call => [...document.querySelectorAll('.code_cell')].find(c => c.innerText.includes(call)).scrollIntoView()"

    def command(self):
        return [COLAB, "-m", "notebook", "--no-browser", "--allow-root", "--NotebookApp.ip=127.0.0.1",
                f"--NotebookApp.port={self.port}", "--NotebookApp.port_retries=0",
                f"--NotebookApp.token={self.token}", f"--NotebookApp.notebook_dir={self.root}"]

    def run_all(self, page):
        page.click("#celllink")
        page.click("#run_all_cells")


class Notebook:
    """A notebook in a page, and its widget's picture and sliders."""

    def __init__(self, front, page, name):
        self.front, self.page, self.name = front, page, name
        self.cells = f"{front.CELLS}.filter(cell => cell.cell_type == 'code')"
        self.picture = page.locator(f"{front.BOOK} .widget-image")
        self.label = page.locator(f"{front.BOOK} .widget-hbox .widget-label").last

    def run_all(self, seconds=60):
        """Runs all cells from the menu, until the last one has run or one has failed."""
        self.front.run_all(self.page)
        self.page.wait_for_function(
            f"() => {{const cells = {self.cells}; return {self.front.IDLE} && (cells.every(c => c.execution_count)"
            " || cells.some(c => c.outputs.some(o => o.output_type == 'error')))}",
            timeout=1000 * seconds,
        )
        self.check()

    def code(self):
        return self.page.evaluate(self.cells)

    def check(self):
        """Every code cell has run, in order, none ended in an error, and the console shows none."""
        cells = self.code()
        failed = [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
        assert not failed, "\n".join(failed[0]["traceback"])
        assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
        assert errors(self.page) == []

    def show(self, call):
        """Brings the cell with a call into view: JupyterLab keeps cells that are far away out of the page."""
        self.page.evaluate(self.front.SHOW, call)
        self.picture.wait_for()

    def run_last(self):
        """Runs the last cell again, by its keys."""
        self.page.click(self.front.LAST_CELL)
        self.page.keyboard.press("Control+Enter")

    def screenshot(self, moment):
        self.page.screenshot(path=LEFT / f"{type(self.front).__name__}-{self.name}-{moment}.png".lower())

    # ---- the picture

    def source(self):
        return self.picture.get_attribute("src")

    def png(self):
        """The picture that is shown, as the bytes that the browser has."""
        return base64.b64decode(self.picture.evaluate("""async image => {
            const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
            return btoa(bytes.reduce((text, byte) => text + String.fromCharCode(byte), ""));
        }"""))

    def stretched(self):
        """By how much the picture is wider on the page than it was drawn."""
        return self.picture.evaluate("image => image.getBoundingClientRect().width / image.naturalWidth")

    def wait_for_another(self, seconds=60):
        """Until the picture has changed by itself."""
        self.picture.evaluate("""(image, seconds) => new Promise((done, late) => {
            image.addEventListener("load", done, {once: true});
            setTimeout(() => late(new Error(`no other picture for ${seconds} s`)), 1000 * seconds);
        })""", seconds)

    # ---- the sliders

    def handle(self, slider):
        return self.page.locator(f"{self.front.BOOK} {self.front.HANDLE}").nth(slider)

    def readout(self, slider=0):
        """The number beside a slider."""
        text = self.page.locator(f"{self.front.BOOK} .widget-readout").nth(slider).inner_text()
        return float(text.replace("−", "-"))

    def drag(self, share, slider=0):
        """Drags a slider's handle to a share of its bar in twenty moves; how many pictures were seen on the way."""
        handle = self.handle(slider)
        handle.scroll_into_view_if_needed()
        box = handle.bounding_box()
        bar = self.page.locator(f"{self.front.BOOK} {self.front.BAR}").nth(slider).bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        seen = {self.source()}
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for place in np.linspace(x, bar["x"] + share * bar["width"], 21)[1:]:
            self.page.mouse.move(place, y)
            self.page.wait_for_timeout(20)
            seen.add(self.source())
        self.page.mouse.up()
        self.settle()
        return len(seen | {self.source()}) - 1

    def settle(self, quiet=400):
        """Waits until the picture has not changed for `quiet` milliseconds."""
        before = None
        while before != (before := self.source()):
            self.page.wait_for_timeout(quiet)

    def milliseconds(self, slider=0, moves=9):
        """From a key on the slider's handle to the new picture loaded, by the browser's clock, once a move."""
        self.picture.evaluate("""(image, handle) => {
            window.steelnb = {times: []};
            handle.addEventListener("keydown", () => window.steelnb.began = performance.now(), true);
            image.addEventListener("load", () => window.steelnb.times.push(performance.now() - window.steelnb.began));
        }""", self.handle(slider).element_handle())
        self.handle(slider).focus()
        for move in range(moves):  # to and fro
            self.page.keyboard.press("ArrowRight" if move % 2 else "ArrowLeft")
            self.page.wait_for_function(f"window.steelnb.times.length == {move + 1}", timeout=30_000)
        return [round(time) for time in self.page.evaluate("window.steelnb.times")]
