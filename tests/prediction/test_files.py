"""Image files in, mask files out."""

import csv
import hashlib
import json
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image

from steelnb import storage
from steelnb.data import dataset, digests, rle
from steelnb.data.dataset import DataError
from steelnb.evaluation.operating_point import OperatingPoint
from steelnb.network import inference, weights
from steelnb.network.unet import UNet
from steelnb.network.weights import Trained
from steelnb.prediction import output_files, strip_masks, strips
from steelnb.prediction.files import PredictError, predict_files, segment
from steelnb.prediction.submission import SubmissionError


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
        expected = inference.predict_logits(trained.model, gray)[0] > 0
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
    with pytest.raises(PredictError, match="already exists"):
        predict_files(network(), [pictures / "b.jpg"], tmp_path / "out")
    (tmp_path / "out" / "predictions.csv").unlink()
    before = (tmp_path / "out" / "a_mask.png").read_bytes()
    with pytest.raises(PredictError, match=r"a_mask\.png already exists"):
        predict_files(network(), [pictures / "a.png"], tmp_path / "out")
    assert (tmp_path / "out" / "a_mask.png").read_bytes() == before


def test_nothing_segmented_leaves_no_table(tmp_path):
    outcome = predict_files(network(), [tmp_path / "mistyped.png"], tmp_path / "out")
    assert "no such file" in outcome.failed[tmp_path / "mistyped.png"]
    assert files(tmp_path / "out") == {}


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_segment_takes_an_operating_point_and_flips(pictures):
    trained = network()
    gray = np.asarray(Image.open(pictures / "a.png"))
    logits = inference.predict_logits(trained.model, gray)
    point = OperatingPoint(0.6, minimum_area=5)
    assert np.array_equal(segment(trained, gray), logits > 0)
    assert np.array_equal(segment(trained, gray, None, point), point.masks(1 / (1 + np.exp(-logits))))
    assert not segment(trained, gray, point=OperatingPoint(guard=0.999)).any()
    averaged = inference.predict_logits(inference.FlipAveraged(trained.model).eval(), gray)
    clear = np.abs(averaged) > 1e-5
    assert np.array_equal(segment(trained, gray, flips=True)[clear], (averaged > 0)[clear])
    assert not np.array_equal(segment(trained, gray, flips=True), segment(trained, gray))
    assert not any(module.training for module in trained.model.modules())


def test_options_of_prediction_reach_the_files(pictures, tmp_path):
    trained, out, point = network(3), tmp_path / "out", OperatingPoint(0.52, 4)
    predict_files(trained, [pictures / "a.png"], out, point=point, flips=True, probabilities=True, tile=16)
    gray = np.asarray(Image.open(pictures / "a.png"))
    p = 1 / (1 + np.exp(-inference.predict_logits(inference.FlipAveraged(trained.model).eval(), gray)))
    for class_id, (mask, one) in enumerate(zip(segment(trained, gray, None, point, True), p, strict=True), 1):
        assert np.array_equal(np.asarray(Image.open(out / f"a_class{class_id}_mask.png")) > 0, mask)
        picture = np.asarray(Image.open(out / f"a_class{class_id}_probability.png"))
        assert (picture.dtype, picture.shape) == (np.uint8, gray.shape)
        assert np.abs(picture - 255 * one).max() < 0.501
    predict_files(network(), [pictures / "a.png"], tmp_path / "one", probabilities=True)
    assert (tmp_path / "one" / "a_probability.png").exists()


def test_patterns(pictures, tmp_path):
    (pictures / "more" / "deep").mkdir(parents=True)
    (pictures / "more" / "deep" / "e.png").write_bytes((pictures / "a.png").read_bytes())
    (pictures / "notes.txt").write_text("no image")

    def found(*paths):
        found.count += 1
        return list(predict_files(network(), paths, tmp_path / str(found.count)).written)

    found.count = 0
    assert found(f"{pictures}/*.png") == ["a"]
    assert found(f"{pictures}/[ab].*", pictures / "c.bmp") == ["a", "b", "c"]
    assert found(f"{pictures}/**/*.png") == ["a", "e"]
    assert found(f"{pictures}/**") == ["a", "b", "c", "e"]
    (pictures / "x[1].png").write_bytes((pictures / "a.png").read_bytes())
    assert found(pictures / "x[1].png") == ["x[1]"]  # a name, since there is such a file
    for pattern in (f"{pictures}/*.jpeg", f"{pictures}/m*"):
        with pytest.raises(PredictError, match=r"\*: no image matches|\*\.jpeg: no image matches"):
            found(pattern)


