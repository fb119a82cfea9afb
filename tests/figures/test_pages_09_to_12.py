"""The figures of pages 09 to 12 draw what is recorded so far: nothing, one seed, or all of it."""

import base64
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb

from steelnb.evaluation.recorded import seed_interval
from steelnb.evaluation.scores import Value
from steelnb.figures import borrowed, long_run, plots, races, real_steel


def titles(figure):
    return [ax.get_title(loc="left") for ax in figure.axes]


@pytest.mark.parametrize(("told", "kind"), [
    ("told to stop (SIGTERM)", "SIGTERM"), ("killed", "SIGKILL"), ("finished", "finished"),
    ("the session's hours are over", "budget"), (float("nan"), "unfinished"), ("", "unfinished"),
])
def test_how_a_session_ended(told, kind):
    assert long_run.ending(told) == kind


@pytest.mark.parametrize("epochs", [1, 6, 200])
def test_a_long_run_shows_its_best_epoch_and_where_its_sessions_ended(epochs):
    accuracy = np.linspace(0.1, 0.4, epochs)
    accuracy[epochs // 2] = 0.5
    history = pd.DataFrame({"epoch": range(1, epochs + 1), "step": range(10, 10 * epochs + 1, 10), "train_loss": 0.5,
                            "validation_loss": 0.6, "validation_original_accuracy": accuracy})
    sessions = pd.DataFrame({"to_step": [5, 8, 10], "ended": ["told to stop (SIGTERM)", "killed", np.nan]})
    figure = long_run.draw_long_run(history, sessions)
    assert f"best 0.50, epoch {epochs // 2 + 1}" in titles(figure)[1]
    for ax in figure.axes:
        upright = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2]
        assert {0.5, 0.8} <= {first for first, second in upright if first == second}


