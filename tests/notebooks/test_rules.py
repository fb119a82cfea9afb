"""Each rule finds the notebook that breaks it, and lets a good one pass; the commands keep their word."""

import json
import sys

import nbformat
import pytest

import notebooks
from book import CARD, broken_links, card, fresh, normalise, problems, title_and_answer, with_card

TEXT = '''# ---
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

# %% [markdown]
# # How wide is steel?
#
# It is **1600** pixels wide; see [the text](00_steel.py).

# %% tags=["nbval-check-output", "headline"]
width = 2 * 800
assert width == 1600
print(width, "pixels")

# %%
width

# %% [markdown]
# *Figure 1: nothing moves.*
#
# The end.
'''
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
new_output = nbformat.v4.new_output


def printing(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def showing(**data):
    return new_output("display_data", data={kind.replace("__", "/"): value for kind, value in data.items()})


@pytest.fixture
def pair(tmp_path):
    """A good notebook as `make notebooks` would leave it: (text, path)."""
    text = tmp_path / "notebooks" / "00_steel.py"
    text.parent.mkdir()
    text.write_text(TEXT, encoding="utf-8")
    book = fresh(text)
    for count, (cell, outputs) in enumerate(
        [(book.cells[1], [printing("1600 pixels\n")]), (book.cells[2], [showing(image__png=PNG)])], 1
    ):
        cell.execution_count, cell.outputs = count, outputs
    book.cells[0].source = with_card(book.cells[0].source, card(13.6))
    path = text.with_suffix(".ipynb")
    nbformat.write(book, path)
    return text, path


def spoiled(path, change):
    """The problems of the notebook at `path` after `change(book)`."""
    book = nbformat.read(path, as_version=4)
    change(book)
    path.write_text(json.dumps(book), encoding="utf-8")
    return "\n".join(problems(path))


def test_a_good_notebook_passes(pair):
    assert problems(pair[0]) == problems(pair[1]) == []


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (printing("saved in /tmp/runs\n"), "absolute path"),
        (printing("saved in /home/me/steel/a.png\n"), "absolute path"),
        (printing("saved in C:\\Users\\me\n"), "absolute path"),
        (showing(text__plain="PosixPath('/data/steel')"), "absolute path"),
        (showing(text__html="<b>file:///data</b>"), "absolute path"),
        (printing("\x1b[31mred\x1b[0m"), "terminal colour"),
        (printing("epoch 1\repoch 2"), "carriage return"),
        (printing("50%|█████     | 1/2 [00:01<00:01, 1.0it/s]"), "progress bar"),
        (printing("UserWarning: old\n"), "warning"),
        (printing("hm", "stderr"), "stderr"),
        (new_output("error", ename="ValueError", evalue="no", traceback=["no"]), "error in its output"),
        (showing(text__plain="<Axes at 0x7f33d0a1b2c0>"), "memory address"),
        (new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}), "widget"),
        (new_output("display_data", data={"text/plain": "1"}, metadata={"isolated": True}), "metadata"),
        (new_output("display_data", data={"image/svg+xml": "<svg/>"}), "not PNG"),
        (new_output("execute_result", data={"text/plain": "1"}, execution_count=7), "another run"),
    ],
)
def test_outputs(pair, output, said):
    def change(book):
        book.cells[2].outputs.append(output)

    assert said in spoiled(pair[1], change)


