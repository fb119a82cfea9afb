"""Sound losses on logits [N, K, H, W] against masks of that shape (bool or 0/1).

Every loss applies the sigmoid itself, sums in float32 for logits of lower precision (half precision overflows at
65,504, fewer than the pixels of one image; float64 stays float64), and is to be minimised. Below, p = sigmoid(logits)
and t is the mask. Masks of 0 and 255 are not detected: the check would make a GPU wait at every step.

Shared options:

- reduction: "mean" or "sum" over the loss's terms, or "none" for the terms themselves. A term is a pixel, [N, K, H, W],
  for `bce_loss`, `weighted_bce_loss` and `focal_loss`; for all others an image and class, [N, K], or with per="batch"
  a class, [K].
- per: "image" sums pixels over each image and class and averages the losses, so small defects count as much as large
  ones; "batch" sums over the batch first, so an image without defects does not get a term of its own.
- smooth: in pixels, added to numerator and denominator; it determines the loss of an empty mask.
"""

from collections.abc import Callable

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional

REDUCTIONS = ("mean", "sum", "none")


def bce_loss(logits: Tensor, mask: Tensor, positive_weight: float = 1.0, *, reduction: str = "mean") -> Tensor:
    """Binary cross entropy, −w·t·log p − (1 − t)·log(1 − p), in nats, ≥ 0.

    positive_weight: w, weight of a defect pixel relative to a background pixel. 1 is the plain form, in which the 94 %
    of background pixels dominate the 6 % of defect; the ratio of their counts, about 16, balances the two.
    """
    logits, mask = checked(logits, mask)
    weight = logits.new_tensor(positive_weight)
    terms = functional.binary_cross_entropy_with_logits(logits, mask, pos_weight=weight, reduction="none")
    return _reduce(terms, reduction)


def weighted_bce_loss(logits: Tensor, mask: Tensor, *, reduction: str = "mean") -> Tensor:
    """`bce_loss` balanced for Severstal's defective images: 94 % background against 6 % defect."""
    return bce_loss(logits, mask, positive_weight=94 / 6, reduction=reduction)


def focal_loss(
    logits: Tensor, mask: Tensor, gamma: float = 2.0, alpha: float | None = None, *, reduction: str = "mean"
) -> Tensor:
    """−α_t (1 − p_t)^γ log p_t, p_t the probability of the true label: BCE with less weight on easy pixels. Nats, ≥ 0.

    Lin et al. 2017, equation 5 (4 without α). alpha: weight of defect pixels, 1 − α that of background; the paper uses
    0.25 with γ = 2. γ = 0 is `bce_loss`. Empty masks count as in `bce_loss`.
    """
    logits, mask = checked(logits, mask)
    terms = functional.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    terms = terms * (gamma * functional.logsigmoid(logits * (1 - 2 * mask))).exp()  # log(1 − p_t): exact near p_t = 1
    if alpha is not None:
        terms = terms * (alpha * mask + (1 - alpha) * (1 - mask))
    return _reduce(terms, reduction)


def topk_bce_loss(logits: Tensor, mask: Tensor, share: float = 0.1, *, reduction: str = "mean") -> Tensor:
    """Mean BCE of the hardest `share` of the pixels (at least one) of each image and class; ≥ 0.

    Wu, Shen, van den Hengel 2016 (*Bridging category-level and instance-level…*), section 3.3; nnU-Net's TopK uses
    10 %. With an empty mask, these are the background pixels that look most like defects.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; it lies in (0, 1]")
    terms = bce_loss(logits, mask, reduction="none").flatten(2)
    return _reduce(terms.topk(max(1, round(share * terms.shape[2])), dim=2, sorted=False).values.mean(2), reduction)


def dice_loss(
    logits: Tensor, mask: Tensor, per: str = "image", smooth: float = 1.0, *, reduction: str = "mean"
) -> Tensor:
    """1 − (2·Σpt + smooth) / (Σp + Σt + smooth); 0…1.

    Drozdzal et al. 2016; Milletari et al. 2016 have the squares of p and t in the denominator: `squared_dice_loss`.

    With an empty mask the loss is Σp / (Σp + smooth): 0 for an empty prediction, with a gradient towards it of
    smooth / (Σp + smooth)², which vanishes as 1/Σp². The original's smooth was 1e-4, so empty masks have no usable
    gradient (it trained on defective rows only).
    """
    return _reduce(1 - _dice(*checked(logits, mask), per, smooth), reduction)


def batch_dice_loss(logits: Tensor, mask: Tensor, *, reduction: str = "mean") -> Tensor:
    """`dice_loss` over the whole batch."""
    return dice_loss(logits, mask, per="batch", reduction=reduction)


def original_dice_loss(logits: Tensor, mask: Tensor, *, reduction: str = "mean") -> Tensor:
    """The original's Dice loss after its repair: sigmoid, per image, smooth 1e-4."""
    return dice_loss(logits, mask, per="image", smooth=1e-4, reduction=reduction)


