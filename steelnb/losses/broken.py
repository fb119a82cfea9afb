"""Losses that are broken on purpose, kept runnable.  Taught in 06_negative_dice and 08_failure_clinic.

Each can be watched failing; never train with one. Each takes outputs [N, K, H, W] and a mask of that shape (bool or
0/1), as the sound ones in `losses` do, and returns a scalar to minimise. "Raw" outputs have no sigmoid: they can be any
number, and a defect is meant by output > 0.5. Dice is summed over each image and class, with the original's smoothing
of 1e-4, and the losses are averaged.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from steelnb.losses.sound import check_shapes

SMOOTH = 1e-4  # the original's
IMAGE = (2, 3)


def raw_dice_loss(outputs: Tensor, mask: Tensor) -> Tensor:
    """1 − (2·Σxt + s) / (Σx + Σt + s) on raw outputs x: the sign trick.  Taught in 06_negative_dice.

    The original's second problem. Wrong: with x < 0 and Σx < −Σt numerator and denominator are both negative, and their
    ratio is a positive "Dice" that has a pole at Σx = −Σt and no upper end. Shows: the loss falls below 0 and on, while
    no output is above 0.5.
    """
    x, t = _floats(outputs, mask)
    return (1 - (2 * (x * t).sum(IMAGE) + SMOOTH) / (x.sum(IMAGE) + t.sum(IMAGE) + SMOOTH)).mean()


def squared_denominator_dice_loss(outputs: Tensor, mask: Tensor, squared: str = "pixels") -> Tensor:
    """Dice on raw outputs, squares in the denominator alone.  Taught in 06_negative_dice.

    One reading of the original's third step.

    squared: "pixels", 2Σxt / (Σx² + Σt²), is V-Net's form without its sigmoid. It is bounded by 1 and best at x = t, so
        it can work; what is wrong is that outputs are free to leave 0…1, where its gradient fades as 1/x².
        "sum", 2Σxt / (Σx + Σt)², keeps the pole at Σx = −Σt, now with one sign on both sides: with Σxt > 0 the
        loss falls without end towards it.
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

    The other reading of the original's third step. Wrong: a square forgets the sign, so x = −t scores as x = t does
    (with "ratio" it lies on the pole). Shows: the loss falls, and outputs inside the defect are as likely to end below
    0 as above 0.5.

    squared: "pixels", 2Σ(xt)² / (Σx² + Σt²), goes to 2 as x on the defect grows without end; "sums",
        2(Σxt)² / (Σx² + Σt²), grows with the area besides; "ratio", (2Σxt / (Σx + Σt))², keeps `raw_dice_loss`'s pole.
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

    This is how PyTorch answers it when nothing silences it. Wrong: a comparison has no derivative, and the graph ends
    there. Shows: `backward` raises RuntimeError, "element 0 of tensors does not require grad and does not have a
    grad_fn".
    """
    x, t = _floats(outputs, mask)
    return raw_dice_loss(x >= 0.5, t)


def original_thresholded_dice_loss(outputs: Tensor, mask: Tensor) -> Tensor:
    """`thresholded_dice_loss` as the original had it, its error silenced.  Taught in 06_negative_dice.

    It calls `requires_grad_(True)` on prediction and target. Wrong: the error is silenced, not repaired. `backward`
    runs because a graph leads to the *target*; the weights are not in it. Shows: every weight's `.grad` stays None, the
    optimizer steps on nothing, the loss moves with the batches only; the batch norms' running statistics drift, which
    need no gradient.
    """
    x, t = _floats(outputs, mask)
    x.requires_grad_(True)
    t.requires_grad_(True)
    return raw_dice_loss((x >= 0.5).float(), t)


def probability_bce_loss(outputs: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy of p = sigmoid(x), written out in the outputs' precision.  Taught in 08_failure_clinic.

    It is −mean of t·log p + (1 − t)·log(1 − p). Wrong: where p rounds to 1 (x > 17 in float32, x > 8.3 in float16)
    log(1 − p) is −∞, and 0·∞ is NaN. Shows: the loss is inf or NaN once the network is sure of a few pixels. PyTorch's
    `binary_cross_entropy` clamps the logarithm at −100 and is wrong in silence: a sure mistake costs 100 and has
    gradient 0.
    """
    check_shapes(outputs, mask)
    p, t = outputs.sigmoid(), mask.to(outputs.dtype)
    return -(t * p.log() + (1 - t) * (1 - p).log()).mean()


def byte_mask_dice_loss(outputs: Tensor, mask: Tensor) -> Tensor:
    """Sound Dice against a mask on the scale 0/255, as a file has it.  Taught in 08_failure_clinic.

    The sigmoid comes first. Wrong: t = 255 makes the numerator 255 times too large, the denominator by less. Shows:
    "Dice" of up to 1.99, so a negative loss, and nearly as good for calling everything a defect (1.88 at 6 % defect) as
    for the mask itself.
    """
    p, t = _floats(outputs, mask)
    return raw_dice_loss(p.sigmoid(), 255 * (t > 0))


def half_dice_loss(outputs: Tensor, mask: Tensor) -> Tensor:
    """Sound Dice with its sums in float16, where numbers end at 65,504.  Taught in 08_failure_clinic.

    The sigmoid comes first. Wrong: an image of 256×1600 has 409,600 pixels. Shows: Σp + Σt is inf, the loss exactly 1
    and its gradient 0; where the overlap is inf too, inf / inf is NaN. A crop of 64×64 fits, so small tests pass.
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
