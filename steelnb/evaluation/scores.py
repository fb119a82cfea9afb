"""Dice, IoU and rates under every convention side by side, with intervals.  Taught in 10_results.

A Dice means little without its convention: clean images counted as 1 or left out, averaged over images or pooled over
pixels, thresholded or not, over the whole image or the centre that the original predicted. `Scores` counts the pixels
and defects of each image once, in a table. A convention (`overlaps`, `rates`) is one expression on the table's columns:
numerators and denominators per image or batch, whose sums are divided. Intervals are those of `bootstrap`.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, product
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from steelnb.evaluation.bootstrap import LEVEL, interval, poisson_weights, ratio, weighted_sums
from steelnb.evaluation.metrics import components
from steelnb.evaluation.operating_point import OperatingPoint
from steelnb.network.geometry import GeometryError
from steelnb.network.tiles import original_crop

OVER = ("images with a defect", "all images, empty = 1", "batches", "all pixels pooled", "label rows")
DEFECTIVE, ALL, BATCHES, PIXELS, ROWS = OVER
WHOLE_IMAGE, CENTRE = SCORED_AREAS = ("whole image", "original's centre")
HARD, SOFT = PREDICTIONS = ("hard", "soft")
COUNTS = ("true", "hard_both", "hard_predicted", "soft_both", "soft_predicted", "rows", "hard_rows", "soft_rows",
          "defects", "touched", "half", "alarms")
SMOOTH = 1e-4  # the original's; matters only for the soft Dice of an empty mask
BINS = 20  # of the calibration curve
FIRST_BATCH = 1 << 40  # the bootstrap's number of the first batch; images are numbered from 0


class Key(NamedTuple):
    """Identifies a score: "Dice", "IoU" or a rate; the mask, the convention, the area."""

    score: str
    label: str
    over: str = ""
    area: str = WHOLE_IMAGE
    prediction: str = HARD


class Value(NamedTuple):
    """A score with its interval (`LEVEL`) and its number of units (images, batches, defects); NaN without any."""

    value: float
    low: float
    high: float
    n: int


Ratio = tuple[Key, np.ndarray, np.ndarray]  # a score, its numerators and denominators: [images or batches, masks]


def overlaps(table: dict[str, np.ndarray], area: str, batch: int) -> Iterator[Ratio]:
    """Dice and IoU of one area under each convention, from its columns of the table, each [images, masks]."""
    present, with_rows = ~np.isnan(table["true"]), not np.isnan(table["rows"]).all()
    table = {name: np.nan_to_num(column) for name, column in table.items()}
    true, defect = table["true"], table["true"] > 0

    def batches(column: np.ndarray) -> np.ndarray:
        return np.add.reduceat(column, range(0, len(column), batch))

    for kind in PREDICTIONS:
        both, predicted = table[f"{kind}_both"], table[f"{kind}_predicted"]
        empty = predicted == 0 if kind == HARD else SMOOTH / (predicted + SMOOTH)
        for score, top, bottom in (("Dice", 2 * both, predicted + true), ("IoU", both, predicted + true - both)):
            key, each, in_batch = Key(score, "", "", area, kind), ratio(top, bottom), batches(true) > 0
            yield key._replace(over=DEFECTIVE), np.where(defect, each, 0), defect
            yield key._replace(over=ALL), np.where(defect, each, empty) * present, present
            yield key._replace(over=BATCHES), np.where(in_batch, ratio(batches(top), batches(bottom)), 0), in_batch
            yield key._replace(over=PIXELS), top, bottom
        if with_rows:
            yield Key("Dice", "", ROWS, area, kind), table[f"{kind}_rows"], table["rows"]


def rates(table: dict[str, np.ndarray]) -> Iterator[Ratio]:
    """Rates of hard masks of whole images by pixels, images and connected defects; columns as for `overlaps`."""
    both, predicted, true, defects = (table[name] for name in ("hard_both", "hard_predicted", "true", "defects"))
    clean, defective = true == 0, true > 0
    yield Key("precision", ""), both, predicted
    yield Key("recall", ""), both, true
    yield Key("clean images with an alarm", ""), clean & (predicted > 0), clean
    yield Key("defective images without a find", ""), defective & (both == 0), defective
    yield Key("defects found (any pixel)", ""), table["touched"], defects
    yield Key("defects found (half of it)", ""), table["half"], defects
    yield Key("false defects an image", ""), table["alarms"], np.ones_like(true)


class Scores:
    """Counts image after image (`update`); `values` has every score, `table` the counts that they are made from.

    labels: names of the masks, one per channel; with several, "all" is the mean over (image, class) pairs, or the pool.
    point: makes the hard masks. batch: images per batch in the convention that pools over batches, in the order of the
    updates. replicates: of the bootstrap; 0 for no intervals. depth: of the network whose centre is scored.

    "hard" is the mask of `point`, "soft" is Dice on the probabilities. "all images, empty = 1": with an empty mask, 1
    for an empty prediction and 0 for any other (Kaggle's); soft, (2I + 1e-4) / (P + T + 1e-4), which is 0 in practice.
    "label rows": one mask per row of the CSV, as in the original's samples (only for a network with one mask).
    Memory does not depend on the size of the images: for Severstal's 12,568 with four masks each, 11 MiB, and 59 MiB at
    most while `values` draws 1,000 replicates (tracemalloc).
    """

    def __init__(
        self, labels: Sequence[str] = ("any",), *, point: OperatingPoint | None = None, batch: int = 2,
        replicates: int = 1000, seed: int = 0, depth: int = 4,
    ) -> None:
        self.labels, self.point, self.batch = tuple(labels), point or OperatingPoint(), batch
        self.replicates, self.seed, self.depth = replicates, seed, depth
        self.images = self.clean = 0
        self.calibration = np.zeros((3, BINS))  # per bin: pixels, sum of probabilities, defect pixels
        self._counts: list[np.ndarray] = []  # per image [areas, masks, COUNTS]; NaN where not counted

    def update(
        self, probabilities: np.ndarray, masks: np.ndarray, rows: np.ndarray | None = None,
        centre: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """Adds an image: probabilities, float [K, H, W] in 0…1, and masks, bool [K, H, W].

        rows: the masks of its label rows, bool [R, H, W]. centre: probabilities and masks of the original's centre, if
        the network predicts it separately; otherwise it is cropped from the whole image. Raises ValueError for wrong
        shapes and values.
        """
        self._check(probabilities, masks, rows)
        if centre is not None:
            self._check(*centre)
        whole = (self.point.masks(probabilities), probabilities, masks, rows)
        own = centre and (self.point.masks(centre[0]), *centre, None)
        try:
            cut = [each if each is None else original_crop(each, self.depth) for each in whole]
            areas = [whole, (*(own or cut)[:3], cut[3])]
        except GeometryError:  # too small for the original's geometry
            areas = [whole, own] if own else [whole]
        counts = np.full((len(SCORED_AREAS), len(self.labels), len(COUNTS)), np.nan)
        for a, (*parts, label_rows) in enumerate(areas):
            for k, (hard, soft, mask) in enumerate(zip(*parts, strict=True)):
                found = _count(hard, soft, mask, label_rows if len(self.labels) == 1 else None)
                found |= components(hard, mask)._asdict() if a == 0 else {}
                counts[a, k] = [found.get(name, np.nan) for name in COUNTS]
        self._counts.append(counts)
        self.images += 1
        self.clean += not masks.any()
        place = np.minimum((probabilities * BINS).astype(int), BINS - 1).ravel()
        for row, weights in zip(self.calibration, (None, probabilities.ravel(), masks.ravel()), strict=True):
            row += np.bincount(place, weights, BINS)

    def table(self) -> pd.DataFrame:
        """The counts: one row per image (its index), area and mask; an image without a centre has no row for it.

        true, hard_both, hard_predicted: pixels of the mask, of mask and hard prediction, of the hard prediction.
        soft_both, soft_predicted: sums of probabilities. rows: label rows with a pixel; hard_rows, soft_rows: sums of
        their Dice. defects: connected defects; touched, half: those with any, with half of their pixels predicted;
        alarms: connected parts of the prediction that touch no defect. NaN: without label rows; defects in a centre.
        """
        columns = {"image": range(self.images), "area": SCORED_AREAS, "mask": self.labels}
        rows = pd.MultiIndex.from_product(columns.values(), names=columns)
        counts = np.reshape(self._counts, (-1, len(COUNTS)))
        return pd.DataFrame(counts, rows, COUNTS).dropna(subset="true").reset_index()

    def values(self) -> dict[Key, Value]:
        """Every score with its interval, in a fixed order."""
        sums = self._sums(self.replicates)
        labels, scores = dict.fromkeys(key.label for key in sums), dict.fromkeys(key.score for key in sums)
        order = product(labels, scores, ("", *OVER), SCORED_AREAS, PREDICTIONS)
        keys = [Key(score, label, *convention) for label, score, *convention in order]
        return {key: _value(key, sums[key]) for key in keys if key in sums}

    def value(self, key: Key) -> float:
        """One score; NaN if there was nothing to score."""
        sums = self._sums(0, key)
        return float(ratio(*sums[key][:2])[0]) if key in sums else float("nan")

    def gain(self, other: "Scores", key: Key) -> Value:
        """Difference of a score, `other` minus this, over the same images in the same order; the interval is paired.

        Raises ValueError if images, seed, batch or replicates differ.
        """
        for name in ("images", "seed", "batch", "replicates"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(f"{name}: {mine} here, {theirs} in the other scores; a paired gain needs the same")
        before, after = (each._sums(each.replicates, key)[key] for each in (self, other))
        gained = ratio(*after[:2]) - ratio(*before[:2])
        return Value(float(gained[0]), *interval(gained[1:], round(before[2, 0])), _units(key, before))

    def _sums(self, replicates: int, only: Key | None = None) -> dict[Key, np.ndarray]:
        """Sums of numerators, denominators and units by score, [3, 1 + replicates]; column 0 is unweighted."""
        sums, labels = {}, ("all", *self.labels) if len(self.labels) > 1 else self.labels
        by_image = poisson_weights(self.seed, 0, self.images, replicates)
        by_batch = poisson_weights(self.seed, FIRST_BATCH, -(-self.images // self.batch), replicates)
        for a, area in enumerate(SCORED_AREAS if self.images else ()):
            table = dict(zip(COUNTS, np.moveaxis(np.stack([each[a] for each in self._counts]), -1, 0), strict=True))
            if np.isnan(table["true"]).all():
                continue
            for key, *columns in chain(overlaps(table, area, self.batch), rates(table) if area == WHOLE_IMAGE else ()):
                if only is None or key == only._replace(label=""):
                    units = np.array(columns, float).swapaxes(1, 2)  # [2, masks, images or batches]
                    if len(labels) > 1:
                        units = np.concatenate([units.sum(1, keepdims=True), units], axis=1)
                    units = np.concatenate([units, units[1:] > 0])
                    each = weighted_sums(units, by_batch if key.over == BATCHES else by_image)
                    sums |= {key._replace(label=label): each[:, k] for k, label in enumerate(labels)}
        return sums

    def _check(self, probabilities: np.ndarray, masks: np.ndarray, rows: np.ndarray | None = None) -> None:
        if probabilities.shape != masks.shape or len(masks) != len(self.labels) or masks.ndim != 3:
            raise ValueError(f"probabilities {probabilities.shape}, masks {masks.shape}; labels {self.labels}")
        if rows is not None and rows.shape[1:] != masks.shape[1:]:
            raise ValueError(f"label rows of {rows.shape[1:]}, masks of {masks.shape[1:]}")
        if dtypes := [str(each.dtype) for each in (masks, rows) if each is not None and each.dtype != bool]:
            raise ValueError(f"masks must be bool, got {', '.join(dtypes)}")
        if not (probabilities.min() >= 0 and probabilities.max() <= 1):
            span = f"{probabilities.min():g} … {probabilities.max():g}"
            raise ValueError(f"probabilities must be in 0…1, got {span}: if these are logits, take their sigmoid")


def _count(hard: np.ndarray, soft: np.ndarray, mask: np.ndarray, rows: np.ndarray | None) -> dict[str, float]:
    """Counts of one mask in one area (see `Scores.table`); probabilities are summed in float64."""
    counts = {"true": mask.sum()}
    for kind, prediction in ((HARD, hard), (SOFT, soft)):
        both, predicted = prediction[mask].sum(dtype=np.float64), prediction.sum(dtype=np.float64)
        counts |= {f"{kind}_both": both, f"{kind}_predicted": predicted}
        if rows is not None:
            dices = [2 * prediction[row].sum(dtype=np.float64) / (predicted + row.sum()) for row in rows if row.any()]
            counts |= {"rows": len(dices), f"{kind}_rows": sum(dices)}
    return counts


def _value(key: Key, sums: np.ndarray) -> Value:
    ratios, n = ratio(*sums[:2]), _units(key, sums)
    low, high = interval(ratios[1:], round(sums[2, 0]))
    if key.score.startswith(("clean images", "defective images")) and n and len(ratios) > 1:
        # 0 of 7 is 0 of 7 in every replicate; Wilson's interval takes into account that 7 are few
        low, high = map(float, binomtest(round(sums[0, 0]), n).proportion_ci(LEVEL, method="wilson"))
    return Value(float(ratios[0]), low, high, n)


def _units(key: Key, sums: np.ndarray) -> int:
    """Number of units of a score: what was averaged (images, rows, defects), or for pooled pixels the images with any.
    """
    pooled = key.over == PIXELS or key.score in ("precision", "recall")
    return round(sums[2 if pooled else 1, 0])
