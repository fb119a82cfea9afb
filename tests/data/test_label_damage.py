"""Damaged and random labels end in an error that names the file, or in the masks that an independent reader finds.

Run as a script it takes the number of inputs for each format: ``python tests/data/test_label_damage.py 100000``.
"""

import base64
import io
import json
import struct
import sys
import tempfile
import zlib
from collections import Counter
from pathlib import Path
from xml.dom import minidom

import numpy as np
import pytest
from PIL import Image
from published import publish
from skimage.draw import polygon2mask

from steelnb.data import dataset
from steelnb.data.dataset import DataError

SHAPE = (12, 15)
FORMATS = ("coco polygons", "coco counts", "coco compressed", "labelme polygons", "labelme masks", "cvat polygons",
           "cvat masks", "yolo", "palette", "palette sealed")  # sealed: damaged, its checksums right all the same


def masks(rng):
    kind = rng.integers(0, 2, SHAPE)
    blob = np.kron(rng.random((4, 5)) < 0.5, np.ones((3, 3), bool))
    return {"a.png": {"crack": blob & (kind == 0), "pit": np.roll(blob, 1, 0) & (kind == 1)}}


def labels_of(folder, writer):
    return next(p for p in sorted(folder.rglob("*")) if p.suffix in (".json", ".xml", ".txt")
                or p.parent.name == "masks")


