"""Defects labelled band by band, against scipy's labels of the whole."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage

from steelnb.prediction.strip_defects import Defects

MASKS = npst.arrays(bool, npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))


def whole(mask, minimum_area):
    """What is left of a mask, and boxes with areas of its defects."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    left, found = np.zeros_like(mask), []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        area = int((labels == number).sum())
        if area >= minimum_area:
            left |= labels == number
            found.append((rows.start, rows.stop, columns.start, columns.stop, area))
    assert len(ndimage.find_objects(labels)) == count
    return left, sorted(found)


def in_bands(mask, lengths, minimum_area):
    tracker, start, done, found = Defects(minimum_area), 0, np.zeros((0, mask.shape[1]), bool), []
    while start <= len(mask):
        if start == len(mask):
            settled = tracker.finish()
        else:
            band = mask[start : start + lengths[start % len(lengths)]].copy()
            settled = tracker.add(band)
        assert done[tuple(settled.erased.T)].all()  # what is wiped out was there
        done[tuple(settled.erased.T)] = False
        found += [(*box, area) for box, area in zip(settled.boxes.tolist(), settled.areas.tolist(), strict=True)]
        if start == len(mask):
            return done, sorted(found)
        done = np.concatenate([done, band])
        start += len(band)


@given(MASKS, st.lists(st.integers(1, 8), min_size=1, max_size=5), st.sampled_from([0, 1, 2, 3, 5, 9, 30]))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_bands_give_the_answer_of_the_whole(mask, lengths, minimum_area):
    left, found = in_bands(mask, lengths, minimum_area)
    expected = whole(mask, minimum_area)
    assert np.array_equal(left, expected[0])
    assert found == expected[1]


def test_random_fields_of_several_densities():
    rng = np.random.default_rng(0)
    for density in (0.05, 0.2, 0.35, 0.5, 0.7):
        mask = rng.random((300, 20)) < density
        for minimum_area in (0, 4, 25):
            left, found = in_bands(mask, [7, 16, 1], minimum_area)
            expected = whole(mask, minimum_area)
            assert np.array_equal(left, expected[0])
            assert found == expected[1]


def test_a_defect_longer_than_many_bands_meets_another_at_the_end():
    mask = np.zeros((40, 5), bool)
    mask[:38, 0] = mask[5:38, 4] = mask[37] = True  # two legs that join in line 37
    assert in_bands(mask, [4], 0)[1] == [(0, 38, 0, 5, int(mask.sum()))]
    assert not in_bands(mask, [4], int(mask.sum()) + 1)[0].any()


def test_what_is_remembered_is_bounded_by_the_minimum_area():
    tracker = Defects(100)
    for _ in range(50):
        tracker.add(np.ones((10, 10), bool))
    assert [len(item.pixels) for item in tracker._open] == [0]  # large enough: nothing to wipe out
    tracker = Defects(100)
    tracker.add(np.ones((9, 11), bool))
    assert [len(item.pixels) for item in tracker._open] == [99]