def squared_dice_loss(
    logits: Tensor, mask: Tensor, per: str = "image", smooth: float = 1.0, *, reduction: str = "mean"
) -> Tensor:
    """1 − (2·Σpt + smooth) / (Σp² + Σt² + smooth); 0…1.  Milletari et al. 2016 (V-Net), section 3.

    With an empty mask Σp² / (Σp² + smooth): gentler than `dice_loss` on small probabilities.
    """
    return _reduce(1 - _dice(*checked(logits, mask), per, smooth, power=2), reduction)


def log_dice_loss(
    logits: Tensor, mask: Tensor, per: str = "image", smooth: float = 1.0, *, reduction: str = "mean"
) -> Tensor:
    """−ln of `dice_loss`'s ratio, ≥ 0: steeper for worse overlap.  Wong et al. 2018, equation 2 with γ = 1.

    With an empty mask ln(1 + Σp / smooth), whose gradient 1 / (Σp + smooth) vanishes only as 1/Σp.
    """
    return _reduce(-_dice(*checked(logits, mask), per, smooth).log(), reduction)


def generalised_dice_loss(logits: Tensor, mask: Tensor, per: str = "image", *, reduction: str = "mean") -> Tensor:
    """1 − 2·Σ_l w_l Σ r_l p_l / Σ_l w_l Σ (r_l + p_l) over the labels l = defect and background, w_l = (Σ r_l)⁻²; 0…1.

    Sudre et al. 2017, section 2. The weight of an absent label would be infinite; the other label's weight is used, so
    with an empty mask the loss is the mean of p (of 1 − p with a full one).
    """
    logits, mask = checked(logits, mask)
    axes = _axes(per)
    above = below = 0
    defect, background = mask.sum(axes), (1 - mask).sum(axes)
    for p, r, present in (
        (logits.sigmoid(), mask, torch.where(defect > 0, defect, background)),
        ((-logits).sigmoid(), 1 - mask, torch.where(background > 0, background, defect)),
    ):
        weight = present**-2
        above = above + 2 * weight * (p * r).sum(axes)
        below = below + weight * (p.sum(axes) + r.sum(axes))
    return _reduce(1 - above / below, reduction)


def tversky_loss(
    logits: Tensor, mask: Tensor, alpha: float = 0.3, beta: float = 0.7, per: str = "image", smooth: float = 1.0,
    *, reduction: str = "mean",
) -> Tensor:
    """1 − (TP + smooth) / (TP + α·FP + β·FN + smooth), soft counts; 0…1.  Salehi et al. 2017, equation 3.

    α weights false alarms, β misses; ½ and ½ are `dice_loss` with twice the smooth. Empty masks: α·Σp / (α·Σp +
    smooth).
    """
    return _reduce(_tversky(logits, mask, alpha, beta, per, smooth), reduction)