def test_a_dot_per_seed_of_what_forgetting_costs():
    rows = [{"panel": panel, "forgotten": part, "seed": seed, "change": 0.01 * seed}
            for panel in ("sgd", "adamw") for part in ("nothing", "schedule") for seed in range(3)]
    figure = long_run.draw_changes(pd.DataFrame(rows))
    assert titles(figure) == ["sgd", "adamw"]
    assert [len(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() == "o"] == [3, 3]


def test_curves_of_nothing_say_so_and_of_something_do_not():
    empty = races.draw_curves(pd.DataFrame(columns=["arm", "run", "gigamacs", "dice"]), "gigamacs", "dice", "a title")
    assert [text.get_text() for text in empty.axes[0].texts] == ["not recorded yet"]
    points = pd.DataFrame([{"arm": arm, "run": seed, "gigamacs": 10.0**k, "dice": 0.1 * k}
                           for arm in races.ARMS for seed in range(2) for k in range(4)])
    full = races.draw_curves(points, "gigamacs", "dice", "a title", (0.5,))
    assert [text.get_text() for text in full.axes[0].texts] == ["50%"]
    assert [text.get_text() for text in full.legends[0].get_texts()] == list(races.ARMS)


def test_only_a_difference_beyond_the_spread_of_seeds_is_coloured():
    gains = {"sure": np.array([0.10, 0.11, 0.12]), "unsure": np.array([-0.1, 0.2, 0.1]), "one seed": np.array([0.3])}
    intervals = {name: seed_interval(values) for name, values in gains.items()}
    figure = races.draw_differences(gains, intervals, "gain", "a title")
    colours = [line.get_color() for line in figure.axes[0].lines if line.get_marker() == "D"]
    assert colours == [races.BEYOND, races.WITHIN, races.WITHIN]
    assert [text.get_text() for text in races.draw_differences({}, {}, "", "").axes[0].texts] == ["not recorded yet"]


def test_a_line_of_the_waterfall_is_coloured_by_its_change_alone():
    def line(name, *seconds):
        return {"change": name, "runs": [{"cpu_seconds": each, "at_most": 70.0} for each in seconds]}

    lines = [line("original", 60.0, 61.0, 62.0), line("half", 30.0, 30.4, 31.0), line("never", None, 31.0, 29.0)]
    steps = np.diff(np.log(races.shares_of_the_first(lines)), axis=0)
    beyond = [line["change"] for line, step in zip(lines[1:], steps, strict=True)
              if np.prod(seed_interval(step)[1:]) > 0]
    figure = races.draw_waterfall(lines, beyond)
    dots = [line for line in figure.axes[0].lines if line.get_marker() in ("o", ">")]
    assert [dot.get_color() for dot in dots] == [races.WITHIN] * 3 + [races.BEYOND] * 3 + [races.WITHIN] * 3
    assert [dot.get_marker() for dot in dots].count(">") == 1


def test_few_images_are_hollow():
    rows = {"few": Value(0.4, 0.2, 0.6, 7), "many": Value(0.5, 0.45, 0.55, 180)}
    figure = real_steel.draw_scores(rows, "Dice", {"many"})
    few, many = (line for line in figure.axes[0].lines if line.get_marker() != "None")
    assert few.get_markerfacecolor() == "none"
    assert many.get_markerfacecolor() != "none"
    assert (few.get_marker(), many.get_marker()) == ("D", "o")
    assert [text.get_text() for text in figure.axes[0].texts] == ["few (n = 7)", "many (n = 180)"]


def test_a_map_of_errors_comes_back_in_its_colours():
    codes = np.array([[0, 1], [2, 3]], np.uint8)
    packed = base64.b64encode(zlib.compress(codes.tobytes())).decode()
    picture = real_steel.error_map(packed, codes.shape)
    for place, colour in (((0, 1), plots.MISS), ((1, 0), plots.FALSE_ALARM), ((1, 1), plots.HIT)):
        assert picture[place] == pytest.approx(255 * np.array(to_rgb(colour)), abs=1)


def test_a_piece_lies_on_lit_steel_around_the_defect():
    image = np.zeros((32, 400), np.uint8)
    image[:, 150:] = 90
    mask = np.zeros((32, 400), bool)
    mask[10:20, 300:320] = True
    _, columns = real_steel.piece(image, mask, width=100)
    assert columns.start >= 150
    assert columns.start <= 300 < 320 <= columns.stop
    assert columns.stop - columns.start == 100
    assert real_steel.piece(np.zeros((8, 50), np.uint8), np.zeros((8, 50), bool))[1] == slice(0, 50)
    narrow = np.zeros((8, 200), np.uint8)
    narrow[:, 170:] = 90  # all pieces of a figure have one width
    assert real_steel.piece(narrow, narrow > 0, width=100)[1] == slice(100, 200)
    real_steel.draw_examples({"a": (image, mask, mask), "b": (image, mask & False, mask)})


def test_what_is_borrowed_is_drawn():
    image, mask = np.full((32, 64), 90, np.uint8), np.zeros((32, 64), bool)
    mask[8:16, 8:24] = True
    maps = {"random": torch.rand(3, 16, 32), "trained": torch.rand(4, 8, 16)}
    figure = borrowed.draw_features(image, mask, maps, lambda stack, mask: stack.flatten(1).max(1).values)
    assert len(figure.axes) == 3
    scores = pd.DataFrame([{"step": step, "dice": 0.1, "start": start}
                           for start in borrowed.STARTS for step in (0, 10)])
    assert len(borrowed.draw_starts(scores, "a title").axes[0].lines) == 3
    assert len(borrowed.draw_sheet(image, mask, np.zeros((32, 64)), np.ones((32, 64))).axes) == 3
    table = pd.DataFrame({"data": ["a", "a", "b"], "arm": "x", "seconds": [60, 60, 0], "dice": [0.5, 0.6, 0.7]})
    labels = [label.get_text() for label in borrowed.draw_recorded(table).axes[0].get_yticklabels()]
    assert labels == ["a, x, 60 s", "b, x, not trained"]
