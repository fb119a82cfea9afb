import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelnb.figures import labels, plots


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(1, 60), st.data())
def test_a_window_lies_inside_the_image_and_shows_the_largest_piece(height, width, tall, wide, data):
    mask = np.zeros((height, width), bool)
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    mask[y, x] = True
    window = mask[labels.around(mask, tall, wide)]
    assert window.shape == (min(tall, height), min(wide, width))
    assert window.any()


def test_the_largest_of_two_pieces_is_shown():
    mask = np.zeros((20, 60), bool)
    mask[2:4, 2:4] = True
    mask[8:14, 50:58] = True
    assert mask[labels.around(mask, 12, 12)].sum() == 6 * 8


def test_shares_are_bars_and_those_of_another_set_are_marks():
    share = pd.Series({"clean": 50.0, 1: 10.0, 2: 45.0})
    together = pd.DataFrame([[5, 1], [1, 20]], index=[1, 2], columns=[1, 2])
    above, below = labels.draw_classes(share, together, 1, share.rename("Severstal") + 1).axes
    assert [bar.get_width() for bar in above.patches] == [50, 10, 45]
    assert list(above.lines[0].get_xdata()) == [51, 11, 46]
    assert above.get_title(loc="left") == "Class 2 is the commonest defect: on 45% of the images"
    assert [text.get_text() for text in below.texts] == ["5", "1", "1", "20"]
    assert not labels.draw_classes(share, together, 1).axes[0].lines


def test_areas_have_the_median_of_their_class():
    (ax,) = labels.draw_areas({1: np.array([1.0, 2, 30]), 3: np.array([0.5])}, {1: (1, 2, 3), 3: (1, 2, 3)}, "S").axes
    assert list(ax.lines[1].get_xdata()) == [2, 2]
    assert ax.get_title(loc="left") == "The largest mask is 60 times the smallest"
    assert ax.get_legend().get_texts()[0].get_text() == "S: median, 5–95%"


def test_one_class_has_the_colour_of_a_defect():
    assert labels.colour(1, (1,)) == plots.DEFECT
    assert labels.colour(1, (1, 2)) == plots.CLASS_COLOURS[1]


def test_the_title_names_the_class_that_a_shift_costs_most():
    case = ("a", np.zeros((8, 8), np.uint8), np.linspace(-9, 9, 64).reshape(8, 8), "red")
    figure = labels.draw_outlines([case, case], {1: np.linspace(1, 0.6, 9), 2: np.linspace(1, 0.2, 9)})
    assert figure.axes[2].get_title(loc="left") == "An outline 4 px further out costs class 2 0.40 Dice"


@pytest.mark.parametrize("n", [1, 3])
def test_every_label_has_its_window(n):
    case = ("class 1", np.zeros((8, 9), np.uint8), np.eye(8, 9) > 0, "red")
    assert [ax.get_title(loc="left") for ax in labels.draw_labels([case] * n).axes][:n] == ["class 1"] * n


def test_the_band_is_the_part_below_the_level():
    image = np.full((4, 6), 90, np.uint8)
    image[:, :3] = 2
    above, below = labels.draw_band(image, image.mean(0) <= 20, 20).axes
    assert above.get_title(loc="left") == "50% of this image's columns are darker than 20"
    assert list(below.lines[1].get_ydata()) == [20, 20]
