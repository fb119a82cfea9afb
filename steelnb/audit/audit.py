"""Checks a data set for duplicates, contradictory labels, masks out of range and drift between the sides of a split.

Nothing is changed; each finding says what to do. `Audit.write` writes a report with pictures.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from scipy.stats import fisher_exact
from tqdm.auto import tqdm

from steelnb.audit import checks, copy_groups, duplicates
from steelnb.audit.checks import Finding
from steelnb.audit.page import Audit
from steelnb.data import dataset as steel_data
from steelnb.data import splits
from steelnb.data.dataset import DataError, SteelData
from steelnb.data.images import names

DRIFT = 0.01  # p-value, divided by the number of comparisons in a split
BY_ROW = "the original's by row"
SEVERITIES = ("error", "warning", "note")
Sides = tuple[set[str], set[str]]

__all__ = ["Audit", "Finding", "audit", "drift"]


def audit(source: SteelData | str | Path, *, seed: int = 0, validation: float = 0.2,
          against: SteelData | str | Path | None = None, progress: bool = False, **reading) -> Audit:
    """Checks a data set, or the folder of one, and the splits that training would make of it.

    against: another data set, or its folder, that should show other steel: counts the images with a copy in it.
    reading: skip_missing, mask_threshold and so on, as for `dataset.read_dataset`.
    seed, validation: of the split by image; the original's split by row holds out the same share. If
    `dataset.read_dataset` refuses the folder, the audit contains that as an error, and every row out of range; only a
    missing folder raises DataError.
    """
    if isinstance(source, SteelData):
        data = source
    else:
        folder = Path(source).expanduser().absolute()
        try:
            data = steel_data.read_dataset(folder, progress=progress, **reading)
        except DataError as error:
            if not folder.is_dir():
                raise
            text = f"{error}. Nothing else was checked: fix this, then audit again"
            findings = (Finding("refused", "error", (), text), *checks.bad_rows(folder))
            return Audit(folder.name, "It could not be read.", findings, pd.DataFrame())
    finder, findings = duplicates.DuplicateFinder(), [*checks.files(data), *checks.odd_areas(data)]
    for image_id in tqdm(data.images["ImageId"], "check", unit="image", disable=not progress):
        try:
            image = data.image(image_id)
        except DataError as error:
            findings.append(Finding("unreadable", "error", (image_id,), str(error)))
            continue
        finder.add(image_id, image)
        findings += checks.masks(data, image_id, image)
    pairs = finder.pairs(data.image, progress)
    sides = _sides(data, seed, validation)
    groups = duplicates.group_duplicates(pairs, data.images["ImageId"]) if pairs else None
    findings += copy_groups.found_groups(data, pairs, groups or {}, sides)
    if against is not None:
        known = isinstance(against, SteelData)
        other = against if known else steel_data.read_dataset(against, progress=progress, **reading)
        findings += copy_groups.against(data, other, progress)
    shares = drift(data, seed, validation)
    findings += [*_on_both(sides.get(BY_ROW, (set(), set()))), *_drifting(shares, data)]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))  # stable: within one, in the order above
    return Audit(data.name, data.describe(), tuple(findings), shares, data, groups)


def drift(data: SteelData, seed: int = 0, validation: float = 0.2) -> pd.DataFrame:
    """How the sides of a split differ: one row per split ("by image", Severstal's "by row") and class (or "clean").

    train, validation: share of images with the class (by row: share of rows; clean images have none). low, high: 95 %
    interval of validation minus train (Agresti and Caffo 2000). p: Fisher's exact test. area_train, area_validation:
    median area of the class's masks, in pixels.
    """
    classes, table = dict(zip(data.images["ImageId"], data.images["classes"], strict=True)), []
    by_image = splits.by_image(data, validation, seed)
    rows = [data.rows[data.rows["ImageId"].isin(side)] for side in by_image]
    table += _compared("by image", [[classes[i] or ("clean",) for i in side] for side in by_image], rows, data)
    if data.is_severstal:
        rows = [data.rows.iloc[list(side)] for side in splits.by_row(data, validation)]
        table += _compared("by row", [[(c,) for c in side["ClassId"]] for side in rows], rows, data)
    columns = ["split", "class", "n_train", "n_validation", "train", "validation", "low", "high", "p", "area_train",
               "area_validation"]
    return pd.DataFrame(table, columns=columns)


def _compared(split: str, shown: list[list[tuple]], rows: list[pd.DataFrame], data: SteelData) -> Iterator[tuple]:
    """Rows of `drift`. shown: for each side, the classes of each sample; rows: each side's label rows."""
    n, m = map(len, shown)
    for kind in ("clean", *data.classes):
        a, b = (sum(kind in sample for sample in side) for side in shown)
        if not n or not m or not a + b:
            continue
        p, q = (a + 1) / (n + 2), (b + 1) / (m + 2)
        spread = 1.96 * math.sqrt(p * (1 - p) / (n + 2) + q * (1 - q) / (m + 2))
        areas = (side["area"][side["ClassId"] == kind].median() for side in rows)
        chance = float(fisher_exact([[a, b], [n - a, m - b]]).pvalue)
        yield (split, str(kind), n, m, a / n, b / m, q - p - spread, q - p + spread, chance, *areas)


def _drifting(shares: pd.DataFrame, data: SteelData) -> Iterator[Finding]:
    for row in shares.to_dict("records"):
        if row["p"] < DRIFT / (shares["split"] == row["split"]).sum():
            kind = "clean images" if row["class"] == "clean" else data.class_name(int(row["class"]))
            text = (f"the split {row['split']} has {row['train']:.1%} {kind} to train on and {row['validation']:.1%} "
                    f"to validate on (p = {row['p']:.1g}): scores of the two sides cannot be compared; use "
                    "another split or seed")
            yield Finding("drift", "warning", (), text)


def _sides(data: SteelData, seed: int, validation: float) -> dict[str, Sides]:
    """ImageIds to train on and to validate on, for each split."""
    by_image = splits.by_image(data, validation, seed)
    sides = {"by image": (set(by_image.train), set(by_image.validation))}
    if data.is_severstal:
        ids = data.rows["ImageId"].tolist()
        train, held_out = ({ids[row] for row in side} for side in splits.by_row(data, validation))
        sides[BY_ROW] = train, held_out
    return sides


def _on_both(sides: Sides) -> Iterator[Finding]:
    if both := tuple(sorted(sides[0] & sides[1])):
        text = (f"{len(both)} images of several classes are on both sides of the original's split by row "
                f"({names(both)}): split by image")
        yield Finding("image across a split", "note", both, text)
