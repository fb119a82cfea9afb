"""Does synthetic steel measure like Severstal's? One table: what facts are published, the real labels, the drawn set.

    python benchmarks/synthetic_statistics.py [--images 400] [--seed 0] [--labels ../shared/data/severstal_labels]

The real column of the label rows is measured with the same code as the synthetic one when the folder of real labels is
there (`train_partial.csv`, and `train_partial_ids.csv` whose source N31V is a representative sample); without it the
column shows "–" and the published figures stand alone. Real images are not needed: their figures are quoted.
"""

import argparse
import io
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from skimage.measure import label, regionprops_table

from steelnb.data import rle, synthetic

SHAPE = (256, 1600)
# Quoted, not measured here: the project's facts about Severstal's train set; area in % of the image.
PUBLISHED = {
    "share of images": {0: "47.0 %", 1: "7.1 %", 2: "2.0 %", 3: "41.0 %", 4: "6.4 %"},
    "mask area, median (5–95 %)": {1: "0.93 (0.19–3.1)", 2: "0.72 (0.24–1.8)", 3: "2.89 (0.47–22)", 4: "6.35 (1.2–22)"},
    "components, median (90 %)": {1: "2 (9)", 2: "1 (2)", 3: "2 (6)", 4: "2 (4)"},
    "component h × w, medians": {1: "44 × 26", 2: "164 × 19", 3: "154 × 33", 4: "98 × 124"},
    "solidity, median": dict.fromkeys(synthetic.CLASSES, "0.90–0.95"),
    "touches top or bottom": {2: "two thirds", 3: "over half"},
}


def components(mask):
    """One row per connected component of a bool mask [H, W]: height, width in pixels, solidity, at top or bottom."""
    found = pd.DataFrame(regionprops_table(label(mask), properties=("bbox", "solidity")))
    top, bottom = found["bbox-0"], found["bbox-2"]
    return pd.DataFrame({"height": bottom - top, "width": found["bbox-3"] - found["bbox-1"],
                         "solidity": found["solidity"], "touches": (top == 0) | (bottom == mask.shape[0])})


def measure(masks):
    """The statistics of one class as text, from its masks, bool [H, W] each."""
    areas = [100 * mask.mean() for mask in masks]
    tables = [components(mask) for mask in masks]
    every, counts = pd.concat(tables), [len(table) for table in tables]
    low, middle, high = np.quantile(areas, [.05, .5, .95])
    return {
        "mask area, median (5–95 %)": f"{middle:.2f} ({low:.2f}–{high:.1f})",
        "components, median (90 %)": f"{np.median(counts):.0f} ({np.quantile(counts, .9):.0f})",
        "component h × w, medians": f"{every.height.median():.0f} × {every.width.median():.0f}",
        "solidity, median": f"{every.solidity.median():.2f}",
        "touches top or bottom": f"{100 * every.touches.mean():.0f} %",
    }


def real_statistics(folder, most=300):
    """{class: statistics} of at most `most` real label rows per class, or {} without the folder."""
    if not (folder / "train_partial.csv").is_file():
        return {}
    table = pd.read_csv(folder / "train_partial.csv")
    sources = pd.read_csv(folder / "train_partial_ids.csv")
    representative = sources[sources.source.str.startswith("N31V")].ImageId
    table = table[table.ImageId.isin(representative)]
    return {kind: measure([rle.decode(text, SHAPE) for text in rows.EncodedPixels[:most]])
            for kind, rows in table.groupby("ClassId")}


def look(images):
    """Gray statistics of images, uint8 [H, W] each: share with a black band, its width, light and grain."""
    bands, levels, steps = [], [], []
    for image in images:
        lit = image.mean(0) > 20
        bands.append(1 - lit.mean())
        steel = image[:, lit].astype(np.float32)
        levels.append(steel.mean())
        steps.append((np.abs(np.diff(steel, axis=1)).mean(), np.abs(np.diff(steel, axis=0)).mean()))
    bands, steps = np.array(bands), np.median(steps, axis=0)
    dark = bands > .03
    return {
        "black band at left or right": f"{100 * dark.mean():.0f} %",
        "its width, median share": f"{np.median(bands[dark]):.2f}" if dark.any() else "–",
        "mean gray of lit steel, 10 / 50 / 90 %": " / ".join(f"{v:.0f}" for v in np.quantile(levels, [.1, .5, .9])),
        "mean |Δ| to right / lower neighbour": f"{steps[0]:.1f} / {steps[1]:.1f}",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=400, help="synthetic images to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labels", type=Path, default=Path("../shared/data/severstal_labels"),
                        help="folder of real labels; skipped where absent")
    options = parser.parse_args()

    start, samples = time.process_time(), []  # of one core, whatever else the machine does
    for index in range(options.images):
        samples.append(synthetic.draw(options.seed, index, SHAPE))
        Image.fromarray(samples[-1].image).convert("RGB").save(io.BytesIO(), "JPEG", quality=90)
    speed = options.images / (time.process_time() - start)

    shows = np.array([sample.masks.any((1, 2)) for sample in samples])
    drawn = {kind: measure([s.masks[kind - 1] for s in samples if s.masks[kind - 1].any()])
             for kind in synthetic.CLASSES if shows[:, kind - 1].any()}
    real = real_statistics(options.labels)
    shares = [1 - shows.any(1).mean(), *shows.mean(0)]

    line = "{:<42} {:>18} {:>18} {:>18}".format
    print(line("statistic", "published", "real, same code", "synthetic"))
    for kind, share in enumerate(shares):
        print(line(f"{f'class {kind}' if kind else 'clean'}, share of images", PUBLISHED["share of images"][kind], "–",
                   f"{100 * share:.1f} %"))
    for name in list(PUBLISHED)[1:]:
        for kind in synthetic.CLASSES:
            print(line(f"class {kind}, {name}", PUBLISHED[name].get(kind, "–"), real.get(kind, {}).get(name, "–"),
                       drawn.get(kind, {}).get(name, "–")))
    quoted = ("38 %", "0.50", "59 / 92 / 120", "5 / 5")
    for (name, value), published in zip(look([s.image for s in samples]).items(), quoted, strict=True):
        print(line(name, published, "–", value))
    print(line("images/s of one core, drawn and JPEG-coded", "", "", f"{speed:.0f}"))
    if not real:
        print(f"No real labels in {options.labels}: the published figures stand alone.")


if __name__ == "__main__":
    main()
