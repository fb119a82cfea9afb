"""What does the mask of a whole 256×1600 image cost on a CPU, beside MONAI's sliding window and one plain forward?

    python benchmarks/prediction.py [--repeats 7] [--weights RUN] [--full] [--write]

The network is valid: it shrinks what it sees. MONAI asks for an answer of the window's size, so its predictor mirrors
each window at the window's own border, and MONAI blends what overlaps. Windows are as high as the image: only columns
have seams. Overlaps and blendings are MONAI's; which comes closest to seamless is measured, not assumed. MONAI gets the
memory layout that ours gives the network too (channels last), so that the ratio is not one of layouts; lines "unasked"
are without it. Last, MONAI is taught our geometry: windows with their true neighbourhood, placed on the grid of the
poolings, and weights that leave the margin out. That is seamless as well.

The network is the smoke recipe's, trained for some seconds on synthetic steel, or the one of --weights. --full adds the
original's size (width 64, depth 4, random weights), once. Contenders take turns; a ratio is the median over the turns.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from steelnb import runs, runtime
from steelnb.data import dataset, synthetic
from steelnb.data.synthetic_drawing import draw
from steelnb.network import geometry, weights
from steelnb.network.inference import predict_logits, to_tensor
from steelnb.network.tiles import Tile, input_window, mirror_index, window
from steelnb.network.unet import UNet
from steelnb.training.recipes import SMOKE

try:
    from monai.inferers import sliding_window_inference
except ImportError:
    sliding_window_inference = None

ROOT = Path(__file__).resolve().parents[1]
SHAPE, WIDTH = (256, 1600), 512  # of an image; columns of MONAI's windows
BLENDED = [(overlap, mode) for overlap in (0.25, 0.5, 0.75) for mode in ("constant", "gaussian")]
LEAST_OVER_MONAI, MOST_OVER_WHOLE = 1.5, 1.1
OURS, WHOLE, TAUGHT = "steelnb", "one plain forward", "MONAI taught our geometry"


def trained_network(steps: int) -> UNet:
    """The smoke recipe's network after a short training on synthetic steel."""
    home = os.environ.get("STEELNB_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STEELNB_HOME"] = folder  # for the cache of decoded images
        try:
            steel = dataset.read_dataset(synthetic.write_dataset(f"{folder}/steel", 40, progress=False))
            told = runs.train(steel, f"{folder}/run", SMOKE, steps=steps, progress=False, report=lambda line: None)
            if told.empty or told["step"].iloc[-1] < steps:  # it takes a signal for the end of its session
                raise SystemExit("the short training was stopped: nothing is measured")
            return weights.load_network(f"{folder}/run", torch.device("cpu")).model.eval()
        finally:
            os.environ.pop("STEELNB_HOME")
            if home is not None:
                os.environ["STEELNB_HOME"] = home


def whole(model: UNet, image: np.ndarray, layout: torch.memory_format) -> np.ndarray:
    """The reference: one forward of the mirrored image."""
    with torch.inference_mode():
        seen = to_tensor(input_window(image, Tile(0, 0, *image.shape), model.depth)).to(memory_format=layout)
        return model(seen)[0, :, : image.shape[0], : image.shape[1]].numpy()


def monai(model: UNet, image: np.ndarray, overlap: float, mode: str, layout: torch.memory_format) -> np.ndarray:
    """MONAI's sliding window over a predictor that mirrors each window separately."""
    margin = geometry.margin(model.depth)

    def predictor(windows: torch.Tensor) -> torch.Tensor:
        height, width = windows.shape[2:]
        rows, columns = (
            torch.from_numpy(mirror_index(-margin, geometry.input_size(n, model.depth) - margin, n))
            for n in (height, width)
        )
        mirrored = windows[:, :, rows][..., columns]
        return model(mirrored.to(memory_format=layout))[..., :height, :width]

    with torch.inference_mode():
        return sliding_window_inference(
            to_tensor(image), (image.shape[0], WIDTH), 1, predictor, overlap=(0, overlap), mode=mode
        )[0].numpy()


