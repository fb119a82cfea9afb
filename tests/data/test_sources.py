"""Where a data set comes from: what was asked for or an error, never silently something else."""

import builtins
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from steelnb.data import sources, synthetic
from steelnb.data.dataset import DataError

REAL = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """Neither this machine's cache nor its environment nor its Kaggle folders."""
    monkeypatch.setenv("STEELNB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("STEELNB_DATA", raising=False)
    monkeypatch.setattr(sources, "KAGGLE_INPUTS", (tmp_path / "input", tmp_path / "input2"))


PLACES = sources.KAGGLE_INPUTS  # before the fixture takes their place


def severstal(folder):
    (folder / "train_images").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(folder / "train_images" / "a.jpg")
    (folder / "train.csv").write_text("ImageId,ClassId,EncodedPixels\na.jpg,3,1 2\n")
    return folder


def no_download(monkeypatch):
    """Importing kagglehub is a failure of the test."""
    def refuse(name, *rest, **options):
        assert name != "kagglehub", "downloads must be asked for"
        return importer(name, *rest, **options)
    importer = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)


def fake_kagglehub(monkeypatch, outcome):
    """A kagglehub whose download returns a folder or raises."""
    def competition_download(handle):
        assert handle == "severstal-steel-defect-detection"
        if isinstance(outcome, Exception):
            raise outcome
        return str(outcome)
    module = ModuleType("kagglehub")
    module.competition_download = competition_download
    monkeypatch.setitem(sys.modules, "kagglehub", module)


def test_order(monkeypatch, tmp_path):
    no_download(monkeypatch)
    assert sources.open_dataset(images=2, progress=False).name == "synthetic steel"
    for where, origin in (("input2", "Kaggle's input"), ("input", "Kaggle's input"), ("named", "STEELNB_DATA")):
        folder = severstal(tmp_path / where)
        if where == "named":
            monkeypatch.setenv("STEELNB_DATA", str(folder))
        found = sources.open_dataset()
        assert (found.name, found.folder) == (where, folder)
        assert origin in found.describe()
    found = sources.open_dataset(severstal(tmp_path / "asked"))
    assert found.folder == tmp_path / "asked"
    assert "asked for" in found.describe()
    assert (
        sources.open_dataset("synthetic", images=2, progress=False).name == "synthetic steel"
    )  # whatever else there is


def test_where_kaggle_attaches_the_competition():
    """In some notebooks right below /kaggle/input, in others below competitions/ there."""
    assert [str(place) for place in PLACES] == ["/kaggle/input/severstal-steel-defect-detection",
                                                "/kaggle/input/competitions/severstal-steel-defect-detection"]


