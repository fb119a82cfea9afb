"""How a network learns.

Training settings (`recipes`), samples and batches of windows (`samples`, `batches`, on a GPU `gpu_samples`), one
optimisation step (`trainer`), scores between epochs (`validation`), several processes (`distributed`), small
comparisons of losses (`loss_trials`).
"""

from steelnb.training import recipes
from steelnb.training.recipes import RECIPES, Recipe
from steelnb.training.trainer import Trainer
from steelnb.training.validation import validate

__all__ = ["RECIPES", "Recipe", "Trainer", "recipes", "validate"]
