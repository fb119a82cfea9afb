"""Operating points against scikit-image and sorted pixels; the sweep against every combination tried by itself."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label

from steelnb.evaluation.operating_point import AREAS, GUARDS, THRESHOLDS, OperatingPoint, Sweep, certainty
from steelnb.network.inference import probability

fixed = settings(deadline=None, derandomize=True, max_examples=60)
SEEDS = st.integers(0, 10_000)


def smooth(seed, shape=(2, 12, 17), top=1.0):
    """Probabilities with connected hills; some channels low throughout."""
    rng = np.random.default_rng(seed)
    p = rng.random(shape)
    p = (p + np.roll(p, 1, -1) + np.roll(p, 1, -2)) / 3
    return np.clip((p - 0.25) * 1.8, 0, 1) * top * np.where(rng.random(shape[0]) < 0.7, 1, 0.4)[:, None, None]


def by_scikit_image(probabilities, point):
    """A channel at a time, a component at a time."""
    masks = np.zeros(probabilities.shape, bool)
    for mask, p in zip(masks, probabilities, strict=True):
        rank = max(1, round(p.size / 4000))
        if point.guard and np.sort(p.ravel())[-rank] <= point.guard:
            continue
        parts = label(p > point.threshold, connectivity=2)
        for part in range(1, parts.max() + 1):
            mask |= (parts == part) & ((parts == part).sum() >= point.minimum_area)
    return masks


@given(SEEDS, st.sampled_from([0, 0.2, 0.5, 0.6, 0.9]), st.integers(0, 25), st.sampled_from([0, 0.3, 0.7, 0.95]),
       st.sampled_from([np.float32, np.float64]))
@fixed
def test_masks_are_scikit_images(seed, threshold, area, guard, dtype):
    point, p = OperatingPoint(threshold, area, guard), smooth(seed).astype(dtype)
    before = p.copy()
    p.setflags(write=False)
    masks = point.masks(p)
    assert masks.dtype == bool
    assert masks.shape == p.shape
    assert np.array_equal(masks, by_scikit_image(before, point))
    assert np.array_equal(p, before)


def test_masks_by_hand():
    p = np.array([[[0.9, 0.0, 0.0, 0.0, 0.6], [0.0, 0.9, 0.0, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0, 0.7]]])
    plain = [[1, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]]  # 0.5 is not above 0.5
    assert OperatingPoint().masks(p)[0].tolist() == plain
    assert OperatingPoint(0.5, 1).masks(p)[0].tolist() == plain
    two = [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]  # a corner connects; the lone pixels go
    assert OperatingPoint(0.5, 2).masks(p)[0].tolist() == two
    assert not OperatingPoint(0.5, 3).masks(p).any()
    assert OperatingPoint(0.4, 3).masks(p)[0].tolist() == [[0, 0, 0, 0, 1]] * 3
    assert OperatingPoint(0, 0).masks(p).sum() == 5
    assert OperatingPoint(0.5, 0, 0.89).masks(p)[0].tolist() == plain
    assert not OperatingPoint(0.5, 0, 0.9).masks(p).any()  # above, not at


def test_each_class_is_decided_by_itself():
    p = np.zeros((3, 4, 4))
    p[0, 0, :2], p[1, 0, 2:], p[1, 1, :], p[2] = 0.6, 0.6, 0.6, 0.95
    masks = OperatingPoint(0.5, 3, 0.0).masks(p)
    assert masks.sum((1, 2)).tolist() == [0, 6, 16]  # the two pixels of the first class touch those of the second
    assert OperatingPoint(0.5, 0, 0.9).masks(p).sum((1, 2)).tolist() == [0, 0, 16]


def test_views_and_memory_maps_are_taken_and_left_alone(tmp_path):
    p = smooth(4).astype(np.float32)
    stored = np.memmap(tmp_path / "p", np.float32, "w+", shape=p.shape)
    stored[:] = p
    point = OperatingPoint(0.3, 5, 0.2)
    assert np.array_equal(point.masks(np.memmap(tmp_path / "p", np.float32, "r", shape=p.shape)), point.masks(p))
    assert np.array_equal(point.masks(p[:, ::-1, ::-1]), point.masks(p)[:, ::-1, ::-1])
    assert np.array_equal(point.masks(np.asfortranarray(p)), point.masks(p))
    assert np.array_equal(stored, p)


@given(st.integers(1, 60), st.integers(1, 300), SEEDS)
@fixed
def test_certainty_is_a_place_among_the_sorted(height, width, seed):
    p = np.random.default_rng(seed).random((height, width), np.float32)
    p[0, 0] = 1
    before = p.copy()
    assert certainty(p) == np.sort(p, axis=None)[::-1][max(1, round(height * width * 0.00025)) - 1]
    assert np.array_equal(p, before)


@pytest.mark.parametrize(("shape", "pixels"), [((256, 1600), 102), ((100, 120), 3), ((1, 1), 1), ((64, 200), 3)])
def test_so_many_pixels_make_an_image_certain(shape, pixels):
    p = np.zeros(shape)
    p.ravel()[: pixels - 1] = 1.0
    assert certainty(p) == 0
    p.ravel()[pixels - 1] = 0.75
    assert certainty(p) == 0.75
    point = OperatingPoint(0.5, 0, 0.7)
    assert point.masks(p[None]).sum() == pixels
    p.ravel()[pixels - 1] = 0.7
    assert not point.masks(p[None]).any()


@pytest.mark.parametrize("name", ["threshold", "guard"])
@pytest.mark.parametrize("value", [-0.01, 1, 1.5, math.nan, math.inf, -math.inf])
def test_what_is_no_probability_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}; it must be a probability, from 0 to below 1"):
        OperatingPoint(**{name: value})


@pytest.mark.parametrize("value", [-1, 0.5, 16.5, math.nan, math.inf])
def test_what_is_no_number_of_pixels_is_refused(value):
    with pytest.raises(ValueError, match=f"minimum_area is {value!r}; it must be a whole number of pixels"):
        OperatingPoint(minimum_area=value)


def test_the_limits_are_taken():
    for values in ((0, 0, 0), (0.999, 10**9, 0.999), (np.float32(0.3), np.int64(4), np.float64(0.2))):
        assert OperatingPoint(*values).threshold == values[0]
    assert OperatingPoint() == OperatingPoint(0.5, 0, 0.0)
    with pytest.raises(AttributeError):
        OperatingPoint().threshold = 0.3


def test_a_point_says_what_it_is():
    assert str(OperatingPoint()) == "p > 0.5"
    assert str(OperatingPoint(0.35)) == "p > 0.35"
    assert str(OperatingPoint(0.5, 64)) == "p > 0.5, defects of at least 64 px"
    assert str(OperatingPoint(0.5, 0, 0.9)) == "p > 0.5, clean unless 0.025% of the image is above 0.9"
    assert str(OperatingPoint(0.05, 16, 0.98)) == (
        "p > 0.05, defects of at least 16 px, clean unless 0.025% of the image is above 0.98"
    )


def test_probabilities_are_the_sigmoid():
    logits = np.array([[[-100, -2, 0, 1e-3, 2, 100]]], np.float32)
    before = logits.copy()
    p = probability(logits)
    assert p.dtype == np.float32
    assert p.shape == logits.shape
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-logits.astype(float))), rtol=1e-6, atol=1e-37)
    assert (p > 0.5).tolist() == (logits > 0).tolist()
    assert np.array_equal(logits, before)
    with torch.inference_mode():
        assert probability(logits).tolist() == p.tolist()


# ---- the sweep


def dice(p, t):
    return 2 * (p & t).sum() / (p.sum() + t.sum()) if t.any() else float(not p.any())


def by_brute_force(data, thresholds, areas, guards):
    """Every point's masks of every image, a class at a time: dice, dice of the defective, share of alarms."""
    tables = np.full((3, len(thresholds), len(areas), len(guards)), np.nan)
    for at in product(*map(range, tables.shape[1:])):
        point = OperatingPoint(*(float(values[i]) for values, i in zip((thresholds, areas, guards), at, strict=True)))
        pairs = [pair for p, t in data for pair in zip(point.masks(p), t, strict=True)]
        each = [dice(p, t) for p, t in pairs]
        hits = [d for d, (_, t) in zip(each, pairs, strict=True) if t.any()]
        alarms = [p.any() for p, t in pairs if not t.any()]
        for table, values in zip(tables, (each, hits, alarms), strict=True):
            table[at] = np.mean(values) if values else np.nan
    return tables


