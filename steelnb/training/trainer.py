"""Training state and one optimisation step.  Taught in 09_hundred_hours."""

import copy
import math
import random
import time
import warnings

import numpy as np
import torch
from torch import Tensor

from steelnb import runtime
from steelnb.losses import LOSSES
from steelnb.network import kinds, pretrained
from steelnb.training.distributed import World
from steelnb.training.recipes import Recipe


class Trainer:
    """A network being trained by a recipe.

    epoch, seen, steps: finished epochs, samples drawn since then, optimizer steps in total. summed: sum of the loss
    over the samples seen in this epoch. seconds: of training alone. best: the best validation Dice. history: one dict
    per epoch. averaged: the network to score and save: the moving average of `model`, or `model` itself without
    `recipe.ema`.
    """

    def __init__(
        self, recipe: Recipe, outputs: int, total: int, seed: int, device: torch.device, world: World | None = None
    ) -> None:
        torch.manual_seed(seed)
        self.recipe, self.device, self.world = recipe, device, world or World()
        layout = torch.channels_last if recipe.channels_last else torch.preserve_format
        self.model = kinds.build(recipe.model | {"out_channels": outputs})
        pretrained.start(self.model, recipe.start)
        self.model.to(device, memory_format=layout)
        self.averaged = copy.deepcopy(self.model).requires_grad_(False) if recipe.ema else self.model
        self._moving = [by_kind(each) for each in (self.averaged, self.model)]  # collected once, to keep steps short
        self._forward = self.world.wrapped(self.model)
        if recipe.compile and runtime.compiles(device):
            self._forward = torch.compile(self._forward)
        self.optimizer, self.scheduler = optimizer_and_schedule(self.model, recipe, total)
        self.scaler = torch.amp.GradScaler(device.type, enabled=runtime.precision(device) is torch.float16)
        self.epoch, self.seen, self.steps = 0, 0, 0
        self.summed = torch.zeros((), device=device)
        self.seconds, self.best, self.history = 0.0, -1.0, []
        self._mark = 0.0

    def begin(self) -> None:
        """Puts the network into training mode and starts the clock."""
        self.model.train()
        self._mark = time.perf_counter()

    def step(self, windows: Tensor, masks: Tensor, factor: float, drawn: int) -> None:
        """One optimizer step on uint8 windows [n, 1, h, w] and masks [n, K, H, W], part of a batch of `drawn`."""
        windows = windows.to(self.device, non_blocking=True)
        masks = masks.to(self.device, non_blocking=True)
        with runtime.autocast(self.device):
            logits = self._forward(windows.float().div_(255))[..., : masks.shape[2], : masks.shape[3]]
        loss = LOSSES[self.recipe.loss](logits, masks) * factor
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        if self.recipe.ema:
            follow(*self._moving, decay(self.recipe.ema, self.steps))
        self.summed += self.world.summed(loss.detach() / self.world.size) * drawn
        self.seen += drawn
        self.steps += 1
        now = time.perf_counter()
        self.seconds, self._mark = self.seconds + now - self._mark, now

    @property
    def mean_loss(self) -> float:
        """Mean loss of the samples seen in this epoch. Waits for the GPU."""
        return self.summed.item() / max(self.seen, 1)

    def end_epoch(self, scores: dict[str, float]) -> bool:
        """Ends an epoch: appends its row to the history and returns whether its Dice is the best so far.

        If Dice is NaN, because no validation image has a defect, the last epoch counts as the best.
        """
        self.epoch += 1
        row = {"epoch": self.epoch, "step": self.steps, "seconds": self.seconds, "train_loss": self.mean_loss}
        self.history.append(row | {f"validation_{name}": value for name, value in scores.items()})
        self.seen = 0
        self.summed = torch.zeros((), device=self.device)
        better = not scores["dice"] <= self.best
        if better:
            self.best = scores["dice"]
        return better

    def state(self) -> dict:
        """The complete training state, as tensors and plain types; with `average` if the recipe has one."""
        average = {"average": self.averaged.state_dict()} if self.recipe.ema else {}
        return average | {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random_state(),
            "epoch": self.epoch, "seen": self.seen, "step": self.steps, "summed": self.summed,
            "seconds": self.seconds, "best": self.best, "history": self.history,
        }

    def restore(self, state: dict, changed: bool = False) -> None:
        """Restores a `state`. changed: it is from another recipe, whose rates and momenta are not used.

        Raises ValueError or RuntimeError if the network or the optimizer does not match.
        """
        if not all(isinstance(row, dict) for row in state["history"]):
            raise ValueError("its history is damaged")
        self.model.load_state_dict(state["model"])
        if self.recipe.ema:  # a run without an average so far starts one here
            self.averaged.load_state_dict(state.get("average", state["model"]))
        fresh = [{key: value for key, value in g.items() if key != "params"} for g in self.optimizer.param_groups]
        # Whether the optimizer is fused depends on this device, and determines on which one its step counters must be.
        groups = [saved | {"fused": own["fused"]}
                  for saved, own in zip(state["optimizer"]["param_groups"], fresh, strict=True)]
        self.optimizer.load_state_dict(state["optimizer"] | {"param_groups": groups})
        if changed:
            for group, own in zip(self.optimizer.param_groups, fresh, strict=True):
                group.update(own)
            self.scheduler.last_epoch = state["step"] - 1
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # "no optimizer step before this one"
                self.scheduler.step()  # sets the rate of this step
        else:
            self.scheduler.load_state_dict(state["scheduler"])
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        restore_random(state["random"])
        self.epoch, self.seen, self.steps = state["epoch"], state["seen"], state["step"]
        self.summed = state["summed"].to(self.device)
        self.seconds, self.best, self.history = state["seconds"], state["best"], list(state["history"])


