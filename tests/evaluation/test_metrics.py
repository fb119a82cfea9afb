"""Metrics against scikit-learn and by hand, with each convention for empty masks; batches against all at once."""

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    jaccard_score,
    precision_recall_curve,
    precision_score,
    recall_score,
)

from steelnb.evaluation import metrics
from steelnb.evaluation.metrics import EMPTY, Streaming

fixed = settings(deadline=None, derandomize=True, max_examples=40)
SEEDS, SHARES = st.integers(0, 1000), st.sampled_from([0, 0.1, 0.5, 1])


def sample(seed=0, shape=(4, 3, 5, 6), share=0.3):
    """Random predictions and masks; some pairs have an empty mask, an empty prediction, or both."""
    rng = np.random.default_rng(seed)
    prediction, mask = rng.random(shape) < share, rng.random(shape) < share
    prediction &= (rng.random(shape[:2]) < 0.6)[..., None, None]
    mask &= (rng.random(shape[:2]) < 0.6)[..., None, None]
    return torch.tensor(prediction), torch.tensor(mask)


def by_sklearn(score, prediction, mask, empty):
    """One value an image and class, each a label of its own for scikit-learn; a mask that is empty may be skipped."""
    p, t = (x.flatten(0, 1).flatten(1).T.numpy() for x in (prediction, mask))
    values = score(t, p, average=None, zero_division=1.0 if empty == "one" else 0.0)
    if empty == "skip":
        values[~t.any(0)] = np.nan
    return values.reshape(mask.shape[:2])


@pytest.mark.parametrize("empty", EMPTY)
@given(SEEDS, SHARES)
@fixed
def test_pairs_against_sklearn(empty, seed, share):
    prediction, mask = sample(seed, share=share)
    for ours, theirs in ((metrics.dice, f1_score), (metrics.iou, jaccard_score)):
        values = ours(prediction, mask, empty=empty)
        assert values.dtype == torch.float64
        assert values.shape == mask.shape[:2]
        np.testing.assert_allclose(values.numpy(), by_sklearn(theirs, prediction, mask, empty), rtol=1e-12)


