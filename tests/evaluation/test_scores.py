"""Scores against a plain loop over the images, an ordinary bootstrap, and weights drawn by hand."""

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from skimage.measure import label

from steelnb.evaluation.bootstrap import LEVEL, mean_interval
from steelnb.evaluation.operating_point import OperatingPoint
from steelnb.evaluation.scores import (
    ALL,
    BATCHES,
    BINS,
    CENTRE,
    DEFECTIVE,
    HARD,
    OVER,
    PIXELS,
    PREDICTIONS,
    ROWS,
    SCORED_AREAS,
    SOFT,
    WHOLE_IMAGE,
    Key,
    Scores,
)
from steelnb.network.tiles import original_crop

SHAPE = (34, 44)  # the original's margins leave rows 7 … 26 and columns 4 … 39 of it
INNER = (slice(7, 27), slice(4, 40))
DICE = Key("Dice", "any", ALL)
RATES = ("precision", "recall", "clean images with an alarm", "defective images without a find",
         "defects found (any pixel)", "defects found (half of it)", "false defects an image")
POINT = OperatingPoint(0.6, 3, 0.65)


def image(seed, classes=1, shape=SHAPE, share=0.6, rows=None):
    """Probabilities and masks with some blobs each; a class has no defect, nothing found, or both, now and then."""
    rng = np.random.default_rng([9, seed])
    masks, probabilities = np.zeros((classes, *shape), bool), 0.5 * rng.random((classes, *shape))
    for mask, probability in zip(masks, probabilities, strict=True):
        for target, value in ((mask, True), (probability, 0.7), (probability, 0.95)):
            for _ in range(rng.integers(1, 4) * (rng.random() < share)):
                top, left, down, across = (int(rng.integers(0, n)) for n in (*shape, 12, 14))
                target[top : top + down, left : left + across] = value
        probability[mask] = np.where(rng.random(mask.sum()) < 0.5, 0.9 * rng.random(mask.sum()), probability[mask])
        probability[:] = probability if rng.random() < 0.85 else 0.0  # nothing whatever
    return probabilities, masks


def images(n, classes=1, **options):
    return [image(seed, classes, **options) for seed in range(n)]


def every_case(classes=1):
    """13 images, so that the last batch is not full; the last has a defect at its edge alone."""
    data = images(12, classes, share=0.4)
    p, t = np.zeros((2, classes, *SHAPE))
    p[:, :6, 3:20], t[:, :6, :10] = 0.9, 1
    return [*data, (p, t.astype(bool))]


def scored(data, labels=None, *, replicates=0, **options):
    scores = Scores(labels or [f"c{k}" for k in range(len(data[0][1]))], replicates=replicates, **options)
    for each in data:
        scores.update(*each)
    return scores


def label_rows(mask, parts=3):
    """A union as label rows: pieces that may lie over each other, and an empty one."""
    rng = np.random.default_rng(int(mask.sum()))
    return np.array([*(mask[0] & (rng.random(mask[0].shape) < 0.7) for _ in range(parts)), np.zeros_like(mask[0])])


# ---- the oracle: nothing but loops, a convention at a time


def overlap(score, p, t):
    """Numerator and denominator from probabilities or zeros and ones, in float64."""
    p, t = p.astype(np.float64), t.astype(np.float64)
    both, total = (p * t).sum(), p.sum() + t.sum()
    return (2 * both, total) if score == "Dice" else (both, total - both)


def by_loop(data, score, over, kind, cut=(slice(None), slice(None)), channels=None, point=POINT, batch=2):
    """One convention's score and the number of units behind it."""
    channels = range(len(data[0][1])) if channels is None else channels
    pairs = []
    for i, (probabilities, masks, *_) in enumerate(data):
        predictions = point.masks(probabilities) if kind == HARD else probabilities
        pairs += [(i, predictions[k][cut], masks[k][cut]) for k in channels]
    if over == DEFECTIVE:
        values = [top / bottom for top, bottom in (overlap(score, p, t) for _, p, t in pairs if t.any())]
    elif over == ALL and kind == HARD:
        values = [np.divide(*overlap(score, p, t)) if t.any() else 1.0 - p.any() for _, p, t in pairs]
    elif over == ALL:
        values = [np.divide(*overlap(score, p, t)) if t.any() else 1e-4 / (p.sum() + 1e-4) for _, p, t in pairs]
    elif over == BATCHES:
        values = []
        for first in range(0, len(data), batch):
            for k in channels:
                inside = [pairs[j] for j in range(len(pairs)) if first <= pairs[j][0] < first + batch]
                inside = [pair for j, pair in enumerate(inside) if j % len(channels) == list(channels).index(k)]
                if any(t.any() for _, _, t in inside):
                    tops, bottoms = zip(*(overlap(score, p, t) for _, p, t in inside), strict=True)
                    values.append(sum(tops) / sum(bottoms))
    elif over == PIXELS:
        parts = [overlap(score, p, t) for _, p, t in pairs]
        seen = {i for (i, *_), (_, bottom) in zip(pairs, parts, strict=True) if bottom}
        return sum(top for top, _ in parts) / sum(bottom for _, bottom in parts), len(seen)
    return (np.mean(values) if values else np.nan), len(values)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("area", SCORED_AREAS)
