"""Run-length text: exact on every real label, equal to a pixel loop and to Kaggle's, and no bad text becomes a mask."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from steelnb.data import rle
from steelnb.data.rle import RLEError

REAL = Path(__file__).parents[3] / "shared" / "data" / "severstal_labels" / "train_partial.csv"
MASKS = npst.arrays(bool, npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=25))
fixed = settings(deadline=None, derandomize=True, max_examples=150)


def encode_by_pixel(mask):
    """One pixel after the other, down the columns."""
    pixels = [bool(mask[y, x]) for x in range(mask.shape[1]) for y in range(mask.shape[0])]
    out, start = [], None
    for place, inside in enumerate([*pixels, False], 1):
        if inside and start is None:
            start = place
        elif not inside and start is not None:
            out += [start, place - start]
            start = None
    return " ".join(map(str, out))


def decode_as_on_kaggle(text, shape):
    """The function that most kernels of the competition share."""
    numbers = text.split()
    starts, lengths = (np.asarray(x, dtype=int) for x in (numbers[0:][::2], numbers[1:][::2]))
    starts -= 1
    img = np.zeros(shape[0] * shape[1], dtype=np.uint8)
    for lo, hi in zip(starts, starts + lengths, strict=True):
        img[lo:hi] = 1
    return img.reshape(shape[1], shape[0]).T


# Pixels are counted        1  4  7  10
# down the columns:         2  5  8  11
#                           3  6  9  12
BY_HAND = np.array([[0, 0, 1, 0],
                    [1, 0, 1, 0],
                    [1, 1, 0, 1]], bool)


def test_by_hand():
    assert rle.encode(BY_HAND) == "2 2 6 3 12 1"
    assert np.array_equal(rle.decode("2 2 6 3 12 1", (3, 4)), BY_HAND)
    assert rle.area("2 2 6 3 12 1") == 6
    starts, lengths = rle.runs("2 2 6 3 12 1", 12)
    assert (starts.tolist(), lengths.tolist()) == ([1, 5, 11], [2, 3, 1])
    assert starts.dtype == lengths.dtype == np.int64


@pytest.mark.skipif(not REAL.is_file(), reason="no real Severstal labels here")
def test_every_real_label_survives():
    rows = pd.read_csv(REAL)
    assert len(rows) == 4130
    for name, text in zip(rows["ImageId"], rows["EncodedPixels"], strict=True):
        mask = rle.decode(text, row=name)
        assert mask.shape == (256, 1600)
        assert rle.encode(mask) == text
        assert rle.area(text) == np.count_nonzero(mask) == sum(map(int, text.split()[1::2]))


@pytest.mark.skipif(not REAL.is_file(), reason="no real Severstal labels here")
def test_real_labels_as_on_kaggle():
    for text in pd.read_csv(REAL)["EncodedPixels"][::40]:
        assert np.array_equal(rle.decode(text), decode_as_on_kaggle(text, (256, 1600)))


@given(MASKS)
@fixed
def test_there_and_back(mask):
    text = rle.encode(mask)
    back = rle.decode(text, mask.shape)
    assert back.dtype == bool
    assert np.array_equal(back, mask)
    assert text == encode_by_pixel(mask)
    assert np.array_equal(back, decode_as_on_kaggle(text, mask.shape))
    assert rle.area(text) == mask.sum()


@given(MASKS, st.sampled_from([np.uint8, np.int64, np.float32, np.float64]), st.sampled_from("CF"), st.booleans())
@fixed
def test_encode_takes_any_dtype_and_memory_layout(mask, dtype, order, flipped):
    other = mask.astype(dtype, order=order)
    if flipped:
        other = np.flip(np.flip(other).copy(order=order))
    assert rle.encode(other) == rle.encode(mask)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), max_size=12), st.integers(1, 9))
@fixed
def test_runs_that_touch_are_accepted_and_come_back_as_one(steps, height):
    numbers, place = [], 1
    for gap, length in steps:  # a gap of 0: two runs that touch
        numbers += [place + gap, length]
        place += gap + length
    shape, text = (height, -(-place // height)), " ".join(map(str, numbers))
    mask = rle.decode(text, shape)
    assert np.array_equal(mask, decode_as_on_kaggle(text, shape))
    assert mask.sum() == rle.area(text) == sum(length for _, length in steps)
    assert np.array_equal(rle.decode(rle.encode(mask), shape), mask)


def test_touching_by_hand():
    assert rle.encode(rle.decode("1 3 4 2", (3, 4))) == "1 5"
    assert rle.encode(rle.decode("3 1 4 1", (3, 4))) == "3 2"  # across two columns


@pytest.mark.parametrize("nothing", ["", None, float("nan"), np.float64("nan")])
def test_empty_cells_are_empty_masks(nothing):
    mask = rle.decode(nothing, (3, 4))
    assert mask.shape == (3, 4)
    assert mask.dtype == bool
    assert not mask.any()
    assert rle.area(nothing) == 0


def test_empty_and_full():
    assert rle.encode(np.zeros((3, 4), bool)) == rle.encode(np.zeros((0, 5), bool)) == ""
    assert rle.encode(np.ones((3, 4), bool)) == "1 12"
    assert rle.decode("1 12", (3, 4)).all()
    assert rle.decode("1 409600").all()  # a Severstal image, the default
    assert np.argwhere(rle.decode("257 1")).tolist() == [[0, 1]]  # pixel 257 is the top of the second column


def test_decoded_masks_are_column_major_and_writable():
    mask = rle.decode("2 2", (3, 4))
    assert mask.flags.f_contiguous
    mask[0, 0] = True
    assert rle.encode(mask) == "1 3"


@pytest.mark.parametrize("text", ["  2   2 6 3  12 1 ", "2 2\n6 3\t12 1\n", "02 2 6 003 12 1"])
def test_space_and_zeros_in_front_do_not_matter(text):
    assert np.array_equal(rle.decode(text, (3, 4)), BY_HAND)


BAD = {
    "1 3 7": r"3 numbers, an odd count: they must be pairs of start and length",
    "5": r"1 numbers, an odd count",
    "one two": r"'one' is not a positive whole number",
    "1 3 x 2": r"'x' is not a positive whole number",
    "1,3": r"'1,3' is not",
    "1 3;": r"'3;' is not",
    "nan": r"'nan' is not",
    "   ": r"is not a positive whole number",
    "1.0 3": r"'1\.0' is not",
    "1 3.5": r"'3\.5' is not",
    "1e1 3": r"'1e1' is not",
    "1_0 2": r"'1_0' is not",
    "-3 4": r"'-3' is not a positive whole number",
    "3 -4": r"'-4' is not",
    "+3 4": r"'\+3' is not",
    "0x3 4": r"'0x3' is not",
    "٣ 4": r"'٣' is not",
    "1² 4": r"'1²' is not",
    "１ ３": r"'１' is not",  # full width
    "0 3": r"a start of 0: pixels are counted from 1",
    "1 2 0 3": r"a start of 0",
    "1 0": r"a run of length 0",
    "1 2 5 0": r"a run of length 0",
    "11 3": r"the last run ends at pixel 13, past the image of 12 pixels",
    "13 1": r"ends at pixel 13, past",
    "1 13": r"ends at pixel 13, past",
    "1 3 3 2": r"run 2 \(start 3\) overlaps the run before it",
    "1 9 4 1": r"run 2 \(start 4\) overlaps",
    "1 2 1 2": r"run 2 \(start 1\) overlaps",
    "1 1 7 2 4 2": r"run 3 \(start 4\) is not sorted: it starts before the run before it",
    "9 2 1 2": r"run 2 \(start 1\) is not sorted",
    "1 " + "9" * 18: r"past the image of 12 pixels",
    "1 9223372036854775808": r"a number of 19 digits runs past the image of 12 pixels",
    "18446744073709551617 1": r"a number of 20 digits runs past",  # 2^64 + 1: it would wrap around to 1
    "1 " + "9" * 400: r"a number of 400 digits runs past",
}


@pytest.mark.parametrize(("text", "reason"), BAD.items(), ids=lambda x: x[:12].encode("unicode_escape").decode())
def test_refuses_naming_row_and_reason(text, reason):
    with pytest.raises(RLEError, match=rf"^a1\.jpg, class 3: .*{reason}"):
        rle.decode(text, (3, 4), row="a1.jpg, class 3")
    with pytest.raises(RLEError, match=f"^run-length text: .*{reason}"):
        rle.decode(text, (3, 4))


@pytest.mark.parametrize("separator", ["\u00a0", "\u2003", "\u0085", "\x1c", "\x1f"])
def test_rare_white_space_is_space_or_refused(separator):
    text = "2 2 6 3 12 1".replace(" 6", f"{separator}6")
    try:
        mask = rle.decode(text, (3, 4), row="a1.jpg")
    except RLEError as error:
        assert str(error).startswith("a1.jpg")  # noqa: PT017 - either is right, a mask with half the runs is not
    else:
        assert np.array_equal(mask, BY_HAND)


@pytest.mark.parametrize("value", [7, 0, 3.5, b"1 3", True, ["1", "3"]])
def test_refuses_what_is_not_text(value):
    with pytest.raises(RLEError, match=rf"^a1\.jpg: expected text, got {type(value).__name__}"):
        rle.decode(value, (3, 4), row="a1.jpg")
    with pytest.raises(RLEError, match="expected text"):
        rle.area(value)


def test_area_refuses_too():
    with pytest.raises(RLEError, match="odd count"):
        rle.area("1 3 7")
    with pytest.raises(RLEError, match="overlaps"):
        rle.area("1 3 3 2")


@pytest.mark.parametrize("shape", [(), (12,), (1, 3, 4), (3, 4, 1)])
def test_encode_wants_two_axes(shape):
    with pytest.raises(RLEError, match=r"two axes \[H, W\], got shape \("):
        rle.encode(np.zeros(shape, bool))


@pytest.mark.parametrize("value", [255, 2, -1, 0.5, float("nan"), float("inf")])
def test_encode_refuses_values_besides_0_and_1(value):
    mask = np.zeros((3, 4), float if isinstance(value, float) else np.int16)
    mask[1, 2] = value
    with pytest.raises(RLEError, match=r"0 and 1 only.* compare first"):
        rle.encode(mask)


def test_encode_leaves_the_mask_alone():
    mask = BY_HAND.copy()
    mask.setflags(write=False)
    assert rle.encode(mask) == "2 2 6 3 12 1"
    assert np.array_equal(mask, BY_HAND)


@given(MASKS, st.lists(st.integers(1, 9), min_size=1, max_size=9))
@fixed
def test_columns_that_come_in_blocks_give_the_text_of_the_whole(mask, widths):
    encoder, text, left = rle.Encoder(), "", 0
    while left < mask.shape[1]:
        width = widths[left % len(widths)]
        text += encoder.add(mask[:, left : left + width])
        left += width
    assert text + encoder.finish() == encode_by_pixel(mask)


def test_a_run_over_the_seam_by_hand():
    encoder = rle.Encoder()
    assert encoder.add(BY_HAND[:, :1]) == ""  # it may go on
    assert encoder.add(np.zeros((3, 1), bool)) == "2 2"
    assert encoder.add(BY_HAND[:, :1]) == ""
    assert encoder.add(np.ones((3, 2), np.uint8)) == ""
    assert encoder.finish() == " 8 8"
    assert rle.Encoder().finish() == ""


def test_blocks_are_checked_like_masks():
    encoder = rle.Encoder()
    encoder.add(BY_HAND)
    with pytest.raises(RLEError, match="columns of 4 pixels after columns of 3"):
        encoder.add(np.zeros((4, 1), bool))
    with pytest.raises(RLEError, match="0 and 1 only"):
        encoder.add(255 * BY_HAND.astype(np.uint8))
