"""Why did the original score 0.84 on its training and 0.63 on its validation images?

    python benchmarks/gap.py [--write] [--only labels rows ladder] [--shared ../shared/data] [--out benchmarks/results]

Three parts, each skipped where its data is absent:

- labels: Severstal's real labels, counted exactly, without images. How many images the split by row tears; what a
  perfect predictor of an image's defects scores when each label row is scored by itself, on either side of the split;
  what the metric's centre of 244×1588 changes.
- rows: synthetic steel, only images with several classes, so that what label rows do to a training is not diluted
  (on Severstal 12 % of the rows are of such images): row split, shuffled row split, image split, union masks.
- ladder: 900 real images of strip (SD-saliency-900), halved to 100×100 for the sake of a CPU: augmentation, length of
  training, number of images; and a leak at its largest, held-out images that are training images, flipped or darkened.

Networks of width 8; one seed decides first weights, order, crops and split. Dice is the mean over images (or rows)
at p > 0.5, every pixel; training images are scored as they are, in eval mode. A minute's worth of it
by default; --write takes half an hour on one core and writes benchmarks/results/gap-DATE.json.
"""

import argparse
import hashlib
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from steelnb import runtime
from steelnb.data import dataset, rle, splits, synthetic
from steelnb.data.image_cache import ImageCache
from steelnb.evaluation.metrics import dice, original_accuracy
from steelnb.network.inference import predict_logits
from steelnb.network.tiles import original_crop
from steelnb.training import batches
from steelnb.training.recipes import SMOKE
from steelnb.training.samples import Item, Samples
from steelnb.training.trainer import Trainer

REPOSITORY = Path(__file__).resolve().parents[1]
SHAPE = (256, 1600)
BASE = SMOKE.changed(name="gap", crop=None, on_defect=0.0, flips=False, weight_decay=0.0, epoch_samples=None)
PARTS = ("labels", "rows", "ladder")
RESULT = {"original": {"train": 0.84, "validation": 0.63, "gap": 0.21}}


# ---- labels: exact, without images


def labels(folder: Path, shuffles: int) -> dict:
    """Numbers that follow from Severstal's label table alone."""
    present = pd.read_csv(folder / "train_class_presence_full.csv").set_index("ImageId")
    rows = [(image_id, int(c)) for image_id, shown in present.iterrows() for c in present.columns if shown[c]]
    texts = pd.read_csv(folder / "train_partial.csv").set_index(["ImageId", "ClassId"])["EncodedPixels"].to_dict()
    ids = np.array([image_id for image_id, _ in rows])
    several = pd.Series(ids).map(pd.Series(ids).value_counts()).to_numpy() > 1
    first = int(len(rows) * 0.8)
    validation = np.arange(len(rows)) >= first
    drawn = []
    for seed in range(shuffles):
        held_out = np.random.default_rng(seed).permutation(len(rows)) >= first
        drawn.append(torn(ids, held_out))
    ceiling = {name: np.ones(len(rows)) for name in ("whole", "centre")}
    for image_id in sorted(set(ids[several])):
        places = np.flatnonzero(ids == image_id)
        masks = np.stack([rle.decode(texts[rows[i]], SHAPE) for i in places])  # every such image is in the table
        for name, cut in (("whole", masks), ("centre", original_crop(masks))):
            ceiling[name][places] = against_rows(cut.any(0), cut)
    areas, inside = np.full(len(rows), np.nan), np.zeros(len(rows))
    for place, row in enumerate(rows):
        if row in texts:
            mask = rle.decode(texts[row], SHAPE, row[0])
            areas[place], inside[place] = mask.mean(), original_crop(mask[None]).any()
    sides = {"train": ~validation, "validation": validation, "all": validation | True}
    classes = np.array([c for _, c in rows])
    return {
        "rows": len(rows), "rows_of_images_with_several_classes": int(several.sum()),
        "row_order": torn(ids, validation),
        "row_shuffled": {key: spread([one[key] for one in drawn]) for key in drawn[0]} | {"shuffles": shuffles},
        "perfect_union_against_single_rows": {
            name: {side: float(values[chosen].mean()) for side, chosen in sides.items()}
            | {"rows_of_images_with_several_classes": float(values[several].mean())}
            for name, values in ceiling.items()},
        "class_shares": {side: {int(c): float((classes[chosen] == c).mean()) for c in (1, 2, 3, 4)}
                         for side, chosen in sides.items()},
        "rows_with_known_mask": {side: int((areas[chosen] > 0).sum()) for side, chosen in sides.items()},
        "their_median_area": {side: float(np.nanmedian(areas[chosen])) for side, chosen in sides.items()},
        "of_them_empty_in_the_centre": int(((areas > 0) & (inside == 0)).sum()),
        "tables": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
                   for name in ("train_class_presence_full.csv", "train_partial.csv")},
    }