@pytest.mark.parametrize("score", ["Dice", "IoU"])
@pytest.mark.parametrize(("classes", "batch"), [(1, 2), (1, 4), (3, 2)])
def test_every_convention_is_that_of_a_loop(score, area, kind, classes, batch):
    data = every_case(classes)
    values = scored(data, batch=batch, point=POINT).values()
    cut = INNER if area == CENTRE else (slice(None), slice(None))
    expected = {f"c{k}": [k] for k in range(classes)}
    if classes > 1:
        expected["all"] = list(range(classes))
    for name, channels in expected.items():
        for over in (DEFECTIVE, ALL, BATCHES, PIXELS):
            value = values[Key(score, name, over, area, kind)]
            loop, n = by_loop(data, score, over, kind, cut, channels, batch=batch)
            assert value.value == pytest.approx(loop, rel=1e-12), (name, over)
            assert value.n == n, (name, over)
            assert 0 < value.value < 1


def test_the_data_of_the_loop_have_every_case():
    """Else the test above would pass for less than it says."""
    data = every_case()
    found = [(bool(t.any()), bool(POINT.masks(p).any())) for p, t in data]
    assert len(set(found)) == 4
    batches = [any(t for t, _ in found[i : i + 2]) for i in range(0, 13, 2)]
    assert set(batches) == {True, False}
    assert [t.any() != t[0][INNER].any() for _, t in data] == 12 * [False] + [True]


def test_the_cut_of_the_loop_is_the_originals():
    rows, columns = np.indices(SHAPE)
    assert original_crop(rows[None])[0].tolist() == rows[INNER].tolist()
    assert original_crop(columns[None])[0].tolist() == columns[INNER].tolist()


def test_conventions_by_hand():
    """Three images of 1×4 pixels, in batches of two: a half hit, a false alarm, a clean one that is left alone."""
    masks = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]], bool)[:, None, None]
    probabilities = np.array([[0.75, 0.75, 0.25, 0], [0.75, 0, 0, 0], [0.25, 0.25, 0, 0]])[:, None, None]
    values = scored(list(zip(probabilities, masks, strict=True)), ("any",)).values()
    for score, over, kind, expected in (
        ("Dice", DEFECTIVE, HARD, 2 * 1 / 4), ("IoU", DEFECTIVE, HARD, 1 / 3),
        ("Dice", DEFECTIVE, SOFT, 2 * 1 / 3.75), ("IoU", DEFECTIVE, SOFT, 1 / 2.75),
        ("Dice", ALL, HARD, (1 / 2 + 0 + 1) / 3), ("IoU", ALL, HARD, (1 / 3 + 0 + 1) / 3),
        ("Dice", ALL, SOFT, (2 / 3.75 + 1e-4 / 0.7501 + 1e-4 / 0.5001) / 3),
        ("IoU", ALL, SOFT, (1 / 2.75 + 1e-4 / 0.7501 + 1e-4 / 0.5001) / 3),
        ("Dice", BATCHES, HARD, 2 * 1 / (2 + 2 + 1)), ("IoU", BATCHES, HARD, 1 / 4),
        ("Dice", BATCHES, SOFT, 2 * 1 / (1.75 + 2 + 0.75)), ("IoU", BATCHES, SOFT, 1 / (2.75 + 0.75)),
        ("Dice", PIXELS, HARD, 2 * 1 / 5), ("IoU", PIXELS, HARD, 1 / 4),
        ("Dice", PIXELS, SOFT, 2 / 5), ("IoU", PIXELS, SOFT, 1 / 4),
    ):
        value = values[Key(score, "any", over, WHOLE_IMAGE, kind)]
        assert value.value == pytest.approx(expected, rel=1e-12), (score, over, kind)
        assert value.n == {DEFECTIVE: 1, ALL: 3, BATCHES: 1, PIXELS: 3 if kind == SOFT else 2}[over]
    assert [values[Key(name, "any")].value for name in RATES] == [1 / 3, 1 / 2, 1 / 2, 0, 1, 1, 1 / 3]
    assert [values[Key(name, "any")].n for name in RATES] == [2, 1, 2, 1, 1, 1, 3]


