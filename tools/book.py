"""The notebooks of the series: their source text, their normal form, and their rules.

Each ``notebooks/NN_slug.py`` is jupytext percent text, the source; ``NN_slug.ipynb`` beside it is generated. The text
begins with this header (its last three lines only where a GPU helps)::

    # ---
    # jupyter:
    #   jupytext:
    #     text_representation:
    #       extension: .py
    #       format_name: percent
    #   kernelspec:
    #     display_name: Python 3
    #     language: python
    #     name: python3
    #   accelerator: GPU
    #   colab:
    #     gpuType: T4
    # ---

- The first cell is markdown (``# %% [markdown]``): ``# title``, then the answer in one paragraph, before the badges,
  the card as a table, and whatever follows. `make notebooks` adds to the card in the .ipynb what it measured: `card`.
- ``make address`` puts in the badges and, before all other code, the setup cell: nobody writes these by hand.
- One cell is tagged ``headline`` (``# %% tags=["headline"]``) and prints one line for the table of `make run`.
- Cells tagged ``nbval-check-output`` print the same on every machine: the tests compare them.
- A cell that draws is followed by a markdown cell that begins ``*Figure N: what it shows.*``, N counting 1, 2, 3 …
- `problems` holds all the rules.
"""

import hashlib
import platform
import re
import time
from base64 import b64decode, b64encode
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

import jupytext
import nbformat
from PIL import Image

LIMIT, LINES = 400_000, 40
LARGE_PNG, MEDIUM_PNG = 9_000, 100_000  # characters of base64
WIDGET = "application/vnd.jupyter.widget-view+json"
NOT_IN_OUTPUT = {
    "an absolute path": re.compile(r"(?<![\w:/.])/(?:[\w.-]+/)+[\w.-]*|\b[A-Za-z]:\\\w|file://"),
    "a progress bar": re.compile(r"\d%\||it/s\]|s/it\]|[▏▎▍▌▋▊▉█]{3}"),
    "a carriage return": re.compile(r"\r"),
    "a terminal colour code": re.compile("\x1b"),
    "a warning": re.compile(r"Warning:|\bWARNING\b"),
    "a memory address": re.compile(r"\bat 0x[0-9a-fA-F]{6,}"),
}
CARD = re.compile(
    r"\n\n> \*Runs in (?P<seconds>\d+) s on one thread of a CPU · on a GPU: (not measured yet|\d+ s \([^()\n]+\)) · "
    r"verified (?P<day>\d{4}-\d\d-\d\d) with Python [\w.]+, torch [\w.]+, NumPy [\w.]+\*(?=\n|$)"
)
GPU = {"accelerator": "GPU", "colab": {"gpuType": "T4"}}  # what Colab is asked for where a GPU helps
FORBIDDEN_TAGS = {"raises-exception", "nbval-raises-exception", "nbval-skip", "skip-execution"}


def fresh(text: Path):
    """The notebook of a source text, not executed, with only allowed metadata."""
    return from_text(text.read_text(encoding="utf-8"))


def from_text(text: str):
    """`fresh` of percent text."""
    book = jupytext.reads(text, fmt="py:percent")
    book.nbformat, book.nbformat_minor = 4, 5
    for index, cell in enumerate(book.cells):
        cell.id = hashlib.sha1(f"{index}{cell.source}".encode()).hexdigest()[:8]
    return tidy(book)


