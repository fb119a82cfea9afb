"""The command line, from steel to mask, as a user runs it; and what it says when something is wrong."""

import errno
import json
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from steelnb import EXIT_STOPPED, runtime, storage
from steelnb import __main__ as cli
from steelnb.data import dataset
from steelnb.evaluation import report
from steelnb.evaluation.operating_point import OperatingPoint
from steelnb.network import inference, weights
from steelnb.network.unet import UNet
from steelnb.options import parser
from steelnb.training import recipes


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """What `train` takes without --recipe, here."""
    monkeypatch.setattr(recipes, "DEFAULT", "smoke")


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
    assert told["images"] == 2
    assert {each["score"] for each in told["scores"]} > {"Dice", "IoU", "precision"}
    assert "NaN" not in json.dumps(told)
    assert call("evaluate", "--data", steel, "--weights", run, "--part", "all", "--quiet") == 0
    assert "Dice, all images, empty = 1" in capsys.readouterr().out
    assert call("predict", "--weights", run, "--out", out, "--tile", 32, "--quiet", steel / "train_images") == 0
    assert len(pd.read_csv(out / "predictions.csv")) == 10
    assert len(list(out.glob("*_mask.png"))) == len(list(out.glob("*_overlay.png"))) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--data", "nowhere", "--run", "run"), "nowhere: no such folder"),
        (("train", "--data", "synthetic", "--run", "run", "--recipe", "best"), "no recipe 'best'; there are pretr"),
        (("evaluate", "--data", "synthetic", "--weights", "run"), "no such file"),
        (("predict", "--weights", "w.safetensors", "--out", "o", "a.png"), "w.safetensors: no such file"),
        (("sample", "steel", "--size", "8x8"), "32"),
        (("train", "--data", "synthetic", "--run", "run", "--set", "bacth=2"), "a recipe has no bacth; it has name, "),
        (("train", "--data", "synthetic", "--run", "run", "--set", "batch=0"), "batch is 0; it can be a whole number "),
        (("train", "--data", "synthetic", "--run", "run", "--set", "batch=two"), "batch is 'two'; it can be a whole "),
        (("train", "--data", "synthetic", "--run", "run", "--set", "learning_rate=nan"), "learning_rate is 'nan'; it "),
        (("train", "--data", "synthetic", "--run", "run", "--set", "optimizer=lion"), "'lion'; it can be adamw, sgd"),
        (("train", "--data", "synthetic", "--run", "run", "--set", "crop=[64]"), "crop is [64]; it can be two numbers"),
        (("train", "--data", "synthetic", "--run", "run", "--set", "crop=5"), "crop is 5; it can be two numbers"),
        (("train", "--data", "synthetic", "--run", "run", "--set", "model={"), "model is '{'; it can be the network's"),
        (("train", "--data", "nowhere", "--run", "run", "--set", "per_class=true"), "nowhere: no such folder"),
        (("evaluate", "--weights", "run", "--threshold", "1.5"), "threshold is 1.5; it must be a probability, from 0 "),
        (("evaluate", "--weights", "run", "--threshold", "nan"), "threshold is nan; it must be a probability, from 0 "),
        (("evaluate", "--weights", "run", "--guard", "1"), "guard is 1.0; it must be a probability, from 0 to below 1"),
        (("evaluate", "--weights", "run", "--guard", "-0.1"), "guard is -0.1; it must be a probability"),
        (("evaluate", "--weights", "run", "--choose", "--threshold", "0.4"), "--choose sets threshold, "),
        (("evaluate", "--weights", "run", "--choose", "--minimum-area", "9"), "--choose sets threshold, "),
        (("evaluate", "--weights", "run", "--choose", "--guard", "0.9"), "--choose sets threshold, "),
        (("evaluate", "--weights", "run", "--choose", "--flips"), "guard and flips: leave these options out"),
        (("evaluate", "--weights", "run", "--alarms", "0.1"), "--alarms is an option of --choose: add --choose"),
        (("evaluate", "--weights", "run", "--out", "."), ". already exists; choose another"),
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
     ("train", "--run", "r", "--seed", "-1"), ("train", "--run", "r", "--epochs", "1", "--steps", "1"),
     ("train", "--run", "r", "--hours", "many"), ("train", "--run", "r", "--hours", "0"),
     ("train", "--run", "r", "--session-hours", "-1"), ("train", "--run", "r", "--session-hours", "nan"),
     ("train", "--run", "r", "--hours", "inf"), ("train", "--run", "r", "--checkpoint-seconds", "-1"),
     ("train", "--run", "r", "--set", "batch"), ("evaluate",), ("evaluate", "--weights", "w", "--part", "test"),
     ("evaluate", "--weights", "w", "--threshold", "half"), ("evaluate", "--weights", "w", "--minimum-area", "-1"),
     ("evaluate", "--weights", "w", "--minimum-area", "2.5"), ("evaluate", "--weights", "w", "--replicates", "-1"),
     ("evaluate", "--weights", "w", "--choose", "--alarms", "1.1"),
     ("evaluate", "--weights", "w", "--choose", "--alarms", "nan"),
     ("evaluate", "--weights", "w", "--choose", "--alarms", "few")],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        call(*arguments)
    assert exit.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_wrong_usage_says_what_would_be_right(capsys):
    for arguments, message in (
        (("--hours", "many"), "argument --hours: 'many' is not a number of hours"),
        (("--session-hours", "0"), "argument --session-hours: '0' is not a number of hours"),
        (("--set", "batch"), "argument --set: 'batch' is not NAME=VALUE, such as batch=2"),
    ):
        with pytest.raises(SystemExit):
            call("train", "--run", "r", *arguments)
        assert capsys.readouterr().err.splitlines()[-1] == f"steelnb train: error: {message}"
    with pytest.raises(SystemExit):
        call("evaluate", "--weights", "w", "--choose", "--alarms", "2")
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == "steelnb evaluate: error: argument --alarms: '2' is not a share, from 0 to 1"


