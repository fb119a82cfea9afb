"""Each failure fails in the way its docstring says, and its sound twin does not."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from steelnb import losses
from steelnb.losses import broken
from steelnb.losses.broken import FAILURES


def square_mask(side=10, share=0.06):
    """[1, 1, side, side] with the first pixels on."""
    t = torch.zeros(1, 1, side, side)
    t.view(-1)[: round(share * side * side)] = 1
    return t


def descend(loss, t, *, start=0.1, steps=300, rate=0.05):
    """Free outputs, from a constant `start`, by Adam; the outputs and the losses on the way."""
    x = torch.full_like(t, start, requires_grad=True)
    optimizer, values = torch.optim.Adam([x], rate), []
    for _ in range(steps):
        value = loss(x, t)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    return x.detach(), values


def hard_dice(found, t):
    return (2 * (found & (t > 0)).sum() / (found.sum() + t.sum())).item()


def gradient(loss, x, t):
    x = x.clone().requires_grad_()
    loss(x, t).backward()
    return x.grad


def test_the_registry_is_complete():
    names = ["raw_dice", "squared_denominator_dice", "raw_squared_dice", "thresholded_dice",
             "original_thresholded_dice", "probability_bce", "byte_mask_dice", "half_dice"]
    assert list(FAILURES) == names
    assert all(
        getattr(broken, f"{name}_loss") is loss and "Taught in 0" in loss.__doc__ for name, loss in FAILURES.items()
    )


@pytest.mark.parametrize("name", FAILURES)
def test_shapes_that_would_broadcast_are_refused(name):
    with pytest.raises(ValueError, match=r"logits and mask are both \[N, K, H, W\], got \["):
        FAILURES[name](torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4))


@pytest.mark.parametrize("name", sorted(set(FAILURES) - {"byte_mask_dice"}))
def test_unremarkable_outputs_give_an_unremarkable_loss(name):
    """The trap: on probabilities of a small crop each looks like a loss. (Half precision rounds by 1e-3.)"""
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    value = FAILURES[name](x, (x > 0.7).float()).item()
    assert 0 <= value <= 1


# ---- raw outputs ---------------------------------------------------------------------------------------------------


def test_raw_dice_falls_without_end_at_its_pole():
    """Constant outputs c at 6 % defect: Dice = 2·0.06·c / (c + 0.06), with a pole at c = −0.06."""
    t = square_mask()
    for c, expected in ((0.5, 0.12 * 0.5 / 0.56), (-0.05, -0.6), (-0.07, 0.84), (-0.061, 7.32)):
        assert broken.raw_dice_loss(torch.full_like(t, c), t).item() == pytest.approx(1 - expected, rel=0.01)
    beyond = torch.full_like(t, -0.0601)
    assert broken.raw_dice_loss(beyond, t) < -50  # no output above 0.5, and a "Dice" of 72


def test_raw_dice_rewards_negative_outputs():
    t = square_mask()
    x, values = descend(broken.raw_dice_loss, t, start=-0.2, steps=100, rate=1e-3)
    assert values[-1] < values[0] < 1  # it falls all the way …
    assert x.max() < 0  # … with no output on the right side of 0, let alone of 0.5
    _, values = descend(broken.raw_dice_loss, t, start=-0.2, steps=300, rate=1e-3)
    assert min(values) < -1  # a "Dice" over 2
    x, values = descend(lambda x, t: losses.dice_loss(x, t), t, start=-0.2)
    assert min(values) >= 0
    assert hard_dice(x > 0, t) == 1


def test_squares_in_the_denominator_are_bounded_and_can_work():
    t = square_mask()
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 1, 30):
        assert broken.squared_denominator_dice_loss(scale * torch.randn(t.shape, generator=generator), t) >= 0
    x, values = descend(broken.squared_denominator_dice_loss, t)
    assert values[-1] < 0.01
    assert hard_dice(x > 0.5, t) == 1
    assert broken.squared_denominator_dice_loss(t, t).item() == pytest.approx(0, abs=1e-6)
    # wrong about it: outputs leave 0…1 on free ground, and a far one hardly comes back
    slopes = [
        gradient(broken.squared_denominator_dice_loss, x * torch.ones_like(t), t).abs().sum() for x in (1.0, 100.0)
    ]
    assert slopes[1] < slopes[0] / 1000


def test_a_squared_sum_keeps_the_pole():
    t = square_mask()
    values = {c: broken.squared_denominator_dice_loss(torch.full_like(t, c), t, squared="sum").item()
              for c in (-0.07, -0.05)}
    assert all(value > 1 for value in values.values())  # the overlap is negative on both sides of the pole
    mixed = torch.where(t > 0, 1.0, -0.13)  # overlap positive, sums nearly cancelling: −6.22 pixels against 6
    assert broken.squared_denominator_dice_loss(mixed, t, squared="sum") < -10
    assert losses.squared_dice_loss(mixed, t) >= 0
    with pytest.raises(ValueError, match="squared is 'x'; it can be pixels or sum"):
        broken.squared_denominator_dice_loss(mixed, t, squared="x")


@pytest.mark.parametrize("squared", ["pixels", "sums", "ratio"])
def test_squaring_both_forgets_the_sign(squared):
    t = square_mask()

    def loss(x, t):
        return broken.raw_squared_dice_loss(x, t, squared=squared)

    if squared != "ratio":
        x = torch.randn(t.shape, generator=torch.Generator().manual_seed(0))
        assert loss(x, t).item() == pytest.approx(loss(-x, t).item(), rel=1e-6)
    x, values = descend(loss, t, start=-0.2, rate=0.05 if squared != "ratio" else 1e-3, steps=200)
    assert min(values) < 0.2
    assert hard_dice(x > 0.5, t) < 0.3
    sound, _ = descend(losses.squared_dice_loss, t, start=-0.2)
    assert hard_dice(sound > 0, t) == 1


def test_squared_dice_has_other_ends_than_1():
    t = square_mask()
    assert broken.raw_squared_dice_loss(1000 * t, t).item() == pytest.approx(-1, abs=1e-3)
    assert broken.raw_squared_dice_loss(1000 * t, t, squared="sums").item() == pytest.approx(1 - 2 * 6, rel=1e-3)
    near_pole = torch.full_like(t, -0.0601)
    assert broken.raw_squared_dice_loss(near_pole, t, squared="ratio") < -1000
    with pytest.raises(ValueError, match="squared is 'x'; it can be pixels, sums or ratio"):
        broken.raw_squared_dice_loss(t, t, squared="x")


# ---- thresholds ----------------------------------------------------------------------------------------------------


def little_network():
    torch.manual_seed(0)
    return torch.nn.Conv2d(1, 1, 3, padding=1)


def test_a_threshold_cuts_the_graph():
    t, network = square_mask(), little_network()
    value = broken.thresholded_dice_loss(network(t), t)
    with pytest.raises(RuntimeError, match="does not require grad"):
        value.backward()


def test_the_original_silenced_the_error():
    t, network = square_mask(), little_network()
    before = [weight.detach().clone() for weight in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.99)
    for _ in range(5):
        optimizer.zero_grad()
        broken.original_thresholded_dice_loss(network(t), t.bool()).backward()  # no error
        optimizer.step()
    assert all(weight.grad is None for weight in network.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    optimizer.zero_grad()
    losses.original_dice_loss(network(t), t).backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_the_original_s_graph_led_to_the_target():
    t, x = square_mask(), torch.rand(1, 1, 10, 10)
    t.requires_grad_()
    broken.original_thresholded_dice_loss(x.clone().requires_grad_(), t).backward()
    assert t.grad is not None


# ---- probabilities, bytes, half precision ---------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "sure"), [(torch.float32, 18.0), (torch.float16, 9.0)])
def test_bce_of_probabilities_ends_at_certainty(dtype, sure):
    right, wrong = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    x = torch.full((1, 1, 1, 1), sure, dtype=dtype)
    assert math.isnan(broken.probability_bce_loss(x, right))  # 0 · log 0, for a prediction that is right
    assert math.isinf(broken.probability_bce_loss(x, wrong))
    assert losses.bce_loss(x, right).item() < 1e-3
    assert losses.bce_loss(x, wrong).item() == pytest.approx(sure, rel=1e-3)
    assert gradient(losses.bce_loss, x, wrong).item() == pytest.approx(1, rel=1e-3)


def test_bce_of_probabilities_is_right_before_that():
    x = torch.linspace(-8, 8, 16).view(1, 1, 4, 4)
    t = (x > 1).float()
    assert broken.probability_bce_loss(x, t).item() == pytest.approx(losses.bce_loss(x, t).item(), rel=1e-3)


def test_pytorch_s_clamp_teaches_nothing():
    x, t = torch.full((1, 1, 1, 1), 20.0), torch.zeros(1, 1, 1, 1)
    assert functional.binary_cross_entropy(x.sigmoid(), t).item() == pytest.approx(100)
    assert gradient(lambda x, t: functional.binary_cross_entropy(x.sigmoid(), t), x, t).item() == 0


def test_byte_masks_make_a_dice_of_nearly_2():
    t = square_mask()
    right, white = (
        1 - broken.byte_mask_dice_loss(60 * t - 30, t),
        1 - broken.byte_mask_dice_loss(torch.full_like(t, 30), t),
    )
    assert right.item() == pytest.approx(2 * 255 / 256, rel=1e-4)  # 1.992
    assert white.item() == pytest.approx(2 * 255 * 6 / (100 + 255 * 6), rel=1e-4)  # 1.877
    assert 1 - losses.dice_loss(torch.full_like(t, 30), t, smooth=0).item() == pytest.approx(12 / 106, rel=1e-4)
    # all white against right: 6 % worse where sound Dice says 89 %
    for scale in (1, 255):
        assert broken.byte_mask_dice_loss(t, (scale * t).byte()) == broken.byte_mask_dice_loss(t, t)


def test_half_sums_overflow_on_a_whole_image_only():
    generator = torch.Generator().manual_seed(0)
    t = (torch.rand(1, 1, 256, 1600, generator=generator) < 0.06).float()
    x = 4 * t - 2
    assert broken.half_dice_loss(x, t).item() == 1  # 2·I / inf
    assert (gradient(broken.half_dice_loss, x, t) == 0).all()
    assert losses.original_dice_loss(x, t).item() < 0.6
    assert gradient(losses.original_dice_loss, x, t).abs().sum() > 0
    assert math.isnan(broken.half_dice_loss(x.abs(), torch.ones_like(t)))  # inf / inf
    crop = x[..., :64, :64], t[..., :64, :64]
    assert broken.half_dice_loss(*crop).item() == pytest.approx(losses.original_dice_loss(*crop).item(), abs=2e-3)
    assert np.isfinite(broken.half_dice_loss(*crop).item())


@pytest.mark.parametrize("name", ["thresholded_dice_loss", "original_thresholded_dice_loss"])
def test_an_output_of_exactly_a_half_is_a_defect(name):
    outputs = torch.tensor([[[[0.5, 0.4999, 0.5001, 0.5]]]])
    mask = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])
    expected = broken.raw_dice_loss(torch.tensor([[[[1.0, 0.0, 1.0, 1.0]]]]), mask)
    assert getattr(broken, name)(outputs, mask.clone()).item() == expected.item()
