"""Probability maps and scores by step: what is drawn is what was given."""

import numpy as np
import pandas as pd
import pytest

from steelnb.figures import learning


def test_every_map_is_drawn_on_one_scale_under_its_title():
    rng = np.random.default_rng(0)
    mask = np.zeros((8, 8), bool)
    mask[2:5, 3:6] = True
    blocks = {"few": {"step 0": rng.random((8, 8))}, "many": {f"step {k}": rng.random((8, 8)) for k in range(5)}}
    figure = learning.draw_probability_maps(rng.integers(0, 255, (8, 8), dtype=np.uint8), mask, blocks)
    for part, (title, maps) in zip(figure.subfigs, blocks.items(), strict=True):
        assert part.get_suptitle() == title
        shown = [ax for ax in part.axes if ax.images]
        assert [ax.get_title(loc="left") for ax in shown] == ["steel, label", *maps]
        for ax, each in zip(shown[1:], maps.values(), strict=True):
            assert np.array_equal(ax.images[0].get_array(), each)
            assert ax.images[0].get_clim() == (0, 1)


def test_curves_are_means_over_seeds():
    curves = pd.DataFrame([
        {"share": share, "arm": "bce", "seed": seed, "step": step, "ap": share + seed / 10, "dice_half": step / 1000}
        for share in (0.06, 0.01) for seed in (0, 1) for step in (0, 20)])
    figure = learning.draw_by_step(curves, {"bce": "BCE"})
    titles = [f"{share} defect: BCE's mask stays black" for share in ("1%", "6%")]
    assert [ax.get_title(loc="left") for ax in figure.axes] == titles
    figure = learning.draw_by_step(curves.assign(dice_half=0.4), {"bce": "BCE"})
    assert figure.axes[1].get_title(loc="left") == "6% defect: BCE's mask ends with Dice 0.40"
    figure = learning.draw_by_step(curves, {"dice": "Dice loss", "bce": "BCE"})  # whose first arm is not recorded yet
    assert figure.axes[1].get_title(loc="left") == "6% defect"
    figure = learning.draw_by_step(curves, {"bce": "BCE"})
    ap, dice, _ = figure.axes[1].lines
    assert ap.get_ydata() == pytest.approx([0.11, 0.11])
    assert dice.get_ydata() == pytest.approx([0, 0.02])
