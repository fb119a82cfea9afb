"""Other people's formats: recognised by content, exact where the format allows, refused by name where they are wrong.
"""

import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published import WRITERS, cvat, image, images, publish, solid, yolo
from scipy.ndimage import gaussian_filter

from steelnb.__main__ import main
from steelnb.data import coco, conversion, dataset, labelled, layouts, polygons, sources, splits
from steelnb.data.dataset import DataError

NAMES = ("crack", "pit", "scale")
KEEPS_HOLES = ("coco counts", "coco compressed", "labelme masks", "cvat masks", "palette")


def drawn(count, seed=0):
    """ImageId → class → mask: noise and blobs with holes and islands, of any size; classes do not overlap."""
    rng = np.random.default_rng(seed)
    found = {}
    for k in range(count):
        shape = rng.integers(3, 40, 2)
        blobs = gaussian_filter(rng.standard_normal(shape), rng.choice([0, 1, 2])) > 0
        kind = rng.integers(0, 3, shape) if k % 2 else np.broadcast_to(np.arange(shape[1]) * 3 // shape[1], shape)
        found[f"steel {k:03}.png"] = {name: blobs & (kind == n) for n, name in enumerate(NAMES)}
    return found


def expected(mask, writer):
    """What a format can hold of a mask: polygons have no holes."""
    return mask if writer in KEEPS_HOLES else solid(mask)[0]


@pytest.mark.parametrize("writer", WRITERS)
def test_round_trip(tmp_path, writer):
    masks = drawn(12)
    data = dataset.read_dataset(publish(tmp_path, masks, writer), nested="filled")
    assert data.images["ImageId"].tolist() == sorted(masks)
    for image_id, each in masks.items():
        for found, name in zip(data.masks(image_id), NAMES, strict=True):
            assert (found == expected(each[name], writer)).all()
    assert data.class_names == (() if writer == "palette" else NAMES)
    word = {"palette": "masks of class ids", "yolo": "YOLO"}.get(writer, writer.split()[0])
    assert word.lower() in data.describe().lower()
    assert writer == "palette" or "2 pit: " in data.describe()


@pytest.mark.parametrize("writer", WRITERS)
def test_conversion_is_exact_and_keeps_names(tmp_path, writer):
    publish(tmp_path / "theirs", drawn(5), writer)
    arguments = ["--data", str(tmp_path / "theirs"), "--out", str(tmp_path / "ours"), "--nested", "filled", "--quiet"]
    assert main(["convert", *arguments]) == 0
    theirs, ours = dataset.read_dataset(tmp_path / "theirs", nested="filled"), dataset.read_dataset(tmp_path / "ours")
    assert ours.fingerprint() == theirs.fingerprint()
    assert (ours.classes, ours.class_names) == (theirs.classes, theirs.class_names)
    assert {p.name for p in (tmp_path / "ours").iterdir()} == {
        "train.csv", "classes.csv", "train_images", "SHA256SUMS"}
    for a, b in zip(theirs.images["path"], ours.images["path"], strict=True):
        assert a.read_bytes() == b.read_bytes()
    assert main(["convert", *arguments]) == 1  # never over something that is there


def test_conversion_flattens_folders_and_keeps_the_split(tmp_path):
    for part, k in product(("train", "val"), range(2)):
        image(tmp_path / "set" / "images" / part / f"{k}.png", (4, 5 + k))
        image(tmp_path / "set" / "masks" / part / f"{k}.png", (4, 5 + k), 255 * k)
    data = dataset.read_dataset(tmp_path / "set")
    ours = conversion.convert(data, tmp_path / "ours")
    assert ours.images["ImageId"].tolist() == ["train__0.png", "train__1.png", "val__0.png", "val__1.png"]
    assert splits.by_image(ours).validation == ("val__0.png", "val__1.png")
    assert "height,width" in (tmp_path / "ours" / "train.csv").read_text()
    (tmp_path / "ours" / "SHA256SUMS").unlink()
    image(tmp_path / "ours" / "train_images" / "val__1.png", (6, 4))  # resized since
    with pytest.raises(DataError, match=r"val__1\.png: labelled as 4×6 pixels, the image is 6×4"):
        dataset.read_dataset(tmp_path / "ours")


def test_conversion_of_clean_images(tmp_path):
    image(tmp_path / "set" / "images" / "a.png", (4, 5))
    image(tmp_path / "set" / "masks" / "a.png", (4, 5), 0)
    ours = conversion.convert(dataset.read_dataset(tmp_path / "set"), tmp_path / "ours")
    assert ours.images["masks"].tolist() == [0]


def test_the_official_run_lengths_are_ours():
    official = pytest.importorskip("pycocotools.mask")
    for each in drawn(60, seed=2).values():
        for mask in each.values():
            encoded = official.encode(np.asfortranarray(mask.astype(np.uint8)))
            form = {"size": list(mask.shape), "counts": encoded["counts"].decode()}
            assert (coco.mask_of(form, mask.shape, "here") == mask).all()


def test_polygons_are_filled_about_as_the_official_tools_do():
    official = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for _ in range(100):
        angles = np.sort(rng.random(rng.integers(5, 20))) * 2 * np.pi
        radius = rng.uniform(10, 38, len(angles))
        points = np.stack([40 + radius * np.cos(angles), 40 + radius * np.sin(angles)], 1)
        theirs = official.decode(official.merge(official.frPyObjects([points.ravel().tolist()], 80, 80))).astype(bool)
        differ = (ours := polygons.fill(points, (80, 80))) != theirs
        assert differ.sum() <= 0.5 * np.hypot(*np.diff(np.vstack([points, points[:1]]), axis=0).T).sum()
        assert ours.any()


def test_filled_as_scikit_image_fills():
    draw = pytest.importorskip("skimage.draw")
    rng = np.random.default_rng(0)
    for _ in range(200):
        points = rng.uniform(-5, 45, (rng.integers(3, 12), 2))
        assert (polygons.fill(points, (30, 40)) == draw.polygon2mask((30, 40), points[:, ::-1] - 0.5)).all()


def test_outlines_give_the_mask_back():
    for each in drawn(30, seed=3).values():
        for mask in each.values():
            outer, holes = polygons.outlines(mask)
            back = np.zeros_like(mask)
            for line in outer + holes:
                back ^= polygons.fill(line, mask.shape)
            assert (back == mask).all()
            assert all((polygons.fill(line, mask.shape) & mask).any() for line in outer)
            assert not any(polygons.fill(line, mask.shape).all() for line in holes)
    ring = np.ones((9, 9), bool)
    ring[3:6, 3:6] = False
    (outer,), (hole,) = polygons.outlines(ring)
    assert (polygons.fill(outer, ring.shape).sum(), polygons.fill(hole, ring.shape).sum()) == (81, 9)


# What a polygon inside another one is


RING = [[1, 1, 7, 1, 7, 7, 1, 7], [3, 3, 5, 3, 5, 5, 3, 5]]


def coco_of(folder, segmentation, **changes):
    image(folder / "images" / "a.png", (8, 8))
    document = {"images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 8}],
                "categories": [{"id": 3, "name": "crack"}],
                "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "segmentation": segmentation}]}
    (folder / "labels.json").write_text(json.dumps(document | changes))
    return folder


def test_a_polygon_inside_another_is_asked_about(tmp_path):
    folder = coco_of(tmp_path, RING)
    with pytest.raises(DataError, match=r"annotation 1, image a\.png: a polygon is inside another.*--nested hole"):
        dataset.read_dataset(folder)
    whole, hole = (dataset.read_dataset(folder, nested=kind).mask("a.png") for kind in ("filled", "hole"))
    assert whole.sum() == 36
    assert hole.sum() == 32
    assert not hole[3:5, 3:5].any()
    with pytest.raises(ValueError, match="nested"):
        dataset.read_dataset(folder, nested="both")


def test_a_hole_by_a_bridge_needs_no_question(tmp_path):
    bridged = [1, 1, 7, 1, 7, 7, 1, 7, 1, 1, 3, 3, 3, 5, 5, 5, 5, 3, 3, 3]
    assert dataset.read_dataset(coco_of(tmp_path, [bridged])).mask("a.png").sum() == 32


def test_parts_are_one_label(tmp_path):
    two = dataset.read_dataset(coco_of(tmp_path, [[0, 0, 2, 0, 2, 2, 0, 2], [4, 4, 8, 4, 8, 8, 4, 8]]))
    assert len(two.rows) == 1
    assert two.rows["area"].tolist() == [4 + 16]


# Which labels, of which image


def test_several_files_are_parts_of_a_split(tmp_path):
    document = json.loads((coco_of(tmp_path, RING[:1]) / "labels.json").read_text())
    (tmp_path / "labels.json").unlink()
    (tmp_path / "images" / "a.png").unlink()
    (tmp_path / "annotations").mkdir()
    for part in ("train", "val"):
        image(tmp_path / f"{part}2017" / "a.png", (8, 8))  # one name in two folders
        (tmp_path / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(document))
    data = dataset.read_dataset(tmp_path)
    assert splits.by_image(data) == (("train2017/a.png",), ("val2017/a.png",))
    assert "instances_train2017.json" in data.describe()


def test_folders_with_their_own_files(tmp_path):
    document = json.loads((coco_of(tmp_path / "x", RING[:1]) / "labels.json").read_text())
    for part in ("train", "valid", "test"):
        image(tmp_path / "robo" / part / "a.png", (8, 8))
        (tmp_path / "robo" / part / "_annotations.coco.json").write_text(json.dumps(document))
    data = dataset.read_dataset(tmp_path / "robo")
    assert splits.by_image(data) == (("train/a.png",), ("valid/a.png",))


def test_yolo_of_a_split(tmp_path):
    masks = drawn(3)
    for part, below in (("train", "images/train"), ("val", "images/val")):
        images(tmp_path, masks, below)
        yolo(tmp_path / "made" / part, masks, names_file=False)
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "made" / part / "labels").rename(tmp_path / "labels" / part)
    (tmp_path / "labels" / "val" / "steel 001.txt").unlink()
    (tmp_path / "data.yaml").write_text("names:\n  0: crack\n  1: pit\n  2: scale\n")
    data = dataset.read_dataset(tmp_path)
    assert [len(side) for side in splits.by_image(data)] == [3, 3]
    assert not data.mask("val/steel 001.png").any()
    assert "1 images without a text file are clean" in data.describe()
    (tmp_path / "data.yaml").unlink()
    assert dataset.read_dataset(tmp_path).class_names == ("0", "1", "2")
    (tmp_path / "classes.txt").write_text("crack\npit\n")
    with pytest.raises(DataError, match="class 2, but only 2 are named"):
        dataset.read_dataset(tmp_path)


def test_several_kinds_of_labels_are_not_chosen_from(tmp_path):
    masks = drawn(2)
    for writer in ("coco counts", "cvat masks", "palette"):
        publish(tmp_path, masks, writer)
    with pytest.raises(DataError, match=r"several kinds of labels, coco \(annotations.json\), cvat .*, masks .*--form"):
        dataset.read_dataset(tmp_path)
    found = {kind: sources.open_dataset(tmp_path, format=kind, progress=False) for kind in ("coco", "cvat", "masks")}
    assert len({data.fingerprint() for data in found.values()}) == 1
    with pytest.raises(DataError, match="of the kind labelme"):
        dataset.read_dataset(tmp_path, format="labelme")
    with pytest.raises(ValueError, match="format"):
        dataset.read_dataset(tmp_path, format="voc")


def test_names_of_files_do_not_matter(tmp_path):
    publish(tmp_path, masks := drawn(2), "coco counts")
    (tmp_path / "annotations.json").rename(tmp_path / "result (3).json")
    (tmp_path / "notes.json").write_text('{"of": "another kind"}')
    assert len(dataset.read_dataset(tmp_path)) == len(masks)


def test_images_that_no_file_lists_are_no_part(tmp_path):
    publish(tmp_path, drawn(2), "coco counts")
    image(tmp_path / "images" / "other.png", (4, 4))
    data = dataset.read_dataset(tmp_path)
    assert len(data) == 2
    assert "1 image files that no COCO file lists" in data.describe()


def test_images_that_are_not_there(tmp_path):
    for writer in ("coco counts", "cvat masks"):
        folder = publish(tmp_path / writer, drawn(3), writer)
        (folder / "images" / "steel 001.png").unlink()
        with pytest.raises(DataError, match=r"1 images are labelled but missing, steel 001\.png.*--skip-missing"):
            dataset.read_dataset(folder)
        assert len(dataset.read_dataset(folder, skip_missing=True)) == 2
    folder = publish(tmp_path / "labelme", drawn(3), "labelme masks")
    (folder / "steel 001.json").unlink()
    with pytest.raises(DataError, match=r"1 images without a LabelMe file, steel 001\.png"):
        dataset.read_dataset(folder)
    assert len(dataset.read_dataset(folder, skip_missing=True)) == 2


# What cannot be right


CASES = [
    ([], "no segmentation"), (None, "no segmentation"), ([[1, 1, 7, 1]], "4 numbers are not a polygon"),
    ([[1, 1, 7, 1, 7, "x"]], "corners are not numbers"), ([[1, 1, 7, 1, 7, 30]], "22 pixels outside of the image of"),
    ([[1, 1, 7, 1, 7, float("nan")]], "not a finite number"), ([[[1, 1], [7]]], "corners are not numbers"),
    ({"size": [8, 8], "counts": [60]}, "count 60 pixels, the image of 8×8 has 64"),
    ({"size": [8, 8], "counts": [70, -6]}, "not whole numbers"), ({"size": [8, 8], "counts": [32.0, 32]}, "not whole"),
    ({"size": [8, 9], "counts": [72]}, "labelled as 8×9 pixels, the image is"), ({"counts": [64]}, "no field 'size'"),
    ({"size": [8, 8], "counts": "0\x7f"}, "character 2 of its"), ({"size": [8, 8], "counts": "P"}, "truncated"),
    ({"size": [8, 8], "counts": "P20O"}, "not whole numbers"), ({"size": [8, 8]}, "not whole numbers"),
]


@pytest.mark.parametrize(("segmentation", "problem"), CASES)
def test_wrong_segmentations_of_coco(tmp_path, segmentation, problem):
    with pytest.raises(DataError, match=re.escape(problem)) as caught:
        dataset.read_dataset(coco_of(tmp_path, segmentation))
    assert "labels.json, annotation 1" in str(caught.value)


@pytest.mark.parametrize(("changes", "problem"), [
    ({"images": [{"id": 1, "file_name": "b.png"}]}, "none of the 1 labelled images is below"),
    ({"images": {}}, "field 'images'"),
    ({"images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 8}]}, "labelled as 4×8 pixels"),
    ({"images": [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "a.png"}]}, "a second image of id 1"),
    ({"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "a.png"}]}, "listed twice"),
    ({"images": [{"id": 1}]}, "image 1: no field 'file_name'"), ({"images": [7]}, "not an object"),
    ({"categories": []}, "category id 3 is not in the file"), ({"categories": [{"id": 3, "name": " "}]}, "without a"),
    ({"annotations": [{"image_id": 2, "category_id": 3}]}, "image id 2 is not in the file"),
    ({"annotations": [{"image_id": 1}]}, "no field 'category_id'"), ({"annotations": "x"}, "field 'annotations'"),
])
def test_wrong_files_of_coco(tmp_path, changes, problem):
    with pytest.raises(DataError, match=re.escape(problem)):
        dataset.read_dataset(coco_of(tmp_path, RING[:1], **changes))


def labelme_of(folder, shape, **changes):
    image(folder / "a.png", (8, 8))
    document = {"shapes": [{"label": "crack", **shape}], "imagePath": "a.png", "imageHeight": 8, "imageWidth": 8}
    (folder / "a.json").write_text(json.dumps(document | changes))
    return folder


@pytest.mark.parametrize(("shape", "area"), [
    ({"points": [[1, 1], [5, 1], [5, 3], [1, 3]]}, 8), ({"shape_type": "rectangle", "points": [[5, 3], [1, 1]]}, 8),
    ({"shape_type": "circle", "points": [[4, 4], [4, 7]]}, 32), ({"points": [[1, 1], [1.2, 1], [1.2, 1.2]]}, 0),
])
def test_shapes_of_labelme(tmp_path, shape, area):
    data = dataset.read_dataset(labelme_of(tmp_path, shape))
    assert data.mask("a.png").sum() == area
    assert ("cover no pixel's centre" in data.describe()) == (area == 0)


@pytest.mark.parametrize(("shape", "changes", "problem"), [
    ({"shape_type": "line", "points": [[1, 1], [2, 2]]}, {}, "a 'line' has no area"),
    ({"shape_type": "circle", "points": [[1, 1]]}, {}, "a circle has 2 points"), ({}, {}, "no field 'points'"),
    ({"points": [[1, 1], [5, 1], [5, 33]]}, {}, "outside of the image"), ({"points": 3}, {}, "field 'points'"),
    ({"shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": "xx!"}, {}, "not a readable PNG"),
    ({"shape_type": "mask", "points": [[1, 1], [2, 2]]}, {}, "no field 'mask'"),
    ({"points": [[1, 1], [5, 1], [5, 3]]}, {"imageWidth": 9}, "labelled as 8×9"),
    ({"points": [[1, 1], [5, 1], [5, 3]]}, {"imagePath": "b.bmp"}, None),  # the image of the same stem
    ({"points": [[1, 1], [5, 1], [5, 3]]}, {"shapes": [{"points": []}]}, "no field 'label'"),
])
def test_wrong_files_of_labelme(tmp_path, shape, changes, problem):
    folder = labelme_of(tmp_path, shape, **changes)
    if problem is None:
        assert dataset.read_dataset(folder).mask("a.png").any()
        return
    with pytest.raises(DataError, match=re.escape(problem)) as caught:
        dataset.read_dataset(folder)
    assert "a.json" in str(caught.value)


def cvat_of(folder, shape):
    image(folder / "a.png", (8, 8))
    (folder / "annotations.xml").write_text(
        f'<annotations><image id="0" name="a.png" width="8" height="8">{shape}</image></annotations>')
    return folder


@pytest.mark.parametrize(("shape", "area"), [
    ('<polygon label="x" points="1,1;5,1;5,3;1,3"/>', 8), ('<box label="x" xtl="1" ytl="1" xbr="5" ybr="3"/>', 8),
    ('<box label="x" xtl="1" ytl="3" xbr="7" ybr="5" rotation="90"/>', 12), ("", 0),
    ('<ellipse label="x" cx="4" cy="4" rx="3" ry="3"/>', 32), ('<ellipse label="x" cx="4" cy="4" rx="8" ry="8"/>', 64),
    ('<mask label="x" rle="1, 2, 1" left="6" top="7" width="2" height="2"/>', None),
    ('<mask label="x" rle="1, 2, 1" left="6" top="6" width="2" height="2"/>', 2),
    ('<mask label="x" rle="1,2" left="1" top="1" width="2" height="2"/>', None),
    ('<mask label="x" rle="1,-2" left="1" top="1" width="2" height="2"/>', None),
    ('<polyline label="x" points="1,1;2,2"/>', None), ('<polygon label="" points="1,1"/>', None),
    ('<polygon label="x" points="1,1;5,1;5,a"/>', None), ('<polygon label="x" points="1,1;5,1;5,1e99"/>', None),
])
def test_shapes_of_cvat(tmp_path, shape, area):
    folder = cvat_of(tmp_path, shape)
    if area is None:
        with pytest.raises(DataError, match=r"annotations\.xml"):
            dataset.read_dataset(folder)
    else:
        assert dataset.read_dataset(folder).mask("a.png").sum() == area


def test_turned_boxes_of_cvat_turn_clockwise(tmp_path):
    """The corner at the upper left of an upright box goes to the upper right."""
    box = '<box label="x" xtl="0" ytl="3" xbr="8" ybr="5" rotation="45"/>'
    mask = dataset.read_dataset(cvat_of(tmp_path, box)).mask("a.png")
    assert mask[1, 1]
    assert mask[6, 6]
    assert not mask[1, 6]


def test_xml_that_declares_entities_is_refused(tmp_path):
    folder = cvat_of(tmp_path, "")
    text = (folder / "annotations.xml").read_text()
    (folder / "annotations.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]>' + text)
    with pytest.raises(DataError, match="declares a document type"):
        dataset.read_dataset(folder)
    (folder / "annotations.xml").write_text(text.replace("<image", '<track id="0"/><image'))
    with pytest.raises(DataError, match="labels of a video"):
        dataset.read_dataset(folder)
    (folder / "annotations.xml").write_text(text[:-5])
    with pytest.raises(DataError, match="not readable XML"):
        dataset.read_dataset(folder)


@pytest.mark.parametrize(("line", "problem"), [
    ("0 0.5 0.5 0.2 0.2", "a box, not a polygon"), ("0 0.1 0.1 0.5", "3 numbers"), ("x 0 0 1 0 1 1", "class 'x'"),
    ("0 0 0 1 0 1 1.5", "beyond 0 … 1"), ("0 0 0 1 0 1 nan", "beyond 0 … 1"), ("0 0 0 1 0 1 y", "not numbers"),
    ("-1 0 0 1 0 1 1", "class '-1'"), ("99999 0 0 1 0 1 1", "class '99999'"),
])
def test_wrong_lines_of_yolo(tmp_path, line, problem):
    image(tmp_path / "images" / "a.png", (8, 8))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(f"0 0 0 1 0 1 1\n\n{line}\n")
    with pytest.raises(DataError, match=re.escape(problem)) as caught:
        dataset.read_dataset(tmp_path)
    assert "a.txt, line 3" in str(caught.value)


@pytest.mark.parametrize("content", ["names: [a, a]", "names: 3", "names: {1: a}", "[", "names: [[]]", "- x"])
def test_wrong_names_of_yolo(tmp_path, content):
    image(tmp_path / "images" / "a.png", (8, 8))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0 0 1 0 1 1")
    (tmp_path / "data.yaml").write_text(content)
    with pytest.raises(DataError, match=r"data\.yaml"):
        dataset.read_dataset(tmp_path)


def test_what_is_broken_is_named_not_passed_over(tmp_path):
    folder = coco_of(tmp_path, RING[:1])
    (folder / "instances_val.json").write_text('{"images": [')
    with pytest.raises(DataError, match=r"instances_val\.json: not readable JSON"):
        dataset.read_dataset(folder)
    (folder / "labels.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="not readable JSON"):
        dataset.read_dataset(folder)


def test_a_word_for_each_format():
    from steelnb.options import parser

    shown = parser().parse_args(["train", "--run", "x", "--format", "cvat"]).format
    assert shown in layouts.FORMATS
    for kind in layouts.FORMATS:
        assert parser().parse_args(["audit", "--out", "x", "--format", kind]).format == kind


def test_a_stranger_s_export_trains_and_predicts(tmp_path, capsys):
    rng = np.random.default_rng(0)
    masks = {f"{k}.png": {"crack": gaussian_filter(rng.standard_normal((48, 64)), 4) > 0.05} for k in range(5)}
    folder = publish(tmp_path / "export", masks, "coco polygons")
    for name in masks:  # five of one gray would be one image
        Image.fromarray(rng.integers(60, 160, (48, 64)).astype(np.uint8)).save(folder / "images" / name)
    run = str(tmp_path / "run")
    small = ["--recipe", "smoke", "--set", 'model={"width": 2, "depth": 2}', "--set", "crop=[16,16]", "--steps", "2"]
    assert main(["train", "--data", str(folder), "--run", run, *small, "--nested", "hole", "--quiet"]) == 0
    assert "images with class 1 crack: 5" in capsys.readouterr().out
    out = tmp_path / "masks"
    assert main(["predict", "--weights", run, "--out", str(out), str(folder / "images"), "--quiet"]) == 0
    assert len(list(Path(out).glob("*.png"))) == 10


def test_cvat_lists_labels_that_nobody_used(tmp_path):
    masks = {"a.png": {"crack": np.eye(8, dtype=bool), "pit": np.zeros((8, 8), bool)}}
    images(tmp_path, masks)
    cvat(tmp_path, masks, "masks")
    assert dataset.read_dataset(tmp_path).class_names == ("crack", "pit")


def test_how_many_classes_there_may_be():
    assert len(labelled.class_ids(map(str, range(1000)), "x")) == 1000
    for names in (map(str, range(1001)), ()):
        with pytest.raises(DataError, match=r"x: (1001|0) classes, expected 1 to 1000"):
            labelled.class_ids(names, "x")
