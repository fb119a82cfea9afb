"""The site of `make book`: built from what is committed, without a warning; every page, figure and link is there."""

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

for package in ("sphinx", "myst_nb", "sphinx_book_theme"):
    pytest.importorskip(package, reason=f"the site needs the extra `book`, and {package} is not installed")

from sphinx.search.en import SearchEnglish  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {  # as the repository has it: as the site has it
    "README.md": "index.html", "docs/guide.md": "docs/guide.html", "docs/results.md": "docs/results.html",
}
BOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
MODULES = sorted(path for path in (ROOT / "steelnb").rglob("*.py") if path.stem != "__init__")


class Page(HTMLParser):
    """The links, pictures, ids and prose (what stands outside of code) of a page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.pictures, self.loaded, self.ids, self.prose = [], [], [], set(), []
        self.code = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        self.links += [found[name] for name in ("href", "src") if found.get(name)]
        self.pictures += [found["src"]] if tag == "img" else []
        if tag == "script" or (tag == "link" and found.get("rel") == "stylesheet"):
            self.loaded.append(found.get("src") or found.get("href") or "")
        self.code += tag in ("pre", "code", "script", "style")

    def handle_endtag(self, tag):
        self.code -= tag in ("pre", "code", "script", "style")

    def handle_data(self, text):
        if not self.code:
            self.prose.append(text)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "book"
    command = [sys.executable, str(ROOT / "docs" / "build.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout == f"open {folder / 'index.html'}\n"
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """What a reader may open; `_static` holds templates of the theme besides."""
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if path.parent.name != "_static"}


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_its_page_with_its_figures(site, pages, path):
    page = site / "notebooks" / f"{path.stem}.html"
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    figures = [hashlib.sha256(b64decode(data["image/png"])).digest() for data in outputs if "image/png" in data]
    shown = [page.parent / unquote(source) for source in pages[page].pictures if not urlsplit(source).scheme]
    assert [hashlib.sha256(picture.read_bytes()).digest() for picture in shown] == figures
    assert figures


@pytest.mark.parametrize("path", MODULES, ids=lambda path: ".".join(path.parts[-2:]))
def test_a_module_has_its_page_with_all_that_is_public(site, pages, path):
    place = path.relative_to(ROOT / "steelnb")
    file = site / "api" / f"{place.parts[0].removesuffix('.py')}.html"
    page = pages[file]
    kinds = (ast.FunctionDef, ast.ClassDef)
    body = ast.parse(path.read_text(encoding="utf-8")).body
    public = {node.name for node in body if isinstance(node, kinds) and not node.name.startswith("_")}
    assert {".".join(("steelnb", *place.with_suffix("").parts, name)) for name in public} <= page.ids
    assert "`" not in "".join(page.prose)  # each `name` of a docstring has become code
    assert "problematic" not in file.read_text(encoding="utf-8")


def test_notebooks_and_modules_stand_in_their_order(site, pages):
    def first(links, folder):
        return list(dict.fromkeys(Path(link).stem for link in links if re.match(rf"{folder}\w+\.html$", link)))

    assert first(pages[site / "index.html"].links, "notebooks/") == [path.stem for path in BOOKS]
    table = README[README.index("| room | what it is for |") :]
    named = [name for row in re.findall(r"^\| (`[^|]*)\|", table, re.M) for name in re.findall(r"`(\w+)/?`", row)]
    linked = first(pages[site / "api" / "index.html"].links, "")
    assert [name for name in linked if name in named] == named


def test_every_link_inside_the_site_leads_somewhere(site, pages):
    broken, checked = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link == "#":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            lost = not target.is_file() or not target.is_relative_to(site.resolve())
            if lost or (anchor and anchor not in pages[target].ids):
                broken.append((str(path.relative_to(site)), link))
            checked += 1
    assert broken == []
    assert checked > 1000


@pytest.mark.parametrize("name", PAGES)
def test_links_to_other_files_lead_to_the_repository(site, pages, name):
    here, folder = pages[site / PAGES[name]].links, (ROOT / name).parent
    for target in re.findall(r"(?<!!)\[[^]]*\]\((?![a-z]+:)([^)#]+)\)", (ROOT / name).read_text(encoding="utf-8")):
        path = (folder / target).resolve()
        assert path.exists(), target
        place = path.relative_to(ROOT).as_posix()
        if place in PAGES or path.suffix == ".ipynb":
            page = site / PAGES.get(place, Path(place).with_suffix(".html"))
            wanted = os.path.relpath(page, (site / PAGES[name]).parent)
        else:
            wanted = f"{PROJECT['urls']['Repository']}/blob/v{PROJECT['version']}/{place}"
        assert wanted in here, target


def test_guide_and_results_stand_between_the_notebooks_and_the_library(site, pages):
    links = list(dict.fromkeys(pages[site / "index.html"].links))
    last = f"notebooks/{BOOKS[-1].stem}.html"
    places = [links.index(link) for link in (last, "docs/guide.html", "docs/results.html", "api/index.html")]
    assert places == sorted(places)


def test_a_word_of_one_notebook_is_found_there_alone(site):
    """Of words that are their own stems: the index holds stems."""
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(index.removeprefix("Search.setIndex(").rstrip().rstrip(";").removesuffix(")"))
    english = SearchEnglish({})
    texts = {path: path.read_text(encoding="utf-8").lower() for path in [*BOOKS, *MODULES, *map(ROOT.joinpath, PAGES)]}
    own = {}
    for path in BOOKS:
        cells = nbformat.read(path, as_version=4).cells
        prose = " ".join(cell.source for cell in cells if cell.cell_type == "markdown" and "`" not in cell.source)
        others = " ".join(text for other, text in texts.items() if other != path)
        words = set(filter(english.word_filter, re.findall(r"\b[a-z]{6,}\b", prose)))
        own |= {word: f"notebooks/{path.stem}" for word in words if word == english.stem(word) and word not in others}
    assert len(own) >= 5
    places = index["titleterms"] | index["terms"]  # a word of a heading alone is no term
    assert {word: index["docnames"][places[word]] for word in own} == own


def test_it_is_read_without_a_network_and_says_nothing_of_the_machine(site, pages):
    machine = re.compile(r"(?<![\w.:/])/(?:home|root|work|tmp|Users|opt)/")
    for path, page in pages.items():
        assert not any(urlsplit(link).netloc for link in page.loaded), path
        text = path.read_text(encoding="utf-8")
        assert str(ROOT) not in text, path
        assert not (found := machine.search(text)), (path, text[found.start() - 80 : found.end() + 40])
    assert "<math" in (site / "notebooks" / "05_bce_imbalance.html").read_text(encoding="utf-8")