def torn(ids: np.ndarray, held_out: np.ndarray) -> dict:
    """Images with rows on both sides, and the share of held-out rows whose image is in training."""
    seen = set(ids[~held_out])
    leaked = [i in seen for i in ids[held_out]]
    return {"images_torn": len(seen & set(ids[held_out])), "leaked_share_of_validation_rows": float(np.mean(leaked))}


def against_rows(prediction: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The original's metric of one mask, [H, W], for each of several, [R, H, W]."""
    both, areas = (masks & prediction).sum((1, 2)), masks.sum((1, 2))
    return (2 * both + 1e-4) / (prediction.sum() + areas + 1e-4)


# ---- trainings


def trained(steel, cache, items, recipe, steps, seed):
    """A network after `steps` optimizer steps on `items`."""
    trainer = Trainer(recipe, 1, steps, seed, torch.device("cpu"))
    samples = Samples(steel, cache, items, recipe.model["depth"], crop=recipe.crop, on_defect=recipe.on_defect,
                      flips=recipe.flips, seed=seed)
    epoch = 0
    while trainer.steps < steps:
        trainer.begin()
        for batch in batches.iter_batches(samples, recipe, epoch):
            trainer.step(*batch)
            if trainer.steps >= steps:
                break
        epoch += 1
    return trainer.model.eval()


def score(model, steel, cache, items, change=lambda image, mask: (image, mask)) -> dict:
    """Mean scores over items: Dice of every pixel, the original's metric, and the same in the centre only."""
    samples, found = Samples(steel, cache, items, model.depth), []
    for item in items:
        image = cache[item.image_id]
        image, mask = change(image, samples.mask(item, image.shape)[0])
        logits = torch.from_numpy(predict_logits(model, np.ascontiguousarray(image)))[None]
        mask = torch.from_numpy(np.ascontiguousarray(mask))[None, None]
        # The original lost 6 of 256 pixels a side
        c = max(1, round(6 * image.shape[0] / 256))
        found.append((dice(logits > 0, mask, empty="skip").item(), original_accuracy(logits.sigmoid(), mask),
                      original_accuracy(logits.sigmoid()[..., c:-c, c:-c], mask[..., c:-c, c:-c])))
    return dict(zip(("dice", "original_metric", "original_metric_centre"), np.nanmean(found, 0).tolist(), strict=True))


def arm(name, differs, seeds, once) -> dict:
    """One way of training over all seeds: `once(seed)` gives {"train": scores, "validation": scores, …}."""
    started, runs = time.perf_counter(), []
    for seed in seeds:
        runs.append(once(seed))
    summary = {part: {key: spread([run[part][key] for run in runs]) for key in runs[0][part]} for part in runs[0]}
    gaps = [run["train"]["dice"] - run["validation"]["dice"] for run in runs]
    seconds = time.perf_counter() - started
    row = {"name": name, "differs": differs, "seeds": list(seeds), "summary": summary, "gap": spread(gaps),
           "runs": runs, "seconds": round(seconds, 1)}
    told = " ".join(f"{part} {text(values['dice'])}" for part, values in summary.items())
    print(f"{name:<52} gap {text(row['gap'])}  {told}  {seconds:.0f} s", flush=True)
    return row


def spread(values) -> dict:
    """Mean, lowest and highest."""
    return {"mean": float(np.mean(values)), "low": float(np.min(values)), "high": float(np.max(values))}


def text(s: dict) -> str:
    return f"{s['mean']:.3f} ({s['low']:.3f}–{s['high']:.3f})"


def rows(folder: Path, drawn: int, steps: int, seeds) -> dict:
    """Label rows as samples, where every image has several."""
    synthetic.write_dataset(folder / "steel", drawn, seed=0, shape=(64, 200), progress=False)
    steel = dataset.read_dataset(folder / "steel", progress=False)
    steel = steel.subset(row.ImageId for row in steel.images.itertuples() if row.masks > 1)
    cache, recipe = ImageCache(steel, folder), BASE.changed(model=dict(width=8, depth=2))
    ids = steel.rows["ImageId"].tolist()
    print(f"rows: {len(steel)} synthetic images of 64×200 with several classes, {len(ids)} label rows, {steps} steps")

    def by_rows(train, validation):
        return [[Item(ids[i], (int(i),)) for i in side] for side in (train, validation)]

    def in_order(seed):
        # Severstal's ids are random; those of synthetic steel follow the classes shown, so the images change places.
        places = np.random.default_rng(seed).permutation(len(steel))
        place = dict(zip(steel.images["ImageId"], places, strict=True))
        return by_rows(*np.split(sorted(range(len(ids)), key=lambda i: place[ids[i]]), [int(0.8 * len(ids))]))

    def as_named(seed):
        return by_rows(*splits.by_row(steel))

    def shuffled(seed):
        return by_rows(*np.split(np.random.default_rng(seed).permutation(len(ids)), [int(0.8 * len(ids))]))

    def of_images(seed):
        sides = splits.by_image(steel, 0.2, seed)
        return by_rows(*([i for i, image_id in enumerate(ids) if image_id in set(side)] for side in sides))

    def unions(seed):
        return [[Item(i) for i in side] for side in splits.by_image(steel, 0.2, seed)]

    def once(split):
        def run(seed):
            train, validation = split(seed)
            model = trained(steel, cache, train, recipe, steps, seed)
            whole = [[Item(i) for i in sorted({item.image_id for item in side})] for side in (train, validation)]
            parts = {"train": train, "validation": validation, "train_union": whole[0], "validation_union": whole[1]}
            return {name: score(model, steel, cache, items) for name, items in parts.items()}

        return run

    arms = [arm(name, {"split": name, "model": recipe.model}, seeds, once(split)) for name, split in (
        ("rows in order, row masks (the original's)", in_order), ("rows shuffled, row masks", shuffled),
        ("image split, row masks", of_images), ("image split, union masks", unions),
        ("rows in order of class, row masks", as_named))]
    return {"images": len(steel), "rows": len(ids), "steps": steps, "data": steel.fingerprint(), "arms": arms}


def ladder(source: Path, folder: Path, images: int | None, steps: int, seeds) -> dict:
    """Augmentation, length, number of images, and the largest leak, on real images."""
    halve(source, folder / "halved", images)
    steel = dataset.read_dataset(folder / "halved", progress=False)
    cache = ImageCache(steel, folder)
    few = 90 if images is None else images // 4
    print(f"ladder: {len(steel)} real images of 100×100, {few} to train on unless said, {steps} steps unless said")

    def once(count, recipe, length, leak=False):
        def run(seed):
            sides = splits.by_image(steel, 0.2, seed)
            train = [Item(str(i)) for i in np.random.default_rng(seed).permutation(sides.train)[:count]]
            model = trained(steel, cache, train, recipe, length, seed)
            seen, parts = train[:: max(1, len(train) // 90)], {}
            parts["train"] = score(model, steel, cache, seen)
            parts["validation"] = score(model, steel, cache, [Item(i) for i in sides.validation])
            if leak:
                for name, change in LEAKS.items():
                    parts[name] = score(model, steel, cache, seen, change)
            return parts

        return run

    crops = dict(flips=True, crop=(64, 64))
    plan = [
        ("no augmentation", {}, few, steps),
        ("flips", dict(flips=True), few, steps),
        ("flips and crops of 64×64", crops, few, steps),
        ("no augmentation, half the steps", {}, few, steps // 2),
        ("no augmentation, twice the steps", {}, few, 2 * steps),
        ("no augmentation, 1/4 of the images, twice the steps", {}, few // 4, 2 * steps),
        ("no augmentation, 4 × the images", {}, 4 * few, steps),
        ("no augmentation, 8 × the images", {}, 8 * few, steps),
    ]
    arms = [
        arm(name, differs | {"images": count, "steps": length}, seeds,
            once(count, BASE.changed(**differs), length, leak=index == 0))
        for index, (name, differs, count, length) in enumerate(plan)
    ]
    return {"images": len(steel), "data": steel.fingerprint(), "source": "SD-saliency-900, halved", "arms": arms}


LEAKS = {
    "leak_flipped": lambda image, mask: (image[::-1, ::-1], mask[::-1, ::-1]),
    "leak_mirrored": lambda image, mask: (image[:, ::-1], mask[:, ::-1]),
    "leak_darkened": lambda image, mask: ((image * 0.9).astype(np.uint8), mask),
}


def halve(source: Path, target: Path, images: int | None) -> None:
    """Images and masks at half their size: means of 2×2 pixels, masks where half of them are defect."""
    for part in ("images", "masks"):
        (target / part).mkdir(parents=True)
        files = sorted((source / part).iterdir())
        for file in files[:: len(files) // images if images else 1]:
            picture = Image.open(file).convert("L")
            picture = picture.resize((picture.width // 2, picture.height // 2), Image.BOX)
            if part == "masks":
                picture = picture.point(lambda value: 255 * (value >= 128))
            picture.save(target / part / f"{file.stem}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="the whole of it, half an hour; default: a minute's worth")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="the file keeps today's other parts")
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared/data", help="folder of real data")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/results")
    options = parser.parse_args()
    quick = not options.write
    seeds, date = range(1 if quick else 3), time.strftime("%Y-%m-%d")
    file, started = options.out / f"gap-{date}.json", time.perf_counter()
    torch.set_num_threads(1)
    before = json.loads(file.read_text()) if file.exists() else {}
    result = RESULT | {"date": date, "machine": runtime.describe(), "torch": torch.__version__,
                       "recipe": BASE.to_dict()} | {part: before[part] for part in PARTS if part in before}
    print(runtime.describe())

    def keep(part: str, found: dict) -> None:
        nonlocal started
        now = time.perf_counter()
        seconds = sum(one["seconds"] for one in found.get("arms", ())) or now - started
        result[part], started = found | {"seconds": round(seconds)}, now
        if not quick:
            options.out.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    if "labels" in options.only and there(options.shared / "severstal_labels"):
        keep("labels", labels(options.shared / "severstal_labels", 20 if quick else 1000))
        print(json.dumps(result["labels"], indent=1))
    with tempfile.TemporaryDirectory() as folder:
        if "rows" in options.only:
            drawn, steps = (400, 20) if quick else (2400, 600)
            keep("rows", rows(Path(folder), drawn, steps, seeds))
        if "ladder" in options.only and there(options.shared / "sd_saliency_900"):
            images, steps = (60, 20) if quick else (None, 450)
            keep("ladder", ladder(options.shared / "sd_saliency_900", Path(folder), images, steps, seeds))


def there(folder: Path) -> bool:
    if not folder.is_dir():
        print(f"skipped: no {folder.name} in the folder of real data")
    return folder.is_dir()


if __name__ == "__main__":
    main()
