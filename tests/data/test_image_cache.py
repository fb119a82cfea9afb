"""The cache of decoded images: compared with its checksum when it is opened, and handed to workers as a path."""

import pickle

import numpy as np
import pytest
from torch.utils.data import DataLoader

from steelnb.data.image_cache import ImageCache
from steelnb.training.samples import Item, Samples


def test_a_cache_with_one_other_bit_is_made_again(steel):
    cache = ImageCache(steel)
    whole, pixels, rng = cache.path.read_bytes(), np.array(cache.pixels), np.random.default_rng(0)
    for place in (0, len(whole) - 1, *rng.integers(0, len(whole), 5)):
        content = bytearray(whole)
        content[place] ^= 1 << int(rng.integers(8))
        cache.path.write_bytes(content)
        again = ImageCache(steel)
        assert again.path.read_bytes() == whole
        assert (again.pixels == pixels).all()
        assert again.digest == cache.digest


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"0", lambda b: b[:-32], lambda b: b""])
def test_a_cache_of_another_length_is_made_again(steel, change):
    cache = ImageCache(steel)
    whole = cache.path.read_bytes()
    cache.path.write_bytes(change(whole))
    assert ImageCache(steel).path.read_bytes() == whole


def test_a_whole_cache_is_not_made_again(steel, monkeypatch):
    first = ImageCache(steel)
    monkeypatch.setattr(ImageCache, "_write", lambda *_: pytest.fail("decoded twice"))
    assert ImageCache(steel).digest == first.digest


def test_a_worker_gets_a_path_and_reads_the_same(steel):
    cache = ImageCache(steel)
    samples = Samples(steel, cache, [Item(i) for i in steel.images["ImageId"]], depth=2, crop=(32, 64), flips=True)
    content = pickle.dumps(samples)
    assert len(content) < len(cache.pixels) / 2
    for (window, mask), (other, its) in zip(samples, pickle.loads(content), strict=False):
        assert window.equal(other)
        assert mask.equal(its)
    loader = DataLoader(samples, batch_size=4, num_workers=1, multiprocessing_context="spawn")
    window, _ = next(iter(loader))
    assert window[1].equal(samples[1][0])
