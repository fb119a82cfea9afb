"""The sketch of a U-Net names the sizes of its levels; maps of what a pixel feels share a scale."""

import numpy as np

from steelnb.figures import unet_sketch
from steelnb.network.unet import UNet


def test_the_paper_s_sizes():
    figure = unet_sketch.draw_unet(UNet(norm="none"), 572, 572)
    (ax,) = figure.axes
    texts = [text.get_text() for text in ax.texts]
    assert ax.get_title(loc="left") == "572 × 572 pixels in, 388 × 388 logits out"
    assert [text for text in texts if text.startswith("skip")] == ["skip, −88", "skip, −40", "skip, −16", "skip, −4"]
    assert {"64 channels\n568 × 568", "1024 channels\n28 × 28", "64 channels\n388 × 388"} < {*texts}


def test_what_a_pixel_feels():
    maps = {name: np.random.default_rng(0).random((20, 20)) for name in ("before", "after")}
    figure = unet_sketch.draw_sensitivity(maps, (2, 17), dict.fromkeys(maps, (10, 3, 7)))
    before, after, bar = figure.axes
    assert before.images[0].get_clim() == after.images[0].get_clim() == (1e-4, 1)
    assert [patch.radius for patch in after.patches[1:]] == [3, 7]
    assert after.patches[0].get_width() == 16
    assert bar.get_xlabel()
