"""Synthetic steel against the published figures of Severstal's labels, and its files against their layout."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.measure import label, regionprops

from steelnb.data import rle, synthetic

SMALL = (64, 400)
HALF = (128, 800)  # every length of the published figures halved

# Severstal: 12,568 train images; rows a class; median mask area in % and its 5–95 % range; median height × width.
IMAGES, CLEAN, ROWS = 12568, 5902, {1: 897, 2: 247, 3: 5150, 4: 801}
AREA = {1: (.93, .19, 3.1), 2: (.72, .24, 1.8), 3: (2.89, .47, 22), 4: (6.35, 1.2, 22)}
SIZE = {1: (44, 26), 2: (164, 19), 3: (154, 33), 4: (98, 124)}
COUNT = {1: (2, 9), 2: (1, 2), 3: (2, 6), 4: (2, 4)}  # components a mask: median, 90 %
TOUCHING = {2: 2 / 3, 3: .58}  # share of components at the top or bottom edge


@pytest.fixture(scope="module")
def steel():
    """400 draws at half size: each image's mean gray a column, and {class: masks} of the images that show the class."""
    lit, masks = [], {kind: [] for kind in synthetic.CLASSES}
    for index in range(400):
        sample = synthetic.draw(7, index, HALF)
        lit.append(sample.image.mean(0) > 20)
        assert not sample.masks[:, :, ~lit[-1]].any(), f"a label on the black band of image {index}"
        for kind, mask in zip(synthetic.CLASSES, sample.masks, strict=True):
            if mask.any():
                masks[kind].append(mask)
    return np.array(lit), masks


@pytest.fixture(scope="module")
def components(steel):
    return {kind: [regionprops(label(mask)) for mask in masks] for kind, masks in steel[1].items()}


def test_types_and_shapes():
    image, masks = synthetic.draw(0, 0)
    assert image.dtype == np.uint8
    assert image.shape == (256, 1600)
    assert masks.dtype == bool
    assert masks.shape == (4, 256, 1600)


def test_same_seed_same_steel_in_any_order():
    first = [synthetic.draw(3, index, SMALL) for index in range(6)]
    np.random.default_rng().random(9)
    for index in reversed(range(6)):
        again = synthetic.draw(3, index, SMALL)
        assert np.array_equal(first[index].image, again.image)
        assert np.array_equal(first[index].masks, again.masks)


def test_other_seed_or_index_other_steel():
    image = synthetic.draw(3, 0, SMALL).image
    assert not np.array_equal(image, synthetic.draw(4, 0, SMALL).image)
    assert not np.array_equal(image, synthetic.draw(3, 1, SMALL).image)


def test_combinations_are_the_published_counts():
    assert sum(synthetic.COMBINATIONS.values()) == IMAGES
    assert synthetic.COMBINATIONS[()] == CLEAN
    for kind, rows in ROWS.items():
        assert sum(count for kinds, count in synthetic.COMBINATIONS.items() if kind in kinds) == rows
    assert [sum(n for kinds, n in synthetic.COMBINATIONS.items() if len(kinds) == k) for k in (2, 3)] == [425, 2]


def test_class_shares(steel):
    for kind, masks in steel[1].items():
        assert len(masks) / 400 == pytest.approx(ROWS[kind] / IMAGES, abs=.006)


@pytest.mark.parametrize("seed", range(5))
def test_even_a_small_set_has_the_shares(seed):
    classes = [synthetic.draw(seed, index, (32, 200)).masks.any((1, 2)) for index in range(60)]
    shows = np.array(classes)
    assert 1 - shows.any(1).mean() == pytest.approx(CLEAN / IMAGES, abs=.04)
    assert shows[:, 2].mean() == pytest.approx(ROWS[3] / IMAGES, abs=.04)


@pytest.mark.parametrize("kind", synthetic.CLASSES)
def test_mask_areas(steel, kind):
    low, middle, high = np.quantile([100 * mask.mean() for mask in steel[1][kind]], [.05, .5, .95])
    median, five, ninety_five = AREA[kind]
    # With 8 masks of class 2 and 25 of 1 and 4 the quantiles are themselves uncertain; 160 of class 3 tell more.
    slack = 1.35 if kind == 3 else 2
    assert median / slack < middle < median * slack
    assert low > five / 2
    assert high < ninety_five * 1.6
    assert high > 2.2 * low


