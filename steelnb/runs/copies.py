"""Keeps images that show the same steel on one side of a run's split."""

import csv
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from steelnb import storage
from steelnb.audit import duplicates
from steelnb.data import labels
from steelnb.data.dataset import DataError, SteelData
from steelnb.data.image_cache import ImageCache
from steelnb.training.recipes import Recipe

GROUPS = "groups.csv"  # in the run folder: the groups found, for later sessions


def find_groups(data: SteelData, recipe: Recipe, run: Path, progress: bool = False) -> dict[str, str] | None:
    """ImageId → group of images that show the same steel (see `audit.duplicates`); read from the run folder if saved.

    None if the split does not need them: the data has groups already, or the recipe splits label rows as the original.
    """
    if data.groups is not None or recipe.samples == "row":
        return None
    ids = set(data.images["ImageId"])
    try:
        if (found := labels.read_groups(run / GROUPS)).keys() == ids:
            return found
    except DataError:
        pass  # missing or damaged
    cache, finder = ImageCache(data, progress=progress), duplicates.DuplicateFinder()
    for image_id in data.images["ImageId"]:
        finder.add(image_id, cache[image_id])
    return duplicates.group_duplicates(finder.pairs(lambda image_id: cache[image_id], progress), ids)


def with_copies_grouped(data: SteelData, groups: dict[str, str] | None, report: Callable[[str], None]) -> SteelData:
    """The data with these groups if any group has several images; reports it in one line.

    If the data set comes with its own split, that split stays, and the line says how many images leak.
    """
    sizes = Counter((groups or {}).values())
    copies = sum(size for size in sizes.values() if size > 1)
    if not copies:
        return data
    several = sum(size > 1 for size in sizes.values())
    found = f"{copies} of {len(data)} images show the same steel as another one, in {several} groups"
    if data.parts:
        trained = {groups[i] for i, part in data.parts.items() if part == "train"}
        held_out = [i for i, part in data.parts.items() if part == "validation"]
        leaked = sum(groups[i] in trained for i in held_out)
        report(f"{found}: of {len(held_out)} images that the set's own split holds out, {leaked} have one in training")
        return data
    report(f"{found}: each group stays on one side of the split (--ignore-copies skips this check)")
    return data.with_groups(groups)


def save_groups(groups: dict[str, str] | None, run: Path) -> None:
    """Writes the groups into the run folder, unless they are there."""
    if groups and not (run / GROUPS).exists():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("ImageId", "group"), *groups.items()])
        storage.write_file(run / GROUPS, text.getvalue().encode())