def focal_tversky_loss(
    logits: Tensor, mask: Tensor, alpha: float = 0.3, beta: float = 0.7, gamma: float = 4 / 3, per: str = "image",
    smooth: float = 1.0, *, reduction: str = "mean",
) -> Tensor:
    """`tversky_loss` to the power 1/γ; 0…1.  Abraham & Khan 2019, equation 4 (their α is our β: it weights misses).

    Its slope is infinite at 0, so losses below 1e-9 have no gradient. Empty masks: the same power of `tversky_loss`.
    """
    return _reduce(_tversky(logits, mask, alpha, beta, per, smooth).clamp_min(1e-9) ** (1 / gamma), reduction)


def lovasz_hinge_loss(logits: Tensor, mask: Tensor, per: str = "image", *, reduction: str = "mean") -> Tensor:
    """The Lovász extension of the Jaccard loss at the hinge errors 1 − x·(2t − 1), not below 0; ≥ 0, without sigmoid.

    Berman et al. 2018, equation 8 with 6 and algorithm 1. Sorted by decreasing error, the weight of pixel i is its
    increase of 1 − IoU when it is counted as wrong: 1/U_i on the defect, I_i / (U_i·(U_i − 1)) beside it, in a form
    without cancellation in float32. With an empty mask only the largest error counts: max(0, 1 + max x).
    """
    logits, mask = checked(logits, mask)
    if per == "batch":
        logits, mask = (part.transpose(0, 1)[None].flatten(2, 3) for part in (logits, mask))
    _axes(per)
    errors, order = (1 - logits * (2 * mask - 1)).relu().flatten(2).sort(dim=2, descending=True)
    t = mask.flatten(2).gather(2, order)
    defect = t.sum(2, keepdim=True)
    # In integers: CUDA's cumulative sum of floats is not deterministic, and raises in deterministic mode.
    found, beside = (count.cumsum(2, dtype=torch.int32).to(t) for count in (t > 0, t <= 0))
    overlap, union = defect - found, defect + beside
    weight = torch.where(t > 0, 1 / union.clamp_min(1), overlap / (union * (union - 1)).clamp_min(1))
    weight[..., :1] = torch.where(defect > 0, weight[..., :1], 1.0)  # from no union at all to a wrong one
    terms = (errors * weight).sum(2)
    return _reduce(terms[0] if per == "batch" else terms, reduction)


def boundary_loss(logits: Tensor, mask: Tensor, *, reduction: str = "mean") -> Tensor:
    """Mean of φ·(p − t) over the pixels of each image and class; φ the signed distance to the mask's boundary; 0…1.

    Kervadec et al. 2019, equation 5, minus its constant Σφt, so that the mask itself scores 0; distances in units of
    the image's diagonal, negative inside. Empty and full masks have no boundary: φ, loss and gradient are 0, so it
    cannot be used alone (see `dice_boundary_loss`). φ is computed by SciPy: the mask is copied to the CPU at every
    call, about 25 ms for 256×1600 pixels.
    """
    logits, mask = checked(logits, mask)
    phi = signed_distance(mask > 0.5).to(logits)
    return _reduce((phi * (logits.sigmoid() - mask)).mean((2, 3)), reduction)


def dice_bce_loss(
    logits: Tensor, mask: Tensor, dice_share: float = 0.5, per: str = "batch", *, reduction: str = "mean"
) -> Tensor:
    """`dice_share` · Dice + (1 − dice_share) · BCE: Dice for the overlap, BCE for a gradient where Dice has none.

    Terms are those of `dice_loss`, each with the mean BCE of its pixels; likewise for the other mixes.
    """
    terms = bce_loss(logits, mask, reduction="none")
    return _mix(dice_loss(logits, mask, per, reduction="none"), terms, dice_share, reduction)


def dice_focal_loss(
    logits: Tensor, mask: Tensor, dice_share: float = 0.5, per: str = "batch", gamma: float = 2.0,
    *, reduction: str = "mean",
) -> Tensor:
    """`dice_share` · Dice + (1 − dice_share) · focal, after Zhu et al. 2019 (AnatomyNet)."""
    terms = focal_loss(logits, mask, gamma, reduction="none")
    return _mix(dice_loss(logits, mask, per, reduction="none"), terms, dice_share, reduction)


