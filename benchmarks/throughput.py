"""How many images a second does training take on a GPU, the original's way and ours, at the original's network?

    python benchmarks/throughput.py [--turns 5] [--steps 20] [--write] [--commit HASH]

The network is the original's: valid, width 64, depth 4. Its way is written out here, under today's PyTorch: float32 (no
TF32, which its P100 had not), eager, batch 2, images mirrored on the CPU by NumPy as floats, its Dice loss after the
repair, `loss.item()` at each step. Then one change a line, each on top of those before: exact geometry; bytes to the
device, divided there; TF32; mixed precision (bfloat16, or float16 where the card has none); channels-last; a fused
optimizer; `trainer.Trainer`, which waits for nothing; a fixed batch on the device, so no work on data; torch.compile;
larger batches. At the batch with most images a second follow the same again (its distance from the line above is the
noise), the same with all work on data (`loading.batches`), and same-padding U-Nets of equal width on 256×1600 pixels,
on a fixed batch and with all of ours but its geometry: one built as milesial's, and MONAI's where it is installed.

- A window is --steps steps between two synchronisations by the clock, after untimed ones, with a loader as many as use
  up what it has ahead; a line's time is the median over --turns. The lines take turns in a random order where the card
  has 40 GiB to hold all of them, else they run one after another. Images are decoded before, in every line.
- GMAC are the multiply-adds of one image's forward; a training step counts three times as many, each two operations.
- Share: those operations a second over the card's best rate of square matrix products in mixed precision's type, on
  random numbers, of the same run.
- Peak memory is what a line allocated at most: weights, gradients, momentum, features. What is out of memory is said.

Without a CUDA device all lines run small, which proves no more than that they run, and --write is refused.
"""

import argparse
import contextlib
import gc
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from steelnb import data, geometry, loading, runtime, synthetic
from steelnb.losses import original_dice
from steelnb.recipes import ORIGINAL, Recipe
from steelnb.samples import ORIGINAL_MARGINS, original_crop
from steelnb.trainer import Trainer
from steelnb.unet import UNet, cost

ROOT = Path(__file__).resolve().parents[1]
ITS_WAY, WITH_DATA, OUT_OF_MEMORY = "the original's way", "data by loading.batches", "out of memory"
CHANGES = ("exact geometry", "bytes, divided there", "TF32", "mixed precision", "channels-last", "fused optimizer")
PEER = frozenset(CHANGES[2:]) | {"no sync", "compile"}
BATCHES, MEMORY_BATCHES = (4, 8, 16), (1, 2, 4, 8, 16)
LEAST_SPEED_UP, LEAST_SHARE = 8.0, 0.4
ROOM = 40 * 2**30  # bytes free on a card that holds all lines at once
Pool = list[tuple[np.ndarray, np.ndarray]]


class Plan(NamedTuple):
    """How large and how long: on a GPU the original's size, elsewhere what runs in seconds."""

    device: torch.device
    width: int
    shape: tuple[int, int]  # of an image
    images: int
    warm: int  # untimed steps at first
    matrices: tuple[int, ...]
    steps: int
    turns: int


class Line(NamedTuple):
    """A contender: `start` builds it and returns its step. macs: of one image's forward."""

    name: str
    batch: int
    macs: int
    start: Callable[[], Callable[[], object]]
    tf32: bool = True
    ahead: int = 3  # untimed steps before each window, `plan.warm` at most


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

    def take(self, windows: Tensor, masks: Tensor, *_: float) -> None:
        windows, masks = windows.to(self.device), masks.to(self.device)
        if windows.dtype == torch.uint8:
            windows = windows.float().div_(255)
        with runtime.autocast(self.device) if self.half else contextlib.nullcontext():
            logits = self.forward(windows)[..., : masks.shape[2], : masks.shape[3]]
        loss = original_dice(logits, masks)
        self.optimizer.zero_grad(set_to_none="no sync" in self.on)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if "no sync" not in self.on:
            loss.item()


