"""Images of the same steel: every planted copy is found in each of 8 ways, different steel is not, groups follow."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from steelnb.audit import duplicates
from steelnb.audit.duplicates import SYMMETRIES, DuplicateFinder, Pair
from steelnb.data import dataset, splits, synthetic_drawing

REAL = Path(__file__).parents[3] / "shared" / "data"
# By NumPy's own words, not by the module's: what turns the copy back.
UNDO = {
    "same way up": lambda x: x,
    "mirrored top-bottom": np.flipud,
    "mirrored left-right": np.fliplr,
    "turned by 180°": lambda x: np.rot90(x, 2),
    "mirrored at the diagonal": np.transpose,
    "turned left by 90°": np.rot90,
    "turned right by 90°": lambda x: np.rot90(x, -1),
    "mirrored at the other diagonal": lambda x: np.rot90(x, 2).T,
}
INVERSE = {"turned left by 90°": "turned right by 90°", "turned right by 90°": "turned left by 90°"}


def jpeg(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer))


def scaled(image, gain, offset=0.0):
    return np.clip(image * gain + offset, 0, 255).astype(np.uint8)


CHANGES = {
    "none": lambda x: x,
    "jpeg 50": lambda x: jpeg(x, 50),
    "brighter": lambda x: scaled(x, 1.1),
    "darker": lambda x: scaled(x, 0.9),
    "contrast": lambda x: scaled(x, 1.1, -0.1 * x.mean()),
    "noise": lambda x: scaled(x + np.random.default_rng(0).normal(0, 3, x.shape), 1),
    "shifted": lambda x: np.pad(x, 2, mode="edge")[: x.shape[0], : x.shape[1]],
    "smaller": lambda x: np.array(Image.fromarray(x).resize((x.shape[1] * 4 // 5, x.shape[0] * 4 // 5))),
}


@pytest.fixture(scope="module")
def steel():
    """Different steel: 24 synthetic images of 256×800."""
    return {f"{i:02}": synthetic_drawing.draw(11, i, (256, 800))[0] for i in range(24)}


def found(images):
    finder = DuplicateFinder()
    for image_id, image in images.items():
        finder.add(image_id, image)
    return finder.pairs(images.__getitem__)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 24), st.integers(1, 24), st.sampled_from(SYMMETRIES),
       st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_a_thumbnail_turns_as_its_image_does(height, width, rows, columns, symmetry, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    turned = duplicates.turned(image, symmetry)
    assert (turned == UNDO[symmetry](image)).all()
    if turned.shape != image.shape or symmetry in SYMMETRIES[4:]:
        rows, columns = columns, rows
    small = duplicates.thumbnail(turned, rows, columns)
    rows, columns = (columns, rows) if symmetry in SYMMETRIES[4:] else (rows, columns)
    expected = UNDO[symmetry](duplicates.thumbnail(image, rows, columns))
    np.testing.assert_allclose(small, expected, atol=1e-3)
    np.testing.assert_allclose(small.mean(), image.mean(), atol=1e-2)


@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_a_texture_turns_as_its_image_does(steel, symmetry):
    image = steel["03"]
    texture = duplicates.texture(duplicates.thumbnail(image, 32, 32))
    turned = duplicates.texture(duplicates.thumbnail(UNDO[symmetry](image), 32, 32))
    np.testing.assert_allclose(turned, UNDO[symmetry](texture), atol=1e-3)
    assert abs(texture).max() > 0.5


def test_a_thumbnail_is_the_mean_of_blocks():
    image = np.arange(24 * 40).reshape(24, 40).astype(np.uint8)
    blocks = image.reshape(6, 4, 8, 5).mean((1, 3))
    np.testing.assert_allclose(duplicates.thumbnail(image, 6, 8), blocks, rtol=1e-5)


@pytest.mark.parametrize("change", CHANGES)
def test_every_planted_copy_is_found_and_nothing_else(steel, change):
    planted = {}
    for symmetry, image_id in zip(SYMMETRIES, steel, strict=False):  # one way each
        copy = CHANGES[change](np.ascontiguousarray(UNDO[INVERSE.get(symmetry, symmetry)](steel[image_id])))
        planted[f"{image_id} copied"] = copy
    pairs = found(steel | planted)
    assert {p[:3] for p in pairs} == {(i[:2], i, s) for s, i in zip(SYMMETRIES, planted, strict=True)}
    for pair in pairs:
        assert pair.identical == (change == "none")
        assert pair.similarity > (0.99 if change == "none" else duplicates.SAME)
        if change == "none":
            assert (UNDO[pair.symmetry](planted[pair.b]) == steel[pair.a]).all()


@pytest.mark.parametrize("change", CHANGES)
def test_light_alone_makes_no_pair(steel, change):
    """Different steel under the same gradient, and beside the same black band."""
    shade = np.linspace(0.4, 1.2, 800)
    lit = {i: scaled(image, shade) for i, image in steel.items()}
    dark = {f"{i} dark": np.where(np.arange(800) < 400, 0, image).astype(np.uint8) for i, image in steel.items()}
    pairs = found({i: CHANGES[change](image) for i, image in lit.items()})
    assert pairs == []
    assert found(dark) == []


def test_streaks_in_the_same_places_make_no_pair(steel):
    streaks = 60 * np.isin(np.arange(800) // 8, [9, 44, 83])
    images = {i: scaled(image, 1, streaks) for i, image in steel.items()}
    finder = DuplicateFinder()
    for image_id, image in images.items():
        finder.add(image_id, image)
    assert len(list(finder._candidates(False))) > 5  # the first stage alone would take them for copies
    assert finder.pairs(images.__getitem__) == []


def test_what_is_unlit_has_no_texture(steel):
    dark = np.where(np.arange(800) < 400, steel["03"] // 40, steel["03"]).astype(np.uint8)
    texture = duplicates.texture(duplicates.thumbnail(dark, 32, 32))
    assert (texture[:, :17] == 0).all()  # with the band's edge
    assert (texture[:, 17:] != 0).mean() > 0.9
    assert not duplicates.texture(duplicates.thumbnail(steel["03"] // 40, 32, 32)).any()


def test_images_without_texture_are_pairs_only_where_equal():
    flat = {"a": 0, "b": 0, "c": 3, "d": 90, "e": 90, "f": 91, "g": 0}
    images = {i: np.full((64, 64), value, np.uint8) for i, value in flat.items()}
    images["h"] = np.zeros((64, 32), np.uint8)
    images["i"] = np.full((2, 3), 50, np.uint8)
    assert {p[:2] for p in found(images)} == {("a", "b"), ("b", "g"), ("d", "e")}
    assert all(p.identical and p.similarity == 1 for p in found(images))
    assert found({}) == []


def test_one_pixel_is_enough_not_to_be_identical(steel):
    changed = np.fliplr(steel["02"]).copy()
    changed[100, 100] ^= 1
    (pair,) = found({"a": steel["02"], "b": changed})
    assert pair.symmetry == "mirrored left-right"
    assert not pair.identical


def test_blocks_make_no_difference(steel, monkeypatch):
    images = steel | {"copy": np.flipud(steel["20"]), "other": np.fliplr(steel["01"])}
    whole = found(images)
    monkeypatch.setattr(duplicates, "COMPARED_AT_ONCE", 5)
    assert found(images) == whole
    assert {p[:2] for p in whole} == {("20", "copy"), ("01", "other")}


def test_a_squeezed_image_is_no_copy(steel):
    squeezed = np.array(Image.fromarray(steel["04"]).resize((256, 256)))
    assert found({"a": steel["04"], "b": squeezed}) == []


def test_proportions_that_differ_by_a_tenth_are_of_different_steel(steel):
    """A strip that the camera saw at another speed is stretched, and would lie on none of its defects."""
    image = steel["04"]
    for width, pairs in ((760, 1), (840, 1), (720, 0), (890, 0)):
        other = np.array(Image.fromarray(image).resize((width, 256)))
        assert len(found({"a": image, "b": other})) == pairs, width
        assert len(found({"a": image, "b": np.rot90(other)})) == pairs, width


def test_pixels_are_read_again_only_for_what_may_be_equal(steel):
    images = {"a": steel["04"], "b": np.fliplr(jpeg(steel["04"], 50)), "c": np.fliplr(steel["04"])}
    finder, asked = DuplicateFinder(), []
    for image_id, image in images.items():
        finder.add(image_id, image)
    told = {pair[:2]: pair for pair in finder.pairs(lambda image_id: (asked.append(image_id), images[image_id])[1])}
    assert told["a", "b"].similarity < 0.99
    assert [told[key].identical for key in (("a", "b"), ("a", "c"), ("b", "c"))] == [False, True, False]
    assert sorted(asked) == ["a", "c"]


def test_turned_knows_its_words():
    masks = np.arange(12).reshape(1, 3, 4)
    assert (duplicates.turned(masks, "turned left by 90°")[0] == np.rot90(masks[0])).all()
    with pytest.raises(ValueError, match="upside down"):
        duplicates.turned(masks, "upside down")


def test_groups_are_joined_over_others():
    def pair(a, b):
        return Pair(a, b, SYMMETRIES[0], 0.9, False)

    groups = duplicates.group_duplicates([pair("c", "b"), pair("e", "c"), pair("f", "d")], "gfedcba")
    assert groups == {"a": "a", "b": "b", "c": "b", "d": "d", "e": "b", "f": "d", "g": "g"}
    assert duplicates.group_duplicates([], "ab") == {"a": "a", "b": "b"}
    assert duplicates.group_duplicates([], []) == {}
    with pytest.raises(ValueError, match="'z'"):
        duplicates.group_duplicates([pair("a", "z")], "ab")
    pairs = [pair("a", "b"), pair("c", "a")]
    assert duplicates.across(pairs, ("a", "b")) == pairs[:1]
    assert duplicates.across(pairs, ("ca", "b")) == pairs[:1]


@pytest.mark.skipif(not (REAL / "sd_saliency_900").is_dir(), reason="no SD-saliency-900 here")
def test_real_strip_images():
    """Five pairs, each looked at: the same pixels, another exposure, a turned shot."""
    real = dataset.read_dataset(REAL / "sd_saliency_900")
    pairs = duplicates.find_duplicates(real)
    assert {(p.a, p.b, p.symmetry) for p in pairs} == {
        ("Pa_101.bmp", "Pa_105.bmp", "same way up"), ("In_125.bmp", "In_88.bmp", "same way up"),
        ("Sc_232.bmp", "Sc_247.bmp", "turned left by 90°"), ("In_188.bmp", "In_210.bmp", "same way up"),
        ("In_235.bmp", "In_245.bmp", "same way up")}
    assert [p.identical for p in pairs] == [True, *[False] * 4]
    groups = duplicates.group_duplicates(pairs, real.images["ImageId"])
    assert len(set(groups.values())) == 895
    assert splits.leaks(real, splits.by_image(real), groups)
    assert not splits.leaks(real, splits.by_image(real.with_groups(groups)), groups)


@pytest.mark.skipif(not (REAL / "severstal").is_dir(), reason="no real Severstal images here")
def test_real_severstal_and_its_copies():
    real = dataset.read_dataset(REAL / "severstal")
    assert duplicates.find_duplicates(real) == []
    finder, pixels = DuplicateFinder(), {}
    for k, image_id in enumerate(real.images["ImageId"]):
        image = real.image(image_id)
        copy = jpeg(UNDO[SYMMETRIES[k % 8]](image), 60)
        pixels |= {image_id: image, f"{image_id} copied": copy}
    for image_id, image in pixels.items():
        finder.add(image_id, image)
    assert {p[:2] for p in finder.pairs(pixels.get)} == {(i, f"{i} copied") for i in real.images["ImageId"]}
