"""The contenders of `throughput.py`: the original's way, each change on the way to ours, and the peers."""

import contextlib
import io
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from on_a_gpu.clock import Line, Plan
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from steelnb import runtime
from steelnb.data import dataset
from steelnb.losses import original_dice_loss
from steelnb.network import geometry
from steelnb.network.tiles import ORIGINAL_MARGINS, original_crop
from steelnb.network.unet import UNet, cost
from steelnb.training import batches
from steelnb.training.recipes import Recipe
from steelnb.training.trainer import Trainer

ITS_WAY, WITH_DATA = "the original's way", "data by batches.iter_batches"
CHANGES = ("exact geometry", "bytes, divided there", "TF32", "mixed precision", "channels-last", "fused optimizer")
PEER = frozenset(CHANGES[2:]) | {"no sync", "compile"}
BATCHES, MEMORY_BATCHES = (4, 8, 16), (1, 2, 4, 8, 16)
Pool = list[tuple[np.ndarray, np.ndarray]]


class Written:
    """The original's step, written out. on: which changes are made; "no sync" and "compile" for the peers."""

    def __init__(self, network: nn.Module, on: frozenset[str], device: torch.device) -> None:
        layout = torch.channels_last if "channels-last" in on else torch.preserve_format
        self.network, self.on, self.device = network.to(device, memory_format=layout).train(), on, device
        self.forward = torch.compile(network) if "compile" in on and runtime.compiles(device) else network
        fused = True if "fused optimizer" in on and device.type == "cuda" else None
        self.optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.99, fused=fused)
        self.half = "mixed precision" in on
        float16 = self.half and runtime.precision(device) is torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=float16)

    def step(self, windows: Tensor, masks: Tensor, *_: float) -> None:
        windows, masks = windows.to(self.device), masks.to(self.device)
        if windows.dtype == torch.uint8:
            windows = windows.float().div_(255)
        with runtime.autocast(self.device) if self.half else contextlib.nullcontext():
            logits = self.forward(windows)[..., : masks.shape[2], : masks.shape[3]]
        loss = original_dice_loss(logits, masks)
        self.optimizer.zero_grad(set_to_none="no sync" in self.on)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if "no sync" not in self.on:
            loss.item()


def mirrored(pool: Pool, batch: int, exact: bool = True, floats: bool = False) -> Iterator[tuple]:
    """Endless batches as `batches.iter_batches`, windows mirrored on the CPU at each step; floats in 0…1, or bytes."""
    margin = geometry.margin()
    ours = [(margin, geometry.input_size(n) - n - margin) for n in pool[0][0].shape]
    margins = ours if exact else ORIGINAL_MARGINS
    for first in itertools.count(0, batch):
        windows, masks = [], []
        for image, mask in (pool[(first + i) % len(pool)] for i in range(batch)):
            windows.append(np.pad(image.astype(np.float32) / 255 if floats else image, margins, mode="symmetric")[None])
            masks.append((mask if exact else original_crop(mask)).astype(np.float32 if floats else np.uint8))
        yield torch.from_numpy(np.stack(windows)), torch.from_numpy(np.stack(masks)), 1.0, batch


def loaded(samples, recipe: Recipe, device: torch.device) -> Iterator[tuple]:
    """Endless batches, epoch after epoch, drawn as in a training."""
    for epoch in itertools.count():
        yield from batches.iter_batches(samples, recipe, epoch, device=device)


def written(network: Callable[[], nn.Module], on: frozenset[str], device: torch.device, feed: Iterator) -> Callable:
    one = Written(network(), on, device)
    return lambda: one.step(*next(feed))


def trained(recipe: Recipe, device: torch.device, feed: Iterator) -> Callable:
    trainer = Trainer(recipe, 1, 10**6, 0, device)
    trainer.begin()
    return lambda: trainer.step(*next(feed))


def fixed(batch: tuple, device: torch.device) -> Iterator[tuple]:
    """The same batch endlessly, on the device."""
    return itertools.repeat((batch[0].to(device), batch[1].to(device), *batch[2:]))


