"""Sliders for figures, and a monitor of a training.  Taught in 02_overlap_tile, 06_negative_dice and others.

In a notebook each widget is followed by its static version. Only features of both ipywidgets 7.7 and 8 are used. A step
of a slider redraws only the moving parts over a stored picture of the rest, in some tens of milliseconds; nothing is
trained.
"""

import io
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import ipywidgets
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from steelnb import EXIT_STOPPED
from steelnb.figures import plots, run_progress, tile_window
from steelnb.figures.sign_trick import REACH, SignTrickView
from steelnb.figures.sign_trick import SIZE as SIGN_TRICK_SIZE
from steelnb.figures.threshold import ThresholdView, figure_size


def explore_sign_trick(x: float = -0.065, share: float = 0.06) -> ipywidgets.VBox:
    """`sign_trick.draw_sign_trick` with a slider for x.  Taught in 06_negative_dice."""
    view = SignTrickView(share, _figure(SIGN_TRICK_SIZE))
    return _slider(view, x, min=-REACH, max=REACH, step=0.0025, description="output x", readout_format=".4f")


def explore_threshold(
    image: np.ndarray, probability: np.ndarray, mask: np.ndarray, threshold: float = 0.5
) -> ipywidgets.VBox:
    """`threshold.draw_threshold` with a slider for the threshold.  Taught in 10_results."""
    view = ThresholdView(image, probability, mask, _figure(figure_size(image.shape)))
    return _slider(view, threshold, min=0.01, max=0.99, step=0.01, description="threshold", readout_format=".2f")


def explore_overlap_tile(
    image: np.ndarray, top: int = 0, left: int = 0, side: int = 176, depth: int = 4
) -> ipywidgets.VBox:
    """`tile_window.draw_overlap_tile` with sliders for the tile's position and side.  Taught in 02_overlap_tile."""
    view = tile_window.OverlapTileView(image, depth, _figure(tile_window.figure_size(image.shape, depth)))
    tile_window.tile_window(image.shape, top, left, side, depth)  # raises for values that a slider would silently clip
    grid = 2**depth
    last_row, last_column = ((n - 1) // grid * grid for n in image.shape)
    sliders = [
        _bar(ipywidgets.IntSlider, value, min=least, max=most, step=grid, description=name)
        for name, value, least, most in (("column", left, 0, last_column), ("row", top, 0, last_row),
                                         ("tile", side, grid, max(512, side)))
    ]
    # A number typed beside a slider may be any value in its range; the view shows the tile that contains it.
    return _moved(lambda column, row, side: view.move(row, column, side), view, sliders)


def monitor_training(
    run: str | Path, process: subprocess.Popen | None = None, seconds: float = 1.0
) -> ipywidgets.VBox:
    """`run_progress.draw_run`, updated every few `seconds`.  Taught in 09_hundred_hours.

    process: the training process, if this notebook started it: adds a button that sends it SIGTERM, after which
        `python -m steelnb train` writes a checkpoint at its next step and ends. Without it, the run is only shown.
    A click is handled only while the kernel is idle; the picture is updated at any time. Updates end with the process
    (without one, with the session shown), and when the widget is closed.
    """
    return _Monitor(Path(run), process, seconds).box


class _Monitor:
    """The widget, and the thread that updates it (allowed by ipywidgets, and the kernel may be busy for long)."""

    def __init__(self, run: Path, process: subprocess.Popen | None, seconds: float) -> None:
        self.run, self.process, self.seconds = run, process, seconds
        self.figure, self.drawn = _figure(run_progress.SIZE), None
        FigureCanvasAgg(self.figure)
        self.text, self.picture = ipywidgets.Label(), _picture()
        self.stop = ipywidgets.Button(description="Stop", icon="stop", tooltip="a checkpoint, then end")
        self.stop.on_click(self._ask_to_stop)
        head = [self.stop, self.text] if process is not None else [self.text]
        self.box = ipywidgets.VBox([ipywidgets.HBox(head), self.picture])
        self.stopping, self.closed = False, threading.Event()
        self.box.observe(lambda change: change["new"] is None and self.closed.set(), names="comm")
        if self.update():
            threading.Thread(target=self._watch, name=f"monitor of {run.name}", daemon=True).start()

    def update(self) -> bool:
        """Shows the current state of the folder; returns whether it can still change."""
        ended = self.process is not None and self.process.poll() is not None  # before reading what it wrote last
        now = run_progress.progress(self.run)
        if self.drawn is None or not now.history.equals(self.drawn):
            run_progress.draw_run(self.run, self.figure).canvas.draw()
            self.picture.value, self.drawn = _png(self.figure.canvas), now.history
        alive = not now.ended if self.process is None else not ended
        parts = [now.line()]
        if alive:
            parts += ["it is stopping"] if self.stopping else [now.age()]
        elif self.process is not None and self.process.returncode not in (0, EXIT_STOPPED) and not now.finished:
            parts.append(f"its process has ended ({self.process.returncode})")
        self.text.value = " · ".join(filter(None, parts))
        self.stop.disabled = self.stopping or not alive
        return alive

    def _watch(self) -> None:
        while not self.closed.wait(self.seconds) and self.update():
            pass

    def _ask_to_stop(self, _) -> None:
        self.stopping = self.stop.disabled = True
        if self.process.poll() is None:
            self.process.terminate()


def _figure(size: tuple[float, float]) -> Figure:
    return Figure(figsize=size, dpi=100)


def _bar(kind: type, value: float, **options):
    """A slider as wide as the picture, or as the page if that is narrower."""
    return kind(value=value, layout=ipywidgets.Layout(width="100%", max_width=f"{100 * plots.WIDTH:.0f}px"), **options)


def _picture(png: bytes = b"") -> ipywidgets.Image:
    """A picture in its own size: a box would stretch it to the page's width and blur it."""
    return ipywidgets.Image(value=png, format="png", layout=ipywidgets.Layout(align_self="flex-start"))


def _slider(view, value: float, **options) -> ipywidgets.VBox:
    """A slider whose value moves the view, above the view's picture."""
    return _moved(view.move, view, [_bar(ipywidgets.FloatSlider, value, **options)])


def _moved(move: Callable, view, sliders: list) -> ipywidgets.VBox:
    """Sliders whose values `move` the view, above the view's picture."""
    move(*(slider.value for slider in sliders))
    frame = _Frame(view.figure, view.moving)
    picture = _picture(frame.png())

    def moved(_) -> None:
        move(*(slider.value for slider in sliders))
        picture.value = frame.png()

    for slider in sliders:
        slider.observe(moved, names="value")
    return ipywidgets.VBox([*sliders, picture])


class _Frame:
    """A figure as PNG, repeatedly: fixed parts are drawn once, the `moving` artists over them each time."""

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
        return _png(self.canvas)


def _png(canvas: FigureCanvasAgg) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(file, "PNG", compress_level=1)
    return file.getvalue()
