"""Labels that can be read but cannot be meant, and names that differ by a hair: refused or said, never another mask."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.measure import label

from steelnb.audit.audit import audit
from steelnb.data import dataset, labelled, rle, synthetic_drawing
from steelnb.data.dataset import DataError
from steelnb.data.label_checks import look_alikes, pieces

REAL = Path(__file__).parents[3] / "shared" / "data"
HEADER = "ImageId,ClassId,EncodedPixels"


def severstal(folder, rows, images, shape=(4, 6), header=HEADER):
    (folder / "train_images").mkdir(parents=True)
    for name in images:
        Image.fromarray(np.full(shape, 100, np.uint8)).save(folder / "train_images" / name, format="PNG")
    (folder / "train.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder


def pairs(folder, masks, palettes=None):
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for stem, mask in masks.items():
        Image.fromarray(np.full(mask.shape, 100, np.uint8)).save(folder / "images" / f"{stem}.bmp")
        picture = Image.fromarray(mask)
        if palettes:
            picture.putpalette(palettes[stem])
        picture.save(folder / "masks" / f"{stem}.png")
    return folder


def refused(folder, *parts, **options):
    with pytest.raises(DataError) as caught:
        dataset.read_dataset(folder, **options)
    for part in parts:
        assert part in str(caught.value)


def mask_of(*values, shape=(4, 6)):
    mask = np.zeros(shape, np.uint8)
    mask[0, : len(values)] = values
    return mask


# Row by row


@given(st.integers(0, 2**32 - 1), st.integers(3, 20), st.integers(3, 20))
def test_pieces_count_what_skimage_labels(seed, height, width):
    """Of rectangles that lie apart from each other and from the border, each is one piece."""
    rng, mask = np.random.default_rng(seed), np.zeros((height, width), bool)
    for top in range(1, height - 1, 4):
        down = top + rng.integers(1, min(3, height - 1 - top) + 1)
        left = rng.integers(1, width - 1)
        mask[top:down, left : rng.integers(left + 1, width)] = True
    starts, lengths = rle.runs(rle.encode(mask), mask.size)
    assert pieces(starts, lengths, height) == label(mask, connectivity=1).max()


def test_pieces_of_nothing_are_none():
    assert pieces(*rle.runs("", 24), 4) == 0


def test_run_lengths_along_the_rows_are_refused(tmp_path):
    shape = (64, 200)
    drawn = [(f"{k}.png", synthetic_drawing.draw(1, k, shape)[1]) for k in range(12)]
    for name, way in (("down", lambda m: rle.encode(m)), ("along", lambda m: rle.encode(m.T))):
        rows = [f"{image},{k},{way(mask)}" for image, masks in drawn for k, mask in enumerate(masks, 1) if mask.any()]
        folder = severstal(tmp_path / name, rows, [image for image, _ in drawn], shape)
        if name == "down":
            assert len(dataset.read_dataset(folder).rows) == len(rows)
        else:
            refused(folder, "train.csv", "along the rows", "rle.encode")
            (finding, *_) = audit(folder).findings
            assert "along the rows" in finding.text


def test_dots_lie_apart_in_either_order(tmp_path):
    rows = ["a.png,3," + " ".join(f"{start} 1" for start in range(1, 24, 2))]
    assert len(dataset.read_dataset(severstal(tmp_path, rows, ["a.png"])).rows) == 1


@pytest.mark.skipif(not (REAL / "severstal_labels").is_dir(), reason="no real Severstal labels here")
def test_real_labels_are_in_fewer_pieces_down_the_columns():
    rows = (REAL / "severstal_labels" / "train_partial.csv").read_text().splitlines()[1::10]
    for row in rows:
        if text := row.split(",")[2]:
            runs = rle.runs(text, 256 * 1600)
            assert pieces(*runs, 256) <= pieces(*runs, 1600)


# Palettes and class ids


def test_a_palette_of_another_file_that_numbers_otherwise(tmp_path):
    masks, red, green = {"a": mask_of(0, 1, 2), "b": mask_of(0, 1)}, (200, 0, 0), (0, 200, 0)
    same = pairs(tmp_path / "same", masks, {"a": [0, 0, 0, *red, *green], "b": [0, 0, 0, *red]})
    assert dataset.read_dataset(same).classes == (1, 2)
    other = pairs(tmp_path / "other", masks, {"a": [0, 0, 0, *red, *green], "b": [0, 0, 0, *green]})
    refused(other, "b.png", "index 1", "(0, 200, 0)", "a.png", "one palette")
    moved = pairs(tmp_path / "moved", masks | {"b": mask_of(0, 3)},
                  {"a": [0, 0, 0, *red, *green], "b": [0, 0, 0, *green, *green, *red]})
    refused(moved, "b.png", "colour (200, 0, 0)", "index 3", "in that of a.png 1")


def test_class_ids_without_background(tmp_path):
    full = np.ones((4, 6), np.uint8)
    full[:, 3:] = 2
    refused(pairs(tmp_path / "all", {"a": full, "b": full}), "background pixel (0)", "1, 2")
    some = pairs(tmp_path / "some", {"a": full, "b": mask_of(1)})
    assert "warning" not in dataset.read_dataset(some).describe()


@pytest.mark.parametrize(("masks", "part"), [
    ({"a": mask_of(), "b": mask_of()}, "no image shows a defect"),
    ({"a": np.full((4, 6), 255, np.uint8)}, "100% of all pixels"),
])
def test_what_cannot_be_meant_is_said(tmp_path, masks, part):
    folder = pairs(tmp_path, masks)
    assert f"warning: {part}" in dataset.read_dataset(folder).describe()
    assert part in audit(folder).findings[0].text
    assert audit(folder).findings[0].severity == "warning"


# Names


@pytest.mark.parametrize(("row", "file"), [
    ("A.JPG", "a.jpg"), ("a.png", "a.jpg"), ("Ä.jpg", "ä.jpg"), ("straße.jpg", "STRASSE.jpg"),
])
def test_an_image_whose_row_goes_by_another_name_is_never_clean(tmp_path, row, file):
    folder = severstal(tmp_path, [f"{row},3,1 2", "b.jpg,3,1 2"], [file, "b.jpg"])
    for skip in (False, True):
        refused(folder, "line 2", f"{row} (there is {file})", "rename", skip_missing=skip)


def test_a_row_without_any_image_may_still_be_left_out(tmp_path):
    folder = severstal(tmp_path, ["a.png,3,1 2", "a.jpg,3,1 3"], ["a.jpg", "b.jpg"])
    refused(folder, "a.png", "--skip-missing")
    assert dataset.read_dataset(folder, skip_missing=True).rows["area"].tolist() == [3]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_one_name_in_two_unicode_forms(tmp_path, forms):
    row, file = (unicodedata.normalize(form, "tôle é.jpg") for form in forms)
    steel = dataset.read_dataset(severstal(tmp_path / "csv", [f"{row},3,1 2"], [file]))
    assert steel.images["ImageId"].tolist() == [unicodedata.normalize("NFC", "tôle é.jpg")]
    assert steel.images["masks"].tolist() == [1]
    (tmp_path / "groups.csv").write_text(f"ImageId,group\n{row},1\n", encoding="utf-8")
    assert steel.with_groups(tmp_path / "groups.csv").groups == {steel.images["ImageId"][0]: "1"}
    folder = pairs(tmp_path / "pairs", {Path(file).stem: mask_of(255)})
    (folder / "masks" / f"{Path(file).stem}.png").rename(folder / "masks" / f"{Path(row).stem}.png")
    assert dataset.read_dataset(folder).images["masks"].tolist() == [1]


def test_two_files_of_one_name_in_two_unicode_forms(tmp_path):
    both = [unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD")]
    folder = severstal(tmp_path / "csv", [f"{both[0]},3,1 2"], both)
    if len(list((folder / "train_images").iterdir())) == 2:  # not on a Mac
        refused(folder, "two files", "é.jpg")


def test_ids_of_one_name_in_two_unicode_forms_are_refused(tmp_path):
    both = [tmp_path / unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD")]
    with pytest.raises(DataError, match="two files with this name"):
        labelled.ids(both)


def test_a_mask_whose_name_differs_in_case_is_told(tmp_path):
    folder = pairs(tmp_path, {"a": mask_of(255), "b": mask_of(255)})
    (folder / "masks" / "a.png").rename(folder / "masks" / "A.png")
    for skip in (False, True):
        refused(folder, "a.bmp (there is A.png)", "differs in case", "rename", skip_missing=skip)


def test_look_alikes():
    assert look_alikes(["x.jpg", "X.png", "y.jpg"], ["X.JPG", "z.jpg"]) == [
        "x.jpg (there is X.JPG)", "X.png (there is X.JPG)"]


# What is passed over


def test_what_is_passed_over_is_named(tmp_path):
    folder = severstal(tmp_path / "csv", ["a.jpg,3,1 2"], ["a.jpg", "b.tga", "c", "d.jfif"])
    (folder / "train_images" / ".hidden").write_bytes(b"")
    (folder / "train_images" / "more").mkdir()
    steel = dataset.read_dataset(folder)
    assert steel.images["ImageId"].tolist() == ["a.jpg", "d.jfif"]
    told = "left out of train_images/: 2 files without an image suffix, b.tga, c; 1 folders, more"
    assert told in steel.describe()
    folder = pairs(tmp_path / "pairs", {"a": mask_of(255)})
    for kind in ("images", "masks"):
        (folder / kind / "deep").mkdir()
        (folder / kind / "deep" / "x.png").write_bytes(b"")
        (folder / kind / "x.tga").write_bytes(b"")
        told = f"left out of {kind}/: 1 files without an image suffix, x.tga; 1 folders, deep"
        assert told in dataset.read_dataset(folder).describe()
    for path in (folder / "images" / "a.bmp", folder / "images" / "x.tga"):
        path.unlink()
    refused(folder, "use the same folders for masks and images")
