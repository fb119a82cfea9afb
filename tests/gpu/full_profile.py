"""Runs the full-profile branch of a notebook with everything small but the sizes of what a network is given.

- Networks have width 2 and look at a corner of one image of a batch; the answer is spread over the size that is due.
- A trial takes one step, of the first seed; its history is stretched over the steps and seeds that were asked for.
- A run takes two steps. Data sets have a few images, of the full size. A clock goes one round.

So every batch still has the shape that it would have on a GPU, and is noted, with the network that was asked for: from
these `peak` counts memory, and `Noted.work` is what all of them would have computed, uncut. What a notebook asserts is
computed and not held against it: so short a training learns nothing.
"""

import ast
import collections
import contextlib
import functools
import gc
import re
import sys
import weakref
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import IPython.display
import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from steelnb import losses, runs
from steelnb.data import synthetic
from steelnb.data.dataset import DataError
from steelnb.network import geometry, kinds
from steelnb.network.unet import UNet, cost
from steelnb.training import loss_trials

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))}
STEPS, RUN_STEPS, IMAGES = 1, 2, 24
MAKE, FORWARD = UNet.__init__, UNet.forward
CAPS = {"11_hundred_times_faster": {"STEPS": dict(original=2, fast=2), "POINTS": 2, "SEEDS": (0,)}}  # names set there
ENOUGH = {"09_hundred_hours": "## 7 · Kill it"}  # from there on other processes, on the CPU

sys.path.append(str(ROOT / "tools"))
from book import code_cells, from_text  # noqa: E402


class Batch(NamedTuple):
    """What a network was given: its arguments, the shape, the precision, and whether gradients were kept."""

    network: tuple
    shape: tuple[int, ...]
    precision: torch.dtype
    learns: bool

    def __str__(self) -> str:
        network = ", ".join(f"{name} {value}" for name, value in self.network if name in ("width", "depth", "norm"))
        kind = "trained on" if self.learns else "scored"
        return f"{kind} [{', '.join(map(str, self.shape))}] in {str(self.precision)[6:]} by a network of {network}"


def needs_a_gpu(text: str) -> bool:
    """Whether a notebook asks for a device or for the profile."""
    return bool(re.search(r"runtime\.(profile|device)\(", text))


class Noted:
    """batches: what networks were given on the GPU. work: floating-point operations by precision, of everything that
    was cut short as well: 2 a multiply-add forward, 4 for each way back."""

    def __init__(self) -> None:
        self.batches: set[Batch] = set()
        self.work: collections.Counter = collections.Counter()
        self.times = self.back = 1.0  # how often what is computed now would have been computed; its way back

    @contextlib.contextmanager
    def counted(self, times: float, back: float | None = None):
        before = self.times, self.back
        self.back = self.times * (times if back is None else back)
        self.times *= times
        yield
        self.times, self.back = before

    def add(self, batch: Batch, answer: torch.Tensor) -> None:
        self.batches.add(batch)
        forward = 2 * batch.shape[0] * multiply_adds(batch.network, batch.shape[2:])
        self.work[batch.precision] += self.times * forward
        if answer.requires_grad:
            back = 2 * self.back * forward
            answer.register_hook(lambda gradient: self.work.update({batch.precision: back}))


@functools.cache
def multiply_adds(network: tuple, sides: tuple[int, int]) -> int:
    """Of a forward pass over one image, by `unet.cost`, with the width that was asked for."""
    with mock.patch.object(UNet, "__init__", MAKE), mock.patch.object(UNet, "forward", FORWARD):
        return sum(layer.macs for layer in cost(kinds.build(dict(network)), *sides))