def test_a_training_in_two_sessions(tmp_path, steel_folder, monkeypatch, capsys, tiny):
    monkeypatch.setitem(recipes.RECIPES, "smoke", tiny)
    train = ("train", "--data", steel_folder, "--run", tmp_path / "run", "--quiet", "--set", "batch=2",
             "--set", "crop=[32, 32]", "--set", "loss=dice", "--set", 'model={"width": 2, "depth": 1}')
    assert call(*train, "--hours", 100, "--session-hours", 1e-9) == EXIT_STOPPED
    told = capsys.readouterr().out
    assert "of 100 h · a new run of 12 steps" in told
    assert "the hours of this session are over: after step 1 of 12. The same call, or command, goes on" in told
    assert "weights of the best epoch" not in told  # there are none yet
    assert call(*train, "--hours", 100, "--session-hours", 1) == 0
    told = capsys.readouterr().out
    assert re.search(r"session 2 · \d.\d of 100 h · ends about .* · goes on after step 1 of 12, in epoch 1\n", told)
    assert told.endswith(f"weights of the best epoch: {tmp_path / 'run' / 'weights.safetensors'}\n")
    recipe = json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]
    assert (recipe["batch"], recipe["crop"], recipe["loss"]) == (2, [32, 32], "dice")
    assert recipe["model"] == {"width": 2, "depth": 1}


def test_changes_are_refused_and_then_accepted(tmp_path, steel_folder, monkeypatch, capsys, tiny):
    monkeypatch.setitem(recipes.RECIPES, "smoke", tiny)
    train = ("train", "--data", steel_folder, "--run", tmp_path / "run", "--quiet")
    assert call(*train, "--session-hours", 1e-9) == EXIT_STOPPED
    capsys.readouterr()
    assert call(*train, "--set", "learning_rate=1e-4") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"steelnb train: {tmp_path / 'run'} holds another run (recipe.learning_rate was 0.004 ")
    assert error.endswith("--accept-changes)\n")
    assert call(*train, "--set", "learning_rate=1e-4", "--accept-changes", "--session-hours", 1e-9) == EXIT_STOPPED
    told = capsys.readouterr().out
    assert "goes on although this differs: recipe.learning_rate was 0.004 and is 0.0001" in told
    assert call(*train, "--set", "learning_rate=1e-4", "--session-hours", 1e-9) == EXIT_STOPPED  # now it is the run's


