"""Pictures of a sheet in tiles show the tiles, and differences on one scale."""

import numpy as np

from steelnb.figures import tiling
from steelnb.network.geometry import Grid


def test_the_sheet_its_tiles_and_its_mask():
    sheet = np.random.default_rng(0).integers(0, 255, (60, 100), np.uint8)
    mask = sheet > 128
    grid = Grid.of_unet(2)
    figure = tiling.draw_sheet_to_mask(sheet, mask, mask, grid, side=32)
    first, middle, last = figure.axes
    assert "60 × 100" in first.get_title(loc="left")
    assert middle.images[0].get_array().shape == (60 + 2 * grid.margin, 100 + 2 * grid.margin, 3)
    *shown, window = middle.patches
    assert len(shown) == 2 * 4
    assert {patch.get_xy() for patch in shown} >= {(grid.margin - 0.5, grid.margin - 0.5)}
    assert window.get_width() == 32 + 2 * grid.margin
    assert not last.patches


def test_differences_share_a_scale():
    figure = tiling.draw_differences({"none": np.zeros((40, 900)), "all": np.ones((40, 900))})
    none, all_, bar = figure.axes
    assert none.images[0].get_clim() == all_.images[0].get_clim() == (tiling.FAINTEST, 1)
    assert all_.images[0].get_array().shape == (20, 450)
    assert none.images[0].get_array().max() == tiling.FAINTEST
    assert bar.get_xlabel() == "difference of the probability"