@pytest.mark.parametrize("area", SCORED_AREAS)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_label_rows_are_one_mask_each(area, kind):
    data = [(p, t, label_rows(t) if t.any() else np.zeros((0, *SHAPE), bool)) for p, t in images(9)]
    cut = INNER if area == CENTRE else (slice(None), slice(None))
    dices = []
    for p, _, rows in data:
        prediction = (POINT.masks(p) if kind == HARD else p)[0][cut]
        dices += [np.divide(*overlap("Dice", prediction, row[cut])) for row in rows if row[cut].any()]
    value = scored(data, ("any",), point=POINT).values()[Key("Dice", "any", ROWS, area, kind)]
    assert value.value == pytest.approx(np.mean(dices), rel=1e-12)
    assert value.n == len(dices) > 9
    assert value.value < by_loop(data, "Dice", DEFECTIVE, kind, cut)[0]  # the other rows are background


def test_label_rows_are_scored_only_where_given_and_for_one_mask_only():
    p, t = image(1)
    assert Key("Dice", "c0", ROWS) not in scored([(p, t)]).values()
    p, t = image(1, 2)
    assert not [key for key in scored([(p, t, label_rows(t))]).values() if key.over == ROWS]


def test_no_label_row_with_a_pixel_is_nan():
    p, t = image(1)
    value = scored([(p, np.zeros_like(t), np.zeros((2, *SHAPE), bool))]).values()[Key("Dice", "c0", ROWS)]
    assert math.isnan(value.value)
    assert value.n == 0


# ---- the centre


def test_a_centre_of_its_own_takes_the_place_of_the_cut():
    """A network in the original's geometry: other probabilities there, and its own hard mask by the same point."""
    data, own = images(7), images(7, shape=(20, 36), share=0.9)
    rows = [label_rows(t) for _, t in data]
    values = scored([(*d, r, o) for d, r, o in zip(data, rows, own, strict=True)], ("any",), point=POINT).values()
    for score in ("Dice", "IoU"):
        for over in (DEFECTIVE, ALL, BATCHES, PIXELS):
            for kind in PREDICTIONS:
                assert values[Key(score, "any", over, WHOLE_IMAGE, kind)].value == pytest.approx(
                    by_loop(data, score, over, kind)[0], rel=1e-12)
                assert values[Key(score, "any", over, CENTRE, kind)].value == pytest.approx(
                    by_loop(own, score, over, kind)[0], rel=1e-12)
                assert by_loop(own, score, over, kind)[0] != by_loop(data, score, over, kind, INNER)[0]
    dices = [np.divide(*overlap("Dice", p[0], row[INNER]))
             for (p, _), each in zip(own, rows, strict=True) for row in each if row[INNER].any()]
    assert values[Key("Dice", "any", ROWS, CENTRE, SOFT)].value == pytest.approx(np.mean(dices), rel=1e-12)


def test_smallest_defect_and_guard_judge_the_whole_image_also_for_its_centre():
    probabilities, masks = np.zeros((2, 1, *SHAPE))
    probabilities[0, 5:9, 20:22] = 0.9  # 8 pixels, 4 of them in the centre
    masks = masks.astype(bool)
    masks[0, 7:9, 20:22] = True
    for area, dice in ((8, 1.0), (9, 0.0)):
        values = scored([(probabilities, masks)], ("any",), point=OperatingPoint(0.5, area)).values()
        assert values[Key("Dice", "any", DEFECTIVE, CENTRE)].value == dice


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (300, 5), (9, 40), (40, 3)])
def test_an_image_too_small_for_the_originals_geometry_has_no_centre(shape):
    values = scored([image(0, shape=shape), image(1, shape=shape)]).values()
    assert {key.area for key in values} == {WHOLE_IMAGE}


def test_images_of_different_sizes_and_some_without_a_centre():
    data = [image(s, shape=shape) for s, shape in enumerate([SHAPE, (5, 40), (64, 50), (34, 44), (1, 9), (34, 70)])]
    values = scored(data, ("any",), point=POINT).values()
    assert values[DICE].value == pytest.approx(by_loop(data, "Dice", ALL, HARD)[0])
    assert values[DICE].n == 6
    assert values[DICE._replace(area=CENTRE)].n == 4
    cut = [tuple(original_crop(part) for part in each) for each in data if each[0].shape[1] > 5]
    whole = OperatingPoint(POINT.threshold)  # the oracle below would judge smallest defects in the centre alone
    values = scored(data, ("any",), point=whole).values()
    expected = by_loop(cut, "Dice", ALL, HARD, point=whole)[0]
    assert values[DICE._replace(area=CENTRE)].value == pytest.approx(expected, rel=1e-12)


