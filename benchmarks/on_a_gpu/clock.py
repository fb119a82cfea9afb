"""The clock of `throughput.py`: lines that take turns, rates of matrix products, peak memory."""

import contextlib
import gc
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from steelnb import runtime

OUT_OF_MEMORY = "out of memory"
ROOM = 40 * 2**30  # bytes free on a card that holds all lines at once
ROOT = Path(__file__).resolve().parents[2]


class Plan(NamedTuple):
    """Sizes and numbers of steps: on a GPU the original's, elsewhere small enough to run in seconds."""

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


def seconds(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Seconds of one step, between two synchronisations."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return (time.perf_counter() - started) / steps


def cleared(device: torch.device) -> int:
    """Returns unused memory to the card; the bytes still in use."""
    if device.type != "cuda":
        return 0
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def attempt(what: Callable, failed: dict[str, str], name: str):
    """`what()`, or None with the reason in `failed`, so that the other lines still run."""
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
    """A line's step function after `steps` steps, and its peak memory in bytes."""
    before = cleared(device)
    tf32(line.tf32)
    step = line.start()
    seconds(step, steps, device)
    return step, (torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else 0)


def measured(lines: list[Line], plan: Plan, rng: np.random.Generator) -> dict[str, dict]:
    """{name: measurements, or why it failed}; lines take turns in random order and are all in memory at once."""
    running, peaks, failed, took = {}, {}, {}, {line.name: [] for line in lines}
    bar = tqdm(total=len(lines) * (1 + plan.turns), desc="lines", unit="turn", leave=False)
    for line in lines:
        bar.update()
        if started := attempt(lambda line=line: begun(line, plan.warm, plan.device), failed, line.name):
            running[line.name], peaks[line.name] = started
    for line in (lines[i] for _ in range(plan.turns) for i in rng.permutation(len(lines))):
        bar.update()
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
    bar.close()
    rows = {}
    for line in lines:
        row = rows[line.name] = {"batch": line.batch, "gmac_an_image": line.macs / 1e9}
        if line.name in failed:
            row["failed"] = failed[line.name]
            continue
        step = float(np.median(took[line.name]))
        row |= {"ms_a_step": 1e3 * step, "images_per_s": line.batch / step,
                "tflops": 6 * line.macs * line.batch / step / 1e12, "peak_gib": peaks[line.name] / 2**30 or None,
                "ms_of_the_windows": [1e3 * each for each in took[line.name]]}
    return rows


def race(lines: list[Line], plan: Plan) -> dict[str, dict]:
    """`measured` for all lines at once if the card has room for them, else one after another."""
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


def peaks(ways: dict[str, Callable[[int], Callable]], batches: tuple[int, ...], plan: Plan) -> dict[str, dict]:
    """Peak GiB of two steps, or why there is none, by way and batch; each alone on the card."""
    table = {}
    for name, way in ways.items():
        table[name] = {}
        for batch in batches:
            line, failed = Line(name, batch, 0, lambda way=way, batch=batch: way(batch), False), {}
            peak = attempt(lambda line=line: begun(line, 2, plan.device)[1], failed, name)
            table[name][batch] = failed.get(name) or peak / 2**30 or None
    return table


def provenance(device: torch.device, commit: str | None) -> dict:
    """Card, driver, versions, commit; None for unknown values."""

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
    }
