"""Identity of a run: the settings that must match to resume it.  Taught in 07_hundred_hours."""

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

import steelnb
from steelnb.data.dataset import SteelData
from steelnb.runs.checkpoints import Checkpoints
from steelnb.training.recipes import Recipe
from steelnb.training.samples import Item

MUST_MATCH = ("version", "recipe", "seed", "steps", "data", "groups")
MAY_DIFFER = ("data.name",)  # the same images and labels, in a folder of another name


class TrainingError(RuntimeError):
    """Training that cannot go on. The message says why and what to do."""


def run_config(
    data: SteelData, recipe: Recipe, seed: int, total: int, sides: tuple[Sequence[Item], Sequence[Item]]
) -> dict:
    """The settings that must match to resume a run; they go into config.json, every checkpoint and the weights.

    sides: the items to train on and to validate on.
    """
    return {
        "version": steelnb.__version__,
        "recipe": json.loads(json.dumps(recipe.to_dict())),  # as it will be read back: lists, not tuples
        "seed": seed,
        "steps": total,
        "data": {"name": data.name, "fingerprint": data.fingerprint(), "classes": list(data.classes)},
        "groups": _groups_digest(data),  # runs from before there were groups have no such key: None as well
        "training": sorted({item.image_id for item in sides[0]}),
        "validation": sorted({item.image_id for item in sides[1]}),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__},
    }


def _groups_digest(data: SteelData) -> str | None:
    """SHA-256, hex, of which images stay together, whatever their groups are called; None without groups."""
    if data.groups is None:
        return None
    members: dict[str, list[str]] = {}
    for image_id in sorted(data.groups):
        members.setdefault(data.groups[image_id], []).append(image_id)
    return hashlib.sha256(json.dumps(sorted(members.values())).encode()).hexdigest()


def state_to_resume(
    run: Path, now: dict, checkpoints: Checkpoints, accept_changes: bool, report: Callable[[str], None]
) -> dict | None:
    """The state to go on from, None for a new run. Raises TrainingError where it is another run's."""
    saved = checkpoints.load(report)
    if saved is None:
        if (run / "history.csv").exists() or (run / "weights.safetensors").exists():
            raise TrainingError(f"{run} holds a run without checkpoints: name another folder, or delete this one")
        return None
    if told := "; ".join(differences(saved["about"], now)):
        if not accept_changes:
            raise TrainingError(
                f"{run} holds another run ({told}): give what it was begun with, name another folder, or go on all the "
                "same with accept_changes (--accept-changes)"
            )
        report(f"goes on although this differs: {told}")
    for name, then in saved["about"]["versions"].items():
        if now["versions"][name] != then:
            report(f"{name} is {now['versions'][name]} now and was {then}: the last digits may differ")
    return saved


def differences(then: dict, now: dict) -> list[str]:
    """What of two runs (see `run_config`) is not the same, in words."""

    def flat(value, name: str) -> dict:
        if isinstance(value, dict) and value:
            return {k: v for key, inner in value.items() for k, v in flat(inner, f"{name}.{key}").items()}
        return {name: value}

    found = []
    for part in MUST_MATCH:
        a, b = flat(then.get(part), part), flat(now.get(part), part)
        found += [f"{name} was {a.get(name)!r} and is {b.get(name)!r}" for name in a | b
              if a.get(name) != b.get(name) and name not in MAY_DIFFER]  # fmt: skip
    return found


def steps_of(run: Path) -> int | None:
    """How many steps a run was begun with; None for a new one, or where its config.json cannot be read."""
    return _begun(run, lambda config: int(config["steps"]))


def recipe_name_of(run: Path) -> str | None:
    """Which recipe a run was begun with; None as for `steps_of`."""
    return _begun(run, lambda config: str(config["recipe"]["name"]))


def _begun(run: Path, part: Callable[[dict], int | str]) -> int | str | None:
    try:
        return part(json.loads((run / "config.json").read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None