def swept(data, *values):
    sweep = Sweep(*values)
    for p, t in data:
        sweep.update(p, t)
    return sweep


def steel(seed, n=5, shape=(2, 30, 40), clean=0.4):
    rng = np.random.default_rng(seed)
    data = []
    for i in range(n):
        p = smooth(100 * seed + i, shape, top=1.1 - 0.3 * rng.random())
        t = (smooth(100 * seed + i, shape) > 0.55) & (rng.random(shape) < 0.9)
        data.append((np.clip(p, 0, 1), t & (rng.random(shape[0]) > clean)[:, None, None]))
    return data


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(3))
def test_a_sweep_is_brute_force(seed, dtype):
    data = [(p.astype(dtype), t) for p, t in steel(seed)]
    values = ((0.1, 0.25, 0.4, 0.55, 0.7, 0.85), (0, 16, 32, 64, 128), (0.0, 0.5, 0.7, 0.9))
    sweep, tables = swept(data, *values), by_brute_force(data, *values)
    assert sweep.dice.shape == (6, 5, 4)
    np.testing.assert_allclose(sweep.dice, tables[0], rtol=1e-13)
    np.testing.assert_allclose(sweep.dice_defective, tables[1], rtol=1e-13)
    assert np.array_equal(sweep.alarm_rate, tables[2])
    assert len(np.unique(tables[0])) > 20  # the combinations do differ
    assert sweep.pairs == 10
    assert sweep.defective == sum(t.any((1, 2)).sum() for _, t in data)
    best = sweep.best()
    scores = by_brute_force(data, *values)[0]
    at = tuple(list(axis).index(v) for axis, v in zip(values, (best.threshold, best.minimum_area, best.guard),
                                                      strict=True))
    assert scores[at] == pytest.approx(scores.max(), abs=1e-12)


