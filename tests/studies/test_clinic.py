"""The tools of the eight facts against brute force; verdicts from records made up."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from studies import clinic
from studies.plain import dices


def expected_dice(mask, p):
    """Over all labels that independent pixels of probability p can have."""
    total = 0.0
    for label in product((0, 1), repeat=len(p)):
        t = np.array(label)
        chance = np.prod(np.where(t, p, 1 - p))
        total += chance * (2 * (mask & t).sum() / (mask.sum() + t.sum()) if mask.sum() + t.sum() else 1.0)
    return total


@pytest.mark.parametrize("seed", range(5))
def test_ranked_mask_beats_the_half_in_expected_dice(seed):
    p = np.random.default_rng(seed).beta(0.6, 1.2, 9)
    p[0] = 0.9  # so that an empty answer is no option
    best = max(expected_dice(np.array(m), p) for m in product((0, 1), repeat=9))
    ranked = expected_dice(clinic.ranked_mask(p).astype(int), p)
    assert ranked >= expected_dice((p > 0.5).astype(int), p) - 1e-12
    assert ranked == pytest.approx(best, abs=0.02)


def test_ranked_mask_takes_the_most_probable_pixels_and_keeps_the_shape():
    p = np.array([[0.4, 0.1], [0.45, 0.0]])
    assert clinic.ranked_mask(p).tolist() == [[True, False], [True, False]]


def test_dice_by_defect_sees_the_one_that_was_left_out():
    mask = np.zeros((20, 40), bool)
    mask[5:15, 2:12] = mask[8:10, 30:32] = True
    labels, n = ndimage.label(mask)
    large_alone = labels == 1
    assert clinic.dice_by_defect(large_alone, labels, n) == [1.0, 0.0]
    assert dices(large_alone[None], mask[None])[0] > 0.97


def test_free_logits_reach_the_labels_under_cross_entropy():
    import torch

    t = torch.tensor([[[[0.2, 0.7, 1.0]]]], dtype=torch.float64)
    assert clinic._free(lambda x: clinic.LOSSES["bce"](x, t), 3)[0] == pytest.approx([0.2, 0.7, 1.0], abs=0.01)


def test_verdicts_follow_the_interval_and_not_the_mean():
    sure = pd.DataFrame({"fact": "count", "value": [0.30, 0.31, 0.32], "remedy": 0.7, "cpu_seconds": 1.0})
    unsure = sure.assign(value=[0.1, 0.3, 0.6])
    assert clinic.verdicts(sure)["holds"].tolist() == [True]
    assert clinic.verdicts(unsure)["holds"].tolist() == [False]
    assert "| count | 3 |" in clinic.summary(sure)
    one = clinic.verdicts(sure.head(1))
    assert not one["holds"].any()  # a single seed proves nothing