def test_bad_files_of_every_kind(pictures, tmp_path):
    good = (pictures / "a.png").read_bytes()
    bad = {
        "cut.png": good[:200], "text.jpg": b"hello", "empty.png": b"", "zeros.bmp": bytes(100), "bad.npy": b"no",
    }
    for name, content in bad.items():
        (pictures / name).write_bytes(content)
    np.save(pictures / "float.npy", np.zeros((4, 40)))
    (pictures / "folder.png").mkdir()
    (pictures / "broken.png").symlink_to(pictures / "nothing.png")
    Image.fromarray(np.zeros((4, 5), np.uint16)).save(pictures / "deep.tif")
    outcome = predict_files(network(), [pictures, pictures / "bad.npy", pictures / "float.npy"], tmp_path / "out")
    assert list(outcome.written) == ["a", "b", "c"]
    assert {path.name for path in outcome.failed} == {*bad, "float.npy", "folder.png", "broken.png", "deep.tif"}
    assert all(path.name in reason for path, reason in outcome.failed.items())
    assert len(files(tmp_path / "out")) == 3 * 2 + 3
    assert list(pd.read_csv(tmp_path / "out" / "predictions.csv")["ImageId"]) == ["a.png", "b.jpg", "c.bmp"]


def test_strips_beside_images(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(strips, "LARGE", 50_000)
    monkeypatch.setattr(strip_masks, "BAND", 20 * 512)
    rng, trained, out = np.random.default_rng(1), network(2), tmp_path / "out"
    images = {name: rng.integers(0, 256, shape, dtype=np.uint8)
              for name, shape in {"n": (9, 70), "t": (20, 3000), "r": (70, 9)}.items()}
    np.save(pictures / "n.npy", images["n"])
    tifffile.imwrite(pictures / "t.tif", images["t"])
    images["r"].tofile(pictures / "r.dat")
    outcome = predict_files(trained, [pictures, pictures / "n.npy", pictures / "r.dat"], out, raw=(70, 9))
    assert (list(outcome.written), outcome.failed) == (["a", "b", "c", "t", "n", "r"], {})
    table = pd.read_csv(out / "predictions.csv", keep_default_na=False)
    table = table.set_index(["ImageId", "ClassId"])["EncodedPixels"]
    for name, suffix in (("n", ".npy"), ("t", ".tif"), ("r", ".dat")):
        logits = inference.predict_logits(trained.model, images[name])
        masks = np.stack([np.load(out / f"{name}_class{k}_mask.npy") for k in (1, 2)])
        assert np.array_equal(masks[np.abs(logits) > 1e-5], (logits > 0)[np.abs(logits) > 1e-5])
        for k in (1, 2):
            assert table[f"{name}{suffix}", k] == rle.encode(masks[k - 1])
        assert outcome.written[name] == pytest.approx(masks.any(0).mean())
        assert (out / f"{name}_overview.png").exists()
        assert len(pd.read_csv(out / f"{name}_defects.csv"))
    again = predict_files(trained, [pictures, pictures / "n.npy", pictures / "r.dat"], out, raw=(70, 9), resume=True)
    assert again.kept == ("a", "b", "c", "t", "n", "r")
    assert again.written == outcome.written
    with pytest.raises(PredictError, match=r"guard decides over a whole image.*n\.npy"):
        predict_files(trained, [pictures / "n.npy"], tmp_path / "g", point=OperatingPoint(guard=0.5))


@pytest.mark.parametrize("shape", [(7, 300), (300, 7)])
def test_the_share_of_a_strip_is_counted_piece_by_piece(tmp_path, monkeypatch, shape):
    masks = np.random.default_rng(0).random((2, *shape)) < 0.2
    for name, mask in zip("ab", masks, strict=True):
        np.save(tmp_path / f"{name}.npy", np.asfortranarray(mask) if shape[1] > shape[0] else mask)
    monkeypatch.setattr(strips, "READ_BYTES", 100)
    opened = [strips.open_mask(tmp_path / f"{name}.npy") for name in "ab"]
    assert output_files.share(opened) == pytest.approx(masks.any(0).mean())


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", np.zeros(7, bool), np.zeros((12, 90), np.uint8)])
def test_a_damaged_mask_of_a_strip_is_named_and_the_rest_go_on(tmp_path, content):
    np.save(tmp_path / "s.npy", np.zeros((12, 90), np.uint8))
    Image.fromarray(np.zeros((12, 90), np.uint8)).save(tmp_path / "i.png")
    paths, out = [tmp_path / "s.npy", tmp_path / "i.png"], tmp_path / "out"
    predict_files(network(), paths, out)
    if isinstance(content, bytes):
        (out / "s_mask.npy").write_bytes(content)
    else:
        np.save(out / "s_mask.npy", content)
    outcome = predict_files(network(), paths, out, resume=True)
    assert list(outcome.written) == ["i"]
    assert "s_mask.npy: changed since it was written; remove it" in outcome.failed[tmp_path / "s.npy"]


@pytest.mark.parametrize("again", [True, False])
def test_a_flipped_bit_in_a_strip_s_mask_is_noticed(tmp_path, again):
    """An .npy has no checksum of its own; in a command with the strip and in one without."""
    np.save(tmp_path / "s.npy", np.random.default_rng(5).integers(0, 256, (12, 90), dtype=np.uint8))
    Image.fromarray(np.zeros((12, 90), np.uint8)).save(tmp_path / "i.png")
    out, paths = tmp_path / "out", [tmp_path / "s.npy"] * again + [tmp_path / "i.png"]
    predict_files(network(), [tmp_path / "s.npy"], out)
    content = bytearray((out / "s_mask.npy").read_bytes())
    content[-7] ^= 1
    (out / "s_mask.npy").write_bytes(content)
    outcome = predict_files(network(), paths, out, resume=True)
    assert list(outcome.written) == ["i"]
    assert [path.name for path in outcome.failed] == ["s.npy"]
    assert list(pd.read_csv(out / "predictions.csv")["ImageId"]) == ["i.png"]
    (out / "s_mask.npy").unlink()
    assert predict_files(network(), [tmp_path / "s.npy", tmp_path / "i.png"], out, resume=True).failed == {}


def test_options_reach_strips_too(tmp_path):
    image = np.random.default_rng(3).integers(0, 256, (12, 90), dtype=np.uint8)
    np.save(tmp_path / "s.npy", image)
    trained, out = network(), tmp_path / "out"
    averaged = inference.predict_logits(inference.FlipAveraged(trained.model).eval(), image)
    values = np.unique(1 / (1 + np.exp(-averaged)))
    values = values[len(values) // 3 : len(values) // 2]
    at = np.diff(values).argmax()
    point = OperatingPoint(float(values[at] + values[at + 1]) / 2, 3)  # in a gap: rounding decides nothing
    predict_files(trained, [tmp_path / "s.npy"], out, point=point, flips=True, probabilities=True, tile=16)
    mask = np.load(out / "s_mask.npy")
    assert np.array_equal(mask, segment(trained, image, None, point, True)[0])
    assert 0 < mask.sum() < (averaged > np.log(point.threshold / (1 - point.threshold))).sum()
    assert np.load(out / "s_probability.npy").dtype == np.uint8


def test_an_interrupted_run_is_resumed_to_the_same_files(pictures, tmp_path, monkeypatch):
    trained, point = network(2), OperatingPoint(0.52)
    np.save(pictures / "d.npy", np.random.default_rng(2).integers(0, 256, (20, 90), dtype=np.uint8))
    paths = [pictures, pictures / "d.npy"]
    predict_files(trained, paths, tmp_path / "whole", point=point)
    write = storage.write_file
    for stop in range(2, 13):  # before each file that is written
        count = iter(range(99))

        def stopped(path, content, count=count, stop=stop):
            if next(count) == stop:
                raise KeyboardInterrupt
            write(path, content)

        monkeypatch.setattr(storage, "write_file", stopped)
        target = tmp_path / f"out{stop}"
        try:
            predict_files(trained, paths, target, point=point)
        except KeyboardInterrupt:
            assert (target / "predictions.csv").exists() == (stop == 11)  # the list of digests comes last
        else:
            assert stop == 12
        monkeypatch.setattr(storage, "write_file", write)
        outcome = predict_files(trained, paths, target, point=point, resume=True)
        assert len(outcome.kept) == min((stop - 1) // 3, 3) + (stop >= 11)
        assert files(target) == files(tmp_path / "whole")


def test_tables_that_no_longer_tell_all_are_gone(severstal, tmp_path, monkeypatch):
    out = tmp_path / "out"
    predict_files(network(4), [severstal / "a.jpg"], out, kaggle="now")
    before, write = files(out), storage.write_file

    def stopped(path, content):
        if path.name == "c_overlay.png":
            raise KeyboardInterrupt
        write(path, content)

    (severstal / "c.jpg").write_bytes((severstal / "b.jpg").read_bytes())
    (severstal / "x.jpg").write_bytes(b"")
    failed = predict_files(network(4), [severstal / "x.jpg"], out, kaggle="now", resume=True).failed
    assert len(failed) == 2
    assert files(out) == before
    predict_files(network(4), [severstal / "a.jpg", severstal / "x.jpg"], out, kaggle="now", resume=True)
    assert files(out).keys() == before.keys() - {"submission.csv"}
    monkeypatch.setattr(storage, "write_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        predict_files(network(4), [severstal], out, resume=True)
    assert not {"predictions.csv", "submission.csv"} & set(files(out))


def test_resuming_takes_only_what_the_same_settings_made(pictures, tmp_path):
    out = tmp_path / "out"
    predict_files(network(), [pictures / "a.png"], out, resume=True)  # nothing is there yet: a first run
    made = files(out)
    outcome = predict_files(network(), [pictures], out, resume=True)
    assert (outcome.kept, len(outcome.written)) == (("a",), 3)
    assert all(files(out)[name] == content for name, content in made.items() if name.startswith("a_"))
    for options, told in (
        ({"point": OperatingPoint(0.6)}, "threshold was 0.5, is 0.6"), ({"flips": True}, "flips was False, is True"),
    ):
        with pytest.raises(PredictError, match=f"made with other settings.*{told}"):
            predict_files(network(), [pictures], out, resume=True, **options)
    other = network()
    with torch.no_grad():
        other.model.head.bias += 1
    with pytest.raises(PredictError, match="weights was"):
        predict_files(other, [pictures], out, resume=True)
    before = files(out)
    outcome = predict_files(network(), [tmp_path / "gone.png"], out, resume=True)
    assert list(outcome.failed) == [tmp_path / "gone.png"]
    assert files(out) == before  # nothing segmented: the table stays
    (out / "a_mask.png").unlink()
    assert predict_files(network(), [pictures], out, resume=True).kept == ("b", "c")
    assert files(out) == before
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(pictures / "a.png")
    outcome = predict_files(network(), [pictures], out, resume=True)
    told = outcome.failed[pictures / "a.png"]
    assert re.search(r"a_mask\.png: 40×60, but .*a\.png is 3×4: is it the mask of another image", told)
    (out / "predictions.json").unlink()
    with pytest.raises(PredictError, match=r"but no predictions\.json"):
        predict_files(network(), [pictures], out, resume=True)
    with pytest.raises(PredictError, match="contains the images themselves"):
        predict_files(network(), [pictures], pictures, resume=True)


def test_another_image_of_the_same_name_and_size_is_not_taken_for_the_old_one(pictures, tmp_path):
    """A re-shot `cam1.png`: its old mask does not stand for it, and is not overwritten without a word either."""
    trained, out = network(), tmp_path / "out"
    predict_files(trained, [pictures], out)
    told = json.loads((out / "predictions.json").read_text("utf-8"))["inputs"]
    assert told == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in pictures.iterdir()}
    assert list(told) == ["a.png", "b.jpg", "c.bmp"]
    before, old = files(out), (pictures / "a.png").read_bytes()
    Image.fromarray(255 - np.asarray(Image.open(pictures / "a.png"))).save(pictures / "a.png")
    for _ in range(2):
        outcome = predict_files(trained, [pictures], out, resume=True)
        assert outcome.kept == ("b", "c")
        assert re.search(r"a_mask\.png was made from another a\.png: remove it to", outcome.failed[pictures / "a.png"])
        left = files(out)
        assert all(left[name] == before[name] for name in before if name not in ("predictions.csv", "SHA256SUMS"))
        assert list(pd.read_csv(out / "predictions.csv")["ImageId"]) == ["b.jpg", "c.bmp"]
    (out / "a_mask.png").unlink()
    outcome = predict_files(trained, [pictures], out, resume=True)
    assert (outcome.failed, outcome.kept) == ({}, ("b", "c"))
    predict_files(trained, [pictures], tmp_path / "fresh")
    assert files(out) == files(tmp_path / "fresh")
    (pictures / "a.png").write_bytes(old)
    assert list(predict_files(trained, [pictures], out, resume=True).failed) == [pictures / "a.png"]


def test_a_stopped_command_leaves_no_mask_for_another_image(pictures, tmp_path, monkeypatch):
    """Killed after the mask and before the overlay; then the image is another one, of the same size."""
    trained, out, write = network(2), tmp_path / "out", storage.write_file

    def stopped(path, content):
        if path.name == "a_class2_mask.png":
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(storage, "write_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        predict_files(trained, [pictures / "a.png"], out)
    monkeypatch.setattr(storage, "write_file", write)
    Image.fromarray(255 - np.asarray(Image.open(pictures / "a.png"))).save(pictures / "a.png")
    assert predict_files(trained, [pictures / "a.png"], out, resume=True).kept == ()
    predict_files(trained, [pictures / "a.png"], tmp_path / "fresh")
    assert files(out) == files(tmp_path / "fresh")


def test_an_image_that_changes_while_it_is_read_is_reported(pictures, tmp_path, monkeypatch):
    make = output_files.OutputWriter.make

    def changing(work, path, strip):
        masks = make(work, path, strip)
        if path.name == "a.png":
            path.write_bytes(path.read_bytes() + b"more")
        return masks

    monkeypatch.setattr(output_files.OutputWriter, "make", changing)
    outcome = predict_files(network(), [pictures], tmp_path / "out")
    assert list(outcome.written) == ["b", "c"]
    assert "a.png: changed while it was being read" in outcome.failed[pictures / "a.png"]
    assert not list((tmp_path / "out").glob("a_*"))
    assert "a.png" not in json.loads((tmp_path / "out" / "predictions.json").read_text("utf-8"))["inputs"]


def test_a_second_folder_keeps_the_first_one_s_rows(pictures, tmp_path):
    trained, out, second = network(2), tmp_path / "out", tmp_path / "second"
    second.mkdir()
    np.save(pictures / "s.npy", np.random.default_rng(5).integers(0, 256, (12, 90), dtype=np.uint8))
    Image.fromarray(np.random.default_rng(4).integers(0, 256, (20, 30), dtype=np.uint8)).save(second / "d.png")
    first = predict_files(trained, [pictures, pictures / "s.npy"], out)
    outcome = predict_files(trained, [second], out, resume=True)
    assert (list(outcome.written), outcome.kept) == (["d"], ())
    assert outcome.earlier == ("a.png", "b.jpg", "c.bmp", "s.npy")
    predict_files(trained, [pictures, pictures / "s.npy", second], tmp_path / "at once")
    assert files(out) == files(tmp_path / "at once")
    again = predict_files(trained, [pictures, pictures / "s.npy"], out, resume=True)
    assert (again.written, again.earlier) == (first.written, ("d.png",))
    assert sorted(pd.read_csv(out / "predictions.csv")["ImageId"].unique()) == [
        "a.png", "b.jpg", "c.bmp", "d.png", "s.npy",
    ]
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(second / "a.png")  # another image of a name that is there
    assert "another a.png" in predict_files(trained, [second], out, resume=True).failed[second / "a.png"]
    (second / "a.png").unlink()
    (second / "a.bmp").write_bytes((pictures / "c.bmp").read_bytes())
    with pytest.raises(PredictError, match=r"a\.bmp: .*out contains the masks of a\.png, which would be overwritten"):
        predict_files(trained, [second / "a.bmp"], out, resume=True)


def test_a_file_that_failed_may_come_again_under_another_suffix(pictures, tmp_path):
    (pictures / "d.png").write_bytes(b"not an image")
    predict_files(network(), [pictures], tmp_path / "out")
    (pictures / "d.png").unlink()
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(pictures / "d.bmp")
    assert predict_files(network(), [pictures], tmp_path / "out", resume=True).failed == {}


def test_a_submission_that_lacks_an_image_is_gone(severstal, tmp_path):
    """Of the command before, without the images of this one."""
    out = tmp_path / "out"
    predict_files(network(4), [severstal / "a.jpg"], out, kaggle="now")
    predict_files(network(4), [severstal / "a.jpg"], out, resume=True)
    assert (out / "submission.csv").exists()
    predict_files(network(4), [severstal], out, resume=True)
    assert not (out / "submission.csv").exists()


def test_a_submission_of_two_folders_holds_both(severstal, tmp_path):
    out, second = tmp_path / "out", tmp_path / "second"
    second.mkdir()
    (severstal / "b.jpg").rename(second / "b.jpg")
    predict_files(network(4), [severstal], out, kaggle="now")
    assert predict_files(network(4), [second], out, kaggle="now", resume=True).failed == {}
    assert list(pd.read_csv(out / "submission.csv")["ImageId"]) == [f"{name}.jpg" for name in "aaaabbbb"]
    sample = tmp_path / "sample_submission.csv"
    sample.write_text("ImageId_ClassId,EncodedPixels\nb.jpg_1,\n")
    with pytest.raises(SubmissionError, match=r"images that the sample submission does not list: a\.jpg"):
        predict_files(network(4), [second], out, kaggle=sample, resume=True)


def test_two_commands_into_one_folder(pictures, tmp_path, monkeypatch):
    """The second one is refused while the first works, with nothing touched; and may go on afterwards."""
    trained, out, make, told = network(), tmp_path / "out", output_files.OutputWriter.make, []

    def meanwhile(work, path, strip):
        there = files(out)
        for resume in (True, False):
            with pytest.raises(PredictError) as error:
                predict_files(trained, [pictures], out, resume=resume)
            told.append(str(error.value))
        assert files(out) == there
        return make(work, path, strip)

    with monkeypatch.context() as patch:
        patch.setattr(output_files.OutputWriter, "make", meanwhile)
        outcome = predict_files(trained, [pictures / "a.png"], out)
    assert list(outcome.written) == ["a"]
    assert told[0] == f"{out} is in use by another command: wait for its end, or choose another folder"
    assert "already exists" in told[1]
    assert predict_files(trained, [pictures], out, resume=True).kept == ("a",)


def test_pairs_of_commands_at_once_leave_what_one_leaves(pictures, tmp_path):
    """In processes: each pair ends with the files of a single command, whoever came first."""
    trained = network()
    weights.save_network(tmp_path / "w.safetensors", trained.model, {})
    np.save(pictures / "s.npy", np.random.default_rng(5).integers(0, 256, (12, 9000), dtype=np.uint8))
    command = [sys.executable, "-m", "steelnb", "predict", "--weights", str(tmp_path / "w.safetensors"), "--quiet"]
    command += ["--resume", str(pictures), str(pictures / "s.npy"), "--out"]
    outs = [tmp_path / "one", *[tmp_path / f"two{i // 2}" for i in range(4)]]
    both = [subprocess.Popen([*command, str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for out in outs]
    for process in both:
        told = process.communicate()[1].decode()
        assert process.returncode == 0 or "in use by another command" in told, told
    assert both[0].returncode == 0
    for first, second in ((1, 2), (3, 4)):
        assert 0 in (both[first].returncode, both[second].returncode)
        assert files(outs[first]) == files(outs[0])


@pytest.mark.skipif(sys.platform != "linux", reason="names of up to 255 bytes")
def test_a_name_without_room_for_those_of_its_files(pictures, tmp_path):
    (pictures / f"{238 * 'x'}.png").write_bytes((pictures / "a.png").read_bytes())
    (pictures / f"{243 * 'w'}.png").write_bytes((pictures / "a.png").read_bytes())  # w…w_overlay.png has 255
    (pictures / f"{251 * 'y'}.png").write_bytes((pictures / "a.png").read_bytes())
    for resume in (False, True):
        outcome = predict_files(network(), [pictures], tmp_path / "out", resume=resume)
        assert list(outcome.written) == ["a", "b", "c", 243 * "w", 238 * "x"]
        (told,) = outcome.failed.values()
        assert "its name is too long: its output files would have names of 263 bytes, the limit is 255" in told


@pytest.fixture
def severstal(tmp_path):
    folder = tmp_path / "test_images"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        steel = np.full((256, 1600), 90, np.uint8)
        steel[20:60, 900:1100] = np.random.default_rng(ord(name[0])).integers(0, 256, (40, 200))
        Image.fromarray(steel).save(folder / name)
    return folder


@pytest.mark.parametrize("form", ["now", "2019"])
def test_a_submission_holds_the_masks(form, severstal, tmp_path):
    out = tmp_path / "out"
    outcome = predict_files(network(4), [severstal], out, kaggle=form)
    assert outcome.failed == {}
    table = pd.read_csv(out / "submission.csv", keep_default_na=False)
    key = table["ImageId"] + "_" + table["ClassId"].astype(str) if form == "now" else table["ImageId_ClassId"]
    assert list(key) == [f"{name}.jpg_{k}" for name in "ab" for k in (1, 2, 3, 4)]
    for name, text in zip(key, table["EncodedPixels"], strict=True):
        mask = np.asarray(Image.open(out / f"{name[0]}_class{name[-1]}_mask.png")) > 0
        assert np.array_equal(rle.decode(text), mask)
    before = files(out)
    sample = tmp_path / "sample_submission.csv"
    table.assign(EncodedPixels="").to_csv(sample, index=False)
    assert predict_files(network(4), [severstal], out, kaggle=sample, resume=True).kept == ("a", "b")
    assert files(out) == before


def test_submissions_that_cannot_be(severstal, pictures, tmp_path):
    out, sample = tmp_path / "out", tmp_path / "sample_submission.csv"
    sample.write_text("ImageId_ClassId,EncodedPixels\na.jpg_1,\nc.jpg_1,\n")
    for trained, paths, kaggle, reason in (
        (network(), [severstal], "now", "one mask for all defects.*--per-class"),
        (network(3), [severstal], "now", "classes are 1, 2, 3; Kaggle's are 1, 2, 3, 4"),
        (network(4), [severstal, pictures / "c.bmp"], "2019", r"c\.bmp \(5×7\) cannot be in a submission"),
        (network(4), [severstal], sample, r"images that are missing here: c\.jpg"),
        (network(4), [severstal], tmp_path, "no such file; the form of a submission"),
        (network(4), [severstal], "then", "then: no such file; the form of a submission is one of 2019, now, or the"),
    ):
        with pytest.raises(SubmissionError, match=reason):
            predict_files(trained, paths, out, kaggle=kaggle)
        assert not out.exists()
    (severstal / "bad.jpg").write_bytes(b"")
    outcome = predict_files(network(4), [severstal], out, kaggle="now")
    assert list(outcome.written) == ["a", "b"]
    assert list(outcome.failed) == [severstal / "bad.jpg", out / "submission.csv"]
    assert "it needs every image, and 1 failed" in outcome.failed[out / "submission.csv"]
    assert not (out / "submission.csv").exists()
    (severstal / "bad.jpg").unlink()
    assert predict_files(network(4), [severstal], out, kaggle="now", resume=True).failed == {}
    assert (out / "submission.csv").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_settings_that_are_damaged_are_named(pictures, tmp_path, content):
    predict_files(network(), [pictures], tmp_path / "out")
    (tmp_path / "out" / "predictions.json").write_bytes(content)
    before = files(tmp_path / "out")
    with pytest.raises(PredictError, match=r"predictions\.json is damaged, .*: choose another folder"):
        predict_files(network(), [pictures], tmp_path / "out", resume=True)
    assert files(tmp_path / "out") == before


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes there")
def test_a_name_that_is_no_text_is_reported_and_the_rest_go_on(pictures, tmp_path):
    for name in (b"\xff.png", b"\xfe.npy"):
        (pictures / os.fsdecode(name)).write_bytes((pictures / "a.png").read_bytes())
    outcome = predict_files(network(), [pictures, pictures / os.fsdecode(b"\xfe.npy")], tmp_path / "out")
    assert list(outcome.written) == ["a", "b", "c"]
    told = list(outcome.failed.values())
    assert [r"\xff.png: the name is not UTF-8" in told[0], r"\xfe.npy: the name is not UTF-8" in told[1]] == [True] * 2
    assert len(list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
@pytest.mark.parametrize("name", ["pipe.png", "pipe.tif"])
def test_a_pipe_is_reported_and_not_waited_for(pictures, tmp_path, name):
    os.mkfifo(pictures / name)
    outcome = predict_files(network(), [pictures], tmp_path / "out")
    assert list(outcome.written) == ["a", "b", "c"]
    assert "a folder or a pipe, not an image file; remove it" in outcome.failed[pictures / name]


# ---- SHA256SUMS


def flipped(path, seed=0):
    content, bit = bytearray(path.read_bytes()), int(np.random.default_rng(seed).integers(8 * path.stat().st_size))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_an_image_that_is_not_as_its_list_says_is_reported_and_the_rest_go_on(pictures, tmp_path):
    digests.write(pictures)
    assert predict_files(network(), [pictures], tmp_path / "out").failed == {}
    for name in ("b.jpg", "c.bmp"):
        flipped(pictures / name)
    np.save(tmp_path / "s.npy", np.zeros((12, 90), np.uint8))
    digests.write(tmp_path, {tmp_path / "s.npy": "0" * 64, pictures / "a.png": digests.of_file(pictures / "a.png")})
    outcome = predict_files(network(), [pictures, tmp_path / "s.npy"], tmp_path / "fresh")
    assert list(outcome.written) == ["a"]
    assert [path.name for path in outcome.failed] == ["b.jpg", "c.bmp", "s.npy"]
    assert all(f"{path}: changed since SHA256SUMS" in reason for path, reason in outcome.failed.items())
    again = predict_files(network(), [pictures], tmp_path / "out", resume=True)  # their masks are not kept either
    assert (again.kept, list(again.failed)) == (("a",), [pictures / "b.jpg", pictures / "c.bmp"])
    (pictures / "SHA256SUMS").write_text("nonsense")
    with pytest.raises(ValueError, match="SHA256SUMS, line 1: not as sha256sum writes it"):
        predict_files(network(), [pictures], tmp_path / "out", resume=True)


def test_what_predict_leaves_is_listed_and_a_changed_file_is_reported(pictures, tmp_path):
    """Every file but the tables, which are made again from the masks; and the list does not come to agree with it."""
    np.save(pictures / "s.npy", np.random.default_rng(5).integers(0, 256, (12, 90), dtype=np.uint8))
    out, given = tmp_path / "out", [pictures, pictures / "s.npy"]
    predict_files(network(), given, out, probabilities=True)
    whole = files(out)
    assert {path.name for path in digests.read(out)} == set(whole) - {"SHA256SUMS"}
    assert len(whole) == 3 * 3 + 4 + 3
    assert digests.check(out) == ["SHA256SUMS: 15 files are as listed"]
    assert predict_files(network(), given, out, probabilities=True, resume=True).kept == ("a", "b", "c", "s")
    assert files(out) == whole
    for name in sorted(set(whole) - {"SHA256SUMS", "predictions.json", "predictions.csv"}):
        flipped(out / name)
        for _ in range(2):
            outcome = predict_files(network(), given, out, probabilities=True, resume=True)
            ((path, reason),) = outcome.failed.items()
            assert path.stem == name[0]
            assert f"{name}: changed since it was written; remove it to segment {path.name} again" in reason
            with pytest.raises(ValueError, match=f"{name}: changed since"):
                digests.check(out)
        (out / name).unlink()
        assert predict_files(network(), given, out, probabilities=True, resume=True).failed == {}
        assert files(out) == whole
    flipped(out / "predictions.csv")
    assert predict_files(network(), given, out, probabilities=True, resume=True).failed == {}
    assert files(out) == whole
    for seed in range(30):
        flipped(out / "predictions.json", seed)
        try:
            outcome = predict_files(network(), given, out, probabilities=True, resume=True)
            made = files(out)
            assert outcome.failed or all(made[n] == whole[n] for n in whole.keys() - {"predictions.json", "SHA256SUMS"})
        except PredictError:
            pass
        for name, content in whole.items():
            (out / name).write_bytes(content)


@pytest.mark.parametrize("name", ["s_defects.csv", "s_probability.npy", "s_overview.png"])
def test_a_strip_s_files_are_known_before_there_is_a_list(tmp_path, name):
    """A command that was stopped has left no SHA256SUMS; a strip that it finished is known by predictions.json."""
    np.save(tmp_path / "s.npy", np.random.default_rng(5).integers(0, 256, (12, 90), dtype=np.uint8))
    predict_files(network(), [tmp_path / "s.npy"], tmp_path / "out", probabilities=True)
    (tmp_path / "out" / "SHA256SUMS").unlink()
    flipped(tmp_path / "out" / name)
    outcome = predict_files(network(), [tmp_path / "s.npy"], tmp_path / "out", probabilities=True, resume=True)
    assert f"{name}: changed since it was written" in outcome.failed[tmp_path / "s.npy"]


def test_the_list_is_gone_while_files_are_made(pictures, tmp_path, monkeypatch):
    """A list that is not of this state would call sound files damaged."""
    out, make = tmp_path / "out", output_files.OutputWriter.make
    predict_files(network(), [pictures], out)
    (out / "b_overlay.png").unlink()
    seen = []

    def stopped(work, path, strip):
        seen.append(path.name)
        make(work, path, strip)
        raise KeyboardInterrupt

    monkeypatch.setattr(output_files.OutputWriter, "make", stopped)
    with pytest.raises(KeyboardInterrupt):
        predict_files(network(), [pictures], out, resume=True)
    monkeypatch.setattr(output_files.OutputWriter, "make", make)
    assert seen == ["b.jpg"]
    assert not (out / "SHA256SUMS").exists()
    assert predict_files(network(), [pictures], out, resume=True).failed == {}
    assert digests.check(out)


def test_masks_that_were_predicted_are_checked_when_they_are_labels(pictures, tmp_path):
    predict_files(network(), [pictures], tmp_path / "out")
    masks = tmp_path / "set" / "masks"
    masks.mkdir(parents=True)
    pictures.rename(tmp_path / "set" / "images")
    for path in (tmp_path / "out").glob("*_mask.png"):
        path.rename(masks / path.name)
    digests.write(masks)
    (masks / "a_mask.png").write_bytes((masks / "b_mask.png").read_bytes())
    with pytest.raises(DataError, match=r"a_mask\.png: changed since"):
        dataset.read_dataset(tmp_path / "set")