def test_a_sweep_sees_values_at_a_threshold_as_the_point_does():
    """0.1 in float32 is a little more than 0.1: whether that is above has one answer."""
    p = np.array([[[0.05, 0.1, 0.15, 0.3, 0.6, 0.7, 0.8, 0.9]]], np.float32)
    t = np.array([[[0, 1, 1, 1, 1, 1, 1, 1]]], bool)
    sweep = swept([(p, t)])
    tables = by_brute_force([(p, t)], THRESHOLDS, AREAS[:1], GUARDS)
    np.testing.assert_allclose(sweep.dice[:, :1], tables[0], rtol=1e-13)


def test_no_guard_in_a_sweep_lets_everything_pass_as_no_guard_of_a_point_does():
    """Two sure pixels are too few to make an image certain, and still are a mask."""
    p = np.zeros((1, 100, 120))
    p[0, 0, :2] = 0.9
    assert certainty(p[0]) == 0
    sweep = swept([(p, p > 0.5)], (0.5,), (0,), (0.0, 0.5))
    assert sweep.dice.tolist() == [[[1, 0]]]
    assert OperatingPoint().masks(p).sum() == 2


def test_the_default_grid():
    assert set(THRESHOLDS) >= {k / 20 for k in range(1, 20)}
    assert Sweep().dice.shape == (len(THRESHOLDS), len(AREAS), len(GUARDS))
    assert (AREAS[0], GUARDS[0]) == (0, 0)
    for values in (THRESHOLDS, AREAS, GUARDS):
        assert list(values) == sorted(set(values))
    for point in product(THRESHOLDS[::9], AREAS[::3], GUARDS[::3]):
        OperatingPoint(*point)  # every one of them is allowed


def test_the_sweep_leaves_its_input_alone_and_does_not_grow():
    data = steel(1)
    before = [(p.copy(), t.copy()) for p, t in data]
    for each in data:
        for array in each:
            array.setflags(write=False)
    sweep = swept(data)
    assert all(np.array_equal(a, b) for x, y in zip(data, before, strict=True) for a, b in zip(x, y, strict=True))
    sizes = {name: np.size(value) for name, value in vars(sweep).items()}
    sweep.update(*data[0])
    assert {name: np.size(value) for name, value in vars(sweep).items()} == sizes


def test_channels_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="zip"):
        Sweep().update(np.zeros((2, 3, 3)), np.zeros((1, 3, 3), bool))


def test_nothing_swept_nothing_chosen():
    with pytest.raises(ValueError, match="no image was scored: call `update` with each image"):
        Sweep().best()
    with pytest.raises(ValueError, match="no image was scored"):
        Sweep().best(alarms=0.1)
    assert not Sweep().dice.any()
    assert np.isnan(Sweep().dice_defective).all()
    assert np.isnan(Sweep().alarm_rate).all()