def mirrored(pool: Pool, batch: int, exact: bool = True, floats: bool = False) -> Iterator[tuple]:
    """Endless batches as `loading.batches`, windows mirrored on the CPU at each step; floats in 0…1, or bytes."""
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
    """Endless epochs as a training draws them."""
    for epoch in itertools.count():
        yield from loading.batches(samples, recipe, epoch, device=device)


def written(network: Callable[[], nn.Module], on: frozenset[str], device: torch.device, feed: Iterator) -> Callable:
    one = Written(network(), on, device)
    return lambda: one.take(*next(feed))


def trained(recipe: Recipe, device: torch.device, feed: Iterator) -> Callable:
    trainer = Trainer(recipe, 1, 10**6, 0, device)
    trainer.begin()
    return lambda: trainer.take(*next(feed))


def fixed(batch: tuple, device: torch.device) -> Iterator[tuple]:
    """The same batch for ever, on the device."""
    return itertools.repeat((batch[0].to(device), batch[1].to(device), *batch[2:]))


def way_lines(plan: Plan, pool: Pool, recipe: Recipe) -> list[Line]:
    """From the original's way to ours, a change a line, at batch 2; then larger batches."""
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


def our_line(plan: Plan, steel: data.SteelData, recipe: Recipe, macs: int) -> Line:
    """Ours with all work on data, as a training has it. 4 workers have 8 batches ahead."""
    drawn = recipe.changed(epoch_samples=recipe.batch * (plan.turns + 1) * (plan.warm + plan.steps))  # all in one epoch

    def start() -> Callable:
        samples, _ = loading.parts(steel, drawn, seed=0)
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


