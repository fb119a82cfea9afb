"""Scores of a trained network on a data set, with conventions and intervals, as a report."""

import json
from dataclasses import asdict, dataclass, field
from itertools import product

import torch

import steelnb
from steelnb.data.dataset import SteelData
from steelnb.data.labels import SEVERSTAL_CLASSES
from steelnb.evaluation.bootstrap import LEVEL
from steelnb.evaluation.operating_point import OperatingPoint, Sweep
from steelnb.evaluation.predictions import (
    halves,
    images_of,
    in_own_geometry,
    iter_predictions,
    labels_of,
    with_and_without_flips,
    with_classes_of,
)
from steelnb.evaluation.scores import (
    ALL,
    BATCHES,
    CENTRE,
    DEFECTIVE,
    OVER,
    PREDICTIONS,
    ROWS,
    SCORED_AREAS,
    Key,
    Scores,
    Value,
)
from steelnb.network.inference import FlipAveraged
from steelnb.network.weights import Trained


@dataclass
class Report:
    """Scores of a network on a part of a data set.

    about: network, data and settings. options: the gain of each option (see `choose_operating_point`), or empty.
    hidden: conventions and areas that the report leaves out, since those of the original and of Kaggle apply only to
    Severstal. `scores` has them for every data set.
    """

    about: dict
    scores: Scores
    options: list[dict] = field(default_factory=list)
    hidden: tuple[str, ...] = ()

    def values(self) -> dict[Key, Value]:
        """The scores that the report shows."""
        values = self.scores.values()
        return {key: value for key, value in values.items() if not {key.over, key.area} & {*self.hidden}}

    def to_dict(self) -> dict:
        """As plain JSON types; NaN as None. `scores` is a list with one record per score and convention."""
        scores = [{**key._asdict(), **value._asdict()} for key, value in self.values().items()]
        pixels, probabilities, defects = self.scores.calibration
        curve = [
            {"pixels": int(n), "mean_probability": p / n, "defect_share": d / n}
            for n, p, d in zip(pixels, probabilities, defects, strict=True) if n
        ]
        return json.loads(
            json.dumps({**self.about, "scores": scores, "calibration": curve, "options": self.options}),
            parse_constant=lambda _: None,
        )

    def table(self) -> str:
        """The report as text."""
        values, about = self.values(), self.about
        lines = [
            f"{about['data']['name']}, {about['part']}",
            f"{about['images']} images, {about['clean']} of them clean; {about['operating_point']}"
            + (", averaged over flips" if about["flips"] else ""),
        ]
        if about["replicates"]:
            lines.append(f"[{about['interval']:.0%} intervals: bootstrap over images, {about['replicates']} replicates;"
                         " of shares of images: Wilson]")
        labels = dict.fromkeys(key.label for key in values)
        for label in labels:
            lines += ["", *_overlap_table(values, label, about["batch"], titled=len(labels) > 1)]
        if self.options:
            lines += ["", *_options_table(self.options)]
        if "kaggle" in about:
            lines += ["", f"Kaggle's score: {about['kaggle']}"]
        return "\n".join(lines)


def evaluate(
    trained: Trained, data: SteelData, part: str | None = None, *, point: OperatingPoint | None = None,
    flips: bool = False, replicates: int = 1000, progress: bool = False,
) -> Report:
    """Scores of a trained network on a data set under every convention.

    part: "validation" or "train" images of its training run, or "all"; None is "validation" on the data it was trained
    on and "all" on other data. point: makes the masks. flips: averages over four flips. Whole images are predicted in
    exact geometry; a network trained in the original's geometry also predicts the original's centre in that geometry.
    Raises ValueError for any other part, a part without images, or classes that are not the network's.
    """
    data = with_classes_of(trained, data)
    ids, which = images_of(trained, data, part)
    if not ids:
        raise ValueError(f"{which}: no image to score")
    scores = _empty(trained, data, point, replicates)
    model = FlipAveraged(trained.model) if flips else trained.model
    for each in iter_predictions(trained, data, ids, model, progress):
        scores.update(*each)
    return build_report(trained, data, which, scores, flips=flips)


def choose_operating_point(
    trained: Trained, data: SteelData, part: str | None = None, *, alarms: float | None = None, replicates: int = 1000,
    progress: bool = False,
) -> Report:
    """Chooses threshold, minimum area and guard on half of a part; reports the gain of each on the other half.

    alarms: highest Dice on defective images with a false alarm on at most this share of clean images; None: highest
    mean Dice over all images, where an empty prediction for a clean image counts 1. The ImageId determines the half.
    The scores reported are of the option that scored highest on the half it was chosen on. Other arguments as for
    `evaluate`; raises ValueError if a half is empty.
    """
    data = with_classes_of(trained, data)
    ids, which = images_of(trained, data, part)
    first, second = halves(data, ids)
    if not first or not second:
        raise ValueError(f"{which}: too few images to choose an operating point on one half and report on the other")
    sweeps = {False: Sweep(), True: Sweep()}
    for plain, flipped in with_and_without_flips(trained, data, first, progress):
        sweeps[False].update(*plain[:2])
        sweeps[True].update(*flipped[:2])
    options = {"as it is": (OperatingPoint(), False), "flips": (OperatingPoint(), True)}
    for name, areas, guards in (("threshold", False, False), ("threshold, smallest defect", True, False),
                                ("threshold, guard", False, True), ("all three", True, True)):
        options[name] = (sweeps[False].best(areas=areas, guards=guards, alarms=alarms), False)
    options["all three, flips"] = (sweeps[True].best(alarms=alarms), True)
    scored = {name: _empty(trained, data, point, replicates) for name, (point, _) in options.items()}
    for each in with_and_without_flips(trained, data, second, progress):
        for name, (_, flips) in options.items():
            scored[name].update(*each[flips])

    def worth(name: str) -> tuple[float, float]:
        there = sweeps[options[name][1]].at(options[name][0])
        if alarms is None:
            return 0.0, there["dice"]
        return min(alarms - there["alarm_rate"], 0.0), there["dice_defective"]

    taken = max(("all three", "all three, flips"), key=worth)
    which += f"; the {len(second)} images of its second half, the operating point chosen on the other {len(first)}"
    table = [_option(name, *options[name], scored["as it is"], scored[name], name == taken) for name in options]
    return build_report(trained, data, which, scored[taken], flips=options[taken][1], options=table)


