"""What a file says about its pixels: read so, or refused; never another image or another mask."""

import contextlib
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from steelnb.data import dataset
from steelnb.data.images import DataError, gray, mask_values

RNG = np.random.default_rng(5)
STEEL = RNG.integers(0, 256, (24, 36), np.uint8)
MASK = np.zeros((24, 36), np.uint8)
MASK[3:9, 20:33] = 255
IDS = (MASK // 255) * np.uint8(2)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(path, rows, depth, colour, *late):
    """A PNG written by hand: rows as bytes of the file, without filters; `late` chunks come after the pixels."""
    height, width = STEEL.shape
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", pixels), *late, chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def packed(values, bits):
    """Rows of values packed into bytes, the first in the upper bits."""
    return np.packbits(np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(len(values), -1), axis=1)


def refused(path, part, read=gray):
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert part in str(caught.value)


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_that_a_viewer_would_turn(tmp_path, orientation):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STEEL, extratags=[(274, "H", 1, orientation, True)])
    if orientation == 1:
        assert (gray(path) == STEEL).all()
    else:
        refused(path, "upright")
    tifffile.imwrite(path, MASK, extratags=[(274, "H", 1, orientation, True)])
    if orientation == 1:
        assert (mask_values(path) == MASK).all()
    else:
        refused(path, "upright", mask_values)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("place", ["png", "late", "text", "xmp", "webp", "webp-xmp", "jpg-xmp"])
def test_orientation_wherever_it_is_written(tmp_path, place, orientation):
    path, picture = tmp_path / f"a.{place.partition('-')[0]}", Image.fromarray(STEEL)
    xmp, tags, info = XMP % orientation, exif(orientation), PngInfo()
    if place == "late":
        png(path := tmp_path / "a.png", STEEL, 8, 0, chunk(b"eXIf", tags.tobytes()[6:]))
    elif place == "text":
        hexed = tags.tobytes().hex()
        info.add_text("Raw profile type exif", f"\nexif\n{len(hexed) // 2:8}\n{hexed}\n")
        picture.save(path := tmp_path / "a.png", pnginfo=info)
    elif place == "xmp":
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        picture.save(path := tmp_path / "a.png", pnginfo=info)
    elif place.endswith("-xmp"):
        picture.convert("RGB").save(path, xmp=xmp, lossless=True)
    else:
        picture.convert("RGB").save(path, exif=tags, lossless=True)
    if orientation == 1:
        assert gray(path).shape == STEEL.shape
    else:
        refused(path, "upright")


