"""One flipped bit in a file with a checksum never gives another image or mask: a sample of benchmarks/damage.py."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import damage


@pytest.mark.parametrize("name", [*damage.CHECKED, "mask bmp", "mask pgm", "mask tif"])
def test_one_flipped_bit_is_told(tmp_path, name):
    """Masks of 0 and 255 tell of nearly all of them without a checksum, too: by their values."""
    (folder := tmp_path / "set").mkdir()
    form = next(form for known, form in damage.forms(folder) if known == name)
    (damaged := tmp_path / "damaged").mkdir()
    counts = damage.damage(form, 40, damaged)
    assert counts["same"] + counts["refused"] + counts["other"] == 40
    assert counts["other"] <= (0 if name in damage.CHECKED else 4)
    assert counts["same"] == 40 if name == "image cache" else counts["refused"] > 20


@pytest.mark.parametrize("name", ["image jpg", "ids tif", "image pgm", "strip npy", "train.csv"])
def test_one_flipped_bit_beside_a_list_of_digests_is_refused(tmp_path, name):
    (folder := tmp_path / "set").mkdir()
    (damaged := tmp_path / "damaged").mkdir()
    form = next(form for known, form in damage.forms(folder) if known == name)
    assert damage.damage(form, 40, damaged, listed=True) == {"same": 0, "refused": 40, "other": 0}


def test_one_flipped_bit_in_what_was_written_is_told(capsys):
    assert damage.main(["--flips", "2", "--written"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("weights", "checkpoint", "s_defects.csv", "s_probability.npy", "a_mask.png"))
    assert "never another result: so it is" in told


def test_the_table(capsys):
    assert damage.main(["--flips", "5", "--only", "mask png"]) == 0
    told = capsys.readouterr().out
    assert "mask png palette" in told
    assert "never another result: so it is" in told
