"""How do time and memory of an audit grow with the number of images, and does it find what was planted?

Sets of 500, 2,000 and 12,568 (Severstal's number) JPEG files of 256×1600. Drawing so much steel would take longer than
auditing it, so each image is one of 300 drawn ones, rolled across the strip by a multiple of 32 pixels, no two by the
same, then mirrored at will, with noise of its own: different steel to whoever compares place by place, and harder than
real steel, whose streaks do not come back. One image in a hundred is a planted copy: in one of the 8 ways, brighter or
darker by up to 10 %, JPEG quality 60. Each audit runs in a process of its own. Other numbers of images: as arguments.
"""

import json
import subprocess
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from steelnb import runtime
from steelnb.audit import duplicates
from steelnb.audit.audit import audit
from steelnb.data import dataset, rle, synthetic_drawing

SIZES = (500, 2_000, 12_568)
BASES, STEP, SHAPE = 300, 32, (256, 1600)


def main() -> None:
    if sys.argv[1:2] == ["--audit"]:
        print(json.dumps(measured(Path(sys.argv[2]))))
        return
    print(runtime.describe())
    bases = [synthetic_drawing.draw(0, number, SHAPE) for number in range(BASES)]
    print("images    read    look  compare  report   total  a image     peak  planted  found  other pairs")
    for images in map(int, sys.argv[1:] or SIZES):
        with tempfile.TemporaryDirectory() as folder:
            planted = write(Path(folder), bases, images)
            command = [sys.executable, __file__, "--audit", folder]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            told = json.loads(run.stdout)
            pairs = {frozenset(pair) for pair in told["pairs"]}
            found, total = pairs & planted, sum(told["seconds"].values())
            seconds = "".join(f"{told['seconds'][part]:6.1f} s" for part in ("read", "look", "compare", "report"))
            print(f"{images:6,}{seconds}{total:6.0f} s{1000 * total / images:6.1f} ms{told['peak']:6.0f} MB"
                  f"{len(planted):9}{len(found):7}{len(pairs - planted):13}", flush=True)


def write(folder: Path, bases: list, images: int) -> set[frozenset[str]]:
    """Writes a set in Severstal's layout; returns its pairs of equal steel."""
    rng, planted, rows = np.random.default_rng(images), set(), []
    (folder / "train_images").mkdir()
    ways = rng.permutation(BASES * (SHAPE[1] // STEP))[:images].tolist()
    copies = set(rng.choice(np.arange(1, images), images // 100, replace=False).tolist())
    for number, way in enumerate(ways):
        name, (base, steps) = f"{number:05}.jpg", divmod(way, SHAPE[1] // STEP)
        image, masks = bases[base]
        if number in copies:
            of = f"{number - 1:05}.jpg"
            image = np.array(Image.open(folder / "train_images" / of)) * rng.uniform(0.9, 1.1)
            image = duplicates.turned(image, duplicates.SYMMETRIES[rng.integers(8)])
            planted.add(frozenset((of, name)))
        else:
            symmetry = duplicates.SYMMETRIES[rng.integers(4)]  # those that keep the size, as labelled images must
            image, masks = (duplicates.turned(np.roll(a, STEP * steps, -1), symmetry) for a in (image, masks))
            image = image + rng.normal(0, 2, SHAPE).astype(np.float32)
            rows += [f"{name},{k},{rle.encode(mask)}" for k, mask in enumerate(masks, 1) if mask.any()]
        pixels = np.ascontiguousarray(image.clip(0, 255).astype(np.uint8))
        Image.fromarray(pixels).save(folder / "train_images" / name, quality=60 if number in copies else 90)
    (folder / "train.csv").write_text("\n".join(["ImageId,ClassId,EncodedPixels", *rows]) + "\n")
    return planted


def measured(folder: Path) -> dict:
    """Seconds of each part of an audit, its peak memory in MB, and the pairs that it found."""
    comparing = []

    class Timed(duplicates.DuplicateFinder):
        def pairs(self, *arguments):
            started = time.perf_counter()
            found = super().pairs(*arguments)
            comparing.append(time.perf_counter() - started)
            return found

    duplicates.DuplicateFinder = Timed
    times = [time.perf_counter()]
    steel = dataset.read_dataset(folder)
    times.append(time.perf_counter())
    found = audit(steel)
    times.append(time.perf_counter())
    found.write(folder / "audit")
    times.append(time.perf_counter())
    read, looked, report = np.diff(times).tolist()
    parts = {"read": read, "look": looked - comparing[0], "compare": comparing[0], "report": report}
    pairs = [pair for f in found.findings if f.kind.startswith("duplicate") for pair in combinations(f.images, 2)]
    return {"seconds": parts, "peak": peak(), "pairs": pairs}


def peak() -> float:
    """Peak memory of this process, MB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the process that started this one
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
