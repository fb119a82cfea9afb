"""How long a training has to be, and what to say of one that found nothing.  Taught in 09_hundred_hours."""

from steelnb.data.dataset import SteelData
from steelnb.runs.identity import TrainingError
from steelnb.training.recipes import Recipe

FEWEST = 60  # steps of a one-cycle schedule, below which no recipe here has learned to find anything
SHARE = 0.8  # of the hours for steps; the rest is for scoring and for reading the data
NOTHING = 0.05  # Dice of defective images at which nothing was found


def fitted_steps(total: int, hours: float, seconds_a_step: float) -> int:
    """Steps of a schedule that comes to its end within `hours`: `total`, or as many as fit.

    Raises TrainingError where these are too few to learn anything.
    """
    fit = int(SHARE * 3600 * hours / seconds_a_step)
    if fit >= total:
        return total
    if fit < FEWEST:
        needed = FEWEST * seconds_a_step / 3600 / SHARE
        raise TrainingError(
            f"in {hours:g} hours there is time for {fit} steps here ({seconds_a_step:.2g} s each), too few to learn "
            f"anything: give at least {needed:.2g} hours, take a smaller crop or batch, or say how many with steps "
            "(--steps)"
        )
    return fit


def of_a_failure(history: list[dict], recipe: Recipe, data: SteelData) -> str:
    """What a finished training that found nothing should be told, likeliest cause first; "" where it found something.

    history: a row per epoch, as `Trainer.history`.
    """
    best = max((row["validation_dice"] for row in history), default=float("nan"))
    if not best < NOTHING:
        return ""
    steps, losses = history[-1]["step"], [row["train_loss"] for row in history]
    clean = float((data.images["masks"] == 0).mean())
    side = float((data.rows["area"].median() if len(data.rows) else 0) ** 0.5)
    causes = [
        (steps < 5 * FEWEST, f"{steps} steps are few: give --steps {max(600, 4 * steps)}"),
        (len(losses) > 1 and losses[-1] < 0.9 * losses[-2], "the loss was still falling: give it more steps"),
        (clean > 0.6 and recipe.on_defect < 0.5 and recipe.crop is not None,
         f"{clean:.0%} of the images are clean, and crops seldom show a defect: --set on_defect=0.75"),
        (recipe.crop is None and clean > 0.6, f"{clean:.0%} of the images are clean: take a recipe with crops"),
        (side < 12, f"half of the defects are smaller than {side:.0f} × {side:.0f} pixels, which deeper levels do not "
                    "see: enlarge the images"),
        (recipe.loss in ("bce", "topk_bce"), f"loss {recipe.loss} is content with background: --set loss=dice_bce"),
        (recipe.loss in ("original_dice", "batch_dice", "dice"),
         f"loss {recipe.loss} has no gradient where nothing is found: --set loss=dice_bce"),
    ]
    likely = [text for holds, text in causes if holds] or [
        "look whether the masks lie on their images (steelnb audit), and try another --seed"]
    return (f"It found nothing: Dice on defective images is {best:.3f} at best. Likely, in this order: "
            + "; ".join(likely[:3]))
