"""What does a strip of a million columns cost, beside the same pixels as single images?

    python benchmarks/strip.py [--lengths 10000 100000 1000000] [--images 24] [--weights RUN]

A strip of 256 rows is made of drawn steel, written as raw bytes, and segmented with the smoke recipe's network: masks,
table of defects, overview and run-length text. Each length has a process of its own, whose peak of resident memory is
told with what was resident after the imports. Before and after, the same process segments single images of 256×1600
that are in memory already, without writing anything: the ratio is strip to images, in pixels a second.

Without --weights the network's weights are random: its masks mean nothing, and are more ragged than a trained one's.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HEIGHT, WIDTH, PICTURES = 256, 1600, 12


def peak() -> float:
    """Peak resident memory of this process, MB."""
    try:  # getrusage would count what the parent had before it became this process
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def measure(length: int, images: int, weights: str | None) -> dict:
    """One strip, in this process."""
    import numpy as np
    import torch

    from steelnb import runtime
    from steelnb.data.synthetic_drawing import draw
    from steelnb.network.unet import UNet
    from steelnb.network.weights import Trained, load_network
    from steelnb.prediction.files import predict_files, segment
    from steelnb.training.recipes import SMOKE

    torch.manual_seed(0)
    trained = load_network(weights) if weights else Trained(UNet(**SMOKE.model).eval(), {})
    pictures = [draw(0, number).image for number in range(PICTURES)]
    base = np.concatenate(pictures, axis=1)

    def single(count: int) -> float:
        started = time.perf_counter()
        for number in range(count):
            segment(trained, pictures[number % PICTURES])
        return time.perf_counter() - started

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "strip.raw"
        with path.open("wb") as file:
            for row in base:
                file.write(np.resize(row, length))
        resident = peak()
        segment(trained, pictures[0])  # warms up
        one = peak()
        alone = single(images // 2)
        started = time.perf_counter()
        outcome = predict_files(trained, [path], Path(folder) / "out", raw=(HEIGHT, length))
        seconds = time.perf_counter() - started
        most = peak()
        alone += single(images // 2)
        if outcome.failed:
            raise RuntimeError(str(outcome.failed))
    return {
        "machine": runtime.describe(), "seconds": seconds, "share": outcome.written["strip"],
        "strip": HEIGHT * length / seconds, "images": images // 2 * 2 * HEIGHT * WIDTH / alone,
        "imports": resident, "image": one, "peak": most,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--lengths", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="columns")
    options.add_argument("--images", type=int, default=24, help="single images to time")
    options.add_argument("--weights", help="a run folder; default: random weights")
    options.add_argument("--alone", type=int, help=argparse.SUPPRESS)
    options = options.parse_args()
    if options.alone:
        print(json.dumps(measure(options.alone, options.images, options.weights)))
        return
    for number, length in enumerate(options.lengths):
        command = [sys.executable, __file__, "--alone", str(length), "--images", str(options.images)]
        command += ["--weights", options.weights] if options.weights else []
        told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        if not number:
            print(told["machine"])
            print(f"{'weights of ' + options.weights if options.weights else 'random weights'}, one process a length")
        print(f"{HEIGHT}×{length:,}: {told['seconds']:.1f} s, {told['strip'] / 1e6:.2f} Mpx/s; single images "
              f"{told['images'] / 1e6:.2f} Mpx/s, ratio {told['strip'] / told['images']:.2f}; peak of resident memory "
              f"{told['peak']:.0f} MB, {told['imports']:.0f} MB after imports: {told['peak'] - told['imports']:.0f} MB "
              f"more ({told['image'] - told['imports']:.0f} for a single image); {told['share']:.1%} defect",
              flush=True)


if __name__ == "__main__":
    main()
