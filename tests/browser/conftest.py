"""A real front end: JupyterLab with folders of its own, and headless Chromium driven by Playwright.

`make test-browser` runs these tests; `make test` leaves them out (`collect_ignore` in tests/conftest.py), since they
need a browser and a minute or two. Where Chromium, Playwright or JupyterLab is missing they are skipped, and say so.
Screenshots, and the times measured, are left in build/browser/.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LEFT = ROOT / "build" / "browser"
NAMES = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser")
TIMES = {}  # name → milliseconds from a slider's change to the new picture


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


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium. Playwright brings none here: it drives the one that is installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: make test-browser installs it")
    if (path := chromium()) is None:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is on the PATH, and STEELNB_CHROMIUM is not set")
    LEFT.mkdir(parents=True, exist_ok=True)
    with sync_api.sync_playwright() as playwright:
        # A sandbox needs rights that root in a container has not; /dev/shm is small there.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        with playwright.chromium.launch(executable_path=path, headless=True, args=arguments) as browser:
            yield browser


def foreign(route):
    """Nothing is fetched from elsewhere: a badge is an empty picture, all else fails and is seen in the console."""
    if route.request.url.endswith(".svg"):
        route.fulfill(content_type="image/svg+xml", body='<svg xmlns="http://www.w3.org/2000/svg"/>')
    else:
        route.abort()


@pytest.fixture
def page(browser):
    """A fresh profile with one empty page; `page.said` are the errors of its console so far."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.said = []
        context.route(lambda address: "//127.0.0.1:" not in address, foreign)
        page.on("pageerror", lambda error: page.said.append(f"uncaught: {error}"))
        page.on("console", lambda line: line.type == "error" and page.said.append(f"{line.text} ({line.location})"))
        yield page


class Lab:
    """A JupyterLab server that knows nothing of the reader's settings, kernels and caches."""

    def __init__(self, folder):
        self.root, self.home, self.token = folder / "notebooks", folder / "home", secrets.token_hex(16)
        self.root.mkdir()
        places = {name: folder / name.lower() for name in (
            "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
            "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR", "MPLCONFIGDIR",
        )}  # fmt: skip
        for place in places.values():
            place.mkdir()
        asks = places["JUPYTERLAB_SETTINGS_DIR"] / "@jupyterlab" / "apputils-extension"
        asks.mkdir(parents=True)  # else a note asks on the first start whether news may be fetched
        (asks / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "STEELNB", "IPYTHON"))}
        environment |= {name: str(place) for name, place in places.items()}
        environment |= {"STEELNB_PROFILE": "smoke", "STEELNB_HOME": str(self.home), "CUDA_VISIBLE_DEVICES": "",
                        "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}  # fmt: skip
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.log = folder / "jupyterlab.log"
        with self.log.open("w") as log:
            self.server = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser",
                 "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={self.address.rpartition(':')[2]}",
                 "--ServerApp.port_retries=0", f"--ServerApp.root_dir={self.root}",
                 f"--IdentityProvider.token={self.token}", "--LabApp.extension_manager=readonly"],
                cwd=self.root, env=environment, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self, seconds=90):
        end = time.monotonic() + seconds
        while True:
            try:
                return urllib.request.urlopen(f"{self.address}/api/status?token={self.token}", timeout=5).close()
            except (urllib.error.URLError, OSError):
                assert self.server.poll() is None, self.log.read_text()
                assert time.monotonic() < end, f"no answer for {seconds} s:\n{self.log.read_text()}"
                time.sleep(0.1)

    def close(self):
        """Ends the server; on SIGTERM it shuts its kernels down first."""
        self.server.terminate()
        try:
            self.server.wait(20)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    if find_spec("jupyterlab") is None:
        pytest.skip("JupyterLab is missing: pip install -e '.[dev]'")
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


def pytest_terminal_summary(terminalreporter):
    """The measured times, in words and as build/browser/times.json."""
    if not TIMES:
        return
    (LEFT / "times.json").write_text(json.dumps(TIMES, indent=1) + "\n")
    terminalreporter.section("from a slider's change to the new picture")
    for name, times in TIMES.items():
        median = sorted(times)[len(times) // 2]
        terminalreporter.line(f"{name}: {median} ms (median of {len(times)}; {min(times)} … {max(times)})")
