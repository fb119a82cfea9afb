"""The executed series as a site: README as its first page, the notebooks, guide and results, a page for each room.

    python docs/build.py build/book

Lays the pages out in a folder beside the site (`book.pages`), as Sphinx wants them, and calls Sphinx; any warning
fails. Nothing is executed: a notebook is shown with the outputs that it was committed with.
"""

import posixpath
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\(\s*<?)(?![a-zA-Z][\w+.-]*:|#|//)([^)#?\s>]+)")
PAGES = ("docs/guide", "docs/results")
AUTO = ".. automodule:: steelnb.%s\n"


def lay_out(pages: Path) -> None:
    """Write everything that Sphinx reads into the new folder `pages`."""
    shutil.rmtree(pages, ignore_errors=True)
    shutil.copytree(ROOT / "assets", pages / "assets")
    for folder in ("notebooks", "docs", "api"):
        (pages / folder).mkdir()
    books = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    contents = []
    there = {"assets", *(f"notebooks/{path.name}" for path in books), *(f"{page}.md" for page in PAGES)}
    for path in books:
        book = nbformat.read(path, as_version=4)
        for cell in book.cells:
            if cell.cell_type == "markdown":
                cell.source = relinked(cell.source, "notebooks", there)
        nbformat.write(book, pages / "notebooks" / path.name)
        title = book.cells[0].source.splitlines()[0].removeprefix("# ")
        contents.append(f"{path.stem[:2]} · {title} <notebooks/{path.stem}>")
    for page in PAGES:
        text = (ROOT / f"{page}.md").read_text(encoding="utf-8")
        (pages / f"{page}.md").write_text(relinked(text, "docs", there), encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    parts = {"Notebooks": contents, "Guide and results": PAGES, "Library": ["api/index"]}
    index = [relinked(readme, "", there), *(toctree(caption, entries) for caption, entries in parts.items())]
    (pages / "index.md").write_text("\n".join(index), encoding="utf-8")
    library(readme, pages / "api")


def library(readme: str, folder: Path) -> None:
    """A page for each room and each module beside them, under the table of rooms that README has, in its order."""
    table = re.search(r"^\| room \| what it is for \|\n(?:\|.*\n)+", readme, re.M)[0]
    cells = "".join(re.findall(r"^\| (`[^|]*)\|", table, re.M))
    names = re.findall(r"`(\w+)/?`", cells)
    for name in names:
        room = ROOT / "steelnb" / name
        modules = [f"{name}.{path.stem}" for path in sorted(room.glob("*.py")) if path.stem != "__init__"]
        # what a room hands on is documented once, where it is defined
        parts = [heading(name, "="), AUTO % name + "   :no-members:\n" * room.is_dir()]
        parts += [part for module in modules for part in (heading(module.partition(".")[2], "-"), AUTO % module)]
        (folder / f"{name}.rst").write_text("\n".join(parts), encoding="utf-8")
    linked = re.sub(r"^\| `[^|]*\|", lambda row: re.sub(r"`(\w+)(/?)`", r"[`\1\2`](\1.rst)", row[0]), table, flags=re.M)
    text = f"# Library\n\nA room imports only from rows below its own.\n\n{linked}\n{toctree('', names)}"
    (folder / "index.md").write_text(text, encoding="utf-8")


def heading(name: str, line: str) -> str:
    """A title in reStructuredText."""
    title = name.replace("_", r"\_")
    return f"{title}\n{line * len(title)}\n"


def toctree(caption: str, entries: Sequence[str]) -> str:
    """A part of the contents at the side."""
    return "\n".join(["```{toctree}", ":hidden:", *[f":caption: {caption}"] * bool(caption), "", *entries, "```\n"])


def relinked(markdown: str, folder: str, there: set[str]) -> str:
    """Links to files of the repository that have no page lead to the repository, at this version."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = f"{about['urls']['Repository']}/blob/v{about['version']}/"

    def moved(link: re.Match) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[2]))
        if path in there or path.split("/")[0] in there or not (ROOT / path).exists():
            return link[0]
        return link[1] + repository + path

    # code is left alone: `x[0](y)` is no link
    parts = re.split(r"(^```.*?^```|`[^`\n]*`)", markdown, flags=re.M | re.S)
    return "".join(part if part.startswith("`") else LINK.sub(moved, part) for part in parts)


def main(site: Path) -> int:
    pages = site.with_name(f"{site.name}.pages")
    lay_out(pages)
    shutil.rmtree(site, ignore_errors=True)
    sphinx = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "--fresh-env"]
    doctrees = str(pages / ".doctrees")
    failed = subprocess.run([*sphinx, "-c", str(ROOT / "docs"), "-d", doctrees, str(pages), str(site)]).returncode
    if not failed:
        print(f"open {site / 'index.html'}")
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
