"""How many images a second does training take on a GPU, the original's way and ours, at the original's network?

    python benchmarks/throughput.py [--turns 5] [--steps 20] [--write] [--commit HASH]

The network is the original's: valid, width 64, depth 4. Its way is written out in `on_a_gpu/contenders.py`, under
today's PyTorch: float32 (no TF32, which its P100 had not), eager, batch 2, images mirrored on the CPU by NumPy as
floats, its Dice loss after the repair, `loss.item()` at each step. Then one change a line, each on top of those before:
exact geometry; bytes to the device, divided there; TF32; mixed precision (bfloat16, or float16 where the card has
none); channels-last; a fused optimizer; `trainer.Trainer`, which waits for nothing; a fixed batch on the device, so no
work on data; torch.compile; larger batches. At the batch with most images a second follow the same again (its distance
from the line above is the noise), the same with all work on data (`iter_batches`), and same-padding U-Nets of equal
width on 256×1600 pixels, on a fixed batch and with all of ours but its geometry: one built as milesial's, and MONAI's
where it is installed.

- A window is --steps steps between two synchronisations by the clock, after untimed ones, with a loader as many as use
  up what it has ahead; a line's time is the median over --turns. The lines take turns in a random order where the card
  has 40 GiB to hold all of them, else they run one after another. Images are decoded before, in every line.
- GMAC are the multiply-adds of one image's forward; a training step counts three times as many, each two operations.
- Share: those operations a second over the card's best rate of square matrix products in mixed precision's type, on
  random numbers, of the same run.
- Peak memory is what a line allocated at most: weights, gradients, momentum, features. What is out of memory is said.

Without a CUDA device all lines run small, which proves no more than that they run, and --write is refused.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator

import torch
from on_a_gpu import clock, contenders
from on_a_gpu.clock import OUT_OF_MEMORY, Plan
from on_a_gpu.contenders import ITS_WAY, WITH_DATA

from steelnb import runtime
from steelnb.data import dataset, synthetic
from steelnb.training import batches
from steelnb.training.recipes import ORIGINAL

LEAST_SPEED_UP, LEAST_SHARE = 8.0, 0.4
RESULTS = clock.ROOT / "benchmarks" / "results"


def show(title: str, rows: dict[str, dict], first: dict, rate: float) -> None:
    """Prints the lines and adds what depends on others: speed-up and share."""
    print(f"\n{title:<36} {'batch':>5} {'GMAC':>6} {'images/s':>9} {'ms a step':>10} {'speed-up':>9} {'share':>6} "
          f"{'GiB':>6}")
    for name, row in rows.items():
        head = f"{name:<36} {row['batch']:>5} {row['gmac_an_image']:>6.3g}"
        if "failed" in row:
            print(f"{head}  {row['failed']}")
            continue
        row["share"] = row["tflops"] / rate
        row["speed_up"] = row["images_per_s"] / first["images_per_s"] if "failed" not in first else None
        times = f"{row['speed_up']:.2f}" if row["speed_up"] else "–"
        peak = f"{row['peak_gib']:.2f}" if row["peak_gib"] else "–"
        print(f"{head} {row['images_per_s']:>9.1f} {row['ms_a_step']:>10.2f} {times:>9} {row['share']:>6.1%} {peak:>6}")


def judge(row: dict, gpu: bool) -> None:
    """The targets, for ours with all work on data against the original's way."""
    for name, value, least, form in (("images/s over the original's way", row.get("speed_up"), LEAST_SPEED_UP, ".1f"),
                                     ("share of the matrix rate", row.get("share"), LEAST_SHARE, ".0%")):
        if not gpu:
            print(f"{name} (at least {least:{form}}): open: it takes a GPU to say")
        elif value is None:
            print(f"{name} (at least {least:{form}}): open: a line that it needs did not run")
        else:
            print(f"{name}: {value:{form}} (at least {least:{form}}): {'reached' if value >= least else 'missed'}")


def planned(gpu: bool, turns: int | None, steps: int | None) -> Plan:
    if gpu:
        return Plan(torch.device("cuda"), 64, (256, 1600), 32, 10, (2048, 4096, 8192), steps or 20, turns or 5)
    return Plan(torch.device("cpu"), 2, (32, 48), 8, 1, (128, 256), steps or 1, turns or 1)