@pytest.mark.parametrize("kind", synthetic.CLASSES)
def test_component_counts_and_sizes(components, kind):
    counts = [len(found) for found in components[kind]]
    assert np.median(counts) == pytest.approx(COUNT[kind][0], abs=1)
    assert np.quantile(counts, .9) == pytest.approx(COUNT[kind][1], abs=3 if kind == 1 else 2)
    boxes = np.array([region.bbox for found in components[kind] for region in found])
    height, width = 2 * np.median(boxes[:, 2:] - boxes[:, :2], axis=0)
    assert SIZE[kind][0] / 1.5 < height < SIZE[kind][0] * 1.5
    assert SIZE[kind][1] / 1.5 < width < SIZE[kind][1] * 1.5


def test_labels_are_loose_polygons(components):
    solidity = [region.solidity for kind in (1, 3, 4) for found in components[kind] for region in found]
    assert .9 <= np.median(solidity) <= .97


@pytest.mark.parametrize("kind", TOUCHING)
def test_edge_contact(components, kind):
    boxes = np.array([region.bbox for found in components[kind] for region in found])
    touching = (boxes[:, 0] == 0) | (boxes[:, 2] == HALF[0])
    assert touching.mean() == pytest.approx(TOUCHING[kind], abs=.1 if kind == 3 else .25)


def test_black_band(steel):
    bands = 1 - steel[0].mean(1)
    shown = bands > .03
    assert shown.mean() == pytest.approx(.38, abs=.073)  # three standard errors of 400 draws
    assert np.median(bands[shown]) == pytest.approx(.5, abs=.1)
    for lit in steel[0][shown]:
        assert lit[0] != lit[-1], "the band lies at one side"
        assert np.count_nonzero(np.diff(lit)) == 1, "the band is one piece"


def test_light_and_grain():
    levels, across, down = [], [], []
    for index in range(40):
        image = synthetic.draw(1, index).image
        image = image[:, image.mean(0) > 20].astype(float)
        levels.append(image.mean())
        across.append(np.abs(np.diff(image, axis=1)).mean())
        down.append(np.abs(np.diff(image, axis=0)).mean())
    assert np.quantile(levels, [.1, .5, .9]) == pytest.approx([59, 92, 120], abs=13)
    assert np.median(across) == pytest.approx(5, abs=1)
    assert np.median(down) == pytest.approx(5, abs=1)


def test_streaks_run_down():
    images = [synthetic.draw(2, index).image[:, 200:600].astype(float) for index in range(16)]
    lit = [image for image in images if image.mean(0).min() > 20]
    down = np.median([np.abs(image[24:] - image[:-24]).mean() for image in lit])
    across = np.median([np.abs(image[:, 24:] - image[:, :-24]).mean() for image in lit])
    assert across > down, "steel changes more across the rolling direction than along it"


def test_labels_tell_something_but_not_everything():
    """Gray under a label varies about as much as elsewhere, less in some images: spread alone gives no label away."""
    inside, outside = [], []
    for index in range(60):
        image, masks = synthetic.draw(5, index, HALF)
        mask = masks.any(0)
        lit = image > 20
        if mask.sum() > 500:
            inside.append(image[mask].std())
            outside.append(image[~mask & lit].std())
    ratio = np.array(inside) / np.array(outside)
    assert .4 < np.median(ratio) < 2
    assert (ratio < 1).mean() > .15, "under some labels the gray varies less than around them"


@pytest.mark.parametrize("shape", [(32, 32), (64, 400), (100, 100), (256, 64)])
def test_areas_keep_their_share_at_any_size(shape):
    shares = [synthetic.draw(9, index, shape).masks.any(0).mean() for index in range(150)]
    assert np.mean(shares) == pytest.approx(.032, abs=.016)  # 3.18 % of all pixels


@pytest.mark.parametrize(("form", "columns"), [("now", ["ImageId", "ClassId", "EncodedPixels"]),
                                               ("2019", ["ImageId_ClassId", "EncodedPixels"])])