def dice_boundary_loss(logits: Tensor, mask: Tensor, dice_share: float = 0.5, *, reduction: str = "mean") -> Tensor:
    """`dice_share` · Dice + (1 − dice_share) · boundary, per image, after Kervadec et al. 2019."""
    terms = dice_loss(logits, mask, reduction="none"), boundary_loss(logits, mask, reduction="none")
    return _reduce(dice_share * terms[0] + (1 - dice_share) * terms[1], reduction)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # by the names that recipes and records use
    loss.__name__.removesuffix("_loss"): loss
    for loss in (
        bce_loss, weighted_bce_loss, focal_loss, topk_bce_loss, dice_loss, batch_dice_loss, original_dice_loss,
        squared_dice_loss, log_dice_loss, generalised_dice_loss, tversky_loss, focal_tversky_loss, lovasz_hinge_loss,
        dice_bce_loss, dice_focal_loss, dice_boundary_loss,
    )
}


def checked(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float32 (float64 if the logits are). Raises ValueError as `check_shapes`."""
    check_shapes(logits, mask)
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return logits.to(dtype), mask.to(dtype)


def check_shapes(logits: Tensor, mask: Tensor) -> None:
    """Raises ValueError for shapes that differ (they would broadcast into a wrong loss)."""
    if logits.shape != mask.shape or logits.ndim != 4:
        raise ValueError(f"logits and mask are both [N, K, H, W], got {list(logits.shape)} and {list(mask.shape)}")


def _axes(per: str) -> tuple[int, ...]:
    if per not in ("image", "batch"):
        raise ValueError(f"per is {per!r}; it can be image or batch")
    return (2, 3) if per == "image" else (0, 2, 3)


def _dice(logits: Tensor, mask: Tensor, per: str, smooth: float, power: int = 1) -> Tensor:
    axes, p = _axes(per), logits.sigmoid()
    return (2 * (p * mask).sum(axes) + smooth) / ((p**power).sum(axes) + mask.sum(axes) + smooth)


def _tversky(logits: Tensor, mask: Tensor, alpha: float, beta: float, per: str, smooth: float) -> Tensor:
    logits, mask = checked(logits, mask)
    axes, p = _axes(per), logits.sigmoid()
    hits, alarms, misses = (p * mask).sum(axes), (p * (1 - mask)).sum(axes), ((-logits).sigmoid() * mask).sum(axes)
    return (alpha * alarms + beta * misses) / (hits + alpha * alarms + beta * misses + smooth)


def _mix(first: Tensor, pixels: Tensor, share: float, reduction: str) -> Tensor:
    return _reduce(share * first + (1 - share) * pixels.mean((2, 3) if first.ndim == 2 else (0, 2, 3)), reduction)


def _reduce(terms: Tensor, reduction: str) -> Tensor:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}; it can be {', '.join(REDUCTIONS)}")
    return terms if reduction == "none" else getattr(terms, reduction)()


def signed_distance(mask: Tensor) -> Tensor:
    """Distance of each pixel of a bool mask [N, K, H, W] from the boundary: < 0 inside, > 0 outside; float32, CPU.

    φ of Kervadec et al. 2019, in units of the image's diagonal. The boundary is halfway between the centres of a defect
    and a background pixel, so the nearest pixels are at ± half a pixel. 0 for empty and full masks.
    """
    mask = mask.cpu()
    out = torch.zeros(mask.shape)
    for n, k in torch.cartesian_prod(torch.arange(mask.shape[0]), torch.arange(mask.shape[1])).tolist():
        inside = mask[n, k].numpy()
        if inside.any() and not inside.all():
            # to the nearest pixel of the other kind, less half a pixel
            phi = distance_transform_edt(~inside) - distance_transform_edt(inside)
            phi += 0.5 * inside - 0.5 * ~inside
            out[n, k] = torch.from_numpy(phi) / (inside.shape[0] ** 2 + inside.shape[1] ** 2) ** 0.5
    return out
