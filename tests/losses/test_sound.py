"""Losses against float64 formulas, finite differences, brute force and MONAI; half precision; empty masks; shapes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from torch.utils._python_dispatch import TorchDispatchMode

from steelnb import losses
from steelnb.losses import LOSSES
from steelnb.losses.sound import signed_distance

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


def focal_formula(x, t, gamma=2.0):
    p_t = np.where(t > 0, sigmoid(x), sigmoid(-x))
    return (np.logaddexp(0, np.where(t > 0, -x, x)) * (1 - p_t) ** gamma).mean()


def images(x, t):
    return [(x[n, k], t[n, k]) for n in range(len(x)) for k in range(x.shape[1])]


def topk_formula(x, t, share=0.1):
    hardest = [np.sort(np.logaddexp(0, np.where(m > 0, -y, y)).ravel())[::-1] for y, m in images(x, t)]
    return np.mean([pixels[: max(1, round(share * pixels.size))].mean() for pixels in hardest])


def squared_formula(x, t):
    ratios = [(2 * (sigmoid(y) * m).sum() + 1) / ((sigmoid(y) ** 2).sum() + m.sum() + 1) for y, m in images(x, t)]
    return 1 - np.mean(ratios)


def log_formula(x, t):
    ratios = [(2 * (sigmoid(y) * m).sum() + 1) / (sigmoid(y).sum() + m.sum() + 1) for y, m in images(x, t)]
    return -np.mean(np.log(ratios))


def generalised_formula(x, t):
    values = []
    for y, m in images(x, t):
        sizes = np.array([m.sum(), (1 - m).sum()])
        weights = 1 / np.where(sizes > 0, sizes, sizes[::-1]) ** 2
        labels = ((sigmoid(y), m), (sigmoid(-y), 1 - m))
        above = sum(w * (p * r).sum() for w, (p, r) in zip(weights, labels, strict=True))
        below = sum(w * (p + r).sum() for w, (p, r) in zip(weights, labels, strict=True))
        values.append(1 - 2 * above / below)
    return np.mean(values)


def tversky_formula(x, t, alpha=0.3, beta=0.7, power=1.0):
    values = []
    for y, m in images(x, t):
        p = sigmoid(y)
        hits, alarms, misses = (p * m).sum(), (p * (1 - m)).sum(), (sigmoid(-y) * m).sum()
        values.append(((alpha * alarms + beta * misses) / (hits + alpha * alarms + beta * misses + 1)) ** power)
    return np.mean(values)


def lovasz_formula(x, t):
    """Algorithm 1 of Berman et al. 2018 as the authors wrote it: differences of consecutive Jaccard losses."""
    values = []
    for y, m in images(x, t):
        errors = (1 - y * (2 * m - 1)).ravel()
        order = np.argsort(-errors, kind="stable")
        truth = m.ravel()[order]
        jaccard = 1 - (truth.sum() - truth.cumsum()) / (truth.sum() + (1 - truth).cumsum())
        values.append(np.maximum(errors[order], 0) @ np.diff(jaccard, prepend=0))
    return np.mean(values)


def boundary_formula(x, t):
    values = []
    for y, m in images(x, t):
        phi = np.zeros(m.shape)
        if 0 < m.sum() < m.size:
            phi = np.where(m > 0, 0.5 - distance_transform_edt(m), distance_transform_edt(1 - m) - 0.5)
        values.append((phi * (sigmoid(y) - m)).mean() / np.hypot(*m.shape))
    return np.mean(values)


FORMULAS = {
    "bce": bce_formula,
    "weighted_bce": lambda x, t: bce_formula(x, t, 94 / 6),
    "focal": focal_formula,
    "topk_bce": topk_formula,
    "dice": lambda x, t: dice_formula(x, t, "image", 1.0),
    "batch_dice": lambda x, t: dice_formula(x, t, "batch", 1.0),
    "original_dice": lambda x, t: dice_formula(x, t, "image", 1e-4),
    "squared_dice": squared_formula,
    "log_dice": log_formula,
    "generalised_dice": generalised_formula,
    "tversky": tversky_formula,
    "focal_tversky": lambda x, t: np.mean([tversky_formula(y[None, None], m[None, None], power=0.75)
                                           for y, m in images(x, t)]),
    "lovasz_hinge": lovasz_formula,
    "dice_bce": lambda x, t: 0.5 * dice_formula(x, t, "batch", 1.0) + 0.5 * bce_formula(x, t),
    "dice_focal": lambda x, t: 0.5 * dice_formula(x, t, "batch", 1.0) + 0.5 * focal_formula(x, t),
    "dice_boundary": lambda x, t: 0.5 * dice_formula(x, t, "image", 1.0) + 0.5 * boundary_formula(x, t),
}


def sample(seed=0, shape=(2, 3, 5, 4), share=0.3):
    rng = np.random.default_rng(seed)
    return 2 * rng.standard_normal(shape), (rng.random(shape) < share).astype(float)


def loss_of(name, x, t):
    return LOSSES[name](torch.tensor(x, dtype=torch.float32), torch.tensor(t)).item()


def test_the_registry_is_complete():
    assert set(LOSSES) == set(FORMULAS)
    assert all(
        loss.__name__ == f"{name}_loss" and getattr(losses, loss.__name__) is loss for name, loss in LOSSES.items()
    )


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
    assert losses.dice_loss(logits, mask, per, smooth).item() == pytest.approx(expected, rel=1e-5)
    assert losses.dice_loss(logits, mask, per=per, smooth=smooth).item() == pytest.approx(expected, rel=1e-5)


def test_options_of_the_others():
    x, t = sample(4)
    logits, mask = torch.tensor(x), torch.tensor(t)
    assert losses.bce_loss(logits, mask, positive_weight=7).item() == pytest.approx(bce_formula(x, t, 7), rel=1e-5)
    mixed = 0.2 * dice_formula(x, t, "image", 1) + 0.8 * bce_formula(x, t)
    assert losses.dice_bce_loss(logits, mask, dice_share=0.2, per="image").item() == pytest.approx(mixed, rel=1e-5)
    with pytest.raises(ValueError, match="per is 'pixel'; it can be image or batch"):
        losses.dice_loss(logits, mask, per="pixel")


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
    assert losses.bce_loss(x, t).item() == pytest.approx(np.log(2))
    assert losses.weighted_bce_loss(x, t).item() == pytest.approx(np.log(2) * (94 / 6 + 3) / 4)
    assert losses.dice_loss(x, t).item() == pytest.approx(1 - (2 * 0.5 + 1) / (2 + 1 + 1))
    assert losses.original_dice_loss(x, t).item() == pytest.approx(1 - 1.0001 / 3.0001)


def test_image_and_batch_part_where_one_image_is_empty():
    x = torch.full((2, 1, 2, 2), -20.0)
    x[0, 0, 0, 0] = 20
    t = (x > 0).float()
    x[1] = 0  # the empty image: 4 · 0.5 pixels too many
    assert losses.dice_loss(x, t).item() == pytest.approx((0 + 2 / 3) / 2, abs=1e-6)
    assert losses.batch_dice_loss(x, t).item() == pytest.approx(1 - 3 / (1 + 2 + 1 + 1), abs=1e-6)


@pytest.mark.parametrize("smooth", [1.0, 1e-4, 10.0])
def test_empty_masks(smooth):
    """The documented Σp / (Σp + smooth), and its gradient, which fades as smooth over the square of the sum."""
    x, t = sample(2, (1, 1, 6, 7), share=0)
    logits = torch.tensor(x, dtype=torch.float32, requires_grad=True)
    loss = losses.dice_loss(logits, torch.tensor(t), smooth=smooth)
    loss.backward()
    p = sigmoid(x)
    assert loss.item() == pytest.approx(p.sum() / (p.sum() + smooth), rel=1e-5)
    slope = smooth / (p.sum() + smooth) ** 2 * p * (1 - p)
    np.testing.assert_allclose(logits.grad.numpy(), slope, rtol=1e-3, atol=1e-9)
    assert losses.dice_loss(torch.full((1, 1, 6, 7), -40.0), torch.tensor(t), smooth=smooth).item() == 0


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_right_is_0_and_wrong_is_bad(name, share):
    _, t = sample(5, (2, 3, 12, 10), share)
    assert loss_of(name, 60 * t - 30, t) == pytest.approx(0, abs=1e-6)
    assert loss_of(name, 30 - 60 * t, t) > (0.49 if name == "dice_boundary" else 0.9)  # its distances are short here


BOUNDED = ["dice", "batch_dice", "original_dice", "squared_dice", "generalised_dice", "tversky", "focal_tversky",
           "dice_boundary"]


@pytest.mark.parametrize("name", BOUNDED)
@given(st.integers(0, 1000), st.floats(0, 1), st.sampled_from([0.1, 3, 100, 1e4]))
@fixed
def test_overlaps_lie_in_0_to_1(name, seed, share, scale):
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
    logits = torch.tensor(x, dtype=torch.float32)
    expected = LOSSES[name](logits, torch.tensor(t, dtype=torch.float32))
    assert torch.equal(LOSSES[name](logits, torch.tensor(t).to(dtype)), expected)
    assert expected.dtype == torch.float32
    assert expected.shape == ()


BAD_SHAPES = [((2, 1, 4, 4), (2, 4, 4)), ((2, 1, 4, 4), (2, 1, 4, 5)), ((2, 1, 4, 4), (1, 1, 4, 4)),
              ((2, 4, 4, 4), (2, 1, 4, 4)), ((4, 4), (4, 4)), ((2, 4, 4), (2, 4, 4)),
              ((1, 1, 1, 4, 4), (1, 1, 1, 4, 4))]


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize(("logits", "mask"), BAD_SHAPES)
def test_shapes_that_would_broadcast_are_refused(name, logits, mask):
    with pytest.raises(ValueError, match=r"logits and mask are both \[N, K, H, W\], got \["):
        LOSSES[name](torch.zeros(logits), torch.zeros(mask))


def test_weighted_bce_balances_the_classes():
    """At 6 % defects, doubting every pixel costs the same gradient on both sides: the best constant is p = 0.5."""
    t = torch.zeros(1, 1, 10, 10)
    t.view(-1)[:6] = 1
    for loss, best in ((losses.weighted_bce_loss, 0.0), (losses.bce_loss, float(np.log(6 / 94)))):
        logit = torch.tensor(best, requires_grad=True)
        loss(logit.expand(t.shape), t).backward()
        assert logit.grad.item() == pytest.approx(0, abs=1e-6)
    assert losses.bce_loss(torch.full_like(t, float(np.log(6 / 94))), t).item() == pytest.approx(0.227, abs=5e-4)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck_in_float64(name, reduction):
    x, t = sample(8, (2, 2, 4, 3))
    logits, mask = torch.tensor(x, requires_grad=True), torch.tensor(t)
    assert LOSSES[name](logits, mask).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, mask, reduction=reduction), logits)


@pytest.mark.parametrize("name", FORMULAS)
def test_reduction(name):
    x, t = sample(9)
    logits, mask = torch.tensor(x), torch.tensor(t)
    terms = LOSSES[name](logits, mask, reduction="none")
    per_batch, pixelwise = ("batch_dice", "dice_bce", "dice_focal"), ("bce", "weighted_bce", "focal")
    assert terms.shape == (x.shape if name in pixelwise else (3,) if name in per_batch else (2, 3))
    assert LOSSES[name](logits, mask, reduction="mean").item() == pytest.approx(terms.mean().item(), rel=1e-12)
    assert LOSSES[name](logits, mask, reduction="sum").item() == pytest.approx(terms.sum().item(), rel=1e-12)
    assert torch.equal(LOSSES[name](logits, mask), terms.mean())
    with pytest.raises(ValueError, match="reduction is 'max'; it can be mean, sum, none"):
        LOSSES[name](logits, mask, reduction="max")


@pytest.mark.parametrize("name", sorted(set(FORMULAS) - {"batch_dice", "dice_bce", "dice_focal"}))
def test_terms_are_the_loss_of_one_image_and_class(name):
    x, t = sample(10)
    logits, mask = torch.tensor(x), torch.tensor(t)
    terms = LOSSES[name](logits, mask, reduction="none")
    terms = terms.mean((2, 3)) if terms.ndim == 4 else terms
    for n, k in np.ndindex(2, 3):
        assert terms[n, k].item() == pytest.approx(FORMULAS[name](x[n:n + 1, k:k + 1], t[n:n + 1, k:k + 1]), rel=1e-7)


@pytest.mark.parametrize("name", ["squared_dice", "log_dice", "generalised_dice", "tversky", "focal_tversky",
                                  "lovasz_hinge"])
def test_per_batch_is_the_loss_of_one_long_image(name):
    x, t = sample(11)
    loss = losses.LOSSES[name]
    together = loss(torch.tensor(x), torch.tensor(t), per="batch", reduction="none")
    long = [torch.cat(list(torch.tensor(part)), dim=1)[None] for part in (x, t)]
    torch.testing.assert_close(together, loss(*long, reduction="none")[0])
    with pytest.raises(ValueError, match="per is 'pixel'; it can be image or batch"):
        loss(torch.tensor(x), torch.tensor(t), per="pixel")


# ---- options of the new ones ---------------------------------------------------------------------------------------


def test_special_cases_are_each_other():
    x, t = sample(12)
    logits, mask = torch.tensor(x), torch.tensor(t)
    assert losses.focal_loss(logits, mask, gamma=0).item() == pytest.approx(losses.bce_loss(logits, mask).item())
    assert losses.topk_bce_loss(logits, mask, share=1).item() == pytest.approx(losses.bce_loss(logits, mask).item())
    assert losses.tversky_loss(logits, mask, 0.5, 0.5, smooth=1).item() == pytest.approx(
        losses.dice_loss(logits, mask, smooth=2).item())
    assert losses.focal_tversky_loss(logits, mask, gamma=1).item() == pytest.approx(
        losses.tversky_loss(logits, mask).item()
    )
    assert losses.dice_boundary_loss(logits, mask, dice_share=1).item() == pytest.approx(
        losses.dice_loss(logits, mask).item()
    )
    assert losses.dice_focal_loss(logits, mask, gamma=0, per="image").item() == pytest.approx(
        losses.dice_bce_loss(logits, mask, per="image").item())
    alpha = losses.focal_loss(logits, mask, alpha=0.25, reduction="none") / losses.focal_loss(
        logits, mask, reduction="none"
    )
    assert torch.allclose(alpha, torch.where(mask > 0, 0.25, 0.75).double())
    for share in (0, -1, 1.1):
        with pytest.raises(ValueError, match=r"it lies in \(0, 1\]"):
            losses.topk_bce_loss(logits, mask, share=share)


def test_tversky_weighs_misses_and_false_alarms():
    t = torch.zeros(1, 1, 4, 4)
    t[..., :2, :] = 1
    missed, alarmed = 40 * t - 20, 40 * t - 20
    missed[..., 0, 0], alarmed[..., 3, 0] = -20, 20  # one pixel wrong of 8 that are right or 7
    assert losses.tversky_loss(missed, t, smooth=0).item() == pytest.approx(0.7 / (7 + 0.7), rel=1e-5)
    assert losses.tversky_loss(alarmed, t, smooth=0).item() == pytest.approx(0.3 / (8 + 0.3), rel=1e-5)


def jaccard_loss(wrong, truth):
    """Equation 6 of Berman et al. 2018: the Jaccard loss when the pixels of the set `wrong` are predicted wrong."""
    return len(wrong) / len(truth | wrong) if wrong else 0.0


@pytest.mark.parametrize("share", [0, 0.2, 0.5, 1])
@pytest.mark.parametrize("seed", range(4))
def test_lovasz_hinge_by_sets(seed, share):
    x, t = sample(seed, (1, 1, 4, 5), share)
    truth, errors = set(np.flatnonzero(t)), (1 - x * (2 * t - 1)).clip(0).ravel()
    value, wrong = 0.0, set()
    for pixel in np.argsort(-errors):
        more = wrong | {pixel}
        value += errors[pixel] * (jaccard_loss(more, truth) - jaccard_loss(wrong, truth))
        wrong = more
    assert losses.lovasz_hinge_loss(torch.tensor(x), torch.tensor(t)).item() == pytest.approx(value, rel=1e-9)


def test_lovasz_hinge_extends_the_jaccard_loss():
    """With errors of 0 and 1 only, that is logits of ±1 and 0, it is 1 − IoU of the wrong pixels, at any size."""
    generator = torch.Generator().manual_seed(0)
    t = torch.rand(1, 1, 256, 1600, generator=generator) < 0.06
    wrong = torch.rand(t.shape, generator=generator) < 0.1
    x = torch.where(t, 1.0, -1.0) * ~wrong
    expected = wrong.sum().item() / (t | wrong).sum().item()
    assert losses.lovasz_hinge_loss(x, t).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_signed_distance_by_brute_force(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((2, 2, 6, 9)) < [0.1, 0.3, 0.5, 0.7, 0.9][seed]
    phi = signed_distance(torch.tensor(mask))
    assert phi.dtype == torch.float32
    for n, k, row, column in np.ndindex(mask.shape):
        here = mask[n, k, row, column]
        others = np.argwhere(mask[n, k] != here)
        nearest = np.sqrt(((others - (row, column)) ** 2).sum(1).min()) - 0.5 if len(others) else 0
        assert phi[n, k, row, column].item() * np.hypot(6, 9) == pytest.approx(-nearest if here else nearest, abs=1e-5)


def test_boundary_counts_how_far_a_mistake_lies():
    t = torch.zeros(1, 1, 8, 8)
    t[..., :4] = 1  # its edge lies between columns 3 and 4
    values = []
    for column in (4, 5, 7):
        x = 40 * t - 20
        x[0, 0, 0, column] = 20
        values.append(losses.boundary_loss(x, t).item() * 64 * 128**0.5)
    assert values == pytest.approx([0.5, 1.5, 3.5], rel=1e-5)
    flat = losses.boundary_loss(torch.zeros_like(t, requires_grad=True), torch.zeros_like(t))
    flat.backward()
    assert flat.item() == 0  # an empty mask has no boundary


# ---- empty masks ---------------------------------------------------------------------------------------------------

EMPTY = {
    "bce": lambda x, p: np.logaddexp(0, x).mean(),
    "weighted_bce": lambda x, p: np.logaddexp(0, x).mean(),
    "focal": lambda x, p: (p**2 * np.logaddexp(0, x)).mean(),
    "topk_bce": lambda x, p: np.sort(np.logaddexp(0, x).ravel())[-4:].mean(),
    "dice": lambda x, p: p.sum() / (p.sum() + 1),
    "batch_dice": lambda x, p: p.sum() / (p.sum() + 1),
    "original_dice": lambda x, p: p.sum() / (p.sum() + 1e-4),
    "squared_dice": lambda x, p: (p**2).sum() / ((p**2).sum() + 1),
    "log_dice": lambda x, p: np.log1p(p.sum()),
    "generalised_dice": lambda x, p: p.mean(),
    "tversky": lambda x, p: 0.3 * p.sum() / (0.3 * p.sum() + 1),
    "focal_tversky": lambda x, p: (0.3 * p.sum() / (0.3 * p.sum() + 1)) ** 0.75,
    "lovasz_hinge": lambda x, p: max(0, 1 + x.max()),
    "dice_bce": lambda x, p: 0.5 * p.sum() / (p.sum() + 1) + 0.5 * np.logaddexp(0, x).mean(),
    "dice_focal": lambda x, p: 0.5 * p.sum() / (p.sum() + 1) + 0.5 * (p**2 * np.logaddexp(0, x)).mean(),
    "dice_boundary": lambda x, p: 0.5 * p.sum() / (p.sum() + 1),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_documented_values_of_empty_masks(name):
    """What each docstring says of an empty mask, and that the gradient asks for less, never for more, everywhere."""
    x, t = sample(13, (1, 1, 6, 7), share=0)
    logits = torch.tensor(x, requires_grad=True)
    loss = LOSSES[name](logits, torch.tensor(t))
    loss.backward()
    assert loss.item() == pytest.approx(EMPTY[name](x, sigmoid(x)), rel=1e-9)
    assert (logits.grad >= 0).all()
    assert logits.grad.max() > 0


def test_generalised_dice_of_a_full_mask():
    x, _ = sample(14, (1, 1, 6, 7))
    full = losses.generalised_dice_loss(torch.tensor(x), torch.ones(x.shape))
    assert full.item() == pytest.approx(sigmoid(-x).mean(), rel=1e-9)


# ---- another library's values --------------------------------------------------------------------------------------


def test_values_of_monai():
    """MONAI has the same formulas under these options. It has no log Dice, Lovász hinge or boundary loss of these."""
    monai = pytest.importorskip("monai.losses")
    x, t = sample(15, (3, 2, 9, 8))
    logits, mask = torch.tensor(x, dtype=torch.float32), torch.tensor(t, dtype=torch.float32)
    one = dict(smooth_nr=1.0, smooth_dr=1.0)
    same = [
        (losses.dice_loss(logits, mask), monai.DiceLoss(sigmoid=True, **one)),
        (losses.batch_dice_loss(logits, mask), monai.DiceLoss(sigmoid=True, batch=True, **one)),
        (losses.original_dice_loss(logits, mask), monai.DiceLoss(sigmoid=True, smooth_nr=1e-4, smooth_dr=1e-4)),
        (losses.squared_dice_loss(logits, mask), monai.DiceLoss(sigmoid=True, squared_pred=True, **one)),
        (losses.focal_loss(logits, mask), monai.FocalLoss(gamma=2)),
        (losses.focal_loss(logits, mask, gamma=1.5, alpha=0.25), monai.FocalLoss(gamma=1.5, alpha=0.25)),
        (losses.tversky_loss(logits, mask), monai.TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7, **one)),
        (losses.dice_focal_loss(logits, mask, per="image"), monai.DiceFocalLoss(
            sigmoid=True, lambda_dice=0.5, lambda_focal=0.5, **one)),
    ]
    for ours, theirs in same:
        assert ours.item() == pytest.approx(theirs(logits, mask).item(), rel=1e-5)
    logits, mask = logits[:, :1], mask[:, :1]  # with several channels MONAI's cross entropy is a softmax over them
    theirs = monai.DiceCELoss(sigmoid=True, lambda_dice=0.5, lambda_ce=0.5, **one)
    assert losses.dice_bce_loss(logits, mask, per="image").item() == pytest.approx(
        theirs(logits, mask).item(), rel=1e-5
    )


@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_generalised_dice_of_monai(share):
    """MONAI's, with defect and background as two channels of one-hot labels."""
    monai = pytest.importorskip("monai.losses")
    x, t = sample(16, (1, 1, 9, 8), share)
    logits, mask = torch.tensor(x, dtype=torch.float32), torch.tensor(t, dtype=torch.float32)
    theirs = monai.GeneralizedDiceLoss(smooth_nr=0, smooth_dr=0)
    two = torch.cat([logits.sigmoid(), 1 - logits.sigmoid()], 1), torch.cat([mask, 1 - mask], 1)
    assert losses.generalised_dice_loss(logits, mask).item() == pytest.approx(theirs(*two).item(), rel=1e-5)


def test_a_perfect_answer_has_no_gradient_rather_than_an_infinite_one():
    """The power 1/γ has an infinite slope at 0, where a float32 sigmoid of ±200 is."""
    mask = torch.zeros(1, 1, 10, 10)
    mask[..., 3:6, 3:6] = 1
    logits = (400 * mask - 200).requires_grad_()
    losses.focal_tversky_loss(logits, mask).backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


class FloatsSummedOnTheWay(TorchDispatchMode):
    """Notes running sums of floats: of what the losses and the network do the one thing that CUDA cannot repeat."""

    seen = ()

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        found = operation(*arguments, **options or {})
        if "cumsum" in str(operation) and found.is_floating_point():
            self.seen += (operation,)
        return found


@pytest.mark.parametrize("name", losses.LOSSES)
def test_every_loss_can_be_had_on_a_gpu_with_deterministic_algorithms(name):
    logits = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with FloatsSummedOnTheWay() as mode:
        losses.LOSSES[name](logits, logits > 1).backward()
    assert not mode.seen