def tidy(book):
    """Removes metadata that is not allowed, such as that of a machine or a version."""
    found = book.metadata
    kept = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "jupytext": {"text_representation": {"extension": ".py", "format_name": "percent"}},
    }
    if "accelerator" in found:
        kept["accelerator"] = found["accelerator"]
    if "gpuType" in found.get("colab", {}):
        kept["colab"] = {"gpuType": found["colab"]["gpuType"]}
    book.metadata = nbformat.from_dict(kept)
    for cell in book.cells:
        cell.metadata = nbformat.from_dict({"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {})
    return book


def normalise(book):
    """Executed outputs as committed: no widgets, small PNG images, adjacent pieces of a stream joined."""
    for cell in code_cells(book):
        outputs = []
        for output in cell.outputs:
            data = output.get("data", {})
            if WIDGET in data:
                continue
            if "image/png" in data:
                for kind in [kind for kind in data if kind.startswith("image/") and kind != "image/png"]:
                    del data[kind]
                data["image/png"] = smaller(data["image/png"])
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
            if outputs and output.get("name") and output.get("name") == outputs[-1].get("name"):
                outputs[-1].text += output.text
            else:
                outputs.append(output)
        cell.outputs = outputs
    return tidy(book)


def smaller(png: str) -> str:
    """A base64 PNG; a large one in steps of 10 to 24 gray levels, without which the noise of steel would not compress.

    The finest steps that leave few enough colours for a palette and an image of at most `MEDIUM_PNG`. Rounding each
    channel keeps every hue, which a small palette chosen by frequency would not.
    """
    if len(png) < LARGE_PNG:
        return png
    with Image.open(BytesIO(b64decode(png))) as picture:
        fine = picture.convert("RGB")
    for step in (10, 16, 20, 24):
        levels = [255 if value >= 250 else min(255, (value + step // 2) // step * step) for value in range(256)]
        coarse = fine.point(levels * 3)
        palette = bool(coarse.getcolors(256))
        file = BytesIO()
        (coarse.quantize(256, dither=Image.Dither.NONE) if palette else coarse).save(file, "PNG", optimize=True)
        found = b64encode(file.getvalue()).decode() + "\n"
        if palette and len(found) <= MEDIUM_PNG:
            break
    return min(png, found, key=len)


def card(seconds: float, gpu: str = "not measured yet") -> str:
    """The lines that `make notebooks` adds to a notebook's card: duration, date and versions."""
    torch, numpy = (version(name).partition("+")[0] for name in ("torch", "numpy"))
    return (
        f"\n\n> *Runs in {seconds:.0f} s on one thread of a CPU · on a GPU: {gpu} · "
        f"verified {time.strftime('%Y-%m-%d')} with Python {platform.python_version()}, torch {torch}, NumPy {numpy}*"
    )


def with_card(source: str, line: str) -> str:
    """The first cell with what was measured under its first table."""
    table = re.search(r"^\|.*(?:\n\|.*)*", source, re.M)
    end = table.end() if table else len(source)
    return source[:end] + line + source[end:]


def code_cells(book) -> list:
    return [cell for cell in book.cells if cell.cell_type == "code" and cell.source.strip()]


def tagged(book, tag: str) -> list:
    return [cell for cell in book.cells if tag in cell.metadata.get("tags", [])]


def printed(cell) -> str:
    """The text output of a cell: its streams and plain values."""
    return "".join(out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in cell.get("outputs", []))


def title_and_answer(book) -> tuple[str, str]:
    """The first ``# `` heading and the first paragraph of prose after it, as plain text."""
    prose = "\n\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +(.+)$", prose, re.M)
    if not heading:
        return "", ""
    paragraphs = (part.strip() for part in prose[heading.end() :].split("\n\n"))
    answer = next((part for part in paragraphs if part and not re.match(r"#|!\[|\[!\[|<|\||---", part)), "")
    return tuple(re.sub(r"\[([^]]*)\]\([^)]*\)|[*`]", r"\1", " ".join(part.split())) for part in (heading[1], answer))


# ---- rules ---------------------------------------------------------------------------------------------------------


def problems(path: Path) -> list[str]:
    """The rules that a committed notebook, given by its .py or .ipynb, breaks; an empty list if there are none."""
    text, path = path.with_suffix(".py"), path.with_suffix(".ipynb")
    for file in (text, path):
        if not file.exists():
            return [f"there is no {file.name}"]
    try:
        book, due = nbformat.read(path, as_version=4), fresh(text)
        nbformat.validate(book)
    except Exception as error:  # not JSON, not a notebook
        return [f"not a valid notebook: {(str(error).splitlines() or [type(error).__name__])[0]}"]
    found = []
    if path.stat().st_size > LIMIT:
        found.append(f"{path.stat().st_size // 1000} KB, over {LIMIT // 1000}")
    if [content(cell) for cell in book.cells] != [content(cell) for cell in due.cells]:
        found.append("its cells are not its text's: run `make notebooks`")
    if book.metadata != due.metadata:
        found.append(f"metadata that is not allowed or not the text's: {sorted(book.metadata)}")
    wants_gpu = {name: due.metadata[name] for name in GPU if name in due.metadata}
    if wants_gpu not in ({}, GPU):
        found.append(f"metadata of half a wish for a GPU: {wants_gpu} instead of {GPU}")
    if not wants_gpu and any(re.search(r"\bruntime\.(device|profile)\(", cell.source) for cell in code_cells(due)):
        found.append("uses a GPU and does not ask Colab for one: `accelerator` and `gpuType` in its text's header")
    if [len(CARD.findall(cell.source)) for cell in book.cells[:1]] != [1] or CARD.search(due.cells[0].source):
        found.append("its card does not say once what was measured: run `make notebooks`")
    if [cell.get("id") for cell in book.cells] != [cell.id for cell in due.cells]:
        found.append("cell ids that `make notebooks` did not give")
    for cell in book.cells:
        if extra := set(cell.metadata) - {"tags"}:
            found.append(f"cell metadata that is not allowed: {sorted(extra)}")
        if tags := FORBIDDEN_TAGS & set(cell.metadata.get("tags", [])):
            found.append(f"the tag {tags.pop()} hides failures: assert the error by type and message")
    return found + told(book) + executed(book) + figures(book) + links(book, path.parent)


def content(cell) -> tuple:
    """A cell's content from its source text, without measured lines (`card`)."""
    return cell.cell_type, CARD.sub("", cell.source), cell.metadata.get("tags", [])


def told(book) -> list[str]:
    """Rules about what the notebook says: title, answer, headline, claims that can fail, short cells."""
    found = []
    title, answer = title_and_answer(book)
    if not title or not book.cells[0].source.startswith("# "):
        found.append("its first cell is no markdown that begins with `# title`")
    if not answer:
        found.append("no answer, in one paragraph, after the title")
    code = code_cells(book)
    if not any(re.search(r"^\s*assert\b", cell.source, re.M) for cell in code):
        found.append("no assert: it cannot fail")
    headlines = tagged(book, "headline")
    if len(headlines) != 1 or len(printed(headlines[0]).strip().splitlines()) != 1:
        found.append("not exactly one cell tagged headline that prints one line")
    checked = tagged(book, "nbval-check-output")
    if not checked or not all(printed(cell).strip() for cell in checked):
        found.append("no cell tagged nbval-check-output, or one that prints nothing")
    for number, cell in enumerate(code, 1):
        if (lines := cell.source.count("\n") + 1) > LINES:
            found.append(f"cell [{number}]: {lines} lines, over {LINES}")
    return found


def executed(book) -> list[str]:
    """Rules about outputs: executed once from top to bottom, nothing specific to one machine or moment."""
    found = []
    code = code_cells(book)
    if any(cell.cell_type == "code" and not cell.source.strip() for cell in book.cells):
        found.append("an empty code cell")
    if (counts := [cell.execution_count for cell in code]) != list(range(1, len(code) + 1)):
        found.append(f"not executed from top to bottom: counts {counts[:6]}")
    for number, cell in enumerate(code, 1):
        for output in cell.outputs:
            kind = output.output_type
            if kind == "error" or output.get("name") == "stderr":
                found.append(f"cell [{number}]: {kind if kind == 'error' else 'stderr'} in its output")
            if output.get("execution_count", number) != number:
                found.append(f"cell [{number}]: an output of another run")
            data = output.get("data", {})
            if output.get("metadata") or any("widget" in kind for kind in data):
                found.append(f"cell [{number}]: a widget or metadata in its output")
            if any(kind.startswith("image/") and kind != "image/png" for kind in data):
                found.append(f"cell [{number}]: an image that is not PNG")
            parts = [str(part) for kind, part in data.items() if not kind.startswith("image/")]
            shown = "\n".join([output.get("text", ""), *parts, *output.get("traceback", [])])
            shown = re.sub(r"data:[\w/+.-]+;base64,[\w+/=]+", "", shown)
            for name, pattern in NOT_IN_OUTPUT.items():
                if match := pattern.search(shown):
                    found.append(f"cell [{number}]: {name} in its output: {match[0]!r}")
    return found


def figures(book) -> list[str]:
    """Each cell with a picture is followed by its caption, ``*Figure N: …*``, numbered through the notebook."""
    found, number = [], 0
    for cell, after in zip(book.cells, [*book.cells[1:], nbformat.v4.new_raw_cell()], strict=True):
        data = [output.get("data", {}) for output in cell.get("outputs", [])]
        if any("image/png" in kinds or "<img" in str(kinds.get("text/html", "")) for kinds in data):
            number += 1
            caption = re.match(r"\*Figure (\d+): \S.*?\*\s*(\n\n|$)", after.source, re.S)
            if after.cell_type != "markdown" or not caption or int(caption[1]) != number:
                found.append(f"cell [{cell.execution_count}]: the next cell does not begin `*Figure {number}: …*`")
    return found


def links(book, folder: Path) -> list[str]:
    return broken_links("\n\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown"), folder)


def broken_links(markdown: str, folder: Path) -> list[str]:
    """Relative links, and Colab badges, without a target file; `folder` is that of the markdown."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", markdown, flags=re.S)
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)|(?:src|href)\s*=\s*[\"']([^\"']+)|^\[[^]]+\]:\s*(\S+)", prose, re.M)
    found = []
    for target in ("".join(groups) for groups in targets):
        if badge := re.match(r"https://colab\.research\.google\.com/.*/(notebooks/[^/#?]+)", target):
            file = (folder.parent if folder.name == "notebooks" else folder) / badge[1]
        elif re.match(r"[a-zA-Z][\w+.-]*:|#|//", target):
            continue
        else:
            file = folder / unquote(target.partition("#")[0].partition("?")[0])
        if not file.exists():
            found.append(f"a link that leads nowhere: {target}")
    return found
