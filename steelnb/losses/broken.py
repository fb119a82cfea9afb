"""Losses that are broken on purpose, kept runnable.  Taught in 06_negative_dice and 08_failure_clinic.

For demonstrations of how each one fails; never train with them. Each takes outputs [N, K, H, W] and a mask of that
shape (bool or 0/1), as the sound ones do, and returns a scalar to minimise. "Raw" outputs have no sigmoid: they can be
any number, and output > 0.5 means defect. Dice is computed per image and class, with the original's smoothing of 1e-4,
and the losses are averaged.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from steelnb.losses.sound import check_shapes

SMOOTH = 1e-4  # the original's
IMAGE = (2, 3)


def raw_dice_loss(outputs: Tensor, mask: Tensor) -> Tensor:
    """1 − (2·Σxt + s) / (Σx + Σt + s) on raw outputs x: the sign trick.  Taught in 06_negative_dice.

    The original's second problem. Error: with x < 0 and Σx < −Σt numerator and denominator are both negative, and their
    ratio is a positive "Dice" with a pole at Σx = −Σt and no upper bound. Symptom: the loss falls below 0 and further,
    while no output is above 0.5.
    """
    x, t = _floats(outputs, mask)
    return (1 - (2 * (x * t).sum(IMAGE) + SMOOTH) / (x.sum(IMAGE) + t.sum(IMAGE) + SMOOTH)).mean()


def squared_denominator_dice_loss(outputs: Tensor, mask: Tensor, squared: str = "pixels") -> Tensor:
    """Dice on raw outputs, squares in the denominator alone.  Taught in 06_negative_dice.

    One reading of the original's third step.

    squared: "pixels", 2Σxt / (Σx² + Σt²), is V-Net's form without its sigmoid. It is bounded by 1 and best at x = t, so
        it can work; the error is that outputs can leave 0…1, where its gradient vanishes as 1/x².
        "sum", 2Σxt / (Σx + Σt)², still has the pole at Σx = −Σt, now with the same sign on both sides: with Σxt > 0 the
        loss falls without bound towards it.
    """
    x, t = _floats(outputs, mask)
    if squared == "pixels":
        total = x.square().sum(IMAGE) + t.square().sum(IMAGE)
    elif squared == "sum":
        total = (x.sum(IMAGE) + t.sum(IMAGE)).square()
    else:
        raise ValueError(f"squared is {squared!r}; it can be pixels or sum")
    return (1 - (2 * (x * t).sum(IMAGE) + SMOOTH) / (total + SMOOTH)).mean()


def raw_squared_dice_loss(outputs: Tensor, mask: Tensor, squared: str = "pixels") -> Tensor:
    """Dice on raw outputs, numerator and denominator squared.  Taught in 06_negative_dice.

    The other reading of the original's third step. Error: squares lose the sign, so x = −t scores the same as x = t
    (with "ratio" it is at the pole). Symptom: the loss falls, and outputs inside the defect are as likely to end below
    0 as above 0.5.

    squared: "pixels", 2Σ(xt)² / (Σx² + Σt²), approaches 2 as x on the defect grows; "sums", 2(Σxt)² / (Σx² + Σt²), also
        grows with the area; "ratio", (2Σxt / (Σx + Σt))², has the pole of `raw_dice_loss`.
    """
    x, t = _floats(outputs, mask)
    overlap = x * t
    if squared == "pixels":
        top, total = 2 * overlap.square().sum(IMAGE), x.square().sum(IMAGE) + t.square().sum(IMAGE)
    elif squared == "sums":
        top, total = 2 * overlap.sum(IMAGE).square(), x.square().sum(IMAGE) + t.square().sum(IMAGE)
    elif squared == "ratio":
        top, total = (2 * overlap.sum(IMAGE)).square(), (x.sum(IMAGE) + t.sum(IMAGE)).square()
    else:
        raise ValueError(f"squared is {squared!r}; it can be pixels, sums or ratio")
    return (1 - (top + SMOOTH) / (total + SMOOTH)).mean()


def thresholded_dice_loss(outputs: Tensor, mask: Tensor) -> Tensor:
    """Dice of (x ≥ 0.5): the original's fourth step.  Taught in 06_negative_dice.

    With PyTorch's error not suppressed. Error: a comparison has no derivative, and the graph ends there. Symptom:
    `backward` raises RuntimeError, "element 0 of tensors does not require grad and does not have a grad_fn".
    """
    x, t = _floats(outputs, mask)
    return raw_dice_loss(x >= 0.5, t)


def original_thresholded_dice_loss(outputs: Tensor, mask: Tensor) -> Tensor:
    """`thresholded_dice_loss` as in the original, with its error suppressed.  Taught in 06_negative_dice.

    It calls `requires_grad_(True)` on prediction and target. Error: PyTorch's error is suppressed, not repaired.
    `backward` runs because a graph leads to the *target*; the weights are not in it. Symptom: every weight's `.grad`
    stays None, the optimizer changes nothing, the loss varies with the batches only; the batch norms' running
    statistics, which need no gradient, change.
    """
    x, t = _floats(outputs, mask)
    x.requires_grad_(True)
    t.requires_grad_(True)
    return raw_dice_loss((x >= 0.5).float(), t)


def probability_bce_loss(outputs: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy of p = sigmoid(x), written out in the outputs' precision.  Taught in 08_failure_clinic.

    It is −mean of t·log p + (1 − t)·log(1 − p). Error: where p rounds to 1 (x > 17 in float32, x > 8.3 in float16)
    log(1 − p) is −∞, and 0·∞ is NaN. Symptom: the loss is inf or NaN once the network is confident at a few pixels.
    PyTorch's `binary_cross_entropy` clamps the logarithm at −100 and is silently wrong: a confident mistake costs 100
    and has gradient 0.
    """
    check_shapes(outputs, mask)
    p, t = outputs.sigmoid(), mask.to(outputs.dtype)
    return -(t * p.log() + (1 - t) * (1 - p).log()).mean()


