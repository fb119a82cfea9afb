"""A notebook about a failure turns red when the failure stops failing: here a sound loss takes the broken one's place.

Of each notebook only the cells run that the claim needs, found by the names that they define and use.
"""

import ast
import functools
import symtable
from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import pytest

from steelnb import losses
from steelnb.evaluation import recorded
from steelnb.losses import broken as broken
from studies import imbalance

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def names(cell: str) -> tuple[set[str], set[str]]:
    """What a cell takes from the cells before it, in its functions too, and what it leaves behind."""
    tables, taken, left = [symtable.symtable(cell, "cell", "exec")], set(), set()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if table.get_type() == "module":
                left |= {symbol.get_name()} if symbol.is_assigned() or symbol.is_imported() else set()
                taken |= {symbol.get_name()} if symbol.is_referenced() else set()
            elif symbol.is_global():
                taken.add(symbol.get_name())
    return taken, left


def needed(cells: list[str], last: int) -> list[str]:
    """The cells up to `last` without which it could not run."""
    kept, wanted = [cells[last]], names(cells[last])[0]
    for cell in reversed(cells[:last]):
        taken, left = names(cell)
        if left & wanted:
            kept.insert(0, cell)
            wanted = wanted - left | taken
    return kept


class WithoutAsserts(ast.NodeTransformer):
    """A cell as it would be if it claimed nothing."""

    def visit_Assert(self, node: ast.Assert) -> ast.Pass:
        return ast.copy_location(ast.Pass(), node)


def run_to(notebook: str, claim: str) -> dict:
    """Runs what the one cell needs that holds the text `claim`, and then that cell; the names that are then defined."""
    (path,) = NOTEBOOKS.glob(f"{notebook}_*.py")
    cells = [cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code"]
    (last,) = [number for number, cell in enumerate(cells) if claim in cell]
    *before, target = needed(cells, last)
    space = {}
    for cell in before:
        exec(compile(WithoutAsserts().visit(ast.parse(cell)), path.name, "exec"), space)
    try:
        exec(compile(target, path.name, "exec"), space)
    finally:
        plt.close("all")
    return space


def sound(outputs, mask, **_):
    return losses.dice_loss(outputs, mask)


def test_needed_leaves_out_what_plays_no_part():
    cells = ["import math", "a = 1", "b = 2", "def f(x):\n    return a + x", "assert f(3) == math.floor(4.5)"]
    assert needed(cells, 4) == [cells[0], cells[1], cells[3], cells[4]]


@pytest.mark.parametrize(
    ("notebook", "module", "broken", "claim"),
    [
        ("05", losses, "bce_loss", 'assert FULL or ((plateau["dice"] < 0.03).all()'),
        ("06", broken, "raw_dice_loss", "negative >= 1 and positive >= 1"),
        ("06", broken, "thresholded_dice_loss", "backward should have been refused"),
        ("06", broken, "original_thresholded_dice_loss", "assert before == after and not any(gradients)"),
        ("08", broken, "raw_dice_loss", "broken.raw_dice_loss(below_pole, mask) < -10"),
        ("08", broken, "probability_bce_loss", "broken.probability_bce_loss(sure, sure > 0).isnan()"),
        ("08", broken, "half_dice_loss", "broken.half_dice_loss(unsure, mask) == 1"),
        ("08", broken, "byte_mask_dice_loss", 'found["the right mask"][0] > 1.9'),
        ("08", broken, "original_thresholded_dice_loss", "assert without == 0 and with_gradient == 2"),
    ],
)
def test_without_the_failure_the_notebook_is_red(notebook, module, broken, claim, monkeypatch):
    loss = getattr(module, broken)
    monkeypatch.setattr(module, broken, replaced := functools.wraps(loss)(sound))
    monkeypatch.setitem(losses.LOSSES, broken.removesuffix("_loss"), replaced)
    with pytest.raises(AssertionError):
        run_to(notebook, claim)


def test_notebook_05_reads_the_record_as_the_study_does():
    rows = run_to("05", "recordings = pd.DataFrame(")["recordings"]
    told = imbalance.summary(recorded.records("imbalance")).splitlines()
    assert len(rows) >= 6
    for share, arm, seeds, ranks, mask_from in rows.iloc[:, :5].itertuples(index=False):
        (line,) = [line for line in told if line.startswith(f"| {share} | `{arm}` | {seeds} |")]
        assert line.endswith(f"| {ranks:g} | {mask_from:g} |")
