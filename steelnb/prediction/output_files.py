"""Writes and re-reads the output files of one image or strip."""

import io
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from steelnb import storage
from steelnb.data import rle
from steelnb.data.images import SUFFIXES, DataError, gray, mask_values, open_image, size_text
from steelnb.evaluation.operating_point import OperatingPoint
from steelnb.figures.plots import overlay
from steelnb.network.inference import predict_probabilities
from steelnb.network.weights import Trained, digest_of
from steelnb.prediction import strip_masks, strips
from steelnb.prediction.strip_masks import PLAIN
from steelnb.prediction.strips import Strip

Mask = np.ndarray | Strip
LONGEST_NAME = 255  # bytes, in every common file system


@dataclass(frozen=True)
class OutputWriter:
    """Writes output files into the folder `out`; see `files.predict_files` for the settings."""

    trained: Trained
    out: Path
    tile: int | tuple[int, int] | None = None
    point: OperatingPoint = PLAIN
    flips: bool = False
    probabilities: bool = False
    raw: tuple[int, int] | None = None
    progress: bool = False

    @property
    def classes(self) -> Sequence[int | None]:
        """The class id of each output; (None,) for a network with one mask for all defects."""
        outputs = self.trained.model.config["out_channels"]
        if outputs == 1:
            return (None,)
        classes = tuple(self.trained.metadata.get("data", {}).get("classes", ()))
        return classes if len(classes) == outputs else tuple(range(1, outputs + 1))

    @property
    def prefix(self) -> tuple[str, ...]:
        """The column of the class, if there are several classes."""
        return ("ClassId",) * (len(self.classes) > 1)

    def settings(self) -> dict:
        """The settings that masks depend on, for JSON: digest of the weights, margin of tiles, classes, operating
        point, flips."""
        model = self.trained.model
        network = {"weights": digest_of(model.state_dict()), "margin": model.grid.margin}
        return network | {"classes": list(self.classes), **asdict(self.point), "flips": self.flips}

    def is_strip(self, path: Path) -> bool:
        """Whether the file is read as a strip."""
        return strips.is_strip(path, self.raw, SUFFIXES)

    def targets(self, path: Path, strip: bool) -> list[Path]:
        """The output files of `path`: masks by class, probabilities by class if requested, then the others.

        Raises DataError if their names would be too long.
        """
        kind = ".npy" if strip else ".png"
        each = [f"_class{class_id}" if self.prefix else "" for class_id in self.classes]
        ends = [f"{part}_mask{kind}" for part in each]
        ends += [f"{part}_probability{kind}" for part in each if self.probabilities]
        ends += ["_defects.csv", "_overview.png"] if strip else ["_overlay.png"]
        if (longest := max(len(os.fsencode(path.stem + end)) for end in ends)) > LONGEST_NAME:
            raise DataError(f"{path}: its name is too long: its output files would have names of {longest} bytes, the "
                            f"limit is {LONGEST_NAME}; rename it")
        return [self.out / f"{path.stem}{end}" for end in ends]

    def make(self, path: Path, strip: bool) -> Sequence[Mask]:
        """Segments the file, writes its targets, and returns the masks, bool [H, W], by class.

        Raises DataError if the file cannot be read, storage.StorageError if targets cannot be written.
        """
        targets, count = self.targets(path, strip), len(self.classes)
        if strip:
            strip_masks.segment_strip(
                self.trained, strips.open_strip(path, self.raw), targets[:count], *targets[-2:], classes=self.classes,
                maps=targets[count:-2], tile=self.tile, point=self.point, flips=self.flips, progress=self.progress,
            )
            return [strips.open_mask(target) for target in targets[:count]]
        image = _gray(path)
        p = predict_probabilities(self.trained.model, image, self.tile, self.flips)
        masks = self.point.masks(p)
        pictures = [mask.astype(np.uint8) * 255 for mask in masks]
        if self.probabilities:
            pictures += [np.rint(255 * one).astype(np.uint8) for one in p]
        for target, picture in zip(targets, [*pictures, overlay(image, masks)], strict=True):
            content = io.BytesIO()
            Image.fromarray(picture).save(content, format="PNG")
            storage.write_file(target, content.getvalue())
        return masks

    def read(self, path: Path, strip: bool) -> Sequence[Mask]:
        """The existing masks of the file. Raises DataError if their size is not that of the image."""
        masks = self.read_masks(path, strip)
        if strip:
            shape = strips.open_strip(path, self.raw).shape
        else:
            with open_image(path) as picture:
                shape = picture.height, picture.width
        for target, mask in zip(self.targets(path, strip), masks, strict=False):
            if tuple(mask.shape) != tuple(shape):
                raise DataError(f"{target}: {size_text(*mask.shape)}, but {path} is {size_text(*shape)}: is it the "
                                "mask of another image? Remove it, or choose another folder")
        return masks

    def read_masks(self, path: Path, strip: bool) -> Sequence[Mask]:
        """The existing masks of a file of this name, without a look at the file."""
        targets = self.targets(path, strip)[: len(self.classes)]
        return [strips.open_mask(target) if strip else mask_values(target) > 0 for target in targets]


def mask_run_lengths(mask: Mask):
    """A mask's run-length text, in pieces."""
    return strips.run_lengths(mask) if isinstance(mask, Strip) else [rle.encode(mask)]


def share(masks: Sequence[Mask]) -> float:
    """Share of pixels that are defect in at least one mask."""
    if not isinstance(masks[0], Strip):
        return float(np.any(masks, axis=0).mean())
    length, across = max(masks[0].shape), min(masks[0].shape)
    step, count = max(1, strips.READ_BYTES // across), 0
    for start in range(0, length, step):
        count += np.count_nonzero(np.any([mask.along(start, start + step) for mask in masks], axis=0))
    return int(count) / (length * across)


def _gray(path: Path) -> np.ndarray:
    if path.is_dir():
        raise DataError(f"{path}: a folder, not an image")
    try:
        return gray(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
