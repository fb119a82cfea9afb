"""The overlap-tile picture: its numbers and its mirrored pixels are those of numpy.pad, and what is drawn is fed."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from steelnb.figures import tile_window
from steelnb.network import tiles as overlap_tile


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (100, 180), dtype=np.uint8)


PLACES = [(0, 0, 16, 4), (0, 0, 176, 4), (48, 96, 64, 4), (99, 179, 500, 4), (37, 5, 1, 3), (40, 80, 8, 1)]


@pytest.mark.parametrize(("top", "left", "side", "depth"), PLACES)
def test_window_and_mirrored_pixels_are_those_of_numpy(image, top, left, side, depth):
    here = tile_window.tile_window(image.shape, top, left, side, depth)
    known = np.pad(np.ones(image.shape, bool), 700)  # True: a pixel of the image
    start = [700 + here.seen.top, 700 + here.seen.left]
    part = known[start[0] : start[0] + here.seen.height, start[1] : start[1] + here.seen.width]
    assert here.mirrored == (~part).sum()
    assert here.pixels == part.size
    assert overlap_tile.input_window(image, here.tile, depth).shape == part.shape
    tiles = overlap_tile.tiles(*image.shape, side, depth)
    first = tiles[0]
    assert here.tile.top % 2**depth == here.tile.left % 2**depth == 0
    assert here.tile.height == min(-(-side // 2**depth) * 2**depth, image.shape[0] - here.tile.top)
    if (top, left) == (0, 0):
        assert here.tile == first


def test_the_tiles_of_a_prediction_are_drawn_as_they_are(image):
    for tile in overlap_tile.tiles(*image.shape, 48):
        assert tile_window.tile_window(image.shape, tile.top, tile.left, 48).tile == tile


@pytest.mark.parametrize(("top", "left", "side", "depth"), PLACES)
def test_the_picture_shows_the_windows_own_pixels_the_mirrored_ones_tinted(image, top, left, side, depth):
    figure = tile_window.draw_overlap_tile(image, top, left, side, depth)
    shown = figure.axes[0].images[0].get_array().astype(int)
    pad = (shown.shape[0] - image.shape[0]) // 2
    here = tile_window.tile_window(image.shape, top, left, side, depth)
    tint = 0.45 * 255 * np.array(to_rgb(tile_window.WINDOW))
    padded = np.pad(image, pad, mode="symmetric").astype(float)
    beyond = np.pad(np.zeros(image.shape, bool), pad, constant_values=True)
    expected = np.where(beyond[..., None], 0.55 * padded[..., None] + tint, padded[..., None])
    rows = slice(here.seen.top + pad, here.seen.top + pad + here.seen.height)
    columns = slice(here.seen.left + pad, here.seen.left + pad + here.seen.width)
    assert abs(shown[rows, columns] - expected[rows, columns]).max() <= 1
    outside = beyond.copy()
    outside[rows, columns] = False
    assert (shown[outside] == 255).all()  # what no network sees does not exist
    title = figure.axes[0].get_title(loc="left")
    assert f"{here.mirrored:,} of them mirrored" in title
    assert f"sees {here.seen.height} × {here.seen.width}" in title


def test_a_large_image_is_drawn_small_and_its_frames_stand_in_its_own_pixels():
    figure = tile_window.draw_overlap_tile(np.zeros((256, 1600), np.uint8), 80, 800, 96)
    ax = figure.axes[0]
    assert max(ax.images[0].get_array().shape) < 1000
    assert ax.images[0].get_extent() == [-108, 1708, 364, -108]
    assert [patch.get_bbox().bounds for patch in ax.patches[1:]] == [(708, -12, 284, 284), (800, 80, 96, 96)]


@pytest.mark.parametrize(
    ("place", "said"),
    [((100, 0, 16), "inside the image of 100 × 180"), ((0, 180, 16), "not at"), ((-1, 0, 16), "not at"),
     ((0, 0, 0), "at least 1 pixel per side")],
)
def test_a_tile_outside_the_image_is_refused(image, place, said):
    with pytest.raises(ValueError, match=said):
        tile_window.draw_overlap_tile(image, *place)


@pytest.mark.parametrize("wrong", [np.zeros((3, 4, 5), np.uint8), np.zeros((0, 5), np.uint8), np.zeros((4, 5))])
def test_what_is_no_gray_image_is_refused(wrong):
    with pytest.raises(ValueError, match=r"an image must be uint8 \[H, W\]"):
        tile_window.OverlapTileView(wrong, 4, plt.figure())