def build_report(
    trained: Trained, data: SteelData, which: str, scores: Scores, *, flips: bool = False, options: list | None = None
) -> Report:
    """A report of existing scores; `which` describes their images (see `images_of`).

    Label rows, the original's centre and Kaggle's score are reported of Severstal alone, the centre also of a network
    that was trained in the original's geometry.
    """
    kaggle = "needs one mask for each of Severstal's four classes (train with --per-class)"
    if len(scores.labels) == len(SEVERSTAL_CLASSES):
        value = scores.values()[Key("Dice", "all", ALL)]
        interval = f" [{value.low:.4f}–{value.high:.4f}]" if value.low == value.low else ""
        kaggle = f"{value.value:.4f}{interval}, mean Dice over (image, class), empty = 1"
    about = {
        "steelnb": steelnb.__version__,
        "torch": str(torch.__version__),
        "data": {"name": data.name, "fingerprint": data.fingerprint(), "classes": list(data.classes)},
        "recipe": trained.metadata.get("recipe", {}),
        "part": which,
        "images": scores.images,
        "clean": scores.clean,
        **asdict(scores.point),
        "operating_point": str(scores.point),
        "flips": flips,
        "batch": scores.batch,
        "interval": LEVEL,
        "replicates": scores.replicates,
    }
    if data.is_severstal:
        return Report(about | {"kaggle": kaggle}, scores, options or [])
    return Report(about, scores, options or [], (ROWS,) if in_own_geometry(trained) else (ROWS, CENTRE))


def _empty(trained: Trained, data: SteelData, point: OperatingPoint | None, replicates: int) -> Scores:
    depth = trained.model.depth if in_own_geometry(trained) else 4
    return Scores(labels_of(trained, data), point=point, replicates=replicates, depth=depth)


def _option(name: str, point: OperatingPoint, flips: bool, before: Scores, after: Scores, taken: bool) -> dict:
    label = "all" if len(after.labels) > 1 else after.labels[0]
    keys = {"dice_empty_is_one": Key("Dice", label, ALL), "dice": Key("Dice", label, DEFECTIVE),
            "alarms": Key("clean images with an alarm", label)}
    return {
        "option": name, "operating_point": str(point), "flips": flips, "taken": taken,
        **{name: after.value(key) for name, key in keys.items()},
        "gain": before.gain(after, keys["dice_empty_is_one"])._asdict(),
    }


def _overlap_table(values: dict[Key, Value], label: str, batch: int, titled: bool) -> list[str]:
    shown = {key.area for key in values}
    columns = list(product([area for area in SCORED_AREAS if area in shown], PREDICTIONS))
    name = {BATCHES: f"batches of {batch}, one with a defect"}
    lines = [f"{label if titled else '':<38}" + "".join(f"{f'{a}, {k}':<24}" for a, k in columns).rstrip()]
    for score in ("Dice", "IoU"):
        for over in OVER:
            row = [values.get(Key(score, label, over, *column)) for column in columns]
            if any(row):
                lines.append(f"{f'{score}, {name.get(over, over)}':<38}" + "".join(f"{_text(v):<24}" for v in row))
    lines += [
        f"{key.score:<38}{_text(value):<24}" + (f"of {value.n}" if key.score[:5] in ("clean", "defec") else "")
        for key, value in values.items() if key.label == label and not key.over
    ]
    return [line.rstrip() for line in lines]


def _options_table(options: list[dict]) -> list[str]:
    lines = [f"{'option':<30}{'Dice, empty = 1':<17}{'gain':<26}{'Dice, defective':<17}{'alarms':<9}operating point"]
    for each in options:
        gain = Value(**each["gain"])
        gained = "" if each["option"] == "as it is" else f"{gain.value:+.3f}"
        gained += f" [{gain.low:+.3f} … {gain.high:+.3f}]" if gained and gain.low == gain.low else ""
        lines.append(
            f"{each['option'] + ' ←' * each['taken']:<30}{each['dice_empty_is_one']:<17.3f}{gained:<26}"
            f"{_number(each['dice']):<17}{_share(each['alarms']):<9}{each['operating_point']}"
        )
    return [*lines, "← taken: the highest on the half it was chosen on"]


def _number(value: float) -> str:
    return f"{value:.3f}" if value == value else "–"


def _share(value: float) -> str:
    return f"{value:.0%}" if value == value else "–"


def _text(value: Value | None) -> str:
    if value is None or value.value != value.value:
        return "–"
    return f"{value.value:.3f} [{value.low:.3f}–{value.high:.3f}]" if value.low == value.low else f"{value.value:.3f}"
