"""SHA256SUMS beside data: one changed bit is refused by name, whoever wrote the list; and who leaves one."""

import hashlib
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from steelnb.__main__ import main
from steelnb.data import conversion, dataset, digests, sources
from steelnb.data.dataset import DataError


@pytest.fixture
def folder(tmp_path):
    """Two pairs of formats without a checksum."""
    rng = np.random.default_rng(0)
    for place in ("images", "masks"):
        (tmp_path / "set" / place).mkdir(parents=True)
    for name in ("a", "b c"):
        Image.fromarray(rng.integers(0, 256, (6, 9), np.uint8)).save(tmp_path / "set" / "images" / f"{name}.bmp")
        Image.fromarray(rng.integers(0, 3, (6, 9), np.uint8)).save(tmp_path / "set" / "masks" / f"{name}.tif")
    return tmp_path / "set"


def flip(path, seed=0):
    content, bit = bytearray(path.read_bytes()), int(np.random.default_rng(seed).integers(8 * path.stat().st_size))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def listed(folder, *paths, mark="*"):
    (folder / "SHA256SUMS").write_text("".join(
        f"{hashlib.sha256((folder / path).read_bytes()).hexdigest()} {mark}{path}\n" for path in paths))


EVERY = ("images/a.bmp", "images/b c.bmp", "masks/a.tif", "masks/b c.tif")


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("mark", [" ", "*"])
def test_one_flipped_bit_is_refused_by_name(folder, name, mark):
    listed(folder, *EVERY, mark=mark)
    before = dataset.read_dataset(folder)
    assert "SHA256SUMS: 4 files are as listed" in before.notes
    whole = (folder / name).read_bytes()
    for seed in range(20):
        flip(folder / name, seed)
        with pytest.raises(DataError, match=rf"{name}: changed since SHA256SUMS was written\. Fetch it again, or"):
            dataset.read_dataset(folder)
        with pytest.raises(DataError, match="changed since"):
            sources.open_dataset(folder, progress=False, skip_missing=True)
        (folder / name).write_bytes(whole)
    assert dataset.read_dataset(folder).fingerprint() == before.fingerprint()


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="no sha256sum here")
def test_the_list_is_sha256sum_s_own(folder):
    command = "find . -type f -exec sha256sum -b {} + > SHA256SUMS"  # lists itself, as it was when it was still empty
    subprocess.run(command, shell=True, cwd=folder, check=True)
    assert "SHA256SUMS" in (folder / "SHA256SUMS").read_text()
    assert "SHA256SUMS: 4 files are as listed" in dataset.read_dataset(folder).notes
    (folder / "masks" / "new\nline\\.txt").write_text("x")
    digests.write(folder)
    assert subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder).returncode == 0
    assert len(digests.read(folder)) == 5
    assert digests.check(folder) == ["SHA256SUMS: 5 files are as listed"]


def test_windows_line_ends_dots_and_large_digits(folder):
    listed(folder, *EVERY)
    path = folder / "SHA256SUMS"
    lines = path.read_text().splitlines()
    path.write_bytes("\r\n".join(f"{line[:64].upper()} *./{line[66:]}" for line in lines).encode())
    assert "SHA256SUMS: 4 files are as listed" in dataset.read_dataset(folder).notes


@pytest.mark.parametrize(("content", "told"), [
    ("", "lists no file"), ("0123 *images/a.bmp\n", "line 1: not as sha256sum writes it"),
    (f"{'0' * 64} *images/a.bmp\n{'1' * 64} *images/a.bmp\n", r"line 2: a second digest of images/a\.bmp"),
    (f"{'0' * 64}\n", "line 1"), ("\udcff".encode(errors="surrogateescape"), "not readable text"),
])
def test_a_list_that_is_none_is_refused(folder, content, told):
    (folder / "SHA256SUMS").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=f"SHA256SUMS.*{told}"):
        dataset.read_dataset(folder)


