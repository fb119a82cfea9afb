"""Losses on logits [N, K, H, W] against masks of that shape.

`sound` has losses that work, each from its paper; `broken` has losses that do not, kept runnable for study. `LOSSES`
maps the names used in recipes and records to the sound losses, `broken.FAILURES` names to the others.
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
