"""Writes the notebooks from their source text, runs the series into pages, checks its rules (see book.py).

    python tools/notebooks.py write [--only 02]               text → executed, normalised .ipynb beside it
    python tools/notebooks.py run [--data DIR] [--out build]  the whole series → build/index.html
    python tools/notebooks.py check                           the rules for committed notebooks
"""

import argparse
import asyncio
import html
import json
import os
import re
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from tqdm import tqdm

import address
from book import card, code_cells, fresh, normalise, printed, problems, tagged, title_and_answer, with_card

ROOT = Path(__file__).resolve().parents[1]
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SECONDS_A_CELL = 600  # in the smoke profile; a full one trains for as long as it takes


class ThisPython(AsyncKernelManager):
    """Starts ipykernel of this very interpreter: an installed kernel spec "python3" may belong to another Python."""

    def __init__(self, **options):
        super().__init__(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]), **options)


def execute(book, where: Path, env: dict, on_cell=lambda number: None) -> str:
    """Runs a notebook's cells in the folder `where` until one fails; returns the error as text, empty if none.

    In the smoke profile a cell that takes longer than `SECONDS_A_CELL` has failed.
    """
    limit = None if env.get("STEELNB_PROFILE") == "full" else SECONDS_A_CELL
    number = 0

    def begin(cell, cell_index):
        nonlocal number
        number += 1
        for sign in (signal.SIGINT, signal.SIGTERM):  # nbclient's own handlers would end this notebook only
            asyncio.get_running_loop().remove_signal_handler(sign)
            signal.signal(sign, signal.default_int_handler)
        on_cell(number)

    client = NotebookClient(
        book, kernel_manager_class=ThisPython, extra_arguments=["--log-level=40"], timeout=limit,
        record_timing=False, store_widget_state=False, on_cell_execute=begin,
        resources={"metadata": {"path": str(where)}},
    )
    try:
        client.execute(env=env)
    except Exception as error:  # a failing cell, a time-out, a kernel that died: the caller goes on to the next book
        ends = [out for cell in code_cells(book) for out in cell.outputs if out.output_type == "error"]
        text = "\n".join(ends[-1].traceback) if ends else f"{type(error).__name__}: {error}"
        tail = [line for line in ANSI.sub("", text).splitlines() if line.strip("- ")][-12:]
        return "\n".join([f"cell [{number}] failed:", *tail])
    return ""


def environment(home: str, **more: str) -> dict:
    """The environment variables of a kernel: no bars, matplotlib's inline default, no Jupyter settings of the user."""
    env = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "PYTHONWARNINGS")}
    env |= {"TQDM_DISABLE": "1", "IPYTHONDIR": f"{home}/ipython"}
    return env | more


def write(texts: list[Path]) -> int:
    """Regenerates committed notebooks: all of `texts`, or none if any fails."""
    import matplotlib.font_manager  # noqa: F401  its first import on a machine may report to stderr: not in a cell

    done, failed = {}, 0
    for k, text in enumerate(texts, 1):
        book = fresh(text)
        with tempfile.TemporaryDirectory() as home, Progress(f"[{k}/{len(texts)}] {text.stem}", book) as progress:
            env = environment(home, STEELNB_PROFILE="smoke", STEELNB_HOME=home, OMP_NUM_THREADS="1")
            env.pop("STEELNB_DATA", None)
            before = os.times()
            error = execute(book, text.parent, env, progress.cell)
            after = os.times()  # the kernel has ended: its seconds on one thread, whatever else the machine did
            seconds = sum(after[2:4]) - sum(before[2:4])
        for cell in code_cells(book):
            if noise := "".join(out.text for out in cell.outputs if out.get("name") == "stderr"):
                error += f"\ncell [{cell.execution_count}] wrote to stderr:\n{noise[-800:]}"
        if error:
            failed += 1
            print(f"{text.name}: {error.strip()}\n", file=sys.stderr)
        book.cells[0].source = with_card(book.cells[0].source, card(max(seconds, 1), gpu_time(text)))
        done[text.with_suffix(".ipynb")] = normalise(book)
    if failed:
        print(f"{failed} of {len(texts)} failed; no notebook was written", file=sys.stderr)
        return 1
    for path, book in done.items():
        new = path.with_name(f".{path.name}.new")
        new.write_text(nbformat.writes(book) + "\n", encoding="utf-8")
        os.replace(new, path)
    return check(list(done))


