"""How fast do cached images and masks become batches, beside the usual Kaggle loader and torch's plain one?

    python benchmarks/batches.py [--images 32] [--repeats 5] [--write]

Synthetic steel in Severstal's layout, recipes `smoke` (crops of 96×96) and `original` (whole images with its mirrored
borders), one process, no workers. A batch is ready when the network could take it: float windows in 0…1, mirrored, and
masks. Ours comes from the cache of decoded images through `iter_batches`; a GPU takes our bytes as they are, a line
of its own. The Kaggle loader opens the JPEG with Pillow, decodes run-length text in a loop, pads with NumPy, divides by
255, for each sample. torch's plain one opens image and mask files, pads with torch, as PyTorch's tutorials do. Both cut
crops where the recipe has them, at random places; ours looks for a defect in half of them, which they are spared.
Contenders take turns; a ratio is the median over the turns.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from steelnb import runtime
from steelnb.data import dataset, synthetic
from steelnb.network import geometry
from steelnb.network.tiles import ORIGINAL_MARGINS, original_crop
from steelnb.training import batches
from steelnb.training.recipes import ORIGINAL, SMOKE, Recipe
from steelnb.training.samples import Item, Samples

ROOT = Path(__file__).resolve().parents[1]
SHAPE, LEAST = (256, 1600), 5.0
OURS, BYTES = "steelnb, floats", "steelnb, bytes for a GPU"


def kaggle_decode(text: str) -> np.ndarray:
    """The function that most kernels of the competition share."""
    numbers = text.split()
    starts, lengths = (np.asarray(x, dtype=int) for x in (numbers[0:][::2], numbers[1:][::2]))
    starts -= 1
    mask = np.zeros(SHAPE[0] * SHAPE[1], dtype=np.uint8)
    for lo, hi in zip(starts, starts + lengths, strict=True):
        mask[lo:hi] = 1
    return mask.reshape(SHAPE[1], SHAPE[0]).T


class Usual(Dataset):
    """Shared by both other loaders: the sample's image, the position of its crop, its margins."""

    def __init__(self, samples: Samples, masks: Path) -> None:
        paths = samples.data.images.set_index("ImageId")["path"]
        self.entries = [(paths[item.image_id], masks / f"{item.image_id}.png", self.texts(samples, item))
                        for item in samples.items]
        self.crop, self.flips = samples.crop, samples.flips
        margin = geometry.margin(samples.depth)
        self.margins = ORIGINAL_MARGINS if samples.geometry == "original" else ((margin, margin), (margin, margin))

    @staticmethod
    def texts(samples: Samples, item: Item) -> list[str]:
        table = samples.data.rows
        rows = table[table["ImageId"] == item.image_id] if item.rows is None else table.iloc[list(item.rows)]
        return rows["EncodedPixels"].tolist()

    def __len__(self) -> int:
        return len(self.entries)

    def cut(self, image, mask):
        """The same random rectangle of a padded image [h, w] and its mask [h, w]."""
        if self.crop is None:
            return image, original_crop(mask)
        (top, bottom), (left, right) = self.margins
        row, column = (int(np.random.randint(n - m + 1)) for n, m in zip(SHAPE, self.crop, strict=True))  # noqa: NPY002
        height, width = self.crop
        image = image[row : row + height + top + bottom, column : column + width + left + right]
        return image, mask[row : row + height, column : column + width]


class Kaggle(Usual):
    """Pillow, a loop over the runs, NumPy's pad, a division."""

    def __getitem__(self, index):
        path, _, texts = self.entries[index]
        image, mask = np.array(Image.open(path).convert("L")), np.zeros(SHAPE, np.uint8)
        for text in texts:
            mask |= kaggle_decode(text)
        image, mask = self.cut(np.pad(image, self.margins, mode="symmetric") / 255, mask)
        if self.flips and np.random.rand() < 0.5:  # noqa: NPY002
            image, mask = image[:, ::-1], mask[:, ::-1]
        return (torch.from_numpy(image[None].astype(np.float32)),
                torch.from_numpy(mask[None].astype(np.float32)))


class Plain(Usual):
    """Image file and mask file, as in PyTorch's tutorials."""

    def __getitem__(self, index):
        path, mask_path, _ = self.entries[index]
        image = torch.from_numpy(np.array(Image.open(path).convert("L"))).float().div(255)[None]
        mask = torch.from_numpy(np.array(Image.open(mask_path))).float().div(255)
        padded = torch.nn.functional.pad(image, (*self.margins[1], *self.margins[0]), mode="reflect")
        image, mask = self.cut(padded[0], mask)
        if self.flips and torch.rand(()) < 0.5:
            image, mask = image.flip(1), mask.flip(1)
        return image[None].contiguous(), mask[None].contiguous()


