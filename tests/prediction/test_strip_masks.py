"""A strip in bands against the whole image in memory: masks, maps, defects, text, overview."""

import resource
from math import ceil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import ndimage
from scipy.special import expit

from steelnb.data import rle
from steelnb.evaluation.operating_point import OperatingPoint
from steelnb.network import inference
from steelnb.network.inference import probability
from steelnb.network.unet import UNet
from steelnb.network.weights import Trained
from steelnb.prediction import strip_masks, strips
from steelnb.prediction.strip_masks import band_shape, overview, segment_strip
from steelnb.prediction.strips import open_strip, run_lengths
from steelnb.storage import StorageError

POINT = OperatingPoint()


def network(out_channels=1):
    torch.manual_seed(0)
    model = UNet(width=2, depth=2, out_channels=out_channels).eval()
    with torch.no_grad():  # probabilities spread around 0.5
        model.head.weight *= 40
        steel = torch.tensor(grain((108, 108))[None, None] / 255).float()
        model.head.bias -= model(steel)[0].flatten(1).median(1).values
    return Trained(model, {"network": model.config})


def grain(shape, seed=0):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 1.5)
    return np.uint8(255 * (noise - noise.min()) / max(np.ptp(noise), 1e-9))


def whole(trained, image, flips=False):
    model = inference.FlipAveraged(trained.model).eval() if flips else trained.model
    return expit(inference.predict_logits(model, image))


