"""What does a label format cost: the Dice that a perfect network could reach, had it learnt from labels kept so?

Real labels go through each format and back. A network that answers exactly with what came back scores, against the
labels as they were, the Dice given here: nobody who trains on these files can do better, on average, than this.

Labels: every fourth row of 4,130 of Severstal's (one class of one image, 256×1600), and all 900 of SD-saliency-900
(200×200). Forms, read back at pixel centres by `steelnb.data.polygons` unless they say otherwise:

- `run-lengths`: COCO's, compressed (LabelMe's and CVAT's masks and indexed PNG keep pixels likewise);
- `parts and holes`: outlines half-way between pixels, holes told apart, simplified by 0, 1 or 2 pixels
  (Douglas-Peucker);
- `parts`: the same without holes, as COCO's polygons and one line of YOLO for each part have it;
- `one part`: the largest outline alone, as a format of one polygon a label has it;
- `pixel centres`: outlines through the centres of the border's pixels, as OpenCV finds them, read as COCO defines
  coordinates;
- `outline drawn`: exact outlines, filled with the line drawn too, as LabelMe's own export does;
- `bilinear`, `nearest`: masks of 0 and 255 resized to a half, or a quarter, and back, cut above 127.

Prediction: run-lengths and `parts and holes` at 0 are exact. Holes cost less than 0.005 of Dice on both sets, one part
more than 0.1 on Severstal. Two pixels of tolerance cost 0.02 on Severstal and 0.05 on SD-saliency, whose scratches are
thin; pixel centres 0.02 to 0.05; bilinear resizing to a half 0.01 to 0.03, to a quarter twice that.

Decision rule: a form is lossless where every label comes back; it costs where the 95 % interval of its mean Dice lies
below 0.99. README recommends lossless forms, and names those that cost.
"""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from skimage.measure import find_contours

from steelnb.data import coco, polygons, rle

HOURS = 0.3
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SHAPE, EVERY = (256, 1600), 4


def cells() -> list[dict]:
    forms = [("run-lengths", 0), *((form, t) for t in (0, 1, 2) for form in ("parts and holes", "parts", "one part")),
             ("pixel centres", 0), ("outline drawn", 0), ("bilinear", 2), ("bilinear", 4), ("nearest", 2),
             ("nearest", 4)]
    return [{"labels": labels, "form": form, "amount": amount, "seed": 0}
            for form, amount in forms for labels in ("SD-saliency-900", "Severstal")]


def run(setting: dict) -> dict:
    there_and_back = FORMS[setting["form"]]
    scores = np.array([dice(mask, there_and_back(mask, setting["amount"])) for mask in masks(setting["labels"])])
    return {"n": len(scores), "dice": round(float(scores.mean()), 6), "sd": round(float(scores.std(ddof=1)), 6),
            "p5": round(float(np.quantile(scores, 0.05)), 6), "exact": int((scores == 1).sum()),
            "lost": int((scores == 0).sum())}


def summary(records: pd.DataFrame) -> str:
    records = records.assign(half=1.96 * records["sd"] / np.sqrt(records["n"]))
    lossless = records[records["exact"] == records["n"]]
    costly = records[records["dice"] + records["half"] < 0.99]

    def told(table: pd.DataFrame) -> str:
        return ", ".join(dict.fromkeys(_name(row) for row in table.to_dict("records"))) or "none"

    lines = [f"Lossless: {told(lossless)}.", f"Below 0.99 with confidence, on one set at least: {told(costly)}.", "",
             "| form | labels | Dice of a perfect network | 5 % of labels below | labels exact | lost |",
             "|---|---|---|---|---|---|"]
    for row in records.to_dict("records"):
        lines.append(f"| {_name(row)} | {row['labels']} | {row['dice']:.4f} ± {row['half']:.4f} | {row['p5']:.3f} | "
                     f"{row['exact']} of {row['n']} | {row['lost']} |")
    return "\n".join(lines)


