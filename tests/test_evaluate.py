"""Scores of a network over a data set, against masks made by hand and a loop of its own."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from steelnb import evaluate, overlap_tile, training, weights
from steelnb.evaluate import evaluate_trained
from steelnb.samples import ImageCache, Item, Samples
from steelnb.unet import UNet


@pytest.fixture(scope="module")
def trained(steel, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELNB_HOME", str(folder.parent / "home"))
        training.train(steel, folder, tiny, device=torch.device("cpu"), progress=False, report=lambda line: None)
    return weights.load(folder)


def by_hand(model, data, ids):
    dices, whole = [], []
    for image_id in ids:
        p, t = overlap_tile.predict(model, data.image(image_id))[0] > 0, data.mask(image_id)
        total = p.sum() + t.sum()
        whole.append(2 * (p & t).sum() / total if total else 1.0)
        if t.any():
            dices.append(whole[-1])
    return np.mean(dices), np.mean(whole)


def test_scores_match_a_loop(steel, trained):
    which, scores = evaluate_trained(trained, steel, "all")
    dice, with_empty = by_hand(trained.model, steel, steel.images["ImageId"])
    assert which.startswith("12 of 12 images: all images; 9 of them have the name of")
    assert scores["dice"] == pytest.approx(dice)
    assert scores["dice_empty_is_one"] == pytest.approx(with_empty)
    assert scores["images"] == 12
    assert scores["defective"] == (steel.images["masks"] > 0).sum()


def test_parts_are_those_of_the_run(steel, trained):
    held_out = trained.about["validation"]
    which, scores = evaluate_trained(trained, steel)
    assert "held out for validation" in which
    assert scores["images"] == len(held_out)
    assert scores["dice"] == pytest.approx(by_hand(trained.model, steel, held_out)[0])
    assert evaluate_trained(trained, steel, "train")[1]["images"] == 12 - len(held_out)


def test_an_image_on_both_sides_is_not_called_held_out(steel, trained):
    about = trained.about | {"training": [*trained.about["training"], trained.about["validation"][0]]}
    which, scores = evaluate_trained(trained._replace(about=about), steel)
    assert "less 1 that the network was also trained on" in which
    assert scores["images"] == len(trained.about["validation"]) - 1


def test_weights_that_do_not_say_what_they_were_trained_on(steel, trained):
    assert evaluate_trained(trained._replace(about={}), steel)[0] == "12 of 12 images: all images"


def test_other_data_has_no_validation_part(steel, trained):
    other = steel.subset(trained.about["training"][:4] + trained.about["validation"][:1])
    assert evaluate_trained(trained, other)[0] == (
        "5 of 5 images: all images; 4 of them have the name of an image that it was trained on"
    )
    with pytest.raises(ValueError, match="trained on other data"):
        evaluate_trained(trained, other, "validation")


def test_other_classes_are_refused(steel, tiny, tmp_path):
    recipe = tiny.changed(per_class=True)
    training.train(steel, tmp_path / "run", recipe, steps=1, progress=False, report=lambda _: None)
    four = weights.load(tmp_path / "run")
    with pytest.raises(ValueError, match=r"4 classes, .* has 1"):
        evaluate_trained(four, replace(steel, classes=(1,)))


def test_nothing_to_score_is_nan_not_a_number_from_nowhere(steel):
    clean = steel.subset([i for i, n in zip(steel.images["ImageId"], steel.images["masks"], strict=True) if n == 0])
    samples = Samples(clean, ImageCache(clean), [Item(i) for i in clean.images["ImageId"]], depth=2)
    scores = evaluate.evaluate(UNet(width=1, depth=2), samples)
    assert math.isnan(scores["dice"])
    assert "loss" not in scores
    assert scores["defective"] == 0
    assert "nan" in evaluate.table(scores)


def test_the_originals_geometry_scores_its_centre(steel):
    torch.manual_seed(0)
    model = UNet.original(width=1).eval()
    samples = Samples(steel, ImageCache(steel), [Item(i) for i in steel.images["ImageId"]], geometry="original")
    logits, mask = evaluate.predicted(model, samples, 0)
    assert logits.shape == mask.shape == (1, 52, 196)
