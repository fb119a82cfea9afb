"""The widgets: their numbers are the library's own, they are quick, and a static twin draws the same picture."""

import io
import json
import signal
import subprocess
import sys
import threading
import time

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from steelnb.figures import run_progress, tile_window, widgets
from steelnb.figures.sign_trick import draw_outputs, draw_sign_trick, sign_trick
from steelnb.figures.threshold import draw_threshold
from steelnb.losses import broken


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


@pytest.mark.parametrize("x", [-2.0, -0.2, -0.13, -0.12, -0.05, 0.0, 0.05, 1.0])
def test_the_numbers_are_those_of_raw_dice(x):
    mask = torch.zeros(1, 1, 50, 50)
    mask[..., :5, :] = 1  # a tenth
    here = sign_trick(x, 0.1)
    output = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    loss = broken.raw_dice_loss(output.expand_as(mask), mask)
    loss.backward()
    assert here.loss == pytest.approx(loss.item(), abs=1e-4)
    assert here.slope == pytest.approx(output.grad.item(), rel=1e-3)
    assert here.slope < 0
    assert (here.numerator < 0, here.denominator < 0) == (x < 0, x < -0.1)


def test_the_pole_has_no_value_and_is_drawn():
    here = sign_trick(-0.06, 0.06)
    assert here.denominator == 0
    assert np.isnan([here.loss, here.slope]).all()
    figure = draw_sign_trick(-0.06)
    assert "the pole" in figure.axes[0].get_title(loc="left")


@pytest.mark.parametrize(("x", "word"), [(-0.1, "two minuses cancel"), (-0.03, "away from the pole"), (0.1, "slowly")])
def test_the_title_says_what_happens(x, word):
    assert word in draw_sign_trick(x).axes[0].get_title(loc="left")


def test_outputs_are_drawn_each_on_its_own_scale_with_zero_in_the_middle():
    outputs = {"a": np.array([[-2.0, 1.0]]), "b": np.array([[0.5, 0.0]])}
    figure = draw_outputs(np.zeros((1, 2), np.uint8), np.array([[True, False]]), outputs)
    assert [ax.images[0].get_clim() for ax in figure.axes[2:]] == [(-2, 2), (-0.5, 0.5)]
    assert figure.axes[2].get_xlabel() == "from −2.00 to 1.00"
    plt.close(figure)


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match="share is 0"):
        draw_sign_trick(0.1, share=0)


def test_the_slider_moves_the_picture_and_the_twin_draws_the_same():
    box = widgets.explore_sign_trick(x=-0.1)
    slider, picture = box.children
    before = picture.value
    for x in (0.05, -0.03, -0.1):
        slider.value = x
        figure = draw_sign_trick(x)
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
    figure = draw_threshold(*one_image, threshold)
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
        draw_threshold(*one_image, threshold).savefig(file, format="png", dpi=100)
        assert (abs(pixels(picture.value) - pixels(file.getvalue())).max(-1) > 40).mean() < 0.002
        assert (picture.value == before) == (threshold == 0.5)


def test_a_clean_image_without_a_find_is_right_and_other_shapes_are_refused(one_image):
    image, probability, mask = one_image
    assert "rightly nothing" in draw_threshold(image, 0 * probability, mask & False).axes[0].get_title(loc="left")
    with pytest.raises(ValueError, match="are of"):
        draw_threshold(image, probability[:5], mask)


