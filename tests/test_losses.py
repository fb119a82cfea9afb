"""Losses against float64 formulas and finite differences in NumPy; half precision; empty masks; wrong shapes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steelnb import losses
from steelnb.losses import LOSSES

fixed = settings(deadline=None, derandomize=True, max_examples=60)


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def bce_formula(x, t, weight=1.0):
    return (weight * t * np.logaddexp(0, -x) + (1 - t) * np.logaddexp(0, x)).mean()


def dice_formula(x, t, per, smooth):
    """One loss an image and class, or one a class, by loops."""
    p = sigmoid(x)
    groups = [(n, k) for n in range(len(x)) for k in range(x.shape[1])]
    if per == "batch":
        groups = [(slice(None), k) for k in range(x.shape[1])]
    return np.mean([1 - (2 * (p[g] * t[g]).sum() + smooth) / (p[g].sum() + t[g].sum() + smooth) for g in groups])


FORMULAS = {
    "bce": bce_formula,
    "weighted_bce": lambda x, t: bce_formula(x, t, 94 / 6),
    "dice": lambda x, t: dice_formula(x, t, "image", 1.0),
    "batch_dice": lambda x, t: dice_formula(x, t, "batch", 1.0),
    "original_dice": lambda x, t: dice_formula(x, t, "image", 1e-4),
    "dice_bce": lambda x, t: 0.5 * dice_formula(x, t, "batch", 1.0) + 0.5 * bce_formula(x, t),
}


def sample(seed=0, shape=(2, 3, 5, 4), share=0.3):
    rng = np.random.default_rng(seed)
    return 2 * rng.standard_normal(shape), (rng.random(shape) < share).astype(float)


def loss_of(name, x, t):
    return LOSSES[name](torch.tensor(x, dtype=torch.float32), torch.tensor(t)).item()


def test_the_registry_is_complete():
    assert set(LOSSES) == set(FORMULAS)
    assert all(loss.__name__ == name and getattr(losses, name) is loss for name, loss in LOSSES.items())


@pytest.mark.parametrize("name", FORMULAS)
@given(st.integers(0, 1000), st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.floats(0, 1))
@fixed
def test_the_formula(name, seed, images, classes, side, share):
    x, t = sample(seed, (images, classes, side, side + 1), share)
    assert loss_of(name, x, t) == pytest.approx(FORMULAS[name](x, t), rel=2e-5, abs=1e-6)


@pytest.mark.parametrize(("per", "smooth"), [("image", 0.5), ("batch", 3.0)])
def test_options_of_dice(per, smooth):
    x, t = sample(3)
    expected = dice_formula(x, t, per, smooth)
    logits, mask = torch.tensor(x), torch.tensor(t)
    assert losses.dice(logits, mask, per, smooth).item() == pytest.approx(expected, rel=1e-5)
    assert losses.dice(logits, mask, per=per, smooth=smooth).item() == pytest.approx(expected, rel=1e-5)


def test_options_of_the_others():
    x, t = sample(4)
    logits, mask = torch.tensor(x), torch.tensor(t)
    assert losses.bce(logits, mask, positive_weight=7).item() == pytest.approx(bce_formula(x, t, 7), rel=1e-5)
    mixed = 0.2 * dice_formula(x, t, "image", 1) + 0.8 * bce_formula(x, t)
    assert losses.dice_bce(logits, mask, dice_share=0.2, per="image").item() == pytest.approx(mixed, rel=1e-5)
    with pytest.raises(ValueError, match="per is 'pixel'; it can be image or batch"):
        losses.dice(logits, mask, per="pixel")


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_the_gradient_is_the_formula_s_finite_difference(name, share):
    x, t = sample(1, (2, 2, 3, 2), share)
    logits = torch.tensor(x, dtype=torch.float32, requires_grad=True)
    LOSSES[name](logits, torch.tensor(t)).backward()
    expected, h = np.zeros_like(x), 1e-5
    for place in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[place] += h
        down[place] -= h
        expected[place] = (FORMULAS[name](up, t) - FORMULAS[name](down, t)) / (2 * h)
    assert logits.grad.dtype == torch.float32
    np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_by_hand():
    x, t = torch.zeros(1, 1, 2, 2), torch.tensor([[[[1, 0], [0, 0]]]])  # p = 0.5 everywhere
    assert losses.bce(x, t).item() == pytest.approx(np.log(2))
    assert losses.weighted_bce(x, t).item() == pytest.approx(np.log(2) * (94 / 6 + 3) / 4)
    assert losses.dice(x, t).item() == pytest.approx(1 - (2 * 0.5 + 1) / (2 + 1 + 1))
    assert losses.original_dice(x, t).item() == pytest.approx(1 - 1.0001 / 3.0001)


def test_image_and_batch_part_where_one_image_is_empty():
    x = torch.full((2, 1, 2, 2), -20.0)
    x[0, 0, 0, 0] = 20
    t = (x > 0).float()
    x[1] = 0  # the empty image: 4 · 0.5 pixels too many
    assert losses.dice(x, t).item() == pytest.approx((0 + 2 / 3) / 2, abs=1e-6)
    assert losses.batch_dice(x, t).item() == pytest.approx(1 - 3 / (1 + 2 + 1 + 1), abs=1e-6)


@pytest.mark.parametrize("smooth", [1.0, 1e-4, 10.0])
def test_empty_masks(smooth):
    """The documented Σp / (Σp + smooth), and its gradient, which fades as smooth over the square of the sum."""
    x, t = sample(2, (1, 1, 6, 7), share=0)
    logits = torch.tensor(x, dtype=torch.float32, requires_grad=True)
    loss = losses.dice(logits, torch.tensor(t), smooth=smooth)
    loss.backward()
    p = sigmoid(x)
    assert loss.item() == pytest.approx(p.sum() / (p.sum() + smooth), rel=1e-5)
    slope = smooth / (p.sum() + smooth) ** 2 * p * (1 - p)
    np.testing.assert_allclose(logits.grad.numpy(), slope, rtol=1e-3, atol=1e-9)
    assert losses.dice(torch.full((1, 1, 6, 7), -40.0), torch.tensor(t), smooth=smooth).item() == 0


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_right_is_0_and_wrong_is_bad(name, share):
    _, t = sample(5, share=share)
    assert loss_of(name, 60 * t - 30, t) == pytest.approx(0, abs=1e-6)
    assert loss_of(name, 30 - 60 * t, t) > 0.9


@pytest.mark.parametrize("name", ["dice", "batch_dice", "original_dice"])
@given(st.integers(0, 1000), st.floats(0, 1), st.sampled_from([0.1, 3, 100, 1e4]))
@fixed
def test_dice_lies_in_0_to_1(name, seed, share, scale):
    x, t = sample(seed, share=share)
    assert 0 <= loss_of(name, scale * x, t) <= 1


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_of_a_whole_image(name, dtype):
    """409,600 pixels: their sum does not exist in float16, and bfloat16 stops counting at 256."""
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(2, 1, 256, 1600, generator=generator) + 2).to(dtype).requires_grad_()
    mask = torch.rand(2, 1, 256, 1600, generator=generator) < 0.9
    loss, expected = LOSSES[name](logits, mask), LOSSES[name](logits.detach().float(), mask)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    x, t = logits.detach().float().double().numpy(), mask.double().numpy()
    assert loss.item() == pytest.approx(FORMULAS[name](x, t), rel=1e-4)
    loss.backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", FORMULAS)
def test_under_autocast(name):
    x, t = sample(6)
    logits, mask = torch.tensor(x, dtype=torch.float32), torch.tensor(t)
    with torch.autocast("cpu", torch.bfloat16):
        inside = LOSSES[name](logits.bfloat16(), mask)
    assert inside.dtype == torch.float32
    assert inside.item() == pytest.approx(LOSSES[name](logits.bfloat16(), mask).item(), rel=1e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_huge_logits_stay_finite(name):
    t = torch.tensor([[[[1.0, 0.0]]]])
    logits = torch.tensor([[[[-1e4, 1e4]]]], requires_grad=True)
    loss = LOSSES[name](logits, t)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64])
def test_masks_of_any_dtype(name, dtype):
    x, t = sample(7)
    logits = torch.tensor(x)
    expected = LOSSES[name](logits, torch.tensor(t, dtype=torch.float32))
    assert torch.equal(LOSSES[name](logits, torch.tensor(t).to(dtype)), expected)
    assert expected.dtype == torch.float32
    assert expected.shape == ()


BAD_SHAPES = [((2, 1, 4, 4), (2, 4, 4)), ((2, 1, 4, 4), (2, 1, 4, 5)), ((2, 1, 4, 4), (1, 1, 4, 4)),
              ((2, 4, 4, 4), (2, 1, 4, 4)), ((4, 4), (4, 4)), ((2, 4, 4), (2, 4, 4)),
              ((1, 1, 1, 4, 4), (1, 1, 1, 4, 4))]  # fmt: skip


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize(("logits", "mask"), BAD_SHAPES)
def test_shapes_that_would_broadcast_are_refused(name, logits, mask):
    with pytest.raises(ValueError, match=r"logits and mask are both \[N, K, H, W\], got \["):
        LOSSES[name](torch.zeros(logits), torch.zeros(mask))


def test_weighted_bce_balances_the_classes():
    """At 6 % defects, doubting every pixel costs the same gradient on both sides: the best constant is p = 0.5."""
    t = torch.zeros(1, 1, 10, 10)
    t.view(-1)[:6] = 1
    for loss, best in ((losses.weighted_bce, 0.0), (losses.bce, float(np.log(6 / 94)))):
        logit = torch.tensor(best, requires_grad=True)
        loss(logit.expand(t.shape), t).backward()
        assert logit.grad.item() == pytest.approx(0, abs=1e-6)
    assert losses.bce(torch.full_like(t, float(np.log(6 / 94))), t).item() == pytest.approx(0.227, abs=5e-4)
