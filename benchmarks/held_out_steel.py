"""What do the networks that travel with the library, and trained runs, find on real steel that they never saw?

Scores whole images of ../shared/data, which are no part of this repository, one by one at p > ½: the 45 Severstal
images, and the 180 of SD-saliency-900 that the studies report on (`studies.steel.three`). Networks: the weights in the
box, which saw synthetic steel alone; the study `long_run`, arm `original`, once it is finished; and runs named by --run
NAME=FOLDER. Images that a network was trained on are left out. --write leaves results/held_out_steel-DATE.json: scores
by image, and for three images of each set where the defect was found, missed and falsely reported, without the steel.
What is there of other networks is kept.
"""

import argparse
import base64
import hashlib
import json
import sys
import time
import zlib
from pathlib import Path

import numpy as np

from steelnb import storage
from steelnb.data import dataset
from steelnb.evaluation import metrics
from steelnb.network import pretrained
from steelnb.network.inference import predict_probabilities
from steelnb.network.weights import load_network

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))
from studies import long_run, steel  # noqa: E402

SEVERSTAL = ROOT.parent / "shared" / "data" / "severstal"
BINS, SHRINK = 20, 4


def networks(runs: list[str]) -> dict[str, Path]:
    """Name → weights, of those that are there."""
    long = long_run.PLACE / "original-200"
    found = {"shipped weights": pretrained.STEEL, "series' U-Net": pretrained.SERIES}
    if long_run._finished(long):
        found["long run"] = long / "weights.safetensors"
    found |= {name: Path(folder, "weights.safetensors") for name, _, folder in (run.partition("=") for run in runs)}
    return {name: path for name, path in found.items() if path.is_file()}


def data_sets() -> dict[str, dataset.SteelData]:
    found = {}
    if SEVERSTAL.is_dir():
        found["Severstal"] = dataset.read_dataset(SEVERSTAL)
    if steel.SALIENCY.is_dir():
        found["SD-saliency-900"] = steel.three(dataset.read_dataset(steel.SALIENCY))[2]
    return found


def scored(path: Path, data: dataset.SteelData) -> dict:
    """Scores at p > ½, image by image."""
    model, about = load_network(path)
    trained_on = set(about.get("training", ()))
    hashed = {i: hashlib.sha256(i.encode()).hexdigest()[:9] + ".png" for i in data.images["ImageId"]}  # of `long_run`
    ids = [i for i in data.images["ImageId"] if not {i, hashed[i]} & trained_on]
    dices, sizes, hits, alarms, maps, clean = [], [], [], [], {}, 0
    pixels, summed, defect, ranks = np.zeros(BINS, int), np.zeros(BINS), np.zeros(BINS, int), []
    for image_id in ids:
        p, mask = predict_probabilities(model, data.image(image_id))[0], data.mask(image_id)
        place = np.minimum((p * BINS).astype(int), BINS - 1).ravel()
        pixels += np.bincount(place, minlength=BINS)
        summed += np.bincount(place, p.ravel(), BINS)
        defect += np.bincount(place, mask.ravel(), BINS).astype(int)
        ranks.append(np.stack([p[::SHRINK, ::SHRINK].ravel(), mask[::SHRINK, ::SHRINK].ravel()]))
        found = p > 0.5
        if not mask.any():
            clean += 1
            alarms.append(float(found.mean()))
            continue
        dices.append(float(2 * (found & mask).sum() / (found.sum() + mask.sum())))
        each = metrics.defects(found, mask)
        sizes += each[0].tolist()
        hits += each[1].tolist()
        maps[len(dices) - 1] = (mask + 2 * found)[::SHRINK, ::SHRINK].astype(np.uint8)
    order = np.argsort(dices)
    shown = {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]}
    p, truth = np.concatenate(ranks, axis=1)
    return {
        "images": len(ids), "clean": clean, "dice": round(float(np.mean(dices)), 4),
        "image_dices": [round(d, 4) for d in dices],
        "clean_alarm_share": [round(a, 5) for a in alarms], "defect_pixels": sizes, "defect_pixels_found": hits,
        "average_precision": round(float(metrics.average_precision(p, truth > 0.5)), 4),
        "calibration": {"pixels": pixels.tolist(), "probability": summed.round(1).tolist(), "defect": defect.tolist()},
        "maps": {name: {"dice": round(dices[i], 4), "shape": list(maps[i].shape), "codes": packed(maps[i])}
                 for name, i in shown.items()},
    }


def packed(codes: np.ndarray) -> str:
    """0 neither, 1 missed, 2 false alarm, 3 found, as `figures.real_steel.error_map` reads it."""
    return base64.b64encode(zlib.compress(codes.tobytes(), 9)).decode()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--run", action="append", default=[], metavar="NAME=FOLDER")
    options.add_argument("--only", default="", help="one network of those that are there")
    options.add_argument("--write", action="store_true")
    asked = options.parse_args()
    results = {"made": time.strftime("%Y-%m-%d"), "networks": {}}
    place = ROOT / "benchmarks" / "results"
    if before := sorted(place.glob("held_out_steel-*.json")):
        results["networks"] = json.loads(before[-1].read_text(encoding="utf-8"))["networks"]
    for name, path in networks(asked.run).items():
        if asked.only in ("", name):
            sets = {data: scored(path, held) for data, held in data_sets().items()}
            results["networks"][name] = {"weights": storage.sha256(path.read_bytes()), "sets": sets}
            for data, found in sets.items():
                print(f"{name}, {data}: Dice {found['dice']:.3f} of {len(found['image_dices'])} images, "
                      f"average precision {found['average_precision']:.3f}", flush=True)
    if asked.write and results["networks"]:
        for old in before:
            old.unlink()
        storage.write_file(place / f"held_out_steel-{results['made']}.json", (json.dumps(results) + "\n").encode())


if __name__ == "__main__":
    main()