def same_picture(picture, figure):
    """Whether a widget's frame is the figure's, but for single pixels at edges."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return (abs(pixels(picture.value) - pixels(file.getvalue())).max(-1) > 40).mean() < 0.002


def test_the_tile_explorer_shows_what_its_twin_draws(one_image):
    image = one_image[0]
    column, row, side, picture = widgets.explore_overlap_tile(image, left=32).children
    before = picture.value
    for slider, value in ((column, 1584), (row, 48), (column, 0), (row, 0), (side, 64), (side, 512)):
        last, slider.value = picture.value, value
        assert picture.value != last
        assert same_picture(picture, tile_window.draw_overlap_tile(image, row.value, column.value, side.value))
    column.value, row.value, side.value = 32, 0, 176
    assert picture.value == before
    assert (column.max, row.max) == (1584, 48)
    column.value = 45  # typed beside the slider: the tile that it falls into
    assert picture.value == before


def test_a_tile_that_no_slider_could_reach_is_refused(one_image):
    with pytest.raises(ValueError, match="inside the image of 64 × 1600"):
        widgets.explore_overlap_tile(one_image[0], top=64)


@pytest.mark.parametrize(
    "explorer", [lambda image: widgets.explore_sign_trick(), lambda image: widgets.explore_overlap_tile(image),
                 lambda image: widgets.explore_threshold(image, image / 255, image > 200)]
)
def test_a_move_takes_less_than_a_tenth_of_a_second_of_the_processor(explorer):
    image = np.random.default_rng(0).integers(0, 256, (256, 1600), dtype=np.uint8)
    slider = explorer(image).children[0]
    times = []
    for value in np.linspace(slider.min, slider.max, 11)[1:-1]:
        began = time.process_time()  # of the processor: other tests run beside this one
        slider.value = type(slider.value)(value)
        times.append(time.process_time() - began)
    assert sorted(times)[2] < 0.1, times


COLUMNS = "session,began,process,device,processes,from_step,to_step,hours,hours_in_all,ended"


def write(run, epochs, ended=""):
    """What a training of ten epochs leaves behind after some of them."""
    rows = [f"{e},{10 * e},1,{1 / e},{1 / e},{e / 20}" for e in range(1, epochs + 1)]
    head = "epoch,step,seconds,train_loss,validation_loss,validation_dice"
    (run / "history.csv").write_text("\n".join([head, *rows]) + "\n")
    (run / "config.json").write_text(json.dumps({"steps": 100}))
    (run / "sessions.csv").write_text(f"{COLUMNS}\n1,now,1,cpu,1,0,{10 * epochs},0.01,0.01,{ended}\n")


def watchers(run):
    return [thread for thread in threading.enumerate() if thread.name == f"monitor of {run.name}"]


def until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_the_monitor_follows_a_folder_and_ends_with_its_session(tmp_path):
    run = tmp_path / "followed"
    box = widgets.monitor_training(run, seconds=0.02)
    picture, (text,) = box.children[1], box.children[0].children  # no button for a training of others
    assert text.value == "nothing has been written yet"
    run.mkdir()
    (run / "history.csv").write_text("epoch,st")  # half of it
    before = picture.value
    write(run, 3)
    until(lambda: "step 30 of 100" in text.value and picture.value != before)
    assert "left" in text.value
    assert "last written" in text.value
    assert same_picture(picture, run_progress.draw_run(run))
    before = picture.value
    write(run, 10, "finished")
    until(lambda: not watchers(run))
    assert text.value.startswith("epoch 10 · step 100 of 100")
    assert text.value.endswith("finished")
    assert picture.value != before
    assert same_picture(picture, run_progress.draw_run(run))


def test_the_monitor_of_a_finished_run_starts_nothing(tmp_path):
    write(tmp_path, 10, "finished")
    box = widgets.monitor_training(tmp_path)
    assert not watchers(tmp_path)
    assert same_picture(box.children[1], run_progress.draw_run(tmp_path))


def test_a_closed_monitor_stops_looking(tmp_path):
    write(tmp_path, 2)
    box = widgets.monitor_training(tmp_path, seconds=0.02)
    assert watchers(tmp_path)
    box.close()
    until(lambda: not watchers(tmp_path))


SLEEPER = """import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(flush=True)
time.sleep(60)"""


def test_the_button_asks_the_process_and_the_monitor_ends_with_it(tmp_path):
    write(tmp_path, 2, "killed")  # of an earlier session: the process has not come so far yet
    with subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        button, _ = widgets.monitor_training(tmp_path, process, seconds=0.02).children[0].children
        assert not button.disabled
        assert watchers(tmp_path)
        button.click()
        assert button.disabled
        until(lambda: not watchers(tmp_path))
        assert process.returncode == 0
        button.click()  # a click that was late


def test_pixels_at_the_threshold_are_counted_as_they_are_drawn():
    probability = np.full((4, 4), np.float32(51 / 255))  # of a map kept as bytes; 0.2 as a float64 is below it
    figure = draw_threshold(np.zeros((4, 4), np.uint8), probability, np.ones((4, 4), bool), threshold=0.2)
    assert not (probability > 0.2).any()
    assert "0.0% called defect" in figure.axes[0].get_title(loc="left").replace(" %", "%")


def test_a_process_that_fails_is_not_taken_for_an_earlier_end(tmp_path):
    write(tmp_path, 2, "stopped by hand")  # an earlier session; this process dies before it writes a line
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"]) as process:
        process.wait()
        _, text = widgets.monitor_training(tmp_path, process, seconds=0.02).children[0].children
    assert text.value.endswith("its process has ended (1)")


def test_a_process_that_dies_is_told(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        button, text = widgets.monitor_training(tmp_path, process, seconds=0.02).children[0].children
        process.kill()
        until(lambda: not watchers(tmp_path))
        assert f"its process has ended ({-signal.SIGKILL})" in text.value
        assert button.disabled
