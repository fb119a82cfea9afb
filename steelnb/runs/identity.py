"""Identity of a run: the settings that must match to resume it.  Taught in 09_hundred_hours."""

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

import steelnb
from steelnb.data import splits
from steelnb.data.dataset import SteelData
from steelnb.runs.checkpoints import Checkpoints
from steelnb.runs.session import LEDGER, is_ledger
from steelnb.training.recipes import Recipe
from steelnb.training.samples import Item

MUST_MATCH = ("version", "recipe", "seed", "steps", "data", "groups")
MAY_DIFFER = ("data.name",)  # the same images and labels, in a folder of another name
NOTED_LATER = ("data.pixels",)  # runs of earlier versions do not say
KINDS = {"version": str, "recipe": dict, "seed": int, "steps": int, "data": dict, "training": list, "validation": list,
         "versions": dict}
Sides = tuple[Sequence[Item], Sequence[Item]]


class TrainingError(RuntimeError):
    """Training that cannot go on. The message says why and what to do."""


def run_config(
    data: SteelData, recipe: Recipe, seed: int, total: int, sides: Sides, pixels: str, threads: int
) -> dict:
    """The settings that must match to resume a run; they go into config.json, every checkpoint and the weights.

    sides: the items to train on and to validate on. pixels: digest of all images. threads: those of the CPU.
    """
    return {
        "version": steelnb.__version__,
        "recipe": json.loads(json.dumps(recipe.to_dict())),  # as it will be read back: lists, not tuples
        "seed": seed,
        "steps": total,
        "data": {"name": data.name, "fingerprint": data.fingerprint(), "classes": list(data.classes),
                 "pixels": pixels, **({"class_names": list(data.class_names)} if data.class_names else {})},
        "groups": _groups_digest(data),  # runs from before there were groups have no such key: None as well
        "training": sorted({item.image_id for item in sides[0]}),
        "validation": sorted({item.image_id for item in sides[1]}),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__,
                     "threads": threads},
    }


def _groups_digest(data: SteelData) -> str | None:
    """SHA-256, hex, of which images stay together, whatever their groups are called; None without groups."""
    if data.groups is None:
        return None
    members: dict[str, list[str]] = {}
    for image_id in sorted(data.groups):
        members.setdefault(data.groups[image_id], []).append(image_id)
    return hashlib.sha256(json.dumps(sorted(members.values())).encode()).hexdigest()


def newest_state(run: Path, checkpoints: Checkpoints, report: Callable[[str], None]) -> dict | None:
    """The state that a run was left in, None for a new one. Raises TrainingError for a folder that holds other files.
    """
    saved = checkpoints.load(report)
    if saved is None:
        if (run / "history.csv").exists() or (run / "weights.safetensors").exists():
            raise TrainingError(f"{run} holds a run without checkpoints: name another folder, or delete this one")
        for name, is_ours in OWN_FILES.items():
            if (run / name).exists() and not is_ours(run / name):
                raise TrainingError(f"{run / name} is there, is no training's and would be overwritten: name another "
                                    "folder for the run")
        return None
    if not _is_config(saved.get("about")):
        raise TrainingError(f"{run}: its newest checkpoint does not say of which run it is: begin a new run in another "
                            "folder")
    return saved


def check_resume(run: Path, then: dict, now: dict, accept_changes: bool, report: Callable[[str], None]) -> None:
    """Raises TrainingError where the run that `then` describes (see `run_config`) is another one than `now`."""
    if told := "; ".join(differences(then, now)):
        if not accept_changes:
            raise TrainingError(
                f"{run} holds another run ({told}): give what it was begun with, name another folder, or go on all the "
                "same with accept_changes (--accept-changes)"
            )
        report(f"goes on although this differs: {told}")
    for name, before in then["versions"].items():
        if now["versions"].get(name) != before:
            report(f"{name} is {now['versions'].get(name)} now and was {before}: the last digits may differ")


def kept_sides(then: dict, data: SteelData, recipe: Recipe, seed: int, fresh: Sides) -> Sides:
    """The sides of a run that goes on: each image stays where it was, and new ones are split among themselves.

    So no image that was trained on is ever held out. fresh: the sides of a new run of this data. Raises TrainingError
    where label rows are split, not images, which have no names by which to find them again.
    """
    training, validation = set(then["training"]), set(then["validation"])
    if all(old == {item.image_id for item in new} for old, new in zip((training, validation), fresh, strict=True)):
        return fresh
    if recipe.samples == "row":
        raise TrainingError(f"recipe {recipe.name} splits label rows, and they are others than those of this run: what "
                            "was trained on would be held out. Begin a new run in another folder")
    ids = data.images["ImageId"].tolist()
    groups = data.groups or {}
    sides = {}
    for image_id in ids:
        if image_id in training or image_id in validation:
            sides[image_id] = image_id in validation - training
    side_of_group = {}
    for image_id, held_out in sides.items():  # a group with an image that was trained on is trained on
        group = groups.get(image_id, image_id)
        side_of_group[group] = side_of_group.get(group, True) and held_out
    new = [image_id for image_id in ids if image_id not in sides]
    sides |= {i: side_of_group[groups[i]] for i in new if groups.get(i) in side_of_group}
    if rest := [image_id for image_id in new if image_id not in sides]:
        split = splits.by_image(data.subset(rest), recipe.validation, seed)
        sides |= dict.fromkeys(split.train, False) | dict.fromkeys(split.validation, True)
    kept = [Item(i) for i in ids if sides.get(i) is False], [Item(i) for i in ids if sides.get(i)]
    if not kept[0] or not kept[1]:
        raise TrainingError("of the images of this run too few are left to train and to validate on: begin a new run")
    return kept


def same_scores(then: dict, now: dict) -> bool:
    """Whether scores of the two runs are of the same images and labels, so that their best epochs may be compared."""
    return then["validation"] == now["validation"] and not any(
        each.startswith(("data.", "recipe.scored ", "recipe.geometry ", "recipe.per_class "))
        for each in differences(then, now)
    )


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
              if a.get(name) != b.get(name) and name not in MAY_DIFFER
              and (name in a or name not in NOTED_LATER)]
    return found


def _is_config(about: object) -> bool:
    if not isinstance(about, dict) or not all(isinstance(about.get(name), kind) for name, kind in KINDS.items()):
        return False
    return all(isinstance(image_id, str) for name in ("training", "validation") for image_id in about[name])


def _is_own_config(path: Path) -> bool:
    try:
        return _is_config(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return False


OWN_FILES = {"config.json": _is_own_config, LEDGER: is_ledger}  # what a session that was killed at once has left


def recipe_name_of(run: Path) -> str | None:
    """Which recipe a run was begun with; None for a new one, or where its config.json cannot be read."""
    try:
        return str(json.loads((run / "config.json").read_bytes())["recipe"]["name"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
