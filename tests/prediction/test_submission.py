"""Submissions in Kaggle's form: what is written decodes to what was predicted; what cannot be submitted is refused."""

import csv

import numpy as np
import pandas as pd
import pytest

from steelnb.data import rle
from steelnb.prediction import submission
from steelnb.prediction.submission import (
    SHAPE,
    SUBMISSION_COLUMNS,
    SUBMITTED_CLASSES,
    SubmissionError,
    check_submission,
    mask_digest,
    read_sample,
    write_submission,
)


@pytest.fixture
def predicted():
    rng = np.random.default_rng(0)
    masks = {}
    for image in ("a.jpg", "b_1.jpg"):
        for class_id in SUBMITTED_CLASSES:
            mask = np.zeros(SHAPE, bool)
            if class_id != 2:
                top, left = rng.integers(0, 200), rng.integers(0, 1500)
                mask[top : top + 40, left : left + 90] = True
            masks[image, class_id] = mask
    masks["b_1.jpg", 4] = rng.random(SHAPE) < 0.5  # its text is longer than the csv module likes
    return masks


def rows(masks):
    return [(image, class_id, rle.encode(mask)) for (image, class_id), mask in masks.items()]


def digests(masks):
    return {pair: mask_digest(mask) for pair, mask in masks.items()}


@pytest.mark.parametrize("columns", ["2019", "now", ("ClassId", "ImageId", "EncodedPixels")])
def test_written_files_hold_the_masks(columns, predicted, tmp_path):
    path = tmp_path / "submission.csv"
    write_submission(path, rows(predicted), columns, digests(predicted))
    table = pd.read_csv(path, keep_default_na=False)
    assert tuple(table.columns) == SUBMISSION_COLUMNS.get(columns, columns)
    assert len(table) == 8
    if "ImageId_ClassId" in table:
        pairs = [(name[:-2], int(name[-1])) for name in table["ImageId_ClassId"]]
    else:
        pairs = list(zip(table["ImageId"], table["ClassId"], strict=True))
    assert pairs == list(predicted)
    for pair, text in zip(pairs, table["EncodedPixels"], strict=True):
        assert np.array_equal(rle.decode(text, SHAPE), predicted[pair])
    assert (table["EncodedPixels"] == "").sum() == 2
    assert csv.field_size_limit() == 131072  # as it was
    assert [p.name for p in tmp_path.iterdir()] == ["submission.csv"]


def swapped(masks):  # the order of the classes
    return [(image, 5 - class_id, text) for image, class_id, text in rows(masks)]


WRONG = {
    "class [14]: differs from the predicted mask": swapped,
    r"no row for b_1\.jpg, class 4": lambda masks: rows(masks)[:-1],
    r"image a\.jpg, class 1: listed twice": lambda masks: [*rows(masks), rows(masks)[0]],
    r"image c\.jpg, class 1: not in the prediction": lambda masks: [*rows(masks), ("c.jpg", 1, "")],
    "class 1: the last run ends at pixel 409601": lambda masks: [("a.jpg", 1, "409600 2"), *rows(masks)[1:]],
    "class 2: differs from the predicted mask": lambda masks: [rows(masks)[0], ("a.jpg", 2, "1 1"), *rows(masks)[2:]],
}


@pytest.mark.parametrize("reason", WRONG)
@pytest.mark.parametrize("form", SUBMISSION_COLUMNS)
def test_what_is_not_what_was_predicted_is_no_submission(reason, form, predicted, tmp_path):
    with pytest.raises(ValueError, match=reason):
        write_submission(tmp_path / "submission.csv", WRONG[reason](predicted), form, digests(predicted))
    assert not list(tmp_path.iterdir())


def test_all_four_classes_of_an_image_are_needed(predicted, tmp_path):
    del predicted["a.jpg", 3]
    with pytest.raises(SubmissionError, match=r"no row for a\.jpg, class 3"):
        write_submission(tmp_path / "s.csv", rows(predicted), "now", digests(predicted))


@pytest.mark.parametrize(
    ("text", "reason"),
    [("ImageId,ClassId\na.jpg,1\n", r"line|columns are 'ImageId,ClassId'"), ("", "columns are ''"),
     ("ImageId,EncodedPixels,ClassId\na.jpg,1 2\n", "line 2: not ImageId"),
     ("ImageId_ClassId,EncodedPixels\na.jpg,\n", "line 2: not ImageId_ClassId"),
     ("ImageId,EncodedPixels,ClassId\na.jpg,,x\n", "not in the prediction")],
)
def test_tables_of_another_form(text, reason, predicted, tmp_path):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(SubmissionError, match=rf"s\.csv.*({reason})"):
        check_submission(tmp_path / "s.csv", digests(predicted))


def test_samples(tmp_path):
    path = tmp_path / "sample_submission.csv"
    path.write_text("\ufeffImageId,EncodedPixels,ClassId\nb.jpg,1 409600,0\na.jpg,1 409600,\n", encoding="utf-8")
    assert read_sample(path) == (SUBMISSION_COLUMNS["now"], ["b.jpg", "a.jpg"])
    path.write_text("ImageId_ClassId,EncodedPixels\na_b.jpg_1,1 1\na_b.jpg_2,\n")
    assert read_sample(path) == (SUBMISSION_COLUMNS["2019"], ["a_b.jpg"])
    path.write_text("ImageId_ClassId,EncodedPixels\n")
    with pytest.raises(SubmissionError, match="without a row"):
        read_sample(path)
    with pytest.raises(SubmissionError, match=r"gone\.csv: No such file"):
        read_sample(tmp_path / "gone.csv")


def test_networks_images_and_names_that_cannot_be_submitted(tmp_path):
    with pytest.raises(SubmissionError, match=r"one mask for all defects.*--per-class"):
        submission.check_network((None,))
    with pytest.raises(SubmissionError, match="classes are 1, 2, 3;"):
        submission.check_network((1, 2, 3))
    submission.check_network([1, 2, 3, 4])
    with pytest.raises(SubmissionError, match=r"256×1600: b\.jpg \(200×200\) cannot"):
        submission.check_sizes({tmp_path / "a": SHAPE, "b.jpg": (200, 200)})
    with pytest.raises(SubmissionError, match=r"missing here: b\.jpg, c\.jpg$"):
        submission.check_names(["a.jpg"], ["c.jpg", "a.jpg", "b.jpg"])
    with pytest.raises(SubmissionError, match=r"does not list: b\.jpg; leave"):
        submission.check_names(["a.jpg", "b.jpg"], ["a.jpg"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe\x00", r"sample\.csv: not a readable table \('utf-8' codec"),
        (b"ImageId,ImageId,EncodedPixels,ClassId\na.jpg,a.jpg,,1\n", r"sample\.csv: the columns are"),
    ],
)
def test_samples_that_are_none(tmp_path, content, reason):
    (tmp_path / "sample.csv").write_bytes(content)
    with pytest.raises(SubmissionError, match=reason):
        read_sample(tmp_path / "sample.csv")