def test_a_data_set_with_a_turned_image_is_refused_before_any_pixel_is_read(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", STEEL, extratags=[(274, "H", 1, 3, True)])
    Image.fromarray(MASK).save(tmp_path / "masks" / "a.png")
    refused(tmp_path / "images" / "a.tif", "upright", lambda _: dataset.read_dataset(tmp_path))


# Bits


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_a_png_of_16_bits(tmp_path, colour, channels):
    values = RNG.integers(0, 4096, (24, 36 * channels)).astype(">u2")
    path = png(tmp_path / "a.png", [row.tobytes() for row in values], 16, colour)
    refused(path, "more than 8 bits")
    if colour:  # a gray mask of 16 bits keeps its values
        refused(path, "more than 8 bits", mask_values)
    png(path, STEEL.repeat(channels, 1), 8, colour)
    if colour in (0, 2):
        assert (gray(path) == STEEL).all()


@pytest.mark.parametrize("options", [{"photometric": "rgb"}, {"photometric": "rgb", "planarconfig": "separate"}])
def test_a_colour_tiff_of_16_bits(tmp_path, options):
    values = np.stack([STEEL.astype(np.uint16) * 16] * 3, 0 if "planarconfig" in options else -1)
    tifffile.imwrite(path := tmp_path / "a.tif", values, **options)
    refused(path, "more than 8 bits")
    tifffile.imwrite(path, (values // 16).astype(np.uint8), **options)
    assert (gray(path) == STEEL).all()


def test_a_pixmap_of_12_bits(tmp_path):
    values = np.dstack([STEEL.astype(">u2") * 16] * 3)
    (path := tmp_path / "a.ppm").write_bytes(b"P6\n# a camera's\n36 24\n4095\n" + values.tobytes())
    refused(path, "more than 8 bits")
    path.write_bytes(b"P6\n# a camera's\n36 24 # wide\n255\n" + np.dstack([STEEL] * 3).tobytes())
    assert (gray(path) == STEEL).all()


def test_a_jpeg_2000_of_12_bits(tmp_path):
    Image.fromarray(STEEL.astype(np.uint16) * 16).save(path := tmp_path / "a.jp2")
    refused(path, "more than 8 bits")
    Image.fromarray(np.dstack([STEEL] * 3)).save(path)
    assert (gray(path) == STEEL).all()
    content = bytearray(path.read_bytes())
    size = content.index(b"\xff\x4f\xff\x51") + 42
    content[size : size + 9 : 3] = bytes([11] * 3)  # three components of 12 bits, as the code stream tells
    path.write_bytes(content)
    refused(path, "more than 8 bits")


def test_values_with_a_sign(tmp_path):
    tifffile.imwrite(path := tmp_path / "a.tif", STEEL.view(np.int8))
    refused(path, "sign")


def test_a_format_without_a_rule_is_no_image(tmp_path):
    Image.fromarray(STEEL).save(path := tmp_path / "a.png", format="ICO", sizes=[(36, 24)])
    refused(path, "not a readable image")


# Masks


@pytest.mark.parametrize("bits", [2, 4])
def test_small_class_ids_are_not_scaled(tmp_path, bits):
    refused(png(tmp_path / "a.png", packed(IDS // 2, bits), bits, 0), f"{bits} bits", mask_values)
    (path := tmp_path / "a.pgm").write_bytes(b"P5 36 24 15\n" + (IDS // 2).tobytes())
    refused(path, "4 bits", mask_values)


@pytest.mark.parametrize("largest", [200, 254])
def test_a_graymap_whose_white_is_below_255(tmp_path, largest):
    (path := tmp_path / "a.pgm").write_bytes(b"P5 36 24 %d\n" % largest + (IDS * 10).tobytes())
    refused(path, "bits", mask_values)


def test_bits_that_are_masks(tmp_path):
    assert (mask_values(png(tmp_path / "a.png", packed(MASK // 255, 1), 1, 0)) == MASK // 255).all()
    tifffile.imwrite(path := tmp_path / "a.tif", MASK > 0, photometric="minisblack")
    assert (mask_values(path) == MASK // 255).all()
    tifffile.imwrite(path, MASK > 0)  # tifffile's choice for bool: white is 0, and its reader takes no notice
    refused(path, "white is 0", mask_values)
    tifffile.imwrite(path, MASK, photometric="miniswhite")
    refused(path, "white is 0", mask_values)
    refused(path, "white is 0")
    (path := tmp_path / "a.pgm").write_bytes(b"P4 36 24\n" + packed(MASK // 255, 1).tobytes())
    refused(path, "1 is black", mask_values)


def test_a_bitmap_of_16_bits_a_pixel(tmp_path):
    Image.fromarray(np.dstack([IDS] * 3)).save(path := tmp_path / "a.bmp")
    content = bytearray(path.read_bytes())[:54]
    content[28:30], content[2:6] = struct.pack("<H", 16), struct.pack("<I", 54 + 24 * 36 * 2)
    path.write_bytes(content + (IDS.astype("<u2") * 0b10000100001).tobytes())
    refused(path, "5 bits", mask_values)


@pytest.mark.parametrize(("suffix", "options"), [
    ("webp", {"quality": 80}), ("webp", {"quality": 80, "exif": exif(1)}), ("jp2", {"irreversible": True}),
    ("jp2", {"quality_layers": [20]}), ("tif", {"compression": "jpeg"}), ("jpg", {}),
])
def test_lossy_masks(tmp_path, suffix, options):
    Image.fromarray(IDS).convert("RGB" if suffix == "webp" else "L").save(path := tmp_path / f"a.{suffix}", **options)
    refused(path, "compression changes values", mask_values)
    path.rename(other := tmp_path / "a.png")  # whatever it is called
    refused(other, "compression changes values", mask_values)


@pytest.mark.parametrize(("suffix", "options"), [
    ("webp", {"lossless": True}), ("webp", {"lossless": True, "exif": exif(1)}), ("tif", {}), ("gif", {}),
    ("tif", {"compression": "tiff_lzw"}), ("tif", {"compression": "tiff_adobe_deflate"}), ("bmp", {}), ("png", {}),
    ("tif", {"compression": "packbits"}), ("pgm", {}), ("ppm", {}), ("tif", {"compression": "zstd"}),
])
def test_masks_that_keep_their_values(tmp_path, suffix, options):
    for values in (IDS, MASK):
        colour = suffix in ("webp", "ppm")
        picture, path = Image.fromarray(values).convert("RGB" if colour else "L"), tmp_path / f"a.{suffix}"
        try:
            picture.save(path, **options)
        except OSError:
            pytest.skip("this Pillow has no encoder for it, as Colab's has none for zstd")
        assert (mask_values(path) == values).all()


# Checksums


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"rowsperstrip": 5}])
def test_one_flipped_bit_in_a_deflated_tiff_never_gives_other_pixels(tmp_path, options):
    tifffile.imwrite(path := tmp_path / "a.tif", MASK, compression="zlib", **options)
    assert (mask_values(path) == MASK).all()
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        place, length = (part[0] for part in (file.pages[0].dataoffsets, file.pages[0].databytecounts))
    for bit in range(8 * place, 8 * (place + length)):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(content)
        with contextlib.suppress(DataError):  # refused, or a bit that fills up a byte
            assert (mask_values(path) == MASK).all()


def test_one_flipped_bit_of_a_png_never_gives_other_pixels(tmp_path):
    for values, read in ((STEEL, gray), (IDS, mask_values)):
        Image.fromarray(values).save(path := tmp_path / "a.png")
        whole, passed = path.read_bytes(), 0
        for bit in RNG.choice(8 * len(whole), min(300, 8 * len(whole)), replace=False):
            content = bytearray(whole)
            content[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(content)
            try:
                found = read(path)
            except DataError:
                continue
            passed += 1
            assert (found == values).all(), bit
        assert passed < 100  # those of the end: its checksum, its length


def ones(size, depth, kind, interlaced, cut=0):
    """A PNG by its specification, all of its pixels 1, whose data end `cut` bytes early; and how long they would be."""
    (width, height), channels, rows = size, {0: 1, 2: 3, 3: 1}[kind], []
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    for left, top, across, down in passes if interlaced else [(0, 0, 1, 1)]:
        count = len(range(left, width, across)) * channels
        bits = np.arange(count * depth) % depth == depth - 1
        rows += [b"\0" + np.packbits(bits).tobytes() for _ in range(top, height, down) if count]
    data = b"".join(rows)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced))]
    parts += [chunk(b"PLTE", bytes([0, 0, 0, 255, 0, 0]))] * (kind == 3)
    parts += [chunk(b"IDAT", zlib.compress(data[: len(data) - cut])), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts), len(data)


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize(("depth", "kind"), [(8, 0), (8, 2), (1, 3), (2, 3), (4, 3), (8, 3)])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (15, 12), (3, 9)])
def test_a_png_that_ends_early_is_refused(tmp_path, size, depth, kind, interlaced):
    """After a whole row Pillow takes those that are missing to be 0, without a word."""
    content, length = ones(size, depth, kind, interlaced)
    (tmp_path / "a.png").write_bytes(content)
    read = gray if kind in (0, 2) else mask_values
    whole = read(tmp_path / "a.png")
    assert whole.shape == size[::-1]
    assert (whole == 1).all()
    for cut in range(1, length):
        (tmp_path / "a.png").write_bytes(ones(size, depth, kind, interlaced, cut)[0])
        with pytest.raises(DataError, match=r"a\.png"):
            read(tmp_path / "a.png")