@pytest.mark.parametrize("empty", EMPTY)
@given(SEEDS, SHARES, st.lists(st.integers(1, 5), min_size=1, max_size=4))
@fixed
def test_streaming_against_sklearn(empty, seed, share, sizes):
    prediction, mask = sample(seed, (sum(sizes), 2, 4, 5), share)
    stream = Streaming()
    for p, t in zip(prediction.split(sizes), mask.split(sizes), strict=True):
        stream.update(p, t)
    scores = stream.scores(empty=empty)
    t, p = mask.flatten().numpy(), prediction.flatten().numpy()
    for name, score in (("dice_all_pixels", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert scores[name] == pytest.approx(score(t, p, zero_division=np.nan), nan_ok=True), name
    assert scores["accuracy"] == pytest.approx(accuracy_score(t, p))
    for name, score in (("dice", f1_score), ("iou", jaccard_score)):
        values = by_sklearn(score, prediction, mask, empty)
        expected = np.nan if np.isnan(values).all() else np.nanmean(values)
        assert scores[name] == pytest.approx(expected, nan_ok=True), name
    clean = ~mask.any(-1).any(-1)
    alarms = (prediction.any(-1).any(-1) & clean).sum().item()
    expected = alarms / clean.sum().item() if clean.any() else np.nan
    assert scores["false_alarm_rate"] == pytest.approx(expected, nan_ok=True)


def test_batches_and_all_at_once_sum_to_the_same():
    prediction, mask = sample(1, (12, 4, 6, 7))
    once, batched = Streaming(), Streaming()
    once.update(prediction, mask)
    for p, t in zip(prediction.split(5), mask.split(5), strict=True):
        batched.update(p, t)
    assert asdict(batched) == pytest.approx(asdict(once), rel=1e-12)
    assert Streaming(**asdict(once)) == once  # the sums are all there is
    assert asdict(once)["pixels"] == mask.numel()
    assert asdict(once)["pairs"] == 48


def pair(prediction, mask):
    return (torch.tensor([[[prediction]]], dtype=torch.bool), torch.tensor([[[mask]]], dtype=torch.bool))


@pytest.mark.parametrize(("prediction", "mask", "empty", "dice", "iou"), [
    ([0, 0, 0], [0, 0, 0], "one", 1, 1), ([0, 0, 0], [0, 0, 0], "zero", 0, 0),
    ([0, 0, 0], [0, 0, 0], "skip", math.nan, math.nan),
    ([0, 1, 0], [0, 0, 0], "one", 0, 0), ([0, 1, 0], [0, 0, 0], "zero", 0, 0),
    ([0, 1, 0], [0, 0, 0], "skip", math.nan, math.nan),
    *[([0, 0, 0], [0, 1, 0], empty, 0, 0) for empty in EMPTY],
    *[([1, 1, 0], [0, 1, 1], empty, 2 / 4, 1 / 3) for empty in EMPTY],
    *[([1, 1, 1], [1, 1, 1], empty, 1, 1) for empty in EMPTY],
])
def test_by_hand(prediction, mask, empty, dice, iou):
    p, t = pair(prediction, mask)
    assert metrics.dice(p, t, empty=empty).item() == pytest.approx(dice, nan_ok=True)
    assert metrics.iou(p, t, empty=empty).item() == pytest.approx(iou, nan_ok=True)
    stream = Streaming()
    stream.update(p, t)
    assert stream.scores(empty=empty)["dice"] == pytest.approx(dice, nan_ok=True)
    assert stream.scores(empty=empty)["iou"] == pytest.approx(iou, nan_ok=True)


def test_counts():
    prediction, mask = sample(2)
    both, predicted, true = metrics.counts(prediction, mask)
    assert {x.dtype for x in (both, predicted, true)} == {torch.int64}
    for n, k in np.ndindex(4, 3):
        p, t = prediction[n, k].numpy(), mask[n, k].numpy()
        assert (both[n, k], predicted[n, k], true[n, k]) == ((p & t).sum(), p.sum(), t.sum())
    again = metrics.counts(prediction.numpy(), mask.numpy())  # arrays will do
    assert all(torch.equal(a, b) for a, b in zip(again, (both, predicted, true), strict=True))


def test_nothing_to_score_is_nan():
    for empty in EMPTY:
        assert all(math.isnan(value) for value in Streaming().scores(empty=empty).values())
    stream = Streaming()
    stream.update(*pair([0, 0], [0, 0]))
    scores = stream.scores(empty="skip")
    undefined = {name for name, value in scores.items() if math.isnan(value)}
    assert undefined == {"dice", "iou", "dice_all_pixels", "precision", "recall"}
    assert (scores["accuracy"], scores["false_alarm_rate"]) == (1, 0)
    full = Streaming()
    full.update(*pair([1, 0], [1, 1]))
    assert math.isnan(full.scores(empty="one")["false_alarm_rate"])


def test_kaggle_dice_by_hand():
    """Two images, four classes: three hits of different quality, one miss, one false alarm, three empty agreements."""
    mask, prediction = torch.zeros(2, 2, 4, 1, 4, dtype=torch.bool)
    mask[0, 0, 0, :2] = prediction[0, 0, 0, :2] = True  # 1
    mask[0, 1, 0, :2] = prediction[0, 1, 0, 1:3] = True  # 2·1 / 4
    mask[1, 2, 0, 0] = prediction[1, 2, 0, :] = True  # 2·1 / 5
    mask[1, 0, 0, 3] = True  # missed: 0
    prediction[1, 3, 0, 3] = True  # false alarm: 0
    assert metrics.kaggle_dice(prediction, mask) == pytest.approx((1 + 0.5 + 0.4 + 0 + 0 + 3) / 8)
    assert metrics.dice(prediction, mask, empty="skip").nanmean().item() == pytest.approx((1 + 0.5 + 0.4 + 0) / 4)
    assert metrics.dice(prediction, mask, empty="zero").mean().item() == pytest.approx((1 + 0.5 + 0.4) / 8)


def severstal_train():
    """Its masks with one pixel an image: 5,902 clean images, 6,239 with one class, 425 with two, 2 with three."""
    classes = np.repeat([0, 1, 2, 3], [5902, 6239, 425, 2])
    return torch.tensor(np.arange(4) < classes[:, None])[..., None, None]


def test_predicting_nothing_is_worth_most_of_a_kaggle_score():
    mask = severstal_train()
    assert mask.shape == (12568, 4, 1, 1)
    nothing = torch.zeros_like(mask)
    score = metrics.kaggle_dice(nothing, mask)
    assert score == pytest.approx(1 - 7095 / (4 * 12568))
    assert 0.85 < score < 0.87
    assert metrics.dice(nothing, mask, empty="skip").nanmean().item() == 0
    binary = mask.any(1, keepdim=True)
    assert metrics.kaggle_dice(nothing[:, :1], binary) == pytest.approx(5902 / 12568)
    stream = Streaming()
    stream.update(nothing, mask)
    assert stream.scores(empty="one")["dice"] == pytest.approx(score)
    assert stream.scores(empty="skip")["dice"] == stream.scores(empty="zero")["dice"] == 0
    assert stream.scores(empty="one")["false_alarm_rate"] == 0


def test_original_accuracy_by_hand():
    p = torch.tensor([[[[0.9, 0.5, 0.1]]], [[[0.2, 0.3, 0.4]]], [[[0.2, 0.7, 0.4]]]])  # 0.5 counts as defect
    t = torch.tensor([[[[1, 1, 1]]], [[[0, 0, 0]]], [[[0, 0, 0]]]])
    expected = ((4 + 1e-4) / (5 + 1e-4) + 1 + 1e-4 / (1 + 1e-4)) / 3
    for mask in (t, t.bool(), t.float()):
        assert metrics.original_accuracy(p, mask) == pytest.approx(expected, rel=1e-9)
    smooth = ((4 + 1) / (5 + 1) + 1 + 1 / 2) / 3
    assert metrics.original_accuracy(p, t, smooth=1) == pytest.approx(smooth, rel=1e-9)


def test_original_accuracy_is_kaggle_s_up_to_smoothing():
    prediction, mask = sample(3, (8, 1, 20, 20))
    ours = metrics.original_accuracy(prediction.float(), mask)
    assert ours == pytest.approx(metrics.kaggle_dice(prediction, mask), abs=1e-4)
    assert ours != metrics.kaggle_dice(prediction, mask)


CALLS = [metrics.counts, metrics.kaggle_dice, lambda p, t: Streaming().update(p, t),
         lambda p, t: metrics.dice(p, t, empty="one"), lambda p, t: metrics.iou(p, t, empty="one")]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64])