def seconds(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Of one step, from one synchronisation to the next."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return (time.perf_counter() - started) / steps


def cleared(device: torch.device) -> int:
    """Gives unused memory back to the card; bytes that are in use."""
    if device.type != "cuda":
        return 0
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def attempt(what: Callable, failed: dict[str, str], name: str):
    """`what()`, or None with the reason in `failed`: one line must not cost the others."""
    try:
        return what()
    except torch.OutOfMemoryError:
        failed[name] = OUT_OF_MEMORY
    except Exception as error:
        failed[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
    return None


def tf32(on: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on


def begun(line: Line, steps: int, device: torch.device) -> tuple[Callable, int]:
    """A line's step after `steps` of them, and the bytes it took at most."""
    before = cleared(device)
    tf32(line.tf32)
    step = line.start()
    seconds(step, steps, device)
    return step, (torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else 0)


def measured(lines: list[Line], plan: Plan, rng: np.random.Generator) -> dict[str, dict]:
    """{name: what was measured, or why it failed}, in turns of a random order. All lines are held at once."""
    running, peaks, failed, took = {}, {}, {}, {line.name: [] for line in lines}
    for line in lines:
        if started := attempt(lambda line=line: begun(line, plan.warm, plan.device), failed, line.name):
            running[line.name], peaks[line.name] = started
    for line in (lines[i] for _ in range(plan.turns) for i in rng.permutation(len(lines))):
        if line.name in failed:
            continue

        def window(line=line) -> float:
            cleared(plan.device)
            tf32(line.tf32)
            seconds(running[line.name], min(line.ahead, plan.warm), plan.device)
            return seconds(running[line.name], plan.steps, plan.device)

        took[line.name].append(attempt(window, failed, line.name))
        if line.name in failed:
            del running[line.name]
    rows = {}
    for line in lines:
        row = rows[line.name] = {"batch": line.batch, "gmac_an_image": line.macs / 1e9}
        if line.name in failed:
            row["failed"] = failed[line.name]
            continue
        step = float(np.median(took[line.name]))
        row |= {"ms_a_step": 1e3 * step, "images_per_s": line.batch / step,
                "tflops": 6 * line.macs * line.batch / step / 1e12, "peak_gib": peaks[line.name] / 2**30 or None,
                "ms_of_the_windows": [1e3 * each for each in took[line.name]]}  # fmt: skip
    return rows


def race(lines: list[Line], plan: Plan) -> dict[str, dict]:
    """`measured` of all lines at once where the card has room for them, else of one after another."""
    together = plan.device.type != "cuda" or torch.cuda.mem_get_info()[0] >= ROOM
    rows, rng = {}, np.random.default_rng(0)
    for group in [lines] if together else [[line] for line in lines]:
        rows |= measured(group, plan, rng)
    return rows


def matrix_rates(plan: Plan) -> dict[str, float]:
    """TFLOP/s of the best square product of random numbers: mixed precision's type, float32, TF32."""
    types = {"mixed": runtime.precision(plan.device), "float32": torch.float32, "TF32": torch.float32}
    rates = {}
    for name, dtype in types.items():
        tf32(name != "float32")
        for n in plan.matrices:
            a, b = (torch.randn(n, n, device=plan.device, dtype=dtype) for _ in range(2))
            out = torch.empty_like(a)
            took = [seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), 10, plan.device) for _ in range(4)]
            rates[name] = max(rates.get(name, 0), 2 * n**3 / float(np.median(took[1:])) / 1e12)
    return rates


def memory(plan: Plan, pool: Pool, recipe: Recipe) -> dict[str, dict[int, float | str | None]]:
    """Peak GiB of two steps a batch, each alone on the card; ours not compiled."""
    ways = {
        "the original's way, float32": lambda batch: written(
            lambda: UNet(**recipe.model), frozenset(), plan.device, mirrored(pool, batch, False, True)),
        "ours, mixed precision": lambda batch: trained(
            recipe.changed(geometry="exact", channels_last=True, batch=batch), plan.device,
            fixed(next(mirrored(pool, batch)), plan.device)),
    }  # fmt: skip
    table = {}
    for name, way in ways.items():
        table[name] = {}
        for batch in MEMORY_BATCHES:
            line, failed = Line(name, batch, 0, lambda way=way, batch=batch: way(batch), False), {}
            peak = attempt(lambda line=line: begun(line, 2, plan.device)[1], failed, name)
            table[name][batch] = failed.get(name) or peak / 2**30 or None
    return table


def show(title: str, rows: dict[str, dict], first: dict, rate: float) -> None:
    """Prints the lines and adds what depends on others: speed-up and share."""
    print(f"\n{title:<36} {'batch':>5} {'GMAC':>6} {'images/s':>9} {'ms a step':>10} {'speed-up':>9} {'share':>6} "
          f"{'GiB':>6}")  # fmt: skip
    for name, row in rows.items():
        head = f"{name:<36} {row['batch']:>5} {row['gmac_an_image']:>6.3g}"
        if "failed" in row:
            print(f"{head}  {row['failed']}")
            continue
        row["share"] = row["tflops"] / rate
        row["speed_up"] = row["images_per_s"] / first["images_per_s"] if "failed" not in first else None
        times = f"{row['speed_up']:.2f}" if row["speed_up"] else "–"
        peak = f"{row['peak_gib']:.2f}" if row["peak_gib"] else "–"
        print(f"{head} {row['images_per_s']:>9.1f} {row['ms_a_step']:>10.2f} {times:>9} {row['share']:>6.1%} {peak:>6}")
    sys.stdout.flush()


def judge(row: dict, gpu: bool) -> None:
    """The targets, for ours with all work on data against the original's way."""
    for name, value, least, form in (("images/s over the original's way", row.get("speed_up"), LEAST_SPEED_UP, ".1f"),
                                     ("share of the matrix rate", row.get("share"), LEAST_SHARE, ".0%")):  # fmt: skip
        if not gpu:
            print(f"{name} (at least {least:{form}}): open: it takes a GPU to say")
        elif value is None:
            print(f"{name} (at least {least:{form}}): open: a line that it needs did not run")
        else:
            print(f"{name}: {value:{form}} (at least {least:{form}}): {'reached' if value >= least else 'missed'}")


def provenance(device: torch.device, commit: str | None) -> dict:
    """Card, driver, versions, commit; None for what cannot be told."""

    def said(*command: str) -> str | None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
            return ran.stdout.strip()
        return None

    gpu = device.type == "cuda"
    driver = said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if gpu else None
    return {
        "gpu": torch.cuda.get_device_name(device) if gpu else None,
        "gpu_gib": torch.cuda.get_device_properties(device).total_memory / 2**30 if gpu else None,
        "driver": driver and driver.splitlines()[0], "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if gpu else None, "torch": torch.__version__,
        "commit": commit or said("git", "rev-parse", "HEAD"),
        "mixed_precision": str(runtime.precision(device)).removeprefix("torch."), "compiled": runtime.compiles(device),
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, help="windows a line (5; without a GPU 1)")
    parser.add_argument("--steps", type=int, help="steps a window (20; without a GPU 1)")
    parser.add_argument("--write", action="store_true", help="leave results/throughput-DATE.json")
    parser.add_argument("--commit", help="where the code is from, if git cannot tell")
    options = parser.parse_args(arguments)
    gpu = torch.cuda.is_available()
    if options.write and not gpu:
        parser.error("--write: there is no CUDA device, and a figure of this question must come from a GPU")
    device, turns, steps = torch.device("cuda" if gpu else "cpu"), options.turns, options.steps
    if gpu:
        plan = Plan(device, 64, (256, 1600), 32, 10, (2048, 4096, 8192), steps or 20, turns or 5)
    else:
        plan = Plan(device, 2, (32, 48), 8, 1, (128, 256), steps or 1, turns or 1)
    print(runtime.describe())
    if not gpu:
        print(f"no GPU: the lines ran at width {plan.width} on small images; "
              "nothing here is a figure of the original's size")  # fmt: skip
    if runtime.compiles(device):  # each batch size gets a graph of its own, as in a training that has one size
        import torch._dynamo.config as dynamo

        dynamo.automatic_dynamic_shapes = False
        for limit in ("recompile_limit", "cache_size_limit"):
            if hasattr(dynamo, limit):
                setattr(dynamo, limit, 64)
    recipe = ORIGINAL.changed(model=ORIGINAL.model | {"width": plan.width})
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STEELNB_HOME"] = folder  # for the cache of decoded images
        steel = data.read(synthetic.write(f"{folder}/steel", plan.images, shape=plan.shape, progress=False))
        samples, _ = loading.parts(steel, recipe, seed=0)
        pool = [(image := samples.cache[item.image_id].copy(), samples.mask(item, image.shape))
                for item in samples.items]  # fmt: skip
        result = {"made": time.strftime("%Y-%m-%d"), "on": runtime.describe(), **provenance(device, options.commit)}
        result |= {"width": plan.width, "image": plan.shape, "steps": plan.steps, "turns": plan.turns}
        rates = result["matrix_tflops"] = matrix_rates(plan)
        print("matrix products, TFLOP/s: " + ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items()))
        lines = way_lines(plan, pool, recipe)
        rows = result["lines"] = race(lines, plan)
        first = rows[ITS_WAY]
        show("a change a line", rows, first, rates["mixed"])
        ran = [line for line in lines[-1 - len(BATCHES) :] if "failed" not in rows[line.name]]
        best = max(ran, key=lambda line: rows[line.name]["images_per_s"], default=lines[-1 - len(BATCHES)])
        ours = recipe.changed(geometry="exact", channels_last=True, compile=True, batch=best.batch)
        last = [best._replace(name="the same again"), our_line(plan, steel, ours, best.macs)]
        rows = result["ours_and_peers"] = race(last + peer_lines(plan, pool, best.batch), plan)
        show(f"at batch {best.batch}", rows, first, rates["mixed"])
        result["peak_gib"] = memory(plan, pool, recipe)
    print("\npeak GiB at batch " + ", ".join(map(str, MEMORY_BATCHES)))
    for name, peaks in result["peak_gib"].items():
        told = (f"{peak:.2f}" if isinstance(peak, float) else peak or "–" for peak in peaks.values())
        print(f"{name:<36} {', '.join(told)}")
    print(f"\nours is the line '{WITH_DATA}':")
    judge(rows[WITH_DATA], gpu)
    if options.write:
        path = ROOT / "benchmarks" / "results" / f"throughput-{result['made']}.json"
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"written: {path.relative_to(ROOT)}")
    ran = (*result["lines"].values(), *rows.values())
    return int(any(row.get("failed", OUT_OF_MEMORY) != OUT_OF_MEMORY for row in ran))


if __name__ == "__main__":
    sys.exit(main())
