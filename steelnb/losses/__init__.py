"""Losses on logits [N, K, H, W] against masks of that shape.

`sound` has those that work, from their papers, `broken` those that do not, kept runnable to be understood.

`LOSSES` names the sound ones as recipes and records do; `broken.FAILURES` the others.
"""

from steelnb.losses.sound import (
    LOSSES,
    batch_dice_loss,
    bce_loss,
    boundary_loss,
    dice_bce_loss,
    dice_boundary_loss,
    dice_focal_loss,
    dice_loss,
    focal_loss,
    focal_tversky_loss,
    generalised_dice_loss,
    log_dice_loss,
    lovasz_hinge_loss,
    original_dice_loss,
    squared_dice_loss,
    topk_bce_loss,
    tversky_loss,
    weighted_bce_loss,
)

__all__ = [
    "LOSSES", "batch_dice_loss", "bce_loss", "boundary_loss", "dice_bce_loss", "dice_boundary_loss", "dice_focal_loss",
    "dice_loss", "focal_loss", "focal_tversky_loss", "generalised_dice_loss", "log_dice_loss", "lovasz_hinge_loss",
    "original_dice_loss", "squared_dice_loss", "topk_bce_loss", "tversky_loss", "weighted_bce_loss",
]