def test_deterministic_is_set_before_anything_is_computed(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(runtime, "make_deterministic", lambda: asked.append(True))
    assert call("train", "--data", "nowhere", "--run", "run", "--deterministic", "--quiet") == 1
    assert asked
    assert call("train", "--data", "nowhere", "--run", "run", "--quiet") == 1
    assert len(asked) == 1


def test_sigterm_ends_the_command_well(tmp_path, steel_folder):
    """Of a process of its own: an exit code that a finished one does not have, and a line that says how to go on."""
    command = [sys.executable, "-m", "steelnb", "train", "--data", steel_folder, "--run", tmp_path / "run", "--quiet"]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        told = ""
        while "a new run of" not in told:
            line = process.stdout.readline()
            assert line, f"it has ended: {told}"
            told += line
        process.terminate()
        told += process.stdout.read()
    assert process.returncode == EXIT_STOPPED
    assert re.search(r"told to stop \(SIGTERM\): after step \d+ of \d+\. The same call, or command, goes on\n", told)


def test_torchrun_takes_a_training_that_stopped_for_no_crash(tmp_path, steel_folder, monkeypatch, tiny):
    """It would begin it again at once, and again, where it may restart workers."""
    monkeypatch.setitem(recipes.RECIPES, "smoke", tiny)
    monkeypatch.setenv("RANK", "0")
    train = ("train", "--data", steel_folder, "--run", tmp_path / "run", "--quiet", "--session-hours", 1e-9)
    assert call(*train) == 0


def test_help_tells_the_exit_codes_of_train(capsys):
    with pytest.raises(SystemExit):
        call("train", "--help")
    assert f"Exit code 0: finished; {EXIT_STOPPED}: stopped" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "arguments",
    [("sample", ""), ("train", "--run", ""), ("train", "--run", "r", "--data", ""), ("predict", "--out", " ", "a.png"),
     ("train", "--run", "r", "--groups", ""), ("predict", "--weights", "", "--out", "o", "a.png"),
     ("predict", "--weights", "w", "--out", "o", ""), ("predict", "--weights", "w", "--out", "o", "i", "--kaggle", ""),
     ("evaluate", "--weights", ""), ("evaluate", "--weights", "w", "--out", ""), ("audit", "--out", ""),
     ("export", "--weights", "w", "--out", "")],
)
def test_an_empty_name_is_not_the_current_folder(arguments, tmp_path, monkeypatch, capsys):
    """As a shell passes it for a variable that is not set."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        call(*arguments)
    assert exit.value.code == 2
    assert capsys.readouterr().err.rstrip().endswith("an empty name: write . for the current folder")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", ["1" + 21 * "0", "9223372036854775808", 5000 * "9", "-1", "1e3"])
def test_a_seed_that_torch_cannot_take(number, capsys):
    assert parser().parse_args(["train", "--run", "r", "--seed", "9223372036854775807"]).seed == 2**63 - 1
    torch.manual_seed(2**63 - 1)
    for command in (("train", "--run", "r"), ("sample", "s"), ("audit", "--out", "o")):
        with pytest.raises(SystemExit) as exit:
            call(*command, "--seed", number)
        assert exit.value.code == 2
        assert re.search("argument --seed: .* (is more than|is not a whole number)", capsys.readouterr().err)
    with pytest.raises(SystemExit):
        call("evaluate", "--weights", "w", "--replicates", "1000000001")
    assert "argument --replicates: 1000000001 is more than 1000000000" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "cp1251", "cp932"])
def test_a_console_that_cannot_show_every_sign(tmp_path, steel_folder, encoding):
    """Its output has ? in their places, and the work is done."""
    train = ("train", "--data", steel_folder, "--run", tmp_path / "r", "--steps", "1")
    command = [sys.executable, "-m", "steelnb", *train]
    console = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(list(map(str, command)), env=console, capture_output=True)
    assert done.returncode == 0, done.stderr
    told = done.stdout.decode(encoding)
    assert re.search(r"64.200\), ", told)
    assert re.search("session 1 . ", told)
    assert "?" in told


@pytest.mark.parametrize("share", ["0", "0.1", "1"])
def test_a_share_of_alarms_may_be_none_or_all(share):
    assert parser().parse_args(["evaluate", "--weights", "w", "--choose", "--alarms", share]).alarms == float(share)


def test_audit_tells_of_broken_data_that_the_environment_names(tmp_path, monkeypatch):
    (tmp_path / "broken" / "train_images").mkdir(parents=True)
    (tmp_path / "broken" / "train.csv").write_text("no table")
    monkeypatch.setenv("STEELNB_DATA", str(tmp_path / "broken"))
    assert call("audit", "--out", tmp_path / "out", "--quiet") == 1
    assert (tmp_path / "out" / "report.html").exists()


OPERATING_POINT = ("--threshold", "--minimum-area", "--guard", "--flips")
DATA = ("--data", "--skip-missing", "--mask-threshold", "--nested", "--format")
OPTIONS = {
    "sample": ("--images", "--seed", "--form", "--size"),
    "train": (*DATA, "--run", "--recipe", "--set", "--epochs", "--steps", "--hours", "--session-hours",
              "--checkpoint-seconds", "--accept-changes", "--seed", "--per-class", "--ignore-copies", "--groups",
              "--deterministic"),
    "predict": ("--weights", "--out", "--tile", "--margin", *OPERATING_POINT, "--probabilities", "--kaggle", "--raw",
                "--resume"),
    "evaluate": (*DATA, "--weights", *OPERATING_POINT, "--choose", "--alarms", "--part", "--replicates", "--out",
                 "--json"),
    "audit": (*DATA, "--out", "--seed", "--against"),
    "convert": (*DATA, "--out"),
    "export": ("--weights", "--out", "--size"),
}


@pytest.mark.parametrize("command", OPTIONS)
def test_every_command_has_its_options_and_tells_them(command, capsys):
    told = []
    for arguments in (["--help"], [command, "--help"]):
        with pytest.raises(SystemExit) as exit:
            call(*arguments)
        assert exit.value.code == 0
        told.append(capsys.readouterr().out)
    assert command in told[0]
    assert set(re.findall(r"--[a-z-]+", told[1])) >= {"--help", "--debug", "--quiet", *OPTIONS[command]}
    (commands,) = (action for action in parser()._actions if isinstance(action.choices, dict))
    assert set(commands.choices) == set(OPTIONS)
    has = {name for action in commands.choices[command]._actions for name in action.option_strings}
    assert has == {"-h", "--help", "--debug", "--quiet", *OPTIONS[command]}


def test_predict_takes_the_margin_that_is_chosen(steel_folder, tmp_path, capsys):
    image = next((steel_folder / "train_images").iterdir())
    for margin, fits in ((208, True), (32, True), (100, False)):
        out = tmp_path / str(margin)
        command = ("predict", "--margin", margin, "--tile", 32, "--probabilities", "--out", out, "--quiet", image)
        assert call(*command) == (0 if fits else 1)
        assert out.exists() == fits
    assert "no multiple of the network's stride 16; the next ones are 96 and 112" in capsys.readouterr().err
    exact, less = (np.asarray(Image.open(tmp_path / name / f"{image.stem}_probability.png")).astype(int)
                   for name in ("208", "32"))
    assert np.abs(exact - less).max() > 0
    assert json.loads((tmp_path / "32" / "predictions.json").read_text("utf-8"))["margin"] == 32
    assert call("predict", "--margin", 48, "--tile", 32, "--resume", "--out", tmp_path / "32", "--quiet", image) == 1
    assert "margin was 32, is 48" in capsys.readouterr().err


# ---- evaluate


@pytest.fixture(scope="module")
def run(steel, tmp_path_factory):
    """A folder with the weights of a network that was trained on nothing: its part is "all"."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    folder.mkdir()
    torch.manual_seed(0)
    model = UNet(width=2, depth=1)
    model(torch.rand(2, 1, 20, 40))
    with torch.no_grad():
        model.head.weight *= 4
    weights.save_network(folder / "weights.safetensors", model, {"training": list(steel.images["ImageId"][:6])})
    return folder


