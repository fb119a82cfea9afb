"""How long to train, and the likely causes when a training found nothing."""

from steelnb.data.dataset import SteelData
from steelnb.runs.identity import TrainingError
from steelnb.training.recipes import Recipe

FEWEST = 60  # steps of a one-cycle schedule, below which no recipe here has learned to find anything
SHARE = 0.8  # of the hours for steps; the rest is for scoring and for reading the data
NOTHING = 0.05  # Dice of defective images at which nothing was found


def fitted_steps(total: int, hours: float, seconds_a_step: float) -> int:
    """Length, in steps, of a schedule that ends within `hours`: `total`, or as many as fit.

    Raises TrainingError if these are too few to learn anything.
    """
    fit = int(SHARE * 3600 * hours / seconds_a_step)
    if fit >= total:
        return total
    if fit < FEWEST:
        needed = FEWEST * seconds_a_step / 3600 / SHARE
        raise TrainingError(
            f"in {hours:g} hours there is time for {fit} steps here ({seconds_a_step:.2g} s each), too few to learn "
            f"anything: allow at least {needed:.2g} hours, use a smaller crop or batch, or set the number of steps "
            "(--steps)"
        )
    return fit


def explain_failure(history: list[dict], recipe: Recipe, data: SteelData) -> str:
    """Likely causes, most likely first, of a finished training that found nothing; "" if it found something.

    history: one dict per epoch, as `Trainer.history`.
    """
    best = max((row["validation_dice"] for row in history), default=float("nan"))
    if not best < NOTHING:
        return ""
    steps, losses = history[-1]["step"], [row["train_loss"] for row in history]
    clean = float((data.images["masks"] == 0).mean())
    side = float((data.rows["area"].median() if len(data.rows) else 0) ** 0.5)
    causes = [
        (steps < 5 * FEWEST, f"{steps} steps are few: try --steps {max(600, 4 * steps)}"),
        (len(losses) > 1 and losses[-1] < 0.9 * losses[-2], "the loss was still falling: train for more steps"),
        (clean > 0.6 and recipe.on_defect < 0.5 and recipe.crop is not None,
         f"{clean:.0%} of the images are clean, and crops seldom show a defect: --set on_defect=0.75"),
        (recipe.crop is None and clean > 0.6, f"{clean:.0%} of the images are clean: use a recipe with crops"),
        (side < 12, f"half of the defects are smaller than {side:.0f} × {side:.0f} pixels, which the deeper levels "
                    "cannot resolve: enlarge the images"),
        (recipe.loss in ("bce", "topk_bce"),
         f"loss {recipe.loss} can be low with only background predicted: --set loss=dice_bce"),
        (recipe.loss in ("original_dice", "batch_dice", "dice"),
         f"loss {recipe.loss} has no gradient where nothing is found: --set loss=dice_bce"),
    ]
    likely = [text for holds, text in causes if holds] or [
        "check whether the masks match their images (steelnb audit), and try another --seed"]
    return (f"It found nothing: Dice on defective images is {best:.3f} at best. Likely causes, most likely first: "
            + "; ".join(likely[:3]))