def test_what_was_asked_for_is_an_error_when_it_fails(monkeypatch, tmp_path):
    severstal(tmp_path / "input")
    with pytest.raises(DataError, match="nowhere: no such folder"):
        sources.open_dataset(tmp_path / "nowhere")
    monkeypatch.setenv("STEELNB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"STEELNB_DATA=.*nowhere: no such folder"):
        sources.open_dataset()
    monkeypatch.delenv("STEELNB_DATA")
    (tmp_path / "input" / "train.csv").unlink()
    with pytest.raises(DataError, match="no data set"):
        sources.open_dataset()
    assert not (tmp_path / "home").exists()


def test_a_home_of_nobody(monkeypatch):
    with pytest.raises(DataError, match=r"^~nobody-of-this-name/x: .* Give the full path of the folder"):
        sources.open_dataset("~nobody-of-this-name/x")
    monkeypatch.setenv("STEELNB_DATA", "~nobody-of-this-name/x")
    with pytest.raises(DataError, match=r"^STEELNB_DATA=~nobody-of-this-name/x: "):
        sources.open_dataset()


def test_the_variable_may_hold_the_words(monkeypatch):
    fake_kagglehub(monkeypatch, RuntimeError("down"))
    monkeypatch.setenv("STEELNB_DATA", "kaggle")
    with pytest.raises(DataError, match="download from Kaggle failed"):
        sources.open_dataset()
    monkeypatch.setenv("STEELNB_DATA", "synthetic")
    assert sources.open_dataset(images=2, progress=False).name == "synthetic steel"
    monkeypatch.setenv("STEELNB_DATA", " ")  # as good as unset
    assert sources.open_dataset(images=2, progress=False).name == "synthetic steel"


def test_synthetic_steel_is_made_once(monkeypatch):
    first = sources.open_dataset(images=4, progress=False)
    assert len(first) == 4
    assert "synthetic steel" in first.describe()
    assert "made by steelnb from seed 0" in first.describe()
    assert sources.open_dataset(images=4, seed=1, progress=False).fingerprint() != first.fingerprint()
    written = (first.folder / "train.csv").stat().st_mtime_ns
    monkeypatch.setattr(synthetic, "write_dataset", None)
    again = sources.open_dataset(images=4)
    assert again.fingerprint() == first.fingerprint()
    assert (again.folder / "train.csv").stat().st_mtime_ns == written


@pytest.mark.parametrize("lost", ["train.csv", "train_images"])
def test_incomplete_synthetic_steel_is_made_again(lost):
    first = sources.open_dataset(images=4, progress=False)
    expected, path = first.fingerprint(), first.folder / lost
    if path.is_dir():
        clean = first.images["path"][first.images["masks"] == 0].iloc[0]
        clean.unlink()  # no row of the table misses it
    else:
        path.unlink()
    assert sources.open_dataset(images=4, progress=False).fingerprint() == expected


def test_an_interrupted_making_leaves_nothing(monkeypatch, tmp_path):
    def interrupted(folder, images, **options):
        severstal(folder)
        raise KeyboardInterrupt
    write = synthetic.write_dataset
    monkeypatch.setattr(synthetic, "write_dataset", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sources.open_dataset(images=2, progress=False)
    assert [path for path in (tmp_path / "home" / "cache").iterdir() if path.suffix != ".lock"] == []
    monkeypatch.setattr(synthetic, "write_dataset", write)
    assert len(sources.open_dataset(images=2, progress=False)) == 2


def test_one_process_draws_and_the_others_wait():
    ask = (
        "from steelnb.data import sources, synthetic; write = synthetic.write_dataset; "
        "synthetic.write_dataset = lambda *a, **b: (print('drawn'), write(*a, **b))[1]; "
        "print(sources.open_dataset(images=2, progress=False).fingerprint())"
    )
    asked = [subprocess.Popen([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True) for _ in "ab"]
    said = [process.communicate()[0].split() for process in asked]
    assert sorted(map(len, said)) == [1, 2]
    assert said[0][-1] == said[1][-1] == sources.open_dataset(images=2, progress=False).fingerprint()


def test_download(monkeypatch, tmp_path):
    fake_kagglehub(monkeypatch, severstal(tmp_path / "cache" / "severstal-steel-defect-detection"))
    for found in (sources.open_dataset("kaggle"), sources.from_kaggle()):
        assert found.name == "severstal-steel-defect-detection"
        assert "downloaded from Kaggle" in found.describe()


def kaggle_error(status):
    from kagglehub.exceptions import KaggleApiHTTPError
    return KaggleApiHTTPError(f"{status} Client Error.", response=SimpleNamespace(status_code=status, request=None))


def unauthenticated():
    from kagglehub.exceptions import UnauthenticatedError
    return UnauthenticatedError()


@pytest.mark.parametrize(("error", "parts"), [
    (lambda: kaggle_error(403), ("403", "accept the competition's rules",
                                 "https://www.kaggle.com/c/severstal-steel-defect-detection/rules")),
    (lambda: kaggle_error(401), ("401", "kagglehub.login()")),
    (unauthenticated, ("401", "kagglehub.login()")),
    (lambda: kaggle_error(404), ("KaggleApiHTTPError: 404",)),
    (lambda: OSError(28, "No space left on device"), ("No space left on device", "run it again")),
])
def test_a_failed_download_says_what_to_do(monkeypatch, error, parts):
    pytest.importorskip("kagglehub")
    error = error()
    fake_kagglehub(monkeypatch, error)
    with pytest.raises(DataError) as caught:
        sources.open_dataset("kaggle")
    for part in (*parts, "STEELNB_DATA", 'where="synthetic"', "train.csv"):
        assert part in str(caught.value)
    assert caught.value.__cause__ is error


def test_without_kagglehub(monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)  # importing it raises ImportError
    with pytest.raises(DataError, match=r"pip install 'kagglehub>=0\.3'.*STEELNB_DATA"):
        sources.open_dataset("kaggle")


def test_kagglehub_has_what_is_called():
    kagglehub = pytest.importorskip("kagglehub")
    assert callable(kagglehub.competition_download)


@pytest.mark.skipif(not (REAL / "severstal").is_dir(), reason="no real Severstal images here")
def test_real_severstal():
    assert len(sources.open_dataset(REAL / "severstal")) == 45