def evaluated(run, steel_folder, capsys, *options):
    assert call("evaluate", "--data", steel_folder, "--weights", run, "--json", "--quiet", *options) == 0
    return json.loads(capsys.readouterr().out)


def loaded(run):
    """As the commands load it: in the precision of a GPU scores are others in the last digits."""
    return weights.load_network(run, runtime.device())


def expected(run, steel, **options):
    return report.evaluate(loaded(run), steel, replicates=1000, **options).to_dict()


@pytest.mark.usefixtures("anywhere")
def test_evaluate_reports_what_report_says(run, steel, steel_folder, capsys):
    assert evaluated(run, steel_folder, capsys) == expected(run, steel)
    assert evaluated(run, steel_folder, capsys)["part"].startswith("12 of 12 images: all images; 6 of them have the n")


@pytest.mark.usefixtures("anywhere")
def test_each_option_of_evaluate_reaches_the_masks(run, steel, steel_folder, capsys):
    plain = evaluated(run, steel_folder, capsys, "--replicates", 0)
    model = weights.load_network(run).model
    p = [torch.tensor(inference.predict_logits(model, steel.image(i))).sigmoid() for i in steel.images["ImageId"]]
    low, sure = (round(float(np.median(each)), 4) for each in (p, [each.flatten().topk(3).values[2] for each in p]))
    seen = [plain["scores"]]
    for options, wanted in (
        (("--threshold", low), dict(point=OperatingPoint(low))),
        (("--threshold", low, "--minimum-area", 30), dict(point=OperatingPoint(low, 30))),
        (("--threshold", low, "--guard", sure), dict(point=OperatingPoint(low, 0, sure))),
        (("--threshold", low, "--flips"), dict(point=OperatingPoint(low), flips=True)),
    ):
        found = evaluated(run, steel_folder, capsys, "--replicates", 0, *options)
        told = report.evaluate(loaded(run), steel, replicates=0, **wanted).to_dict()
        assert found == told
        assert found["scores"] not in seen  # it makes a difference
        seen.append(found["scores"])


