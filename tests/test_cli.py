"""The command line, from steel to mask, as a user runs it; and what it says when something is wrong."""

import json
import subprocess
import sys

import pandas as pd
import pytest

from steelnb import __main__ as cli
from steelnb import recipes


def call(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_from_steel_to_mask(tmp_path, monkeypatch, capsys, tiny):
    monkeypatch.setitem(recipes.RECIPES, "smoke", tiny)
    steel, run, out = tmp_path / "steel", tmp_path / "run", tmp_path / "masks"
    assert call("sample", steel, "--images", 10, "--seed", 3, "--size", "64x200", "--quiet") == 0
    assert len(list((steel / "train_images").iterdir())) == 10
    assert call("train", "--data", steel, "--run", run, "--epochs", 1) == 0
    assert "Dice on defective images" in capsys.readouterr().out
    assert call("evaluate", "--data", steel, "--weights", run / "weights.safetensors", "--json", "--quiet") == 0
    told = json.loads(capsys.readouterr().out)
    assert "held out for validation" in told["part"]
    assert told["scores"]["images"] == 2
    assert "NaN" not in json.dumps(told)
    assert call("evaluate", "--data", steel, "--weights", run, "--part", "all", "--quiet") == 0
    assert "dice_empty_is_one" in capsys.readouterr().out
    assert call("predict", "--weights", run, "--out", out, "--tile", 32, "--quiet", steel / "train_images") == 0
    assert len(pd.read_csv(out / "predictions.csv")) == 10
    assert len(list(out.glob("*_mask.png"))) == len(list(out.glob("*_overlay.png"))) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--data", "nowhere", "--run", "run"), "nowhere: no such folder"),
        (("train", "--data", "synthetic", "--run", "run", "--recipe", "best"), "no recipe 'best'; there are smoke, "),
        (("evaluate", "--data", "synthetic", "--weights", "run"), "no such file"),
        (("predict", "--weights", "w.safetensors", "--out", "o", "a.png"), "w.safetensors: no such file"),
        (("sample", "steel", "--size", "8x8"), "32"),
    ],
)
def test_errors_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(*arguments, "--quiet") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"steelnb {arguments[0]}: ")
    assert message in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [(), ("train",), ("fly",), ("sample", "x", "--size", "big"), ("train", "--run", "r", "--epochs", "0"),
     ("train", "--run", "r", "--seed", "-1"), ("train", "--run", "r", "--epochs", "1", "--steps", "1")],
)  # fmt: skip
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        call(*arguments)
    assert exit.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_help_names_every_command_and_option(capsys):
    commands = ("sample", "train", "predict", "evaluate")
    for arguments in (["--help"], *([name, "--help"] for name in commands)):
        with pytest.raises(SystemExit) as exit:
            call(*arguments)
        assert exit.value.code == 0
    text = capsys.readouterr().out
    for word in (*commands, "--recipe", "--epochs", "--steps", "--seed", "--images", "--tile",
                 "--per-class", "--part", "--json", "--debug"):  # fmt: skip
        assert word in text


def test_a_bad_image_makes_the_exit_code_1_and_the_rest_go_on(tmp_path, steel_folder, tiny, capsys, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "smoke", tiny)
    assert call("train", "--data", steel_folder, "--run", tmp_path / "run", "--steps", 1, "--quiet") == 0
    good = sorted((steel_folder / "train_images").iterdir())[0]
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not an image")
    assert call("predict", "--weights", tmp_path / "run", "--out", tmp_path / "o", "--quiet", bad, good) == 1
    told = capsys.readouterr()
    assert "bad.jpg" in told.err
    assert f"{good.stem}: " in told.out


def test_it_runs_as_a_module_and_importing_it_is_quick():
    told = subprocess.run([sys.executable, "-m", "steelnb", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.strip()
    code = "import sys, steelnb; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
