"""Figures for a narrow screen: wide enough for their text, a panel per loss, whatever is recorded."""

import numpy as np
import pandas as pd
import pytest

from steelnb.figures import budgets, narrow, plots


def records(losses, steps, seeds):
    rows = [{"loss": loss, "steps": n, "seed": seed, "ap": 0.5 + 0.01 * seed, "dice_chosen": 0.4, "dice_half": 0.1}
            for loss in losses for n in steps for seed in range(seeds)]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("count", [1, 6, 16])
@pytest.mark.parametrize("steps", [(80,), (80, 320, 640, 1280)])
def test_a_panel_per_loss_readable_on_a_phone(count, steps):
    names = [f"loss_{k}" for k in range(count)]
    figure = budgets.draw_budgets(records(names, steps, 3), names)
    figure.canvas.draw()
    assert [ax.get_title(loc="left") for ax in figure.axes if ax.axison] == names
    shrunk = min(1, 390 / (figure.get_figwidth() * figure.dpi))
    texts = [text for ax in figure.axes for text in (*ax.get_xticklabels(), *ax.get_yticklabels(), ax.title)]
    assert min(text.get_fontsize() for text in texts) * figure.dpi / 72 * shrunk >= 8


def test_before_after_draws_both_and_the_limit():
    figure, (ax,) = narrow.panels(2.0)
    narrow.before_after(ax, {"a": (1.9, 0.9), "b": (0.0, 0.0)}, "Dice", limit=1)
    assert len(ax.collections) == 3
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert figure.get_figwidth() == narrow.WIDTH


def test_outline_enlarges_both():
    image, mask = np.full((4, 6), 100, np.uint8), np.zeros((4, 6), bool)
    mask[1:3, 2:4] = True
    big = narrow.outline(image, mask, plots.DEFECT, times=3)
    assert big.shape == (12, 18, 3)
    changed = (big != 100).any(2)
    assert np.array_equal(changed, np.kron(mask, np.ones((3, 3), bool)))


def test_rows_of_pictures_may_differ_in_length():
    picture = np.zeros((8, 8), np.uint8)
    figure = narrow.pictures([{"a": picture, "b": picture}, {"c": picture}])
    assert [ax.get_title() or ax.get_title(loc="left") for ax in figure.axes] == ["a", "b", "c", ""]