# ---- rates


def rates_by_loop(data, channels, point):
    both = predicted = true = alarms = clean = missed = defective = touched = half = parts = false = 0
    for probabilities, masks in data:
        for k in channels:
            p, t = point.masks(probabilities)[k], masks[k]
            both, predicted, true = both + (p & t).sum(), predicted + p.sum(), true + t.sum()
            clean, defective = clean + (not t.any()), defective + t.any()
            alarms, missed = alarms + (p.any() and not t.any()), missed + (t.any() and not (p & t).any())
            defects, found = label(t, connectivity=2), label(p, connectivity=2)
            for d in range(1, defects.max() + 1):
                share = p[defects == d].mean()
                parts, touched, half = parts + 1, touched + (share > 0), half + (share >= 0.5)
            false += sum(not t[found == f].any() for f in range(1, found.max() + 1))
    pairs = len(data) * len(channels)
    return [(both / predicted, None), (both / true, None), (alarms / clean, clean), (missed / defective, defective),
            (touched / parts, parts), (half / parts, parts), (false / pairs, pairs)]


@pytest.mark.parametrize("point", [OperatingPoint(), POINT])
@pytest.mark.parametrize("classes", [1, 3])
def test_rates_are_those_of_a_loop(classes, point):
    data = images(13, classes, share=0.5)
    values = scored(data, point=point).values()
    names = {f"c{k}": [k] for k in range(classes)}
    if classes > 1:
        names["all"] = [*range(classes)]
    for name, channels in names.items():
        for rate, (expected, n) in zip(RATES, rates_by_loop(data, channels, point), strict=True):
            value = values[Key(rate, name)]
            assert value.value == pytest.approx(expected, rel=1e-12), (rate, name)
            assert n is None or value.n == n, (rate, name)
    assert [key.score for key in values if key.label == "c0" and not key.over] == list(RATES)


def test_pooled_precision_and_recall_count_the_images_that_have_any():
    data = images(13, share=0.4)
    values = scored(data, ("any",), point=POINT).values()
    assert values[Key("precision", "any")].n == sum(POINT.masks(p).any() for p, _ in data) < 13
    assert values[Key("recall", "any")].n == sum(t.any() for _, t in data) < 13


# ---- nothing there


def test_no_image_gives_no_value():
    scores = Scores()
    assert scores.values() == {}
    assert math.isnan(scores.value(DICE))
    assert (scores.images, scores.clean) == (0, 0)


def test_clean_images_only():
    data = [(p, np.zeros_like(t)) for p, t in images(6)]
    scores = scored(data, ("any",), replicates=50)
    values = scores.values()
    for over in (DEFECTIVE, BATCHES):
        value = values[Key("Dice", "any", over)]
        assert all(map(math.isnan, value[:3]))
        assert value.n == 0
    for rate in ("recall", "defective images without a find", "defects found (any pixel)"):
        assert all(map(math.isnan, values[Key(rate, "any")][:3])), rate
        assert values[Key(rate, "any")].n == 0
    quiet = sum(not (p > 0.5).any() for p, _ in data)
    assert values[DICE].value == quiet / 6
    assert scores.clean == 6
    assert values[Key("Dice", "any", PIXELS)].value == 0


def test_nothing_predicted_leaves_precision_open():
    values = scored([(np.zeros((1, *SHAPE)), image(1)[1])], ("any",), replicates=20).values()
    assert all(map(math.isnan, values[Key("precision", "any")][:3]))
    assert values[Key("recall", "any")].value == values[DICE].value == 0


def test_clean_counts_images_without_any_class():
    data = images(20, 3, share=0.3)
    scores = scored(data)
    assert scores.images == 20
    assert scores.clean == sum(not t.any() for _, t in data) > 0
    assert scores.clean < sum(not t[0].any() for _, t in data)


# ---- intervals


def dices(data):
    """Per image, at p > 0.5."""
    return np.array([np.divide(*overlap("Dice", p > 0.5, t)) if t.any() else 1.0 - (p > 0.5).any() for p, t in data])


SMALL = {"shape": (12, 14), "share": 0.8}


