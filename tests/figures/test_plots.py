"""Pictures: what is tinted, what is left gray, one colour a class, and a style that draws."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from steelnb.figures import plots


@pytest.fixture(autouse=True)
def drawing():
    """No window opens, no setting and no figure is left behind."""
    plt.switch_backend("agg")
    with plt.rc_context():
        yield
    plt.close("all")


def rgb(colour):
    return np.round(255 * np.array(to_rgb(colour))).astype(np.uint8)


def gray(shape=(20, 30)):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def box(top, left, height, width, shape=(20, 30)):
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def close(picture, expected):
    return np.abs(picture.astype(int) - expected).max() <= 1


def test_overlay_tints_the_mask_outlines_it_and_leaves_the_rest():
    image, mask, inner = gray(), box(5, 6, 8, 9), box(6, 7, 6, 7)
    kept = image.copy()
    picture = plots.overlay(image, mask[None], alpha=0.35)
    assert picture.shape == (20, 30, 3)
    assert picture.dtype == np.uint8
    assert np.array_equal(image, kept)
    assert (picture[~mask] == image[~mask][:, None]).all()
    assert close(picture[mask & ~inner], rgb(plots.DEFECT))
    assert close(picture[inner], 0.65 * image[inner][:, None] + 0.35 * rgb(plots.DEFECT))


@pytest.mark.parametrize(("alpha", "share"), [(0, 0), (1, 1)])
def test_overlay_alpha(alpha, share):
    image, inner = gray(), box(6, 7, 6, 7)
    picture = plots.overlay(image, box(5, 6, 8, 9)[None], alpha=alpha)
    assert close(picture[inner], (1 - share) * image[inner][:, None] + share * rgb(plots.DEFECT))


def test_overlay_of_classes_has_their_colours():
    masks = np.stack([box(0, 7 * k, 1, 5) for k in range(4)])
    picture = plots.overlay(gray(), masks)
    for k, mask in enumerate(masks):
        assert close(picture[mask], rgb(plots.CLASS_COLOURS[k + 1]))
    assert close(plots.overlay(gray(), masks[:1])[masks[0]], rgb(plots.DEFECT))
    assert close(plots.overlay(gray(), masks[1:2], ["#00FF00"])[masks[1]], rgb("#00FF00"))
    with pytest.raises(ValueError, match="argument"):
        plots.overlay(gray(), masks, ["#00FF00"])


def test_overlay_of_nothing_is_the_image():
    image = gray()
    for masks in (np.zeros((1, 20, 30), bool), np.zeros((4, 20, 30), bool), np.zeros((0, 20, 30), bool)):
        assert (plots.overlay(image, masks) == image[..., None]).all()


def test_errors_parts_hits_misses_and_false_alarms():
    image, mask, prediction = gray(), box(8, 2, 1, 10), box(8, 7, 1, 12)
    picture = plots.errors(image, prediction, mask)
    for part, colour in ((mask & prediction, plots.HIT), (mask & ~prediction, plots.MISS),
                         (prediction & ~mask, plots.FALSE_ALARM)):
        assert part.any()
        assert close(picture[part], rgb(colour))
    neither = ~mask & ~prediction
    assert (picture[neither] == image[neither][:, None]).all()


def test_errors_touches_every_pixel_of_either_and_no_other():
    rng = np.random.default_rng(1)
    prediction, mask = rng.random((2, 20, 30)) < 0.5
    image = np.zeros((20, 30), np.uint8)
    assert np.array_equal(plots.errors(image, prediction, mask).any(-1), prediction | mask)
    assert (plots.errors(image, ~mask, mask) != plots.errors(image, mask, mask)).any()


def test_colours_can_be_told_apart():
    assert set(plots.CLASS_COLOURS) == {1, 2, 3, 4}
    for colours in (list(plots.CLASS_COLOURS.values()), [plots.HIT, plots.MISS, plots.FALSE_ALARM],
                    [plots.DEFECT, plots.PREDICTION, plots.INK, plots.FAINT]):
        values = np.array([to_rgb(colour) for colour in colours])
        apart = np.abs(values[:, None] - values[None]).max(-1) + np.eye(len(values))
        assert apart.min() > 0.2


def test_the_style_draws():
    plots.use_style()
    figure, ax = plt.subplots()
    ax.plot([0, 1], [1, 0])
    ax.set(title="It draws", xlabel="x (px)", ylabel="y (px)")
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert plt.imread(io.BytesIO(file.getvalue())).shape == (320, 800, 4)  # 8 × 3.2 inches at 100 dpi
    assert not ax.spines["top"].get_visible()


def test_show_has_no_axes_and_the_full_gray_scale():
    _, ax = plt.subplots()
    plots.show(ax, np.array([[100, 101]], np.uint8), "two grays")
    assert ax.get_title(loc="left") + ax.get_title() == "two grays"
    assert list(ax.get_xticks()) == list(ax.get_yticks()) == []
    assert not any(spine.get_visible() for spine in ax.spines.values())
    assert ax.images[0].get_clim() == (0, 255)
    plots.show(ax, np.array([[100, 101]], np.uint8), vmin=90)
    assert ax.images[1].get_clim() == (90, 255)
    plots.show(ax, np.array([[0.25, 0.75]]), cmap="viridis")
    assert ax.images[2].get_clim() == (0.25, 0.75)
    assert ax.images[2].get_cmap().name == "viridis"


def test_stack_shows_each_picture_under_its_title():
    plots.use_style()
    image = gray((32, 200))
    pictures = {"the image": image, "a mask over it": plots.overlay(image, box(3, 3, 9, 9, image.shape)[None])}
    figure = plots.stack(pictures, width=5)
    assert isinstance(figure, Figure)
    assert [ax.get_title(loc="left") for ax in figure.axes] == list(pictures)
    for ax, picture in zip(figure.axes, pictures.values(), strict=True):
        assert np.array_equal(ax.images[0].get_array(), picture)
    assert figure.get_size_inches().tolist() == pytest.approx([5, 2 * (5 * 32 / 200 + 0.25)])
    figure.savefig(io.BytesIO())
    assert len(plots.stack({"one": gray()}).axes) == 1
