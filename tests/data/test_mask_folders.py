"""Layouts of mask files as published sets have them: each is found, said, and read to the very pixel, or refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steelnb.data import dataset, sources, splits
from steelnb.data.dataset import DataError

REAL = Path(__file__).parents[3] / "shared" / "data"
rng = np.random.default_rng(0)
MASKS = [np.where(rng.random((6, 8)) < 0.3, 255, 0).astype(np.uint8) for _ in range(6)]


def save(path, pixels, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)


def publish(folder, images, masks, count=4):
    """`count` images and masks at the places that two patterns name."""
    for k in range(count):
        save(folder / images.format(k), np.full((6, 8), 10 * k, np.uint8))
        save(folder / masks.format(k), MASKS[k])
    return folder


def check(data, count=4):
    """Every image has its own mask."""
    assert len(data) == count
    for image_id in data.images["ImageId"]:
        k = int(data.image(image_id)[0, 0]) // 10  # JPEG keeps a flat image
        assert (data.mask(image_id) == (MASKS[k] > 0)).all()
    return data.describe()


@pytest.mark.parametrize(("images", "masks", "told"), [
    ("images/{}.png", "masks/{}_mask.png", "X_mask"),
    ("images/a{}.jpg", "labels/a{}_label.bmp", "X_label"),
    ("images/a_{}.jpg", "ground_truth/a_{}-GT-v.png", "X-GT-v"),
    ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", "JPEGImages/ beside SegmentationClass/"),
    ("set/images/{}.png", "set/masks/{}.png", "images/ beside masks/"),
    ("images/p{}/x.png", "masks/p{}/x_mask.png", "X_mask"),
    ("Part{}.jpg", "Part{}_label.bmp", "an image X.jpg and its mask X_label.bmp"),
    ("kos0{}/Part.jpg", "kos0{}/Part_label.bmp", "X_label.bmp"),
    ("NAME{}.jpg", "NAME{}.png", "an image X.jpg and its mask X.png"),
    ("a/b/{}.jpg", "a/b/{}.png", "side by side"),
])
def test_layouts(tmp_path, images, masks, told):
    data = dataset.read_dataset(publish(tmp_path, images, masks))
    assert told in check(data)
    assert (data.classes, data.class_names, data.parts, data.groups) == ((1,), (), None, None)
    assert sources.open_dataset(tmp_path, progress=False).fingerprint() == data.fingerprint()


def test_the_suffix_must_fit_all(tmp_path):
    publish(tmp_path, "images/{}.png", "masks/{}_mask.png")
    (tmp_path / "masks" / "3_mask.png").rename(tmp_path / "masks" / "3_other.png")
    with pytest.raises(DataError, match=r"1 images without a mask named as the image with '_mask' at the end, 3\.png"):
        dataset.read_dataset(tmp_path)
    assert len(dataset.read_dataset(tmp_path, skip_missing=True)) == 3


def test_one_name_is_no_beginning_of_another(tmp_path):
    """1 is not the image of the mask 10."""
    for name in ("1", "10", "11"):
        save(tmp_path / "images" / f"{name}.png", np.zeros((6, 8), np.uint8))
        save(tmp_path / "masks" / f"{name}0_x.png", MASKS[0])
    with pytest.raises(DataError, match="images without a mask"):
        dataset.read_dataset(tmp_path)


@pytest.mark.parametrize(("images", "masks"), [
    ("images/{}/{}.jpg", "annotations/{}/{}.png"), ("{}/images/{}.jpg", "{}/masks/{}.png"),
    ("{}/{}.jpg", "{}/{}_gt.png"),
])
def test_the_split_that_a_set_brings_is_used(tmp_path, images, masks):
    for k, part in enumerate(("training", "training", "training", "validation")):
        save(tmp_path / images.format(part, k), np.full((6, 8), 10 * k, np.uint8))
        save(tmp_path / masks.format(part, k), MASKS[k])
    data = dataset.read_dataset(tmp_path)
    assert "own split: 3 images to train on, 1 held out" in check(data)
    split = splits.by_image(data, seed=5)
    assert [Path(i).stem for i in split.train] == ["0", "1", "2"]
    assert [Path(i).stem for i in split.validation] == ["3"]
    assert data.subset(split.validation).parts == dict.fromkeys(split.validation, "validation")


def test_what_is_for_a_test_is_held_out_where_nothing_else_is(tmp_path):
    for k, part in enumerate(("train", "train", "test")):
        save(tmp_path / part / f"{k}.jpg", np.full((6, 8), 10 * k, np.uint8))
        save(tmp_path / part / f"{k}_label.png", MASKS[k])
    assert splits.by_image(dataset.read_dataset(tmp_path)).validation == ("test/2.jpg",)
    save(tmp_path / "val" / "3.jpg", np.full((6, 8), 30, np.uint8))
    save(tmp_path / "val" / "3_label.png", MASKS[3])
    split = splits.by_image(dataset.read_dataset(tmp_path))
    assert split == (("train/0.jpg", "train/1.jpg"), ("val/3.jpg",))  # the test is in neither


def test_folders_name_the_kind(tmp_path):
    for k, kind in enumerate(("MT_Crack", "MT_Break", "MT_Crack", "MT_Free")):
        save(tmp_path / kind / "Imgs" / f"{k}.jpg", np.full((6, 8), 10 * k, np.uint8))
        save(tmp_path / kind / "Imgs" / f"{k}.png", MASKS[k] * (kind != "MT_Free"))
    data = dataset.read_dataset(tmp_path)
    assert (data.classes, data.class_names) == ((1, 2), ("MT_Break", "MT_Crack"))
    assert data.images["classes"].tolist() == [(1,), (2,), (2,), ()]
    assert "images with class 1 MT_Break: 1, 2 MT_Crack: 2;" in data.describe()
    assert data.class_name(2) == "MT_Crack"


@pytest.mark.parametrize("folder", ["images", "."])
def test_softened_edges_need_a_threshold_that_is_said(tmp_path, folder):
    images, masks = ("images/{}.jpg", "masks/{}.png") if folder == "images" else ("{}.jpg", "{}.png")
    publish(tmp_path, images, masks)
    soft = MASKS[0].copy()
    soft[0, :3] = 127, 128, 200
    save(tmp_path / masks.format(0), soft)
    with pytest.raises(DataError, match=r"0\.png: mask values .*--mask-threshold 127"):
        dataset.read_dataset(tmp_path)
    for threshold in (0, 127, 199, 254):
        data = dataset.read_dataset(tmp_path, mask_threshold=threshold)
        assert (data.mask("0.jpg") == (soft > threshold)).all()
        assert f"above {threshold}" in data.describe()
    for wrong in (-1, 255):
        with pytest.raises(ValueError, match="mask_threshold"):
            dataset.read_dataset(tmp_path, mask_threshold=wrong)


def palette(path, indices, colours):
    picture = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    picture.putpalette(np.array(colours, np.uint8).ravel().tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def test_a_palette_s_index_is_the_class(tmp_path):
    indices = rng.integers(0, 4, (6, 8)).astype(np.uint8)
    save(tmp_path / "images" / "a.png", MASKS[0])
    palette(tmp_path / "masks" / "a.png", indices, [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)])
    data = dataset.read_dataset(tmp_path)
    assert (data.masks("a.png") == [indices == k for k in (1, 2, 3)]).all()
    palette(tmp_path / "masks" / "a.png", indices, [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 0, 0)])
    with pytest.raises(DataError, match="two indices of its palette have the same colour"):
        dataset.read_dataset(tmp_path)
    with pytest.raises(DataError, match="coloured palette"):
        dataset.read_dataset(tmp_path, mask_threshold=127)


def test_lone_files_beside(tmp_path):
    publish(tmp_path, "{}.jpg", "{}.png")
    save(tmp_path / "5.jpg", MASKS[0])
    with pytest.raises(DataError, match=r"1 images without a mask beside them, 5\.jpg"):
        dataset.read_dataset(tmp_path)
    assert len(dataset.read_dataset(tmp_path, skip_missing=True)) == 4
    (tmp_path / "5.jpg").rename(tmp_path / "5.png")
    with pytest.raises(DataError, match=r"1 masks without an image beside them, 5\.png"):
        dataset.read_dataset(tmp_path)


@pytest.mark.skipif(not (REAL / "magnetic_tile").is_dir(), reason="no magnetic tiles here")
def test_magnetic_tiles_as_published():
    with pytest.raises(DataError, match="--mask-threshold"):
        dataset.read_dataset(REAL / "magnetic_tile")
    data = dataset.read_dataset(REAL / "magnetic_tile", mask_threshold=127)
    assert len(data) == len(list((REAL / "magnetic_tile").glob("*/Imgs/*.jpg")))
    assert data.class_names == ("MT_Blowhole", "MT_Break", "MT_Crack", "MT_Fray", "MT_Uneven")
    for row in data.images.iloc[::97].itertuples():
        values = np.asarray(Image.open(row.path.with_suffix(".png")).convert("L"))
        assert (data.mask(row.ImageId) == (values > 127)).all()
        assert set(row.classes) <= {data.class_names.index(row.ImageId.split("/")[0]) + 1} if row.classes else True
