"""How good a trained network is, so that a colleague can trust it: what was scored, how, and how sure.

Taught in 08_results.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from tqdm.auto import tqdm

import steelnb
from steelnb.data import SteelData
from steelnb.evaluate import predicted
from steelnb.operating_point import OperatingPoint, Sweep, probabilities_of
from steelnb.overlap_tile import FlipAveraged
from steelnb.samples import ImageCache, Item, Samples
from steelnb.scores import ALL, BATCHES, CENTRE, DEFECTIVE, HARD, LEVEL, OVER, SOFT, WHOLE, Key, Scores, Value
from steelnb.weights import Trained


@dataclass
class Report:
    """Scores of a network on a part of a data set. `about` says of what; `options` what each option gains, if asked."""

    about: dict
    scores: Scores
    options: list[dict] = field(default_factory=list)

    def to_dict(self) -> dict:
        """As plain JSON types; NaN as None. `scores` is a list with one record a number, its convention spelled out."""
        scores = [{**key._asdict(), **value._asdict()} for key, value in self.scores.values().items()]
        pixels, probabilities, defects = self.scores.calibration
        curve = [
            {"pixels": int(n), "mean_probability": p / n, "defect_share": d / n}
            for n, p, d in zip(pixels, probabilities, defects, strict=True) if n
        ]  # fmt: skip
        return json.loads(
            json.dumps({**self.about, "scores": scores, "calibration": curve, "options": self.options}),
            parse_constant=lambda _: None,
        )

    def table(self) -> str:
        """Everything as lines for people."""
        values, about = self.scores.values(), self.about
        lines = [
            f"{about['data']['name']}, {about['part']}",
            f"{about['images']} images, {about['clean']} of them clean; {about['operating_point']}"
            + (", averaged over flips" if about["flips"] else ""),
            f"[{about['interval']:.0%} intervals: bootstrap over images, {about['replicates']} replicates; "
            "of shares of images: Wilson]",
        ]
        labels = dict.fromkeys(key.label for key in values)
        for label in labels:
            lines += ["", *_overlap_table(values, label, about["batch"], titled=len(labels) > 1)]
        if self.options:
            lines += ["", *_options_table(self.options)]
        if "kaggle" in about:
            lines += ["", f"Kaggle's score: {about['kaggle']}"]
        return "\n".join(lines)


def report(
    trained: Trained, data: SteelData, part: str | None = None, *, point: OperatingPoint | None = None,
    flips: bool = False, replicates: int = 1000, progress: bool = False,
) -> Report:  # fmt: skip
    """Scores of a trained network on a data set under every convention.

    part: "validation" and "train" are those of its training run, "all" is every image; None takes "validation" on the
    data it was trained on and "all" on other data. point: how masks are made. flips: averages over four flips.
    The whole image is predicted in exact geometry; a network trained in the original's predicts the centre in its own.
    Raises ValueError where there is no such part, or other classes.
    """
    ids, which = images_of(trained, data, part)
    scores = Scores(labels_of(trained, data), point=point, replicates=replicates)
    model = FlipAveraged(trained.model) if flips else trained.model
    for each in predictions(trained, data, ids, model, progress):
        scores.update(*each)
    return of(trained, data, which, scores, flips=flips)


def chosen(
    trained: Trained, data: SteelData, part: str | None = None, *, alarms: float | None = None, replicates: int = 1000,
    progress: bool = False,
) -> Report:  # fmt: skip
    """Chooses threshold, smallest defect and guard on half of a part, and reports on the other half what each gains.

    alarms: chooses the best Dice on defective images with at most this share of clean ones raising an alarm; None: the
    best mean Dice over all images, an empty answer to a clean one counting 1. Which half an image is in follows from
    its ImageId. Of the options the report takes the one that scored highest on the half it was chosen on. Other
    arguments as for `report`; raises ValueError where a half is empty.
    """
    ids, which = images_of(trained, data, part)
    first, second = halves(data, ids)
    if not first or not second:
        raise ValueError(f"{which}: too few images to choose an operating point on one half and report on the other")
    sweeps = {False: Sweep(), True: Sweep()}
    for plain, flipped in _pairs(trained, data, first, progress):
        sweeps[False].update(*plain[:2])
        sweeps[True].update(*flipped[:2])
    options = {"as it is": (OperatingPoint(), False), "flips": (OperatingPoint(), True)}
    for name, areas, guards in (("threshold", False, False), ("threshold, smallest defect", True, False),
                                ("threshold, guard", False, True), ("all three", True, True)):  # fmt: skip
        options[name] = (sweeps[False].best(areas=areas, guards=guards, alarms=alarms), False)
    options["all three, flips"] = (sweeps[True].best(alarms=alarms), True)
    labels = labels_of(trained, data)
    scored = {name: Scores(labels, point=point, replicates=replicates) for name, (point, _) in options.items()}
    for each in _pairs(trained, data, second, progress):
        for name, (_, flips) in options.items():
            scored[name].update(*each[flips])
    target = "dice" if alarms is None else "dice_defective"
    taken = max(("all three", "all three, flips"), key=lambda n: sweeps[options[n][1]].at(options[n][0])[target])
    which += f"; the {len(second)} images of its second half, the operating point chosen on the other {len(first)}"
    table = [_option(name, *options[name], scored["as it is"], scored[name], name == taken) for name in options]
    return of(trained, data, which, scored[taken], flips=options[taken][1], options=table)


def images_of(trained: Trained, data: SteelData, part: str | None = None) -> tuple[list[str], str]:
    """The ImageIds of a part of a data set (see `report`), and a line that says which they are. Raises ValueError."""
    about, outputs = trained.about, trained.model.config["out_channels"]
    trained_on, held_out = set(about.get("training", ())), set(about.get("validation", ()))
    if outputs > 1 and outputs != len(data.classes):
        raise ValueError(f"the network has {outputs} classes, {data.name} has {len(data.classes)}: {data.classes}")
    known = about.get("data", {}).get("fingerprint") == data.fingerprint()
    part = part or ("validation" if known else "all")
    if part != "all" and not known:
        raise ValueError("these weights were trained on other data, or its labels have changed: take part 'all'")
    wanted = {"all": set(data.images["ImageId"]), "train": trained_on, "validation": held_out - trained_on}[part]
    ids = [image_id for image_id in data.images["ImageId"] if image_id in wanted]
    which = {"all": "all images", "train": "training images",
             "validation": "held out for validation (the best epoch was chosen on them)"}[part]  # fmt: skip
    if part == "validation" and (leaked := len(held_out & trained_on)):
        which += f", less {leaked} that the network was also trained on"
    if part == "all" and (seen := len(trained_on.intersection(ids))):
        which += f"; {seen} of them have the name of an image that it was trained on"
    return ids, f"{len(ids)} of {len(data)} images: {which}"


def halves(data: SteelData, ids: Iterable[str]) -> tuple[list[str], list[str]]:
    """Two halves of some images, with equal shares of clean ones, by the SHA-256 of their ids: the same everywhere."""
    clean = dict(zip(data.images["ImageId"], data.images["masks"] == 0, strict=True))
    ordered = sorted(ids, key=lambda image_id: (clean[image_id], hashlib.sha256(image_id.encode()).digest()))
    return ordered[::2], ordered[1::2]


def predictions(
    trained: Trained, data: SteelData, ids: list[str], model: torch.nn.Module | None = None, progress: bool = False
) -> Iterator[tuple]:
    """What `Scores.update` takes, for each image: probabilities, masks, label rows, and the centre (see `report`).

    model: stands in the network's place, such as a FlipAveraged; its logits may have more channels.
    """
    model = model or trained.model
    outputs, depth = trained.model.config["out_channels"], trained.model.depth
    cache, items = ImageCache(data, progress=progress), [Item(image_id) for image_id in ids]
    own = trained.about.get("recipe", {}).get("geometry") == "original"
    samples = Samples(data, cache, items, depth, per_class=outputs > 1)
    centres = Samples(data, cache, items, depth, per_class=outputs > 1, geometry="original") if own else None
    for index, image_id in enumerate(tqdm(ids, desc="evaluate", unit="image", disable=not progress)):
        logits, masks = predicted(model, samples, index)
        rows = data.masks(image_id) if outputs == 1 else None
        centre = None
        if centres is not None:
            there = predicted(model, centres, index)
            centre = probabilities_of(there[0]), there[1]
        yield probabilities_of(logits), masks, rows, centre


class _PlainAndFlipped(FlipAveraged):
    """Logits [N, 2K, h, w]: those of the network, then those averaged over flips, which take the first in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        each = self.flipped(x)
        return torch.cat([each[0], each.mean(0)], dim=1)


