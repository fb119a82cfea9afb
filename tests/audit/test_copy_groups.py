"""Sets full of copies: a group is one finding, reports stay small, composites are no contradiction, sets compare."""

import json

import numpy as np
import pytest
from PIL import Image

from steelnb.__main__ import main
from steelnb.audit import copy_groups, page
from steelnb.audit.audit import audit
from steelnb.data import dataset, rle, synthetic_drawing

SHAPE = (64, 160)


@pytest.fixture(scope="module")
def plain():
    """Different images of lit steel."""
    images = (synthetic_drawing.draw(2, i, SHAPE)[0] for i in range(60))
    return [image for image in images if (image > 20).mean() > 0.9][:12]


def write(folder, images, defects=(), shape=SHAPE):
    """A set in Severstal's layout; images named in `defects`, else the first, show one box of class 3."""
    (folder / "train_images").mkdir(parents=True)
    for name, image in images.items():
        Image.fromarray(np.ascontiguousarray(image)).save(folder / "train_images" / name)
    mask = np.zeros(shape, bool)
    mask[10:30, 20:50] = True
    (folder / "train.csv").write_text("\n".join(["ImageId,ClassId,EncodedPixels", *(
        f"{name},3,{rle.encode(mask)}" for name in defects or [*images][:1])]) + "\n")
    return folder


def often(plain, times, kinds=4):
    rng = np.random.default_rng(0)
    return {f"{k}_{n:02}.png": (plain[k].astype(int) + rng.integers(-2, 3, SHAPE)).clip(0, 255).astype(np.uint8)
            for k in range(kinds) for n in range(times)}


def test_a_group_is_one_finding(tmp_path, plain):
    images = often(plain, 7) | {"alone.png": plain[5]}
    found = audit(write(tmp_path / "set", images, images))
    groups = [f for f in found.findings if f.kind.startswith("duplicate")]
    assert len(groups) == 4
    assert all(len(f.images) == 7 for f in groups)
    assert all("7 images show the same steel (similarity 0." in f.text for f in groups)
    assert found.headline == "28 of 29 images show the same steel as another one, in 4 groups"
    assert "duplicate across a split" in {f.kind for f in groups}


def test_contradictions_of_a_group_are_one_finding(tmp_path, plain):
    images = often(plain, 5, kinds=2)
    found = audit(write(tmp_path, images, [name for name in images if name != "0_02.png"]))
    (finding,) = (f for f in found.findings if f.kind == "contradictory labels")
    assert "0_02.png" in finding.images
    assert "class 3 and clean" in finding.text or "clean and class 3" in finding.text
    assert "so are 3 other pairs of this group of 5" in finding.text


def test_composites_share_a_part_and_contradict_nothing(tmp_path, plain):
    one, other = plain[0].copy(), plain[0].copy()
    other[:, 124:] = plain[1][:, 124:]
    brighter = (plain[2] * 0.9).astype(np.uint8)
    images = {"a.png": one, "b.png": other, "c.png": plain[2], "d.png": brighter}
    found = audit(write(tmp_path, images, ["b.png", "d.png"]))
    told = {f.images: f.kind for f in found.findings if f.kind in ("contradictory labels", "shared part")}
    assert told == {("a.png", "b.png"): "shared part", ("c.png", "d.png"): "contradictory labels"}


@pytest.mark.parametrize("times", [1, 40])
def test_pages_stay_small(tmp_path, plain, monkeypatch, times):
    monkeypatch.setattr(page, "LONGEST", 40_000)
    monkeypatch.setattr(page, "MOST", 4)
    found = audit(write(tmp_path / "set", often(plain, 1 + times, kinds=8)))
    assert "8 groups" in found.headline
    found.write(tmp_path / "out")
    pages = sorted(p.name for p in (tmp_path / "out").glob("*.html"))
    assert pages[0] == "report.html"
    assert len(pages) > 1
    for name in pages:
        text = (tmp_path / "out" / name).read_text()
        assert len(text) < 100_000
        assert text.count("</html>") == 1
        for other in pages:
            assert len(pages) == 1 or f'href="{other}"' in text
    assert found.headline in (tmp_path / "out" / "report.html").read_text().split("<h2>")[0]
    assert len(json.loads((tmp_path / "out" / "findings.json").read_text())["findings"]) == len(found.findings)


def test_a_report_is_below_two_megabytes(tmp_path, plain):
    rng = np.random.default_rng(0)
    images = {f"{n:03}{m}.png": np.kron(rng.integers(40, 200, (48, 48)), np.ones((6, 6))).astype(np.uint8)
              for n in range(30) for m in "ab"}
    for n in range(30):
        images[f"{n:03}b.png"] = images[f"{n:03}a.png"]
    found = audit(write(tmp_path / "set", images, shape=(288, 288)))
    assert "30 groups" in found.headline
    found.write(tmp_path / "out")
    assert all(p.stat().st_size < 2_000_000 for p in (tmp_path / "out").iterdir())


def test_two_sets_are_compared(tmp_path, plain, capsys):
    train = write(tmp_path / "train", {f"t{k}.png": plain[k] for k in range(8)})
    test = write(tmp_path / "test", {f"x{k}.png": np.flipud(plain[k]) for k in range(5, 11)})
    assert main(["audit", "--data", str(test), "--against", str(train), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "have a copy" in line)
    assert line.startswith("warning: 3 of 6 images of test have a copy in train (x5.png as t5.png, x6.png as t6.png, ")
    assert "Copies in another set" in (tmp_path / "out" / "report.html").read_text()
    (finding,) = copy_groups.against(dataset.read_dataset(test), dataset.read_dataset(train))
    assert finding.images == ("x5.png", "x6.png", "x7.png")
    other = write(tmp_path / "other", {f"o{k}.png": plain[k] for k in range(5)})
    assert list(copy_groups.against(dataset.read_dataset(test), dataset.read_dataset(other))) == []


def test_rows_by_the_original_s_split_are_of_severstal_alone(tmp_path, plain):
    images = often(plain, 2)
    severstal = audit(write(tmp_path / "severstal", images, images))
    assert set(severstal.shares["split"]) == {"by image", "by row"}
    (tmp_path / "own" / "images").mkdir(parents=True)
    (tmp_path / "own" / "masks").mkdir()
    for name, image in images.items():
        Image.fromarray(image).save(tmp_path / "own" / "images" / name)
        Image.fromarray((image > 200).astype(np.uint8) * 255).save(tmp_path / "own" / "masks" / name)
    own = audit(tmp_path / "own")
    assert set(own.shares["split"]) == {"by image"}
    assert own.name == "own"
    own.write(tmp_path / "out")
    assert "original" not in (tmp_path / "out" / "report.html").read_text()
