"""One address and version everywhere, from pyproject.toml; another one changes every place and nothing besides."""

import ast
import difflib
import re
import shutil
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

import address
import steelnb
from book import CARD, card, problems, with_card

ROOT = Path(__file__).resolve().parents[2]
TEXTS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
STAMPED = ("pyproject.toml", "README.md", "CONTRIBUTING.md", "CITATION.cff", "notebooks", ".github")


@pytest.fixture
def copy(tmp_path):
    """What is stamped, in a folder of its own."""
    for name in STAMPED:
        if (source := ROOT / name).is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.new"))
        elif source.exists():
            shutil.copy(source, tmp_path / name)
    return tmp_path


def texts(folder):
    return {str(path.relative_to(folder)): path.read_text("utf-8") for path in folder.rglob("*") if path.is_file()}


def test_one_address_and_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == steelnb.__version__
    assert re.fullmatch(r"https://github\.com/[\w-]+/[\w.-]+", project["urls"]["Repository"])
    assert address.stamped(ROOT, address.address()[0]) == {}, "run `make address`"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_every_notebook_has_its_badges_and_the_same_setup_cell(path):
    repository, version = address.address()
    first, second, *rest = re.split(r"^# %%", path.read_text("utf-8"), flags=re.M)[1:]
    kaggle = "https://kaggle.com/kernels/welcome?src=https://github.com/"
    for place in ("https://colab.research.google.com/github/", kaggle):
        assert first.count(f"]({place}{repository}/blob/v{version}/notebooks/{path.stem}.ipynb)\n") == 1
    setup = second.strip()
    assert setup == TEXTS[0].read_text("utf-8").split("# %%")[2].strip()
    assert setup == address.setup_cell(repository, version).strip()
    assert not any("# Setup:" in cell for cell in rest)


@pytest.mark.parametrize("repository", [address.PLACEHOLDER, "jane-doe/steelnb", f"{39 * 'a'}/steelnb"])
def test_the_setup_cell_is_six_lines(repository):
    setup = address.setup_cell(repository, "0.1.0").strip()
    assert len(setup.splitlines()) <= 6
    assert max(map(len, setup.splitlines())) <= 150  # that of the longest name; see the next test
    assert len(ast.parse(setup).body) == 2  # an import, and an `if` around everything else
    sources = re.findall(r'or "(.*)"', setup)
    if repository == address.PLACEHOLDER:
        assert sources == []
        assert "STEELNB_SPEC" in setup.partition("sys.exit(")[2]
        assert "make address" in setup.partition("sys.exit(")[2]
    else:
        assert sources == [f"https://github.com/{repository}/archive/refs/tags/v0.1.0.tar.gz"]


def test_nobody_can_be_at_the_placeholder():
    """A name on GitHub has no two hyphens in a row: so the first cell cannot install what a stranger put there."""
    owner, _, name = address.PLACEHOLDER.partition("/")
    assert "--" in owner
    assert name == "steelnb"
    assert not address.NAME.fullmatch(address.PLACEHOLDER)  # which no real address is called, then


@pytest.mark.parametrize("name", ["some-one/other.name", "steelnb/steel", "a/steelnb", "your-name/steelnb"])
def test_another_address_changes_every_place_and_nothing_besides(copy, name):
    committed, own = texts(copy), "first-one/steelnb"
    address.write(copy, own)
    before = texts(copy)
    assert address.write(copy, name)
    after = texts(copy)
    assert set(after) == set(before)
    for path in before:
        for line in difflib.ndiff(before[path].splitlines(), after[path].splitlines()):
            if line.startswith("+ ") and '"id": "' not in line:
                assert name in line, (path, line)
                assert line[2:].replace(name, own) in before[path], (path, line)
    left = re.compile(rf"github(\.com)?/{own}(?![\w-])")
    assert [path for path, text in after.items() if left.search(text)] == []
    assert sum(name in text for text in after.values()) >= 2 + len(TEXTS)
    assert address.write(copy, name) == []
    address.write(copy, own)
    assert texts(copy) == before
    address.write(copy, address.address()[0])
    assert texts(copy) == committed


def test_an_executed_notebook_keeps_its_outputs_and_its_card(copy):
    path = copy / "notebooks" / "02_overlap_tile.ipynb"
    said = problems(path)
    book = nbformat.read(path, as_version=4)
    if said:
        pytest.skip(f"the committed notebook is not its text's: {said[0]}")
    address.write(copy, "some-one/other")
    moved = nbformat.read(path, as_version=4)
    assert problems(path) == []
    assert CARD.findall(moved.cells[0].source) == CARD.findall(book.cells[0].source)
    assert [cell.get("outputs") for cell in moved.cells] == [cell.get("outputs") for cell in book.cells]


def test_a_new_notebook_and_a_new_version(copy):
    (copy / "notebooks" / "99_new.py").write_text(
        "# %% [markdown]\n# # New?\n#\n# **New?** Yes,\n# it is.\n#\n# | a | b |\n# |---|---|\n# | c | d |\n\n"
        "# %%\nimport steelnb\n",
        encoding="utf-8",
    )
    (copy / "pyproject.toml").write_text((copy / "pyproject.toml").read_text().replace('"0.1.0"', '"7.8.9"'))
    address.write(copy, "jane-doe/steelnb")
    text = (copy / "notebooks" / "99_new.py").read_text("utf-8")
    order = ("it is.\n#\n# [![Open in", "99_new.ipynb)\n#\n# | a | b", "# Setup:", "v7.8.9.tar.gz", "import steelnb\n")
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    for path in (copy / "notebooks").glob("*.py"):
        text = path.read_text("utf-8")
        assert text.count("v7.8.9") == 3
        assert "v0.1.0" not in text


@pytest.mark.parametrize(
    "name", ["a", "a//b", "a/b c", "a/b.git", "a/..", "a/b;c", "a/b/c", "https://github.com/a/b", "-a/b", "a_b/c"]
)
def test_what_is_no_address_is_refused(copy, name, monkeypatch, capsys):
    before = texts(copy)
    monkeypatch.setattr(address, "ROOT", copy)
    monkeypatch.setattr(sys, "argv", ["address.py", name])
    with pytest.raises(SystemExit) as end:
        address.main()
    assert end.value.code == 2
    assert "owner/name" in capsys.readouterr().err
    assert texts(copy) == before


def test_the_command_stamps_and_says_what(copy, monkeypatch, capsys):
    monkeypatch.setattr(address, "ROOT", copy)
    monkeypatch.setattr(sys, "argv", ["address.py", "some-one/other"])
    assert address.main() == 0
    assert {"README.md", "pyproject.toml", "notebooks/00_start_here.py"} <= set(capsys.readouterr().out.split())
    assert address.address(copy)[0] == "some-one/other"
    address.main()
    assert capsys.readouterr().out == "nothing to change\n"


def test_the_times_in_readme_are_those_of_the_cards(copy):
    path = copy / "notebooks" / "03_unet.ipynb"
    book = nbformat.read(path, as_version=4)
    book.cells[0].source = with_card(CARD.sub("", book.cells[0].source), card(1234.4))
    nbformat.write(book, path)
    address.write(copy)
    (row,) = re.findall(r"^\| \[03_unet\].*$", (copy / "README.md").read_text("utf-8"), re.M)
    assert row.split("|")[3] == " 1234 s "
