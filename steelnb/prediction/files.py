"""A trained network → masks of image files and strips, as files.  Taught in 00_start_here and 08_results."""

import csv
import glob
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from tqdm.auto import tqdm

from steelnb import storage
from steelnb.data.images import SUFFIXES, DataError, image_files, names, open_image
from steelnb.evaluation.operating_point import OperatingPoint
from steelnb.network import inference
from steelnb.network.weights import Trained
from steelnb.prediction import output_files, strips, submission
from steelnb.prediction.output_files import Mask, OutputWriter
from steelnb.prediction.strip_masks import PLAIN

TABLE, SETTINGS, SUBMISSION = "predictions.csv", "predictions.json", "submission.csv"


class PredictError(ValueError):
    """Images that cannot be segmented, or masks that would overwrite a file. The message names it."""


class Outcome(NamedTuple):
    """What `predict_files` did: file stems with their share of defect pixels, and what failed, by path.

    kept: with `resume`, those of `written` whose masks were there before.
    """

    written: dict[str, float]
    failed: dict[Path, str]
    kept: tuple[str, ...] = ()


def segment(
    trained: Trained, image: np.ndarray, tile: int | tuple[int, int] | None = None, point: OperatingPoint = PLAIN,
    flips: bool = False,
) -> np.ndarray:  # fmt: skip
    """Masks, bool [K, H, W], of a gray image, uint8 [H, W]; the network's memory grows with the tile.

    flips: averages over the four flips of the image, which takes four times as long.
    """
    return point.masks(inference.predict_probabilities(trained.model, image, tile, flips))


def predict_files(
    trained: Trained, paths: Iterable[str | Path], out: str | Path, *, tile: int | tuple[int, int] | None = None,
    point: OperatingPoint = PLAIN, flips: bool = False, probabilities: bool = False,
    raw: tuple[int, int] | None = None, kaggle: str | Path | None = None, resume: bool = False, progress: bool = False,
) -> Outcome:  # fmt: skip
    """Segments image files, folders of them, patterns such as `steel/**/*.jpg`, and strips, into the folder `out`.

    An image leaves `NAME_mask.png` (0/255; one `NAME_class1_mask.png` … a class for a network with a mask a class) and
    `NAME_overlay.png`; with `probabilities` also `NAME_probability.png`, round(255 p). A strip (.npy, a TIFF above
    `strips.LARGE` pixels, raw bytes) leaves what `strip_masks.segment_strip` says: `NAME_mask.npy`, `NAME_defects.csv`,
    `NAME_overview.png`, `NAME_probability.npy`. All of them: `predictions.csv` (ImageId, ClassId for a network with a
    mask a class, EncodedPixels), and `predictions.json`, by which `resume` knows what made them.

    raw: height and width of files that are no images by their suffix. kaggle: "now", "2019", or the path of Kaggle's
    sample_submission.csv; leaves `submission.csv` in that form, unless an image failed.
    resume: keeps the masks that the same network, operating point and flips left in `out`, and does what is missing.
    A file that cannot be read is reported and the rest go on. Every file is whole or absent. Nothing is overwritten:
    PredictError is raised where a file that would be written exists, where two images have one stem, and where no image
    is found; submission.SubmissionError, before any work, for what cannot be submitted.
    """
    images = list(_expand(paths, raw))
    if not images:
        raise PredictError("no image files to segment: name files or folders")
    stems = [path.stem for path in images]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise PredictError(f"several images are called {twice[0]!r}: their masks would overwrite each other")
    work = OutputWriter(trained, Path(out), tile, point, flips, probabilities, raw, progress)
    plan = {path: work.is_strip(path) for path in images}
    long = [path for path, strip in plan.items() if strip]
    if point.guard and long:
        raise PredictError(f"the guard judges an image as a whole, so not a strip: leave it out for {names(long)}")
    columns = _submittable(work, plan, kaggle) if kaggle else None
    new = _make_room(work, plan, bool(columns), resume)

    written, failed, kept, digests = {}, {}, [], {}
    with storage.unfinished(work.out / TABLE) as (part,):
        with part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(["ImageId", *work.prefix, "EncodedPixels"])
            for path, strip in tqdm(plan.items(), desc="predict", unit="image", disable=not progress):
                there = resume and all(target.exists() for target in work.targets(path, strip))
                try:
                    masks = work.read(path, strip) if there else work.make(path, strip)
                except (DataError, MemoryError) as error:
                    failed[path] = str(error) if isinstance(error, DataError) else f"{path}: not enough memory"
                    continue
                if not there:  # tables from before do not say all that is here any more
                    _remove(work.out / TABLE, work.out / SUBMISSION)
                for class_id, mask in zip(work.classes, masks, strict=True):
                    _write_row(file, [path.name] if class_id is None else [path.name, class_id], mask)
                    if columns:
                        digests[path.name, class_id] = submission.mask_digest(mask)
                written[path.stem] = output_files.share(masks)
                kept += [path.stem] * there
        if not written:
            part.unlink()  # what is there already stays
            if new:
                (work.out / SETTINGS).unlink()
    if columns and failed:
        _remove(*[work.out / SUBMISSION] * bool(written))
        failed[work.out / SUBMISSION] = f"no {SUBMISSION} is written: it needs every image, and {len(failed)} failed"
    elif columns:
        submission.write_submission(work.out / SUBMISSION, submission.rows_of(work.out / TABLE), columns, digests)
    return Outcome(written, failed, tuple(kept))


