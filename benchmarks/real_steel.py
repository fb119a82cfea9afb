"""What does the smoke recipe reach on real steel, by every convention?

Trains it (18 epochs, seed 0) on the real images of ../shared/data, which are no part of this repository, scores the
held-out ones, chooses an operating point on half of them; --write leaves results/real_steel-DATE.json. Severstal is
trained on twice: one mask for all defects, and one mask per class for Kaggle's score.
"""

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from steelnb import runs, runtime
from steelnb.data import sources
from steelnb.evaluation.report import choose_operating_point, evaluate
from steelnb.network import weights
from steelnb.training.recipes import SMOKE

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
RUNS = (("severstal", False), ("severstal", True), ("sd_saliency_900", False))


def main() -> None:
    print(runtime.describe())
    results = {"made": time.strftime("%Y-%m-%d"), "on": runtime.describe(), "runs": []}
    for name, per_class in RUNS:
        if not (SHARED / name).is_dir():
            print(f"{name}: not there, left out")
            continue
        data = sources.open_dataset(SHARED / name, progress=False)
        recipe = SMOKE.changed(epochs=18, per_class=per_class)
        with tempfile.TemporaryDirectory() as folder:
            history = runs.train(data, Path(folder) / "run", recipe, progress=False, report=lambda line: None)
            trained = weights.load_network(Path(folder) / "run")
        began = time.perf_counter()
        scored, halved = (replace(each, hidden=())  # with the original's conventions for every set
                          for each in (evaluate(trained, data), choose_operating_point(trained, data)))
        seconds = {"training": float(history["seconds"].iloc[-1]), "scoring": time.perf_counter() - began}
        results["runs"].append({"mask_a_class": per_class, "seconds": seconds, "report": scored.to_dict(),
                                "chosen": halved.to_dict()})
        print(f"\n{scored.table()}\n\n{halved.table()}\n{seconds}", flush=True)
    if results["runs"] and "--write" in sys.argv:
        path = ROOT / "benchmarks" / "results" / f"real_steel-{results['made']}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