def _pairs(trained: Trained, data: SteelData, ids: list[str], progress: bool) -> Iterator[tuple[tuple, tuple]]:
    """What `predictions` gives, without and with flips."""
    outputs = trained.model.config["out_channels"]
    for both, masks, rows, centre in predictions(trained, data, ids, _PlainAndFlipped(trained.model), progress):
        yield tuple(
            (both[part], masks, rows, centre and (centre[0][part], centre[1]))
            for part in (slice(None, outputs), slice(outputs, None))
        )


def labels_of(trained: Trained, data: SteelData) -> tuple[str, ...]:
    """Names of the network's masks: each class, or "any"."""
    return tuple(f"class {c}" for c in data.classes) if trained.model.config["out_channels"] > 1 else ("any",)


def of(
    trained: Trained, data: SteelData, which: str, scores: Scores, *, flips: bool = False, options: list | None = None
) -> Report:
    """The report of scores that are there already; `which` says of which images (see `images_of`)."""
    key = Key("Dice", "all", ALL)
    kaggle = "needs a mask for each of Severstal's four classes (train with --per-class)"
    if len(scores.labels) == 4:
        value = scores.values()[key]
        kaggle = f"{value.value:.4f} [{value.low:.4f}–{value.high:.4f}], mean Dice over (image, class), empty = 1"
    point = scores.point
    about = {
        "steelnb": steelnb.__version__,
        "torch": str(torch.__version__),
        "data": {"name": data.name, "fingerprint": data.fingerprint(), "classes": list(data.classes)},
        "recipe": trained.about.get("recipe", {}),
        "part": which,
        "images": scores.images,
        "clean": scores.clean,
        "threshold": point.threshold,
        "minimum_area": point.minimum_area,
        "guard": point.guard,
        "operating_point": str(point),
        "flips": flips,
        "batch": scores.batch,
        "interval": LEVEL,
        "replicates": scores.replicates,
        "kaggle": kaggle,
    }
    return Report(about, scores, options or [])


