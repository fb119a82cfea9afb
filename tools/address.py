"""Writes the repository's address from pyproject.toml into badges, setup cells and every other link to it.

    python tools/address.py             after a new version or notebook: stamp the address that pyproject.toml has
    python tools/address.py owner/name  the repository has moved to https://github.com/owner/name

Badges open, and setup cells install, the tag ``v<version>``: a page and the library under it belong together.
"""

import argparse
import os
import re
import sys
import tomllib
from pathlib import Path

import nbformat

from book import CARD, content, from_text, with_card

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}/(?!\.+$)(?!.*\.git$)[A-Za-z0-9._-]{1,100}")
PLACEHOLDER = "your--name/steelnb"  # GitHub gives nobody a name with two hyphens in a row, so nobody can be there
IMAGES = {"Colab": "https://colab.research.google.com/assets/colab-badge.svg",
          "Kaggle": "https://kaggle.com/static/images/open-in-kaggle.svg"}
SETUP = '''\
# Setup: pip installs steelnb where it is missing, as on Colab; torch and NumPy stay as they are.
import importlib.util, os, subprocess, sys  # isort: skip
if not getattr(importlib.util.find_spec("steelnb"), "origin", None):  # a folder of that name is no package
    source = os.environ.get("STEELNB_SPEC") or SOURCE
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], capture_output=True, text=True)
    assert done.returncode == 0, f"pip could not install {source}:\\n{done.stderr}"
'''
ARCHIVE = '"https://github.com/REPOSITORY/archive/refs/tags/vVERSION.tar.gz"'
NO_ADDRESS = 'sys.exit("no address yet: set STEELNB_SPEC, or make address")'
IN_TEXT = re.compile(r"^# %%\n# Setup: .*?(?=^# %%)", re.M | re.S)
FIRST_CODE = re.compile(r"^(?=# %%(?! \[markdown\]))", re.M)
BADGES = re.compile(r"(?:^# \[!\[Open in .*\n)+", re.M)
ANSWER = re.compile(r"^# # .*\n#\n(?:# .*\n)+#\n", re.M)
ROW = re.compile(r"^\| \[(\d\d_\w+)\]\(notebooks/\1\.ipynb\) \|([^|\n]*)\|([^|\n]*)\|.*$", re.M)


def address(root: Path = ROOT) -> tuple[str, str]:
    """owner/name and version, from pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].removeprefix("https://github.com/"), project["version"]


def setup_cell(repository: str, version: str) -> str:
    """The cell that installs the library; with the placeholder address, a cell that says what to do."""
    source = NO_ADDRESS if repository == PLACEHOLDER else ARCHIVE
    return SETUP.replace("SOURCE", source).replace("REPOSITORY", repository).replace("VERSION", version)


def badges(repository: str, version: str, name: str) -> tuple[str, str]:
    """Markdown that opens a notebook in Colab and in Kaggle."""
    return tuple(f"[![Open in {place}]({image})]({links(repository, version, name)[place]})"
                 for place, image in IMAGES.items())


def links(repository: str, version: str, name: str) -> dict[str, str]:
    """Where a notebook opens, by place."""
    page = f"{repository}/blob/v{version}/notebooks/{name}.ipynb"
    return {"Colab": f"https://colab.research.google.com/github/{page}",
            "Kaggle": f"https://kaggle.com/kernels/welcome?src=https://github.com/{page}"}


def stamped(root: Path, repository: str) -> dict[Path, str]:
    """The files that change for the address `repository`, with their new text; pyproject.toml is the last."""
    old, version = address(root)
    link = re.compile(rf"(?<=github\.com/){re.escape(old)}(?![\w-]|\.(?!git\b)\w)")
    new = {}
    prose = [*root.glob("*.md"), *root.glob("*.cff"), *root.glob(".github/**/*.*"), root / "pyproject.toml"]
    for path in prose:
        new[path] = link.sub(repository, path.read_text(encoding="utf-8"))
        if path.suffix == ".cff":
            new[path] = re.sub(r"^version: .*$", f"version: {version}", new[path], flags=re.M)
        if path.name == "README.md":
            new[path] = ROW.sub(lambda row: readme_row(root, repository, version, row), new[path])
    for path in root.glob("notebooks/[0-9][0-9]_*.py"):
        text = path.read_text(encoding="utf-8")
        new[path] = notebook_text(link.sub(repository, text), repository, version, path.stem)
        if path.with_suffix(".ipynb").exists():
            new[path.with_suffix(".ipynb")] = same_outputs(path.with_suffix(".ipynb"), text, new[path])
    last = root / "pyproject.toml"
    new[last] = new.pop(last)
    return {path: text for path, text in new.items() if text != path.read_text(encoding="utf-8")}


def notebook_text(text: str, repository: str, version: str, name: str) -> str:
    """A notebook's percent text with badges after its answer, and with the setup cell before its other code."""
    lines = "".join(f"# {badge}\n" for badge in badges(repository, version, name))
    if BADGES.search(text):
        text = BADGES.sub(lambda _: lines, text, count=1)
    else:
        text = ANSWER.sub(lambda begin: f"{begin[0]}{lines}#\n", text, count=1)
    place = IN_TEXT if IN_TEXT.search(text) else FIRST_CODE
    return place.sub(lambda _: f"# %%\n{setup_cell(repository, version)}\n", text, count=1)


def same_outputs(path: Path, old: str, new: str) -> str:
    """The executed notebook with the new text's cells; unchanged if it does not belong to the old text."""
    before, after, book = from_text(old), from_text(new), nbformat.read(path, as_version=4)
    belongs = [content(cell) for cell in book.cells] == [content(cell) for cell in before.cells]
    if old == new or not belongs or len(before.cells) != len(after.cells):
        return path.read_text(encoding="utf-8")
    for cell, due in zip(book.cells, after.cells, strict=True):
        card = CARD.search(cell.source)
        cell.source, cell.id = with_card(due.source, card[0]) if card else due.source, due.id
    return nbformat.writes(book) + "\n"


def readme_row(root: Path, repository: str, version: str, row: re.Match) -> str:
    """A row of README's table: the question stays, the time comes from the notebook's card, the badges from here.

    README's last lines say once where the badges' images are.
    """
    name, question, time = row.groups()
    path = root / "notebooks" / f"{name}.ipynb"
    card = CARD.search(nbformat.read(path, as_version=4).cells[0].source) if path.exists() else None
    time = f"{card['seconds']} s" if card else time.strip()
    opens = " ".join(f"[![{place}]]({link})" for place, link in links(repository, version, name).items())
    return f"| [{name}](notebooks/{name}.ipynb) |{question}| {time} | {opens} |"


def write(root: Path = ROOT, repository: str = "") -> list[Path]:
    """Writes the address; returns the paths of the files that changed."""
    changed = stamped(root, repository or address(root)[0])
    for path, text in changed.items():
        new = path.with_name(f".{path.name}.new")
        new.write_text(text, encoding="utf-8")
        os.replace(new, path)
    return list(changed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", nargs="?", default="", metavar="owner/name")
    repository = parser.parse_args().repository
    if repository and not NAME.fullmatch(repository):
        parser.exit(2, f"{repository!r} is no owner/name of a repository on GitHub, such as jane-doe/steelnb\n")
    changed = write(ROOT, repository)
    print("\n".join(str(path.relative_to(ROOT)) for path in changed) or "nothing to change")
    return 0


if __name__ == "__main__":
    sys.exit(main())