def test_only_clean_or_only_defective_images():
    p, t = steel(2)[0]
    clean, full = swept([(p, t & False)]), swept([(p, t | True)])
    assert np.isnan(clean.dice_defective).all()
    assert np.array_equal(clean.dice, 1 - clean.alarm_rate)
    assert np.isnan(full.alarm_rate).all()
    assert np.array_equal(full.dice, full.dice_defective)
    for sweep in (clean, full):
        with pytest.raises(ValueError, match="needs both clean and defective images"):
            sweep.best(alarms=0.5)


def test_of_equals_the_plainest_is_taken():
    """An image that every threshold, area and guard serves equally well."""
    grid = (np.arange(1, 20) / 20, (0, 16, 32, 64, 128, 4096), (0.0, 0.5, 0.9))
    p = np.zeros((1, 80, 80))
    p[0, :70, :70] = 0.999
    sweep = swept([(p, p > 0.5)], *grid)
    assert np.all(sweep.dice == 1)
    assert sweep.best() == OperatingPoint()
    p[0, 71:, 71:] = 0.52  # a false defect of 81 pixels, by itself: now a threshold above it is the plainest
    sweep = swept([(p, p > 0.6)], *grid)
    assert sweep.best() == OperatingPoint(0.55)
    p[0, 71:, 71:] = 0.48
    assert swept([(p, p > 0.6)], *grid).best() == OperatingPoint()
    p[0, 71:, 71:] = 0.995  # as sure as the defect, but small
    sweep = swept([(p, p > 0.997)], *grid)
    assert sweep.best() == OperatingPoint(0.5, 128)
    assert sweep.best(areas=False) == OperatingPoint()


def test_of_equals_the_lower_of_two_thresholds_that_are_as_near():
    p = np.array([[[0.9, 0.44, 0.0]]])
    sweep = swept([(p, np.array([[[True, True, False]]]))], (0.4, 0.6), (0,), (0.0,))
    assert sweep.best() == OperatingPoint(0.4)
    sweep = swept([(p, np.array([[[True, False, False]]]))], (0.3, 0.4, 0.6, 0.7), (0,), (0.0,))
    assert sweep.best() == OperatingPoint(0.6)
    sweep = swept([(np.array([[[0.9, 0.1]]]), np.array([[[True, False]]]))], (0.7, 0.6, 0.4, 0.3), (0,), (0.0,))
    assert sweep.best().threshold in (0.4, 0.6)


def test_rounding_does_not_break_a_tie():
    """Sums of thirds and sevenths that are equal but for their last digit."""
    sweep = Sweep((0.3, 0.5), (0,), (0.0,))
    sweep.pairs = 3
    sweep._dice = np.array([0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1])[:, None, None]
    assert sweep.dice[0, 0, 0] > sweep.dice[1, 0, 0]
    assert sweep.best() == OperatingPoint(0.5)


GUARDED = np.zeros((2, 1, 40, 50))  # a defect for sure; a clean image with a large unsure area and a sure speck
GUARDED[0, 0, :20, :20] = 0.99
GUARDED[1, 0, :30, :30] = 0.65
GUARDED[1, 0, 38:, 48:] = 0.65


def test_what_may_not_be_chosen_is_not():
    data = [(GUARDED[0], GUARDED[0] > 0.5), (GUARDED[1], GUARDED[1] > 2)]
    thresholds = (0.1, 0.5, 0.6)
    sweep = swept(data, thresholds)
    assert sweep.best() == OperatingPoint(0.5, 0, 0.7)  # a guard is one step less plain than none, as 1024 pixels are
    assert sweep.best(guards=False) == OperatingPoint(0.5, 0) or sweep.best(guards=False).minimum_area == 512
    for areas, guards in product((False, True), repeat=2):
        best = sweep.best(areas=areas, guards=guards)
        assert areas or best.minimum_area == 0
        assert guards or best.guard == 0
        table = by_brute_force(data, thresholds, AREAS if areas else (0,), GUARDS if guards else (0.0,))[0]
        assert dice_at(data, best) == pytest.approx(table.max())
    assert sweep.best(areas=False, guards=False) == OperatingPoint()


def dice_at(data, point):
    return np.mean([dice(p, m) for each, t in data for p, m in zip(point.masks(each), t, strict=True)])


