"""The sign-trick explorer: its numbers are the loss's own, it is quick, and its static twin is the same picture."""

import io
import time

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from steelnb import failures, plots, views, widgets


@pytest.fixture(autouse=True)
def drawing():
    """No window opens, no setting and no figure is left behind."""
    plt.switch_backend("agg")
    with plt.rc_context():
        plots.use_style()
        yield
    plt.close("all")


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


@pytest.mark.parametrize("x", [-2.0, -0.2, -0.13, -0.12, -0.05, 0.0, 0.05, 1.0])
def test_the_numbers_are_those_of_raw_dice(x):
    mask = torch.zeros(1, 1, 50, 50)
    mask[..., :5, :] = 1  # a tenth
    here = views.sign_trick(x, 0.1)
    output = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    loss = failures.raw_dice(output.expand_as(mask), mask)
    loss.backward()
    assert here.loss == pytest.approx(loss.item(), abs=1e-4)
    assert here.slope == pytest.approx(output.grad.item(), rel=1e-3)
    assert here.slope < 0
    assert (here.numerator < 0, here.denominator < 0) == (x < 0, x < -0.1)


def test_the_pole_has_no_value_and_is_drawn():
    here = views.sign_trick(-0.06, 0.06)
    assert here.denominator == 0
    assert np.isnan([here.loss, here.slope]).all()
    figure = views.draw_sign_trick(-0.06)
    assert "the pole" in figure.axes[0].get_title(loc="left")


@pytest.mark.parametrize(("x", "word"), [(-0.1, "two minuses cancel"), (-0.03, "away from the pole"), (0.1, "slowly")])
def test_the_title_says_what_happens(x, word):
    assert word in views.draw_sign_trick(x).axes[0].get_title(loc="left")


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match="share is 0"):
        views.draw_sign_trick(0.1, share=0)


def test_the_slider_moves_the_picture_and_the_twin_draws_the_same():
    box = widgets.explore_sign_trick(x=-0.1)
    slider, picture = box.children
    before = picture.value
    for x in (0.05, -0.03, -0.1):
        slider.value = x
        figure = views.draw_sign_trick(x)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=100)
        assert (abs(pixels(picture.value) - pixels(file.getvalue())).max(-1) > 40).mean() < 0.002
        assert (picture.value == before) == (x == -0.1)
    assert picture.format == "png"


def test_the_explorer_leaves_no_figure_open():
    widgets.explore_sign_trick()
    assert not plt.get_fignums()


@pytest.fixture(scope="module")
def one_image():
    rng = np.random.default_rng(0)
    mask = np.zeros((64, 1600), bool)
    mask[10:30, 300:500] = True
    probability = (0.6 * mask + 0.4 * rng.random(mask.shape)).astype(np.float32)
    return rng.integers(0, 256, mask.shape, dtype=np.uint8), probability, mask


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.62, 0.9, 1.0])
def test_the_threshold_title_and_curves_are_those_of_the_whole_image(one_image, threshold):
    figure = views.draw_threshold(*one_image, threshold)
    _, probability, mask = one_image
    prediction = probability > threshold
    dice = 2 * (prediction & mask).sum() / (prediction.sum() + mask.sum())
    title = figure.axes[0].get_title(loc="left")
    assert title == f"p > {threshold:.2f}: {prediction.mean():.1%} called defect, Dice {dice:.2f}"
    dice_curve, precision, recall = figure.axes[1].lines[:3]
    at = np.abs(dice_curve.get_xdata() - threshold).argmin()
    prediction = probability > dice_curve.get_xdata()[at]
    both = (prediction & mask).sum()
    assert dice_curve.get_ydata()[at] == pytest.approx(2 * both / (prediction.sum() + mask.sum()))
    expected = both / prediction.sum() if prediction.any() else np.nan
    assert precision.get_ydata()[at] == pytest.approx(expected, nan_ok=True)
    assert recall.get_ydata()[at] == pytest.approx(both / mask.sum())


def test_the_threshold_explorer_shows_what_its_twin_draws(one_image):
    slider, picture = widgets.explore_threshold(*one_image).children
    before = picture.value
    for threshold in (0.2, 0.7, 0.5):
        slider.value = threshold
        file = io.BytesIO()
        views.draw_threshold(*one_image, threshold).savefig(file, format="png", dpi=100)
        assert (abs(pixels(picture.value) - pixels(file.getvalue())).max(-1) > 40).mean() < 0.002
        assert (picture.value == before) == (threshold == 0.5)


def test_a_clean_image_without_a_find_is_right_and_other_shapes_are_refused(one_image):
    image, probability, mask = one_image
    assert "rightly nothing" in views.draw_threshold(image, 0 * probability, mask & False).axes[0].get_title(loc="left")
    with pytest.raises(ValueError, match="are of"):
        views.draw_threshold(image, probability[:5], mask)


def test_a_move_takes_less_than_a_tenth_of_a_second():
    slider = widgets.explore_sign_trick().children[0]
    times = []
    for x in np.linspace(-0.19, 0.19, 9):
        began = time.perf_counter()
        slider.value = float(x)
        times.append(time.perf_counter() - began)
    assert sorted(times)[2] < 0.1, times  # the quicker ones: other tests run beside this one
