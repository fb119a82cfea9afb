"""A trained network → masks of image files and strips, as files."""

import contextlib
import csv
import glob
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from tqdm.auto import tqdm

from steelnb import storage
from steelnb.data import digests
from steelnb.data.images import SUFFIXES, SUMS, DataError, image_files, names, open_image
from steelnb.evaluation.operating_point import OperatingPoint
from steelnb.network import inference
from steelnb.network.weights import Trained
from steelnb.prediction import output_files, output_folder, strips, submission
from steelnb.prediction.output_files import Mask, OutputWriter
from steelnb.prediction.output_folder import SETTINGS, SUBMISSION, TABLE, Noted, PredictError
from steelnb.prediction.strip_masks import PLAIN


class Outcome(NamedTuple):
    """The result of `predict_files`. written: file stem → share of defect pixels. failed: path → reason.

    kept: with `resume`, the stems in `written` whose masks existed before. earlier: names of images from earlier
    commands whose rows are in the table as well.
    """

    written: dict[str, float]
    failed: dict[Path, str]
    kept: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()


def segment(
    trained: Trained, image: np.ndarray, tile: int | tuple[int, int] | None = None, point: OperatingPoint = PLAIN,
    flips: bool = False,
) -> np.ndarray:
    """Masks, bool [K, H, W], of a gray image, uint8 [H, W]; memory for the network grows with the tile.

    flips: averages over the four flips of the image, which takes four times as long.
    """
    return point.masks(inference.predict_probabilities(trained.model, image, tile, flips))


def predict_files(
    trained: Trained, paths: Iterable[str | Path], out: str | Path, *, tile: int | tuple[int, int] | None = None,
    point: OperatingPoint = PLAIN, flips: bool = False, probabilities: bool = False,
    raw: tuple[int, int] | None = None, kaggle: str | Path | None = None, resume: bool = False, progress: bool = False,
) -> Outcome:
    """Segments image files, folders of them, patterns such as `steel/**/*.jpg`, and strips, into the folder `out`.

    For each image it writes `NAME_mask.png` (0/255; for a network with several classes one `NAME_class1_mask.png` … per
    class) and `NAME_overlay.png`; with `probabilities` also `NAME_probability.png`, round(255 p). For a strip (.npy, a
    TIFF above `strips.LARGE` pixels, raw bytes) it writes the files of `strip_masks.segment_strip`: `NAME_mask.npy`,
    `NAME_defects.csv`, `NAME_overview.png`, `NAME_probability.npy`. For all together it writes `predictions.csv`
    (ImageId, ClassId for a network with one mask per class, EncodedPixels), `predictions.json`, the settings and inputs
    that `resume` compares, and SHA256SUMS (`steelnb.data.digests`).

    raw: height and width of files without an image suffix. kaggle: "now", "2019", or the path of Kaggle's
    sample_submission.csv; writes `submission.csv` in that form, unless an image failed.
    resume: keeps masks in `out` that were made from byte-identical images by the same network, operating point and
    flips, and makes the missing ones; rows of other images segmented into `out` before stay in the tables.
    A file that cannot be read, an image that differs from its digest in a SHA256SUMS next to it or one folder above,
    and a mask that has changed since it was written are reported, and the others are still segmented. Every file is
    complete or absent, and nothing is overwritten. Raises PredictError if a file that would be written exists, if two
    images have the same stem, if no image is found, or if another process writes to `out`; submission.SubmissionError,
    before any work, for images or a network that cannot be submitted.
    """
    # In this order: all checks that need no image, then the same checks again under the folder's lock (another command
    # may have written in between), then the work, image by image (`_segment_all`).
    images = list(_expand(paths, raw))
    if not images:
        raise PredictError("no image files to segment: give files or folders")
    stems = [path.stem for path in images]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise PredictError(f"several images are called {twice[0]!r}: their masks would overwrite each other")
    work = OutputWriter(trained, Path(out), tile, point, flips, probabilities, raw, progress)
    plan = {path: work.is_strip(path) for path in images}
    long = [path for path, strip in plan.items() if strip]
    if point.guard and long:
        raise PredictError(f"the guard decides over a whole image, never a strip: leave it out for {names(long)}")
    before = output_folder.noted_before(work, plan, bool(kaggle), resume)
    earlier = _masks_of_others(work, before.inputs, plan)
    columns = _submittable(work, plan, earlier, kaggle) if kaggle else None
    work.out.mkdir(parents=True, exist_ok=True)
    with output_folder.locked(work.out):
        if before != output_folder.noted_before(work, plan, bool(kaggle), resume):
            raise PredictError(f"{out} was in use by another command: run this command again")
        return _segment_all(work, plan, before, earlier, columns)


