"""How fast is run-length text read and written? Ours beside the usual Kaggle functions and pycocotools.

    python benchmarks/rle.py [--rows 300] [--repeats 5] [--labels ../shared/data/severstal_labels] [--write]

Rows are real Severstal labels where the folder of labels is there, else rows of masks made of random ellipses (the
first line says which). Every contender handles each row in turn, so that a busy moment of the machine hits all of
them; a row counts with the median of its repeats, a contender with the median of its rows. Every answer is checked
against ours before the clock starts.

Each contender gets the memory layout that it likes best. pycocotools has no Severstal text of its own: reading means
text → counts → mask; writing ends at its compressed bytes, short of the text, which is less work than ours.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import pandas as pd

from steelnb import runtime
from steelnb.data import rle

try:
    from pycocotools import mask as coco
except ImportError:
    coco = None

SHAPE = (256, 1600)
LIKE = {  # of ours, the line whose masks lie in memory as the peer's do
    "pycocotools to bytes, F uint8": "steelnb, F uint8",
    "pycocotools to bytes, C uint8": "steelnb, C bool",
}
LABELS = Path(__file__).resolve().parents[2] / "shared/data/severstal_labels"


def kaggle_decode(text):
    """The function that most kernels of the competition share."""
    numbers = text.split()
    starts, lengths = (np.asarray(x, dtype=int) for x in (numbers[0:][::2], numbers[1:][::2]))
    starts -= 1
    img = np.zeros(SHAPE[0] * SHAPE[1], dtype=np.uint8)
    for lo, hi in zip(starts, starts + lengths, strict=True):
        img[lo:hi] = 1
    return img.reshape(SHAPE[1], SHAPE[0]).T


def kaggle_encode(mask):
    """Its companion."""
    pixels = mask.T.flatten()
    pixels = np.concatenate([[0], pixels, [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(x) for x in runs)


def coco_counts(text):
    """pycocotools' uncompressed form: lengths of background and defect in turn."""
    numbers = np.array(text.split(), np.int64)
    edges = np.stack([numbers[::2] - 1, numbers[::2] - 1 + numbers[1::2]], axis=1).ravel()
    counts = np.diff(edges, prepend=0, append=SHAPE[0] * SHAPE[1])
    return {"size": list(SHAPE), "counts": counts.tolist()}


def coco_decode(text):
    return coco.decode(coco.frPyObjects(coco_counts(text), *SHAPE))


def decoders():
    """{name: (function, its input made from a row's text)}."""
    table = {
        "steelnb": (rle.decode, str),
        "usual Kaggle loop": (kaggle_decode, str),
    }
    if coco:
        table["pycocotools, from text"] = (coco_decode, str)
        table["pycocotools, from its own bytes"] = (coco.decode, lambda text: coco.encode(coco_decode(text)))
    return table


def encoders():
    """{name: (function, its input made from a row's text)}; F: column-major as the text, C: row-major as most masks."""
    c = np.ascontiguousarray
    table = {
        "steelnb, F bool": (rle.encode, rle.decode),
        "steelnb, C bool": (rle.encode, lambda text: c(rle.decode(text))),
        "steelnb, F uint8": (rle.encode, kaggle_decode),
        "usual Kaggle function, F uint8": (kaggle_encode, kaggle_decode),
        "usual Kaggle function, C uint8": (kaggle_encode, lambda text: c(kaggle_decode(text))),
    }
    if coco:
        table["pycocotools to bytes, F uint8"] = (coco.encode, kaggle_decode)
        table["pycocotools to bytes, C uint8"] = (lambda mask: coco.encode(np.asfortranarray(mask)),
                                                  lambda text: c(kaggle_decode(text)))
    return table


def check(texts):
    """Checks that every contender gives the same result as ours, the row itself."""
    for text in texts:
        mask = rle.decode(text, SHAPE)
        for name, (decode, prepare) in decoders().items():
            assert np.array_equal(decode(prepare(text)), mask), f"{name}: another mask of {text[:40]!r}"
        for name, (encode, prepare) in encoders().items():
            back = encode(prepare(text))
            same = back == text if isinstance(back, str) else np.array_equal(coco.decode(back), mask)
            assert same, f"{name}: another text of {text[:40]!r}"


def measure(contenders, texts, repeats):
    """{name: median µs per row}: contenders take turns in random order, so none always follows the same other."""
    names, took, rng = list(contenders), {name: [] for name in contenders}, np.random.default_rng(0)
    for text in texts:
        inputs = {name: prepare(text) for name, (_, prepare) in contenders.items()}
        times = {name: [] for name in names}
        for _ in range(repeats):
            for name in rng.permutation(names):
                function = contenders[name][0]
                start = time.perf_counter()
                function(inputs[name])
                times[name].append(time.perf_counter() - start)
        for name in names:
            took[name].append(1e6 * np.median(times[name]))
    return {name: float(np.median(values)) for name, values in took.items()}


def show(title, medians):
    reference = next(iter(medians.values()))
    print(f"\n{title:<34} {'median µs':>10} {'× steelnb':>10}")
    for name, median in medians.items():
        print(f"{name:<34} {median:>10.0f} {median / reference:>10.2f}")
    for name in [name for name in medians if name.startswith("pycocotools")]:
        like = LIKE.get(name, "steelnb")
        ratio = medians[name] / medians[like]
        print(f"{like} over {name}: {ratio:.2f} (above 1): {'reached' if ratio > 1 else 'missed: its loop is in C'}")


def real_rows(labels, count):
    """`count` rows of the real labels, spread evenly over the file, or None without it."""
    file = labels / "train_partial.csv"
    if not file.is_file():
        return None
    rows = pd.read_csv(file)["EncodedPixels"].tolist()
    return [rows[i] for i in np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def made_rows(count):
    """Rows of masks of one to six random ellipses."""
    rng, texts = np.random.default_rng(0), []
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    for _ in range(count):
        mask = np.zeros(SHAPE, bool)
        for _ in range(rng.integers(1, 7)):
            top, left = rng.integers(0, SHAPE)
            mask |= ((y - top) / rng.uniform(10, 90)) ** 2 + ((x - left) / rng.uniform(8, 70)) ** 2 < 1
        texts.append(rle.encode(mask))
    return texts


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--labels", type=Path, default=LABELS)
    parser.add_argument("--write", action="store_true", help="leave results/rle-DATE.json")
    args = parser.parse_args()
    texts = real_rows(args.labels, args.rows)
    kind = "real Severstal rows" if texts else f"rows of random ellipses (no real labels in {args.labels})"
    texts = texts or made_rows(args.rows)
    runs = np.median([len(text.split()) / 2 for text in texts])
    print(f"{len(texts)} {kind}, {SHAPE[0]}×{SHAPE[1]} px, median {runs:.0f} runs; median of {args.repeats} repeats")
    print(f"{runtime.describe()}\n{processor()}; NumPy {np.__version__}")
    if not coco:
        print("pycocotools is not installed (pip install -c constraints.txt -e '.[peers]'); the rest:")
    check(texts)
    results = {"made": time.strftime("%Y-%m-%d"), "on": runtime.describe(), "rows": len(texts),
               "kind": kind.split(" (")[0]}
    for title, table in (("decode: text → mask", decoders()), ("encode: mask → text", encoders())):
        results[title] = measure(table, texts, args.repeats)
        show(title, results[title])
    if args.write:
        path = Path(__file__).parent / "results" / f"rle-{results['made']}.json"
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"written: benchmarks/results/{path.name}")


if __name__ == "__main__":
    main()
