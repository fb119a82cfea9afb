"""How much sooner does recipe `fast` reach what recipe `original` reaches, on the same data and machine?

    python benchmarks/time_to_quality.py [--ablation | --waterfall] [--write] [--only synthetic sd_saliency_900]

Two data sets: 96 synthetic images of 128×400, made on the spot, and the 900 real images of SD-saliency-900 (200×200),
skipped where they are absent. What is small here is the network, width 8 in both recipes; depth, loss, optimizer and
all else are those of `steelnb.recipes`. One thing is changed in the original: its training rows are those of the
training images of an image split, so that both recipes are scored on the same images, which neither has seen.

- Dice is hard, p > 0.5, every pixel of an image predicted through exact windows, mean over defective held-out images.
  The original is also scored in its own geometry, its centre alone, and given the better of the two as what is to be
  reached: it was trained with skewed skips, which exact windows do not have.
- Seconds are those of the processor, on one thread, of training alone (drawing samples and steps; no scoring): other
  work on the machine hardly lengthens them. Wall clock stands beside them.
- What is to be reached is the original's best Dice at any of its points. `fast` reaches it at the first of its own
  points that is no lower; nothing is interpolated. Its two runs have their schedules end at different lengths.
- The original's length is what time allowed, about a thousandth of its steps in 2020; what more would bring is open.
- Recipe fast was chosen by looking at held-out images of seed 0 of both data sets; seeds 1 and 2 had no part in it.
- --ablation: from the original to fast, one change a line, each trained for the same seconds.
- --waterfall: the same lines, each trained until it is no worse than the original's best of that seed as --write left
  it, for at most the seconds that the original took. A line whose schedule needs an end is tried with a 16th, a quarter
  and all of them, the shortest first. Fast is then trained for all of them: what the saved time buys.

With --write twenty minutes on one core, the ablation fifteen for two seeds; without, a minute's worth (two with
--ablation), and nothing is written.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from steelnb import runtime
from steelnb.data import dataset, splits, synthetic
from steelnb.data.image_cache import ImageCache
from steelnb.network.unet import UNet
from steelnb.training import batches
from steelnb.training.recipes import FAST, ORIGINAL, Recipe
from steelnb.training.samples import Item, Samples
from steelnb.training.trainer import Trainer
from steelnb.training.validation import validate

REPOSITORY = Path(__file__).resolve().parents[1]
SETS = ("synthetic", "sd_saliency_900")
SMALL = {
    name: recipe.changed(model=recipe.model | {"width": 8}) for name, recipe in (("original", ORIGINAL), ("fast", FAST))
}
SCORED = 24  # defective held-out images at most, evenly spread, at each point of a curve; at the end all of them
LENGTHS = {  # optimizer steps: the original's, and where fast's two schedules end
    "synthetic": {"original": 800, "sprint": 280, "fast": 600},
    "sd_saliency_900": {"original": 500, "sprint": 140, "fast": 600},
}
POINTS = {"original": 10, "sprint": 7, "fast": 12}
CONVENTIONS = {
    "dice": "hard, p > 0.5, every pixel, exact windows, mean over defective held-out images",
    "dice_own_geometry": "the same in the original's geometry: skewed, its centre alone; null for fast",
    "cpu_seconds": "of the process, one thread, training alone, scoring left out",
    "wall_seconds": "the same by the clock, on a machine shared with other work",
    "target": "the original's best dice or dice_own_geometry at any of its points, and the seconds of that point",
}


class Steel:
    """A data set with its cache, split by image; `items` of one recipe's kind, `held_out` ones to score on."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.data = dataset.read_dataset(folder, progress=False)
        self.cache = ImageCache(self.data, cache)

    def training(self, recipe: Recipe, seed: int) -> Samples:
        """The items that a recipe trains on: rows or whole masks, of training images only."""
        train = splits.by_image(self.data, recipe.validation, seed).train
        if recipe.samples == "image":
            items = [Item(image_id) for image_id in train]
        else:
            ids, chosen = self.data.rows["ImageId"].tolist(), set(train)
            items = [Item(image_id, (row,)) for row, image_id in enumerate(ids) if image_id in chosen]
        return Samples(self.data, self.cache, items, recipe.model["depth"], geometry=recipe.geometry, crop=recipe.crop,
                       on_defect=recipe.on_defect, flips=recipe.flips, seed=seed)

    def held_out(self, seed: int, geometry: str = "exact", at_most: int | None = None) -> Samples:
        """Held-out images with a defect."""
        ids = splits.by_image(self.data, ORIGINAL.validation, seed).validation
        defective = set(self.data.rows["ImageId"])
        items = [Item(image_id) for image_id in ids if image_id in defective]
        every = -(-len(items) // at_most) if at_most else 1
        return Samples(self.data, self.cache, items[::every], depth=4, geometry=geometry, seed=seed)


def curve(
    steel: Steel, recipe: Recipe, steps: int, points: int, seed: int, last: int | None = None, until: float = 2.0
) -> dict:
    """One training of `steps`, scored at `points` even places, or up to the first that is no lower than `until`.

    What is scored: `CONVENTIONS`. last: images to score at the end.
    """
    trainer = Trainer(recipe, 1, steps, seed, torch.device("cpu"))
    samples = steel.training(recipe, seed)
    at = {round(steps * (point + 1) / points) for point in range(points)}
    geometries = {"dice": "exact"} | ({"dice_own_geometry": "original"} if recipe.geometry == "original" else {})
    found, epoch, cpu = [], 0, 0.0

    def scores(at_most: int | None) -> dict:
        return {"dice_own_geometry": None} | {
            name: validate(trainer.averaged, steel.held_out(seed, geometry, at_most))["dice"]
            for name, geometry in geometries.items()
        }

    while trainer.steps < steps:
        trainer.begin()
        mark = time.process_time()
        for batch in batches.iter_batches(samples, recipe, epoch):
            trainer.step(*batch)
            if trainer.steps in at:
                cpu += time.process_time() - mark
                found.append({"step": trainer.steps, "images": trainer.steps * recipe.batch, "cpu_seconds": cpu,
                              "wall_seconds": trainer.seconds} | scores(SCORED))
                trainer.begin()  # the clock stood still while it was scored
                mark = time.process_time()
                if best(found[-1]) >= until:
                    return {"seed": seed, "steps": steps, "points": found, "final": None}
            if trainer.steps >= steps:
                break
        cpu += time.process_time() - mark
        epoch += 1
    return {"seed": seed, "steps": steps, "points": found, "final": scores(last)}


def best(point: dict) -> float:
    """The better of a point's scores; the original has two."""
    return max(point["dice"], point["dice_own_geometry"] or 0.0)


def against(original: dict, fast: list[dict]) -> dict:
    """The original's best Dice, its time, and the time at which each of fast's runs was no worse (None: never)."""
    reached = [(best(p), p["cpu_seconds"], p["wall_seconds"]) for p in original["points"]]
    target, cpu, wall = max(reached, key=lambda point: (point[0], -point[1]))
    found = {"target": target, "original_cpu_seconds": cpu, "original_wall_seconds": wall}
    for name, run in zip(("sprint", "fast"), fast, strict=True):
        point = next((p for p in run["points"] if p["dice"] >= target), None)
        found[name] = point and {"cpu_seconds": point["cpu_seconds"], "wall_seconds": point["wall_seconds"],
                                 "ratio": cpu / point["cpu_seconds"],
                                 "ratio_by_the_clock": wall / point["wall_seconds"]}
    return found


def one_seed(steel: Steel, lengths: dict[str, int], points: dict[str, int], seed: int) -> dict:
    """The original and both lengths of fast, and their results."""
    runs = {}
    for name, steps in lengths.items():
        recipe = SMALL["original" if name == "original" else "fast"]
        runs[name] = run = curve(steel, recipe, steps, points[name], seed)
        last = run["points"][-1]
        print(f"seed {seed} {name:8} {steps:4} steps, {last['cpu_seconds']:.0f} s ({last['wall_seconds']:.0f} by the "
              f"clock): final Dice {run['final']['dice']:.3f}", flush=True)
    row = {"seed": seed} | against(runs["original"], [runs["sprint"], runs["fast"]])
    told = [f"original's best {row['target']:.3f} after {row['original_cpu_seconds']:.0f} s"]
    for name in ("sprint", "fast"):
        told.append(f"{name} " + (f"{row[name]['cpu_seconds']:.1f} s, {row[name]['ratio']:.1f} times sooner"
                                  if row[name] else "does not reach it"))
    print(f"seed {seed} → " + " · ".join(told), flush=True)
    row["final"] = {name: run["final"]["dice"] for name, run in runs.items()}
    return row | {"held_out_defective": len(steel.held_out(seed)), "runs": runs}


def summary(rows: list[dict]) -> dict:
    """Final Dice of each run over seeds; how many times sooner than the original, by seed, None where never."""
    found = {}
    for name in POINTS:
        final = [row["final"][name] for row in rows]
        found[name] = {"final_mean": sum(final) / len(final), "final_low": min(final), "final_high": max(final)}
        if name != "original":
            found[name]["ratios"] = [row[name] and row[name]["ratio"] for row in rows]
            found[name]["beats_original"] = [row["final"][name] > row["final"]["original"] for row in rows]
    return found


# ---- ablation

LADDER = (  # one change a line, each on top of those before it
    ("original", {}),
    ("exact geometry", {"geometry": "exact", "model": {"crop": "exact"}}),
    ("batch norm in the decoder too", {"model": {"norm": "all"}}),
    ("whole masks, clean images too", {"samples": "image"}),
    ("AdamW, learning rate 4e-3", {"optimizer": "adamw", "learning_rate": 4e-3, "weight_decay": 1e-4}),
    ("one cycle", {"schedule": "one-cycle"}),
    ("depth 3", {"model": {"depth": 3}}),
    ("batches of 4 crops of 64×64", {"crop": (64, 64), "batch": 4}),
    ("Dice + BCE", {"loss": "dice_bce"}),
    ("three crops in four on a defect", {"on_defect": 0.75}),
    ("flips", {"flips": True}),
    ("channels last", {"channels_last": True}),
    ("moving average 0.98 = fast", {"ema": 0.98}),
)
ASIDE = (  # one change each to fast, none of them on top of another
    ("fast, but averaged not at all", {"ema": 0.0}),
    ("fast, but Nesterov SGD, 0.05", {"optimizer": "sgd", "nesterov": True, "learning_rate": 0.05}),
    ("fast, but depth 4", {"model": {"width": 8, "depth": 4}}),
    ("fast, but Dice of the batch", {"loss": "batch_dice"}),
)


def ladder() -> list[tuple[str, Recipe]]:
    """The recipes from original to fast, which must meet."""
    recipe, found = SMALL["original"], []
    for change, fields in LADDER:
        model = recipe.model | fields.get("model", {})
        recipe = recipe.changed(**fields | {"model": model})
        found.append((change, recipe))
    same = ("epochs", "scored", "compile", "momentum", "name", "model")  # what plays no part here
    end, fast = (each.changed(**{name: getattr(FAST, name) for name in same}).to_dict()
                 for each in (recipe, SMALL["fast"]))
    if end != fast or UNet(**recipe.model).config != UNet(**SMALL["fast"].model).config:
        raise ValueError("the ladder does not end at recipe fast")
    return found


def seconds_a_step(steel: Steel, recipe: Recipe, seed: int) -> float:
    trial = curve(steel, recipe, 6, 2, seed, last=1)["points"]  # the first half warms up
    return (trial[1]["cpu_seconds"] - trial[0]["cpu_seconds"]) / 3


def ablated(steel: Steel, recipe: Recipe, seconds: float, seed: int) -> dict:
    """A line of the ablation: as many steps as `seconds` of the processor hold, as far as can be told before."""
    steps = max(2, round(seconds / seconds_a_step(steel, recipe, seed)))
    return curve(steel, recipe, steps, 2, seed, last=SCORED)


def reaching(steel: Steel, recipe: Recipe, target: float, seconds: float, seed: int) -> dict:
    """A line of the waterfall: seconds of the processor until the target is reached, None where it never is."""
    a_step = seconds_a_step(steel, recipe, seed)
    found = {"seed": seed, "target": target, "at_most": seconds, "seconds_a_step": a_step, "tried": []}
    for share in (1,) if recipe.schedule == "constant" else (1 / 16, 1 / 4, 1):
        steps = max(2, round(share * seconds / a_step))
        run = curve(steel, recipe, steps, min(steps, 20 if share == 1 else 8), seed, last=1, until=target)
        last = run["points"][-1]
        found["tried"].append({"steps": steps, "best": max(map(best, run["points"]))})
        if best(last) >= target:
            return found | {"cpu_seconds": last["cpu_seconds"], "steps": last["step"], "dice": best(last)}
    return found | {"cpu_seconds": None, "steps": None, "dice": None}


def waterfall(sets: dict[str, Steel], seeds: list[int], result: dict, keep, quick: bool) -> None:
    """Fills result["waterfall"] line by line; the targets are those of result["data"]."""
    for name in sets:
        lines = [{"change": change, "recipe": recipe.to_dict(), "runs": []} for change, recipe in ladder()]
        result["waterfall"][name] = {"lines": lines, "same_seconds": []}
    for seed in seeds:
        for name, steel in sets.items():
            known = {row["seed"]: row for row in result["data"].get(name, {}).get("by_seed", ())}
            target, seconds = (0.05, 1.0) if quick else (known[seed][key] for key in ("target", "original_cpu_seconds"))
            into = result["waterfall"][name]
            base = {"seed": seed, "target": target, "cpu_seconds": seconds, "dice": target}  # by its own definition
            into["lines"][0]["runs"].append(base)
            for line, (change, recipe) in list(zip(into["lines"], ladder(), strict=True))[1:]:
                line["runs"].append(run := reaching(steel, recipe, target, seconds, seed))
                after = f"{run['cpu_seconds']:5.1f} s" if run["cpu_seconds"] else "never"
                print(f"{name:16} seed {seed}  {change:32} Dice {target:.2f} after {after} of {seconds:.0f}",
                      flush=True)
                keep()
            steps = max(2, round(seconds / seconds_a_step(steel, SMALL["fast"], seed)))
            into["same_seconds"].append(run := curve(steel, SMALL["fast"], steps, min(steps, 10), seed))
            print(f"{name:16} seed {seed}  fast for {seconds:.0f} s: Dice {run['final']['dice']:.3f}", flush=True)
            keep()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ablation", action="store_true", help="the ablation instead of the comparison")
    parser.add_argument("--waterfall", action="store_true", help="seconds to the original's best, a change a line")
    parser.add_argument("--write", action="store_true", help="all of it, kept in --out; default: a minute's worth")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=8.0, help="of each line of the ablation (default 8)")
    parser.add_argument("--only", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared/data", help="folder of real data")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/results")
    options = parser.parse_args()
    quick = not options.write
    torch.set_num_threads(1)
    print(runtime.describe())
    date = time.strftime("%Y-%m-%d")
    file = options.out / f"time_to_quality-{date}.json"
    seeds = options.seeds[:1] if quick else options.seeds
    before = json.loads(file.read_text()) if file.exists() else {}
    result = {"question": __doc__.splitlines()[0], "date": date, "machine": runtime.describe().splitlines(),
              "torch": torch.__version__, "threads": 1, "conventions": CONVENTIONS,
              "recipes": {name: recipe.to_dict() for name, recipe in SMALL.items()},
              "data": before.get("data", {}), "ablation": before.get("ablation", {}),
              "waterfall": before.get("waterfall", {}), "notes": before.get("notes", [])}

    def keep() -> None:
        if options.write:
            options.out.mkdir(parents=True, exist_ok=True)
            text = json.dumps(rounded(result), indent=1, ensure_ascii=False, allow_nan=False)
            file.write_text(text + "\n")

    with tempfile.TemporaryDirectory() as folder:
        sets = {}
        for name in options.only:
            if name == "synthetic":
                made = synthetic.write_dataset(Path(folder) / name, 24 if quick else 96, shape=(128, 400),
                                       progress=False)
                sets[name] = Steel(made, Path(folder))
            elif (options.shared / name).is_dir():
                sets[name] = Steel(options.shared / name, Path(folder))
            else:
                print(f"skipped: no {name} in the folder of real data")
        if options.waterfall:
            return waterfall(sets, seeds, result, keep, quick)
        if options.ablation:
            seconds = 0.3 if quick else options.seconds
            plan = ladder() + [(change, SMALL["fast"].changed(**fields)) for change, fields in ASIDE]
            for name in sets:
                lines = [{"change": change, "recipe": recipe.to_dict(), "runs": []} for change, recipe in plan]
                result["ablation"][name] = {"seconds": seconds, "lines": lines}
            for seed in seeds:
                for name, steel in sets.items():
                    for line, (change, recipe) in zip(result["ablation"][name]["lines"], plan, strict=True):
                        line["runs"].append(run := ablated(steel, recipe, seconds, seed))
                        print(f"{name:16} seed {seed}  {change:32} {run['steps']:4} steps "
                              f"{run['points'][-1]['cpu_seconds']:5.1f} s  Dice {run['final']['dice']:.3f}",
                              flush=True)
                        keep()
            return
        for name, steel in sets.items():
            result["data"][name] = {"images": len(steel.data), "fingerprint": steel.data.fingerprint(),
                                    "scored_at_points": len(steel.held_out(0, at_most=SCORED)),
                                    "lengths": LENGTHS[name], "by_seed": []}
        for seed in seeds:
            for name, steel in sets.items():
                print(f"-- {name}, seed {seed}", flush=True)
                lengths = {key: 12 for key in POINTS} if quick else LENGTHS[name]
                points = dict.fromkeys(POINTS, 2) if quick else POINTS
                found = result["data"][name]
                found["by_seed"].append(one_seed(steel, lengths, points, seed))
                found["summary"] = summary(found["by_seed"])
                keep()
        for name in sets:
            print(f"{name}, {len(seeds)} seeds:")
            for run, told in result["data"][name]["summary"].items():
                print(f"    {run:9}" + "  ".join(f"{key} {value}" for key, value in rounded(told, 3).items()))


def rounded(value, places: int = 6):
    """Rounds all floats, at any depth."""
    if isinstance(value, dict):
        return {key: rounded(each, places) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each, places) for each in value]
    return round(value, places) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