def clear_threshold(p):
    """A threshold that part of the pixels pass, with no probability within 1e-5: so rounding decides nothing."""
    if p.size < 40:
        return float(p.min()) - 0.01
    middle = np.unique(p)  # many pixels have the same: a ReLU of 0
    middle = middle[len(middle) // 2 : len(middle) * 9 // 10]
    at = np.diff(middle).argmax()
    assert middle[at + 1] - middle[at] > 2e-5
    return float(middle[at] + middle[at + 1]) / 2


def segmented(folder, trained, image, **options):
    """What is left of a strip: masks and maps [K, H, W], defects, picture."""
    folder.mkdir()
    np.save(folder / "in.npy", image)
    count = trained.model.config["out_channels"]
    masks, maps = ([folder / f"{k}_{name}.npy" for k in range(count)] for name in ("mask", "map"))
    classes = tuple(range(1, count + 1)) if count > 1 else (None,)
    segment_strip(trained, open_strip(folder / "in.npy"), masks, folder / "d.csv", folder / "o.png", classes=classes,
                  maps=maps, **options)
    assert not list(folder.glob(".*"))
    arrays = [np.stack([np.load(path, mmap_mode="r") for path in paths]) for paths in (masks, maps)]
    return *arrays, pd.read_csv(folder / "d.csv"), np.asarray(Image.open(folder / "o.png")), masks


SHAPES = [(24, 300), (33, 161), (300, 24), (7, 40), (20, 20), (31, 1), (1, 31), (1, 1), (40, 64), (26, 65)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("tile", [16, 52])
def test_a_strip_is_segmented_like_the_whole_image(shape, tile, tmp_path):
    trained, image = network(), grain(shape)
    p = whole(trained, image)
    point = OperatingPoint(clear_threshold(p))
    masks, maps, defects, _, paths = segmented(tmp_path / "s", trained, image, tile=tile, point=point)
    assert masks.dtype == bool
    assert np.array_equal(masks, p > point.threshold)
    assert np.abs(maps - 255 * p).max() < 0.501
    assert "".join(run_lengths(strips.open_mask(paths[0]))) == rle.encode(masks[0])
    assert defects["area"].sum() == masks.sum()


@pytest.mark.parametrize("shape", [(24, 300), (300, 24)], ids=str)
@pytest.mark.parametrize("minimum_area", [0, 2, 12, 60])
def test_minimum_area_and_the_table_of_defects_are_exact(shape, minimum_area, tmp_path):
    trained, image = network(3), grain(shape, 1)
    p = whole(trained, image)
    point = OperatingPoint(clear_threshold(p), minimum_area)
    masks, _, defects, _, _ = segmented(tmp_path / "s", trained, image, tile=16, point=point)
    assert np.array_equal(masks, point.masks(p))
    assert list(defects) == ["ClassId", "left", "top", "width", "height", "area"]
    expected = set()
    for class_id, mask in enumerate(point.masks(p), 1):
        labels, _ = ndimage.label(mask, np.ones((3, 3)))
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
            box = columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start
            expected.add((class_id, *box, int((labels == number).sum())))
    assert set(defects.itertuples(index=False, name=None)) == expected
    assert len(defects) == len(expected) > 0


def test_flips(tmp_path):
    trained, image = network(), grain((24, 200))
    p = whole(trained, image, flips=True)
    point = OperatingPoint(clear_threshold(p))
    masks = segmented(tmp_path / "s", trained, image, tile=32, point=point, flips=True)[0]
    assert np.array_equal(masks, p > point.threshold)
    assert not np.array_equal(p, whole(trained, image))
    assert not any(module.training for module in trained.model.modules())  # averaging leaves the network as it was


def test_probabilities_are_above_a_half_where_logits_are_above_0():
    logits = np.float32([-80, -1e-3, -1e-30, -0.0, 0, 1e-45, 1e-30, 1e-9, 1e-3, 80])
    p = probability(logits)
    assert p.dtype == np.float32
    assert np.array_equal(p > 0.5, logits > 0)
    assert np.allclose(p, 1 / (1 + np.exp(-logits.astype(float))), atol=1e-7)
    assert (np.diff(p) >= 0).all()


def test_band_shapes():
    assert band_shape((256, 1_000_000)) == (256, 1024)
    assert band_shape((1_000_000, 256)) == (1024, 256)
    assert band_shape((4096, 1_000_000)) == (4096, 512)
    assert band_shape((256, 999), 64) == (256, 64)
    assert band_shape((999, 256), (64, 32)) == (64, 256)
    assert band_shape((256, 999), (64, 32)) == (256, 32)


def test_the_guard_is_refused(tmp_path):
    with pytest.raises(ValueError, match="decides over a whole image"):
        segmented(tmp_path / "s", network(), grain((5, 40)), point=OperatingPoint(guard=0.5))


def test_what_was_interrupted_leaves_nothing(tmp_path, monkeypatch):
    real = strip_masks.iter_probabilities

    def until_the_third(*arguments):
        for number, found in enumerate(real(*arguments)):
            if number == 2:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(strip_masks, "iter_probabilities", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        segmented(tmp_path / "s", network(), grain((24, 200)), tile=16)
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["in.npy"]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    image = grain((24, 4000))
    (tmp_path / "s").mkdir()
    np.save(tmp_path / "s" / "in.npy", image)
    strip = open_strip(tmp_path / "s" / "in.npy")
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot write m\.npy in .*: .*Make room there"):
            segment_strip(network(), strip, [tmp_path / "s" / "m.npy"], *(tmp_path / "s" / name for name in "do"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["in.npy"]


@pytest.mark.parametrize("shape", [(256, 20_000), (20_000, 256), (3, 900), (5, 5), (64, 12_345)], ids=str)
def test_overviews_are_bounded_and_show_every_defect(shape, tmp_path):
    mask = np.zeros(shape, bool)
    places = np.random.default_rng(0).integers(0, shape, (4, 2))
    mask[tuple(places.T)] = True
    np.save(tmp_path / "i.npy", np.full(shape, 90, np.uint8))
    np.save(tmp_path / "m.npy", np.asfortranarray(mask) if shape[1] >= shape[0] else mask)
    picture = overview(open_strip(tmp_path / "i.npy"), [strips.open_mask(tmp_path / "m.npy")])
    body = picture[:, strip_masks.MARGIN :]
    assert body.shape[0] <= strip_masks.PICTURE[0]
    assert body.shape[1] <= strip_masks.PICTURE[1]
    coloured = (body[..., 0] != body[..., 2]).sum()
    assert 1 <= coloured <= 4  # cells of one pixel each
    steel = (body == 90).all(-1)
    blank = (body == 255).all(-1)
    assert (steel | blank).sum() + coloured == body.shape[0] * body.shape[1]


def test_an_overview_averages_down_in_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(strip_masks, "PICTURE", (10, 8))
    image = grain((6, 100))
    np.save(tmp_path / "i.npy", image)
    np.save(tmp_path / "m.npy", np.zeros((6, 100), bool, order="F"))
    body = overview(open_strip(tmp_path / "i.npy"), [strips.open_mask(tmp_path / "m.npy")])[:, strip_masks.MARGIN :, 0]
    assert body.shape[0] <= 10
    factor = next(f for f in range(1, 99) if ceil(ceil(100 / f) / 8) * (ceil(6 / f) + strip_masks.GAP) <= 10)
    padded = np.pad(image, ((0, -6 % factor), (0, -100 % factor)), mode="edge")
    cells = np.rint(padded.reshape(padded.shape[0] // factor, factor, -1, factor).mean((1, 3)))
    height = cells.shape[0]
    for start in range(0, cells.shape[1], 8):
        top = start // 8 * (height + strip_masks.GAP)
        row = cells[:, start : start + 8]
        assert np.array_equal(body[top : top + height, : row.shape[1]], row)