def byte_mask_dice_loss(outputs: Tensor, mask: Tensor) -> Tensor:
    """Sound Dice, but with a mask of 0 and 255 as stored in files.  Taught in 08_failure_clinic.

    The sigmoid is applied. Error: t = 255 makes the numerator 255 times too large, the denominator by less. Symptom:
    "Dice" of up to 1.99, so a negative loss, which is nearly as good for predicting defect everywhere (1.88 at 6 %
    defect) as for the mask itself.
    """
    p, t = _floats(outputs, mask)
    return raw_dice_loss(p.sigmoid(), 255 * (t > 0))


def half_dice_loss(outputs: Tensor, mask: Tensor) -> Tensor:
    """Sound Dice with its sums in float16, where numbers end at 65,504.  Taught in 08_failure_clinic.

    The sigmoid is applied. Error: an image of 256×1600 has 409,600 pixels. Symptom: Σp + Σt is inf, the loss exactly 1
    and its gradient 0; if the overlap is inf too, inf / inf is NaN. A crop of 64×64 fits, so small tests pass.
    """
    p, t = _floats(outputs, mask)
    p, t = p.sigmoid().half(), t.half()
    top = 2 * (p * t).sum(IMAGE, dtype=torch.float16) + SMOOTH
    return (1 - top / (p.sum(IMAGE, dtype=torch.float16) + t.sum(IMAGE, dtype=torch.float16) + SMOOTH)).mean()


FAILURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    loss.__name__.removesuffix("_loss"): loss
    for loss in (
        raw_dice_loss, squared_denominator_dice_loss, raw_squared_dice_loss, thresholded_dice_loss,
        original_thresholded_dice_loss, probability_bce_loss, byte_mask_dice_loss, half_dice_loss,
    )
}


def _floats(outputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    check_shapes(outputs, mask)
    return outputs.float(), mask.float()
