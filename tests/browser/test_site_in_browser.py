"""The site of `make book` as a reader opens it: contents, a notebook, a module, the search."""

import functools
import http.server
import re
import threading

import front
import pytest

INDEX = front.ROOT / "build" / "book" / "index.html"
PICTURES = "main img"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    """The site behind a web server of this machine."""
    if not INDEX.exists():
        pytest.skip("make book has not been run")
    serve = functools.partial(Quiet, directory=INDEX.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def site(address, page):
    page.goto(f"{address}/index.html")
    yield page
    assert front.errors(page) == []


def test_the_contents_lead_to_every_notebook_and_its_figures(site):
    series = sorted(path.stem for path in (front.ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    links = site.locator("nav a[href*='notebooks/']")
    assert [re.search(r"(\w+)\.html", link.get_attribute("href"))[1] for link in links.all()] == series
    site.screenshot(path=front.LEFT / "site-index.png")
    links.nth(series.index("02_overlap_tile")).click()
    assert "Overlap-tile" in site.locator("h1:visible").inner_text()
    assert site.locator(PICTURES).count() >= 3
    for picture in site.locator(PICTURES).all():
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    site.evaluate("scrollTo(0, 0)")
    site.screenshot(path=front.LEFT / "site-notebook.png")


def test_a_module_is_described(site, address):
    site.goto(f"{address}/api/figures.html")
    assert site.locator("dt", has_text="explore_threshold").is_visible()
    site.screenshot(path=front.LEFT / "site-module.png")


def search(page, query, slug):
    """Searches from a page that has a search field, and follows the result that is a certain notebook."""
    field = page.locator("input[name=q]:visible").first
    field.fill(query)
    field.press("Enter")
    found = page.locator(f"#search-results li a[href*='{slug}']").first
    found.wait_for(timeout=20_000)
    page.screenshot(path=front.LEFT / f"site-search-{query}.png")
    found.click()
    page.wait_for_url(re.compile(f"/{slug}.html"))
    assert query in page.locator("main").inner_text().lower()


@pytest.mark.parametrize(("query", "slug"), [("threshold", "10_results"), ("checkpoint", "09_hundred_hours")])
def test_the_search_finds(site, address, query, slug):
    site.goto(f"{address}/search.html")
    search(site, query, slug)


def test_the_search_finds_where_the_site_lies_as_files(address, page):
    page.goto((INDEX.parent / "search.html").as_uri())
    search(page, "mirror", "02_overlap_tile")
    # No file may read another one, so the results come without their excerpts.
    assert [line for line in front.errors(page) if not re.search("CORS|ERR_FAILED|Failed to fetch", line)] == []
