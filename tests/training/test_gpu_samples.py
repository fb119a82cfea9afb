"""Samples that lie on a device are those of the CPU, to the last bit."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from steelnb.data import dataset
from steelnb.data.image_cache import ImageCache
from steelnb.network.geometry import Grid
from steelnb.training import batches, gpu_samples
from steelnb.training.gpu_samples import PackedMasks, Pixels, ResidentSamples
from steelnb.training.samples import Item, Samples, flipped

CPU = torch.device("cpu")
OPTIONS = {
    "crops": dict(crop=(32, 64)),
    "crops on defects, flipped": dict(crop=(32, 64), on_defect=0.7, flips=True),
    "small crops on defects": dict(crop=(9, 13), on_defect=1.0, flips=True),
    "a plane a class": dict(crop=(16, 16), on_defect=0.8, per_class=True, flips=True),
    "crops of a padded network, in other light": dict(crop=(40, 72), depth=Grid(0, 8), flips=True, brightness=0.4),
    "crops larger than the images": dict(crop=(96, 256), depth=Grid(0, 16), on_defect=0.5, flips=True),
    "whole images": dict(flips=True),
    "the original's geometry": dict(geometry="original", flips=True),
}


def assert_same(samples, epochs=(0, 3), size=5):
    there = ResidentSamples(samples, CPU)
    for epoch in epochs:
        samples.set_epoch(epoch)
        for start in range(0, len(samples), size):
            indices = list(range(start, min(start + size, len(samples))))[::-1]
            windows, masks = there.batch(indices)
            assert windows.dtype == masks.dtype == torch.uint8
            for number, index in enumerate(indices):
                window, mask = samples[index]
                assert torch.equal(windows[number], window)
                assert torch.equal(masks[number], mask)


@pytest.mark.parametrize("rows", [False, True], ids=["whole masks", "label rows"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_batches_are_those_of_the_cpu(steel, options, rows):
    ids = steel.rows["ImageId"] if rows else steel.images["ImageId"]
    items = [Item(name, (row,) if rows else None) for row, name in enumerate(ids)]
    options = dict(depth=4 if "geometry" in options else 2) | options
    samples = Samples(steel, ImageCache(steel), items, seed=3, **options)
    assert_same(samples)


@pytest.fixture(scope="module")
def unequal(tmp_path_factory):
    """Images and masks of several sizes, none of whole bytes; one is clean."""
    folder, rng = tmp_path_factory.mktemp("unequal"), np.random.default_rng(0)
    for number, shape in enumerate([(40, 61), (33, 50), (57, 33), (40, 61)]):
        mask = 255 * (rng.random(shape) < 0.1 * number)
        for part, pixels in (("images", rng.integers(0, 256, shape)), ("masks", mask)):
            (folder / part).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / part / f"{number}.png")
    return dataset.read_dataset(folder)


def test_crops_of_images_of_several_sizes(unequal):
    items = [Item(name) for name in unequal.images["ImageId"]] * 4
    assert_same(Samples(unequal, ImageCache(unequal), items, depth=2, crop=(16, 24), on_defect=0.8, flips=True))


def test_whole_images_of_several_sizes_are_refused(unequal):
    samples = Samples(unequal, ImageCache(unequal), [Item(name) for name in unequal.images["ImageId"]], depth=2)
    there = ResidentSamples(samples, CPU)
    assert torch.equal(there.batch([0, 3])[0][1], samples[3][0])
    with pytest.raises(ValueError, match="several sizes"):
        there.batch([0, 1])


@settings(deadline=None, derandomize=True)
@given(npst.arrays(bool, st.tuples(*(st.integers(1, size) for size in (3, 9, 20)))), st.booleans(), st.booleans())
def test_pixels_of_packed_planes_are_those_of_numpy(mask, down, across):
    true = np.flatnonzero(flipped(mask.any(0), down, across))
    bits, in_row = np.packbits(mask, axis=-1), mask.any(0).sum(1)
    step = -1 if down else 1
    found = Pixels(bits[:, ::step], in_row[::step], mask.shape[2], across)
    assert len(found) == len(true)
    assert [found[i] for i in range(len(found))] == true.tolist()


def test_a_clean_image_has_no_pixels_to_hit(unequal):
    samples = Samples(unequal, ImageCache(unequal), [Item("0.png")], depth=2, crop=(16, 16), on_defect=1.0)
    assert len(PackedMasks(samples).defects(samples.items[0], (40, 61), True, False)) == 0
    assert_same(samples)


def test_a_training_takes_them_where_they_are(steel, tiny):
    """What a GPU would be fed: the same batches, and so the same training."""
    recipe = tiny.changed(epoch_samples=11)
    plain, there = (batches.training_and_validation_samples(steel, recipe, seed=5)[0] for _ in range(2))
    there.resident = ResidentSamples(there, CPU)
    for epoch in (0, 2):
        pairs = zip(batches.iter_batches(plain, recipe, epoch), batches.iter_batches(there, recipe, epoch), strict=True)
        for one, other in pairs:
            assert all(torch.equal(a, b) for a, b in zip(one[:2], other[:2], strict=True))
            assert one[2:] == other[2:]
        assert plain.resident is None


def test_a_cpu_does_without(steel, tiny):
    assert ResidentSamples.where_it_fits(batches.training_and_validation_samples(steel, tiny, seed=0)[0], CPU) is None


@pytest.fixture
def room(monkeypatch):
    """Says how many bytes of a device are free, and how many PyTorch has reserved and allocated of the others."""
    monkeypatch.setattr(gpu_samples.ResidentSamples, "__init__", lambda *_: None)

    def says(samples, free, reserved=0, allocated=0):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**12))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated)
        return ResidentSamples.where_it_fits(samples, torch.device("cuda")) is not None

    return says


@pytest.mark.parametrize("per_class", [False, True])
def test_it_goes_where_it_takes_two_fifths_of_what_is_free(steel, tiny, room, per_class):
    samples = batches.training_and_validation_samples(steel, tiny.changed(per_class=per_class), seed=0)[0]
    there = PackedMasks(samples)
    needed = (len(samples.cache.pixels) + len(there.bits)) / gpu_samples.SHARE
    assert room(samples, int(needed) + 1)
    assert not room(samples, int(needed) - 1)
    assert not room(samples, int(needed) - 1000, reserved=5000, allocated=5000)
    assert room(samples, int(needed) - 1000, reserved=5000, allocated=3000)  # an earlier run's, which nobody uses


def test_severstal_lies_on_a_t4(room):
    """12,568 images of 256×1600 and the masks of those that train, beside a network: counted, not made."""
    items = [Item(str(number)) for number in range(10_055)]
    cache = SimpleNamespace(pixels=range(12_568 * 256 * 1600), shape=lambda image_id: (256, 1600))
    samples = SimpleNamespace(items=items, planes=1, cache=cache)
    assert room(samples, free=int(15.6e9))
    samples.planes = 4
    assert not room(samples, free=int(15.6e9))


@pytest.mark.gpu
def test_on_a_gpu_too(steel, tiny):
    recipe = tiny.changed(epoch_samples=11)
    plain, there = (batches.training_and_validation_samples(steel, recipe, seed=5)[0] for _ in range(2))
    cuda = torch.device("cuda")
    drawn = batches.iter_batches(plain, recipe, 1), batches.iter_batches(there, recipe, 1, device=cuda)
    for one, other in zip(*drawn, strict=True):
        assert other[0].is_cuda
        assert all(torch.equal(a, b.cpu()) for a, b in zip(one[:2], other[:2], strict=True))