def test_what_is_listed_but_not_there_and_what_is_there_but_not_listed(folder):
    listed(folder, *EVERY[:1], *EVERY[2:])
    note = "SHA256SUMS: 3 files are as listed; 1 images are not listed, b c.bmp"
    assert note in dataset.read_dataset(folder).notes
    for name in EVERY[::2]:
        (folder / name).unlink()
    with pytest.raises(DataError, match=r"SHA256SUMS: 2 files listed but not there, a\.bmp, a\.tif\. Fetch them"):
        dataset.read_dataset(folder)
    kept = dataset.read_dataset(folder, skip_missing=True)
    assert kept.notes[0] == "SHA256SUMS: 1 files are as listed; 2 are not there, a.bmp, a.tif; " + note.split("; ")[1]
    assert len(kept) == 1


@pytest.mark.parametrize("place", ["images", "masks", ".."])
def test_a_list_in_a_folder_of_images_or_masks_counts_too(folder, place):
    """.. is a folder of a data set in Severstal's layout, found one level below."""
    if place == "..":
        data = dataset.read_dataset(folder)
        conversion.convert(data, folder.parent / "up" / "steel")
        top, victim = folder.parent / "up", folder.parent / "up" / "steel" / "train.csv"
        victim.write_text(victim.read_text().replace(" ", "  ", 1))
    else:
        digests.write(folder / place)
        top, victim = folder, sorted((folder / place).iterdir())[1]
        flip(victim)
    with pytest.raises(DataError, match="changed since"):
        dataset.read_dataset(top)


def test_masks_elsewhere_bring_their_own_list(folder, tmp_path):
    (folder / "masks").rename(tmp_path / "drawn")
    digests.write(tmp_path / "drawn")
    data = dataset.read_dataset(folder, masks=tmp_path / "drawn")
    assert "SHA256SUMS: 2 files are as listed" in data.notes
    assert not any("left out" in note for note in data.notes)
    flip(tmp_path / "drawn" / "a.tif")
    with pytest.raises(DataError, match="changed since"):
        dataset.read_dataset(folder, masks=tmp_path / "drawn")


def test_convert_and_sample_leave_a_list(folder, tmp_path):
    assert main(["convert", "--data", str(folder), "--out", str(tmp_path / "ours"), "--quiet"]) == 0
    assert main(["sample", str(tmp_path / "steel"), "--images", "3", "--size", "32x40", "--quiet"]) == 0
    for made in (tmp_path / "ours", tmp_path / "steel"):
        files = {path for path in made.rglob("*") if path.is_file() and path.name != "SHA256SUMS"}
        assert set(digests.read(made)) == files
        for path in files:
            whole = path.read_bytes()
            flip(path)
            with pytest.raises(DataError, match="changed since"):
                dataset.read_dataset(made)
            path.write_bytes(whole)
        dataset.read_dataset(made)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x.txt").write_text("of somebody")
    assert main(["sample", str(tmp_path / "mine"), "--images", "3", "--size", "32x40", "--quiet"]) == 0
    assert not (tmp_path / "mine" / "SHA256SUMS").exists()


def test_synthetic_steel_in_the_cache_with_another_bit_is_made_again():
    first = sources.open_dataset("synthetic", images=3, progress=False)
    assert not any("SHA256SUMS" in note for note in first.notes)
    for path in (first.images["path"].iloc[0], first.folder / "train.csv"):
        whole = path.read_bytes()
        flip(path)
        again = sources.open_dataset("synthetic", images=3, progress=False)
        assert path.read_bytes() == whole
        assert again.fingerprint() == first.fingerprint()


def test_digests_for_files_are_looked_up_beside_them_and_one_folder_above(folder):
    listed(folder, *EVERY[:2])
    digests.write(folder / "masks")
    paths = [folder / name for name in EVERY]
    found = digests.listed_for([*paths, folder / "images" / "other.bmp"])
    assert found == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
