"""Small controlled trials in which only the loss differs.  Taught in 05_bce_imbalance.

A trial trains a U-Net of a few thousand weights on crops of steel for about 200 steps: seconds on one CPU core. Its
seed determines the initial weights and the batches, so two losses with the same seed start from the same network and
see the same crops in the same order.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from steelnb import runtime
from steelnb.data.dataset import DataError, SteelData
from steelnb.data.image_cache import ImageCache
from steelnb.evaluation.metrics import Streaming
from steelnb.network.tiles import Tile, input_window
from steelnb.network.unet import UNet

Loss = Callable[[Tensor, Tensor], Tensor]
CHOICE = 8  # candidate positions drawn per crop
SCORED = 32, 2**22  # largest numbers of crops, and of window pixels, scored at once


class Crops(NamedTuple):
    """Crops ready for a valid U-Net: `windows`, uint8 [N, 1, h, w] with surroundings; `masks`, bool [N, 1, H, W]."""

    windows: Tensor
    masks: Tensor

    @property
    def share(self) -> float:
        """Share of defect pixels over all crops."""
        return self.masks.float().mean().item()


def crops(
    data: SteelData, count: int = 64, size: tuple[int, int] = (48, 48), share: float | None = 0.06,
    clean: float = 0.0, depth: int = 2, seed: int = 0, shrink: int = 4,
) -> Crops:
    """`count` crops of H × W pixels from the images of `data` in turn, for a network of `depth`.

    share: target mean share of defect pixels over the crops with a defect. Of `CHOICE` random positions that contain
        a defect pixel, the one that brings the mean closest to it is kept. None: crops at random positions.
    clean: share of crops without a defect. Ignored if `share` is None.
    shrink: images are first averaged over blocks of shrink × shrink pixels (masks by majority), so that a small crop
        covers as much steel as a large one: 48 × 48 is then 192 × 192 of the image.
    Raises DataError if the share is missed by more than a fifth, or if there are too few crops of either kind.
    """
    if data.images.empty:
        raise DataError(f"{data.name}: no image to take crops from")
    rng, cache = np.random.default_rng(seed), ImageCache(data)
    ids = rng.permutation(data.images["ImageId"])
    pixels = {image_id: np.rint(_blocks(cache[image_id], shrink)).astype(np.uint8) for image_id in ids}
    images = {image_id: _blocks(data.mask(image_id), shrink) > 0.5 for image_id in ids}
    defective = [image_id for image_id, mask in images.items() if mask.any()]
    if share is not None and not defective:
        raise DataError(f"{data.name}: no image with a defect")
    without = 0 if share is None else round(clean * count)
    windows, masks, total = [], [], 0.0

    def keep(image_id: str, place: Tile) -> None:
        windows.append(input_window(pixels[image_id], place, depth))
        masks.append(images[image_id][place.region])

    for image_id in islice(cycle(images if share is None else defective), count - without):
        mask, through_defect = images[image_id], share is not None
        drawn = [_draw(mask, size, rng, through_defect) for _ in range(CHOICE if through_defect else 1)]
        shares = [mask[place.region].mean() for place in drawn]
        best = int(np.argmin([abs(total + s - (share or 0) * (len(masks) + 1)) for s in shares]))
        total += shares[best]
        keep(image_id, drawn[best])
    reached = total / max(1, len(masks))
    if share and masks and abs(reached / share - 1) > 0.2:
        raise DataError(f"{data.name}: crops of {size[0]}×{size[1]} pixels reach a share of {reached:.3f}, not {share}")
    for image_id in islice(cycle(images), CHOICE * count):
        place = _draw(images[image_id], size, rng)
        if len(masks) < count and not images[image_id][place.region].any():
            keep(image_id, place)
    if len(masks) < count:
        raise DataError(f"{data.name}: only {len(masks)} of {count} crops found, {without} of which must be clean")
    return Crops(torch.from_numpy(np.stack(windows)[:, None]), torch.from_numpy(np.stack(masks)[:, None]))


def _blocks(image: np.ndarray, side: int) -> np.ndarray:
    """Means over blocks of side × side pixels, float64 [H // side, W // side]; the remainder is cut off."""
    height, width = (n // side for n in image.shape)
    return image[: height * side, : width * side].reshape(height, side, width, side).mean((1, 3))


def _draw(mask: np.ndarray, size: tuple[int, int], rng: np.random.Generator, on_defect: bool = False) -> Tile:
    """A random position of a crop in an image; with `on_defect`, one that contains at least one defect pixel."""
    height, width = (min(n, m) for n, m in zip(size, mask.shape, strict=True))
    allowed = mask if on_defect else np.ones_like(mask)
    rows, columns = np.flatnonzero(allowed.any(1)), np.flatnonzero(allowed.any(0))
    while True:  # positions that overlap the defect's bounding box, until one contains a defect pixel
        top = int(rng.integers(max(0, rows[0] - height + 1), min(mask.shape[0] - height, rows[-1]) + 1))
        left = int(rng.integers(max(0, columns[0] - width + 1), min(mask.shape[1] - width, columns[-1]) + 1))
        place = Tile(top, left, height, width)
        if allowed[place.region].any():
            return place


class Trial(NamedTuple):
    """history: one row per `every` steps, see `trial`. model: the final network, with the last step's `.grad`."""

    history: pd.DataFrame
    model: UNet


def trial(
    loss: Loss, training: Crops, held_out: Crops, *, seed: int = 0, steps: int = 200, batch: int = 4,
    optimizer: str = "adamw", learning_rate: float = 1e-2, momentum: float = 0.9,
    model: Mapping = {"width": 4, "depth": 2}, threshold: float = 0.0, every: int = 10, decay: bool = False,
    watch: Callable[[UNet, Tensor, Tensor], dict] | None = None, device: torch.device | None = None,
    half: bool = False,
) -> Trial:
    """Trains a `UNet(**model)` with `loss`, a function of outputs and masks.

    decay: lowers the learning rate linearly to 0; otherwise it is constant.
    threshold: outputs above it are predicted defect; 0 for logits, 0.5 for outputs meant as probabilities.
    half: trains and scores in mixed precision if the device is faster with it (`runtime.autocast`); not for outputs
        that may exceed 65,504.
    watch: called with the network, a batch of windows (float 0…1) and its masks, in training mode, before the step;
        returns further columns. It may run `backward`; gradients and batch norms are restored afterwards.
    History: `step` (steps done); `loss` on the next batch, in training mode; on the held-out crops, in evaluation
    mode, `dice` (hard, mean over defective crops), `accuracy` and `positive` (shares of all pixels: correct, predicted
    defect), `false_alarm_rate` (of the clean crops, NaN without any), `mean` (of the outputs); `seconds` of training
    without scoring. A loss that is not finite ends the trial; its last row has that loss.
    """
    device = device or runtime.device()
    training, held_out = (Crops(*(part.to(device) for part in steel)) for steel in (training, held_out))
    with runtime.threads_for(model, device):
        torch.manual_seed(seed)
        network, rng = UNet(**model).to(device), np.random.default_rng(seed)
        mixed = (lambda: runtime.autocast(device)) if half else nullcontext
        scaler = torch.amp.GradScaler(device.type, enabled=half and runtime.precision(device) is torch.float16)
        if optimizer == "sgd":
            stepper = torch.optim.SGD(network.parameters(), learning_rate, momentum)
        elif optimizer == "adamw":
            stepper = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=0.0)
        else:
            raise ValueError(f"optimizer is {optimizer!r}; it can be sgd or adamw")
        history, seconds, order = [], 0.0, []
        for step in range(steps + 1):
            due = step % every == 0 or step == steps
            with mixed():
                row = {"step": step} | (score(network, held_out, threshold) if due else {})
            if len(order) < batch:
                order = rng.permutation(len(training.windows)).tolist()
            chosen, order = order[:batch], order[batch:]
            windows, masks = training.windows[chosen].float() / 255, training.masks[chosen]
            if due and watch:
                row |= _undisturbed(network, watch, windows, masks)
            started = time.perf_counter()
            with _statistics_kept(network) if step == steps else nullcontext():  # returns the model that was scored
                with mixed():
                    x = outputs(network, windows, masks)
                value = loss(x, masks)
            row |= {"loss": value.item(), "seconds": seconds}
            finite = math.isfinite(row["loss"])
            if due or not finite:
                history.append(row | ({} if due else score(network, held_out, threshold)))
            if not finite or step == steps:
                break
            for group in stepper.param_groups:
                group["lr"] = learning_rate * (1 - step / steps if decay else 1)
            stepper.zero_grad()
            scaler.scale(value).backward()
            scaler.step(stepper)
            scaler.update()
            seconds += time.perf_counter() - started
    first = ["step", "loss", "dice", "accuracy", "positive", "false_alarm_rate", "mean", "seconds"]
    table = pd.DataFrame(history)
    return Trial(table[first + [name for name in table if name not in first]], network)


def trials(
    losses: Mapping[str, Loss], training: Crops, held_out: Crops, seeds: Iterable[int], **options
) -> pd.DataFrame:
    """The histories of all losses and seeds in one table, with columns `name` and `seed` in front."""
    tables = []
    for name, loss in losses.items():
        for seed in seeds:
            table = trial(loss, training, held_out, seed=seed, **options).history
            table.insert(0, "seed", seed)
            table.insert(0, "name", name)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def outputs(model: UNet, windows: Tensor, masks: Tensor) -> Tensor:
    """The network's outputs for windows (float, 0…1), cropped to the size of the masks."""
    return model(windows)[..., : masks.shape[2], : masks.shape[3]]


def score(model: UNet, steel: Crops, threshold: float = 0.0) -> dict[str, float]:
    """Scores of a network on crops, in evaluation mode, as the columns of `trial`."""
    was_training, streaming, total = model.training, Streaming(), 0.0
    model.eval()
    with torch.inference_mode():
        for windows, masks in _batches(steel):
            x = outputs(model, windows.float() / 255, masks)
            streaming.update(x > threshold, masks)
            total += x.double().sum().item()
    model.train(was_training)
    scores = streaming.scores(empty="skip")
    return {
        "dice": scores["dice"], "accuracy": scores["accuracy"], "positive": streaming.predicted / streaming.pixels,
        "false_alarm_rate": scores["false_alarm_rate"], "mean": total / streaming.pixels,
    }


def logits(model: UNet, steel: Crops, half: bool = False) -> Tensor:
    """A network's outputs for crops in evaluation mode, float32 [N, 1, H, W] on the CPU; `half` as in `trial`."""
    was_training, device, found = model.training, next(model.parameters()).device, []
    model.eval()
    with torch.inference_mode(), runtime.autocast(device) if half else nullcontext():
        for windows, masks in _batches(steel):
            found.append(outputs(model, windows.to(device).float() / 255, masks).float().cpu())
    model.train(was_training)
    return torch.cat(found)


def _batches(steel: Crops) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows and masks in parts that are scored at once."""
    at_once = max(1, min(SCORED[0], SCORED[1] // steel.windows[0].numel()))
    return zip(steel.windows.split(at_once), steel.masks.split(at_once), strict=True)


def _undisturbed(model: UNet, watch: Callable, windows: Tensor, masks: Tensor) -> dict:
    """Calls `watch` and restores gradients and batch norms to their state before the call."""
    gradients = [weight.grad for weight in model.parameters()]
    model.zero_grad()
    with _statistics_kept(model):
        seen = watch(model, windows, masks)
    for weight, gradient in zip(model.parameters(), gradients, strict=True):
        weight.grad = gradient
    return seen


@contextmanager
def _statistics_kept(model: UNet) -> Iterator[None]:
    """Restores the batch norms' running statistics, which a forward pass in training mode changes."""
    before = {name: value.clone() for name, value in model.named_buffers()}
    yield
    for name, value in model.named_buffers():
        value.copy_(before[name])