def monai_taught(model: UNet, image: np.ndarray, layout: torch.memory_format) -> np.ndarray:
    """MONAI's sliding window over the mirrored image, its windows overlapping by their margins alone."""
    margin, grid = geometry.margin(model.depth), 2**model.depth
    count = -(-image.shape[1] // WIDTH)
    step = -(-image.shape[1] // (count * grid)) * grid
    height, width = geometry.input_size(image.shape[0], model.depth), geometry.input_size(step, model.depth)
    seen = to_tensor(window(image, -margin, -margin, height, width + (count - 1) * step))
    inside = torch.zeros(1, 1, height, width)
    inside[..., margin : margin + image.shape[0], margin : margin + step] = 1

    def predictor(windows: torch.Tensor) -> torch.Tensor:
        logits = model(windows.to(memory_format=layout))
        pads = [(margin, n - margin - m) for m, n in zip(logits.shape[2:], windows.shape[2:], strict=True)]
        return torch.nn.functional.pad(logits, (*pads[1], *pads[0]))

    with torch.inference_mode():
        logits = sliding_window_inference(
            seen, (height, width), 1, predictor, roi_weight_map=inside,
            overlap=(0, 1 - (step + 0.5) / width),  # MONAI rounds width · (1 − overlap) down
        )
    return logits[0, :, margin : margin + image.shape[0], margin : margin + image.shape[1]].numpy()


def contenders(model: UNet, blended: list) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """{name: image → logits}; the first is ours, the second the reference."""
    plain, last = torch.contiguous_format, torch.channels_last
    table = {
        OURS: lambda image: predict_logits(model, image),
        WHOLE: lambda image: whole(model, image, plain),
        "one forward, channels last": lambda image: whole(model, image, last),
        "steelnb, tiles of 256×800": lambda image: predict_logits(model, image, (256, 800)),
    }
    if sliding_window_inference:
        for overlap, mode in blended:
            name = f"MONAI, overlap {overlap}, {mode}"
            table[name] = lambda image, o=overlap, m=mode: monai(model, image, o, m, last)
            if mode == "gaussian":
                table[f"{name}, unasked"] = lambda image, o=overlap, m=mode: monai(model, image, o, m, plain)
        table[TAUGHT] = lambda image: monai_taught(model, image, last)
        table[f"{TAUGHT}, unasked"] = lambda image: monai_taught(model, image, plain)
    return table


def measure(model: UNet, images: list[np.ndarray], repeats: int, blended: list) -> dict[str, dict]:
    """Every contender on every image, in turns of a random order; errors are against `WHOLE`."""
    table, rng = contenders(model, blended), np.random.default_rng(0)
    errors = {name: [] for name in table}
    for image in images:  # warms up as well
        reference = whole(model, image, torch.contiguous_format)
        for name, predicts in table.items():
            logits = predicts(image)
            off = np.abs(logits - reference)
            errors[name].append((off.max(), off.mean(), ((logits > 0) != (reference > 0)).sum()))
    seconds = {name: [] for name in table}
    for turn in range(repeats):
        for name in rng.permutation(list(table)):
            started = time.perf_counter()
            table[name](images[turn % len(images)])
            seconds[name].append(time.perf_counter() - started)
    return {
        name: {
            "seconds": float(np.median(seconds[name])),
            "times_ours": float(np.median(np.divide(seconds[name], seconds[OURS]))),
            "largest_error": float(max(e[0] for e in errors[name])),
            "mean_error": float(np.mean([e[1] for e in errors[name]])),
            "changed_pixels": int(sum(e[2] for e in errors[name])),
        }
        for name in table
    }


def show(rows: dict[str, dict]) -> dict[str, float]:
    """Prints the table and the targets; returns their ratios."""
    print(f"{'':<38} {'s':>7} {'× ours':>7} {'|Δ logit| max':>14} {'mean':>9} {'mask pixels changed':>20}")
    for name, row in rows.items():
        print(f"{name:<38} {row['seconds']:>7.3f} {row['times_ours']:>7.2f} {row['largest_error']:>14.2g} "
              f"{row['mean_error']:>9.2g} {row['changed_pixels']:>20}")
    ratios = {"time over one plain forward": 1 / rows[WHOLE]["times_ours"]}
    ratios["time over one forward, channels last"] = 1 / rows["one forward, channels last"]["times_ours"]
    for name, ratio in ratios.items():
        verdict = "reached" if ratio <= MOST_OVER_WHOLE else "missed: our tiles or copies cost more than that"
        print(f"{name}: {ratio:.2f} (at most {MOST_OVER_WHOLE}): {verdict}")
    blended = {name: row for name, row in rows.items() if name.startswith("MONAI, ") and "unasked" not in name}
    if blended:
        closest = min(blended, key=lambda name: blended[name]["mean_error"])
        print(f"closest to seamless of MONAI's own settings, by mean |Δ logit|: {closest}")
        for name in (closest, f"{closest}, unasked", TAUGHT, f"{TAUGHT}, unasked"):
            if name in rows:
                ratios[f"speed over {name}"] = ratio = rows[name]["times_ours"]
                verdict = "reached" if ratio >= LEAST_OVER_MONAI else "missed: it computes few pixels more than ours"
                print(f"speed over {name}: {ratio:.2f} (at least {LEAST_OVER_MONAI}): {verdict}")
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=420, help="of the short training")
    parser.add_argument("--weights", type=Path, help="a run folder, instead of the short training")
    parser.add_argument("--full", action="store_true", help="the original's size as well: minutes")
    parser.add_argument("--write", action="store_true", help="leave results/prediction-DATE.json")
    options = parser.parse_args()
    print(runtime.describe())
    if not sliding_window_inference:
        print("MONAI is not installed (pip install -c constraints.txt -e '.[peers]'); the rest:")
    if options.weights:
        model, about = weights.load_network(options.weights, torch.device("cpu")).model.eval(), "weights given"
    else:
        model, about = trained_network(options.steps), f"trained for {options.steps} steps on synthetic steel"
    results = {"made": time.strftime("%Y-%m-%d"), "on": runtime.describe(), "runs": []}
    images = [draw(1, number, SHAPE).image for number in range(2)]
    plan = [(model, about, images, options.repeats, BLENDED)]
    if options.full:
        torch.manual_seed(0)
        plan.append((UNet().eval(), "random weights, whose seams say little", images[:1], 1, BLENDED[1::2]))
    for model, about, images, repeats, blended in plan:
        title = f"U-Net of width {model.config['width']}, depth {model.depth}, {about}"
        print(f"\n{title}; {len(images)} images of {SHAPE[0]}×{SHAPE[1]}, {repeats} turns", flush=True)
        rows = measure(model, images, repeats, blended)
        ratios = show(rows)
        results["runs"].append({"network": title, "images": len(images), "turns": repeats, "contenders": rows,
                                "ratios": ratios})
    if options.write:
        path = ROOT / "benchmarks" / "results" / f"prediction-{results['made']}.json"
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