def _segment_all(
    work: OutputWriter, plan: dict[Path, bool], before: Noted, earlier: dict[Path, bool],
    columns: tuple[str, ...] | None,
) -> Outcome:
    """Segments all images, once no other process can write to the folder.

    plan: image → whether it is a strip. before: inputs and strip masks noted by earlier commands. earlier: images of
    earlier commands that are not in the plan.
    """
    expected = digests.listed_for(plan)
    found = {path: digests.of_file(path) for path in plan}
    listed = digests.read(work.out)  # of what earlier commands left
    whole = {path for path, strip in plan.items() if _is_there(work, path, strip, before)}
    new = {path.name: digest for path, digest in found.items() if digest and path not in whole}
    noted = Noted(before.inputs | new, dict(before.strip_files))
    output_folder.write_settings(work, noted)

    written, failed, kept, masks_by_row = {}, {}, [], {}
    with storage.unfinished(work.out / TABLE) as (part,):
        with part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(["ImageId", *work.prefix, "EncodedPixels"])
            for path, strip in tqdm((earlier | plan).items(), desc="predict", unit="image", disable=not work.progress):
                try:
                    if found.get(path) and expected.get(path, found[path]) != found[path]:
                        raise DataError(f"{path}: changed since {SUMS} was written. {digests.REMEDY}")
                    if path not in plan or path in whole:
                        _check_files(work, path, strip, before, listed)
                    if path not in plan:
                        masks = work.read_masks(path, strip)
                    elif path in whole:
                        masks = _masks_of_the_same(work, path, strip, found[path], before.inputs.get(path.name))
                    else:
                        masks = _made(work, path, strip, found[path], listed)
                        if strip:
                            noted.strip_files.update(_digests_of_files(work, path))
                            output_folder.write_settings(work, noted)
                except (DataError, MemoryError) as error:
                    failed[path] = str(error) if isinstance(error, DataError) else f"{path}: not enough memory"
                    continue
                if path in plan and path not in whole:  # earlier tables no longer list everything in the folder
                    _remove(work.out / TABLE, work.out / SUBMISSION)
                for class_id, mask in zip(work.classes, masks, strict=True):
                    _write_row(file, [path.name] if class_id is None else [path.name, class_id], mask)
                    if columns:
                        masks_by_row[path.name, class_id] = submission.mask_digest(mask)
                if path in plan:
                    written[path.stem] = output_files.share(masks)
                    kept += [path.stem] * (path in whole)
        if not written:
            part.unlink()  # keeps an existing table
        if written or before.inputs:
            made = {name: digest for name, digest in new.items() if Path(name).stem in written}
            output_folder.write_settings(work, noted._replace(inputs=before.inputs | made))
        else:
            (work.out / SETTINGS).unlink()
    if columns and failed:
        _remove(*[work.out / SUBMISSION] * bool(written))
        failed[work.out / SUBMISSION] = f"no {SUBMISSION} written: it needs every image, and {len(failed)} failed"
    elif columns:
        submission.write_submission(work.out / SUBMISSION, submission.rows_of(work.out / TABLE), columns, masks_by_row)
    if written:
        good = {path: strip for path, strip in (earlier | plan).items() if path not in failed}
        _list_files(work, good, noted, listed)
    return Outcome(written, failed, tuple(kept), tuple(path.name for path in earlier if path not in failed))


def _made(
    work: OutputWriter, path: Path, strip: bool, digest: str | None, listed: dict[Path, str]
) -> Sequence[Mask]:
    if any(digests.key(target) in listed for target in work.targets(path, strip)):
        _remove(work.out / SUMS)  # until all is there again
    _remove(*work.targets(path, strip))  # incomplete files of a stopped command, perhaps of another image
    masks = work.make(path, strip)
    if digests.of_file(path) != digest:
        _remove(*work.targets(path, strip))
        raise DataError(f"{path}: changed while it was being read: run the same command again, with --resume")
    return masks


def _masks_of_the_same(
    work: OutputWriter, path: Path, strip: bool, digest: str | None, before: str | None
) -> Sequence[Mask]:
    masks = work.read(path, strip)
    if digest != before:
        made_from = f"was made from another {path.name}" if before else "does not say which image it was made from"
        raise DataError(f"{work.targets(path, strip)[0]} {made_from}: remove it to segment {path} again, or choose "
                        "another folder")
    return masks


