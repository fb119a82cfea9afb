"""How Sphinx makes the site of `make book`: `build.py` beside this file calls it, with its pages laid out."""

import re
import tomllib
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = {path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}

with (ROOT / "pyproject.toml").open("rb") as file:
    about = tomllib.load(file)["project"]

project, release = about["name"], about["version"]
html_title = f"{project} {release}"
language = "en"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
html_theme = "sphinx_book_theme"
html_theme_options = {
    "repository_url": about["urls"]["Repository"],
    "use_repository_button": True,
    "use_download_button": False,
    "show_toc_level": 2,
    "navbar_persistent": [],  # the search field is at the side already
    "footer_content_items": [],  # no author's name, no copyright line
}
html_context = {"default_mode": "auto"}
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["search.js"]
html_copy_source = False
smartquotes = False  # "mean" in a docstring is a word of Python
html_math_renderer = "mathml"

nb_execution_mode = "off"  # the committed outputs are what is shown
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
# A page may set its own anchors, <a id="…">, which MyST does not see; tests/test_site.py follows every link.
suppress_warnings = ["myst.xref_missing"]

default_role = "py:obj"  # `name` in a docstring is code, and a link where it names something of the library
add_module_names = False
python_maximum_signature_line_length = 88
autodoc_preserve_defaults = True  # as the source has them, which may be names
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": True}

# ---- docstrings: plain text with `code`, with lines `name: what it is` and hanging indents

ITEM = re.compile(r"`?[a-z]\w*`?(?:, `?[a-z]\w*`?)*: ")
CODE = re.compile(r"(``[^`]+``|`[^`]+`)")


def restructured(lines: list[str]) -> list[str]:
    """A docstring as reStructuredText: lines `name: …` are a list, a block that is indented is shown as it is."""
    out = []
    for block in "\n".join(lines).strip().split("\n\n"):
        rows = block.split("\n")
        if rows[0].startswith("    "):
            out += ["::", "", *rows, ""]
        elif rows[0].startswith("- "):
            out += [f"- {named(row[2:])}" if row.startswith("- ") else inline(row) for row in rows] + [""]
        else:
            out += paragraphs(rows)
    return out


def paragraphs(rows: list[str]) -> list[str]:
    """A block without blank lines: items, and what stands before, between and after them.

    After an item's full stop a line that is not indented begins a paragraph of its own.
    """
    parts = []
    items = any(map(ITEM.match, rows))
    for before, row in zip(["", *rows], rows, strict=False):
        if not parts or ITEM.match(row) or (items and before.endswith(".") and not row.startswith(" ")):
            parts.append(row.strip())
        else:
            parts[-1] += " " + row.strip()
    return [line for part in parts for line in ("- " * bool(ITEM.match(part)) + named(part), "")]


def named(text: str) -> str:
    """Text with the names of an item before it as code."""
    item = ITEM.match(text)
    names = re.sub(r"\w+", r"``\g<0>``", item[0].replace("`", "")) if item else ""
    return names + inline(text[item.end() if item else 0 :])


def inline(text: str) -> str:
    """Outside of code only stars mean something; the name of a notebook leads to its page."""
    parts = CODE.split(text)
    for index, part in enumerate(parts):
        if index % 2 == 0:
            parts[index] = re.sub(r"\b\d\d_\w+|[\\|_]", notebook_or_mark, part)
        elif not part.startswith("``"):
            parts[index] = part.replace("\\", r"\\")
    return "".join(parts)


def notebook_or_mark(found: re.Match) -> str:
    name = found[0]
    return f":doc:`{name} </notebooks/{name}>`" if name in NOTEBOOKS else re.sub(r"[\\|_]", r"\\\g<0>", name)


def docstring(app, what, name, obj, options, lines) -> None:
    lines[:] = restructured(lines)


def field(app, what, name, obj, skip, options):
    """The fields of a class stand in its signature and its docstring; a list of bare names after them says nothing."""
    return True if what == "class" and not callable(obj) and not isinstance(obj, property) else None


def elsewhere(app, env, node, content):
    """`geometry.skew`, as docstrings name what is in another module; `data` may be an argument, so it needs the dot."""
    if node.get("reftype") != "obj" or "." not in node["reftarget"] or node["reftarget"].startswith("steelnb."):
        return None
    target = f"steelnb.{node['reftarget']}"
    return env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, content)


# ---- mathematics as MathML, which browsers draw by themselves: nothing to load


def formula(self, node) -> None:
    block = node.tagname == "math_block"
    self.body.append(tex2mathml(node.astext(), as_block=block))
    raise nodes.SkipNode


def setup(app) -> None:
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
    app.connect("autodoc-process-docstring", docstring)
    app.connect("autodoc-skip-member", field)
    app.connect("missing-reference", elsewhere)
