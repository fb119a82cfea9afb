"""Finds a data set, and notes where it came from.  Taught in 01_data_exploration.

The first that exists: the folder or archive requested, the one in ``STEELNB_DATA``, Severstal in Kaggle's input folder;
otherwise synthetic steel is made. A requested data set that cannot be read is an error, never replaced by synthetic
steel.
"""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

from steelnb import runtime, storage
from steelnb.data import archives, dataset, digests, synthetic, synthetic_drawing
from steelnb.data.dataset import DataError, SteelData
from steelnb.data.images import SUMS

COMPETITION = "severstal-steel-defect-detection"
KAGGLE_INPUTS = tuple(Path("/kaggle/input", *middle, COMPETITION) for middle in ((), ("competitions",)))
RULES = f"https://www.kaggle.com/c/{COMPETITION}/rules"
ALTERNATIVES = ("Without it: give a folder with train.csv and train_images/ (or other labelled images), set the "
                'environment variable STEELNB_DATA to one, or use where="synthetic"')


def open_dataset(
    where: str | Path | None = None, *, images: int = 64, seed: int = 0, skip_missing: bool = False,
    mask_threshold: int | None = None, nested: str | None = None, format: str | None = None, progress: bool = True,
) -> SteelData:
    """The data set at `where`, or the first that is found.  Taught in 01_data_exploration.

    where: a folder; a .zip of one (for example on Google Drive), copied to this machine and unpacked once, see
    `archives.unpacked`; "kaggle" downloads Severstal (1.6 GB, needs an account); "synthetic" makes `images` images of
    synthetic steel from `seed`; None searches as described above. ``STEELNB_DATA`` may have any of these values. The
    labels are recognised by content; `skip_missing`, `mask_threshold`, `nested` and `format` as in
    `dataset.read_dataset`. `describe()` of the result says what was found and where it came from. Raises DataError if
    it cannot be read.
    """
    source = "found at the place asked for"
    if where is None and (where := named()):
        source = "found through STEELNB_DATA"
    if where is None and (where := next((folder for folder in KAGGLE_INPUTS if folder.is_dir()), None)):
        source = "found in Kaggle's input folder"
    if where is None or where == "synthetic":
        return _synthetic(images, seed, progress)
    if where == "kaggle":
        return from_kaggle(progress=progress)
    try:
        folder = where
        if _is_file(where):
            folder = archives.unpacked(where, progress=progress)
            source += f", unpacked from {Path(where).name}"
        found = dataset.read_dataset(folder, skip_missing=skip_missing, mask_threshold=mask_threshold, nested=nested,
                             format=format, progress=progress)
        return _from(found, source)
    except DataError as error:
        if source.startswith("found through STEELNB_DATA"):
            raise DataError(f"STEELNB_DATA={where}: {error}") from error
        raise


def named() -> str | None:
    """The value of ``STEELNB_DATA``, if it is set."""
    return os.environ.get("STEELNB_DATA", "").strip() or None


def _is_file(where: str | Path) -> bool:
    try:
        return Path(where).expanduser().is_file()
    except RuntimeError as error:  # ~name of nobody
        raise DataError(f"{where}: {error} Give the full path of the folder") from None


def from_kaggle(*, progress: bool = True) -> SteelData:
    """Severstal from Kaggle through `kagglehub`, which caches it. Raises DataError saying what to do."""
    try:
        import kagglehub
    except ImportError:
        raise DataError(f"kagglehub is not installed: pip install 'kagglehub>=0.3'. {ALTERNATIVES}") from None
    try:
        folder = kagglehub.competition_download(COMPETITION)
    except Exception as error:  # of kagglehub, requests or the disk
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 403:
            problem = ("Kaggle refused the download (403): accept the competition's rules once, with the account that "
                       f"downloads, at {RULES} ; then run this again")
        elif status == 401 or type(error).__name__ in ("UnauthenticatedError", "CredentialError"):
            problem = ("Kaggle does not know who is asking (401): create a token at https://www.kaggle.com/settings , "
                       f"call kagglehub.login(), and accept the competition's rules at {RULES}")
        else:
            problem = f"the download from Kaggle failed ({type(error).__name__}: {error}); run it again to continue"
        raise DataError(f"{problem}. {ALTERNATIVES}") from error
    return _from(dataset.read_dataset(folder, progress=progress), "downloaded from Kaggle")


def _synthetic(images: int, seed: int, progress: bool) -> SteelData:
    """Synthetic steel from the cache; made first if it is missing, incomplete, or drawn by another version."""
    code = b"".join(Path(module.__file__).read_bytes() for module in (synthetic_drawing, synthetic))
    drawn_by = hashlib.sha256(code).hexdigest()[:8]
    cache = runtime.cache_folder()
    folder = cache / f"synthetic-{drawn_by}-seed{seed}-{images}"

    def draw(draft: Path) -> Path:
        made = synthetic.write_dataset(draft / "set", images, seed=seed, progress=progress)
        digests.write(made)
        return made

    try:
        storage.make_folder(folder, draw, lambda made: _complete(made, images))
    except OSError as error:
        raise DataError(f"{folder}: cannot draw synthetic steel there: {error.strerror or error}. Fix this, "
                        "or set STEELNB_HOME to a folder on another disk") from error
    found = dataset.read_dataset(folder)
    notes = tuple(note for note in found.notes if not note.startswith(SUMS))  # it goes without saying
    return _from(replace(found, notes=notes), f"made by steelnb from seed {seed}", name="synthetic steel")


def _complete(folder: Path, images: int) -> bool:
    try:
        return len(dataset.read_dataset(folder)) == images
    except DataError:
        return False


def _from(found: SteelData, origin: str, **changes) -> SteelData:
    return replace(found, notes=(origin, *found.notes), **changes)