def ends(units):
    """The two quantiles of an interval from so many units (Hesterberg 2015, section 3.3.3), by its error function."""
    t = stats.t(units - 1).isf(0.025) * math.sqrt(units / (units - 1))
    return [0.5 * math.erfc(t / math.sqrt(2)), 1 - 0.5 * math.erfc(t / math.sqrt(2))]


def test_intervals_are_those_of_an_ordinary_bootstrap():
    data = images(60, **SMALL)
    values = scored(data, ("any",), replicates=4000).values()
    tops, bottoms = np.array([overlap("Dice", p > 0.5, t) for p, t in data]).T
    both, predicted = np.array([[((p > 0.5) & t).sum(), (p > 0.5).sum()] for p, t in data]).T
    defective = np.array([t.any() for _, t in data])
    batches = [(data[i], data[i + 1]) for i in range(0, 60, 2)]
    b_tops, b_bottoms = (
        np.array([sum(overlap("Dice", p > 0.5, t)[side] for p, t in b) for b in batches]) for side in (0, 1)
    )
    usable = np.array([any(t.any() for _, t in b) for b in batches])

    def ratio(top, bottom, axis=-1):
        return top.sum(axis) / bottom.sum(axis)

    for key, top, bottom in (
        (DICE, dices(data), np.ones(60)),
        (DICE._replace(over=DEFECTIVE), dices(data) * defective, defective),
        (DICE._replace(over=PIXELS), tops, bottoms),
        (DICE._replace(over=BATCHES), np.where(usable, b_tops / b_bottoms, 0), usable),
        (Key("precision", "any"), both, predicted),
    ):
        ours = values[key]
        theirs = stats.bootstrap(
            (top, bottom.astype(float)), ratio, paired=True, n_resamples=4000,
            confidence_level=1 - 2 * ends((bottom > 0).sum())[0], method="percentile", rng=np.random.default_rng(1),
        ).confidence_interval
        width = theirs.high - theirs.low
        assert ours.value == pytest.approx(ratio(top, bottom), rel=1e-12)
        assert ours.low < ours.value < ours.high
        assert ours.low == pytest.approx(theirs.low, abs=0.07 * width), key
        assert ours.high == pytest.approx(theirs.high, abs=0.07 * width), key
        assert 0.93 < (ours.high - ours.low) / width < 1.07, key


def weights(seed, units, replicates):
    return np.array([np.random.default_rng([seed, unit]).poisson(1.0, replicates) for unit in units])


@pytest.mark.parametrize("seed", [0, 5])
def test_intervals_are_quantiles_over_weights_that_follow_from_seed_and_place(seed):
    data = images(11, **SMALL)
    values = scored(data, ("any",), replicates=200, seed=seed).values()
    per_image = weights(seed, range(11), 200)
    means = (dices(data) @ per_image) / per_image.sum(0)
    assert values[DICE][1:3] == pytest.approx(np.quantile(means, ends(11)), rel=1e-12)
    tops, bottoms = np.array([overlap("IoU", p, t) for p, t in data]).T
    ratios = (tops @ per_image) / (bottoms @ per_image)
    expected = pytest.approx(np.quantile(ratios, ends(11)), rel=1e-12)
    assert values[Key("IoU", "any", PIXELS, WHOLE_IMAGE, SOFT)][1:3] == expected
    assert LEVEL == 0.95


def test_a_batch_is_resampled_as_one():
    """Six units, not eleven, each with a weight of its own."""
    data = images(11, shape=(12, 14), share=1)
    value = scored(data, ("any",), replicates=300).values()[DICE._replace(over=BATCHES)]
    per_batch = weights(0, [2**40 + b for b in range(6)], 300)
    parts = [[overlap("Dice", p > 0.5, t) for p, t in data[i : i + 2]] for i in range(0, 11, 2)]
    each = np.array([sum(top for top, _ in part) / sum(bottom for _, bottom in part) for part in parts])
    assert all(any(t.any() for _, t in data[i : i + 2]) for i in range(0, 11, 2))
    expected = (each @ per_batch) / per_batch.sum(0)
    assert value[1:3] == pytest.approx(np.quantile(expected, ends(6)), rel=1e-12)


def test_replicates_without_a_unit_have_no_part_in_an_interval():
    """Two defective images of seven: one bootstrap sample in seven has neither."""
    data = [(p, t & (i in (1, 4))) for i, (p, t) in enumerate(images(7, shape=(12, 14), share=1))]
    value = scored(data, ("any",), replicates=500).values()[DICE._replace(over=DEFECTIVE)]
    drawn = weights(0, range(7), 500)[[1, 4]]
    assert 30 < (drawn.sum(0) == 0).sum() < 120
    drawn = drawn[:, drawn.sum(0) > 0]
    expected = (dices(data)[[1, 4]] @ drawn) / drawn.sum(0)
    assert value.n == 2
    assert value[1:3] == pytest.approx(np.quantile(expected, ends(2)), rel=1e-12)


