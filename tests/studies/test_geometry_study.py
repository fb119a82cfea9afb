"""Windows against np.pad; overlap-tile is the whole image's answer; outlines by erosion; sizes of every arm."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from steelnb.network import geometry as sizes
from studies import geometry, runner, steel


@pytest.fixture(scope="module")
def crops():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (6, 1, 48, 48), dtype=np.uint8)
    masks = np.zeros((6, 1, 48, 48), bool)
    masks[:, :, 10:30, 20:48] = True
    return steel.Crops(torch.from_numpy(images), torch.from_numpy(masks))


@pytest.mark.parametrize(("arm", "mode"), [("exact", "symmetric"), ("zeros", "constant"), ("edge", "edge")])
def test_windows_are_those_of_numpys_pad(crops, arm, mode):
    images = crops.images[:, 0].numpy()
    assert np.array_equal(geometry.seen(images, arm, 2), np.pad(images, ((0, 0), (20, 20), (20, 20)), mode=mode))
    part = geometry.seen(images, arm, 2, top=24, left=0, side=24)
    assert np.array_equal(part, np.pad(images, ((0, 0), (20, 20), (20, 20)), mode=mode)[:, 24:88, :64])


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("arm", geometry.ARMS)
def test_every_arm_answers_every_pixel(crops, arm, depth):
    network = geometry.made(arm, depth)
    assert geometry.answers(network, crops.images[:2, 0].numpy(), arm).shape == (2, 48, 48)


def test_the_skewed_sizes_are_skewed_as_the_docstring_says():
    assert sizes.skew(geometry.SKEWED[2], 2) == [2, 2]
    assert sizes.skew(geometry.SKEWED[3], 3) == [4, 4, 4]
    assert geometry.margins("skewed", 2) == (21, 22)  # as even as the original's 87 and 87


def test_all_arms_start_from_the_same_weights():
    states = []
    for arm in geometry.ARMS:
        torch.manual_seed(3)
        states.append(geometry.made(arm, 2).state_dict())
    assert all(torch.equal(states[0][key], other[key]) for other in states for key in states[0])


def test_overlapping_tiles_flip_nothing_and_naive_ones_do(crops):
    network = geometry.trained(crops, "exact", 2, 4, 0)
    images, truth = crops.images[:, 0].numpy(), crops.masks[:, 0].numpy()
    whole = geometry.answers(network, images, "exact")
    assert np.abs(geometry.overlapping(network, images, "exact") - whole).max() < 1e-4
    found = geometry.tiled(network, images, truth, "exact")
    assert np.abs(geometry.naive(network, images, "exact") - whole).max() > 1e-2
    assert geometry.blended(network, images, "exact").shape == whole.shape
    assert found["overlap-tile"]["flipped"] < 1e-4
    assert set(geometry.tiled(geometry.made("same", 2), images, truth, "same")) == {"whole", "naive", "blended"}


def test_outline_is_the_mask_less_its_erosion():
    masks = np.random.default_rng(0).random((3, 20, 20)) < 0.7
    for mask, found in zip(masks, geometry.outline(masks), strict=True):
        inner = ndimage.binary_erosion(mask, border_value=True)
        assert np.array_equal(found, mask & ~inner)


def test_scores_near_the_border_count_four_pixels_a_side():
    truth = np.zeros((2, 48, 48), bool)
    truth[0, :, 3:5] = truth[1, 20:30, 20:30] = True
    predicted = np.zeros_like(truth)
    predicted[0, :, 3] = True
    found = geometry.scored(predicted, truth)
    assert found["border"][0] == pytest.approx(2 * 48 / (48 + 48 + 8))
    assert np.isnan(found["border"][1])
    assert found["dice"].tolist() == pytest.approx([2 / 3, 0])


def test_summary_from_two_arms_of_one_seed():
    rows = []
    for arm, dice in (("exact", 0.5), ("skewed", 0.4)):
        numbers = {f"image_{place}": [dice, None, dice] for place in geometry.PLACES}
        numbers |= {f"{place}_{name}": dice for place in geometry.PLACES for name in ("half", "chosen")}
        tile = {"flipped": 0.1, "near_seams": 0.1, "of_defect": 0.2, "dice": 0.3, "seam_dice": 0.3}
        if arm == "exact":
            numbers["tiles"] = {"whole": {"seam_dice": 0.4}, "naive": tile}
        rows.append({"arm": arm, "depth": 2, "steps": 640, "seed": 0, "ap": dice} | numbers)
    text = geometry.summary(pd.DataFrame(rows))
    assert "skewed (depth 2, 640 steps) -0.100" in text
    assert "| exact | 2 | 640 | 1 | naive | 10.00% |" in text


def test_the_page_knows_how_many_trainings_are_planned():
    page = (runner.HERE.parent / "notebooks" / "02_overlap_tile.py").read_text(encoding="utf-8")
    assert f"PLANNED = {len(geometry.cells())}  # trainings" in page
