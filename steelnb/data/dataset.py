"""Reads a data set of steel images and defect masks, and refuses invalid labels.

`SteelData` is the result, whatever the format: Severstal's layout is read by `severstal`, others (mask files in several
layouts, COCO, LabelMe, CVAT and YOLO) are recognised by `layouts`.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from steelnb.data import digests, layouts, mask_folders, rle, severstal
from steelnb.data import labels as label_tables
from steelnb.data.images import SYNTHETIC_MARK, DataError, gray, names, size_text
from steelnb.data.label_checks import doubts
from steelnb.data.labelled import Labelled, Options
from steelnb.data.labels import LABEL_COLUMNS, SEVERSTAL_CLASSES
from steelnb.data.tree import walk


@dataclass(frozen=True, eq=False)
class SteelData:
    """Images of steel with their masks, checked; pixels are read on demand.

    `images`: one row per image, sorted by ImageId: ImageId, path, format (of the content: JPEG, PNG, …), height, width
    (pixels), classes (tuple of the ids present; empty: clean), masks (number of label rows).
    `rows`: one row per mask that is not empty, in the file's order: ImageId, ClassId (int), EncodedPixels (run-length
    text), area (pixels).
    `groups`: ImageId → group of images that a split keeps together, or None; see `with_groups`.
    `class_names`: of `classes`, in the same order; empty if the set names none.
    `parts`: ImageId → "train", "validation" or "test", if the set comes with its own split, or None.
    """

    name: str
    folder: Path
    images: pd.DataFrame
    rows: pd.DataFrame
    classes: tuple[int, ...]
    layout: str = ""
    notes: tuple[str, ...] = ()
    groups: Mapping[str, str] | None = None
    class_names: tuple[str, ...] = ()
    parts: Mapping[str, str] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getstate__(self) -> dict:
        """Without cached values, which a data loader's worker computes itself."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def _by_id(self) -> dict:
        return {i.ImageId: i for i in self.images.itertuples(index=False)}

    @cached_property
    def _labels(self) -> dict[str, list[tuple[int, str]]]:
        labels: dict[str, list[tuple[int, str]]] = {}
        for image_id, class_id, text in zip(*(self.rows[c] for c in LABEL_COLUMNS), strict=True):
            labels.setdefault(image_id, []).append((int(class_id), text))
        return labels

    def _entry(self, image_id: str):
        if image_id not in self._by_id:
            raise DataError(f"no image {image_id!r} in {self.name} ({len(self)} images in {self.folder})")
        return self._by_id[image_id]

    def image(self, image_id: str) -> np.ndarray:
        """The image as gray values, uint8 [H, W], 0.299 R + 0.587 G + 0.114 B.

        Raises DataError for an unknown id, and for a file that cannot be decoded or whose size has changed.
        """
        entry = self._entry(image_id)
        image = gray(entry.path)
        if image.shape != (entry.height, entry.width):
            raise DataError(f"{entry.path}: now {size_text(*image.shape)}, was {size_text(entry.height, entry.width)} "
                            "when the data set was read; read it again")
        return image

    def masks(self, image_id: str) -> np.ndarray:
        """The masks of all classes, bool [K, H, W], in the order of `self.classes`. Raises DataError: unknown id."""
        entry = self._entry(image_id)
        masks = np.zeros((len(self.classes), entry.height, entry.width), bool)
        for class_id, text in self._labels.get(image_id, ()):
            masks[self.classes.index(class_id)] = rle.decode(text, (entry.height, entry.width), image_id)
        return masks

    def mask(self, image_id: str) -> np.ndarray:
        """The union of the masks of all classes, bool [H, W]. Raises DataError for an unknown id."""
        entry = self._entry(image_id)
        mask = np.zeros((entry.height, entry.width), bool)
        for _, text in self._labels.get(image_id, ()):
            mask |= rle.decode(text, mask.shape, image_id)
        return mask

    @property
    def is_severstal(self) -> bool:
        """Whether this is Severstal's table with its four classes, to which the original's split by row applies."""
        return self.layout.startswith("train.csv") and self.classes == SEVERSTAL_CLASSES and not self.class_names

    def class_name(self, class_id: int) -> str:
        """The name of a class, or "class 3" if it has none."""
        return self.class_names[self.classes.index(class_id)] if self.class_names else f"class {class_id}"

    def subset(self, image_ids: Iterable[str]) -> "SteelData":
        """The data set with only these images and the same classes. Raises DataError for an unknown id."""
        ids = {self._entry(i).ImageId for i in image_ids}
        images, rows = (t[t["ImageId"].isin(ids)].reset_index(drop=True) for t in (self.images, self.rows))
        groups, parts = (None if known is None else {i: known[i] for i in images["ImageId"]}
                         for known in (self.groups, self.parts))
        return replace(self, images=images, rows=rows, groups=groups, parts=parts)

    def with_groups(self, groups: Mapping[str, str] | str | Path) -> "SteelData":
        """The same data with groups, whose images stay on one side of a split by image.

        groups: ImageId → group, or a CSV with columns ImageId,group, as written by `python -m steelnb audit`. The
        original's split by row cannot keep groups together, and refuses data with groups. Raises DataError for an image
        without a group and for an unknown image.
        """
        where, given = "groups", groups
        if not isinstance(groups, Mapping):
            where, given = str(groups), label_tables.read_groups(Path(groups))
        ids = self.images["ImageId"].tolist()
        for wrong, problem in (
            (sorted(set(ids) - given.keys()), "images without a group; assign one (if alone: its own ImageId)"),
            (sorted(given.keys() - set(ids)), f"unknown images, not in {self.name}; remove them"),
            ([i for i in ids if not str(given.get(i, "x")).strip()], "images whose group has no name; add one"),
        ):
            if wrong:
                raise DataError(f"{where}: {len(wrong)} {problem}: {names(wrong)}")
        return replace(self, groups={i: str(given[i]) for i in ids})

    def fingerprint(self) -> str:
        """SHA-256, hex, of ids, sizes and labels in their order: equal for equal data in any folder."""
        digest = hashlib.sha256()
        for table, columns in ((self.images, ("ImageId", "height", "width")), (self.rows, LABEL_COLUMNS)):
            for row in zip(*(table[c] for c in columns), strict=True):
                digest.update("\t".join(map(str, row)).encode() + b"\n")
            digest.update(b"\n")
        return digest.hexdigest()

    def describe(self) -> str:
        """The data set as text: counts, sizes, classes, formats, notes. Folders by name, without their full path."""
        images = self.images
        share = self.rows["area"].sum() / max((images["height"] * images["width"]).sum(), 1)
        clean = int((images["masks"] == 0).sum())
        sizes = Counter(map(size_text, images["height"], images["width"])).most_common()
        shown = sizes[0][0] if len(sizes) == 1 else f"{len(sizes)} sizes, {names(f'{n} of {s}' for s, n in sizes)}"
        titles = [f"{c} {self.class_name(c)}" if self.class_names else str(c) for c in self.classes]
        per_class = ", ".join(f"{title}: {sum(c in found for found in images['classes'])}"
                              for title, c in zip(titles, self.classes, strict=True))
        formats = ", ".join(f"{n} {f}" for f, n in sorted(Counter(images["format"]).items()))
        posing = sum(f == "PNG" and str(p).lower().endswith((".jpg", ".jpeg"))
                     for f, p in zip(images["format"], images["path"], strict=True))
        return "\n  ".join([
            f"{self.name}: {len(self)} images ({shown}), {clean} clean, {len(self) - clean} with defects",
            f"images with class {per_class}; {len(self.rows)} masks, {share:.2%} of all pixels",
            f"files: {formats}" + (f" ({posing} PNG under a .jpg name)" if posing else ""),
            f"folder {self.folder.name!r}: {self.layout}",
            *self.notes,
        ])