def test_what_is_not_bool_is_refused(call, dtype):
    mask = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    for p, t in ((mask.to(dtype), mask), (mask, mask.to(dtype))):
        with pytest.raises(ValueError, match=r"both must be bool, got .*compare, e\.g\. `logits > 0`"):
            call(p, t)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("p", "t"), [((2, 1, 3, 3), (2, 3, 3)), ((2, 1, 3, 3), (1, 1, 3, 3)), ((3, 3), (3, 3)),
                                      ((2, 4, 3, 3), (2, 1, 3, 3))])
def test_shapes_that_would_broadcast_are_refused(call, p, t):
    with pytest.raises(ValueError, match=r"both must be \[N, K, H, W\], got \["):
        call(torch.ones(p, dtype=torch.bool), torch.ones(t, dtype=torch.bool))


def test_the_convention_must_be_said():
    prediction, mask = sample()
    for call in (lambda e: metrics.dice(prediction, mask, empty=e), lambda e: metrics.iou(prediction, mask, empty=e),
                 lambda e: Streaming().scores(empty=e)):
        with pytest.raises(ValueError, match="empty is 'nan'; it must be one of one, skip, zero"):
            call("nan")
    for call in (metrics.dice, metrics.iou):
        with pytest.raises(TypeError):
            call(prediction, mask)
    with pytest.raises(TypeError):
        Streaming().scores()


