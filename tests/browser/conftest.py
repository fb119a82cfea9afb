"""Real front ends in headless Chromium, driven by Playwright.

`make test-browser` runs these tests; `make test` leaves them out (`collect_ignore` in tests/conftest.py), since they
need a browser and minutes. Where Chromium, Playwright or a front end is missing they are skipped, and say so.
Screenshots, and the times measured, are left in build/browser/.
"""

import json
from importlib.util import find_spec

import pytest

pytest.register_assert_rewrite("front")

import front  # noqa: E402

TIMES = {}


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium. Playwright would download its own; the one that is installed is driven here."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: make test-browser installs it")
    if (path := front.chromium()) is None:
        pytest.skip(f"no Chromium: none of {', '.join(front.NAMES)} is on the PATH, and STEELNB_CHROMIUM is not set")
    front.LEFT.mkdir(parents=True, exist_ok=True)
    with sync_api.sync_playwright() as playwright:
        # A sandbox needs rights that root in a container has not; /dev/shm is small there.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        with playwright.chromium.launch(executable_path=path, headless=True, args=arguments) as browser:
            yield browser


@pytest.fixture
def page(browser):
    """A fresh profile with one empty page; `page.said` are the errors of its console so far."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.said = []
        page.on("pageerror", lambda error: page.said.append(f"uncaught: {error}"))
        page.on("console", lambda line: line.type == "error" and page.said.append(f"{line.text} ({line.location})"))
        context.route(lambda address: address.startswith("http") and "//127.0.0.1:" not in address, foreign)
        yield page


def foreign(route):
    """Nothing is fetched from elsewhere: a badge is an empty picture, all else fails and is seen in the console."""
    if route.request.url.endswith(".svg"):
        empty = '<svg xmlns="http://www.w3.org/2000/svg" width="117" height="20"/>'
        route.fulfill(content_type="image/svg+xml", body=empty)
    else:
        route.abort()


@pytest.fixture(scope="session")
def lab(browser, tmp_path_factory):
    if find_spec("jupyterlab") is None:
        pytest.skip("JupyterLab is missing: pip install -e '.[dev]'")
    server = front.JupyterLab(tmp_path_factory.mktemp("lab"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def colab(browser, tmp_path_factory):
    if not front.COLAB.exists():
        pytest.skip("Colab's versions are missing: make test-colab installs them into .venv-colab")
    server = front.Colab(tmp_path_factory.mktemp("colab"))
    yield server
    server.close()


@pytest.fixture(params=["lab", "colab"])
def either(request):
    """JupyterLab, then the classic Notebook with Colab's versions."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def times():
    """name → milliseconds from a slider's change to the new picture; told at the end, and kept in times.json."""
    return TIMES


def pytest_terminal_summary(terminalreporter):
    if not TIMES:
        return
    (front.LEFT / "times.json").write_text(json.dumps(TIMES, indent=1) + "\n")
    terminalreporter.section("from a slider's change to the new picture")
    for name, times in TIMES.items():
        median = sorted(times)[len(times) // 2]
        terminalreporter.line(f"{name}: {median} ms (median of {len(times)}; {min(times)} … {max(times)})")
