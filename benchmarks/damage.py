"""Does one flipped bit in a file go unnoticed? Every format that a data set or a strip may be read from.

    python benchmarks/damage.py [--flips 1000] [--only png] [--listed] [--written] [--write]

A file is written, one bit of it flipped at random, and read again: the result is the same, or the file is refused (or,
for a cache, made again), or pixels, masks or labels are other ones. A format without a checksum cannot tell the last
from a true file: PNG, zip and our own cache have one, a deflated TIFF has one for its pixels; JPEG, BMP, GIF, WebP, raw
bytes and text have none, and what is counted here is how much of a damage their structure shows. --listed: the same
files beside a SHA256SUMS, which is compared first, as every command does. --written: what the library writes, read as
it does; what it reports and does not use counts as refused.
"""

import argparse
import io
import json
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from on_disk import outputs
from PIL import Image
from tqdm import tqdm

from steelnb import runtime
from steelnb.data import archives, digests, rle, synthetic_drawing
from steelnb.data.dataset import read_dataset
from steelnb.data.image_cache import ImageCache
from steelnb.data.images import gray, mask_values
from steelnb.prediction import strips

SHAPE = (48, 128)
CHECKED = ("image png", "mask png", "mask png palette", "archive zip", "image cache")  # 0 others


class Form(NamedTuple):
    """A file as bytes, its name, and a function that reads it into something comparable."""

    content: bytes
    name: str
    read: Callable[[Path], object]


def saved(picture: Image.Image, kind: str, **options) -> bytes:
    """An image file as bytes."""
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def forms(folder: Path) -> Iterator[tuple[str, Form]]:
    """Every form, by name. folder: for files that are read together with the damaged one."""
    drawn = (synthetic_drawing.draw(5, k, SHAPE) for k in range(99))
    image, masks = next((image, masks) for image, masks in drawn if masks.any(0).mean() > 0.1)
    picture, mask = Image.fromarray(image), masks.any(0)
    ids = (masks * np.arange(1, len(masks) + 1)[:, None, None]).max(0).astype(np.uint8)

    def of_its_size(array: np.ndarray) -> bytes:
        if array.shape != SHAPE:
            raise ValueError("a data set refuses an image and a mask of two sizes")
        return array.tobytes()

    def pixels(path: Path) -> bytes:
        return of_its_size(gray(path))

    def values(path: Path) -> bytes:
        return of_its_size(mask_values(path))

    kinds = (
        ("jpg", "JPEG", {"quality": 90}), ("png", "PNG", {}), ("bmp", "BMP", {}), ("gif", "GIF", {}),
        ("pgm", "PPM", {}), ("tif", "TIFF", {}), ("tif lzw", "TIFF", {"compression": "tiff_lzw"}),
        ("tif deflate", "TIFF", {"compression": "tiff_adobe_deflate"}), ("jp2", "JPEG2000", {}),
        ("webp", "WEBP", {"quality": 90}), ("webp lossless", "WEBP", {"lossless": True}),
    )
    for name, kind, options in kinds:
        yield f"image {name}", Form(saved(picture.convert("RGB") if kind == "WEBP" else picture, kind, **options),
                                    f"a.{name.split()[0]}", pixels)
        if name not in ("jpg", "jp2", "webp"):
            for what, shown in (("mask", Image.fromarray(mask.view(np.uint8) * 255)), ("ids", Image.fromarray(ids))):
                yield f"{what} {name}", Form(saved(shown.convert("RGB") if kind == "WEBP" else shown, kind, **options),
                                             f"a.{name.split()[0]}", values)
    coloured = Image.fromarray(ids)
    coloured.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200, 200, 200, 0])
    yield "mask png palette", Form(saved(coloured, "PNG"), "a.png", values)

    (folder / "train_images").mkdir()
    picture.save(folder / "train_images" / "a.png")
    table = "ImageId,ClassId,EncodedPixels\n" + "".join(
        f"a.png,{k},{rle.encode(one)}\n" for k, one in enumerate(masks, 1) if one.any())

    def labels(path: Path) -> tuple:
        shutil.copy(path, folder / "train.csv")
        data = read_dataset(folder)
        return tuple(data.rows.itertuples(index=False, name=None)), data.masks("a.png").tobytes()

    yield "train.csv", Form(table.encode(), "train.csv", labels)

    def strip(path: Path) -> bytes:
        return strips.open_strip(path, SHAPE)[:, :].tobytes()

    content = io.BytesIO()
    np.save(content, image)
    yield "strip npy", Form(content.getvalue(), "a.npy", strip)
    yield "strip tif", Form(saved(picture, "TIFF"), "a.tif", strip)

    def content_of(path: Path) -> tuple:
        made = archives.unpacked(path)
        found = tuple((p.relative_to(made).as_posix(), p.read_bytes()) for p in sorted(made.rglob("*")) if p.is_file())
        shutil.rmtree(made)
        return found

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("train.csv", table)
        file.write(folder / "train_images" / "a.png", "train_images/a.png")
    yield "archive zip", Form(content.getvalue(), "a.zip", content_of)
    (folder / "train.csv").write_text(table)
    data = read_dataset(folder)
    cache = ImageCache(data, folder.parent / "cache")

    def cached(path: Path) -> bytes:
        cache.path.unlink()
        shutil.copy(path, cache.path)
        return ImageCache(data, folder.parent / "cache").pixels.tobytes()

    yield "image cache", Form(cache.path.read_bytes(), "a.uint8", cached)


