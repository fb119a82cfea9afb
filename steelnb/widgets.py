"""Sliders over the pictures of `views`, each followed in a notebook by its static twin.

Only what ipywidgets 7.7 and 8 both have is used. Moving a slider draws the few parts that move over a picture of the
rest and encodes it, some tens of milliseconds; nothing is trained.
"""

import io

import ipywidgets
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from steelnb import plots
from steelnb.views import HEIGHT, REACH, SignTrickView, ThresholdView


def explore_sign_trick(x: float = -0.065, share: float = 0.06) -> ipywidgets.VBox:
    """`views.draw_sign_trick` under a slider for x. Taught in 05_negative_dice."""
    view = SignTrickView(share, _figure())
    return _slider(view, x, min=-REACH, max=REACH, step=0.0025, description="output x", readout_format=".4f")


def explore_threshold(
    image: np.ndarray, probability: np.ndarray, mask: np.ndarray, threshold: float = 0.5
) -> ipywidgets.VBox:
    """`views.draw_threshold` under a slider for the threshold. Taught in 08_results."""
    view = ThresholdView(image, probability, mask, _figure())
    return _slider(view, threshold, min=0.01, max=0.99, step=0.01, description="threshold", readout_format=".2f")


def _figure() -> Figure:
    return Figure(figsize=(plots.WIDTH, HEIGHT), dpi=100)


def _slider(view, value: float, **options) -> ipywidgets.VBox:
    """A slider whose value moves the view, above the view's picture."""
    view.move(value)
    frame = _Frame(view.figure, view.moving)
    picture = ipywidgets.Image(value=frame.png(), format="png")
    slider = ipywidgets.FloatSlider(value=value, layout=ipywidgets.Layout(width="60%"), **options)

    def moved(change) -> None:
        view.move(change["new"])
        picture.value = frame.png()

    slider.observe(moved, names="value")
    return ipywidgets.VBox([slider, picture])


class _Frame:
    """A figure as PNG, again and again: what stands still is drawn once, the `moving` artists over it each time."""

    def __init__(self, figure: Figure, moving: list) -> None:
        self.canvas, self.moving = FigureCanvasAgg(figure), moving
        for artist in moving:
            artist.set_animated(True)  # left out by `draw`
        self.canvas.draw()
        self.still = self.canvas.copy_from_bbox(figure.bbox)

    def png(self) -> bytes:
        self.canvas.restore_region(self.still)
        for artist in self.moving:
            artist.axes.draw_artist(artist)
        file = io.BytesIO()
        Image.fromarray(np.asarray(self.canvas.buffer_rgba())).convert("RGB").save(file, "PNG", compress_level=1)
        return file.getvalue()
