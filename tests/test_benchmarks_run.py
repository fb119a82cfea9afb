"""A benchmark whose figures need a GPU runs small without one, every line of it, and says that it is no figure."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from steelnb import runtime
from steelnb.network import geometry
from steelnb.network.tiles import ORIGINAL_MARGINS, Tile, input_window, mirror
from steelnb.network.unet import UNet, cost

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import mutants
import throughput
from on_a_gpu import clock, contenders


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "monai", None)  # as if not installed: importing it takes seconds


def test_every_line_runs_and_none_is_a_figure(no_gpu, monkeypatch, capsys):
    monkeypatch.setattr(contenders, "BATCHES", (4,))
    monkeypatch.setattr(contenders, "MEMORY_BATCHES", (1, 2))
    assert throughput.main(["--turns", "1", "--steps", "1"]) == 0
    told = capsys.readouterr().out
    assert "no GPU: the lines ran at width 2 on small images; nothing here is a figure of the original's size" in told
    names = [contenders.ITS_WAY, *(f"+ {change}" for change in contenders.CHANGES), "+ no host sync: Trainer",
             "+ a fixed batch", "+ compile", "+ batch 4", "the same again", contenders.WITH_DATA,
             "same padding, as milesial's"]
    for name in names:
        row = next(line for line in told.splitlines() if line.startswith(name + " "))
        images, milliseconds = (float(number) for number in row[len(name) :].split()[2:4])
        assert images > 0
        assert milliseconds > 0
    assert "MONAI is not installed" in told
    assert told.count("open: it takes a GPU to say") == 2


def test_a_result_without_a_gpu_is_refused(no_gpu, capsys):
    with pytest.raises(SystemExit) as refused:
        throughput.main(["--write"])
    assert refused.value.code == 2
    assert "a figure of this question must come from a GPU" in capsys.readouterr().err


def test_a_stop_leaves_the_parts_that_took_place(monkeypatch, tmp_path):
    def two_parts_and_a_stop(plan):
        yield {"matrix_tflops": {"mixed": 1.0}}
        yield {"lines": {}}
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(runtime, "describe", lambda: "a card")
    monkeypatch.setattr(runtime, "compiles", lambda device: False)
    monkeypatch.setattr(clock, "provenance", lambda device, commit: {"commit": commit})
    monkeypatch.setattr(throughput, "measure", two_parts_and_a_stop)
    monkeypatch.setattr(throughput, "RESULTS", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        throughput.main(["--write", "--commit", "abc"])
    (path,) = tmp_path.iterdir()
    kept = json.loads(path.read_text())
    assert (kept["commit"], kept["matrix_tflops"], kept["lines"]) == ("abc", {"mixed": 1.0}, {})
    assert "peak_gib" not in kept


def test_a_line_without_memory_or_with_a_fault_is_told_and_the_others_go_on():
    def no_memory():
        raise torch.OutOfMemoryError("CUDA out of memory")

    def fault():
        raise RuntimeError("first\nsecond")

    starts = {"large": no_memory, "broken": fault, "late": lambda: no_memory, "sound": lambda: int}
    lines = [clock.Line(name, 2, 10, start) for name, start in starts.items()]
    plan = clock.Plan(torch.device("cpu"), 2, (32, 48), 8, 1, (), 1, 2)
    rows = clock.race(lines, plan)
    told = [rows[name].get("failed") for name in starts]
    assert told == ["out of memory", "RuntimeError: first", "out of memory", None]
    assert len(rows["sound"]["ms_of_the_windows"]) == 2


def test_windows_are_the_librarys():
    image = np.random.default_rng(0).integers(0, 256, (32, 48), np.uint8)
    mask = np.zeros((1, 32, 48), bool)
    windows, masks, *_ = next(contenders.mirrored([(image, mask)], 2))
    assert np.array_equal(windows[1, 0], input_window(image, Tile(0, 0, 32, 48)))
    assert masks.shape == (2, 1, 32, 48)
    windows, masks, *_ = next(contenders.mirrored([(image, mask)], 2, exact=False, floats=True))
    theirs = mirror(image, *ORIGINAL_MARGINS).astype(np.float32) / 255
    assert np.array_equal(windows[0, 0], theirs)
    assert masks.shape == (2, 1, *(geometry.output_size(n) for n in theirs.shape))


def test_multiply_adds_of_others_are_counted_as_ours():
    ours = sum(layer.macs for layer in cost(UNet(width=4, padding="same"), 32, 48))
    assert contenders.counted(lambda: UNet(width=4, padding="same"), (32, 48)) == ours


def test_mutants_change_one_operator_and_no_message():
    """Each is another program on one line; docstrings, messages, annotations and progress bars stay as they are."""
    source = '''
def clipped(a: int = 1, progress: bool = False) -> int | None:
    """Not 1 but a - 1."""
    if a < 2 and not a - 1 >= 0:
        raise ValueError(f"{a + 1} of 7")
    print(min(a, 3))
    return max(a.clip(0, 9), -a)
'''
    found = {one.applied(source) for one in mutants.mutants_of("a.py", source)}
    lines = {(k, b.strip()) for each in found for k, (a, b) in enumerate(zip(
        source.splitlines(), each.splitlines(), strict=True)) if a != b}
    assert len(lines) == len(found)
    assert {k for k, _ in lines} == {1, 3, 6}
    for line in ("def clipped(a: int = 2, progress: bool = False) -> int | None:", "if a < 2 or not a - 1 >= 0:",
                 "if a <= 2 and not a - 1 >= 0:", "if a < 2 and (a - 1 >= 0):", "if a < 2 and not a + 1 >= 0:",
                 "if a < 2 and not a - 1 > 0:", "if a < 3 and not a - 1 >= 0:", "return min(a.clip(0, 9), -a)",
                 "return max((a), -a)", "return max(a.clip(0, 9), (a))", "return max(a.clip(0, 8), -a)"):
        assert line in {text for _, text in lines}, line
