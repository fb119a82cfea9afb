"""Runs the full-profile branch of a notebook with everything small but the sizes of what a network is given.

- Networks have width 2 and look at a corner of one image of a batch; the answer is spread over the size that is due.
- A trial takes one step, of the first seed; its history is stretched over the steps and seeds that were asked for.
- Any other training on the GPU takes two steps and counts the rest; it is scored once, on the few images held out.
- Data sets have a few images, of the full size. A clock goes one round.

So every batch still has the shape that it would have on a GPU, and is noted, with the network that was asked for: from
these `peak` counts memory, and `Noted.work` is what all of them would have computed, uncut. What a notebook asserts is
computed and not held against it: so short a training learns nothing.

    python tests/gpu/full_profile.py 05 06             # the minutes planned for a T4, as the cards state them
    python tests/gpu/full_profile.py 10 --images 12568 # as if the page's data set had so many images
"""

import argparse
import ast
import collections
import contextlib
import functools
import gc
import itertools
import linecache
import math
import os
import re
import sys
import tempfile
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

from steelnb import losses
from steelnb.data import synthetic
from steelnb.data.dataset import DataError
from steelnb.network import geometry, kinds, pretrained, weights
from steelnb.network.unet import UNet, cost
from steelnb.runs import training_loop
from steelnb.training import batches, loss_trials, validation
from steelnb.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))}
STEPS, RUN_STEPS, IMAGES = 1, 2, 24
MAKE, FORWARD = UNet.__init__, UNet.forward
TERA = 1e12
RATES = {torch.float16: 8 * TERA, torch.float32: 3 * TERA}  # planned for a T4, whose peaks are 65 and 8.1
STEP = 0.01  # seconds planned for the kernels of one training step to start, however little each of them does
WORDS = {torch.float16: "half", torch.float32: "single"}

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
    was cut short as well: 2 a multiply-add forward, 4 for each way back. steps: of trainings that are no trials.
    images: of the data set opened last, over those that were drawn for it; `of`: as if so many had been asked for."""

    def __init__(self, of: int | None = None) -> None:
        self.batches: set[Batch] = set()
        self.work: collections.Counter = collections.Counter()
        self.of, self.images, self.steps = of, 1.0, 0.0
        self.times = self.back = None  # how often what is computed now would have been computed; its way back

    @property
    def minutes(self) -> float:
        """By the arithmetic, or by the steps where a small network's take no less than STEP."""
        return max(sum(count / RATES[precision] for precision, count in self.work.items()), self.steps * STEP) / 60

    @property
    def main(self) -> torch.dtype:
        """The precision that takes most of the time."""
        return max(self.work, key=lambda precision: self.work[precision] / RATES[precision])

    def sentence(self) -> str:
        """As a card states it."""
        main = self.main
        found = (f"on a T4 {self.minutes:.0f} minutes planned: {self.work[main] / 1e15:.2g} PFLOP in {WORDS[main]} "
                 f"precision at {RATES[main] / TERA:.0f} TFLOP/s")
        return found + f", {self.steps:,.0f} steps of {1000 * STEP:.0f} ms at least" if self.steps else found

    @contextlib.contextmanager
    def counted(self, times: float, back: float | None = None):
        before = self.times, self.back
        outer = before[0] or 1.0
        self.times, self.back = outer * times, outer * (times if back is None else back)
        yield
        self.times, self.back = before

    @contextlib.contextmanager
    def recorded(self):
        """Gives the work done in it, when it ends."""
        before, done = self.work.copy(), collections.Counter()
        yield done
        done.update({each: count - before[each] for each, count in self.work.items()})

    def add(self, batch: Batch, answer: torch.Tensor) -> None:
        self.batches.add(batch)
        forward = 2 * batch.shape[0] * multiply_adds(batch.network, batch.shape[2:])
        times, back = self.times, self.back
        if times is None:  # neither a trial nor a step nor a validation: masks of all images of the page, as a rule
            times = back = 1.0 if batch.learns else self.images
        self.work[batch.precision] += times * forward
        if answer.requires_grad:
            back *= 2 * forward
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
    trial, write = loss_trials.trial, synthetic.write_dataset
    score, undisturbed, crops = loss_trials.score, loss_trials._undisturbed, loss_trials.crops
    step, draw, validate = Trainer.step, batches.iter_batches, validation.validate
    samples_of = batches.training_and_validation_samples
    due = 1.0  # scores asked for, over those that are taken
    scores = {}
    about = {key: value for key, value in weights.load_network(pretrained.SERIES).metadata.items() if key != "network"}

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

    def few_batches(samples, recipe, epoch, start=0, share=lambda batch: (batch, 1.0), device=None):
        """The first of an epoch, and then one of them as often as there are others."""
        every = draw(samples, recipe, epoch, start, share, device)
        if device is None or device.type != "cuda":
            return every
        return few(every, math.ceil((batches.epoch_length(samples, recipe) - start) / recipe.batch))

    def few(every, length):
        drawn = list(itertools.islice(every, RUN_STEPS))
        yield from drawn
        for _ in range(len(drawn), length):
            yield drawn[0]

    def few_steps(self, windows, masks, factor, drawn):
        if self.device.type != "cuda":
            return step(self, windows, masks, factor, drawn)
        taken, times = getattr(self, "taken", 0), 1 if self.recipe.epoch_samples else noted.images
        noted.steps += times
        if taken < RUN_STEPS:
            before = self.summed.clone()
            with noted.recorded() as self.a_step, noted.counted(times):
                step(self, windows, masks, factor, drawn)
            self.taken, self.last_loss = taken + 1, self.summed - before
        else:
            noted.work.update(self.a_step)
            self.summed += self.last_loss
            self.seen, self.steps = self.seen + drawn, self.steps + 1

    def few_samples(data, recipe, seed, sides=None, progress=False):
        """Those to score know how many they would be, had the data set not been cut short."""
        sides = sides or batches.split_items(data, recipe, seed)
        training, held_out = samples_of(data, recipe, seed, sides, progress)
        share = len(held_out) * (1 if recipe.epoch_samples else noted.images) if recipe.scoring else math.inf
        held_out.due = min(recipe.scored or math.inf, share, len(sides[1]) * noted.images)
        return training, held_out

    def validate_once(model, samples, *arguments, **options):
        if not next(model.parameters()).is_cuda:
            return validate(model, samples, *arguments, **options)
        key = id(model), samples.geometry, len(samples)
        if key not in scores:
            asked = getattr(samples, "due", len(samples) * noted.images)
            with noted.recorded() as work, noted.counted(asked / len(samples)):
                scores[key] = validate(model, samples, *arguments, **options), work, model  # held: ids are not reused
        else:
            noted.work.update(scores[key][1])
        return scores[key][0]

    def few_images(folder, images, **options):
        few = min(max(images // 5, 12), IMAGES)
        noted.images = (noted.of or images) / few
        return write(folder, few, **options)

    with contextlib.ExitStack() as stack:
        for place, name, stand_in in (
            (UNet, "__init__", init), (UNet, "forward", corner), (loss_trials, "trial", short_trial),
            (pretrained, "SERIES", Path(stack.enter_context(tempfile.TemporaryDirectory())) / "series.safetensors"),
            (loss_trials, "trials", few_trials), (loss_trials, "crops", any_crops),
            (loss_trials, "score", counted_score), (loss_trials, "_undisturbed", counted_watch),
            (Trainer, "step", few_steps), (batches, "iter_batches", few_batches),
            (batches, "training_and_validation_samples", few_samples),
            (validation, "validate", validate_once), (training_loop, "validate", validate_once),
            (synthetic, "write_dataset", few_images),
            (IPython.display, "display", mock.MagicMock()), (plt, "show", lambda: plt.close("all")),
        ):
            stack.enter_context(mock.patch.object(place, name, stand_in))
        weights.save_network(pretrained.SERIES, UNet(width=8, depth=3), about)  # as small as the others
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
    """The code cells of a notebook, one after the other, in a module of their own; up to the first one that trains in
    other processes, which know of no pretended device."""
    place = {"__name__": "notebook"}
    for number, cell in enumerate(code_cells(from_text(TEXTS[name])), 1):
        if '"-m", "steelnb", "train"' in cell.source:
            break
        file = f"{name}, cell [{number}]"
        linecache.cache[file] = len(cell.source), None, cell.source.splitlines(keepends=True), file  # for `inspect`
        tree = Computed().visit(ast.parse(cell.source, file))
        exec(compile(ast.fix_missing_locations(tree), file, "exec"), place)
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


@contextlib.contextmanager
def surroundings(folder: Path):
    """The full profile, with caches and runs in `folder`."""
    variables = {"STEELNB_HOME": str(folder), "STEELNB_PROFILE": "full"}
    with mock.patch.dict(os.environ, variables), contextlib.chdir(folder):
        for name in ("STEELNB_RUN", "STEELNB_DATA"):
            os.environ.pop(name, None)
        yield


if __name__ == "__main__":
    sys.path.append(str(ROOT / "tests"))
    import pretended_gpu

    parser = argparse.ArgumentParser(description="Minutes planned for a T4, counted from the full profile of pages.")
    parser.add_argument("pages", nargs="*", help="numbers, such as 05; all that ask for a GPU")
    parser.add_argument("--images", type=int, help="of the page's data set, instead of what the page draws")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, text in TEXTS.items():
            if needs_a_gpu(text) and (not asked.pages or name[:2] in asked.pages):
                found = Noted(asked.images)
                with surroundings(Path(folder)), pretended_gpu.pretended(), cut_short(found), \
                        contextlib.redirect_stdout(sys.stderr):
                    execute(name)
                print(f"{name}: {found.sentence()}", dict(found.work))