def test_replicates_of_evaluate(run, steel_folder, capsys):
    none, few = (evaluated(run, steel_folder, capsys, "--replicates", n) for n in (0, 30))
    assert (none["replicates"], few["replicates"]) == (0, 30)
    assert {each["low"] for each in none["scores"]} == {None}
    assert [each["value"] for each in none["scores"]] == [each["value"] for each in few["scores"]]
    assert sum(each["low"] is not None for each in few["scores"]) > 20


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("alarms", [None, 0.5])
def test_evaluate_chooses(run, steel, steel_folder, capsys, alarms):
    options = [] if alarms is None else ["--alarms", alarms]
    found = evaluated(run, steel_folder, capsys, "--choose", "--replicates", 20, *options)
    assert found == report.choose_operating_point(loaded(run), steel, alarms=alarms, replicates=20).to_dict()
    assert len(found["options"]) == 7
    assert "the 6 images of its second half, the operating point chosen on the other 6" in found["part"]
    assert call("evaluate", "--data", steel_folder, "--weights", run, "--choose", "--part", "all", "--quiet") == 0
    table = capsys.readouterr().out
    assert "← taken: the highest on the half it was chosen on" in table


def test_evaluate_leaves_its_json_in_a_file(run, steel_folder, tmp_path, capsys):
    out = tmp_path / "scores.json"
    told = evaluated(run, steel_folder, capsys, "--out", out, "--replicates", 9)
    assert json.loads(out.read_text(encoding="utf-8")) == told
    other = tmp_path / "other.json"
    command = ("evaluate", "--data", steel_folder, "--weights", run, "--replicates", 9, "--quiet", "--out", other)
    assert call(*command) == 0
    assert capsys.readouterr().out.startswith("synthetic steel, 12 of 12 images")  # a table, and the same file
    assert other.read_bytes() == out.read_bytes()
    other.write_text("mine")
    assert call(*command) == 1
    error = capsys.readouterr().err
    assert error == (f"steelnb evaluate: {other} already exists; choose another file\n")
    assert other.read_text() == "mine"


def test_evaluate_does_not_lose_its_scores_to_a_folder_that_is_not_there(run, steel_folder, tmp_path, capsys):
    """Either it is said before the work, or what was found is printed all the same."""
    before = report.evaluate
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "evaluate", lambda *a, **k: seen.append(1) or before(*a, **k))
        assert call("evaluate", "--data", steel_folder, "--weights", run, "--replicates", 0, "--quiet",
                    "--out", tmp_path / "nowhere" / "s.json") == 1
    told = capsys.readouterr()
    assert "nowhere" in told.err
    assert not seen or "Dice" in told.out