def optimizer_and_schedule(
    model: torch.nn.Module, recipe: Recipe, total: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """A recipe's optimizer, and its learning-rate schedule over `total` steps. On CUDA the optimizer is fused."""
    weights = list(model.parameters())
    shared = dict(lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=weights[0].is_cuda or None)
    if recipe.encoder_rate != 1:
        encoder = list(model.encoder.parameters())
        others = [weight for name, weight in model.named_parameters() if not name.startswith("encoder.")]
        weights = [dict(params=others), dict(params=encoder, lr=recipe.learning_rate * recipe.encoder_rate)]
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(weights, momentum=recipe.momentum, nesterov=recipe.nesterov, **shared)
    else:
        optimizer = torch.optim.AdamW(weights, **shared)
    warm_up = max(1, total // 10)

    def factor(step: int) -> float:
        if recipe.schedule == "constant":
            return 1.0
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 + 0.5 * math.cos(math.pi * (step - warm_up) / max(1, total - warm_up))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def decay(most: float, step: int) -> float:
    """Decay of the moving average at a step: (1 + step) / (10 + step), at most `most`.

    So the first averages cover the last few steps and not the random initial weights.
    """
    return min(most, (1 + step) / (10 + step))


def by_kind(model: torch.nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors of a network's state, not copied: floating-point ones (weights, statistics) and batch counters."""
    every = model.state_dict().values()
    return [t for t in every if t.is_floating_point()], [t for t in every if not t.is_floating_point()]


@torch.no_grad()
def follow(averaged: tuple[list, list], model: tuple[list, list], decay: float) -> None:
    """Updates an average, both as `by_kind`: decay · average + (1 − decay) · model; batch counters are the model's.

    Batch-norm statistics are averaged like weights. A few kernels for all tensors, as in torch.optim.
    """
    torch._foreach_lerp_(averaged[0], model[0], 1 - decay)
    if model[1]:
        torch._foreach_copy_(averaged[1], model[1])


def random_state() -> dict:
    """The state of every global random generator (Python, NumPy, torch on CPU and CUDA), as plain types."""
    version, words, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002 — the global one is what others draw from
    return {
        "python": [version, list(words), gauss],
        "numpy": {**numpy, "state": {"key": numpy["state"]["key"].tolist(), "pos": numpy["state"]["pos"]}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random(state: dict) -> None:
    """Restores every global random generator from `random_state`; CUDA's only with the same number of GPUs."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    key = np.array(state["numpy"]["state"]["key"], np.uint32)
    np.random.set_state({**state["numpy"], "state": {"key": key, "pos": state["numpy"]["state"]["pos"]}})  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