@pytest.mark.parametrize("text", ["3/4/5", "a/b/c.png", "2026/11/22", "https://example.org/a/b/c", "N/C/H", "1600 px"])
def test_outputs_that_are_fine(pair, text):
    assert spoiled(pair[1], lambda book: book.cells[2].outputs.append(printing(text))) == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda book: book.metadata.update(widgets={}), "metadata"),
        (lambda book: book.metadata.pop("accelerator"), "metadata"),
        (lambda book: book.metadata.kernelspec.update(name="other"), "metadata"),
        (lambda book: book.cells[1].metadata.update(scrolled=True), "cell metadata"),
        (lambda book: book.cells[2].metadata.update(tags=["raises-exception"]), "hides failures"),
        (lambda book: book.cells[2].update(id="other"), "cell ids"),
        (lambda book: book.cells[2].update(source="width + 1"), "not its text's"),
        (lambda book: book.cells[2].metadata.update(tags=["new"]), "not its text's"),
        (lambda book: book.cells.pop(2), "not its text's"),
        (lambda book: book.cells[2].update(execution_count=5), "top to bottom"),
        (lambda book: book.cells[2].update(execution_count=None), "top to bottom"),
        (lambda book: book.cells[2].update(source=""), "empty code cell"),
        (lambda book: book.cells[2].update(source="x\n" * 41), "42 lines"),
        (lambda book: book.cells[1].update(source="width = 1"), "no assert"),
        (lambda book: book.cells[1].update(outputs=[]), "prints nothing"),
        (lambda book: book.cells[1].outputs[0].update(text="one\ntwo"), "prints one line"),
        (lambda book: book.cells[1].metadata.update(tags=["nbval-check-output"]), "headline"),
        (lambda book: book.cells[1].metadata.update(tags=["headline"]), "nbval-check-output"),
        (lambda book: book.cells[0].update(source="Steel is wide."), "# title"),
        (lambda book: book.cells[0].update(source=CARD.sub("", book.cells[0].source)), "card"),
        (lambda book: book.cells[0].update(source=book.cells[0].source.replace("verified", "seen")), "card"),
        (lambda book: book.cells[0].update(source=with_card(book.cells[0].source, card(1))), "card"),
        (lambda book: [cell.update(source="# Steel") for cell in (book.cells[0], book.cells[3])], "no answer"),
        (lambda book: book.cells[0].update(source=book.cells[0].source + " [x](gone.md)"), "nowhere: gone.md"),
        (lambda book: book.cells[3].update(source="Figure 1: no italics."), "*Figure 1"),
        (lambda book: book.cells[3].update(source="*Figure 2: wrong number.*"), "*Figure 1"),
        (lambda book: book.cells.pop(3), "*Figure 1"),
        (lambda book: book.cells[2].outputs.append(printing("x" * 400_000)), "KB, over 400"),
        (lambda book: book.pop("cells"), "not a valid notebook"),
    ],
)
def test_notebook(pair, change, said):
    assert said in spoiled(pair[1], change)


def test_the_card_is_measured_not_written():
    for line in (card(13.6), card(13.6, "7 s (NVIDIA T4)")):
        first = with_card("# A\n\nB.\n\n| c | d |\n|---|---|\n| e | f |\n\nG.", line)
        assert first.startswith("# A\n\nB.\n\n| c | d |\n|---|---|\n| e | f |\n\n> *Runs in 14 s ")
        assert first.endswith("*\n\nG.")
        assert CARD.search(first)["seconds"] == "14"
        assert "+" not in CARD.search(first)[0]  # versions without the build they come from
    assert "7 s (NVIDIA T4)" in line


def test_a_card_in_the_text_is_refused(pair):
    text, path = pair
    line = card(1).replace("\n\n", "\n#\n# ")
    link = "see [the text](00_steel.py)."
    text.write_text(TEXT.replace(link, f"{link}{line}"), encoding="utf-8")
    assert any("card" in problem for problem in problems(path))


WISH = "#   accelerator: GPU\n#   colab:\n#     gpuType: T4\n"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("#   colab:\n#     gpuType: T4\n", "", "half a wish"),
        ("gpuType: T4", "gpuType: A100", "half a wish"),
        ("#   accelerator: GPU\n", "", "half a wish"),
        (WISH, "", ""),
        ("# ---\n\n", "# ---\n\n# %%\nrun(device=runtime.device())\n\n", ""),
        (f"{WISH}# ---\n", "# ---\n\n# %%\nruntime.device()\n", "does not ask Colab"),
    ],
)
def test_a_gpu_is_asked_for_wholly_where_one_is_used(pair, old, new, said):
    text, path = pair
    text.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    found = [problem for problem in problems(path) if "GPU" in problem]
    assert len(found) == bool(said)
    assert said in "".join(found)


def test_missing_half_or_broken_json(pair):
    text, path = pair
    path.write_text("{", encoding="utf-8")
    assert "not a valid notebook" in problems(path)[0]
    path.unlink()
    assert problems(text) == ["there is no 00_steel.ipynb"]
    nbformat.write(nbformat.v4.new_notebook(), path)
    text.unlink()
    assert problems(path) == ["there is no 00_steel.py"]


