"""Sound losses on logits [N, K, H, W] against masks of that shape (bool or 0/1).  To be taught in 06_choosing_a_loss.

Every loss applies the sigmoid itself, sums in float32 whatever the precision of the logits (half precision overflows
at 65,504, fewer pixels than one image has), and returns a scalar to minimise. Masks on a 0/255 scale are the caller's
mistake to avoid: looking for them would stall a GPU at every step.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional


def bce(logits: Tensor, mask: Tensor, positive_weight: float = 1.0) -> Tensor:
    """Binary cross entropy, mean over pixels; in nats, ≥ 0.

    positive_weight: how much a defect pixel counts against a background pixel. 1 is the plain form, in which 94 % of
    background outvote 6 % of defect; the ratio of their counts, about 16, balances the two.
    """
    logits, mask = checked(logits, mask)
    weight = logits.new_tensor(positive_weight)
    return functional.binary_cross_entropy_with_logits(logits, mask, pos_weight=weight)


def dice(logits: Tensor, mask: Tensor, per: str = "image", smooth: float = 1.0) -> Tensor:
    """1 − (2·Σpt + smooth) / (Σp + Σt + smooth), p = sigmoid(logits), t the mask; 0…1.

    Drozdzal et al. 2016; Milletari et al. 2016 (V-Net) have the squares of p and t in the denominator instead.

    per: "image" sums over each image and class and averages the losses, so small defects count as much as large ones;
        "batch" sums over the batch first, so an image without defects does not get a term of its own.
    smooth: in pixels. With an empty mask the loss is Σp / (Σp + smooth): 0 for an empty prediction, and a gradient
        towards it that fades as smooth² once Σp ≫ smooth. The original's smooth was 1e-4, which leaves empty masks
        without a usable gradient (it trained on defective rows only).
    """
    logits, mask = checked(logits, mask)
    if per not in ("image", "batch"):
        raise ValueError(f"per is {per!r}; it can be image or batch")
    axes = (2, 3) if per == "image" else (0, 2, 3)
    p = logits.sigmoid()
    overlap, total = (p * mask).sum(axes), p.sum(axes) + mask.sum(axes)
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean()


def dice_bce(logits: Tensor, mask: Tensor, dice_share: float = 0.5, per: str = "batch") -> Tensor:
    """`dice_share` · Dice + (1 − dice_share) · BCE: Dice for the overlap, BCE for a gradient wherever Dice has none."""
    return dice_share * dice(logits, mask, per) + (1 - dice_share) * bce(logits, mask)


def weighted_bce(logits: Tensor, mask: Tensor) -> Tensor:
    """`bce` balanced for Severstal's defective images: 94 % background against 6 % defect."""
    return bce(logits, mask, positive_weight=94 / 6)


def original_dice(logits: Tensor, mask: Tensor) -> Tensor:
    """The original's Dice loss after its repair: sigmoid, per image, smooth 1e-4."""
    return dice(logits, mask, per="image", smooth=1e-4)


def batch_dice(logits: Tensor, mask: Tensor) -> Tensor:
    """`dice` over the whole batch."""
    return dice(logits, mask, per="batch")


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    loss.__name__: loss for loss in (bce, weighted_bce, dice, batch_dice, original_dice, dice_bce)
}


def checked(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float32. Raises ValueError for shapes that differ (they would broadcast into a wrong loss)."""
    if logits.shape != mask.shape or logits.ndim != 4:
        raise ValueError(f"logits and mask are both [N, K, H, W], got {list(logits.shape)} and {list(mask.shape)}")
    return logits.float(), mask.float()