def test_layout(tmp_path, form, columns):
    folder = synthetic.write_dataset(
        tmp_path / "steel", 12, seed=2, shape=SMALL, form=form, test_images=3, progress=False
    )
    assert folder == tmp_path / "steel"
    expected = ["SYNTHETIC.txt", "test_images", "train.csv", "train_images"]
    assert sorted(path.name for path in folder.iterdir()) == expected
    names = sorted(path.name for path in (folder / "train_images").iterdir())
    unlabelled = [path.name for path in (folder / "test_images").iterdir()]
    assert (len(names), len(unlabelled), len({*names, *unlabelled})) == (12, 3, 15)
    assert all(len(name) == 13 and int(name[:9], 16) >= 0 and name.endswith(".jpg") for name in names)
    table = pd.read_csv(folder / "train.csv")
    assert list(table.columns) == columns
    if form == "2019":
        assert list(table.ImageId_ClassId) == [f"{name}_{kind}" for name in names for kind in synthetic.CLASSES]
    else:
        assert table.EncodedPixels.notna().all()
        assert set(table.ImageId) < set(names)


def test_images_are_gray_jpegs_of_what_was_drawn(tmp_path):
    folder = synthetic.write_dataset(tmp_path, 1, seed=2, shape=SMALL, progress=False)
    with Image.open(next((folder / "train_images").iterdir())) as file:
        assert (file.format, file.mode, file.size) == ("JPEG", "RGB", SMALL[::-1])
        pixels = np.asarray(file)
    assert (pixels == pixels[:, :, :1]).all(), "R = G = B"
    assert np.abs(pixels[:, :, 0] - synthetic.draw(2, 0, SMALL).image.astype(float)).mean() < 4


def test_both_forms_hold_the_masks_that_were_drawn(tmp_path):
    now, old = (pd.read_csv(synthetic.write_dataset(tmp_path / form, 12, seed=2, shape=SMALL, form=form, progress=False)
                            / "train.csv") for form in ("now", "2019"))
    key = now.ImageId + "_" + now.ClassId.astype(str)
    assert dict(zip(key, now.EncodedPixels, strict=True)) == dict(old.dropna().to_numpy())
    drawn = [mask for index in range(12) for mask in synthetic.draw(2, index, SMALL).masks if mask.any()]
    written = [rle.decode(text, SMALL) for text in now.EncodedPixels]
    assert len(drawn) == len(written) > 0
    assert sorted(mask.tobytes() for mask in drawn) == sorted(mask.copy("C").tobytes() for mask in written)


def test_same_seed_same_files(tmp_path):
    contents = []
    for name in "ab":
        folder = synthetic.write_dataset(tmp_path / name, 4, seed=2, shape=SMALL, progress=False)
        contents.append({str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")})
    assert contents[0] == contents[1]


@pytest.mark.parametrize(("wrong", "message"), [
    ({"images": 0}, "cannot write 0 train and 0 test images"),
    ({"images": 2, "test_images": -1}, "-1 test images"),
    ({"images": 2, "form": "2020"}, "no form '2020': use \"now\" or \"2019\""),
    ({"images": 2, "shape": (31, 400)}, "31×400 pixels is too small to show defects: use 32×32 or more"),
])
def test_refuses_and_leaves_nothing(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        synthetic.write_dataset(tmp_path / "steel", **{"shape": SMALL, "progress": False, **wrong})
    assert not (tmp_path / "steel").exists()


def test_draw_refuses_tiny_shapes():
    with pytest.raises(ValueError, match="too small"):
        synthetic.draw(0, 0, (400, 16))


@pytest.mark.parametrize("held", ["train.csv", "train_images/mine.jpg", "test_images/mine.jpg"])
def test_never_touches_a_set_that_is_there(tmp_path, held):
    (tmp_path / held).parent.mkdir(exist_ok=True)
    (tmp_path / held).write_text("mine")
    with pytest.raises(ValueError, match=f"already contains {held}, and a set is never overwritten"):
        synthetic.write_dataset(tmp_path, 2, shape=SMALL, progress=False)
    assert [path.read_text() for path in tmp_path.rglob("*.*")] == ["mine"]


def test_an_interrupted_write_is_not_a_set(tmp_path, monkeypatch):
    def interrupted(mask):
        raise KeyboardInterrupt

    monkeypatch.setattr(rle, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthetic.write_dataset(tmp_path, 2, shape=SMALL, progress=False)
    assert not (tmp_path / "train.csv").exists()


def test_progress_goes_to_stderr_or_nowhere(tmp_path, capsys):
    synthetic.write_dataset(tmp_path / "a", 1, shape=SMALL)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "drawing steel" in shown.err
    synthetic.write_dataset(tmp_path / "b", 1, shape=SMALL, progress=False)
    assert capsys.readouterr().err == ""
