"""Dice and IoU under every convention side by side, with intervals, in constant memory.  Taught in 08_results.

A Dice without its convention says little: clean images counted as 1 or not at all, averaged over images or pooled over
pixels, thresholded or not, the whole image or the centre that the original predicted. `Scores` keeps all of them.

The intervals are those of the bootstrap over images, drawn while the images go by: each image counts Poisson(1) times
in each replicate instead of by resampling afterwards (Chamandy et al., *Estimating Uncertainty for Massive Data
Streams*, 2012), so nothing grows with the data set. The weights follow from (seed, place of the image) alone: two
`Scores` over the same images in the same order are paired, and their difference has an interval too (`gain`).
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest

from steelnb.evaluation.metrics import components
from steelnb.evaluation.operating_point import OperatingPoint
from steelnb.network.geometry import GeometryError
from steelnb.network.tiles import original_crop

DEFECTIVE, ALL, BATCHES, PIXELS, ROWS = OVER = (
    "images with a defect", "all images, empty = 1", "batches", "all pixels pooled", "label rows",
)  # fmt: skip
WHOLE_IMAGE, CENTRE = SCORED_AREAS = ("whole image", "original's centre")
HARD, SOFT = PREDICTIONS = ("hard", "soft")
SMOOTH = 1e-4  # the original's; decides only what an empty mask gives to a soft Dice
BINS = 20  # of the calibration curve
LEVEL = 0.95


class Key(NamedTuple):
    """What a number is: "Dice" or "IoU" or a rate, of which class, by which convention."""

    score: str
    label: str
    over: str = ""
    area: str = WHOLE_IMAGE
    prediction: str = HARD


class Value(NamedTuple):
    """A score with its interval (`LEVEL`); n units (images, batches, defects) stand behind it. NaN: nothing there."""

    value: float
    low: float
    high: float
    n: int


class Scores:
    """Adds image after image; `values` has everything.

    labels: names of the masks, one a channel; over several, "all" is the mean over (image, class) pairs, or the pool.
    point: how hard masks are made. batch: images of a batch in the convention that pools over batches, in the order of
    the updates. replicates: of the bootstrap; 0 gives no intervals. depth: of the network whose centre it is.

    "hard" is the mask of `point`, "soft" is Dice on the probabilities. "all images, empty = 1": an empty mask gives 1
    to an empty prediction and 0 to another (Kaggle's); soft, (2I + 1e-4) / (P + T + 1e-4), which is 0 in practice.
    "label rows": one mask a row of the CSV, as the original had its samples (a network with one mask only).
    """

    def __init__(
        self, labels: Sequence[str] = ("any",), *, point: OperatingPoint | None = None, batch: int = 2,
        replicates: int = 1000, seed: int = 0, depth: int = 4,
    ) -> None:  # fmt: skip
        self.labels, self.point, self.batch = tuple(labels), point or OperatingPoint(), batch
        self.replicates, self.seed, self.depth = replicates, seed, depth
        self.images = self.clean = 0
        self.calibration = np.zeros((3, BINS))  # a bin: pixels, sum of probabilities, defect pixels
        self._place: dict[Key, int] = {}
        self._sums = np.zeros((0, 3, replicates + 1))  # numerator, denominator, units; column 0 counts each image once
        self._open: dict[Key, np.ndarray] = {}  # the batch that is not full yet
        self._in_batch = self._batches = 0

    def update(
        self, probabilities: np.ndarray, masks: np.ndarray, rows: np.ndarray | None = None,
        centre: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:  # fmt: skip
        """Adds an image: probabilities, float [K, H, W] in 0…1, and masks, bool [K, H, W].

        rows: the masks of its label rows, bool [R, H, W]. centre: probabilities and masks of the original's centre
        where a network predicts it by itself; else it is cut out of the whole. Raises ValueError for other shapes and
        values.
        """
        self._check(probabilities, masks, rows)
        if centre is not None:
            self._check(*centre)
        hard = self.point.masks(probabilities)
        parts = {WHOLE_IMAGE: (hard, probabilities, masks, rows)}
        if centre is not None:
            parts[CENTRE] = (self.point.masks(centre[0]), *centre, None)
        try:
            cut = [each if each is None else original_crop(each, self.depth) for each in parts[WHOLE_IMAGE]]
            parts[CENTRE] = (*parts.get(CENTRE, cut)[:3], cut[3])
        except GeometryError:
            pass  # too small for the original's geometry
        found: dict[Key, tuple[float, float]] = {}
        for area, (h, p, t, r) in parts.items():
            for k, label in enumerate(self.labels):
                for kind, prediction in ((HARD, h[k]), (SOFT, p[k])):
                    self._overlaps(found, label, area, kind, prediction, t[k])
            if r is not None and len(self.labels) == 1:
                for kind, prediction in ((HARD, h[0]), (SOFT, p[0])):
                    dices = [_overlap(prediction, row).dice for row in r if row.any()]
                    found[Key("Dice", self.labels[0], ROWS, area, kind)] = (sum(dices), len(dices))
        for k, label in enumerate(self.labels):
            self._rates(found, label, hard[k], masks[k])
        self._add(found, self.images)
        self._in_batch += 1
        if self._in_batch == self.batch:
            self._close_batch()
        self.images += 1
        self.clean += not masks.any()
        place = np.minimum((probabilities * BINS).astype(int), BINS - 1).ravel()
        for row, weights in zip(self.calibration, (None, probabilities.ravel(), masks.ravel()), strict=True):
            row += np.bincount(place, weights, BINS)

    def values(self) -> dict[Key, Value]:
        """Everything that was scored, with its interval, in a fixed order."""
        closed = self._closed()
        return {key: closed._value(key) for key in sorted(closed._place, key=closed._rank)}

    def value(self, key: Key) -> float:
        """One score; NaN where nothing was there to score."""
        closed = self._closed()
        return float(_ratio(*closed._sums[closed._place[key], :2, :1])[0]) if key in closed._place else float("nan")

    def gain(self, other: "Scores", key: Key) -> Value:
        """How much larger a score is in `other`, over the same images in the same order; the interval is paired.

        Raises ValueError where images, seed, batch or replicates differ.
        """
        for name in ("images", "seed", "batch", "replicates"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(f"{name}: {getattr(self, name)} here, {getattr(other, name)} there: no paired gain")
        mine, theirs = (each._closed() for each in (self, other))
        before, after = (_ratio(*each._sums[each._place[key], :2]) for each in (mine, theirs))
        return Value(float(after[0] - before[0]), *_interval((after - before)[1:]), mine._n(key))

    def _check(self, probabilities: np.ndarray, masks: np.ndarray, rows: np.ndarray | None = None) -> None:
        if probabilities.shape != masks.shape or len(masks) != len(self.labels) or masks.ndim != 3:
            raise ValueError(f"probabilities {probabilities.shape}, masks {masks.shape}; labels {self.labels}")
        if rows is not None and rows.shape[1:] != masks.shape[1:]:
            raise ValueError(f"label rows of {rows.shape[1:]}, masks of {masks.shape[1:]}")
        if masks.dtype != bool or (rows is not None and rows.dtype != bool):
            raise ValueError(f"masks are bool, got {masks.dtype}" + (f" and {rows.dtype}" if rows is not None else ""))
        if not (probabilities.min() >= 0 and probabilities.max() <= 1):
            span = f"{probabilities.min():g} … {probabilities.max():g}"
            raise ValueError(f"probabilities are in 0…1, got {span}: logits? Take their sigmoid")

    def _closed(self) -> "Scores":
        """These scores with the last batch in them, full or not; looking changes nothing."""
        if not self._in_batch:
            return self
        closed = copy.copy(self)
        closed._sums, closed._place = self._sums.copy(), dict(self._place)
        closed._close_batch()
        return closed

    def _overlaps(
        self, found: dict, label: str, area: str, kind: str, prediction: np.ndarray, mask: np.ndarray
    ) -> None:
        has_defect, each = bool(mask.any()), _overlap(prediction, mask)
        for score, value, top, bottom in (
            ("Dice", each.dice, 2 * each.both, each.predicted + each.true),
            ("IoU", each.iou, each.both, each.predicted + each.true - each.both),
        ):
            at_empty = SMOOTH / (each.predicted + SMOOTH) if kind == SOFT else float(each.predicted == 0)
            found[Key(score, label, DEFECTIVE, area, kind)] = (value if has_defect else 0.0, has_defect)
            found[Key(score, label, ALL, area, kind)] = (value if has_defect else at_empty, 1)
            found[Key(score, label, PIXELS, area, kind)] = (top, bottom)
            key = Key(score, label, BATCHES, area, kind)
            self._open[key] = self._open.get(key, 0) + np.array([top, bottom, each.true])

    def _rates(self, found: dict, label: str, hard: np.ndarray, mask: np.ndarray) -> None:
        """Hard masks of whole images only: pixels, images, and connected defects."""
        both, predicted, true = (int(np.count_nonzero(each)) for each in (hard & mask, hard, mask))
        parts, clean = components(hard, mask), true == 0
        for score, value in {
            "precision": (both, predicted), "recall": (both, true),
            "clean images with an alarm": (clean and predicted > 0, clean),
            "defective images without a find": (not clean and both == 0, not clean),
            "defects found (any pixel)": (parts.touched, parts.defects),
            "defects found (half of it)": (parts.half, parts.defects),
            "false defects an image": (parts.alarms, 1),
        }.items():  # fmt: skip
            found[Key(score, label)] = value

    def _close_batch(self) -> None:
        """Batches are the units of their convention: one without a defect has no part in it."""
        found = {key: (top / bottom if true else 0.0, true > 0) for key, (top, bottom, true) in self._open.items()}
        self._open, self._in_batch = {}, 0
        self._add(found, (1 << 40) + self._batches)
        self._batches += 1

    def _add(self, found: dict[Key, tuple[float, float]], unit: int) -> None:
        weights = np.ones(self.replicates + 1)
        weights[1:] = np.random.default_rng([self.seed, unit]).poisson(1.0, self.replicates)
        if len(self.labels) > 1:
            pooled: dict[Key, tuple[float, float]] = {}
            for key, (top, bottom) in found.items():
                before = pooled.get(key._replace(label="all"), (0.0, 0.0))
                pooled[key._replace(label="all")] = (before[0] + top, before[1] + bottom)
            found = found | pooled
        if new := [key for key in found if key not in self._place]:
            self._place |= {key: len(self._place) + i for i, key in enumerate(new)}
            self._sums = np.concatenate([self._sums, np.zeros((len(new), 3, self.replicates + 1))])
        where = [self._place[key] for key in found]
        values = np.array([(top, bottom, bottom > 0) for top, bottom in found.values()], float)
        self._sums[where] += values[..., None] * weights

    def _value(self, key: Key) -> Value:
        ratios, n = _ratio(*self._sums[self._place[key], :2]), self._n(key)
        if key.score.startswith(("clean images", "defective images")) and n:
            # 0 of 7 resampled is 0 of 7 for ever; Wilson's interval knows that 7 are few.
            count = round(self._sums[self._place[key], 0, 0])
            span = binomtest(count, n).proportion_ci(LEVEL, method="wilson") if self.replicates else (np.nan, np.nan)
            return Value(float(ratios[0]), float(span[0]), float(span[1]), n)
        return Value(float(ratios[0]), *_interval(ratios[1:]), n)

    def _n(self, key: Key) -> int:
        """Units behind a ratio: what was averaged (images, rows, defects), or for pooled pixels the images with any."""
        pooled = key.over == PIXELS or key.score in ("precision", "recall")
        return round(self._sums[self._place[key], 2 if pooled else 1, 0])

    def _rank(self, key: Key) -> tuple:
        scores = [each.score for each in self._place if each.label == key.label]
        over = OVER.index(key.over) if key.over else -1
        labels = ("all", *self.labels)
        return labels.index(key.label), scores.index(key.score), over, key.area != WHOLE_IMAGE, key.prediction != HARD


class _Overlap(NamedTuple):
    both: float
    predicted: float
    true: float

    @property
    def dice(self) -> float:
        return 2 * self.both / total if (total := self.predicted + self.true) else float("nan")

    @property
    def iou(self) -> float:
        return self.both / total if (total := self.predicted + self.true - self.both) else float("nan")


def _overlap(prediction: np.ndarray, mask: np.ndarray) -> _Overlap:
    """Pixels, or probabilities summed in float64, in both, the prediction, the mask."""
    return _Overlap(*(float(each.sum(dtype=np.float64)) for each in (prediction[mask], prediction, mask)))


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)


def _interval(replicates: np.ndarray) -> tuple[float, float]:
    """The middle `LEVEL` of the replicates that had anything to score."""
    replicates = replicates[np.isfinite(replicates)]
    if not len(replicates):
        return float("nan"), float("nan")
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
