"""Training does not leak by default: what shows the same steel stays on one side, which is said, and can be left."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from steelnb import runs
from steelnb.__main__ import main
from steelnb.data import dataset, labels, rle, synthetic_drawing
from steelnb.runs import copies

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def doubled(tmp_path_factory):
    """Eight images of steel, each twice, the second mirrored; every image shows a defect."""
    folder = tmp_path_factory.mktemp("doubled") / "set"
    (folder / "train_images").mkdir(parents=True)
    drawn = (synthetic_drawing.draw(2, i, (64, 160))[0] for i in range(60))
    lit = (image for image in drawn if (image > 20).mean() > 0.9)
    mask, rows = np.zeros((64, 160), bool), ["ImageId,ClassId,EncodedPixels"]
    mask[20:40, 30:60] = True
    for k, image in zip(range(8), lit, strict=False):
        for name, turned in ((f"{k}.png", image), (f"again{k}.png", np.fliplr(image))):
            Image.fromarray(np.ascontiguousarray(turned)).save(folder / "train_images" / name)
            rows.append(f"{name},3,{rle.encode(mask if name[0] != 'a' else mask[:, ::-1])}")
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    return dataset.read_dataset(folder)


def sides(run):
    config = json.loads((run / "config.json").read_text())
    return [{name.removeprefix("again") for name in config[side]} for side in ("training", "validation")]


def train(data, run, recipe, **options):
    said = []
    runs.train(data, run, recipe, device=CPU, progress=False, report=said.append, steps=1, **options)
    return said


def test_copies_stay_on_one_side(doubled, tmp_path, tiny):
    said = train(doubled, tmp_path / "run", tiny)
    told = [line for line in said if "same steel" in line]
    assert told == ["16 of 16 images show the same steel as another one, in 8 groups: each group stays on one side of "
                    "the split (--ignore-copies skips this check)"]
    training, validation = sides(tmp_path / "run")
    assert training
    assert validation
    assert not training & validation


def test_it_can_be_switched_off(doubled, tmp_path, tiny):
    said = train(doubled, tmp_path / "run", tiny, ignore_copies=True)
    assert not any("same steel" in line for line in said)
    training, validation = sides(tmp_path / "run")
    assert training & validation  # the leak that the default closes
    assert not (tmp_path / "run" / "groups.csv").exists()


def test_a_resumed_run_does_not_look_again(doubled, tmp_path, tiny, monkeypatch):
    train(doubled, tmp_path / "run", tiny)
    assert labels.read_groups(tmp_path / "run" / "groups.csv").keys() == set(doubled.images["ImageId"])
    monkeypatch.setattr(copies.duplicates, "group_duplicates", None)
    assert any("8 groups" in line for line in train(doubled, tmp_path / "run", tiny))
    (tmp_path / "run" / "groups.csv").write_text("damaged")
    with pytest.raises(TypeError):  # looks again
        train(doubled, tmp_path / "run", tiny)


def test_without_copies_nothing_changes(steel, tmp_path, tiny):
    said = train(steel, tmp_path / "looked", tiny)
    assert not any("same steel" in line for line in said)
    train(steel, tmp_path / "not", tiny, ignore_copies=True)
    assert sides(tmp_path / "looked") == sides(tmp_path / "not")
    (a, b) = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("looked", "not"))
    assert a == b


def test_who_has_decided_is_not_asked(doubled, tmp_path, tiny):
    grouped = doubled.with_groups({i: i for i in doubled.images["ImageId"]})
    assert copies.find_groups(grouped, tiny, tmp_path) is None
    assert copies.find_groups(doubled, tiny.changed(samples="row"), tmp_path) is None


def test_a_split_that_comes_with_the_set_stays_and_its_leak_is_said(doubled, tmp_path, tiny):
    from dataclasses import replace

    parts = {i: "validation" if i in ("again0.png", "again1.png", "2.png", "again2.png") else "train"
             for i in doubled.images["ImageId"]}
    said = train(replace(doubled, parts=parts), tmp_path / "run", tiny)
    assert "of 4 images that the set's own split holds out, 2 have one in training" in said[0]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert set(config["validation"]) == {i for i, part in parts.items() if part == "validation"}


def test_from_the_command_line(doubled, tmp_path, capsys):
    small = ["--recipe", "smoke", "--set", 'model={"width": 2, "depth": 2}', "--set", "crop=[16,16]", "--steps", "1",
             "--quiet"]
    for name, more in (("run", []), ("off", ["--ignore-copies"])):
        assert main(["train", "--data", str(doubled.folder), "--run", str(tmp_path / name), *small, *more]) == 0
        assert ("8 groups" in capsys.readouterr().out) == (not more)
