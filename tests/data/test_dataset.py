"""Reading data sets: what is found, and that everything which could become a wrong mask is refused by name."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steelnb.data import dataset, rle
from steelnb.data.dataset import DataError

REAL = Path(__file__).parents[3] / "shared" / "data"
needs_severstal = pytest.mark.skipif(not (REAL / "severstal").is_dir(), reason="no real Severstal images here")
needs_saliency = pytest.mark.skipif(not (REAL / "sd_saliency_900").is_dir(), reason="no SD-saliency-900 here")
NOW, OLD = "ImageId,ClassId,EncodedPixels", "ImageId_ClassId,EncodedPixels"


def draw(path, shape=(4, 6), value=100, mode="L", **options):
    """An image file of one gray value, or of the given array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = value if isinstance(value, np.ndarray) else np.full(shape, value, np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def severstal(folder, *lines, header=NOW, images=("a.jpg", "b.jpg", "c.jpg")):
    """A set of 4×6 images in Severstal's layout: the first column's pixels are 1–4, the second's 5–8, …"""
    for name in images:
        draw(folder / "train_images" / name)
    (folder / "train.csv").write_text("\n".join([header, *lines]) + "\n")
    return folder


def pairs(folder, **masks):
    """Images and masks of equal stems; a mask is an array or one value."""
    for stem, mask in masks.items():
        draw(folder / "images" / f"{stem}.bmp")
        draw(folder / "masks" / f"{stem}.png", value=mask)
    return folder


def values(*those):
    """A 4×6 mask that holds the given values in its first row, else 0."""
    mask = np.zeros((4, 6), np.uint8)
    mask[0, : len(those)] = those
    return mask


def refused(folder, *parts, **options):
    """Reading fails with a DataError whose message holds every part."""
    with pytest.raises(DataError) as caught:
        dataset.read_dataset(folder, **options)
    for part in parts:
        assert part in str(caught.value)


# Severstal's layout


def test_reads_the_form_of_today(tmp_path):
    steel = dataset.read_dataset(severstal(tmp_path, "c.jpg,3,1 2", "a.jpg,3,5 1 7 2", "a.jpg,1,1 1"))
    assert (steel.name, len(steel), steel.classes) == (tmp_path.name, 3, (1, 2, 3, 4))
    assert steel.images["ImageId"].tolist() == ["a.jpg", "b.jpg", "c.jpg"]
    assert steel.images["classes"].tolist() == [(1, 3), (), (3,)]
    assert steel.images["masks"].tolist() == [2, 0, 1]
    assert steel.images[["height", "width"]].values.tolist() == [[4, 6]] * 3
    assert steel.rows["ImageId"].tolist() == ["c.jpg", "a.jpg", "a.jpg"]  # the file's order
    assert steel.rows["ClassId"].tolist() == [3, 3, 1]
    assert steel.rows["area"].tolist() == [2, 3, 1]
    by_hand = np.zeros((4, 4, 6), bool)
    by_hand[2, [0, 2, 3], 1] = True
    by_hand[0, 0, 0] = True
    assert (steel.masks("a.jpg") == by_hand).all()
    assert (steel.mask("a.jpg") == by_hand.any(0)).all()
    assert steel.mask("b.jpg").dtype == bool
    assert not steel.mask("b.jpg").any()


def test_both_forms_are_the_same_data(tmp_path):
    now = severstal(tmp_path / "now", "a.jpg,1,1 1", "a.jpg,3,5 1", "c.jpg,3,1 2")
    rows = {"a.jpg_1": "1 1", "a.jpg_3": "5 1", "c.jpg_3": "1 2"}
    old = severstal(tmp_path / "old", *(f"{name}_{k},{rows.get(f'{name}_{k}', '')}"
                                        for name in ("a.jpg", "b.jpg", "c.jpg") for k in range(1, 5)), header=OLD)
    now, old = dataset.read_dataset(now), dataset.read_dataset(old)
    assert old.rows.equals(now.rows)
    assert old.images["classes"].tolist() == now.images["classes"].tolist()
    assert old.fingerprint() == now.fingerprint()
    assert "ImageId_ClassId" in old.describe()


def test_reads_tables_as_people_keep_them(tmp_path):
    plain = dataset.read_dataset(severstal(tmp_path / "plain", "a.jpg,3,1 2"))
    kept = severstal(tmp_path / "kept")
    (kept / "train.csv").write_bytes("﻿,ClassId,EncodedPixels,ImageId\r\n0,3.0, 1 2,a.jpg\r\n\r\n1,,,b.jpg\r\n".encode())
    assert dataset.read_dataset(kept).fingerprint() == plain.fingerprint()


def test_a_quoted_label_of_any_length_is_read(tmp_path):
    """Other tools than pandas quote every cell; the csv module's own limit is 131,072 characters."""
    starts = range(1, 60_000, 2)
    for name in ("plain", "quoted"):
        draw(tmp_path / name / "train_images" / "a.jpg", (200, 300))
        text = " ".join(f"{start} 1" for start in starts)
        quote = '"' * (name == "quoted")
        (tmp_path / name / "train.csv").write_text(f"{NOW}\na.jpg,3,{quote}{text}{quote}\n")
    assert (
        dataset.read_dataset(tmp_path / "quoted").fingerprint()
        == dataset.read_dataset(tmp_path / "plain").fingerprint()
    )


def test_one_level_down_is_found(tmp_path):
    severstal(tmp_path / "unpacked", "a.jpg,3,1 2")
    assert dataset.read_dataset(tmp_path).folder == tmp_path / "unpacked"
    pairs(tmp_path / "other", x=255)
    refused(tmp_path, "several data sets", "unpacked", "other")


def test_other_files_are_no_images(tmp_path):
    folder = severstal(tmp_path, "a.jpg,3,1 2")
    (folder / "train_images" / "Thumbs.db").write_bytes(b"x")
    (folder / "train_images" / "._a.jpg").write_bytes(b"x")
    assert len(dataset.read_dataset(folder)) == 3


def test_png_under_a_jpg_name_is_read(tmp_path):
    folder = severstal(tmp_path, "a.jpg,3,1 2")
    draw(folder / "train_images" / "b.jpg", value=7, format="PNG")
    steel = dataset.read_dataset(folder)
    assert (steel.image("b.jpg") == 7).all()
    assert "1 PNG under a .jpg name" in steel.describe()


def test_gray_is_the_luma_of_the_colours(tmp_path):
    folder = pairs(tmp_path, x=255)
    colours = np.array([[[200, 0, 0], [0, 200, 0], [0, 0, 200], [9, 9, 9]]], np.uint8).repeat(2, 0)
    Image.fromarray(colours).save(folder / "images" / "x.bmp")
    draw(folder / "masks" / "x.png", (2, 4), 255)
    gray = dataset.read_dataset(folder).image("x.bmp")
    assert gray.dtype == np.uint8
    assert gray.shape == (2, 4)
    np.testing.assert_allclose(gray[0], colours[0] @ [0.299, 0.587, 0.114], atol=0.51)
    gray[0, 0] = 1  # the caller's own copy


@pytest.mark.parametrize(("line", "parts"), [
    ("../b.jpg,3,1 2", ("plain file name", "../b.jpg")),
    ("/etc/passwd,3,1 2", ("plain file name",)),
    ("train_images\\b.jpg,3,1 2", ("plain file name",)),
    ("C:b.jpg,3,1 2", ("plain file name",)),
    ("..,3,1 2", ("plain file name",)),
    ("b.jpg\0.png,3,1 2", ("NUL byte",)),
    (",3,1 2", ("plain file name",)),
    ("b.jpg,5,1 2", ("unknown class id 5",)),
    ("b.jpg,0,1 2", ("unknown class id 0",)),
    ("b.jpg,2.5,1 2", ("class id '2.5' is not a whole number",)),
    ("b.jpg,-1,1 2", ("class id '-1'",)),
    ("b.jpg,three,1 2", ("class id 'three'",)),
    ("b.jpg,,1 2", ("class id ''",)),
    ("a.jpg,3,9 1", ("second row for image a.jpg, class 3",)),
    ("b.jpg,3,1 2 5", ("image b.jpg", "3 numbers")),
    ("b.jpg,3,24 2", ("image b.jpg", "past the image", "4×6")),
    ("b.jpg,3,1 x", ("image b.jpg", "'x'")),
    ("b.jpg,3,NaN", ("image b.jpg", "'NaN'")),
    ("b.jpg,3,5 3 6 1", ("image b.jpg", "overlaps")),
    ("d.jpg,3,1 2", ("1 images listed but absent", "d.jpg", "(--skip-missing)")),
    ("b.jpg,3", ("2 fields, the header has 3",)),
    ("b.jpg,3,1 2,5 6", ("4 fields, the header has 3",)),
])
def test_refuses_a_row_naming_its_line(tmp_path, line, parts):
    folder = severstal(tmp_path, "a.jpg,3,1 2", "", line, "c.jpg,4,1 2")
    refused(folder, str(folder / "train.csv"), "line 4", *parts)


@pytest.mark.parametrize(("text", "parts"), [
    ("", ("not a readable table",)),
    (NOW + "\n", ("no rows",)),
    ("ImageId,Class,EncodedPixels\na.jpg,3,1 2\n", ("ImageId, Class, EncodedPixels", NOW, OLD)),
    ("ImageId;ClassId;EncodedPixels\na.jpg;3;1 2\n", ("ImageId;ClassId;EncodedPixels",)),
    (NOW + "\na.jpg,3,1 2,\n", ("line 2", "4 fields")),  # pandas alone would shift or drop a column here
    (NOW + '\na.jpg,3,"1 2\n', ("not a readable table",)),
    (NOW + ",EncodedPixels\na.jpg,3,1 2,3 1\n", ("line 1", "EncodedPixels, EncodedPixels")),
    (OLD + "\na.jpg,1 2\n", ("line 2", "ImageId_ClassId 'a.jpg' is not NAME_CLASS, such as a.jpg_1")),
])
def test_refuses_a_table(tmp_path, text, parts):
    folder = severstal(tmp_path)
    (folder / "train.csv").write_text(text)
    refused(folder, "train.csv", *parts)


def test_refuses_a_table_that_is_no_text(tmp_path):
    folder = severstal(tmp_path)
    (folder / "train.csv").write_bytes("ImageId".encode("utf-16"))
    refused(folder, "train.csv", "not a readable table")


def test_skip_missing_leaves_rows_out_and_says_so(tmp_path):
    steel = dataset.read_dataset(severstal(tmp_path, "d.jpg,3,1 2", "a.jpg,3,1 2"), skip_missing=True)
    assert steel.rows["ImageId"].tolist() == ["a.jpg"]
    assert len(steel) == 3
    assert "left out: 1 images listed but absent" in steel.describe()
    for path in (tmp_path / "train_images").iterdir():
        path.unlink()
    refused(tmp_path, "train_images: no image files", skip_missing=True)


def test_an_image_without_a_row_is_clean_today_and_unlabelled_in_2019(tmp_path):
    folder = severstal(tmp_path, "a.jpg_3,1 2", "b.jpg_1,", header=OLD)
    refused(folder, "1 images without a row", "c.jpg", "2019")
    steel = dataset.read_dataset(folder, skip_missing=True)
    assert steel.images["ImageId"].tolist() == ["a.jpg", "b.jpg"]
    assert "left out: 1 images without a row" in steel.describe()


def test_refuses_a_labelled_image_of_another_size(tmp_path):
    # Its run-length text would fit, and be another mask.
    folder = severstal(tmp_path, "a.jpg,3,1 2", "b.jpg,3,1 2", "c.jpg,3,1 2")
    draw(folder / "train_images" / "b.jpg", (8, 12))
    refused(folder, "line 3, image b.jpg", "8×12", "4×6")


# Image files


@pytest.mark.parametrize(("content", "part"), [(b"", "0 bytes"), (b"\xff\xd8\xff\xe0 broken", "11 bytes")])
def test_refuses_a_broken_header_at_once(tmp_path, content, part):
    folder = severstal(tmp_path, "a.jpg,3,1 2")
    (folder / "train_images" / "b.jpg").write_bytes(content)
    refused(folder, str(folder / "train_images" / "b.jpg"), part, "not a readable image")


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif"])
def test_refuses_a_truncated_image_when_it_is_read(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    folder = severstal(tmp_path, f"a.{suffix},3,1 2", images=())
    path = draw(folder / "train_images" / f"a.{suffix}", value=noise)
    steel = dataset.read_dataset(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"a\.{suffix} \(\d+ bytes\): not a readable image"):
        steel.image(f"a.{suffix}")


def test_notices_files_that_changed_since(tmp_path):
    steel = dataset.read_dataset(severstal(tmp_path, "a.jpg,3,1 2"))
    draw(tmp_path / "train_images" / "b.jpg", (8, 12))
    with pytest.raises(DataError, match=r"b\.jpg: now 8×12, was 4×6"):
        steel.image("b.jpg")
    (tmp_path / "train_images" / "c.jpg").unlink()
    with pytest.raises(DataError, match=r"c\.jpg: no such file"):
        steel.image("c.jpg")
    with pytest.raises(DataError, match=rf"no image 'z\.jpg' in {tmp_path.name} \(3 images"):
        steel.mask("z.jpg")


def test_long_strips(tmp_path, monkeypatch):
    folder = pairs(tmp_path, x=255)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 11)  # 4×6 is past twice that, Pillow's limit for an error
    refused(folder, "x.bmp", "24 pixels", "Cut the strip", "MAX_IMAGE_PIXELS")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.warns(Image.DecompressionBombWarning):  # between the two it is read
        assert dataset.read_dataset(folder).image("x.bmp").shape == (4, 6)


def test_refuses_more_than_eight_bits(tmp_path):
    folder = pairs(tmp_path, x=255)
    (folder / "images" / "x.bmp").unlink()
    Image.fromarray(np.full((4, 6), 3000, np.uint16)).save(folder / "images" / "x.png")
    refused(folder, "x.png", "more than 8 bits")


def test_refuses_what_viewers_would_turn(tmp_path):
    folder = pairs(tmp_path, x=255)
    exif = Image.Exif()
    exif[0x0112] = 3  # by 180°: the size stays, so nothing else would notice
    (folder / "images" / "x.bmp").unlink()
    draw(folder / "images" / "x.jpg", exif=exif)
    refused(folder, "x.jpg", "EXIF")
    exif[0x0112] = 1
    draw(folder / "images" / "x.jpg", exif=exif)
    assert len(dataset.read_dataset(folder)) == 1


def test_refuses_a_file_of_several_pages(tmp_path):
    folder = pairs(tmp_path, x=255)
    (folder / "masks" / "x.png").unlink()
    page = Image.fromarray(values(255))
    page.save(folder / "masks" / "x.tif", save_all=True, append_images=[page])
    refused(folder, "x.tif", "2 pages")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_refuses_an_animation(tmp_path, suffix):
    folder = severstal(tmp_path, "a.jpg,3,1 2")
    frames = [Image.fromarray(np.full((4, 6, 3), value, np.uint8)) for value in (0, 200)]
    frames[0].save(folder / "train_images" / f"x.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    refused(folder, f"x.{suffix}: 2 pages; save the one you need as a separate file")


def test_refuses_a_folder_and_a_pipe_among_the_images(tmp_path):
    folder = severstal(tmp_path, "a.jpg,3,1 2")
    (folder / "train_images" / "x.jpg").mkdir()
    refused(folder, "x.jpg: a folder or a pipe, not an image file; remove it")
    if hasattr(os, "mkfifo"):
        (folder / "train_images" / "x.jpg").rmdir()
        os.mkfifo(folder / "train_images" / "x.jpg")
        refused(folder, "x.jpg: a folder or a pipe, not an image file; remove it")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("character", ["\n", "\r", "\t", "\x7f", "\x85", "\u2028"])
def test_refuses_a_name_with_a_control_character(tmp_path, character):
    """A line's end in a name would give one image's label to another wherever names stand in a table."""
    folder = severstal(tmp_path, "a.jpg,3,1 2")
    draw(folder / "train_images" / f"a.jpg{character}b.jpg")
    refused(folder, repr(f"a.jpg{character}b.jpg"), "control character", "rename the file")


# A folder of images and masks


@pytest.mark.parametrize("full", [255, 1])
def test_reads_binary_masks(tmp_path, full):
    masks = {"a": values(0, full), "b": values(), "c": values(*[full] * 6)}
    steel = dataset.read_dataset(pairs(tmp_path, **masks))
    assert (steel.name, steel.classes) == (tmp_path.name, (1,))
    assert steel.images["ImageId"].tolist() == ["a.bmp", "b.bmp", "c.bmp"]
    assert steel.images["classes"].tolist() == [(1,), (), (1,)]
    assert steel.rows["area"].tolist() == [1, 6]
    for stem, mask in masks.items():
        assert (steel.mask(f"{stem}.bmp") == (mask > 0)).all()
    assert f"0/{full}" in steel.describe()


def test_reads_class_ids(tmp_path):
    masks = {"a": values(0, 1, 3), "b": values(), "c": values(3)}
    steel = dataset.read_dataset(pairs(tmp_path, **masks))
    assert steel.classes == (1, 2, 3)
    assert steel.rows[["ImageId", "ClassId", "EncodedPixels"]].values.tolist() == [
        ["a.bmp", 1, "5 1"], ["a.bmp", 3, "9 1"], ["c.bmp", 3, "1 1"]]
    for stem, mask in masks.items():
        assert (steel.masks(f"{stem}.bmp") == (mask == np.array([1, 2, 3])[:, None, None])).all()


def test_masks_that_are_full_or_of_other_modes(tmp_path):
    folder = pairs(tmp_path, full=255, bit=255, rgb=255, rgba=255, palette=255, deep=255)
    for stem, mode in (("bit", "1"), ("rgb", "RGB"), ("rgba", "RGBA")):
        draw(folder / "masks" / f"{stem}.png", value=values(0, 255), mode=mode)
    picture = Image.fromarray(1 - values(0, 1))
    picture.putpalette([255, 255, 255, 0, 0, 0])  # index 1 shows as black: it is what the palette shows that counts
    picture.save(folder / "masks" / "palette.png")
    Image.fromarray(values(0, 1).astype(np.uint16)).save(folder / "masks" / "deep.png")
    steel = dataset.read_dataset(folder)
    assert steel.mask("full.bmp").all()
    for stem in ("bit", "rgb", "rgba", "palette", "deep"):
        assert (steel.mask(f"{stem}.bmp") == (values(0, 1) > 0)).all(), stem


def test_a_coloured_palette_holds_class_ids(tmp_path):
    folder = pairs(tmp_path, x=0)
    picture = Image.fromarray(values(0, 1, 2))
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    picture.save(folder / "masks" / "x.png")
    assert dataset.read_dataset(folder).rows["EncodedPixels"].tolist() == ["5 1", "9 1"]
    picture.putpalette([128, 64, 128, 128, 0, 0, 0, 128, 0])
    picture.save(folder / "masks" / "x.png")
    refused(folder, "x.png", "palette", "not black")


@pytest.mark.parametrize(("mask", "part"), [
    (values(0, 1, 255), "mask values 0, 1, 255"),
    (values(0, 33), "mask values 0, 33"),
    (values(0, 128, 255), "mask values 0, 128, 255"),
    (np.arange(24, dtype=np.uint8).reshape(4, 6) * 10, "0, 10, 20, 30, 40, 50, 60, 70, … (16 more)"),
    (np.dstack([values(255), values(), values()]), "coloured mask"),
    (np.dstack([values(255)] * 3 + [values(255)]), "transparency"),
    (np.full((4, 6), 65535, np.uint16), "mask values 65535"),
    (np.full((6, 4), 255, np.uint8), "the mask is 6×4, its image x.bmp is 4×6"),
])
def test_refuses_a_mask_naming_the_file(tmp_path, mask, part):
    folder = pairs(tmp_path, a=255, x=255)
    Image.fromarray(mask).save(folder / "masks" / "x.png")
    refused(folder, str(folder / "masks" / "x.png"), part)


def test_refuses_two_meanings_in_one_folder(tmp_path):
    refused(pairs(tmp_path, a=values(0, 255), b=values(0, 2)), "a.png contains 0 and 255", "b.png class id 2")


def test_refuses_jpeg_masks_whatever_their_name(tmp_path):
    folder = pairs(tmp_path, x=255)
    draw(folder / "masks" / "x.png", value=values(255), format="JPEG")
    refused(folder, "x.png", "JPEG mask")


def test_refuses_lone_files_unless_told_to_skip(tmp_path):
    folder = pairs(tmp_path, a=255, b=255, c=255)
    (folder / "masks" / "b.png").unlink()
    refused(folder, "1 images without a mask", "b.bmp", "skip_missing")
    (folder / "images" / "c.bmp").unlink()
    draw(folder / "masks" / "b.png", value=255)
    refused(folder, "1 masks without an image", "c.png")
    (folder / "masks" / "b.png").unlink()
    steel = dataset.read_dataset(folder, skip_missing=True)
    assert steel.images["ImageId"].tolist() == ["a.bmp"]
    assert "1 images without a mask of the same stem, b.bmp" in steel.describe()
    assert "1 masks without an image of the same stem, c.png" in steel.describe()
    (folder / "masks" / "a.png").rename(folder / "masks" / "z.png")
    refused(folder, "no image has a label", skip_missing=True)


def test_refuses_two_files_of_one_stem(tmp_path):
    folder = pairs(tmp_path, a=255)
    draw(folder / "images" / "a.jpg")
    refused(folder, "a.bmp", "a.jpg", "the same stem")


def test_masks_elsewhere(tmp_path):
    folder = pairs(tmp_path / "set", a=values(255))
    (folder / "masks").rename(tmp_path / "labels")
    refused(folder, "no data set", "images/", "found images/")
    for images in (folder, folder / "images"):
        assert dataset.read_dataset(images, masks=tmp_path / "labels").mask("a.bmp").sum() == 1
    refused(folder, "no such folder", masks=tmp_path / "nowhere")


def test_refuses_folders_that_hold_no_data_set(tmp_path):
    refused(tmp_path / "nowhere", "nowhere", "no such folder")
    (tmp_path / "set.zip").write_bytes(b"PK")
    refused(tmp_path / "set.zip", "is a file", "unpack")
    refused(tmp_path, "no data set", "train.csv and train_images/", "found set.zip")
    (tmp_path / "train.csv").write_text(f"{NOW}\na.jpg,3,1 2")
    refused(tmp_path, "found set.zip, train.csv")
    (tmp_path / "train_images").mkdir()
    refused(tmp_path, "train_images: no image files")


# The data set itself


def test_fingerprint_is_of_the_content(tmp_path):
    first = dataset.read_dataset(severstal(tmp_path / "first", "a.jpg,3,1 2", "b.jpg,3,1 2"))
    assert re.fullmatch("[0-9a-f]{64}", first.fingerprint())
    assert (
        dataset.read_dataset(shutil.copytree(tmp_path / "first", tmp_path / "copy")).fingerprint()
        == first.fingerprint()
    )
    others = [("a.jpg,3,1 3", "b.jpg,3,1 2"), ("a.jpg,4,1 2", "b.jpg,3,1 2"), ("b.jpg,3,1 2", "a.jpg,3,1 2")]
    prints = {dataset.read_dataset(severstal(tmp_path / str(i), *rows)).fingerprint() for i, rows in enumerate(others)}
    assert len(prints | {first.fingerprint(), first.subset(["a.jpg", "b.jpg"]).fingerprint()}) == 5


def test_subset(tmp_path):
    steel = dataset.read_dataset(severstal(tmp_path, "c.jpg,3,1 2", "a.jpg,3,5 1 7 2", "a.jpg,1,1 1"))
    part = steel.subset(["c.jpg", "b.jpg", "b.jpg"])
    assert part.images["ImageId"].tolist() == ["b.jpg", "c.jpg"]
    assert part.rows["ImageId"].tolist() == ["c.jpg"]
    assert part.classes == steel.classes
    assert part.mask("c.jpg").sum() == 2
    with pytest.raises(DataError, match=r"a\.jpg"):
        part.image("a.jpg")
    assert len(steel) == 3
    assert len(steel.subset([])) == 0
    assert "0 images" in steel.subset([]).describe()
    with pytest.raises(DataError, match="nine"):
        steel.subset(["nine"])


def test_groups(tmp_path):
    steel = dataset.read_dataset(severstal(tmp_path, "a.jpg,3,1 2"))
    assert steel.groups is None
    csv = tmp_path / "groups.csv"
    csv.write_bytes("\ufeffImageId,group\r\nb.jpg, strip 1\r\n\r\na.jpg,strip 1\r\nc.jpg,c\r\n".encode())
    grouped = steel.with_groups(csv)
    assert grouped.groups == {"a.jpg": "strip 1", "b.jpg": "strip 1", "c.jpg": "c"}
    assert steel.with_groups({"a.jpg": 1, "b.jpg": 1, "c.jpg": 2}).groups == {"a.jpg": "1", "b.jpg": "1", "c.jpg": "2"}
    assert grouped.subset(["c.jpg", "a.jpg"]).groups == {"a.jpg": "strip 1", "c.jpg": "c"}
    assert grouped.fingerprint() == steel.fingerprint()
    assert dataset.read_dataset(tmp_path).groups is None  # a file beside the labels is not taken by itself


@pytest.mark.parametrize(("text", "parts"), [
    ("ImageId,group\na.jpg,1\nb.jpg,1\n", ("1 images without a group", "c.jpg")),
    ("ImageId,group\na.jpg,1\nb.jpg,1\nc.jpg,1\nd.jpg,2\n", ("1 unknown images", "d.jpg")),
    ("ImageId,group\na.jpg,1\nb.jpg,\nc.jpg,1\n", ("group has no name", "b.jpg")),
    ("ImageId,group\na.jpg,1\nb.jpg,1\na.jpg,2\nc.jpg,1\n", ("line 4", "a.jpg is in two groups")),
    ("ImageId,group\na.jpg,1,2\n", ("line 2", "3 fields")),
    ("a.jpg,1\n", ("line 1", "expected ImageId,group")),
    ("", ("line 1", "expected ImageId,group")),
    ("ImageId,group\n" + "x" * 200_000 + ",1\n", ("not a readable table",)),
])
def test_refuses_groups(tmp_path, text, parts):
    steel = dataset.read_dataset(severstal(tmp_path, "a.jpg,3,1 2"))
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        steel.with_groups(tmp_path / "groups.csv")
    for part in ("groups.csv", *parts):
        assert part in str(caught.value)
    with pytest.raises(DataError, match=r"nowhere\.csv: no such file"):
        steel.with_groups(tmp_path / "nowhere.csv")


def test_describe_names_no_path(tmp_path):
    text = dataset.read_dataset(severstal(tmp_path / "steel", "a.jpg,3,1 2", "a.jpg,1,3 1")).describe()
    assert str(tmp_path) not in text
    for part in ("3 images (4×6)", "2 clean, 1 with defects", "class 1: 1, 2: 0", "2 masks", "4.17% of all pixels",
                 "3 JPEG", "'steel'"):
        assert part in text


@needs_severstal
def test_real_severstal():
    steel = dataset.read_dataset(REAL / "severstal")
    assert len(steel) == 45
    assert (steel.images["masks"] > 0).sum() == 30
    assert len(steel.rows) == 36
    assert set(zip(steel.images["height"], steel.images["width"], strict=True)) == {(256, 1600)}
    for row in steel.rows.itertuples():
        mask = steel.masks(row.ImageId)[row.ClassId - 1]
        assert mask.sum() == row.area
        assert rle.encode(mask) == row.EncodedPixels
    for image_id in steel.images["ImageId"]:
        gray = steel.image(image_id)
        assert gray.shape == (256, 1600)
        assert gray.std() > 1


@needs_saliency
def test_real_images_and_masks():
    folder = REAL / "sd_saliency_900"
    steel = dataset.read_dataset(folder)
    assert len(steel) == len(steel.rows) == 900
    for image_id in steel.images["ImageId"][::45]:
        mask = np.asarray(Image.open(folder / "masks" / image_id.replace(".bmp", ".png")))
        assert (steel.mask(image_id) == (mask == 255)).all()
        assert (steel.image(image_id) == np.asarray(Image.open(folder / "images" / image_id))).all()
