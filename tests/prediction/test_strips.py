"""Strips on disk: every form gives the pixels that went in; what cannot be read in place is refused."""

import errno

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from steelnb.data import rle
from steelnb.data.images import DataError
from steelnb.network import tiles
from steelnb.prediction import strips
from steelnb.prediction.strips import Strip, is_strip, open_strip, run_lengths
from steelnb.storage import StorageError, unfinished

WIDE = np.random.default_rng(0).integers(0, 256, (11, 301), dtype=np.uint8)
FORMS = {
    "npy": lambda path, image: np.save(path, image),
    "fortran.npy": lambda path, image: np.save(path, np.asfortranarray(image)),
    "tif": lambda path, image: tifffile.imwrite(path, image),
    "pil.tif": lambda path, image: Image.fromarray(image).save(path),
    "rows.tiff": lambda path, image: tifffile.imwrite(path, image, rowsperstrip=3),
    "big.tif": lambda path, image: tifffile.imwrite(path, image, bigtiff=True),
    "raw": lambda path, image: image.tofile(path),
}


def written(folder, form, image):
    path = folder / f"strip.{form}"
    FORMS[form](path, image)
    return path


@pytest.mark.parametrize("image", [WIDE, WIDE.T, WIDE[:, :1], WIDE[:1], WIDE[:1, :1]], ids=lambda x: str(x.shape))
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_its_pixels_in_place(form, image, tmp_path, monkeypatch):
    monkeypatch.setattr(strips, "READ_BYTES", 700)  # several memory maps a read
    image = np.ascontiguousarray(image)
    strip = open_strip(written(tmp_path, form, image), image.shape if form == "raw" else None)
    assert (strip.shape, strip.ndim, strip.dtype) == (image.shape, 2, np.uint8)
    assert np.array_equal(strip[..., :, :], image)
    assert np.array_equal(strip[2:7, 0:290], image[2:7, 0:290])
    assert np.array_equal(strip[5:5, :], image[5:5])
    assert np.array_equal(strip.along(3, 40), (image.T if image.shape[1] >= image.shape[0] else image)[3:40])
    for window in ((-5, -7, 30, 40), (3, 200, 4, 150), (0, 0, *image.shape)):
        assert np.array_equal(tiles.window(strip, *window), tiles.window(image, *window))


def test_a_read_never_maps_much_and_is_the_callers_own(tmp_path, monkeypatch):
    image = np.zeros((64, 40_000), np.uint8)
    strip = open_strip(written(tmp_path, "npy", image))
    monkeypatch.setattr(strips, "READ_BYTES", 100_000)
    spans, memmap = [], np.memmap
    monkeypatch.setattr(np, "memmap", lambda *a: spans.append(np.prod(a[-1])) or memmap(*a))
    block = strip[:, 500:900]
    assert max(spans) <= 100_000
    block[:] = 1
    assert not strip[:, 500:900].any()