def test_links(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "00_a.ipynb").touch()
    (tmp_path / "a b.md").touch()
    colab = "https://colab.research.google.com/github/o/r/blob/main/notebooks/"
    good = f'[x](a%20b.md#top) [y](#z) [![b](https://h/i.svg)]({colab}00_a.ipynb) <img src="notebooks"> `[c](d)`'
    assert broken_links(good, tmp_path) == []
    assert broken_links(f"[b]({colab}00_a.ipynb)", tmp_path / "notebooks") == []
    for bad in (f"[b]({colab}01_b.ipynb)", "![p](p.png)", '<a href="p.md">p</a>', "[p]: p.md"):
        assert len(broken_links(bad, tmp_path)) == 1, bad


def test_normal_form(pair):
    path = pair[1]
    book = nbformat.read(path, as_version=4)
    assert title_and_answer(book) == ("How wide is steel?", "It is 1600 pixels wide; see the text.")
    book.cells[1].outputs = [printing("1600 "), printing("pixels\n"), showing(image__png=PNG, text__plain="<F>")]
    book.cells[2].outputs = [new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {}})]
    book.cells[2].metadata = nbformat.from_dict({"scrolled": True})
    normalise(book)
    assert book.cells[1].outputs == [printing("1600 pixels\n"), showing(image__png=PNG, text__plain="<F>")]
    assert book.cells[2].outputs == []
    assert book.cells[2].metadata == {}


PICTURE = f"from base64 import b64decode\n\nfrom IPython.display import Image\n\nImage(b64decode({PNG!r}))\n"
DRAWING = TEXT.replace("# %%\nwidth\n", f"# %%\n{PICTURE}")


def test_write_writes_all_or_nothing(tmp_path, capsys):
    text = tmp_path / "00_steel.py"
    text.write_text(DRAWING, encoding="utf-8")
    assert notebooks.write([text]) == 0, capsys.readouterr()
    before = text.with_suffix(".ipynb").read_bytes()
    assert 0 < int(CARD.search(nbformat.reads(before.decode(), 4).cells[0].source)["seconds"]) < 120
    text.write_text(DRAWING.replace("print(width", "import sys\n\nprint('hm', file=sys.stderr)\nprint(width"))
    assert notebooks.write([text]) == 1
    assert "cell [1] wrote to stderr" in capsys.readouterr().err
    assert text.with_suffix(".ipynb").read_bytes() == before
    assert notebooks.check([text]) == 1
    assert "not its text's" in capsys.readouterr().out


def test_run_goes_on_after_a_failure(tmp_path, capsys):
    books, data, out = tmp_path / "books", tmp_path / "my steel", tmp_path / "out put"
    books.mkdir()
    data.mkdir()
    show = "import os\nimport sys\n\nprint(os.environ['STEELNB_DATA'], sys.executable, os.getcwd())\n"
    (books / "00_fails.py").write_text(TEXT.replace("width = 2 * 800", "width = 3"), encoding="utf-8")
    (books / "01_works.py").write_text(DRAWING.replace("# %%\n", f"# %%\n{show}"), encoding="utf-8")
    assert notebooks.run(sorted(books.glob("*.py")), data, out) == 1
    said = capsys.readouterr().out
    assert "FAILED: cell [1]: AssertionError" in said
    assert "1600 pixels" in said
    kept = nbformat.read(out / "00_fails.ipynb", as_version=4)
    assert kept.cells[1].outputs[0].ename == "AssertionError"
    shown = nbformat.read(out / "01_works.ipynb", as_version=4).cells[2].outputs[0].text
    assert shown == f"{data} {sys.executable} {books}\n"  # this interpreter's kernel, in the folder of the series
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "How wide is steel?" in page
    assert f"data:image/png;base64,{PNG}" in page
    assert (out / "00_fails.html").exists()


def test_run_names_a_missing_folder_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["notebooks.py", "run", "--data", str(tmp_path / "no steel")])
    with pytest.raises(SystemExit) as end:
        notebooks.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == f"there is no folder {tmp_path / 'no steel'}\n"