def a_graph_for_each_batch(device: torch.device) -> None:
    """Compiles for each size separately, as in a training; else torch.compile would make one graph for all sizes."""
    if runtime.compiles(device):
        import torch._dynamo.config as dynamo

        dynamo.automatic_dynamic_shapes = False
        for limit in ("recompile_limit", "cache_size_limit"):
            if hasattr(dynamo, limit):
                setattr(dynamo, limit, 64)


def measure(plan: Plan) -> Iterator[dict]:
    """Measures and prints, part by part."""
    recipe = ORIGINAL.changed(model=ORIGINAL.model | {"width": plan.width})
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STEELNB_HOME"] = folder  # for the cache of decoded images
        steel = dataset.read_dataset(
            synthetic.write_dataset(f"{folder}/steel", plan.images, shape=plan.shape, progress=False)
        )
        samples, _ = batches.training_and_validation_samples(steel, recipe, seed=0)
        pool = [(image := samples.cache[item.image_id].copy(), samples.mask(item, image.shape))
                for item in samples.items]
        rates = clock.matrix_rates(plan)
        print("matrix products, TFLOP/s: " + ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items()))
        yield {"matrix_tflops": rates}

        lines = contenders.way_lines(plan, pool, recipe)
        rows = clock.race(lines, plan)
        first = rows[ITS_WAY]
        show("a change a line", rows, first, rates["mixed"])
        yield {"lines": rows}

        compiled = lines[-1 - len(contenders.BATCHES) :]
        ran = [line for line in compiled if "failed" not in rows[line.name]]
        best = max(ran, key=lambda line: rows[line.name]["images_per_s"], default=compiled[0])
        ours = recipe.changed(geometry="exact", channels_last=True, compile=True, batch=best.batch)
        last = [best._replace(name="the same again"), contenders.our_line(plan, steel, ours, best.macs)]
        rows = clock.race(last + contenders.peer_lines(plan, pool, best.batch), plan)
        show(f"at batch {best.batch}", rows, first, rates["mixed"])
        print(f"\nours is the line '{WITH_DATA}':")
        judge(rows[WITH_DATA], plan.device.type == "cuda")
        yield {"ours_and_peers": rows}

        table = clock.peaks(contenders.memory_ways(plan, pool, recipe), contenders.MEMORY_BATCHES, plan)
        print("\npeak GiB at batch " + ", ".join(map(str, contenders.MEMORY_BATCHES)))
        for name, peaks in table.items():
            told = (f"{peak:.2f}" if isinstance(peak, float) else peak or "–" for peak in peaks.values())
            print(f"{name:<36} {', '.join(told)}")
        yield {"peak_gib": table}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, help="windows a line (5; without a GPU 1)")
    parser.add_argument("--steps", type=int, help="steps a window (20; without a GPU 1)")
    parser.add_argument("--write", action="store_true", help="leave results/throughput-DATE.json, part by part")
    parser.add_argument("--commit", help="where the code is from, if git cannot tell")
    options = parser.parse_args(arguments)
    gpu = torch.cuda.is_available()
    if options.write and not gpu:
        parser.error("--write: there is no CUDA device, and a figure of this question must come from a GPU")
    plan = planned(gpu, options.turns, options.steps)
    print(runtime.describe())
    if not gpu:
        print(f"no GPU: the lines ran at width {plan.width} on small images; "
              "nothing here is a figure of the original's size")
    a_graph_for_each_batch(plan.device)
    result = {"made": time.strftime("%Y-%m-%d"), "on": runtime.describe()}
    result |= clock.provenance(plan.device, options.commit)
    result |= {"width": plan.width, "image": plan.shape, "steps": plan.steps, "turns": plan.turns}
    path = RESULTS / f"throughput-{result['made']}.json"
    for part in measure(plan):
        sys.stdout.flush()
        result |= part
        if options.write:  # at once: a stop leaves the parts that took place
            path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.write:
        print(f"written: {path}")
    ran = (*result["lines"].values(), *result["ours_and_peers"].values())
    return int(any(row.get("failed", OUT_OF_MEMORY) != OUT_OF_MEMORY for row in ran))


if __name__ == "__main__":
    sys.exit(main())
