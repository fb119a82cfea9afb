"""Images that show the same steel are kept on one side of a run's split.  Taught in 01_data_exploration."""

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

GROUPS = "groups.csv"  # in the run folder: what was found, for the sessions to come


def groups_of(data: SteelData, recipe: Recipe, run: Path, progress: bool = False) -> dict[str, str] | None:
    """ImageId → group of the images that show the same steel (see `audit.duplicates`), once read from the run's folder.

    None where the split does not ask: the data has groups already, or the recipe splits label rows as the original did.
    """
    if data.groups is not None or recipe.samples == "row":
        return None
    ids = set(data.images["ImageId"])
    try:
        if (found := labels.read_groups(run / GROUPS)).keys() == ids:
            return found
    except DataError:
        pass  # not there, or not whole
    cache, finder = ImageCache(data, progress=progress), duplicates.DuplicateFinder()
    for image_id in data.images["ImageId"]:
        finder.add(image_id, cache[image_id])
    return duplicates.group_duplicates(finder.pairs(lambda image_id: cache[image_id], progress), ids)


def together(data: SteelData, groups: dict[str, str] | None, report: Callable[[str], None]) -> SteelData:
    """The data with these groups, if some image is not alone in its own; says so in one line.

    Where the set brings a split of its own, that stays, and the line says how much of it leaks.
    """
    sizes = Counter((groups or {}).values())
    copies = sum(size for size in sizes.values() if size > 1)
    if not copies:
        return data
    several = sum(size > 1 for size in sizes.values())
    told = f"{copies} of {len(data)} images show the same steel as another one, in {several} groups"
    if data.parts:
        trained = {groups[i] for i, part in data.parts.items() if part == "train"}
        held_out = [i for i, part in data.parts.items() if part == "validation"]
        leaked = sum(groups[i] in trained for i in held_out)
        report(f"{told}: of {len(held_out)} images that the set's own split holds out, {leaked} have one in training")
        return data
    report(f"{told}: each group stays on one side of the split (--ignore-copies splits without looking)")
    return data.with_groups(groups)


def keep(groups: dict[str, str] | None, run: Path) -> None:
    """Leaves the groups in the run's folder, unless they are there."""
    if groups and not (run / GROUPS).exists():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("ImageId", "group"), *groups.items()])
        storage.write_file(run / GROUPS, text.getvalue().encode())