def _option(name: str, point: OperatingPoint, flips: bool, before: Scores, after: Scores, taken: bool) -> dict:
    label = "all" if len(after.labels) > 1 else after.labels[0]
    keys = {"dice_empty_is_one": Key("Dice", label, ALL), "dice": Key("Dice", label, DEFECTIVE),
            "alarms": Key("clean images with an alarm", label)}  # fmt: skip
    return {
        "option": name, "operating_point": str(point), "flips": flips, "taken": taken,
        **{name: after.value(key) for name, key in keys.items()},
        "gain": before.gain(after, keys["dice_empty_is_one"])._asdict(),
    }  # fmt: skip


def _overlap_table(values: dict[Key, Value], label: str, batch: int, titled: bool) -> list[str]:
    columns = [(area, kind) for area in (WHOLE, CENTRE) for kind in (HARD, SOFT)]
    name = {BATCHES: f"batches of {batch}, one with a defect"}
    lines = [f"{label if titled else '':<36}" + "".join(f"{f'{a}, {k}':<24}" for a, k in columns).rstrip()]
    for score in ("Dice", "IoU"):
        for over in OVER:
            row = [values.get(Key(score, label, over, *column)) for column in columns]
            if any(row):
                lines.append(f"{f'{score}, {name.get(over, over)}':<36}" + "".join(f"{_text(v):<24}" for v in row))
    lines += [
        f"{key.score:<36}{_text(value):<24}" + (f"of {value.n}" if key.score[:5] in ("clean", "defec") else "")
        for key, value in values.items() if key.label == label and not key.over
    ]  # fmt: skip
    return [line.rstrip() for line in lines]


def _options_table(options: list[dict]) -> list[str]:
    lines = [f"{'option':<30}{'Dice, empty = 1':<17}{'gain':<26}{'Dice, defective':<17}{'alarms':<9}operating point"]
    for each in options:
        gain = Value(**each["gain"])
        gained = "" if each["option"] == "as it is" else f"{gain.value:+.3f} [{gain.low:+.3f} … {gain.high:+.3f}]"
        lines.append(
            f"{each['option'] + ' ←' * each['taken']:<30}{each['dice_empty_is_one']:<17.3f}{gained:<26}"
            f"{each['dice']:<17.3f}{each['alarms']:<9.0%}{each['operating_point']}"
        )
    return [*lines, "← taken: the highest on the half it was chosen on"]


def _text(value: Value | None) -> str:
    if value is None or value.value != value.value:
        return "–"
    return f"{value.value:.3f} [{value.low:.3f}–{value.high:.3f}]" if value.low == value.low else f"{value.value:.3f}"
