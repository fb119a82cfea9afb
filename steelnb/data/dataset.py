"""Read a data set of steel images and defect masks, and refuse what cannot be right.  Taught in 01_data_exploration.

Two layouts, told apart by what lies in the folder, or in a folder one level down:

- **Severstal**: ``train.csv`` beside ``train_images/``. Columns ``ImageId,ClassId,EncodedPixels`` (now: an image
  without a row is clean) or ``ImageId_ClassId,EncodedPixels`` (2019: an image is clean when all its rows are empty).
- **Image and mask folder**: ``images/`` beside ``masks/``, a mask having its image's stem (``a.bmp`` and ``a.png``).
  Mask values {0, 255} or {0, 1} are one class, other values up to 32 are class ids, anything else is refused.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from steelnb.data import labels as label_tables
from steelnb.data import rle
from steelnb.data.images import (
    SYNTHETIC_MARK,
    DataError,
    by_stem,
    gray,
    headers,
    image_files,
    left_out,
    mask_and_colours,
    names,
    nfc,
    size_text,
)
from steelnb.data.label_checks import doubts, look_alikes, pieces, refuse_row_major, same_colours
from steelnb.data.labels import LABEL_COLUMNS, SEVERSTAL_CLASSES


@dataclass(frozen=True, eq=False)
class SteelData:
    """Images of steel with their masks, checked; pixels are read when asked for.  Taught in 01_data_exploration.

    `images`: one row an image, sorted by ImageId: ImageId, path, format (of the content: JPEG, PNG, …), height, width
    (pixels), classes (tuple of the ids present; empty: clean), masks (how many rows it has).
    `rows`: one row a mask that is not empty, in the file's order: ImageId, ClassId (int), EncodedPixels (run-length
    text), area (pixels).
    `groups`: ImageId → group of images that a split keeps together, or None; see `with_groups`.
    """

    name: str
    folder: Path
    images: pd.DataFrame
    rows: pd.DataFrame
    classes: tuple[int, ...]
    layout: str = ""
    notes: tuple[str, ...] = ()
    groups: Mapping[str, str] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getstate__(self) -> dict:
        """Without what is cached: a worker of a loader looks it up for itself."""
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

        Raises DataError for an unknown id and for a file that does not decode or has changed its size since.
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

    def subset(self, image_ids: Iterable[str]) -> "SteelData":
        """The data set of these images only, same classes. Raises DataError for an unknown id."""
        ids = {self._entry(i).ImageId for i in image_ids}
        images, rows = (t[t["ImageId"].isin(ids)].reset_index(drop=True) for t in (self.images, self.rows))
        groups = None if self.groups is None else {i: self.groups[i] for i in images["ImageId"]}
        return replace(self, images=images, rows=rows, groups=groups)

    def with_groups(self, groups: Mapping[str, str] | str | Path) -> "SteelData":
        """The same data, whose images of one group stay on one side of a split by image.

        groups: ImageId → group, or a CSV of the columns ImageId,group, as `python -m steelnb audit` writes it. The
        original's split by row knows no groups, and refuses data that have some. Raises DataError for an image without
        a group and for an unknown one.
        """
        where, given = "groups", groups
        if not isinstance(groups, Mapping):
            where, given = str(groups), label_tables.read_groups(Path(groups))
        ids = self.images["ImageId"].tolist()
        for wrong, problem in (
            (sorted(set(ids) - given.keys()), "images without a group; give each one (alone: its own ImageId)"),
            (sorted(given.keys() - set(ids)), f"unknown images, not in {self.name}; remove them"),
            ([i for i in ids if not str(given.get(i, "x")).strip()], "images whose group has no name; write one"),
        ):
            if wrong:
                raise DataError(f"{where}: {len(wrong)} {problem}: {names(wrong)}")
        return replace(self, groups={i: str(given[i]) for i in ids})

    def fingerprint(self) -> str:
        """SHA-256, hex, of ids, sizes and labels in their order: equal for equal data wherever the folder lies."""
        digest = hashlib.sha256()
        for table, columns in ((self.images, ("ImageId", "height", "width")), (self.rows, LABEL_COLUMNS)):
            for row in zip(*(table[c] for c in columns), strict=True):
                digest.update("\t".join(map(str, row)).encode() + b"\n")
            digest.update(b"\n")
        return digest.hexdigest()

    def describe(self) -> str:
        """What was found, for people: counts, sizes, classes, formats, notes. Folders by name, never by full path."""
        images = self.images
        share = self.rows["area"].sum() / max((images["height"] * images["width"]).sum(), 1)
        clean = int((images["masks"] == 0).sum())
        sizes = Counter(map(size_text, images["height"], images["width"])).most_common()
        shown = sizes[0][0] if len(sizes) == 1 else f"{len(sizes)} sizes, {names(f'{n} of {s}' for s, n in sizes)}"
        per_class = ", ".join(f"{c} in {sum(c in found for found in images['classes'])}" for c in self.classes)
        formats = ", ".join(f"{n} {f}" for f, n in sorted(Counter(images["format"]).items()))
        posing = sum(f == "PNG" and str(p).lower().endswith((".jpg", ".jpeg"))
                     for f, p in zip(images["format"], images["path"], strict=True))
        return "\n  ".join([
            f"{self.name}: {len(self)} images ({shown}), {clean} clean, {len(self) - clean} with defects",
            f"classes: {per_class} images; {len(self.rows)} masks, {share:.2%} of all pixels",
            f"files: {formats}" + (f" ({posing} PNG under a .jpg name)" if posing else ""),
            f"folder {self.folder.name!r}: {self.layout}",
            *self.notes,
        ])


def read_dataset(folder: str | Path, *, masks: str | Path | None = None, skip_missing: bool = False,
         progress: bool = False) -> SteelData:
    """Tell the layout of `folder`, read its labels and image headers, and check them.  Taught in 01_data_exploration.

    `masks` names a mask folder elsewhere; the images are then in `folder`/images, or in `folder` itself.
    `skip_missing` leaves out what has no counterpart (a label without image, an image without label) and says so in
    `describe()`; otherwise that is an error, as is everything else that could become a wrong mask. Whether an image
    decodes to its end shows only when `SteelData.image` reads it. Raises DataError.
    """
    folder = Path(folder).expanduser().absolute()
    if not folder.is_dir():
        problem = "is a file; unpack it first, and name the folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {problem}")
    if masks is not None:
        images = folder / "images" if (folder / "images").is_dir() else folder
        return _read_pairs(folder, images, Path(masks).expanduser().absolute(), skip_missing, progress)
    inside = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    for roots in ([folder], [p for p in inside if p.is_dir()]):
        severstal = [r for r in roots if (r / "train.csv").is_file() and (r / "train_images").is_dir()]
        pairs = [r for r in roots if (r / "images").is_dir() and (r / "masks").is_dir() and r not in severstal]
        if len(severstal + pairs) > 1:
            raise DataError(f"{folder}: several data sets, {names(r.name for r in severstal + pairs)}; name one")
        if severstal:
            return _read_severstal(severstal[0], skip_missing, progress)
        if pairs:
            return _read_pairs(pairs[0], pairs[0] / "images", pairs[0] / "masks", skip_missing, progress)
    found = names((p.name + "/" * p.is_dir() for p in inside), 8) or "nothing"
    raise DataError(f"{folder}: no data set. Looked for train.csv beside train_images/ (Severstal), or images/ beside "
                    f"masks/, here and one level down; found {found}")


def _read_severstal(folder: Path, skip_missing: bool, progress: bool) -> SteelData:
    csv, notes = folder / "train.csv", left_out(folder / "train_images")
    table, form = label_tables.labels(csv)
    paths: dict[str, Path] = {}
    for path in image_files(folder / "train_images"):
        if paths.setdefault(nfc(path.name), path) != path:
            raise DataError(f"{path}: two files of this name, in two Unicode forms; remove one")
    absent = table[~table["ImageId"].isin(paths)]
    if alike := look_alikes(absent["ImageId"], sorted(paths.keys() - set(table["ImageId"]))):
        # Left out, the row would leave its image without one, as clean images are.
        raise DataError(f"{csv}, line {absent['line'].iloc[0]}: {len(alike)} images listed under another name than in "
                        f"train_images/, {names(alike)}; rename the files, or correct the rows")
    if len(absent):
        what = f"{absent['ImageId'].nunique()} images listed but absent from train_images/, {names(absent['ImageId'])}"
        if not skip_missing:
            raise DataError(f"{csv}, line {absent['line'].iloc[0]}: {what}. Fetch them, or leave their rows out with "
                            "skip_missing=True (--skip-missing)")
        notes.append(f"left out: {what}")
        table = table[table["ImageId"].isin(paths)]
    if form == "2019" and (unlisted := sorted(set(paths) - set(table["ImageId"]))):
        what = f"{len(unlisted)} images without a row in train.csv, {names(unlisted)}"
        if not skip_missing:
            raise DataError(f"{folder / 'train_images'}: {what}: in the 2019 form clean images have rows too. Complete "
                            "the file, or leave these images out with skip_missing=True "
                            "(--skip-missing)")
        notes.append(f"left out: {what}")
        paths = {name: path for name, path in paths.items() if name not in {*unlisted}}
    images = headers(paths, progress)
    rows = table[table["EncodedPixels"] != ""].merge(images[["ImageId", "height", "width"]], on="ImageId", how="left")
    sizes = Counter(zip(rows["height"], rows["width"], strict=True)).most_common()
    areas, counts = [], []
    for row in rows.itertuples():
        where = f"{csv}, line {row.line}, image {row.ImageId}"
        if (row.height, row.width) != sizes[0][0]:
            # A label counts the pixels of the image it was drawn on: on a resized one it would be another mask.
            raise DataError(f"{where}: the image is {size_text(row.height, row.width)}, the others "
                            f"{size_text(*sizes[0][0])}. Restore its size, or use images/ and masks/ for images "
                            "of several sizes")
        try:
            runs = rle.runs(row.EncodedPixels, row.height * row.width, where)
        except rle.RLEError as error:
            raise DataError(f"{error}. The image is {size_text(row.height, row.width)}") from error
        areas.append(int(runs[1].sum()))
        counts.append((pieces(*runs, row.height), pieces(*runs, row.width)))
    refuse_row_major(csv, counts)
    rows = rows[list(LABEL_COLUMNS)].assign(ClassId=rows["ClassId"].astype(int), area=np.array(areas, int))
    layout = f"train.csv ({','.join(label_tables.FORMS[form])}) beside train_images/"
    name = "synthetic steel" if (folder / SYNTHETIC_MARK).exists() else "severstal"
    return _assemble(name, folder, images, rows, SEVERSTAL_CLASSES, layout, notes)


def _read_pairs(folder: Path, images: Path, masks: Path, skip_missing: bool, progress: bool) -> SteelData:
    pictures, labels, notes = by_stem(images), by_stem(masks), left_out(images, masks)
    sides = ((pictures, labels, "images without a mask"), (labels, pictures, "masks without an image"))
    for these, others, what in sides:
        if lone := sorted(these[stem].name for stem in these.keys() - others.keys()):
            if alike := look_alikes(lone, (others[stem].name for stem in others.keys() - these.keys())):
                raise DataError(f"{folder}: {len(alike)} {what} of the same stem, but of one that differs in case: "
                                f"{names(alike)}; rename one of the two")
            if not skip_missing:
                raise DataError(f"{folder}: {len(lone)} {what} of the same stem, {names(lone)}. Add what is missing "
                                "(a clean image has an all-zero mask), or leave them out with skip_missing=True "
                                "(--skip-missing)")
            notes.append(f"left out: {len(lone)} {what}, {names(lone)}")
    stem_of = {nfc(pictures[stem].name): stem for stem in pictures.keys() & labels.keys()}
    entries = headers({image_id: pictures[stem] for image_id, stem in stem_of.items()}, progress)
    rows, first, palettes = [], {}, {}  # first: the first file in which a value was met
    for entry in tqdm(entries.itertuples(), "masks", len(entries), unit="file", disable=not progress):
        path = labels[stem_of[entry.ImageId]]
        values, colours = mask_and_colours(path)
        same_colours(palettes, path, colours)
        if values.shape != (entry.height, entry.width):
            raise DataError(f"{path}: the mask is {size_text(*values.shape)}, its image {entry.ImageId} is "
                            f"{size_text(entry.height, entry.width)}; export it at the image's size")
        for value in np.flatnonzero(np.bincount(values.ravel())).tolist():
            first.setdefault(value, path)
            if value:
                defect = values == value
                rows.append((entry.ImageId, 1 if value == 255 else value, rle.encode(defect), int(defect.sum())))
    last = max((v for v in first if v != 255), default=0)  # the largest class id
    if 255 in first and last > 1:
        raise DataError(f"{first[255]} holds 0 and 255, {first[last]} class id {last}: two meanings in one folder; "
                        "write class ids in every mask")
    if 0 not in first and last > 1:
        raise DataError(f"{masks}: no mask has a pixel of background (0), their values are {names(sorted(first))}; "
                        "if one of them is the background, write 0 for it")
    table = pd.DataFrame(rows, columns=[*LABEL_COLUMNS, "area"])
    meaning = "0/255" if 255 in first else "0/1" if last < 2 else "of class ids"
    return _assemble("image and mask folder", folder, entries, table, tuple(range(1, max(last, 1) + 1)),
                     f"{images.name}/ beside {masks.name}/, masks {meaning}", notes)


def _assemble(name, folder, images, rows, classes, layout, notes) -> SteelData:
    """Note for each image which classes it shows and how many masks it has."""
    found = rows.groupby("ImageId")["ClassId"].agg(lambda ids: tuple(sorted(int(i) for i in ids))).to_dict()
    present = [found.get(i, ()) for i in images["ImageId"]]
    images = images.assign(classes=pd.Series(present, dtype=object), masks=[len(p) for p in present])
    return SteelData(name, folder, images, rows, classes, layout, (*notes, *doubts(images, rows)))


