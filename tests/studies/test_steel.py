"""What the studies measure with, against scikit-learn, SciPy and sums done by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, f1_score

from studies import compare, steel


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=40))
def test_average_precision_is_scikit_learns_with_ties_as_without(pairs):
    scores, truth = (np.array(part) for part in zip(*pairs, strict=True))
    if not truth.any():
        assert np.isnan(steel.average_precision(scores, truth))
    else:
        assert steel.average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores))


def test_dice_is_the_f1_of_each_defective_image():
    rng = np.random.default_rng(0)
    predicted, masks = rng.random((6, 50)) > 0.5, rng.random((6, 50)) > 0.7
    masks[2] = False
    expected = [f1_score(mask, guess) for guess, mask in zip(predicted, masks, strict=True) if mask.any()]
    assert steel.dices(predicted, masks) == pytest.approx(expected)


def test_the_threshold_chosen_is_the_best_of_its_candidates():
    rng = np.random.default_rng(1)
    masks = rng.random((5, 200)) > 0.8
    scores = rng.normal(size=masks.shape) + 2.0 * masks
    best = steel.dices(scores > steel.best_threshold(scores, masks), masks).mean()
    assert best >= steel.dices(scores > 0, masks).mean()
    assert best >= max(steel.dices(scores > t, masks).mean() for t in np.linspace(-3, 4, 200)) - 0.01


def test_one_seed_gives_all_losses_the_same_start_and_order():
    seen = {}
    crops = steel.Crops(torch.arange(8 * 256, dtype=torch.uint8).reshape(8, 1, 16, 16), torch.zeros(8, 1, 16, 16) > 1)
    for factor in (1.0, 2.0):
        heads = seen[factor] = []

        def loss(logits, masks, factor=factor, heads=heads):
            heads.append(logits.detach().clone())
            return factor * logits.square().mean()

        steel.train(loss, crops, 3, seed=5)
    assert torch.equal(seen[1.0][0], seen[2.0][0])
    assert not torch.equal(seen[1.0][0], seen[1.0][1])


def test_the_bias_starts_where_it_is_put():
    crops = steel.Crops(torch.zeros(4, 1, 16, 16, dtype=torch.uint8), torch.zeros(4, 1, 16, 16) > 1)
    network = steel.train(None, crops, 0, seed=0, bias=-4.6)
    assert network.head.bias.item() == pytest.approx(-4.6)


def test_parts_share_no_group(tmp_path, steel_folder):
    from steelnb.data import dataset

    data = dataset.read_dataset(steel_folder)
    ids = sorted(data.images["ImageId"])
    groups = {image_id: ids[n // 2] for n, image_id in enumerate(ids)}
    sides = [{groups[i] for i in part.images["ImageId"]} for part in steel.three(data.with_groups(groups))]
    assert all(sides)
    assert not (sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2])


def test_a_difference_over_seeds_is_the_paired_t_interval():
    rng = np.random.default_rng(2)
    a, b = (pd.Series(rng.normal(size=6)) for _ in range(2))
    expected = stats.ttest_rel(a, b).confidence_interval()
    found = compare.over_seeds(a, b)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert compare.over_seeds(a[:1], b[:1]).same is False  # one seed says nothing


def test_a_difference_over_seeds_and_images_is_paired_and_covers_the_truth():
    rng, covered = np.random.default_rng(3), 0
    for _ in range(100):
        images = rng.normal(size=(1, 60))  # what an image is worth falls out of a paired difference
        a, b = ({seed: images[0] + rng.normal(scale=0.05, size=60) + shift for seed in range(5)}
                for shift in (0.03, 0.0))
        found = compare.over_seeds_and_images(pd.Series(a), pd.Series(b), draws=400)
        covered += found.low <= 0.03 <= found.high
        assert found.high - found.low < 0.05
    assert covered >= 85
    one = compare.over_seeds_and_images(pd.Series({0: [0.5] * 4}), pd.Series({0: [0.49] * 4}))
    assert one.mean == pytest.approx(0.01)
    assert one.same