def _name(row: dict) -> str:
    unit = {"bilinear": f"to 1/{row['amount']}", "nearest": f"to 1/{row['amount']}"}
    tolerance = f"{row['amount']} px" if row["form"] in ("parts and holes", "parts", "one part") else ""
    return f"{row['form']} {unit.get(row['form'], tolerance)}".strip()


# ---- labels

def masks(labels: str):
    """The masks, bool [H, W], one after the other."""
    if labels == "SD-saliency-900":
        for path in sorted((DATA / "sd_saliency_900" / "masks").glob("*.png")):
            yield np.asarray(Image.open(path).convert("L")) > 127
        return
    csv.field_size_limit(2**31 - 1)
    with (DATA / "severstal_labels" / "train_partial.csv").open(encoding="utf-8", newline="") as file:
        rows = [row["EncodedPixels"] for row in csv.DictReader(file) if row["EncodedPixels"]]
    for text in rows[::EVERY]:
        yield rle.decode(text, SHAPE)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


# ---- forms: each takes a mask and an amount, and gives back what a reader finds

def run_lengths(mask: np.ndarray, _: int) -> np.ndarray:
    flat = np.r_[False, mask.ravel(order="F"), not mask[-1, -1]]
    counts = np.diff(np.r_[0, np.flatnonzero(flat[1:] != flat[:-1])]).tolist()
    return coco.mask_of({"size": list(mask.shape), "counts": counts}, mask.shape, "study")


def by_outlines(parts: str) -> Callable:
    def there_and_back(mask: np.ndarray, tolerance: int) -> np.ndarray:
        window = _window(mask)
        outer, holes = polygons.outlines(mask[window], tolerance)
        back = np.zeros_like(mask)
        if parts == "one part":
            outer = [max(outer, key=_area)] if outer else []
        filled = [polygons.fill(line, mask[window].shape) for line in outer]
        cut = [polygons.fill(line, mask[window].shape) for line in holes] if parts == "parts and holes" else []
        for line in sorted([*((m, True) for m in filled), *((m, False) for m in cut)], key=lambda m: -int(m[0].sum())):
            back[window][line[0]] = line[1]  # the largest first: islands lie in holes
        return back

    return there_and_back


def pixel_centres(mask: np.ndarray, _: int) -> np.ndarray:
    window, back = _window(mask), np.zeros_like(mask)
    for line in find_contours(np.pad(mask[window], 1).astype(float), 1 - 1e-9, fully_connected="high"):
        back[window] |= polygons.fill(np.round(line[:-1, ::-1] - 1), mask[window].shape)
    return back


def outline_drawn(mask: np.ndarray, _: int) -> np.ndarray:
    outer, _ = polygons.outlines(mask)
    picture = Image.new("1", mask.shape[::-1])
    for line in outer:
        ImageDraw.Draw(picture).polygon([tuple(point) for point in line.tolist()], fill=1, outline=1)
    return np.array(picture)


def resized(way: Image.Resampling) -> Callable:
    def there_and_back(mask: np.ndarray, factor: int) -> np.ndarray:
        picture = Image.fromarray(mask.astype(np.uint8) * 255)
        small = picture.resize((math.ceil(picture.width / factor), math.ceil(picture.height / factor)), way)
        return np.asarray(small.resize(picture.size, way)) > 127

    return there_and_back


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """The part of a mask that holds its pixels, with a border of 3."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return tuple(slice(max(int(at[0]) - 3, 0), int(at[-1]) + 4) for at in (rows, columns))


def _area(line: np.ndarray) -> float:
    x, y = line.T
    return abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()))


FORMS = {
    "run-lengths": run_lengths, "parts and holes": by_outlines("parts and holes"), "parts": by_outlines("parts"),
    "one part": by_outlines("one part"), "pixel centres": pixel_centres, "outline drawn": outline_drawn,
    "bilinear": resized(Image.Resampling.BILINEAR), "nearest": resized(Image.Resampling.NEAREST),
}