def test_two_units_have_the_widest_interval_and_one_has_none():
    data = [(p, t & (i < 2)) for i, (p, t) in enumerate(images(2, shape=(12, 14), share=1))]
    two = scored(data, ("any",), replicates=500).values()[DICE]
    assert (two.low, two.high) == pytest.approx((min(dices(data)), max(dices(data))))
    one = scored(data[:1], ("any",), replicates=500).values()[DICE]
    assert one.value == pytest.approx(dices(data[:1])[0])
    assert math.isnan(one.low)
    assert math.isnan(one.high)


def test_a_mean_over_images_has_the_interval_of_the_scores():
    data = images(12, shape=(12, 14), share=1)
    value = scored(data, ("any",), replicates=300, seed=4).values()[DICE]
    assert mean_interval(dices(data), replicates=300, seed=4) == pytest.approx(value[:3], rel=1e-12)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(3)
    mask, covered, below = np.ones((1, 1, 8), bool), 0, 0
    truth = np.mean([2 * k / (8 + k) for k in range(9)])
    for _ in range(80):
        scores = Scores(replicates=200, seed=int(rng.integers(1 << 30)))
        for k in rng.integers(0, 9, 30):
            scores.update((np.arange(8) < k)[None, None] * 0.9, mask)
        value = scores.values()[DICE]
        covered += value.low <= truth <= value.high
        below += truth < value.low
    assert 70 <= covered <= 79
    assert 0 < below < 80 - covered  # it misses on either side


