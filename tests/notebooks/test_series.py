"""The committed series keeps its rules (tools/book.py), and README names every notebook."""

import re
from pathlib import Path

import pytest

from book import broken_links, problems

ROOT = Path(__file__).resolve().parents[2]
BOOKS = ROOT / "notebooks"
README = ROOT / "README.md"
SERIES = sorted({path.stem for path in BOOKS.glob("*") if path.suffix in (".py", ".ipynb")})


def test_there_is_a_series():
    assert SERIES, "notebooks/ holds no notebook"


@pytest.mark.parametrize("name", SERIES)
def test_notebook_keeps_the_rules(name):
    assert problems(BOOKS / f"{name}.ipynb") == []


@pytest.mark.parametrize("name", SERIES)
def test_readme_table_names_the_notebook(name):
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert any(f"notebooks/{name}.ipynb" in row for row in rows), f"README's table has no row that links {name}.ipynb"


def test_names_are_numbered_without_gaps():
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", name) for name in SERIES), SERIES
    assert [int(name[:2]) for name in SERIES] == list(range(len(SERIES)))


@pytest.mark.parametrize("name", ["README.md", "docs/guide.md", "docs/results.md"])
def test_links_resolve(name):
    path = ROOT / name
    assert broken_links(path.read_text(encoding="utf-8"), path.parent) == []


def test_colab_constraints_are_the_recorded_ones():
    recorded = ROOT.parent / "shared" / "colab" / "constraints.txt"
    if not recorded.exists():
        pytest.skip("no ../shared/colab/constraints.txt to compare with")
    ours, theirs = (
        {line for line in path.read_text(encoding="utf-8").splitlines() if "==" in line and not line.startswith("#")}
        for path in (ROOT / "constraints-colab.txt", recorded)
    )
    assert {line for line in ours if not line.startswith("tifffile==")} == theirs  # 3.11 cannot have that tifffile


def test_constraints_are_plain_pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", pin) for pin in pins)  # no URL, no +cpu
    names = {pin.partition("==")[0].lower().replace("_", "-") for pin in pins}
    assert {"torch", "nbval", "jupytext", "monai"} <= names