# ---- connected defects


def components_by_loop(prediction, mask):
    """A flood fill of its own, pixel by pixel, over the eight neighbours."""

    def parts(pixels):
        left, found = set(zip(*map(np.ndarray.tolist, np.nonzero(pixels)), strict=True)), []
        while left:
            part, new = set(), [left.pop()]
            while new:
                part.add(pixel := new.pop())
                near = {(pixel[0] + y, pixel[1] + x) for y in (-1, 0, 1) for x in (-1, 0, 1)} & left
                left -= near
                new += near
            found.append(part)
        return found

    defects, alarms = parts(mask), parts(prediction)
    shares = [np.mean([prediction[pixel] for pixel in part]) for part in defects]
    false = sum(not any(mask[pixel] for pixel in part) for part in alarms)
    return len(defects), sum(s > 0 for s in shares), sum(s >= 0.5 for s in shares), false


@given(SEEDS, st.integers(1, 12), st.integers(1, 12), SHARES, SHARES)
@fixed
def test_components_against_a_flood_fill(seed, height, width, p_share, t_share):
    rng = np.random.default_rng(seed)
    prediction, mask = rng.random((height, width)) < 0.6 * p_share, rng.random((height, width)) < 0.6 * t_share
    assert metrics.components(prediction, mask) == components_by_loop(prediction, mask)


def test_components_by_hand():
    """Two defects of which one by its corner only, half of one found; a false one; one that touches two defects."""
    mask = np.array([[1, 0, 0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1]], bool)
    nothing = np.zeros_like(mask)
    assert metrics.components(nothing, mask) == (3, 0, 0, 0)
    assert metrics.components(nothing, nothing) == (0, 0, 0, 0)
    assert metrics.components(mask, nothing) == (0, 0, 0, 3)
    assert metrics.components(mask, mask) == (3, 3, 3, 0)
    half = np.array([[1, 0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]], bool)
    assert metrics.components(half, mask) == (3, 2, 1, 1)  # 1 of 2 is half of it, 1 of 4 is not
    across = np.ones_like(mask) & (np.arange(3) == 0)[:, None]
    assert metrics.components(across, mask) == (3, 2, 2, 0)  # one part of the prediction, two defects


def test_defects_are_their_pixels_and_those_that_are_found():
    mask = np.array([[1, 1, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]], bool)
    prediction = np.array([[0, 1, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]], bool)
    areas, hits = metrics.defects(prediction, mask)
    assert areas.dtype == hits.dtype == np.int64
    assert sorted(zip(areas.tolist(), hits.tolist(), strict=True)) == [(1, 0), (1, 1), (3, 2)]
    for empty in metrics.defects(prediction, np.zeros_like(mask)):
        assert empty.shape == (0,)


@pytest.mark.parametrize("levels", [4, 1000])
def test_precision_recall_and_their_average_against_sklearn(levels):
    """With few levels many scores are equal."""
    rng = np.random.default_rng(0)
    truth = rng.random(500) < 0.1
    scores = np.round((rng.random(500) + 0.5 * truth) * levels) / levels
    precision, recall, thresholds = metrics.precision_and_recall(scores, truth)
    theirs = [each[::-1] for each in precision_recall_curve(truth, scores)]
    np.testing.assert_allclose(precision, theirs[0][1:])
    np.testing.assert_allclose(recall, theirs[1][1:])
    np.testing.assert_allclose(thresholds, theirs[2])
    assert metrics.average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores))
    assert metrics.average_precision(np.exp(3 * scores), truth) == metrics.average_precision(scores, truth)


def test_average_precision_without_a_defect_is_nan():
    assert np.isnan(metrics.average_precision(np.array([0.2, 0.7]), np.array([False, False])))
