"""Audits: what is planted is found, what is sound is not, the report stands by itself, groups close the leak."""

import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import hypergeom

from steelnb.audit import checks
from steelnb.audit.audit import audit, drift
from steelnb.data import dataset, rle, splits, synthetic_drawing
from steelnb.data.dataset import DataError
from steelnb.runs import identity
from steelnb.training.batches import split_items
from steelnb.training.recipes import SMOKE

REAL = Path(__file__).parents[3] / "shared" / "data"
SHAPE = (64, 160)


def box(top, left, height, width):
    mask = np.zeros(SHAPE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def write(folder, images, labels=()):
    """A set in Severstal's layout. images: name → pixels; labels: (name, class, mask or text)."""
    (folder / "train_images").mkdir(parents=True)
    for name, image in images.items():
        Image.fromarray(np.ascontiguousarray(image)).save(folder / "train_images" / name)
    rows = [f"{n},{c},{m if isinstance(m, str) else rle.encode(m)}" for n, c, m in labels]
    (folder / "train.csv").write_text("\n".join(["ImageId,ClassId,EncodedPixels", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def plain():
    """Twelve different images of lit steel."""
    lit = (synthetic_drawing.draw(2, i, SHAPE)[0] for i in range(100))
    return dict(zip((f"{k:02}.png" for k in range(12)), (x for x in lit if (x > 20).mean() > 0.9), strict=False))


def kinds(found):
    return sorted(f.kind for f in found.findings)


def only(found, kind):
    (finding,) = (f for f in found.findings if f.kind == kind)
    return finding


class Page(HTMLParser):
    """The tags of a page, checked to be closed in their order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def pictures(self):
        return [attributes for tag, attributes in self.tags if tag == "img"]


def test_sound_data_has_no_finding(tmp_path, plain):
    labels = [(name, 1 + k % 4, box(10, 20, 20, 30)) for k, name in enumerate(plain) if k % 3]
    found = audit(write(tmp_path / "steel", plain, labels))
    assert found.findings == ()
    assert found.ok
    assert found.groups is None
    report = found.write(tmp_path / "out")
    assert "Nothing was found" in report.read_text()
    assert sorted(p.name for p in report.parent.iterdir()) == ["findings.json", "report.html"]


def test_duplicates_and_contradictions(tmp_path, plain):
    names = list(plain)
    images = plain | {"copy.png": np.fliplr(plain[names[0]]), "half.png": np.flipud(plain[names[1]]),
                      "clean.png": np.rot90(plain[names[2]], 2), "class.png": plain[names[3]]}
    mask = box(10, 20, 20, 30)
    labels = [(names[0], 3, mask), ("copy.png", 3, np.fliplr(mask)),  # they agree
              (names[1], 3, mask), ("half.png", 3, mask),  # not turned with the image
              (names[2], 3, mask), (names[3], 3, mask), ("class.png", 4, mask)]
    found = audit(write(tmp_path, images, labels))
    duplicates = {f.images: f for f in found.findings if f.kind.startswith("duplicate")}
    assert set(duplicates) == {(names[0], "copy.png"), (names[1], "half.png"), (names[2], "clean.png"),
                               (names[3], "class.png")}
    split = splits.by_image(found.data)
    for pair, finding in duplicates.items():
        parted = len(set(pair) & set(split.train)) == 1
        assert ("by image" in finding.text) == parted
        assert (finding.kind, finding.severity) >= (("duplicate across a split", "warning") if parted else ("", ""))
    told = {f.images[1]: f.text for f in found.findings if f.kind == "contradictory labels"}
    assert set(told) == {"half.png", "clean.png", "class.png"}
    assert "class 3 and clean" in told["clean.png"]
    assert "class 3 and class 4" in told["class.png"]
    upright = (mask & np.flipud(mask)).sum() / (mask | np.flipud(mask)).sum()
    assert f"{upright:.0%} of the pixels" in told["half.png"]
    assert found.ok  # warnings, no error


def test_a_thin_defect_may_be_shifted_with_its_image(tmp_path, plain):
    image = next(iter(plain.values()))
    moved = np.pad(image, ((0, 0), (1, 0)), mode="edge")[:, :160]
    line = box(5, 50, 50, 1)
    labels = [("a.png", 1, line), ("b.png", 1, np.roll(line, 1, 1))]
    assert kinds(audit(write(tmp_path / "moved", {"a.png": image, "b.png": moved}, labels))) in (
        ["duplicate"], ["duplicate across a split"])
    found = audit(write(tmp_path / "same", {"a.png": image, "b.png": image}, labels))
    assert "contradictory labels" in kinds(found)  # equal pixels leave no excuse


def test_groups_close_the_leak(tmp_path, plain):
    images = {}
    for k, (name, image) in enumerate(plain.items()):
        images |= {name: image, f"again{k}.png": np.flipud(image)}
    found = audit(write(tmp_path / "steel", images, [("00.png", 3, box(1, 1, 9, 9))]))
    assert "duplicate across a split" in kinds(found)
    assert splits.leaks(found.data, splits.by_image(found.data), found.groups)
    found.write(tmp_path / "out")
    grouped = found.data.with_groups(tmp_path / "out" / "groups.csv")
    assert grouped.groups == found.groups
    for seed in range(5):
        split = splits.by_image(grouped, seed=seed)
        assert splits.leaks(grouped, split, found.groups) == ()
        assert split.validation
    assert "duplicate across a split" not in kinds(audit(grouped))
    def config(data):
        return identity.run_config(data, SMOKE, 0, 10, split_items(data, SMOKE, 0), "pixels", 1)

    ungrouped, about = (config(d) for d in (found.data, grouped))
    assert identity.differences(ungrouped, about)
    renamed = found.data.with_groups({i: f"strip {g}" for i, g in found.groups.items()})
    assert identity.differences(config(renamed), about) == []
    del ungrouped["groups"]  # a run from before there were groups
    assert identity.differences(ungrouped, config(found.data)) == []


@pytest.mark.parametrize("name", ["groups.csv", "findings.json", "report.html"])
def test_a_file_that_is_there_is_neither_overwritten_nor_deleted(tmp_path, plain, name):
    """groups.csv may have been written by hand, whether or not there are copies now."""
    one, two = list(plain.values())[:2]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("by hand")
    for folder, other in (("copies", one), ("none", two)):
        found = audit(write(tmp_path / folder, {"a.png": one, "b.png": other}, [("a.png", 3, "1 50")]))
        with pytest.raises(ValueError, match=f"{name} already exists; choose another folder"):
            found.write(tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == [name]
    assert (tmp_path / "out" / name).read_text() == "by hand"


def test_names_survive_the_csv(tmp_path, plain):
    one, two = list(plain.values())[:2]
    images = {'a,"b".png': one, "c d.png": one, "e,f.png": one, "ö.png": two}
    found = audit(write(tmp_path / "steel", images, [("c d.png", 3, "1 50")]))
    found.write(tmp_path / "out")
    assert found.data.with_groups(tmp_path / "out" / "groups.csv").groups == found.groups
    assert found.groups['a,"b".png'] == found.groups["c d.png"] == found.groups["e,f.png"] != found.groups["ö.png"]
    Page((tmp_path / "out" / "report.html").read_text())


def test_labels_that_leave_the_image(tmp_path, plain):
    names, size = list(plain), SHAPE[0] * SHAPE[1]
    labels = [(names[0], 3, "1 20"), (names[1], 3, f"{size} 2"), (names[2], 3, "5 3 6 1"), (names[3], 1, f"{size} 1"),
              (names[4], 3, "7 x")]
    folder = write(tmp_path / "steel", plain, labels)
    found = audit(folder)
    assert not found.ok
    assert found.data is None
    assert str(folder / "train.csv") in only(found, "refused").text
    assert "line 3" in only(found, "refused").text
    rows = [f for f in found.findings if f.kind == "out of range"]
    assert [f.images[0] for f in rows] == [names[1], names[2], names[4]]
    for finding, line, reason in zip(rows, (3, 4, 6), ("64×160", "overlaps", "'x'"), strict=True):
        assert f"line {line}, image" in finding.text
        assert reason in finding.text
    page = found.write(tmp_path / "out").read_text()
    assert "Masks out of range (3)" in page
    assert not json.loads((tmp_path / "out" / "findings.json").read_text())["ok"]
    old = pd.read_csv(folder / "train.csv")
    old.insert(0, "ImageId_ClassId", old.ImageId + "_" + old.ClassId.astype(str))
    old[["ImageId_ClassId", "EncodedPixels"]].to_csv(folder / "train.csv", index=False)
    assert [f.images for f in audit(folder).findings[1:]] == [f.images for f in rows]


def test_what_cannot_be_read_at_all(tmp_path, plain):
    with pytest.raises(DataError, match="no such folder"):
        audit(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert kinds(audit(tmp_path / "empty")) == ["refused"]
    folder = write(tmp_path / "steel", plain, [("00.png", 3, "1 50")])
    path = folder / "train_images" / "01.png"
    path.write_bytes(path.read_bytes()[:3000])
    found = audit(folder)
    assert only(found, "unreadable").images == ("01.png",)
    assert not found.ok
    found.write(tmp_path / "out")


def test_masks_that_are_odd(tmp_path, plain):
    names = list(plain)
    images = dict(plain)
    images[names[4]] = np.where(np.arange(160) < 80, 3, images[names[4]]).astype(np.uint8)
    images[names[5]] = np.where(images[names[5]] > 0, 4, 4).astype(np.uint8)
    images[names[5]][:, 100:] = 120
    whole = np.ones(SHAPE, bool)
    whole[0] = False
    labels = [(names[0], 1, box(3, 3, 3, 5)), (names[1], 1, box(3, 3, 4, 4)), (names[2], 3, whole),
              (names[4], 3, box(10, 20, 20, 50)), (names[5], 3, box(10, 95, 20, 30)),
              (names[6], 1, box(0, 0, 10, 10)), (names[6], 2, box(8, 0, 40, 10)),
              (names[7], 1, box(0, 0, 10, 10)), (names[7], 2, box(9, 0, 40, 10))]
    found = audit(write(tmp_path / "steel", images, labels))
    by_kind = {f.kind: f for f in found.findings}
    assert kinds(found) == ["classes overlap", "off the steel", "tiny mask", "whole image"]
    assert by_kind["tiny mask"].images == (names[0],)
    assert "15 defect pixels" in by_kind["tiny mask"].text
    assert by_kind["whole image"].images == (names[2],)
    assert by_kind["off the steel"].images == (names[4],)
    assert by_kind["classes overlap"].images == (names[6],)
    assert "class 1 and class 2 share 20%" in by_kind["classes overlap"].text
    page = Page(found.write(tmp_path / "out").read_text())
    assert len(page.pictures()) == 4


def test_a_black_defect_and_a_narrow_strip_are_on_the_steel(tmp_path):
    black, narrow, off = np.full(SHAPE, 90, np.uint8), np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    mask = box(20, 4, 20, 10)
    black[mask] = 0
    narrow[:, 4:12] = 60
    off[:, 60:] = 60
    images = {"black.png": black, "narrow.png": narrow, "off.png": off, "turned.png": off.T[:64, :64]}
    folder = write(tmp_path, images, [(name, 3, mask) for name in list(images)[:3]])
    assert {f.images for f in audit(folder).findings if f.kind == "off the steel"} == {("off.png",)}


def made_up(areas, class_id=3):
    """A data set without files: one mask of each area."""
    ids = [f"{i:05}.jpg" for i in range(len(areas))]
    images = pd.DataFrame({"ImageId": ids, "classes": [(class_id,)] * len(ids), "format": "JPEG", "height": 256,
                           "width": 1600, "masks": 1, "path": ids})
    rows = pd.DataFrame({"ImageId": ids, "ClassId": class_id, "EncodedPixels": "", "area": areas})
    return dataset.SteelData("made up", Path(), images, rows, (1, 2, 3, 4), "train.csv")


def test_odd_areas():
    areas = np.exp(np.random.default_rng(0).normal(9, 0.8, 500)).astype(int)
    found = list(checks.odd_areas(made_up([*areas, 20, 400_000])))
    assert [f.images[0] for f in found] == ["00500.jpg", "00501.jpg"]
    assert "times less" in found[0].text
    assert "times more" in found[1].text
    assert list(checks.odd_areas(made_up([*[100] * 30, 5]))) == []  # no spread to measure by
    assert list(checks.odd_areas(made_up([100, 110, 120, 5]))) == []  # too few


def test_files_and_sizes(tmp_path, plain):
    images = {name.replace("png", "bmp"): image for name, image in plain.items()}
    images["odd.bmp"] = plain["00.png"][:50, :150]
    folder = write(tmp_path, images)
    Image.fromarray(plain["03.png"]).save(folder / "train_images" / "posing.jpg", "PNG")
    (folder / "train.csv").write_text("ImageId,ClassId,EncodedPixels\n00.bmp,3,1 50\n")
    (folder / "train_images" / "03.bmp").unlink()
    found = audit(folder)
    assert only(found, "file type").images == ("posing.jpg",)
    assert only(found, "sizes").images == ("odd.bmp",)
    assert kinds(found) == ["file type", "sizes"]


def test_drift_is_exact_and_found():
    """Fisher's test is a sum over the hypergeometric distribution."""
    classes = [(3,)] * 60 + [()] * 60 + [(4,)] * 40 + [(1, 3)] * 40
    rng = np.random.default_rng(1)
    ids = [f"{i:03}.jpg" for i in range(200)]
    images = pd.DataFrame({"ImageId": ids, "classes": pd.Series(classes, dtype=object)})
    rows = pd.DataFrame([(i, c, "1 9", 9 + c) for i, found in zip(ids, classes, strict=True) for c in found],
                        columns=["ImageId", "ClassId", "EncodedPixels", "area"])
    for order, drifts in ((np.arange(len(rows)), True), (rng.permutation(len(rows)), False)):
        steel = dataset.SteelData("made up", Path(), images, rows.iloc[order].reset_index(drop=True), (1, 2, 3, 4),
                                  "train.csv")
        shares = drift(steel).set_index(["split", "class"])
        assert (shares.loc["by image", "p"] > 0.5).all()
        assert (shares.loc["by row", "p"] < 0.001).any() == drifts
        assert "clean" not in shares.loc["by row"].index
        assert "2" not in shares.loc["by row"].index
        row = shares.loc["by row", "3"]
        counts = [round(row.train * row.n_train), round(row.validation * row.n_validation)]
        chances = hypergeom(180, sum(counts), 144).pmf(np.arange(sum(counts) + 1))
        assert row.p == pytest.approx(chances[chances <= chances[counts[0]] * (1 + 1e-7)].sum())
        assert row.low < row.validation - row.train < row.high
        assert row.area_train == 12


def test_the_report_stands_by_itself(tmp_path, plain):
    names = list(plain)
    images = plain | {"<b>&.png": np.fliplr(plain[names[0]])}
    labels = [(names[0], 3, box(10, 20, 20, 30)), (names[1], 1, box(0, 0, 2, 2))]
    found = audit(write(tmp_path / "steel", images, labels))
    report = found.write(tmp_path / "out" / "deep")
    text = report.read_text()
    page = Page(text)
    assert page.open == []
    assert "<b>&.png" not in text
    assert "http:" not in text
    assert "https:" not in text
    assert str(tmp_path) not in text
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    pictures = page.pictures()
    assert len(pictures) == 2 + 2 + 1  # the pair, the pair with its masks, the tiny mask
    for picture in pictures:
        assert picture["alt"]
        head, _, content = picture["src"].partition(",")
        assert head == "data:image/jpeg;base64"
        decoded = Image.open(io.BytesIO(base64.b64decode(content)))
        assert decoded.size == (int(picture["width"]), int(picture["height"])) == SHAPE[::-1]
    assert sum("labelled: clean" in p["alt"] for p in pictures) == 1
    (copy,) = (p for p in pictures if p["alt"] == "<b>&.png, mirrored left-right")
    shown = Image.open(io.BytesIO(base64.b64decode(copy["src"].partition(",")[2])))
    assert abs(np.array(shown).astype(int) - plain[names[0]]).mean() < 5  # turned back; JPEG
    plain_json = json.loads((report.parent / "findings.json").read_text())
    assert [f["text"] for f in plain_json["findings"]] == [f.text for f in found.findings]
    assert plain_json["findings"][0]["severity"] == "warning"
    with pytest.raises(ValueError, match=r"report\.html already exists"):
        found.write(tmp_path / "out" / "deep")
    assert report.read_text() == text


def test_many_findings_have_few_pictures(tmp_path, plain):
    image = next(iter(plain.values()))
    images = {f"{i:02}.png": np.roll(image, 30 * i, 1) for i in range(40)}
    labels = [(name, 1, box(i, 2 * i, 1, 3)) for i, name in enumerate(images)]
    found = audit(write(tmp_path / "steel", images, labels))
    tiny = [f for f in found.findings if f.kind == "tiny mask"]
    assert len(tiny) == 40
    text = found.write(tmp_path / "out").read_text()
    assert all(name in text for name in images)
    assert sum("3 pixels of class 1" in (p["alt"] or "") for p in Page(text).pictures()) >= 24


@pytest.mark.skipif(not (REAL / "severstal").is_dir(), reason="no real Severstal images here")
def test_real_severstal(tmp_path):
    found = audit(REAL / "severstal")
    assert kinds(found) == ["file type", "image across a split"]
    assert only(found, "image across a split").images == ("0c888ecb5.jpg",)
    assert len(only(found, "file type").images) == 13
    found.write(tmp_path)


@pytest.mark.skipif(not (REAL / "severstal_labels").is_dir(), reason="no real Severstal labels here")
def test_real_masks_have_no_odd_areas():
    rows = pd.read_csv(REAL / "severstal_labels" / "train_partial.csv")
    for class_id, group in rows.groupby("ClassId"):
        areas = [rle.area(text) for text in group["EncodedPixels"]]
        assert list(checks.odd_areas(made_up(areas, class_id))) == []
        assert min(areas) > checks.TINY
        assert max(areas) < checks.WHOLE_IMAGE_SHARE * 256 * 1600