@contextlib.contextmanager
def cut_short(noted: Noted):
    """Small networks and short trainings, and notes of the batches, while the context lasts."""
    make, forward = MAKE, FORWARD
    trial, train, write = loss_trials.trial, runs.train, synthetic.write_dataset
    score, undisturbed, crops = loss_trials.score, loss_trials._undisturbed, loss_trials.crops
    due = 1.0  # scores asked for, over those that are taken

    def init(self, in_channels=1, out_channels=1, width=64, **options):
        make(self, in_channels, out_channels, min(width, 2), **options)
        self.config["width"] = width

    def corner(self, images):
        if images.is_meta or self.padding == "same":
            return forward(self, images)
        self._check(images)
        least = geometry.input_size(1, self.depth)
        found = forward(self, images[:1, :, :least, :least])
        size = [geometry.output_size(side, self.depth) for side in images.shape[2:]]
        found = torch.nn.functional.interpolate(found, size=size)[[0] * len(images)]
        if images.is_cuda:
            precision = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
            network, shape = tuple(self.config.items()), tuple(images.shape)
            noted.add(Batch(network, shape, precision, torch.is_grad_enabled()), found)
        return found

    def counted_score(*arguments, **options):
        with noted.counted(due):
            return score(*arguments, **options)

    def counted_watch(*arguments, **options):
        with noted.counted(due):
            return undisturbed(*arguments, **options)

    def short_trial(*arguments, steps=200, every=10, **options):
        nonlocal due
        asked = sorted({*range(0, steps, every), steps})
        times = (steps + 1) / (STEPS + 1)
        due = len(asked) / (STEPS + 1) / times
        with noted.counted(times, back=steps / STEPS):
            found = trial(*arguments, steps=STEPS, every=1, **options)
        due = 1.0
        rows = [min(number, len(found.history) - 1) for number in range(len(asked))]
        return found._replace(history=found.history.iloc[rows].assign(step=asked).reset_index(drop=True))

    def few_trials(of, training, held_out, seeds, **options):
        tables = []
        for name, loss in of.items():
            with noted.counted(len(seeds)):
                found = loss_trials.trial(loss, training, held_out, seed=next(iter(seeds)), **options).history
            tables += [found.assign(name=name, seed=seed) for seed in seeds]
        return pd.concat(tables, ignore_index=True)

    def any_crops(*arguments, **options):
        try:
            return crops(*arguments, **options)
        except DataError:  # so few images may not have such crops
            return crops(*arguments, **options | {"share": None})

    def short_run(data, run, recipe, **options):
        return train(data, run, recipe, **options | {"steps": RUN_STEPS, "epochs": None, "progress": False})

    def few_images(folder, images, **options):
        return write(folder, min(max(images // 5, 12), IMAGES), **options)

    with contextlib.ExitStack() as stack:
        for place, name, stand_in in (
            (UNet, "__init__", init), (UNet, "forward", corner), (loss_trials, "trial", short_trial),
            (loss_trials, "trials", few_trials), (loss_trials, "crops", any_crops),
            (loss_trials, "score", counted_score), (loss_trials, "_undisturbed", counted_watch),
            (runs, "train", short_run), (synthetic, "write_dataset", few_images),
            (IPython.display, "display", mock.MagicMock()), (plt, "show", lambda: plt.close("all")),
        ):
            stack.enter_context(mock.patch.object(place, name, stand_in))
        stack.enter_context(matplotlib.rc_context())
        stack.enter_context(pd.option_context("display.max_colwidth", None))
        yield


class Computed(ast.NodeTransformer):
    """Turns `assert claim, words` into `claim`, and `rounds=60` into one."""

    def visit_keyword(self, node: ast.keyword) -> ast.keyword:
        self.generic_visit(node)
        return ast.copy_location(ast.keyword("rounds", ast.Constant(1)), node) if node.arg == "rounds" else node

    def visit_Assert(self, node: ast.Assert) -> ast.Expr:
        return ast.copy_location(ast.Expr(node.test), node)


def execute(name: str) -> None:
    """The code cells of a notebook, one after the other, in a module of their own."""
    text = TEXTS[name]
    if name in ENOUGH:
        text = text[: text.index(ENOUGH[name])]
    place, caps = {"__name__": "notebook"}, dict(CAPS.get(name, {}))
    for number, cell in enumerate(code_cells(from_text(text)), 1):
        tree = Computed().visit(ast.parse(cell.source, f"{name}, cell [{number}]"))
        exec(compile(ast.fix_missing_locations(tree), f"{name}, cell [{number}]", "exec"), place)
        place.update({each: caps.pop(each) for each in [*caps] if each in place})
    assert not caps, f"{name} sets no {', '.join(caps)} any more: take it out of CAPS"
    plt.close("all")
    place.clear()
    gc.collect()


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive: `now`, and the most so far, `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes = {}

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        found = operation(*arguments, **options or {})
        for tensor in tree_leaves(found):
            if not isinstance(tensor, torch.Tensor) or (part := tensor.untyped_storage())._cdata in self._sizes:
                continue
            self._sizes[part._cdata] = part.nbytes()
            self.now += part.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(part, self._freed, part._cdata)
        return found

    def _freed(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def peak(batch: Batch, loss: str = "dice_bce") -> int:
    """Bytes at the worst moment of a forward pass, or of a backward pass with AdamW's moments beside it.

    From shapes alone: fake tensors have no data. What cuDNN takes for itself and what is lost between blocks is not in.
    """
    half = batch.precision is not torch.float32
    with FakeTensorMode(), Live() as live:
        model = kinds.build(dict(batch.network)).train(batch.learns)
        images = torch.empty(batch.shape)
        moments = [torch.empty(2, *weight.shape) for weight in model.parameters() if batch.learns]
        with torch.set_grad_enabled(batch.learns), torch.autocast("cpu", batch.precision, enabled=half):
            logits = model(images)
        if batch.learns:
            losses.LOSSES[loss](logits, torch.empty(logits.shape, dtype=torch.uint8)).backward()
        del moments
    return live.peak
