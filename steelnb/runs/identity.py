"""Identity of a run: the settings that must match to resume it."""

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
from steelnb.runs.session import SESSIONS, is_session_table
from steelnb.training.recipes import Recipe
from steelnb.training.samples import Item

MUST_MATCH = ("version", "recipe", "seed", "steps", "data", "groups")
MAY_DIFFER = ("data.name",)  # the same images and labels, in a folder of another name
NOTED_LATER = ("data.pixels",)  # missing in runs of earlier versions
KINDS = {"version": str, "recipe": dict, "seed": int, "steps": int, "data": dict, "training": list, "validation": list,
         "versions": dict}
Sides = tuple[Sequence[Item], Sequence[Item]]


class TrainingError(RuntimeError):
    """Training cannot start or continue. The message says why and what to do."""


def run_config(
    data: SteelData, recipe: Recipe, seed: int, total: int, sides: Sides, pixels: str, threads: int
) -> dict:
    """The settings that must match to resume a run; saved in config.json, every checkpoint and the weights.

    sides: the items to train on and to validate on. pixels: digest of all images. threads: number of CPU threads.
    """
    return {
        "version": steelnb.__version__,
        "recipe": json.loads(json.dumps(recipe.to_dict())),  # as it is read back: lists, not tuples
        "seed": seed,
        "steps": total,
        "data": {"name": data.name, "fingerprint": data.fingerprint(), "classes": list(data.classes),
                 "pixels": pixels, **({"class_names": list(data.class_names)} if data.class_names else {})},
        "groups": _groups_digest(data),  # runs of older versions have no such key, which is read as None
        "training": sorted({item.image_id for item in sides[0]}),
        "validation": sorted({item.image_id for item in sides[1]}),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__,
                     "threads": threads},
    }


def _groups_digest(data: SteelData) -> str | None:
    """SHA-256, hex, of which images are grouped, independent of the groups' names; None without groups."""
    if data.groups is None:
        return None
    members: dict[str, list[str]] = {}
    for image_id in sorted(data.groups):
        members.setdefault(data.groups[image_id], []).append(image_id)
    return hashlib.sha256(json.dumps(sorted(members.values())).encode()).hexdigest()


def newest_state(run: Path, checkpoints: Checkpoints, report: Callable[[str], None]) -> dict | None:
    """The newest saved state of a run, None for a new one. Raises TrainingError for a folder with other files."""
    saved = checkpoints.load(report)
    if saved is None:
        if (run / "history.csv").exists() or (run / "weights.safetensors").exists():
            raise TrainingError(f"{run} contains a run without checkpoints: choose another folder, or delete this one")
        for name, is_ours in OWN_FILES.items():
            if (run / name).exists() and not is_ours(run / name):
                raise TrainingError(f"{run / name} exists, is not from a training run and would be overwritten: choose "
                                    "another folder for the run")
        return None
    if not _is_config(saved.get("about")):
        raise TrainingError(f"{run}: its newest checkpoint does not say which run it belongs to: start a new run in "
                            "another folder")
    return saved


def check_resume(run: Path, then: dict, now: dict, accept_changes: bool, report: Callable[[str], None]) -> None:
    """Raises TrainingError if the saved run `then` (see `run_config`) is a different run from `now`."""
    if changed := "; ".join(differences(then, now)):
        if not accept_changes:
            raise TrainingError(
                f"{run} holds another run ({changed}): use its settings, choose another folder, or go on with the "
                "changes by accept_changes (--accept-changes)"
            )
        report(f"goes on although this differs: {changed}")
    for name, before in then["versions"].items():
        if now["versions"].get(name) != before:
            report(f"{name} is {now['versions'].get(name)} now and was {before}: the last digits may differ")


def kept_sides(then: dict, data: SteelData, recipe: Recipe, seed: int, fresh: Sides) -> Sides:
    """The sides of a resumed run: each image stays on its side, and new images are split among themselves.

    So no image that was trained on is ever held out. fresh: the sides of a new run on this data. Raises TrainingError
    if label rows are split instead of images, since rows have no names to recognise them by.
    """
    training, validation = set(then["training"]), set(then["validation"])
    if all(old == {item.image_id for item in new} for old, new in zip((training, validation), fresh, strict=True)):
        return fresh
    if recipe.samples == "row":
        raise TrainingError(f"recipe {recipe.name} splits label rows, and they differ from those of this run: rows "
                            "that were trained on would be held out. Start a new run in another folder")
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
        raise TrainingError("too few images of this run are left to train and to validate on: start a new run")
    return kept


def same_scores(then: dict, now: dict) -> bool:
    """Whether both runs are scored on the same images and labels, so that their best epochs can be compared."""
    return then["validation"] == now["validation"] and not any(
        each.startswith(("data.", "recipe.scored ", "recipe.geometry ", "recipe.per_class "))
        for each in differences(then, now)
    )


def differences(then: dict, now: dict) -> list[str]:
    """The settings that differ between two runs (see `run_config`), in words."""

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


OWN_FILES = {"config.json": _is_own_config, SESSIONS: is_session_table}  # left by a session that was killed at once


def recipe_name_of(run: Path) -> str | None:
    """The recipe that a run was started with; None for a new run, or if its config.json cannot be read."""
    try:
        return str(json.loads((run / "config.json").read_bytes())["recipe"]["name"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
