"""Scores of a network over a data set, against masks made by hand and a loop of its own."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from steelnb.data.image_cache import ImageCache
from steelnb.evaluation import report
from steelnb.evaluation.scores import ALL, DEFECTIVE, PIXELS, Key
from steelnb.network import inference
from steelnb.network.unet import UNet
from steelnb.network.weights import Trained
from steelnb.training import validation
from steelnb.training.samples import Item, Samples


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(4)
    model = UNet(width=2, depth=1)
    nn.init.constant_(model.head.bias, 0.1)
    model(torch.rand(2, 1, 20, 20))
    return model.eval()


@pytest.fixture
def samples(steel):
    return Samples(steel, ImageCache(steel), [Item(i) for i in steel.images["ImageId"]], depth=1)


def by_hand(model, data, ids):
    dices, whole = [], []
    for image_id in ids:
        p, t = inference.predict_logits(model, data.image(image_id))[0] > 0, data.mask(image_id)
        total = p.sum() + t.sum()
        whole.append(2 * (p & t).sum() / total if total else 1.0)
        if t.any():
            dices.append(whole[-1])
    return np.mean(dices), np.mean(whole)


def test_scores_match_a_loop(steel, samples, model):
    scores = validation.validate(model, samples)
    dice, with_empty = by_hand(model, steel, steel.images["ImageId"])
    assert scores["dice"] == pytest.approx(dice)
    assert 0 < dice < 1
    assert scores["dice_empty_is_one"] == pytest.approx(with_empty)
    assert scores["images"] == 12
    assert scores["defective"] == (steel.images["masks"] > 0).sum()


def test_the_report_has_the_same_scores(steel, samples, model):
    """Written apart, over the same images."""
    scores, found = validation.validate(model, samples), report.evaluate(Trained(model, {}), steel, replicates=0).scores
    for name, key in {
        "dice": Key("Dice", "any", DEFECTIVE), "iou": Key("IoU", "any", DEFECTIVE),
        "dice_empty_is_one": Key("Dice", "any", ALL), "iou_empty_is_one": Key("IoU", "any", ALL),
        "dice_all_pixels": Key("Dice", "any", PIXELS), "precision": Key("precision", "any"),
        "recall": Key("recall", "any"), "false_alarm_rate": Key("clean images with an alarm", "any"),
    }.items():
        assert scores[name] == pytest.approx(found.value(key)), name


def test_the_loss_is_the_mean_over_images_and_each_is_announced(samples, model):
    seen = []
    loss = lambda logits, mask: (logits * mask).mean()  # noqa: E731
    scores = validation.validate(model, samples, loss, before_each=lambda: seen.append(1))
    each = []
    for index in range(len(samples)):
        logits, mask = validation.logits_and_mask(model, samples, index)
        each.append((logits * mask).mean())
    assert scores["loss"] == pytest.approx(np.mean(each))
    assert len(seen) == 12


def test_nothing_to_score_is_nan_not_a_number_from_nowhere(steel):
    clean = steel.subset([i for i, n in zip(steel.images["ImageId"], steel.images["masks"], strict=True) if n == 0])
    samples = Samples(clean, ImageCache(clean), [Item(i) for i in clean.images["ImageId"]], depth=2)
    scores = validation.validate(UNet(width=1, depth=2), samples)
    assert math.isnan(scores["dice"])
    assert "loss" not in scores
    assert scores["defective"] == 0


def test_the_originals_geometry_scores_its_centre(steel):
    torch.manual_seed(0)
    model = UNet.original(width=1).eval()
    samples = Samples(steel, ImageCache(steel), [Item(i) for i in steel.images["ImageId"]], geometry="original")
    logits, mask = validation.logits_and_mask(model, samples, 0)
    assert logits.shape == mask.shape == (1, 52, 196)