def test_which_files_are_strips(tmp_path, monkeypatch):
    tif, npy = written(tmp_path, "tif", WIDE), written(tmp_path, "npy", WIDE)
    assert not is_strip(tif)
    monkeypatch.setattr(strips, "LARGE", WIDE.size - 1)
    assert is_strip(tif)
    assert is_strip(npy)
    tifffile.imwrite(tmp_path / "colours.tif", np.zeros((10, WIDE.size // 10 - 1, 3), np.uint8), photometric="rgb")
    assert not is_strip(tmp_path / "colours.tif")  # pixels count, not samples
    (tmp_path / "bad.tif").write_bytes(b"no")
    assert not is_strip(tmp_path / "bad.tif")
    assert not is_strip(tmp_path / "a.dat")
    assert is_strip(tmp_path / "a.dat", (3, 4), (".png",))
    assert not is_strip(tmp_path / "a.png", (3, 4), (".png",))


BAD_TIFFS = {
    "compressed .*tiffcp -c none": dict(data=WIDE, compression="zlib"),
    "16 bits per pixel .*scale it": dict(data=WIDE.astype(np.uint16)),
    "colours": dict(data=np.stack([WIDE] * 3, -1), photometric="rgb"),
    "white as 0": dict(data=WIDE, photometric="miniswhite"),
    "2 pages": dict(data=np.stack([WIDE] * 2), photometric="minisblack"),
    "not in one piece": dict(data=WIDE, tile=(16, 16)),
    "orientation": dict(data=WIDE, extratags=[(274, 3, 1, 6, True)]),
}


@pytest.mark.parametrize("reason", BAD_TIFFS)
def test_tiffs_that_cannot_be_read_in_place(reason, tmp_path):
    tifffile.imwrite(tmp_path / "s.tif", **BAD_TIFFS[reason])
    with pytest.raises(DataError, match=rf"s\.tif: .*{reason}"):
        open_strip(tmp_path / "s.tif")


def test_other_files_that_are_no_strips(tmp_path):
    def refused(name, content, reason, raw=None):
        path = tmp_path / name
        path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
        with pytest.raises(DataError, match=rf"{name}: .*{reason}"):
            open_strip(path, raw)

    refused("a.npy", WIDE.astype(np.float32), r"uint8 \[H, W\], this is float32 \[11, 301\]")
    refused("b.npy", WIDE[None], r"this is uint8 \[1, 11, 301\]")
    refused("c.npy", np.array([None, 1]), "not a readable strip")
    refused("d.npy", b"", "not a readable strip")
    refused("e.npy", written(tmp_path, "npy", WIDE).read_bytes()[:-1], "not a readable strip")
    refused("e2.npy", written(tmp_path, "npy", WIDE).read_bytes() + b"0", r"3312 bytes of pixels, but .* are 3311")
    narrow = written(tmp_path, "npy", WIDE).read_bytes().replace(b"(11, 301)", b"(11, 300)")  # one bit of its header
    refused("e3.npy", narrow, r"its header says 11×300, which are 3300; save it again")
    refused("f.npy", np.zeros((0, 5), np.uint8), "at least one pixel|not a readable strip")
    np.savez(tmp_path / "z.npz", WIDE)
    refused("g.npy", (tmp_path / "z.npz").read_bytes(), "an archive of arrays")
    refused("h.tif", b"II*\x00nothing", "not a readable strip")
    refused("i.tif", b"text", "not a readable strip")
    refused("j.tif", written(tmp_path, "tif", WIDE).read_bytes()[:-9], "cut off|not a readable strip")
    refused("k.raw", bytes(99), "99 bytes, but 10×10 pixels are 100", (10, 10))
    refused("l.raw", bytes(101), "101 bytes", (10, 10))
    refused("m.raw", bytes(100), "for raw bytes, give height and width")
    with pytest.raises(DataError, match=r"gone\.npy: no such file"):
        open_strip(tmp_path / "gone.npy")


def test_a_strip_that_is_lost_while_it_is_read(tmp_path):
    path = written(tmp_path, "raw", WIDE)
    strip = open_strip(path, WIDE.shape)
    path.write_bytes(bytes(50))
    with pytest.raises(DataError, match=r"strip\.raw: can no longer be read"):
        strip[:, 0:5]
    path.unlink()
    with pytest.raises(DataError, match="can no longer be read"):
        strip[:, 0:5]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1), st.integers(1, 60))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_masks_on_disk_and_their_text(tmp_path_factory, height, width, seed, budget):
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    path = tmp_path_factory.mktemp("mask") / "mask.npy"
    with path.open("wb") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "READ_BYTES", budget)
        begun = strips.begin_array(file, np.bool_, Strip(path, mask.shape))
        file.write(np.ascontiguousarray(mask.T if begun.wide else mask))
        file.flush()
        assert np.array_equal(np.load(path, mmap_mode="r"), mask)
        for one in (begun, strips.open_mask(path)):
            assert np.array_equal(one[:, :], mask)
            assert "".join(run_lengths(one)) == rle.encode(mask)


def test_a_strips_mask_with_bytes_left_over_is_none(tmp_path):
    np.save(path := tmp_path / "mask.npy", WIDE > 99)
    assert np.array_equal(strips.open_mask(path)[:, :], (WIDE > 99))
    path.write_bytes(path.read_bytes().replace(b"(11, 301)", b"(11, 300)"))
    with pytest.raises(DataError, match=r"not a strip's mask \(\d+ bytes, but its header says"):
        strips.open_mask(path)


def test_unfinished_files_appear_whole_or_not_at_all(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    with unfinished(a, b) as parts:
        for part in parts:
            part.write_text("new")
        assert not a.exists()
        parts[1].unlink()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    for error, expected in ((KeyboardInterrupt(), KeyboardInterrupt), (DataError("x"), DataError),
                            (OSError(errno.ENOSPC, "No space left on device"), StorageError)):
        with pytest.raises(expected), unfinished(a) as (part,):  # noqa: PT012 - the block is what fails
            part.write_text("newer")
            raise error
        assert [p.name for p in tmp_path.iterdir()] == ["a"]
        assert a.read_text() == "new"