def read_dataset(
    folder: str | Path, *, masks: str | Path | None = None, format: str | None = None, skip_missing: bool = False,
    mask_threshold: int | None = None, nested: str | None = None, progress: bool = False,
) -> SteelData:
    """Recognises the layout of `folder`, reads and checks labels and image headers.

    masks: a mask folder elsewhere; the images are then in `folder`/images, or in `folder` itself.
    format: one of `layouts.FORMATS`, for a folder with several kinds of labels.
    skip_missing: leave out labels without an image and images without a label, and note them in `describe()`; by
        default they are an error, like everything else that could become a wrong mask.
    mask_threshold: for gray mask files, the value above which a pixel is defect, 0 … 254. nested: meaning of a polygon
        inside another one of the same label, "filled" or "hole". Neither is guessed: if it is needed, DataError says
        so.
    Whether an image can be decoded completely shows only when `SteelData.image` reads it. If the folder has a
    SHA256SUMS, its files are compared with it first, see `digests`. Raises DataError.
    """
    if format not in (None, *layouts.FORMATS):
        raise ValueError(f"format is {format!r}; it can be {', '.join(layouts.FORMATS)}")
    if nested not in (None, "filled", "hole"):
        raise ValueError(f"nested is {nested!r}; it can be filled or hole")
    if mask_threshold is not None and not 0 <= mask_threshold <= 254:
        raise ValueError(f"mask_threshold is {mask_threshold!r}; it can be 0 to 254")
    folder = Path(folder).expanduser().absolute()
    if not folder.is_dir():
        problem = "is a file; unpack it first, and give the folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {problem}")
    masks = None if masks is None else Path(masks).expanduser().absolute()
    vouched = digests.check_data(folder, masks, skip_missing, progress)
    found = _read(folder, masks, format, Options(skip_missing, mask_threshold, nested, progress))
    return replace(found, notes=(*vouched, *found.notes))


def _read(folder: Path, masks: Path | None, format: str | None, options: Options) -> SteelData:
    if masks is not None:
        pair = folder / "images" if (folder / "images").is_dir() else folder, masks
        return _assembled(mask_folders.read_folders(walk(folder), [pair], options)._replace(folder=folder))
    if format in (None, "severstal") and (root := severstal.find(folder, alone=format is None)):
        return _assembled(severstal.read(root, options))
    return _assembled(layouts.recognise(folder, format)(options))


def _assembled(found: Labelled) -> SteelData:
    """The data set, with the classes present and the number of masks of each image."""
    rows = pd.DataFrame(found.rows, columns=[*LABEL_COLUMNS, "area"]).astype({"ClassId": int, "area": int})
    shown = rows.groupby("ImageId")["ClassId"].agg(lambda ids: tuple(sorted(int(i) for i in ids))).to_dict()
    present = [shown.get(i, ()) for i in found.images["ImageId"]]
    images = found.images.assign(classes=pd.Series(present, dtype=object), masks=[len(p) for p in present])
    name = "synthetic steel" if (found.folder / SYNTHETIC_MARK).exists() else found.folder.name
    return SteelData(name, found.folder, images, rows, found.classes, found.layout,
                     (*found.notes, *doubts(images, rows)), class_names=found.class_names, parts=found.parts)