def test_a_part_that_the_weights_do_not_know_is_refused(run, steel_folder, capsys):
    assert call("evaluate", "--data", steel_folder, "--weights", run, "--part", "validation", "--quiet") == 1
    assert "use part 'all'" in capsys.readouterr().err


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
    (folder := tmp_path / "in").mkdir()
    (folder / good.name).write_bytes(good.read_bytes())
    (folder / "x.tga").write_bytes(b"")
    assert call("predict", "--weights", tmp_path / "run", "--out", tmp_path / "p", "--quiet", folder) == 0
    assert "left out of in/: 1 files without an image suffix, x.tga" in capsys.readouterr().err


def test_it_runs_as_a_module_and_importing_it_is_quick():
    told = subprocess.run([sys.executable, "-m", "steelnb", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.strip()
    code = "import sys, steelnb; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("arguments", [("train", "--data", "steel", "--run", "file"), ("sample", "file"),
                                       ("audit", "--data", "steel", "--out", "file")])
def test_a_file_where_a_folder_is_needed(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert call("sample", "steel", "--images", 4, "--size", "64x200", "--quiet") == 0
    (tmp_path / "file").write_text("mine")
    assert call(*arguments, "--quiet") == 1
    assert "a file is where a folder is needed; choose another folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


class Full:
    """A disk on which nothing more fits, as Pillow and pandas tell of it: without a file's name."""

    def __init__(self, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_told_with_the_place(run, steel_folder, tmp_path, monkeypatch, capsys):
    cache = ("train", "--data", steel_folder, "--run", tmp_path / "new", "--quiet")
    monkeypatch.setattr(Image.Image, "save", Full)
    assert call("sample", tmp_path / "made", "--images", 2, "--size", "64x200", "--quiet") == 1
    assert capsys.readouterr().err == f"steelnb sample: {tmp_path / 'made'}: No space left on device\n"
    monkeypatch.setenv("STEELNB_HOME", str(tmp_path / "home"))
    assert call("evaluate", "--data", "synthetic", "--weights", run, "--quiet") == 1
    told = capsys.readouterr().err
    assert "No space left on device. Fix this, or set STEELNB_HOME to a folder on another disk" in told
    assert [path.suffix for path in (tmp_path / "home" / "cache").iterdir()] == [".lock"]
    monkeypatch.undo()
    monkeypatch.setenv("STEELNB_HOME", str(tmp_path / "other"))
    monkeypatch.setattr(dataset.SteelData, "image", Full)
    assert call(*cache) == 1
    told = capsys.readouterr().err
    assert "cannot write the cache of images: No space left on device. Make room there, or set STEELNB_HOME" in told


def test_a_full_disk_under_predict_tells_of_resume(run, steel_folder, tmp_path, monkeypatch, capsys):
    command = ("predict", "--weights", run, "--out", tmp_path / "masks", "--quiet", steel_folder / "train_images")
    written = storage.write_file

    def full(path, content):
        if path.suffix == ".png":
            raise storage.StorageError("cannot write a.png: No space left on device")
        written(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_file", full)
        assert call(*command) == 1
    said = capsys.readouterr().err
    assert f"finished images stay in {tmp_path / 'masks'}: the same command with --resume goes on\n" in said
    assert call(*command, "--resume") == 0


def test_export_to_a_folder_that_is_not_there(run, tmp_path, capsys):
    assert call("export", "--weights", run, "--out", tmp_path / "nowhere" / "net.onnx") == 1
    assert f"{tmp_path / 'nowhere'} is not a folder: create it, or choose another file" in capsys.readouterr().err


def test_a_network_that_answers_with_nan_is_told(run, steel_folder, tmp_path, capsys):
    """Its weights are finite, and overflow: no mask is left that says clean."""
    trained = weights.load_network(run)
    with torch.no_grad():
        trained.model.head.weight[:] = torch.tensor([3e38, -3e38]).reshape(1, 2, 1, 1)
        trained.model.decoder[0][4].weight *= 1e30
    weights.save_network(tmp_path / "w.safetensors", trained.model, trained.metadata)
    out = tmp_path / "masks"
    for command in (("predict", "--out", out, steel_folder / "train_images"), ("evaluate", "--data", steel_folder)):
        assert call(*command, "--weights", tmp_path / "w.safetensors", "--quiet") == 1
        assert "the network returns NaN: its training diverged" in capsys.readouterr().err
    assert {path.name for path in out.iterdir()} == {".lock", "predictions.json"}