def ours(samples: Samples, recipe: Recipe, ready: bool) -> Iterator[int]:
    """Sizes of the batches of one epoch; `ready`: as floats."""
    for windows, masks, *_ in batches.iter_batches(samples, recipe, 0):
        if ready:
            windows, masks = windows.float().div_(255), masks.float()
        yield len(windows)


def theirs(samples: Dataset, recipe: Recipe) -> Iterator[int]:
    for windows, masks in DataLoader(samples, batch_size=recipe.batch, shuffle=True):
        assert masks.ndim == 4
        yield len(windows)


def measure(recipe: Recipe, steel: dataset.SteelData, masks: Path, repeats: int) -> dict[str, dict]:
    """{name: images/s, and the ratio of ours to it}."""
    samples, _ = batches.training_and_validation_samples(steel, recipe, seed=0)
    table = {
        OURS: lambda: ours(samples, recipe, True),
        BYTES: lambda: ours(samples, recipe, False),
        "usual Kaggle loader": lambda: theirs(kaggle, recipe),
        "torch's plain Dataset": lambda: theirs(plain, recipe),
    }
    kaggle, plain = Kaggle(samples, masks), Plain(samples, masks)
    check(samples, kaggle, plain)
    took = {name: [] for name in table}
    for turn in range(repeats + 1):
        for name, epoch in table.items():
            seen, started = 0, time.perf_counter()
            for size in epoch():
                seen += size
                if seen >= 64:
                    break
            if turn:  # the first warms up
                took[name].append((time.perf_counter() - started) / seen)
    return {
        name: {
            "images_per_s": float(1 / np.median(times)),
            "ours_times": float(np.median(np.divide(times, took[OURS]))),
        }
        for name, times in took.items()
    }


def check(samples: Samples, *others: Usual) -> None:
    """Checks that all give tensors of the same shape and, without random choices, the same mask."""
    window, mask = samples[0]
    for other in others:
        their_window, their_mask = other[0]
        assert mask.shape == their_mask.shape, (mask.shape, their_mask.shape)
        assert [abs(a - b) < 16 for a, b in zip(window.shape, their_window.shape, strict=True)] == [True] * 3
        if samples.crop is None:
            whole = isinstance(other, Kaggle) or samples.items[0].rows is None
            assert not whole or torch.equal(mask.float(), their_mask)


def reason(rows: dict[str, dict]) -> str:
    """The parts of our time."""
    ready, as_bytes = (1e6 / rows[name]["images_per_s"] for name in (OURS, BYTES))
    return f"of {ready:.0f} µs a sample {ready - as_bytes:.0f} turn bytes into floats, which a GPU does by itself"


def write_masks(steel: dataset.SteelData, folder: Path) -> None:
    """Writes one PNG of 0 and 255 per image, with all its defects."""
    folder.mkdir()
    for image_id in steel.images["ImageId"]:
        Image.fromarray(255 * steel.mask(image_id).astype(np.uint8)).save(folder / f"{image_id}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="leave results/batches-DATE.json")
    options = parser.parse_args()
    print(runtime.describe())
    results = {"made": time.strftime("%Y-%m-%d"), "on": runtime.describe(), "images": options.images, "recipes": {}}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STEELNB_HOME"] = folder  # for the cache of decoded images
        steel = dataset.read_dataset(synthetic.write_dataset(f"{folder}/steel", options.images, progress=False))
        write_masks(steel, Path(folder) / "masks")
        for recipe in (SMOKE, ORIGINAL):
            rows = results["recipes"][recipe.name] = measure(recipe, steel, Path(folder) / "masks", options.repeats)
            what = f"crops of {recipe.crop[0]}×{recipe.crop[1]}" if recipe.crop else "whole images, its own geometry"
            print(f"\nrecipe {recipe.name}, {what}, batch {recipe.batch}\n{'':<28} {'images/s':>9} {'ours, times':>12}")
            for name, row in rows.items():
                print(f"{name:<28} {row['images_per_s']:>9.0f} {row['ours_times']:>12.1f}")
            for name in list(rows)[2:]:
                for form in (OURS, BYTES):
                    ratio = rows[name]["ours_times"] / rows[form]["ours_times"]
                    print(f"{form} over {name}: {ratio:.1f} (at least {LEAST:.0f}): "
                          f"{'reached' if ratio >= LEAST else f'missed: {reason(rows)}'}")
    if options.write:
        path = ROOT / "benchmarks" / "results" / f"batches-{results['made']}.json"
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
