"""Properties of an image file that change its pixels' meaning, and that Pillow does not report.

Pillow cuts 16-bit colours to their upper 8 bits, scales 4-bit class ids by 17, turns a TIFF by its orientation tag and
inverts one whose white is 0, all silently. Each function returns the problem and its remedy as text, or "".
"""

import re
import struct
import zlib
from pathlib import Path

from PIL import Image

TIFF_BITS, TIFF_COMPRESSION, TIFF_WHITE_IS, TIFF_SIGN, ORIENTATION = 258, 259, 262, 339, 274
TIFF_LOSSLESS = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000)  # none, fax, LZW, deflate, PackBits, LZMA, Zstandard
TIFF_DEFLATE, TIFF_STRIPS, TIFF_TILES = (8, 32946), (273, 279), (324, 325)  # tags of offsets and lengths
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by kind of colour
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
HEAD = 4096  # bytes that contain the header of a PNG, a BMP and a PGM


def bits(path: Path, picture: Image.Image) -> int:
    """Bits per value in the file, before Pillow's conversions: 8 only if values 0 … 255 arrive unchanged."""
    with path.open("rb") as file:
        head = file.read(HEAD)
        if picture.format == "PNG":
            return head[24]
        if picture.format == "TIFF":
            return max(picture.tag_v2.get(TIFF_BITS, (1,)))
        if picture.format == "BMP":  # 16 bits per pixel are 5 per colour
            return 5 if head[28] == 16 else 8
        if picture.format == "PPM":  # values are scaled so that the header's largest becomes 255
            magic, *_, largest = [*re.sub(rb"#[^\r\n]*", b" ", head).split(None, 4)[:4]]
            if magic in (b"P1", b"P4"):
                return 1
            return 8 if int(largest) == 255 else min(int(largest).bit_length(), 7) if int(largest) < 255 else 16
        if picture.format == "JPEG2000":
            content = head + file.read()
            start = content.index(b"\xff\x4f\xff\x51") + 40  # the number of components, then 3 bytes for each
            count = int.from_bytes(content[start : start + 2], "big")
            return max(1 + (size & 0x7F) for size in content[start + 2 : start + 2 + 3 * count : 3])
    return 8


def not_as_they_are(path: Path, picture: Image.Image, mask: bool = False) -> str:
    """Why the decoded pixels of an image, or of a mask, would differ from those of the file."""
    depth, wide = bits(path, picture), picture.mode.startswith(("I", "F"))  # a wide mode keeps the values of a mask
    if (wide and not mask) or (depth > 8 and not wide):
        return f"more than 8 bits per value (mode {picture.mode}); scale it to 0–255 first"
    if mask and picture.mode != "P" and depth not in (1, 8, 16):
        return f"a mask of {depth} bits per pixel, whose values Pillow would scale; save it with 8 bits"
    if picture.format == "TIFF":
        if picture.tag_v2.get(TIFF_WHITE_IS, 0) == 0:
            return "white is 0 in this TIFF (tag 262); save it with black as 0 (tifffile: photometric='minisblack')"
        if any(sign != 1 for sign in picture.tag_v2.get(TIFF_SIGN, (1,))) and picture.mode != "F":
            return "signed values (tag 339); save it with values 0–255"
    elif mask and picture.format == "PPM" and depth == 1 and picture.mode == "1":
        return "a PBM mask, in which 1 is black; save it as PNG"
    return ""


def turned(picture: Image.Image, decoded: bool = False) -> str:
    """Whether a viewer would turn it, by EXIF, XMP or a TIFF tag. To be called before decoding, since Pillow then turns
    a TIFF and drops the tag, and after it, since the EXIF data of a PNG may follow the pixels."""
    if picture.format == "PNG" and "exif" not in picture.info and not decoded:
        return ""  # reading it would decode the image
    tags = getattr(picture, "tag_v2", {})
    if picture.getexif().get(ORIENTATION, 1) not in (0, 1) or tags.get(ORIENTATION, 1) not in (0, 1):
        return "rotated by its EXIF orientation, so its mask may not match; save it upright"
    return ""


def lossy(path: Path, picture: Image.Image) -> str:
    """Whether its compression may have changed a mask's values; a JPEG 2000 file always counts as lossy."""
    if picture.format == "TIFF" and picture.tag_v2.get(TIFF_COMPRESSION, 1) not in TIFF_LOSSLESS:
        how = f"TIFF ({picture.info.get('compression', 'of an unknown method')})"
    elif picture.format in ("JPEG", "MPO", "JPEG2000") or (
        picture.format == "WEBP" and b"VP8 " in _chunks(path.read_bytes())
    ):
        how = {"MPO": "JPEG", "JPEG2000": "JPEG 2000", "WEBP": "lossy WebP"}.get(picture.format, picture.format)
    else:
        return ""
    return f"a {how} mask: compression changes values along every edge; export it as PNG"


def verify(path: Path, picture: Image.Image) -> None:
    """Checks a PNG's length and the checksums of a PNG and of a deflated TIFF, which their decoders may ignore.

    Raises SyntaxError, zlib.error and others if the file is damaged.
    """
    if picture.format == "PNG":
        with Image.open(path, formats=("PNG",)) as again:  # verify() makes an image unusable
            again.verify()
        _refuse_short(path.read_bytes())
    elif picture.format == "TIFF" and picture.tag_v2.get(TIFF_COMPRESSION) in TIFF_DEFLATE:
        tags = TIFF_STRIPS if TIFF_STRIPS[0] in picture.tag_v2 else TIFF_TILES
        with path.open("rb") as file:
            for start, length in zip(*(picture.tag_v2[tag] for tag in tags), strict=True):
                file.seek(start)
                zlib.decompress(file.read(length))


def _refuse_short(content: bytes) -> None:
    """Raises SyntaxError for a PNG that ends early: after a whole row Pillow takes the others to be 0."""
    place, packed, header = 8, [], b""
    while place + 8 <= len(content):
        size, name = int.from_bytes(content[place : place + 4]), content[place + 4 : place + 8]
        header = content[place + 8 : place + 21] if name == b"IHDR" else header
        packed += [content[place + 8 : place + 8 + size]] * (name == b"IDAT")
        place += 12 + size
    width, height, depth, kind, *_, interlaced = struct.unpack(">IIBBBBB", header)
    bits, wanted = depth * PNG_CHANNELS[kind], 0
    for left, top, across, down in ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((left - width) // across), -((top - height) // down)
        wanted += rows * (1 + -(-columns * bits // 8)) if columns > 0 else 0
    found = len(zlib.decompressobj().decompress(b"".join(packed), wanted))  # no more of it, however much there is
    if found < wanted:
        raise SyntaxError(f"its pixels end after {found} of {wanted} bytes")


def _chunks(content: bytes) -> set[bytes]:
    """The names of a WebP file's chunks."""
    found, place = set(), 12
    while place + 8 <= len(content):
        found.add(content[place : place + 4])
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        place += 8 + size + size % 2
    return found
