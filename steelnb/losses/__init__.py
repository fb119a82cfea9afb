"""Losses on logits: `sound` ones, and `broken` ones that are kept runnable to be understood."""

from steelnb.losses.sound import (
    LOSSES,
    batch_dice,
    bce,
    boundary,
    check_shapes,
    dice,
    dice_bce,
    dice_boundary,
    dice_focal,
    focal,
    focal_tversky,
    generalised_dice,
    log_dice,
    lovasz_hinge,
    original_dice,
    squared_dice,
    topk_bce,
    tversky,
    weighted_bce,
)

__all__ = [
    "LOSSES", "batch_dice", "bce", "boundary", "check_shapes", "dice", "dice_bce", "dice_boundary", "dice_focal",
    "focal", "focal_tversky", "generalised_dice", "log_dice", "lovasz_hinge", "original_dice", "squared_dice",
    "topk_bce", "tversky", "weighted_bce",
]  # fmt: skip
