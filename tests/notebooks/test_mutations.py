"""nbval catches what it should: a notebook turns red under a library with one fault, by its claims and by its outputs.

The fault is put into a copy of the library, which the kernel finds first; a notebook runs until its first red cell.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
FAULTS = {  # module, what stands there, the fault, the notebook, what the red cell says
    "mirrors the wrong way": (
        "network/tiles.py", "2 * size - 1 - place", "2 * size - 2 - place", "02", "assert np.array_equal(places,"),
    "drops the sigmoid": (
        "losses/sound.py", "axes, p = _axes(per), logits.sigmoid()", "axes, p = _axes(per), logits", "07",
        "dice_by_hand("),
    "shifts run-length text by one": (
        "data/rle.py", "lengths = pairs[:, 0] - 1", "lengths = pairs[:, 0]", "01",
        "assert np.array_equal(mask, rle.decode("),
}


class WithoutClaims(ast.NodeTransformer):
    """Code as it would be if it asserted nothing."""

    def visit_Assert(self, node: ast.Assert) -> ast.Pass:
        return ast.copy_location(ast.Pass(), node)


def under(folder, notebook, module, old, new, claims=True):
    """What nbval says of a committed notebook under the library with `new` for `old` in a module; its exit status."""
    shutil.copytree(ROOT / "steelnb", folder / "steelnb", ignore=shutil.ignore_patterns("__pycache__"))
    text = (folder / "steelnb" / module).read_text("utf-8")
    assert old in text
    (folder / "steelnb" / module).write_text(text.replace(old, new), "utf-8")
    (path,) = (ROOT / "notebooks").glob(f"{notebook}_*.ipynb")
    book = nbformat.read(path, as_version=4)
    for cell in () if claims else book.cells:
        if cell.cell_type == "code":
            cell.source = ast.unparse(WithoutClaims().visit(ast.parse(cell.source)))
    where = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "id": "where",
             "source": f"import steelnb\nassert steelnb.__file__.startswith({str(folder)!r})"}
    book.cells.insert(0, nbformat.from_dict(where))
    nbformat.write(book, folder / path.name)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(folder), "STEELNB_PROFILE": "smoke", "TQDM_DISABLE": "1"}
    options = ["-x", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "300"]
    command = [sys.executable, "-m", "pytest", *options, path.name]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return re.sub(r"\x1b\[[\d;]*m", "", done.stdout), done.returncode


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_turns_a_notebook_red(tmp_path, name):
    module, old, new, notebook, red = FAULTS[name]
    said, status = under(tmp_path, notebook, module, old, new)
    assert status == 1
    assert red in said
    assert int(re.search(r"1 failed, (\d+) passed", said)[1]) >= 2  # the copy was found, and cells before were green


def test_outputs_alone_turn_it_red(tmp_path):
    module, old, new, notebook, _ = FAULTS["mirrors the wrong way"]
    said, status = under(tmp_path, notebook, module, old, new, claims=False)
    assert status == 1
    assert "Cell outputs differ" in said