def damage(
    form: Form, flips: int, folder: Path, seed: int = 0, progress: str = "", listed: bool = False
) -> dict[str, int]:
    """How often a file with one flipped bit gave the same result, was refused, or gave another result."""
    path, rng = folder / form.name, np.random.default_rng(seed)
    path.write_bytes(form.content)
    if listed:
        digests.write(folder, {path: digests.of_file(path)})
    expected, counts = form.read(path), {"same": 0, "refused": 0, "other": 0}
    for bit in tqdm(rng.integers(8 * len(form.content), size=flips), progress, disable=not progress, leave=False):
        content = bytearray(form.content)
        content[bit // 8] ^= 1 << int(bit % 8)
        path.write_bytes(content)
        try:
            if listed:
                digests.check(folder)
            counts["same" if form.read(path) == expected else "other"] += 1
        except ValueError:  # DataError: one line that names the file
            counts["refused"] += 1
    path.unlink()
    return counts


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flips", type=int, default=1000, metavar="N", help="of each form (default 1000)")
    parser.add_argument("--only", default="", metavar="WORD", help="forms whose name has this word in it")
    parser.add_argument("--listed", action="store_true", help="beside a SHA256SUMS")
    parser.add_argument("--written", action="store_true", help="what the library writes")
    parser.add_argument("--write", action="store_true", help="leave results/damage[_listed|_written]-DATE.json")
    options = parser.parse_args(arguments)
    print(f"of {options.flips} files with one flipped bit, a form\n{'':<20}{'same':>8}{'refused':>9}{'other':>8}")
    found = {}
    with tempfile.TemporaryDirectory() as place:
        (folder := Path(place) / "set").mkdir()
        (damaged := Path(place) / "damaged").mkdir()
        written = ((name, Form(*form)) for name, *form in outputs.outputs(folder))
        for name, form in written if options.written else forms(folder):
            if options.only in name:
                found[name] = damage(form, options.flips, damaged, progress=name, listed=options.listed)
                print("{:<20}{same:>8}{refused:>9}{other:>8}".format(name, **found[name]), flush=True)
    checked = found if options.listed or options.written else CHECKED
    silent = [name for name in checked if found.get(name, {"other": 0})["other"]]
    print("with a checksum, never another result:", f"not so for {', '.join(silent)}" if silent else "so it is")
    if options.write:
        made = {"made": time.strftime("%Y-%m-%d"), "on": runtime.describe(), "flips": options.flips, "forms": found}
        kind = "_listed" * options.listed + "_written" * options.written
        path = Path(__file__).parent / "results" / f"damage{kind}-{made['made']}.json"
        path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"written: benchmarks/results/{path.name}")
    return 1 if silent else 0


if __name__ == "__main__":
    raise SystemExit(main())