def wilson(k, n):
    z = stats.norm.ppf(0.975)
    centre, half = k / n + z * z / (2 * n), z * math.sqrt(k / n * (1 - k / n) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


@pytest.mark.parametrize(("alarms", "n"), [(0, 7), (7, 7), (2, 7), (1, 1), (3, 40)])
def test_shares_of_images_have_wilsons_interval(alarms, n):
    clean, full = np.zeros((2, 1, 3, 3), bool)
    full = ~clean
    scores = Scores(replicates=30)
    for i in range(n):
        scores.update(np.full((1, 3, 3), 0.9 if i < alarms else 0.1), clean)
        scores.update(np.full((1, 3, 3), 0.1 if i < alarms else 0.9), full)
    values = scores.values()
    for rate in ("clean images with an alarm", "defective images without a find"):
        value = values[Key(rate, "any")]
        assert value.value == alarms / n
        assert value[1:3] == pytest.approx(wilson(alarms, n), abs=1e-12)
        assert value.n == n
        assert value.high - value.low > 0.05  # never a certainty


def test_no_replicates_no_intervals_but_the_same_values():
    data = images(7)
    plain, sure = (scored(data, replicates=n).values() for n in (0, 40))
    assert list(plain) == list(sure)
    for key, value in plain.items():
        assert math.isnan(value.low), key
        assert math.isnan(value.high), key
        assert value.value == pytest.approx(sure[key].value, nan_ok=True)
        assert value.n == sure[key].n
    assert sum(math.isfinite(value.low) for value in sure.values()) == len(sure)


# ---- gains


def test_a_gain_over_itself_is_exactly_nothing():
    data = images(9, 2)
    scores = scored(data, replicates=60)
    again = scored(data, replicates=60)
    assert again.values() == scores.values()
    for key, value in scores.values().items():
        for other in (scores, again):
            assert scores.gain(other, key) == (0.0, 0.0, 0.0, value.n), key


def test_a_gain_between_scores_of_different_batches_is_refused():
    data = images(4)
    for name, value in (("batch", 3), ("seed", 1), ("replicates", 7)):
        one, other = scored(data, replicates=5), scored(data, **{"replicates": 5, name: value})
        with pytest.raises(ValueError, match=f"{name}: .* here, .* in the other scores; a paired gain needs the same"):
            one.gain(other, DICE)
    with pytest.raises(ValueError, match="images: 4 here, 3 in the other scores"):
        scored(data, replicates=5).gain(scored(data[:3], replicates=5), DICE)


def test_a_gain_does_not_depend_on_whose_values_were_looked_at():
    data = every_case()
    scores, again = scored(data, replicates=60), scored(data, replicates=60)
    scores.values()
    assert scores.gain(again, Key("Dice", "c0", BATCHES))[:3] == (0, 0, 0)


def test_a_gain_is_paired():
    data = images(15, **SMALL)
    other = OperatingPoint(0.8)
    before, after = scored(data, ("any",), replicates=250), scored(data, ("any",), replicates=250, point=other)
    gained = np.array([np.divide(*overlap("Dice", p > 0.8, t)) if t.any() else 1.0 - (p > 0.8).any() for p, t in data])
    gained = gained - dices(data)
    drawn = weights(0, range(15), 250)
    gain = before.gain(after, DICE)
    assert gain.value == pytest.approx(gained.mean(), rel=1e-12)
    assert gain.value != 0
    assert gain[1:3] == pytest.approx(np.quantile((gained @ drawn) / drawn.sum(0), ends(15)), abs=1e-12)
    assert gain.n == 15
    back = after.gain(before, DICE)
    assert (back.value, back.low, back.high) == pytest.approx((-gain.value, -gain.high, -gain.low), abs=1e-12)


def test_a_gain_is_surer_than_the_difference_of_two_intervals():
    data = images(40, **SMALL)
    before = scored(data, ("any",), replicates=400)
    better = scored([(np.where(t, np.maximum(p, 0.51 * (np.indices(t.shape)[2] % 5 == 0)), p), t) for p, t in data],
                    ("any",), replicates=400)
    gain, own = before.gain(better, DICE), before.values()[DICE]
    assert 0 < gain.low < gain.high
    assert gain.high - gain.low < 0.5 * (own.high - own.low)


# ---- memory


def test_state_grows_by_a_row_per_image_mask_and_area_whatever_their_size():
    def size(value):
        if isinstance(value, np.ndarray):
            return value.nbytes
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
        return sum(1 + size(each) for each in values)

    for classes in (1, 4):
        grown = []
        for shape in (SHAPE, (64, 300)):
            scores = scored(images(2, classes, shape=shape), replicates=7)
            before = size(vars(scores))
            for each in images(10, classes, shape=shape):
                scores.update(*each)
            grown.append((size(vars(scores)) - before) / 10)
        assert grown[0] == grown[1] < 200 * classes + 2


# ---- the table


def test_table_by_hand():
    mask, small = np.zeros((1, *SHAPE), bool), np.zeros((1, 1, 4))
    mask[0, 5:9, 10:12] = True  # 8 pixels, 4 of them in the centre
    probabilities = np.where(mask, 0.75, 0.0)
    probabilities[0, 20, 30] = 1
    scores = Scores(replicates=0)
    scores.update(probabilities, mask, np.array([mask[0] & (np.indices(SHAPE)[1] == 10), np.zeros(SHAPE, bool)]))
    scores.update(small, small.astype(bool))
    table = scores.table()
    nan = math.nan
    expected = pd.DataFrame(
        [[0, "whole image", "any", 8, 8, 9, 6, 7, 1, 8 / 13, 6 / 11, 1, 1, 1, 1],
         [0, "original's centre", "any", 4, 4, 5, 3, 4, 1, 4 / 7, 3 / 6, nan, nan, nan, nan],
         [1, "whole image", "any", 0, 0, 0, 0, 0, nan, nan, nan, 0, 0, 0, 0]],
        columns=["image", "area", "mask", "true", "hard_both", "hard_predicted", "soft_both", "soft_predicted", "rows",
                 "hard_rows", "soft_rows", "defects", "touched", "half", "alarms"])
    pd.testing.assert_frame_equal(table, expected, check_dtype=False)


def test_every_score_without_batches_follows_from_the_table():
    """What `table` says of itself, read with pandas."""
    scores = scored(every_case(3), point=POINT)
    table, values = scores.table(), scores.values()
    for (area, name), part in table.groupby(["area", "mask"]):
        dice = (2 * part["hard_both"] / (part["hard_predicted"] + part["true"]))[part["true"] > 0]
        assert values[Key("Dice", name, DEFECTIVE, area)].value == pytest.approx(dice.mean())
        pooled = 2 * part["soft_both"].sum() / (part["soft_predicted"].sum() + part["true"].sum())
        assert values[Key("Dice", name, PIXELS, area, SOFT)].value == pytest.approx(pooled)
    assert len(table) == 13 * 3 * 2
    assert Scores().table().empty


# ---- order and repetition


def test_what_is_scored_is_deterministic_and_depends_on_the_seed():
    data = images(8, 2)
    first = scored(data, replicates=50).values()
    assert scored(data, replicates=50).values() == first
    other = scored(data, replicates=50, seed=1).values()
    key = Key("Dice", "all", ALL)
    assert other[key].value == first[key].value
    assert other[key][1:3] != first[key][1:3]


def test_order_changes_no_score_but_that_of_batches():
    data = images(9, 2)
    forth, back = scored(data, replicates=50).values(), scored(data[::-1], replicates=50).values()
    differ = {key.over for key in forth if forth[key].value != pytest.approx(back[key].value, rel=1e-9)}
    assert differ == {BATCHES}
    assert {key: value.n for key, value in forth.items() if key.over != BATCHES} == {
        key: value.n for key, value in back.items() if key.over != BATCHES
    }
    assert forth[Key("Dice", "all", ALL)][1:3] != back[Key("Dice", "all", ALL)][1:3]  # the weights go by place


def test_values_come_in_a_fixed_order_whichever_came_first():
    small, large = image(0, 2, shape=(5, 5)), image(1, 2)
    orders = [list(scored(data).values()) for data in ([small, large], [large, small])]
    assert orders[0] == orders[1]
    keys = orders[0]
    assert len(keys) == 3 * (2 * 4 * 4 + 7)
    assert list(dict.fromkeys(key.label for key in keys)) == ["all", "c0", "c1"]
    assert [key[2:] for key in keys if key[:2] == ("IoU", "c1")] == [
        (over, area, kind) for over in OVER[:4] for area in SCORED_AREAS for kind in PREDICTIONS
    ]


def test_looking_between_updates_changes_nothing():
    data = images(5)
    looked = Scores(("c0",), replicates=20)
    for each in data:
        looked.update(*each)
        looked.values()
    assert looked.values() == scored(data, replicates=20).values()


def test_value_is_that_of_values_at_every_moment():
    scores = Scores(("c0",), replicates=0)
    for each in images(3):
        scores.update(*each)
        told = {key: scores.value(key) for key in (Key("Dice", "c0", over) for over in OVER[:4])}
        values = scores.values()
        assert told == pytest.approx({key: values[key].value for key in told}, nan_ok=True)


# ---- calibration


@given(st.integers(0, 1000), st.sampled_from([np.float32, np.float64]))
@settings(deadline=None, derandomize=True, max_examples=20)
def test_calibration_sums(seed, dtype):
    rng = np.random.default_rng(seed)
    data = [(rng.random((2, 6, 7)).astype(dtype), rng.random((2, 6, 7)) < 0.3) for _ in range(3)]
    data[0][0][0, 0, :4] = 0, 1, 0.5, 0.25
    p, t = (np.concatenate([each[i].ravel() for each in data]) for i in (0, 1))
    edges = np.arange(BINS + 1) / BINS
    inside = [(p >= low) & ((p < high) | (high == 1)) for low, high in pairwise(edges)]
    pixels, probabilities, defects = scored(data).calibration
    assert pixels.tolist() == [each.sum() for each in inside]
    assert defects.tolist() == [t[each].sum() for each in inside]
    np.testing.assert_allclose(probabilities, [p[each].sum(dtype=float) for each in inside], rtol=1e-6)
    assert pixels.sum() == p.size == 252
    assert BINS == 20


# ---- refusals


@pytest.mark.parametrize(("p", "t"), [((1, 4, 5), (1, 5, 4)), ((2, 4, 5), (2, 4, 5)), ((1, 4, 5), (2, 4, 5)),
                                      ((4, 5), (4, 5))])
def test_other_shapes_are_refused(p, t):
    with pytest.raises(ValueError, match=r"probabilities \(.*, masks \(.*; labels \('any',\)"):
        Scores().update(np.zeros(p), np.zeros(t, bool))


@pytest.mark.parametrize("rows", [np.ones((2, 4, 4), bool), np.ones((4, 5), bool)])
def test_label_rows_of_another_shape_are_refused(rows):
    with pytest.raises(ValueError, match=r"rows|shape"):
        Scores().update(np.zeros((1, 4, 5)), np.zeros((1, 4, 5), bool), rows)


def test_masks_that_are_not_bool_are_refused():
    """As indices, 0 and 1 would choose rows, and give a Dice of 3."""
    with pytest.raises(ValueError, match="bool"):
        Scores().update(np.full((1, 3, 3), 0.6), np.ones((1, 3, 3), np.uint8))


@pytest.mark.parametrize("value", [-3.0, 7.0, np.nan])
def test_logits_are_refused(value):
    scores = Scores()
    with pytest.raises(ValueError, match=r"0…1|probabilit|0 to 1"):
        scores.update(np.full((1, 3, 3), value), np.ones((1, 3, 3), bool))
    assert scores.values() == {}  # nothing of it was counted
