"""What a recipe trains on and is scored on: split, samples, batches.  Taught in 00_start_here.

Batches begin at any place within an epoch.
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
    """What a recipe trains on and what it holds out.

    Raises ValueError where either would be empty, and where a split by row would tear the groups of the data.
    """
    if recipe.samples == "row":
        if data.groups is not None:
            raise ValueError(f"{data.name}: recipe {recipe.name} splits label rows in the file's order, which cannot "
                             "keep groups together: leave the groups out, or take samples='image'")
        ids = data.rows["ImageId"].tolist()
        sides = ([Item(ids[row], (row,)) for row in side] for side in splits.by_row(data, recipe.validation))
    else:
        sides = ([Item(i) for i in side] for side in splits.by_image(data, recipe.validation, seed))
    train_items, validation_items = sides
    if not train_items or not validation_items:
        raise ValueError(
            f"{data.name}: {len(train_items)} samples to train on and {len(validation_items)} to validate on; "
            "each needs at least 1"
            + ". Images that show the same steel stay on one side (--ignore-copies)" * (data.groups is not None)
        )
    return train_items, validation_items


def training_and_validation_samples(
    data: SteelData,
    recipe: Recipe,
    seed: int,
    sides: tuple[list[Item], list[Item]] | None = None,
    progress: bool = False,
) -> tuple[Samples, Samples]:
    """Samples to train on (crops and flips) and to score after each epoch (whole images, at most `recipe.scored`).

    sides: of `split_items`, where it was split already.

    Raises ValueError as `split_items`, and files.DataError for an image that does not decode.
    """
    train_items, validation_items = sides or split_items(data, recipe, seed)
    validation_items = scored(data, validation_items, recipe, len(train_items))
    cache = ImageCache(data, progress=progress)
    visits = math.ceil((recipe.epoch_samples or 1) / len(train_items))  # enough to draw an epoch from
    depth = recipe.model.get("depth", 4) if recipe.geometry == "original" else kinds.training_grid(recipe.model)
    shared = dict(depth=depth, geometry=recipe.geometry, per_class=recipe.per_class, seed=seed)
    return (
        Samples(data, cache, train_items * visits, crop=recipe.crop, on_defect=recipe.on_defect,
                flips=recipe.flips, brightness=recipe.brightness, **shared),
        Samples(data, cache, validation_items, **shared),
    )


def scored(data: SteelData, items: list[Item], recipe: Recipe, training: int) -> list[Item]:
    """Which of the held-out samples are scored after each epoch of at most `training` samples, evenly spread: at most
    `recipe.scored`, and no more than `recipe.scoring` of an epoch's arithmetic pays for.

    One pixel trained is three scored: forward, and twice that for the gradients.
    """
    most = recipe.scored or len(items)
    if recipe.scoring and recipe.crop:
        height, width = (data.images[side].mean() for side in ("height", "width"))
        drawn = recipe.epoch_samples or training
        paid = recipe.scoring * 3 * drawn * recipe.crop[0] * recipe.crop[1] / (height * width)
        most = min(most, max(1, int(paid)))
    return items[:: math.ceil(len(items) / most)]


def epoch_length(samples: Samples, recipe: Recipe) -> int:
    """How many samples one epoch draws."""
    return min(recipe.epoch_samples or len(samples), len(samples))


def iter_batches(
    samples: Samples, recipe: Recipe, epoch: int, start: int = 0, share: Callable = lambda batch: (batch, 1.0),
    device: torch.device | None = None,
):
    """Yields (windows, masks, factor, drawn) from the sample at `start` of an epoch to the epoch's end.

    The order of an epoch follows from (seed, epoch), and each sample from (seed, epoch, index): nothing has to be
    drawn again to begin in the middle. share: what of a batch of indices is this process's, and its factor
    (`distributed.World.share`); drawn: samples in the batch over all processes.
    """
    samples.set_epoch(epoch)
    order = np.random.default_rng([samples.seed, epoch]).permutation(len(samples))[: epoch_length(samples, recipe)]
    whole = [order[i : i + recipe.batch].tolist() for i in range(start, len(order), recipe.batch)]
    mine = [share(batch) for batch in whole]
    drawn = pixels(samples, [indices for indices, _ in mine], device or torch.device("cpu"))
    for (windows, masks), (_, factor), batch in zip(drawn, mine, whole, strict=True):
        yield windows, masks, factor, len(batch)


def pixels(samples: Samples, batches: list[list[int]], device: torch.device) -> Iterable[tuple[Tensor, Tensor]]:
    """Windows and masks of batches of indices: cut on a CUDA device where the data set fits on it, else on the CPU."""
    if samples.resident is None:
        samples.resident = ResidentSamples.where_it_fits(samples, device)
    if samples.resident is not None:
        return map(samples.resident.batch, batches)
    cuda = device.type == "cuda"
    return DataLoader(
        samples, batch_sampler=batches, pin_memory=cuda,
        num_workers=min(4, os.cpu_count() or 1) if cuda else 0,  # a CPU has no core to spare beside the network
        generator=torch.Generator(),  # else it draws from the global one, once more for each session
    )
