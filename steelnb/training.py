"""The training loop: one recipe, one data set, one run folder.  Taught in 00_start_here.

A run folder holds `config.json` (recipe, seed, data, versions), `history.csv` (a row an epoch) and
`weights.safetensors` (the epoch with the best validation Dice on defective images, so that Dice is a little flattered).
"""

import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

import steelnb
from steelnb import runtime, splits, weights
from steelnb.data import SteelData
from steelnb.evaluate import evaluate
from steelnb.losses import LOSSES
from steelnb.recipes import Recipe
from steelnb.samples import ImageCache, Item, Samples
from steelnb.unet import UNet


class TrainingError(RuntimeError):
    """Training that cannot go on. The message says why and what to do."""


def train(
    data: SteelData,
    run: str | Path,
    recipe: Recipe,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    progress: bool = True,
    report: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Trains a network on `data` by `recipe` and returns the history, a row an epoch, as in `run`/history.csv.

    epochs: instead of the recipe's number; steps: instead of epochs (the last epoch may then be a part of one).
    Everything random follows from `seed`. progress: a bar over steps; `report` gets a line an epoch.
    Seconds in the history are of training alone, without the scoring between epochs.
    Raises TrainingError for a run folder in use, a data set that cannot be split or batched, and a loss that is not
    finite; the run folder is not made before the data has been read.
    """
    run, device = Path(run), device or runtime.device()
    if (run / "config.json").exists():
        raise TrainingError(f"{run} already holds a run: name another folder, or delete this one")
    if recipe.crop is None and recipe.batch > 1 and len(data.images[["height", "width"]].drop_duplicates()) > 1:
        raise TrainingError(
            f"{data.name}: images of several sizes do not fit into one batch: take a recipe with crops, or a batch of 1"
        )
    sides = split(data, recipe, seed)
    training, validation = parts(data, recipe, seed, progress)
    samples_each = min(recipe.epoch_samples or len(training), len(training))
    per_epoch = math.ceil(samples_each / recipe.batch)
    total = steps or (epochs or recipe.epochs) * per_epoch
    epochs = math.ceil(total / per_epoch)
    torch.manual_seed(seed)
    outputs = len(data.classes) if recipe.per_class else 1
    model = UNet(**recipe.model | {"out_channels": outputs}).to(device)
    optimizer, scheduler = _optimizer(model, recipe, total)
    loss_function = LOSSES[recipe.loss]
    about = {
        "version": steelnb.__version__,
        "recipe": recipe.to_dict(),
        "seed": seed,
        "data": {"name": data.name, "fingerprint": data.fingerprint(), "classes": data.classes},
        "training": sorted({item.image_id for item in sides[0]}),
        "validation": sorted({item.image_id for item in sides[1]}),
    }
    run.mkdir(parents=True, exist_ok=True)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    (run / "config.json").write_text(json.dumps(about | {"versions": versions, "steps": total}, indent=1))

    history, step, best, seconds = [], 0, -1.0, 0.0
    bar = tqdm(total=total, desc="train", unit="step", disable=not progress)
    for epoch in range(epochs):
        started, summed, seen = time.perf_counter(), torch.zeros((), device=device), 0
        training.set_epoch(epoch)
        model.train()
        order = np.random.default_rng([seed, epoch]).permutation(len(training))[:samples_each]
        for windows, masks in _loader(training, order, recipe.batch, device):
            windows, masks = windows.to(device, non_blocking=True), masks.to(device, non_blocking=True)
            with runtime.autocast(device):
                logits = model(windows.float().div_(255))[..., : masks.shape[2], : masks.shape[3]]
            loss = loss_function(logits, masks)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            summed += loss.detach() * len(windows)
            seen += len(windows)
            step += 1
            bar.update()
            if step == total:
                break
        seconds += time.perf_counter() - started
        train_loss = summed.item() / seen
        if not math.isfinite(train_loss):
            raise TrainingError(
                f"the loss became {train_loss} in epoch {epoch + 1}: lower the learning rate ({recipe.learning_rate:g})"
                + (f"; the weights of epoch {history[-1]['epoch']} or before are kept" if history else "")
            )
        scores = evaluate(model, validation, loss_function, progress)
        row = {"epoch": epoch + 1, "step": step, "seconds": seconds, "train_loss": train_loss}
        history.append(row | {f"validation_{name}": value for name, value in scores.items()})
        _write_table(run / "history.csv", history)
        if not scores["dice"] <= best:  # also where it is NaN: with no defect to validate on, the last epoch is kept
            best = scores["dice"]
            weights.save(run / "weights.safetensors", model, about | {"epoch": epoch + 1, "scores": scores})
        bar.set_postfix(loss=f"{train_loss:.3f}", dice=f"{scores['dice']:.3f}")
        report(
            f"epoch {epoch + 1:>3}/{epochs} · step {step:>5} · {seconds:6.1f} s of training · loss {train_loss:.3f} · "
            f"validation loss {scores['loss']:.3f} · Dice on defective images {scores['dice']:.3f}"
        )
        if step == total:
            break
    bar.close()
    return pd.DataFrame(history)


def split(data: SteelData, recipe: Recipe, seed: int) -> tuple[list[Item], list[Item]]:
    """What a recipe trains on and what it holds out. Raises TrainingError where either would be empty."""
    if recipe.samples == "row":
        ids = data.rows["ImageId"].tolist()
        sides = ([Item(ids[row], (row,)) for row in side] for side in splits.by_row(data, recipe.validation))
    else:
        sides = ([Item(i) for i in side] for side in splits.by_image(data, recipe.validation, seed))
    train_items, validation_items = sides
    if not train_items or not validation_items:
        raise TrainingError(
            f"{data.name}: {len(train_items)} samples to train on and {len(validation_items)} to validate on; "
            "each needs at least 1"
        )
    return train_items, validation_items


def parts(data: SteelData, recipe: Recipe, seed: int, progress: bool = False) -> tuple[Samples, Samples]:
    """Samples to train on (crops and flips) and to score after each epoch (whole images, at most `recipe.scored`).

    Raises TrainingError as `split`, and files.DataError for an image that does not decode.
    """
    train_items, validation_items = split(data, recipe, seed)
    validation_items = validation_items[:: math.ceil(len(validation_items) / (recipe.scored or len(validation_items)))]
    cache = ImageCache(data, progress=progress)
    visits = math.ceil((recipe.epoch_samples or 1) / len(train_items))  # enough to draw an epoch from
    depth = recipe.model.get("depth", 4)
    shared = dict(depth=depth, geometry=recipe.geometry, per_class=recipe.per_class, seed=seed)
    return (
        Samples(data, cache, train_items * visits, crop=recipe.crop, on_defect=recipe.on_defect,
                flips=recipe.flips, **shared),
        Samples(data, cache, validation_items, **shared),
    )  # fmt: skip


def _loader(samples: Samples, order: np.ndarray, batch: int, device: torch.device) -> DataLoader:
    workers = 4 if device.type == "cuda" else 0  # a CPU has no core to spare beside the network
    return DataLoader(samples, batch, sampler=order.tolist(), num_workers=workers, pin_memory=device.type == "cuda")


def _optimizer(model: UNet, recipe: Recipe, steps: int):
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            model.parameters(), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay
        )
    else:
        optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    warm_up = max(1, steps // 10)

    def factor(step: int) -> float:
        if recipe.schedule == "constant":
            return 1.0
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 + 0.5 * math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _write_table(path: Path, history: list[dict]) -> None:
    unfinished = path.with_suffix(".part")
    pd.DataFrame(history).to_csv(unfinished, index=False)
    unfinished.replace(path)
