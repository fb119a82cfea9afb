"""Runs a network over labelled images; yields probabilities and masks.  Taught in 10_results."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from tqdm.auto import tqdm

from steelnb.data.dataset import SteelData
from steelnb.network.inference import FlipAveraged, predict_original, predict_probabilities, probability
from steelnb.network.tiles import original_crop
from steelnb.network.weights import Trained, check_answer

PARTS = ("validation", "train", "all")


def images_of(trained: Trained, data: SteelData, part: str | None = None) -> tuple[list[str], str]:
    """The ImageIds of a part of a data set (see `report.evaluate`), and a line that describes it. Raises ValueError."""
    about, outputs = trained.metadata, trained.model.config["out_channels"]
    trained_on, held_out = set(about.get("training", ())), set(about.get("validation", ()))
    if outputs > 1 and outputs != len(data.classes):
        raise ValueError(f"the network has {outputs} classes, {data.name} has {len(data.classes)}: {data.classes}")
    known = about.get("data", {}).get("fingerprint") == data.fingerprint()
    part = part or ("validation" if known else "all")
    if part not in PARTS:
        raise ValueError(f"part is {part!r}; it must be one of {', '.join(PARTS)}")
    if part != "all" and not known:
        raise ValueError("these weights were trained on other data, or the labels have changed: use part 'all'")
    wanted = {"all": set(data.images["ImageId"]), "train": trained_on, "validation": held_out - trained_on}[part]
    ids = [image_id for image_id in data.images["ImageId"] if image_id in wanted]
    which = {"all": "all images", "train": "training images",
             "validation": "held out for validation (the best epoch was chosen on them)"}[part]
    if part == "validation" and (leaked := len(held_out & trained_on)):
        which += f", without {leaked} that the network was also trained on"
    if part == "all" and (seen := len(trained_on.intersection(ids))):
        which += f"; {seen} of them have the name of a training image"
    return ids, f"{len(ids)} of {len(data)} images: {which}"


def with_classes_of(trained: Trained, data: SteelData) -> SteelData:
    """The data with the classes of a network with one mask per class: a folder may lack images of some class."""
    outputs = trained.model.config["out_channels"]
    classes = tuple(trained.metadata.get("data", {}).get("classes", ())) or tuple(range(1, outputs + 1))
    shown = set(data.rows["ClassId"])
    return replace(data, classes=classes) if len(classes) == outputs > 1 and shown <= {*classes} else data


def halves(data: SteelData, ids: Iterable[str]) -> tuple[list[str], list[str]]:
    """Two halves of the images, with equal shares of clean ones, by SHA-256 of the ids: the same on every machine."""
    clean = dict(zip(data.images["ImageId"], data.images["masks"] == 0, strict=True))
    ordered = sorted(ids, key=lambda image_id: (clean[image_id], hashlib.sha256(image_id.encode()).digest()))
    return ordered[::2], ordered[1::2]


def in_own_geometry(trained: Trained) -> bool:
    """Whether the network was trained in the original's geometry and so predicts only the centre there."""
    return trained.metadata.get("recipe", {}).get("geometry") == "original"


def iter_predictions(
    trained: Trained, data: SteelData, ids: list[str], model: torch.nn.Module | None = None, progress: bool = False
) -> Iterator[tuple]:
    """Arguments of `Scores.update` for each image: probabilities, masks, label rows, centre (see `report.evaluate`).

    model: replaces the network, for example a FlipAveraged; its logits may have more channels.
    """
    model = model or trained.model
    outputs, centre = trained.model.config["out_channels"], None
    for image_id in tqdm(ids, desc="evaluate", unit="image", disable=not progress):
        image, rows = data.image(image_id), data.masks(image_id)
        masks = rows if outputs > 1 else rows.any(0, keepdims=True)
        if in_own_geometry(trained):
            logits = predict_original(model, image)
            check_answer(logits)
            centre = probability(logits), original_crop(masks, trained.model.depth)
        yield predict_probabilities(model, image), masks, rows if outputs == 1 else None, centre


class _PlainAndFlipped(FlipAveraged):
    """Logits [N, 2K, h, w]: those of the network, then the averages over the four flips."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        each = self.flipped(x)
        return torch.cat([each[0], each.mean(0)], dim=1)


def with_and_without_flips(
    trained: Trained, data: SteelData, ids: list[str], progress: bool
) -> Iterator[tuple[tuple, tuple]]:
    """As `iter_predictions`, but yields pairs: without and with averaging over flips, in one pass."""
    outputs = trained.model.config["out_channels"]
    for both, masks, rows, centre in iter_predictions(trained, data, ids, _PlainAndFlipped(trained.model), progress):
        yield tuple(
            (both[part], masks, rows, centre and (centre[0][part], centre[1]))
            for part in (slice(None, outputs), slice(outputs, None))
        )


def labels_of(trained: Trained, data: SteelData) -> tuple[str, ...]:
    """Names of the network's masks: each class, or "any"."""
    return tuple(map(data.class_name, data.classes)) if trained.model.config["out_channels"] > 1 else ("any",)