def blobs(seed, n=12):
    """Blobs of any sureness and size, half of them defects, on half of the images; each decides something."""
    rng, data = np.random.default_rng([7, seed]), []
    for i in range(n):
        p, t = np.zeros((2, 1, 24, 64))
        for column in range(4, 60, 10):
            place = (0, slice(2, 2 + rng.integers(1, 20)), slice(column, column + rng.integers(1, 8)))
            p[place] = rng.random() * rng.random() if i % 3 else 0.97 * rng.random()
            t[place] = i % 2 and rng.random() < 0.5
        data.append((p, t.astype(bool)))
    return data


LIMITED = ((0.1, 0.3, 0.5, 0.7), (0, 20, 60), (0.0, 0.3, 0.6))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("areas", "guards"), [(False, False), (True, False), (False, True), (True, True)])
def test_a_limit_of_alarms_is_brute_force(seed, areas, guards):
    """The best Dice of the defective among the points that keep to the limit; where none does, the fewest alarms."""
    data = blobs(seed)
    thresholds, sizes, sures = LIMITED
    values = (thresholds, sizes if areas else sizes[:1], sures if guards else sures[:1])
    _, hits, rate = by_brute_force(data, *values)
    sweep = swept(data, *LIMITED)
    for alarms in (0.0, 0.2, 0.4, 0.7, 1.0):
        allowed = rate <= max(alarms, rate.min())
        best = sweep.best(areas=areas, guards=guards, alarms=alarms)
        places = zip(values, (best.threshold, best.minimum_area, best.guard), strict=True)
        at = tuple(list(axis).index(value) for axis, value in places)
        assert allowed[at], alarms
        assert hits[at] == pytest.approx(hits[allowed].max(), abs=1e-12), alarms


def test_the_limits_of_that_test_bind():
    """Some cannot be kept, and the best Dice of the defective is not that of all images."""
    tables = [by_brute_force(blobs(seed), *LIMITED) for seed in range(6)]
    assert any(rate.min() > 0 for _, _, rate in tables)
    assert any(rate.min() == 0 < rate[hits == hits.max()].min() for _, hits, rate in tables)
    quiet = [(each, hits, rate <= 0.4) for each, hits, rate in tables if (rate <= 0.4).any()]
    assert any(hits[few & (each == each[few].max())].max() < hits[few].max() for each, hits, few in quiet)


def test_a_limit_that_only_areas_and_guards_keep_is_not_expected_of_thresholds():
    """Where areas may not be chosen, the fewest alarms are the fewest that a threshold alone leaves."""
    p, clean = np.zeros((2, 1, 20, 20))
    p[0, :10, :10], clean[0, 0, 0], clean[0, 5, 5] = 0.95, 0.97, 0.6
    other = np.zeros((1, 20, 20))
    other[0, 3, 3] = 0.8
    data = [(p, p > 0.5), (clean, clean > 2), (other, other > 2)]
    sweep = swept(data, (0.5, 0.7, 0.9), (0, 4), (0.0,))
    assert sweep.alarm_rate[:, 0, 0].tolist() == [1, 1, 0.5]
    assert sweep.best(alarms=0) == OperatingPoint(0.5, 4)
    assert sweep.best(alarms=0, areas=False) == OperatingPoint(0.9)
    assert sweep.best(alarms=0.5, areas=False) == OperatingPoint(0.9)
    assert sweep.best(alarms=1, areas=False) == OperatingPoint(0.5)


def test_a_point_of_the_sweep_can_be_looked_up():
    data = steel(3)
    sweep = swept(data)
    for point in (OperatingPoint(), OperatingPoint(0.15, 64, 0.95), sweep.best()):
        at = tuple(axis.index(v) for axis, v in zip((THRESHOLDS, AREAS, GUARDS),
                                                    (point.threshold, point.minimum_area, point.guard), strict=True))
        assert sweep.at(point) == {"dice": sweep.dice[at], "dice_defective": sweep.dice_defective[at],
                                   "alarm_rate": sweep.alarm_rate[at]}
        assert sweep.at(point)["dice"] == pytest.approx(dice_at(data, point))
    for point in (OperatingPoint(0.51), OperatingPoint(0.5, 3), OperatingPoint(0.5, 0, 0.1)):
        with pytest.raises(ValueError, match="is not a point of this sweep"):
            sweep.at(point)