def damaged(content, rng):
    """The bytes with one to three changes: bits, ranges cut out, doubled or moved, other numbers, an early end."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        size = max(len(content), 1)
        at, length = int(rng.integers(size)), int(rng.integers(1, 9))
        what = rng.integers(8)
        if what == 0:
            content[at : at + 1] = bytes([content[at] ^ (1 << int(rng.integers(8)))]) if content else b""
        elif what == 1:
            del content[at : at + length]
        elif what == 2:
            content[at:at] = content[at : at + length]
        elif what == 3:
            del content[at:]
        elif what == 4:
            content[at:at] = rng.bytes(length)
        elif what == 5:
            to = int(rng.integers(size))
            content[at : at + length], content[to : to + length] = content[to : to + length], content[at : at + length]
        else:  # a digit becomes another number
            digits = [k for k, byte in enumerate(content) if 48 <= byte < 58]
            if digits:
                k = digits[int(rng.integers(len(digits)))]
                number = rng.choice(["-1", "0", "7", "1e9", "0.5", "99999999999999999999", "NaN", "null", '"x"', "[]"])
                content[k : k + 1] = str(number).encode()
    return bytes(content)


def chunks(content):
    """The chunks of a PNG, by name; IDAT as rows of bytes."""
    found, at = {}, 8
    while at < len(content):
        (length,), name = struct.unpack(">I", content[at : at + 4]), content[at + 4 : at + 8]
        found[name] = found.get(name, b"") + content[at + 8 : at + 8 + length]
        at += 12 + length
    return found | {b"IDAT": zlib.decompress(found[b"IDAT"])}


def sealed(parts):
    """The PNG of such chunks, with checksums."""
    content = b"\x89PNG\r\n\x1a\n"
    for name, payload in parts.items():
        payload = zlib.compress(payload, 1) if name == b"IDAT" else payload
        content += struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))
    return content


def damaged_below(content, rng):
    parts = chunks(content)
    name = (b"IDAT", b"IDAT", b"IDAT", b"PLTE", b"PLTE", b"IHDR")[rng.integers(6)]
    return sealed(parts | {name: damaged(parts[name], rng)})


def unsealed(content):
    """Class → mask of an indexed or gray PNG without interlace, by its specification."""
    parts = chunks(content)
    width, height, depth, kind, *rest = struct.unpack(">IIBBBBB", parts[b"IHDR"][:13])
    assert rest[1:] == [0, 0]
    assert kind == 3 or (kind, depth) == (0, 8)
    stride = -(-width * depth // 8)
    above, rows = [0] * stride, []
    for start in range(0, height * (stride + 1), stride + 1):
        how, row = parts[b"IDAT"][start], [*parts[b"IDAT"][start + 1 : start + 1 + stride]]
        assert len(row) == stride
        for k in range(stride):
            a, b, c = row[k - 1] if k else 0, above[k], above[k - 1] if k else 0
            nearest = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            row[k] = row[k] + (0, a, b, (a + b) // 2, nearest)[how] & 255
        rows.append(above := row)
    bits = np.unpackbits(np.array(rows, np.uint8), axis=1)[:, : width * depth].reshape(height, width, depth)
    values = bits @ (1 << np.arange(depth)[::-1])
    if kind == 3:
        palette = np.frombuffer(parts[b"PLTE"][: len(parts[b"PLTE"]) // 3 * 3], np.uint8).reshape(-1, 3)
        assert values.max() < len(palette)
        if (palette[values] == palette[values][..., :1]).all():
            values = palette[values][..., 0]
    if {*np.unique(values)} <= {0, 255}:
        values = values // 255
    return {k: values == k for k in np.unique(values).tolist() if k}


def filled(points, unsure):
    """Pixels whose centre lies inside, by scikit-image; those on a line, to nine digits, go to `unsure`."""
    points = np.asarray(points, float).reshape(-1, 2)[:, ::-1] - 0.5
    moved = [polygon2mask(SHAPE, points + np.array(by) * 1e-9) for by in ((3, 7), (-3, 7), (3, -7), (-3, -7))]
    unsure |= np.any(moved, 0) & ~np.all(moved, 0)
    return moved[0]


def runs(counts, order):
    values = [pixel for k, count in enumerate(counts) for pixel in [k % 2] * count]
    return np.array(values, bool).reshape(SHAPE[::-1]).T if order == "F" else values


def reference(folder, writer, unsure):
    """Class name → mask, as another reader would have it; any exception where the file makes no sense to it."""
    found = {}

    def add(name, mask):
        found[name] = found.get(name, np.zeros(SHAPE, bool)) | mask

    file = labels_of(folder, writer)
    if writer.startswith("coco"):
        document = json.loads(file.read_text("utf-8-sig"))
        title = {c["id"]: c["name"] for c in document["categories"]}
        for item in document["annotations"]:
            segmentation = item["segmentation"]
            if isinstance(segmentation, list):
                for part in segmentation:
                    add(title[item["category_id"]], filled(part, unsure))
            else:
                counts = segmentation["counts"]
                add(title[item["category_id"]], runs(unpacked(counts) if isinstance(counts, str) else counts, "F"))
    elif writer.startswith("labelme"):
        for item in json.loads(file.read_text("utf-8-sig"))["shapes"]:
            points = np.array(item["points"], float)
            mask = np.zeros(SHAPE, bool)
            if (item.get("shape_type") or "polygon") == "mask":
                (left, top), (right, bottom) = points.astype(int)
                crop = np.array(Image.open(io.BytesIO(base64.b64decode(item["mask"])))) > 0
                mask[top : bottom + 1, left : right + 1] = crop
            else:
                mask = filled(points, unsure)
            add(item["label"], mask)
        found.pop("_background_", None)
    elif writer.startswith("cvat"):
        for (picture,) in [minidom.parse(str(file)).getElementsByTagName("image")]:
            for item in (n for n in picture.childNodes if n.nodeType == n.ELEMENT_NODE):
                if item.tagName == "polygon":
                    points = [c for p in item.getAttribute("points").split(";") for c in p.split(",")]
                    add(item.getAttribute("label"), filled(points, unsure))
                elif item.tagName == "mask":
                    left, top, width, height = (int(item.getAttribute(k)) for k in ("left", "top", "width", "height"))
                    mask = np.zeros(SHAPE, bool)
                    counts = [int(c) for c in item.getAttribute("rle").split(",")]
                    mask[top : top + height, left : left + width] = np.reshape(runs(counts, "C"), (height, width))
                    add(item.getAttribute("label"), mask)
    elif writer == "yolo":
        title = ["crack", "pit"]
        for line in file.read_text("utf-8-sig").split("\n"):
            if fields := line.split():
                shares = np.array(fields[1:], float).clip(0, 1).reshape(-1, 2)
                add(title[int(fields[0])], filled(shares * SHAPE[::-1], unsure))
    return found


def unpacked(text):
    counts, at = [], 0
    while at < len(text):
        bits = []
        while True:
            byte = ord(text[at]) - 48
            assert 0 <= byte < 64
            bits.append(byte)
            at += 1
            if not byte & 32:
                break
        value = sum((b & 31) << 5 * k for k, b in enumerate(bits)) - (1 << 5 * len(bits) if bits[-1] & 16 else 0)
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts


def outcome(folder, content, writer, truth):
    """ "refused" or "read": a damaged file has its error, or what another reader finds in it. Anything else raises."""
    file = labels_of(folder, writer)
    file.write_bytes(content)
    try:
        data = dataset.read_dataset(folder, nested="filled")
    except DataError as error:
        return "refused" if str(folder) in str(error) else f"refused without a name: {error}"
    unsure = np.zeros(SHAPE, bool)
    if writer == "palette sealed":
        wanted, found = unsealed(content), dict(zip(data.classes, data.masks("a.png"), strict=True))
        found = {k: mask for k, mask in found.items() if mask.any()}
    elif writer == "palette":
        wanted = {k: mask for k, mask in enumerate(truth.values(), 1) if mask.any()}
        found = {c: m for c, m in zip(data.classes, data.masks("a.png"), strict=True) if m.any()}
    else:
        wanted = {name: mask for name, mask in reference(folder, writer, unsure).items() if (mask & ~unsure).any()}
        titles = map(data.class_name, data.classes)
        found = {name: mask for name, mask in zip(titles, data.masks("a.png"), strict=True)
                 if (mask & ~unsure).any()}
    assert found.keys() == wanted.keys()
    assert not any(((found[name] != wanted[name]) & ~unsure).any() for name in wanted)
    return "read"


def trial(folder, writer, count, seed=0):
    """Outcomes of `count` inputs: one in ten is random bytes, the others are damaged files of ever new masks."""
    rng, counts = np.random.default_rng(seed), Counter()
    for number in range(count):
        if number % 100 == 0:
            each = masks(rng)
            for old in folder.rglob("*"):
                if old.is_file():
                    old.unlink()
            publish(folder, each, writer.removesuffix(" sealed"))
            content = labels_of(folder, writer).read_bytes()
        damage = damaged_below if writer == "palette sealed" else damaged
        wrong = rng.bytes(int(rng.integers(0, 300))) if number % 10 == 0 else damage(content, rng)
        try:
            counts[outcome(folder, wrong, writer, each["a.png"])] += 1
        except Exception as error:
            raise AssertionError(f"{writer}, input {number} of seed {seed}: {wrong!r}") from error
    return counts


@pytest.mark.parametrize("writer", FORMATS)
def test_damage_is_told_or_does_no_harm(tmp_path, writer):
    counts = trial(tmp_path, writer, 150)
    assert set(counts) <= {"refused", "read"}
    assert counts["refused"] > 50
    assert counts["read"] or writer in ("palette", "coco counts")


if __name__ == "__main__":
    for chosen in sys.argv[2:] or FORMATS:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
            print(chosen, dict(trial(Path(place), chosen, int(sys.argv[1]), seed=1)), flush=True)