def _digests_of_files(work: OutputWriter, path: Path) -> dict[str, str]:
    return {file.name: digests.of_file(file) or "" for file in work.targets(path, True)}


def _check_files(work: OutputWriter, path: Path, strip: bool, before: Noted, listed: dict[Path, str]) -> None:
    """Raises DataError for an output file of this image or strip that has changed since it was written."""
    for file in work.targets(path, strip):
        wanted = {before.strip_files.get(file.name)} if strip else set()
        wanted |= {listed[digests.key(file)]} if digests.key(file) in listed else set()
        if wanted and file.exists() and wanted != {digests.of_file(file)}:
            raise DataError(f"{file}: changed since it was written; remove it to segment {path.name} again")


def _list_files(work: OutputWriter, good: dict[Path, bool], noted: Noted, listed: dict[Path, str]) -> None:
    """Writes SHA256SUMS; a damaged file keeps its old digest, so that the damage stays visible."""
    files = [target for path, strip in good.items() for target in work.targets(path, strip)]
    files += [work.out / name for name in (TABLE, SUBMISSION, SETTINGS)]
    rest = {path: digest for path, digest in listed.items() if path.exists()}
    new = {digests.key(path): noted.strip_files.get(path.name) or digests.of_file(path)
           for path in files if path.exists()}
    digests.write(work.out, dict(sorted((rest | new).items())))


def _masks_of_others(work: OutputWriter, before: Iterable[str], plan: dict[Path, bool]) -> dict[Path, bool]:
    """Images of earlier commands whose masks all exist (name without folder) → whether they were strips."""
    planned, found = {path.name for path in plan}, {}
    for path in (Path(name) for name in before if name not in planned):
        for strip in (False, True):
            with contextlib.suppress(DataError):
                if all(mask.exists() for mask in work.targets(path, strip)[: len(work.classes)]):
                    found[path] = strip
    return found


def _is_there(work: OutputWriter, path: Path, strip: bool, before: Noted) -> bool:
    """Whether all files of an image exist; for a strip, also whether its masks were noted as complete."""
    with contextlib.suppress(DataError):
        targets = work.targets(path, strip)
        noted = not strip or all(target.name in before.strip_files for target in targets)
        return noted and all(target.exists() for target in targets)
    return False


def _expand(paths: Iterable[str | Path], raw: tuple[int, int] | None) -> Iterator[Path]:
    """The files named, the images of folders, and the images and strips that match a pattern."""
    for path in map(Path, paths):
        if path.is_dir():
            yield from image_files(path)
        elif path.exists() or not glob.has_magic(str(path)):
            yield path
        else:
            found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
            found = [one for one in found if one.is_file() and (raw or one.suffix.lower() in (*SUFFIXES, ".npy"))]
            if not found:
                raise PredictError(f"{path}: no image matches this pattern")
            yield from found


def _submittable(
    work: OutputWriter, plan: dict[Path, bool], earlier: dict[Path, bool], kaggle: str | Path
) -> tuple[str, ...]:
    """The columns of the submission. Raises SubmissionError for images that cannot be in one."""
    submission.check_network(work.classes)
    named = submission.SUBMISSION_COLUMNS.get(str(kaggle))
    if not named and (not Path(kaggle).exists() or Path(kaggle).is_dir()):
        raise submission.SubmissionError(
            f"{kaggle}: no such file; the form of a submission is one of "
            f"{', '.join(submission.SUBMISSION_COLUMNS)}, or the path of a sample_submission.csv"
        )
    columns, expected = (named, None) if named else submission.read_sample(kaggle)
    shapes = {}
    for path, strip in plan.items():
        if strip:
            shapes[path] = strips.open_strip(path, work.raw).shape
        else:
            try:
                with open_image(path) as picture:
                    shapes[path] = picture.height, picture.width
            except DataError:  # reported when this image is segmented
                continue
    for path, strip in earlier.items():
        with contextlib.suppress(DataError):
            shapes[path] = work.read_masks(path, strip)[0].shape
    submission.check_sizes(shapes)
    if expected is not None:
        submission.check_names([path.name for path in (*plan, *earlier)], expected)
    return columns


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _write_row(file: TextIO, cells: list, mask: Mask) -> None:
    """Writes a row of the table, its run-length text in pieces, since that of a strip may be long."""
    start = io.StringIO()
    csv.writer(start).writerow(cells)
    file.write(start.getvalue().removesuffix("\r\n") + ",")
    file.writelines(output_files.mask_run_lengths(mask))
    file.write("\r\n")