def gpu_time(text: Path) -> str:
    """A notebook's time on a GPU for its card, from benchmarks/results/notebooks_gpu.json: slug → [seconds, card]."""
    path = text.parents[1] / "benchmarks" / "results" / "notebooks_gpu.json"
    measured = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return "{:.0f} s ({})".format(*measured[text.stem]) if text.stem in measured else "not measured yet"


@dataclass
class Result:
    name: str
    title: str
    answer: str
    seconds: float
    headline: str
    image: str
    error: str

    def verdict(self) -> str:
        lines = self.error.splitlines()
        return f"FAILED: {lines[0].removesuffix(' failed:')}: {lines[-1].rstrip(': ')}" if lines else self.headline


def run(texts: list[Path], data: Path | None, out: Path) -> int:
    """Executes the series into `out`: .ipynb and .html of each, index.html; returns 1 if any failed, else 0."""
    from nbconvert import HTMLExporter

    out.mkdir(parents=True, exist_ok=True)
    profile = os.environ.get("STEELNB_PROFILE") or "smoke"
    print(f"profile {profile}, {f'data in {data}' if data else 'synthetic steel'}, pages to {out}", flush=True)
    results = []
    for k, text in enumerate(texts, 1):
        book = fresh(text)
        with tempfile.TemporaryDirectory() as home, Progress(f"[{k}/{len(texts)}] {text.stem}", book) as progress:
            env = environment(home, STEELNB_PROFILE=profile)
            if profile == "smoke":  # begins from nothing; a full profile resumes the runs that the reader keeps
                env.setdefault("STEELNB_HOME", home)
            env.pop("STEELNB_DATA", None)
            if data:
                env["STEELNB_DATA"] = str(data)
            error = execute(book, text.parent, env, progress.cell)
        if error:
            print(f"{text.name}: {error}\n", file=sys.stderr, flush=True)
        normalise(book)
        headline = next((printed(cell).strip() for cell in tagged(book, "headline")), "").partition("\n")[0]
        shown = [out.get("data", {}) for cell in code_cells(book) for out in cell.outputs]
        image = next((data["image/png"] for data in shown if "image/png" in data), "")
        results.append(Result(text.stem, *title_and_answer(book), progress.seconds, headline, image, error))
        nbformat.write(book, out / f"{text.stem}.ipynb")
        page, _ = HTMLExporter().from_notebook_node(book, {"metadata": {"path": str(text.parent), "name": text.stem}})
        page = re.sub(r'href="(\d\d_\w+)\.ipynb', r'href="\1.html', page)
        (out / f"{text.stem}.html").write_text(page, encoding="utf-8")
    (out / "index.html").write_text(index(results, profile, data), encoding="utf-8")
    width = max((len(result.name) for result in results), default=8)
    print(f"\n{'notebook':{width}}  seconds  headline")
    for result in results:
        print(f"{result.name:{width}}  {result.seconds:7.1f}  {result.verdict()}")
    print(f"\n{sum(result.seconds for result in results):.0f} s in all; open {out / 'index.html'}", flush=True)
    return int(any(result.error for result in results) or not results)