def way_lines(plan: Plan, pool: Pool, recipe: Recipe) -> list[Line]:
    """From the original's way to ours, one change per line, at batch 2; then larger batches."""
    device, lines = plan.device, []
    its = [n + sum(margins) for n, margins in zip(plan.shape, ORIGINAL_MARGINS, strict=True)]
    exact = [geometry.input_size(n) for n in plan.shape]
    its_macs, macs = (sum(layer.macs for layer in cost(UNet(**recipe.model), *size)) for size in (its, exact))
    for count in range(len(CHANGES) + 1):
        on = frozenset(CHANGES[:count])

        def start(on=on) -> Callable:
            feed = mirrored(pool, recipe.batch, CHANGES[0] in on, CHANGES[1] not in on)
            return written(lambda: UNet(**recipe.model), on, device, feed)

        name = f"+ {CHANGES[count - 1]}" if count else ITS_WAY
        lines.append(Line(name, recipe.batch, macs if on else its_macs, start, CHANGES[2] in on))

    def ours(name: str, batch: int, compiled: bool, feed: Callable) -> Line:
        changed = recipe.changed(geometry="exact", channels_last=True, compile=compiled, batch=batch)
        return Line(name, batch, macs, lambda: trained(changed, device, feed(batch)))

    def still(batch: int) -> Iterator:
        return fixed(next(mirrored(pool, batch)), device)

    lines.append(ours("+ no host sync: Trainer", recipe.batch, False, lambda batch: mirrored(pool, batch)))
    lines.append(ours("+ a fixed batch", recipe.batch, False, still))
    lines.append(ours("+ compile", recipe.batch, True, still))
    return lines + [ours(f"+ batch {batch}", batch, True, still) for batch in BATCHES]


def our_line(plan: Plan, steel: dataset.SteelData, recipe: Recipe, macs: int) -> Line:
    """Ours with all work on data, as a training has it. 4 workers have 8 batches ahead."""
    drawn = recipe.changed(epoch_samples=recipe.batch * (plan.turns + 1) * (plan.warm + plan.steps))  # all in one epoch

    def start() -> Callable:
        samples, _ = batches.training_and_validation_samples(steel, drawn, seed=0)
        return trained(drawn, plan.device, loaded(samples, drawn, plan.device))

    return Line(WITH_DATA, recipe.batch, macs, start, ahead=10)


def peer_networks(width: int) -> dict[str, Callable[[], nn.Module]]:
    """Same-padding U-Nets of five levels with batch norm, their first as wide as ours."""
    table = {"same padding, as milesial's": lambda: UNet(width=width, padding="same")}
    try:
        from monai.networks import nets
    except ImportError:
        print("MONAI is not installed (pip install -c constraints.txt -e '.[peers]'): its lines are left out")
        return table
    levels = [width * 2**level for level in range(5)]

    def basic() -> nn.Module:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its features
            return nets.BasicUNet(2, 1, 1, features=(*levels, width), act="relu", norm="batch")

    return table | {
        "MONAI BasicUNet": basic,
        "MONAI UNet, 2 residual units": lambda: nets.UNet(2, 1, 1, levels, (2,) * 4, num_res_units=2, norm="batch"),
    }


def counted(network: Callable[[], nn.Module], shape: tuple[int, int]) -> int:
    """Multiply-adds of one image's forward, by PyTorch's own counter; nothing is computed."""
    with torch.device("meta"):
        ghost, image = network(), torch.empty(1, 1, *shape)
    with FlopCounterMode(display=False) as counter:
        ghost(image)
    return counter.get_total_flops() // 2


def peer_lines(plan: Plan, pool: Pool, batch: int) -> list[Line]:
    images, masks = (np.stack([pool[i % len(pool)][part] for i in range(batch)]) for part in (0, 1))
    whole = torch.from_numpy(images[:, None]), torch.from_numpy(masks.astype(np.uint8))

    def line(name: str, network: Callable[[], nn.Module]) -> Line:
        def start() -> Callable:
            return written(network, PEER, plan.device, fixed(whole, plan.device))

        return Line(name, batch, counted(network, plan.shape), start)

    return [line(name, network) for name, network in peer_networks(plan.width).items()]


def memory_ways(plan: Plan, pool: Pool, recipe: Recipe) -> dict[str, Callable[[int], Callable]]:
    """The original's way and ours, not compiled, as functions of the batch."""
    return {
        "the original's way, float32": lambda batch: written(
            lambda: UNet(**recipe.model), frozenset(), plan.device, mirrored(pool, batch, False, True)),
        "ours, mixed precision": lambda batch: trained(
            recipe.changed(geometry="exact", channels_last=True, batch=batch), plan.device,
            fixed(next(mirrored(pool, batch)), plan.device)),
    }
