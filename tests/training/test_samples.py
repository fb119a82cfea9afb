"""Training samples: the window a network needs, the mask it is scored on, and chance that can be repeated."""

import hashlib
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from steelnb.data import dataset, rle
from steelnb.data.image_cache import ImageCache
from steelnb.data.images import DataError
from steelnb.network import geometry, tiles
from steelnb.network.geometry import Grid
from steelnb.training.samples import Item, Samples


@pytest.fixture
def cache(steel):
    return ImageCache(steel)


def whole(data, cache, **options):
    return Samples(data, cache, [Item(i) for i in data.images["ImageId"]], depth=2, **options)


def test_cache_holds_what_the_files_hold(steel, cache):
    for image_id in steel.images["ImageId"]:
        assert np.array_equal(cache[image_id], steel.image(image_id))


def test_cache_is_made_once_and_again_when_a_file_changes(steel_folder, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(steel_folder, folder)
    first = ImageCache(dataset.read_dataset(folder))
    monkeypatch.setattr(ImageCache, "_write", lambda *_: pytest.fail("decoded twice"))
    assert ImageCache(dataset.read_dataset(folder)).path == first.path
    monkeypatch.undo()
    (folder / "train_images" / sorted(p.name for p in (folder / "train_images").iterdir())[0]).touch()
    assert ImageCache(dataset.read_dataset(folder), tmp_path / "other").path.name != first.path.name


def test_two_folders_alike_but_for_pixels_have_two_caches(tmp_path):
    for name, value in (("a", 40), ("b", 200)):
        for part, gray in (("images", value), ("masks", 255)):
            (tmp_path / name / part).mkdir(parents=True)
            Image.new("L", (32, 32), gray).save(tmp_path / name / part / "x.bmp")
            os.utime(tmp_path / name / part / "x.bmp", (1e9, 1e9))
    a, b = (ImageCache(dataset.read_dataset(tmp_path / name)) for name in "ab")
    assert (a["x.bmp"] == 40).all()
    assert (b["x.bmp"] == 200).all()


def test_a_damaged_image_leaves_no_cache_behind(steel_folder, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(steel_folder, folder)
    path = sorted((folder / "train_images").iterdir())[5]
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=path.name):
        ImageCache(dataset.read_dataset(folder), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_whole_image_window_is_the_mirrored_image(steel, cache):
    every = whole(steel, cache)
    window, mask = every[0]
    image = steel.image(every.items[0].image_id)
    margin = geometry.margin(2)
    expected = np.pad(image, margin, mode="symmetric")
    assert window.dtype == mask.dtype == torch.uint8
    assert window.shape[1:] == (geometry.input_size(64, 2), geometry.input_size(200, 2))
    assert np.array_equal(window[0, : expected.shape[0], : expected.shape[1]], expected)
    assert np.array_equal(mask[0], steel.mask(every.items[0].image_id))


def test_crop_is_a_part_of_image_and_mask_with_true_surroundings(steel, cache):
    crops = whole(steel, cache, crop=(32, 64))
    margin = geometry.margin(2)
    for index in range(len(crops)):
        window, mask = crops[index]
        image, full = (f(crops.items[index].image_id) for f in (steel.image, steel.mask))
        padded = np.pad(image, 60, mode="symmetric")
        core = window[0, : 32 + 2 * margin, : 64 + 2 * margin].numpy()
        places = [
            (top, left) for top in range(33) for left in range(137)
            if np.array_equal(padded[60 - margin + top :, 60 - margin + left :][: core.shape[0], : core.shape[1]], core)
        ]
        assert any(np.array_equal(full[top : top + 32, left : left + 64], mask[0]) for top, left in places)


def test_chance_follows_from_seed_epoch_and_index_alone(steel, cache):
    options = dict(crop=(32, 64), flips=True, on_defect=0.5)
    one, other = whole(steel, cache, seed=1, **options), whole(steel, cache, seed=1, **options)
    one.set_epoch(3)
    other.set_epoch(3)
    _ = one[0], one[5]  # asking in another order changes nothing
    assert all(torch.equal(a, b) for a, b in zip(one[7], other[7], strict=True))
    other.set_epoch(4)
    assert not all(torch.equal(one[i][0], other[i][0]) for i in range(8))
    third = whole(steel, cache, seed=2, **options)
    third.set_epoch(3)
    assert not all(torch.equal(one[i][0], third[i][0]) for i in range(8))


def test_flips_move_image_and_mask_together(steel, cache):
    plain, flipped = whole(steel, cache), whole(steel, cache, flips=True)
    margin, seen = geometry.margin(2), set()
    inner = (slice(margin, margin + 64), slice(margin, margin + 200))
    for epoch in range(6):
        flipped.set_epoch(epoch)
        for index in range(4):
            (a, mask_a), (b, mask_b) = plain[index], flipped[index]
            turns = [
                axes for axes in ((), (0,), (1,), (0, 1))
                if torch.equal(torch.flip(a[0][inner], axes), b[0][inner])
                and torch.equal(torch.flip(mask_a[0], axes), mask_b[0])
            ]
            assert turns
            seen.update(turns)
    assert len(seen) == 4


def test_crops_on_defect_find_defects_more_often(steel, cache):
    def share(on_defect):
        crops = whole(steel, cache, crop=(16, 16), on_defect=on_defect)
        hits = []
        for epoch in range(20):
            crops.set_epoch(epoch)
            hits += [crops[i][1].any().item() for i in range(len(crops)) if steel.mask(crops.items[i].image_id).any()]
        return np.mean(hits)

    assert share(1.0) == 1.0
    assert share(0.0) < 0.8


def test_crop_larger_than_the_images_is_cut_to_them(steel, cache):
    window, mask = whole(steel, cache, crop=(128, 128))[0]
    assert mask.shape[1:] == (64, 128)
    assert window.shape[1:] == (geometry.input_size(64, 2), geometry.input_size(128, 2))


def test_original_geometry(steel, cache):
    window, mask = Samples(steel, cache, [Item(steel.images["ImageId"][0])], geometry="original")[0]
    assert window.shape == (1, 64 + 174, 200 + 180)
    assert mask.shape[1:] == (geometry.output_size(238), geometry.output_size(380))


def test_original_crop_is_the_centre_of_a_severstal_mask():
    mask = np.zeros((1, 256, 1600), bool)
    mask[:, 6:250, 6:1594] = True
    assert tiles.original_crop(mask).shape == (1, 244, 1588)
    assert tiles.original_crop(mask).all()


def test_a_padded_network_gets_its_crop_and_smaller_images_are_mirrored_with_their_masks(steel, cache):
    item = Item(steel.rows.iloc[0]["ImageId"])
    window, mask = Samples(steel, cache, [item], depth=Grid(0, 16), crop=(96, 256))[0]
    image, truth = steel.image(item.image_id), steel.mask(item.image_id)
    assert window.shape == mask.shape == (1, 96, 256)
    assert np.array_equal(window[0], np.pad(image, ((0, 32), (0, 56)), mode="symmetric"))
    assert np.array_equal(mask[0], np.pad(truth, ((0, 32), (0, 56)), mode="symmetric"))


def test_a_padded_networks_window_ends_on_its_grid(steel, cache):
    samples = Samples(steel, cache, [Item(i) for i in steel.images["ImageId"]], depth=Grid(0, 16), crop=(40, 50))
    for window, mask in samples:
        assert window.shape == (1, 48, 64)
        assert mask.shape == (1, 40, 50)


def test_light_changes_gray_values_by_one_line(steel, cache):
    """So much that steel is told apart, and the mask not at all; as large as asked for, and others each time."""
    items = [Item(i) for i in steel.images["ImageId"]]
    plain, lit = (Samples(steel, cache, items, depth=2, crop=(32, 64), brightness=b, seed=5) for b in (0.0, 0.3))
    lines = []
    for index in range(len(items)):
        (before, mask), (after, same) = plain[index], lit[index]
        assert torch.equal(mask, same)
        inside = (after > 0) & (after < 255)
        gain, shift = np.polyfit(before[inside].numpy(), after[inside].numpy(), 1)
        assert abs((gain * before[inside] + shift - after[inside]).abs().max()) < 1
        lines.append((gain, shift))
    assert max(abs(gain - 1) for gain, _ in lines) < 0.33
    assert max(abs(shift) for _, shift in lines) < 40
    assert np.std(lines, axis=0).min() > 0.05


def test_a_row_is_a_sample_of_its_own_class_only(steel, cache):
    row = steel.rows.iloc[2]
    sample = Samples(steel, cache, [Item(row["ImageId"], (2,))], depth=2)
    assert np.array_equal(sample[0][1][0], rle.decode(row["EncodedPixels"], (64, 200)))


def test_a_mask_a_class(steel, cache):
    every = whole(steel, cache, per_class=True)
    for index in range(len(every)):
        assert np.array_equal(every[index][1], steel.masks(every.items[index].image_id))


def test_refusals(steel, cache):
    with pytest.raises(ValueError, match="geometry is 'paper'"):
        whole(steel, cache, geometry="paper")
    with pytest.raises(ValueError, match="whole images, not crops"):
        whole(steel, cache, geometry="original", crop=(8, 8))


def test_crops_of_a_single_pixel_and_row(steel, cache):
    """Flipped, they look contiguous to NumPy and not to PyTorch."""
    for crop in ((1, 1), (1, 30), (30, 1)):
        drawn = whole(steel, cache, crop=crop, flips=True)
        assert all(drawn[index][1].shape == (1, *crop) for index in range(len(drawn)))


def test_one_tiny_image_does_not_shrink_the_others_crop(tmp_path):
    """It goes on as its mirror image, and its mask with it."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for name, shape in (("a", (64, 90)), ("b", (70, 64)), ("c", (7, 5)), ("d", (100, 100)), ("e", (64, 64))):
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray((rng.random(shape) < 0.4).astype(np.uint8) * 255).save(tmp_path / "masks" / f"{name}.png")
    data = dataset.read_dataset(tmp_path)
    samples = whole(data, ImageCache(data), crop=(48, 50), on_defect=0.5, flips=True)
    for epoch in range(4):
        samples.set_epoch(epoch)
        for index, item in enumerate(samples.items):
            window, mask = samples[index]
            assert mask.shape == (1, 48, 50)
            assert window.shape == (1, geometry.input_size(48, 2), geometry.input_size(50, 2))
            if item.image_id != "c.png":
                continue
            margin = geometry.margin(2)
            (flip,) = [
                (down, across) for down in (False, True) for across in (False, True)
                if np.array_equal(
                    np.pad(data.image("c.png")[:: -1 if down else 1, :: -1 if across else 1],
                           ((margin, 99), (margin, 99)), "symmetric")[: window.shape[1], : window.shape[2]], window[0])
            ]
            turned = data.mask("c.png")[:: -1 if flip[0] else 1, :: -1 if flip[1] else 1]
            assert np.array_equal(np.pad(turned, ((0, 41), (0, 45)), "symmetric"), mask[0])
    assert whole(data, ImageCache(data), crop=(96, 96)).crop == (64, 64)  # the median image: half of them are no larger


def test_a_worker_of_another_process_gets_paths_and_no_pixels(steel, cache):
    """As Windows and macOS start workers, and Linux from Python 3.14 on."""
    drawn = whole(steel, cache, crop=(32, 64), flips=True)
    drawn.resident = object()  # of a device, which cannot be sent
    content = pickle.dumps(drawn)
    assert len(content) < 64 * 200 * len(steel) / 4
    again = pickle.loads(content)
    assert again.resident is None
    assert isinstance(again.cache.pixels, np.memmap)
    for epoch in (0, 3):
        for samples in (drawn, again):
            samples.set_epoch(epoch)
        for one, other in zip(drawn, again, strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])


def test_the_cache_s_digest_is_of_its_pixels(steel, cache):
    pixels = b"".join(steel.image(i).tobytes() for i in steel.images["ImageId"])
    assert cache.digest == hashlib.sha256(pixels).hexdigest()


def test_every_place_of_a_crop_is_drawn_and_no_other(steel, cache):
    crops = whole(steel, cache, crop=(62, 199))  # three places down, two across
    places = set()
    for epoch in range(8):
        crops.set_epoch(epoch)
        for index in range(len(crops)):
            drawn = crops.draw(index, (64, 200), lambda *_: ())
            places.add((drawn.output.top, drawn.output.left))
    assert places == {(top, left) for top in (0, 1, 2) for left in (0, 1)}


def test_a_cache_that_was_cut_is_made_again(steel):
    whole_one = ImageCache(steel)
    content = whole_one.path.read_bytes()
    for damaged in (content[:-1], content + b"x", b""):
        whole_one.path.write_bytes(damaged)
        assert ImageCache(steel).path.read_bytes() == content