class Progress:
    """Progress of a notebook: a bar in a terminal, else a line at its start, at its end and every ten seconds."""

    def __init__(self, name: str, book):
        self.name, self.total, self.seconds = name, len(code_cells(book)), 0.0
        self.began = self.said = time.perf_counter()
        self.bar = None
        if sys.stdout.isatty():
            looks = "{desc} {bar} cell {n_fmt} of {total_fmt}, {elapsed}"
            self.bar = tqdm(total=self.total, desc=name, bar_format=looks, file=sys.stdout)
        else:
            print(f"{name}: {self.total} cells", flush=True)

    def cell(self, number: int) -> None:
        if self.bar is not None:
            self.bar.update(number - self.bar.n)
        elif time.perf_counter() - self.said > 10:
            self.said = time.perf_counter()
            print(f"{self.name}: cell {number} of {self.total}", flush=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        self.seconds = time.perf_counter() - self.began
        if self.bar is not None:
            self.bar.close()
        elif not kind:
            print(f"{self.name}: {self.seconds:.1f} s", flush=True)


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>steelnb: the series</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2.5rem auto; padding: 0 1rem; }}
h1 {{ margin-bottom: 0; }} .note {{ opacity: .7; margin-top: .2rem; }}
table {{ border-collapse: collapse; width: 100%; }}
td, th {{ border-top: 1px solid var(--line); padding: .8rem .6rem; vertical-align: top; text-align: left; }}
th {{ border-top: 0; font-weight: 500; opacity: .7; padding-bottom: .3rem; }}
td.n {{ text-align: right; font-variant-numeric: tabular-nums; }} td.pic {{ width: 15rem; }}
img {{ width: 15rem; border-radius: 4px; background: #fff; }}
a {{ font-weight: 600; text-decoration: none; }} a:hover {{ text-decoration: underline; }}
p {{ margin: .2rem 0; }} .failed {{ color: #d33; white-space: pre-wrap; font: 13px/1.4 ui-monospace, monospace; }}
</style>
<h1>Finding defects on steel</h1>
<p class="note">{note}</p>
<table><tr><th>Notebook<th>Headline<th>Seconds<th></tr>
{rows}
</table></html>
"""


def index(results: list[Result], profile: str, data: Path | None) -> str:
    """The page that lists a run; pictures are inside it, so that it can be sent as one file."""
    rows = []
    for result in results:
        say = {key: html.escape(value) for key, value in vars(result).items() if isinstance(value, str)}
        picture = f'<img alt="first figure of {say["name"]}" src="data:image/png;base64,{result.image}">'
        rows.append(
            f'<tr><td><a href="{say["name"]}.html">{say["name"][:2]} · {say["title"] or say["name"]}</a>'
            f"<p>{say['answer']}</p>"
            + (f'<div class="failed">{say["error"]}</div>' if result.error else "")
            + f'<td>{say["headline"]}<td class="n">{result.seconds:.1f}'
            + f'<td class="pic">{picture if result.image else ""}</tr>'
        )
    note = f"profile {profile} · {html.escape(f'data in {data}') if data else 'synthetic steel'} · "
    note += f"{sum(result.seconds for result in results):.0f} s in all · {time.strftime('%Y-%m-%d %H:%M')}"
    return PAGE.format(note=note, rows="\n".join(rows))


# ---- commands ------------------------------------------------------------------------------------------------------


def check(paths: list[Path]) -> int:
    """Prints the rules that each notebook breaks; returns 1 if there are any."""
    found = [f"{path.name}: {problem}" for path in paths for problem in problems(path)]
    print("\n".join(found) or f"{len(paths)} notebooks, nothing amiss", flush=True)
    return int(bool(found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["write", "run", "check"])
    parser.add_argument("--only", default="", metavar="NN", help="the notebooks whose names begin so")
    data = os.environ.get("STEELNB_DATA")
    parser.add_argument("--data", metavar="DIR", default=data, help="a data set instead of synthetic steel (run)")
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="the folder for the pages of run")
    parser.add_argument("--books", type=Path, default=ROOT / "notebooks", help="the folder of the series")
    asked = parser.parse_args()
    books, out = asked.books.resolve(), asked.out.resolve()
    words = ("kaggle", "synthetic")  # what steelnb.locate understands besides a folder
    data = asked.data if asked.data in words else Path(asked.data).expanduser().resolve() if asked.data else None
    if isinstance(data, Path) and not data.is_dir():
        parser.exit(2, f"there is no folder {data}\n")
    texts = sorted(books.glob(f"{asked.only}*.py"))
    if not texts:
        parser.exit(2, f"no notebook {asked.only}*.py in {books}\n")
    if asked.command == "write":
        series = (books.parent / "pyproject.toml").exists()
        if series:  # a new notebook gets its badges and its setup cell
            address.write(books.parent)
        failed = write(texts)
        if series:  # the times in README's table are those of the cards
            address.write(books.parent)
        return failed
    if asked.command == "run":
        return run(texts, data, out)
    stems = {path.with_suffix("") for path in books.glob(f"{asked.only}*") if path.suffix in (".py", ".ipynb")}
    return check(sorted(stem.with_suffix(".ipynb") for stem in stems))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped")
