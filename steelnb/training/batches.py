"""The split, samples and batches of a recipe.  Taught in 00_start_here.

Iteration over batches can start at any position within an epoch.
"""

import math
import os
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from steelnb.data import splits
from steelnb.data.dataset import SteelData
from steelnb.data.image_cache import ImageCache
from steelnb.network import kinds
from steelnb.training.gpu_samples import ResidentSamples
from steelnb.training.recipes import Recipe
from steelnb.training.samples import Item, Samples


def split_items(data: SteelData, recipe: Recipe, seed: int) -> tuple[list[Item], list[Item]]:
    """The items that a recipe trains on, and those it holds out for validation.

    Raises ValueError if either would be empty, and if a split by row would divide the groups of the data.
    """
    if recipe.samples == "row":
        if data.groups is not None:
            raise ValueError(f"{data.name}: recipe {recipe.name} splits label rows in the file's order, which cannot "
                             "keep groups together: leave the groups out, or use samples='image'")
        ids = data.rows["ImageId"].tolist()
        sides = ([Item(ids[row], (row,)) for row in side] for side in splits.by_row(data, recipe.validation))
    else:
        sides = ([Item(i) for i in side] for side in splits.by_image(data, recipe.validation, seed))
    train_items, validation_items = sides
    if not train_items or not validation_items:
        raise ValueError(
            f"{data.name}: {len(train_items)} samples to train on and {len(validation_items)} to validate on; "
            "each needs at least 1"
            + ". Images of the same steel stay on one side (unless --ignore-copies)" * (data.groups is not None)
        )
    return train_items, validation_items


def training_and_validation_samples(
    data: SteelData,
    recipe: Recipe,
    seed: int,
    sides: tuple[list[Item], list[Item]] | None = None,
    cache: ImageCache | None = None,
) -> tuple[Samples, Samples]:
    """Samples to train on (crops and flips) and to score after each epoch (whole images, at most `recipe.scored`).

    sides, cache: the result of `split_items` and the decoded images, if they exist already.

    Raises ValueError as `split_items`, and images.DataError for an image that cannot be decoded.
    """
    train_items, validation_items = sides or split_items(data, recipe, seed)
    validation_items = scored(data, validation_items, recipe, len(train_items))
    cache = cache or ImageCache(data)
    visits = math.ceil((recipe.epoch_samples or 1) / len(train_items))  # enough to draw an epoch from
    depth = recipe.model.get("depth", 4) if recipe.geometry == "original" else kinds.training_grid(recipe.model)
    shared = dict(depth=depth, geometry=recipe.geometry, per_class=recipe.per_class, seed=seed)
    return (
        Samples(data, cache, train_items * visits, crop=recipe.crop, on_defect=recipe.on_defect,
                flips=recipe.flips, brightness=recipe.brightness, **shared),
        Samples(data, cache, validation_items, **shared),
    )


def scored(data: SteelData, items: list[Item], recipe: Recipe, training: int) -> list[Item]:
    """The held-out samples that are scored after each epoch of at most `training` samples, evenly spread: at most
    `recipe.scored`, and so few that scoring takes at most the share `recipe.scoring` of an epoch's arithmetic.

    Training on one pixel costs as much as scoring three: one forward pass, and twice that for the gradients.
    """
    most = recipe.scored or len(items)
    if recipe.scoring and recipe.crop:
        height, width = (data.images[side].mean() for side in ("height", "width"))
        drawn = recipe.epoch_samples or training
        paid = recipe.scoring * 3 * drawn * recipe.crop[0] * recipe.crop[1] / (height * width)
        most = min(most, max(1, int(paid)))
    return items[:: math.ceil(len(items) / most)]


def epoch_length(samples: Samples, recipe: Recipe) -> int:
    """Number of samples drawn per epoch."""
    return min(recipe.epoch_samples or len(samples), len(samples))


def iter_batches(
    samples: Samples, recipe: Recipe, epoch: int, start: int = 0, share: Callable = lambda batch: (batch, 1.0),
    device: torch.device | None = None,
):
    """Yields (windows, masks, factor, drawn) from the sample at position `start` of an epoch to its end.

    The order of an epoch depends on (seed, epoch) only, and each sample on (seed, epoch, index): no earlier sample has
    to be drawn again to start in the middle. share: this process's part of a batch of indices, and its factor
    (`distributed.World.share`). drawn: number of samples in the batch over all processes.
    """
    samples.set_epoch(epoch)
    order = np.random.default_rng([samples.seed, epoch]).permutation(len(samples))[: epoch_length(samples, recipe)]
    whole = [order[i : i + recipe.batch].tolist() for i in range(start, len(order), recipe.batch)]
    mine = [share(batch) for batch in whole]
    drawn = pixels(samples, [indices for indices, _ in mine], device or torch.device("cpu"))
    for (windows, masks), (_, factor), batch in zip(drawn, mine, whole, strict=True):
        yield windows, masks, factor, len(batch)


def pixels(samples: Samples, batches: list[list[int]], device: torch.device) -> Iterable[tuple[Tensor, Tensor]]:
    """Windows and masks of batches of indices: cut on a CUDA device if the data set fits there, else on the CPU."""
    if samples.resident is None:
        samples.resident = ResidentSamples.where_it_fits(samples, device)
    if samples.resident is not None:
        return map(samples.resident.batch, batches)
    cuda = device.type == "cuda"
    return DataLoader(
        samples, batch_sampler=batches, pin_memory=cuda,
        num_workers=min(4, os.cpu_count() or 1) if cuda else 0,  # on a CPU the network needs every core
        generator=torch.Generator(),  # the default draws from the global generator, once more for each session
    )
