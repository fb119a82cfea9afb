"""Crops with the share that was asked for; trials in which only the loss differs; the loss log."""

import numpy as np
import pytest
import torch

from steelnb import losses
from steelnb.data import dataset
from steelnb.evaluation import metrics
from steelnb.network import geometry
from steelnb.network.unet import UNet
from steelnb.training import loss_trials
from steelnb.training.loss_trials import Crops

SMALL = dict(size=(16, 16), shrink=2)


@pytest.fixture(scope="module")
def training(steel, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELNB_HOME", str(tmp_path_factory.mktemp("clinic")))
        return loss_trials.crops(steel, 12, clean=0.25, share=0.2, **SMALL)


def short(loss, steel, **options):
    return loss_trials.trial(loss, steel, steel, **dict(steps=6, every=3, model=dict(width=2, depth=2)) | options)


# ---- crops ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_crops_have_the_share_that_was_asked_for(steel, share):
    crops = loss_trials.crops(steel, 20, share=share, clean=0.25, **SMALL)
    side = geometry.input_size(16, 2)
    assert crops.windows.shape == (20, 1, side, side)
    assert crops.masks.shape == (20, 1, 16, 16)
    assert crops.windows.dtype == torch.uint8
    assert crops.masks.dtype == torch.bool
    defective = crops.masks.any((1, 2, 3))
    assert defective.sum() == 15
    assert crops.masks[defective].float().mean().item() == pytest.approx(share, rel=0.2)
    assert crops.share == pytest.approx(crops.masks.float().mean().item())


def test_crops_are_pieces_of_the_shrunken_images(steel):
    """Each window's centre is found in one of the images, and the mask is the image's own there."""
    crops = loss_trials.crops(steel, 6, share=None, size=(16, 24), shrink=1)
    margin, places = geometry.margin(2), 0
    for window, mask in zip(crops.windows[:, 0].numpy(), crops.masks[:, 0].numpy(), strict=True):
        centre = window[margin : margin + 16, margin : margin + 24]
        for image_id in steel.images["ImageId"]:
            image = steel.image(image_id)
            views = np.lib.stride_tricks.sliding_window_view(image, (16, 24))
            for top, left in np.argwhere((views == centre).all((2, 3))):
                places += 1
                assert np.array_equal(steel.mask(image_id)[top : top + 16, left : left + 24], mask)
    assert places == 6


def test_shrinking_is_an_average_and_a_majority(steel):
    image = np.arange(64.0).reshape(8, 8)
    assert np.array_equal(loss_trials._blocks(image, 4), [[13.5, 17.5], [45.5, 49.5]])
    assert loss_trials._blocks(image[:7, :5], 3).shape == (2, 1)
    whole = loss_trials.crops(steel, 12, share=None, size=(99, 999), shrink=4)  # larger than an image: all of it
    assert whole.masks.shape == (12, 1, 16, 50)


def test_crops_follow_from_the_seed(steel):
    first, again, other = (loss_trials.crops(steel, 6, share=0.2, seed=seed, **SMALL) for seed in (1, 1, 2))
    assert torch.equal(first.windows, again.windows)
    assert torch.equal(first.masks, again.masks)
    assert not torch.equal(first.windows, other.windows)


def test_crops_that_cannot_be(steel):
    with pytest.raises(dataset.DataError, match="no image to take crops from"):
        loss_trials.crops(steel.subset([]), 4, share=None)
    with pytest.raises(dataset.DataError, match=r"reach a share of 0\.\d+, not 0.99"):
        loss_trials.crops(steel, 6, share=0.99, size=(60, 150), shrink=1)
    clean = steel.subset(steel.images.loc[steel.images["masks"] == 0, "ImageId"])
    with pytest.raises(dataset.DataError, match="no image with a defect"):
        loss_trials.crops(clean, 4)
    defective = steel.subset(steel.images.loc[steel.images["masks"] > 0, "ImageId"])
    with pytest.raises(dataset.DataError, match="only 0 of 6 crops found, 6 of which must be clean"):
        loss_trials.crops(defective, 6, clean=1.0, size=(64, 200), shrink=1)


# ---- trials --------------------------------------------------------------------------------------------------------


def test_history(training):
    history = short(losses.dice_loss, training, steps=7).history
    assert list(history) == ["step", "loss", "dice", "accuracy", "positive", "false_alarm_rate", "mean", "seconds"]
    assert history["step"].tolist() == [0, 3, 6, 7]
    assert history["seconds"].is_monotonic_increasing
    assert history.drop(columns="seconds").map(np.isfinite).all(axis=None)


@pytest.mark.usefixtures("anywhere")
def test_the_scores_are_those_of_the_model(training):
    result = short(losses.bce_loss, training, threshold=-0.5)
    model = result.model.cpu().eval()
    with torch.inference_mode():
        x = model(training.windows.float() / 255)[..., :16, :16]
    found, last = x > -0.5, result.history.iloc[-1]
    dice = metrics.dice(found, training.masks, empty="skip")
    assert last["dice"] == pytest.approx(dice.nanmean().item())
    assert last["accuracy"] == pytest.approx((found == training.masks).double().mean().item())
    assert last["positive"] == pytest.approx(found.double().mean().item())
    clean = ~training.masks.any((1, 2, 3))
    assert last["false_alarm_rate"] == pytest.approx(found[clean].any((1, 2, 3)).double().mean().item())
    assert last["mean"] == pytest.approx(x.mean().item(), rel=1e-5)


def test_only_the_loss_differs(training):
    """Same seed: the same first weights and batches whatever the loss, and the same history again."""
    seen = {}

    def spy(loss, name):
        def inner(logits, masks):
            seen.setdefault(name, []).append(masks.clone())
            return loss(logits, masks)

        return inner

    first = {name: short(spy(losses.LOSSES[name], name), training, seed=3) for name in ("dice", "bce")}
    assert all(torch.equal(a, b) for a, b in zip(*seen.values(), strict=True))
    at_0 = [result.history.iloc[0].drop(["loss", "seconds"]) for result in first.values()]
    assert at_0[0].equals(at_0[1])
    again, other = short(losses.dice_loss, training, seed=3), short(losses.dice_loss, training, seed=4)
    same = first["dice"].history.drop(columns="seconds")
    assert same.equals(again.history.drop(columns="seconds"))
    assert not same.equals(other.history.drop(columns="seconds"))


def test_watching_changes_nothing(training):
    def watch(model, windows, masks):
        assert windows.dtype == torch.float32
        assert windows.max() <= 1
        assert all(weight.grad is None for weight in model.parameters())
        losses.bce_loss(loss_trials.outputs(model, windows, masks), masks).backward()
        return {"slope": sum(weight.grad.abs().sum().item() for weight in model.parameters())}

    alone, watched = short(losses.dice_loss, training).history, short(losses.dice_loss, training, watch=watch).history
    assert (watched["slope"] > 0).all()
    assert watched[alone.columns].drop(columns="seconds").equals(alone.drop(columns="seconds"))


def test_gradients_of_the_last_step_are_left_on_the_model(training):
    assert all(weight.grad is not None for weight in short(losses.dice_loss, training).model.parameters())


def test_a_loss_that_is_not_finite_ends_the_trial(training):
    calls = []

    def breaks(logits, masks):
        calls.append(1)
        return losses.bce_loss(logits, masks) * (float("nan") if len(calls) == 5 else 1)

    history = short(breaks, training, steps=50).history
    assert history["step"].tolist() == [0, 3, 4]
    assert np.isnan(history["loss"].iloc[-1])
    assert np.isfinite(history["dice"]).all()


def test_a_trial_runs_on_one_thread(training):
    """So it is as fast on a busy machine, and the same on any."""
    seen = set()

    def loss(logits, mask):
        seen.add(torch.get_num_threads())
        return losses.LOSSES["dice"](logits, mask)

    torch.set_num_threads(3)
    try:
        short(loss, training)
        assert (seen, torch.get_num_threads()) == ({1}, 3)
        short(loss, training, model=dict(width=32, depth=2), steps=1)
        assert seen == {1, 3}
    finally:
        torch.set_num_threads(1)


def test_optimizers(training):
    plain, heavy = (
        short(losses.dice_loss, training, optimizer="sgd", learning_rate=0.1, momentum=m).history["loss"]
        for m in (0, 0.9)
    )
    assert plain.iloc[0] == heavy.iloc[0]
    assert plain.iloc[-1] != heavy.iloc[-1]
    with pytest.raises(ValueError, match="optimizer is 'adam'; it can be sgd or adamw"):
        short(losses.dice_loss, training, optimizer="adam")


def test_dice_learns(training):
    """Well above the constant answer, on the crops that it trains on."""
    constant = metrics.dice(torch.ones_like(training.masks), training.masks, empty="skip").nanmean().item()
    history = loss_trials.trial(losses.dice_loss, training, training, steps=150, every=150).history
    assert history["dice"].iloc[-1] > 1.5 * constant


def test_trials(training):
    both = {"Dice": losses.dice_loss, "BCE": losses.bce_loss}
    table = loss_trials.trials(both, training, training, seeds=(0, 1), steps=2,
                          model=dict(width=2, depth=2))
    assert table.groupby(["name", "seed"], sort=False)["step"].agg(list).to_dict() == {
        (name, seed): [0, 2] for name in ("Dice", "BCE") for seed in (0, 1)}
    assert list(table)[:3] == ["name", "seed", "step"]


def test_logits_are_those_that_are_scored(training):
    model = short(losses.dice_loss, training, model=dict(width=2, depth=2)).model.train()
    x = loss_trials.logits(model, training)
    assert model.training
    assert (x.shape, x.dtype, x.device.type) == (training.masks.shape, torch.float32, "cpu")
    dice = metrics.dice(x > 0, training.masks, empty="skip").nanmean().item()
    assert loss_trials.score(model, training)["dice"] == pytest.approx(dice)


def test_score_leaves_the_mode_as_it_was(training):
    model = UNet(width=2, depth=2)
    for mode in (True, False):
        loss_trials.score(model.train(mode), training)
        assert model.training is mode
    no_clean = Crops(training.windows[:3], training.masks[:3])
    assert np.isnan(loss_trials.score(model, no_clean)["false_alarm_rate"])