def _expand(paths: Iterable[str | Path], raw: tuple[int, int] | None) -> Iterator[Path]:
    """Files as they are named, the images of folders, and what a pattern matches: images and strips."""
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


def _submittable(work: OutputWriter, plan: dict[Path, bool], kaggle: str | Path) -> tuple[str, ...]:
    """The columns of the submission; what cannot be in one is refused."""
    submission.check_network(work.classes)
    named = submission.SUBMISSION_COLUMNS.get(str(kaggle))
    if not named and (not Path(kaggle).exists() or Path(kaggle).is_dir()):
        raise submission.SubmissionError(
            f"{kaggle}: no such file; the form of a submission can be "
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
            except DataError:  # is reported when its turn comes
                continue
    submission.check_sizes(shapes)
    if expected is not None:
        submission.check_names([path.name for path in plan], expected)
    return columns


def _make_room(work: OutputWriter, plan: dict[Path, bool], kaggle: bool, resume: bool) -> bool:
    """Makes the folder and says in `predictions.json` what is about to be written; whether that is new there."""
    settings = work.out / SETTINGS
    targets = [work.out / TABLE, *(work.out / SUBMISSION for _ in range(kaggle))]
    targets += [target for path, strip in plan.items() for target in work.targets(path, strip)]
    if not resume:
        if there := next((target for target in [*targets, settings] if target.exists()), None):
            raise PredictError(f"{there} is there already and would be overwritten: name another folder for the masks, "
                               "or resume what was begun there (--resume)")  # fmt: skip
    elif settings.exists():
        before, now = _read_settings(settings), work.settings()
        if other := [name for name in now if before.get(name) != now[name]]:
            told = names((f"{name} was {before.get(name)}, is {now[name]}" for name in other), 8)
            raise PredictError(f"{work.out} holds masks that were made otherwise ({told}): name another folder")
    elif there := next((target for target in targets if target.exists()), None):
        raise PredictError(f"{there} is there, but no {SETTINGS} that says what made it: name another folder")
    if resume and any(path.resolve().parent == work.out.resolve() for path in plan):
        raise PredictError(f"{work.out} holds the images themselves: to resume, masks need a folder of their own")
    work.out.mkdir(parents=True, exist_ok=True)
    if settings.exists():
        return False
    storage.write_file(settings, json.dumps(work.settings(), indent=1).encode())
    return True


def _read_settings(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # undecodable text is one, too
        found = None
    if not isinstance(found, dict):
        raise PredictError(f"{path} is damaged, so what made these masks is not known: name another folder")
    return found


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _write_row(file: TextIO, cells: list, mask: Mask) -> None:
    """A row of the table, its text piece by piece: that of a strip may be long."""
    start = io.StringIO()
    csv.writer(start).writerow(cells)
    file.write(start.getvalue().removesuffix("\r\n") + ",")
    file.writelines(output_files.mask_run_lengths(mask))
    file.write("\r\n")
