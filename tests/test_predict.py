"""Image files in, mask files out."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from steelnb import overlap_tile, rle
from steelnb.predict import PredictError, predict_files, segment
from steelnb.unet import UNet
from steelnb.weights import Trained


def network(out_channels=1):
    torch.manual_seed(0)
    model = UNet(width=2, depth=2, out_channels=out_channels).eval()
    with torch.no_grad():  # half of the pixels of noise become defect
        model.head.bias -= model(torch.rand(1, 1, 108, 108)).median()
    return Trained(model, {"network": model.config, "data": {"classes": list(range(1, out_channels + 1))}})


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "in"
    folder.mkdir()
    for name, shape in (("a.png", (40, 60)), ("b.jpg", (33, 90)), ("c.bmp", (5, 7))):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
    return folder


def test_mask_overlay_and_table_agree(pictures, tmp_path):
    trained, out = network(), tmp_path / "out"
    outcome = predict_files(trained, [pictures], out)
    assert list(outcome.written) == ["a", "b", "c"]
    assert outcome.failed == {}
    table = pd.read_csv(out / "predictions.csv", keep_default_na=False).set_index("ImageId")["EncodedPixels"]
    some = 0
    for path in sorted(pictures.iterdir()):
        gray = np.asarray(Image.open(path).convert("L"))
        expected = overlap_tile.predict(trained.model, gray)[0] > 0
        mask = np.asarray(Image.open(out / f"{path.stem}_mask.png"))
        assert set(np.unique(mask)) <= {0, 255}
        assert np.array_equal(mask > 0, expected)
        assert np.array_equal(rle.decode(table[path.name], gray.shape), expected)
        assert np.asarray(Image.open(out / f"{path.stem}_overlay.png")).shape == (*gray.shape, 3)
        some += expected.any()
    assert some


def test_a_mask_a_class(pictures, tmp_path):
    predict_files(network(3), [pictures / "a.png"], tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").glob("*mask.png")} == {f"a_class{k}_mask.png" for k in (1, 2, 3)}
    assert list(pd.read_csv(tmp_path / "out" / "predictions.csv")["ClassId"]) == [1, 2, 3]


def test_tiles_change_nothing(pictures):
    trained = network()
    gray = np.asarray(Image.open(pictures / "a.png"))
    assert np.array_equal(segment(trained, gray), segment(trained, gray, tile=8))


def test_a_bad_file_is_reported_and_the_rest_go_on(pictures, tmp_path):
    (pictures / "d.png").write_bytes((pictures / "a.png").read_bytes()[:60])
    outcome = predict_files(network(), [pictures, tmp_path / "missing.png"], tmp_path / "out")
    assert list(outcome.written) == ["a", "b", "c"]
    assert [path.name for path in outcome.failed] == ["d.png", "missing.png"]
    assert all(path.name in reason for path, reason in outcome.failed.items())
    assert not list((tmp_path / "out").glob("d_*"))


def test_refusals(pictures, tmp_path):
    with pytest.raises(PredictError, match="no image files"):
        predict_files(network(), [], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image files"):
        predict_files(network(), [tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(PredictError, match="several images are called 'a'"):
        predict_files(network(), [pictures, pictures / "a.png"], tmp_path / "out")
    predict_files(network(), [pictures / "a.png"], tmp_path / "out")
    with pytest.raises(PredictError, match="is there already and would be overwritten"):
        predict_files(network(), [pictures / "b.jpg"], tmp_path / "out")
    (tmp_path / "out" / "predictions.csv").unlink()
    before = (tmp_path / "out" / "a_mask.png").read_bytes()
    with pytest.raises(PredictError, match=r"a_overlay\.png is there already"):
        predict_files(network(), [pictures / "a.png"], tmp_path / "out")
    assert (tmp_path / "out" / "a_mask.png").read_bytes() == before


def test_nothing_segmented_leaves_no_table(tmp_path):
    outcome = predict_files(network(), [tmp_path / "mistyped.png"], tmp_path / "out")
    assert "no such file" in outcome.failed[tmp_path / "mistyped.png"]
    assert not list((tmp_path / "out").iterdir())
