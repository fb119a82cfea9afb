"""What does importing steelnb cost on top of torch?

    python benchmarks/imports.py [--repeats 7] [--write]

Each import has a process of its own; the clock runs inside it, around the import alone. Processes take turns, the first
turn warms the disk up; what steelnb costs is the median over the turns of its time less torch's in the same turn. Where
it is above the target, the packages that Python's -X importtime blames follow, those that torch alone brings left out.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from steelnb import runtime

ROOT = Path(__file__).resolve().parents[1]
MOST = 0.3  # seconds over torch
TORCH = "import torch"
IMPORTS = (
    "import torch, steelnb",
    "import torch; from steelnb import training, predict",
)
CLOCK = "import time\nbefore = time.perf_counter()\n{}\nprint(time.perf_counter() - before)"


def seconds(statement: str) -> float:
    """Duration of the import in a fresh process."""
    command = [sys.executable, "-c", CLOCK.format(statement)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()[-1])


def packages(statement: str) -> Counter:
    """Seconds of import by package, each module's own time alone, by -X importtime."""
    command = [sys.executable, "-X", "importtime", "-c", statement]
    spent = Counter()
    for line in subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stderr.splitlines():
        if line.startswith("import time:") and "|" in line and "self [us]" not in line:
            own, _, module = line.removeprefix("import time:").split("|")
            spent[module.strip().partition(".")[0]] += int(own) / 1e6
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="leave results/imports-DATE.json")
    options = parser.parse_args()
    print(runtime.describe())
    took = {statement: [] for statement in (TORCH, *IMPORTS)}
    for turn in range(options.repeats + 1):
        for statement, times in took.items():
            spent = seconds(statement)
            if turn:
                times.append(spent)
    results = {"made": time.strftime("%Y-%m-%d"), "on": runtime.describe(), "turns": options.repeats,
               TORCH: float(np.median(took[TORCH])), "imports": {}}
    print(f"{TORCH}: {results[TORCH]:.2f} s")
    base = None
    for statement in IMPORTS:
        more = float(np.median(np.subtract(took[statement], took[TORCH])))
        results["imports"][statement] = {"seconds": float(np.median(took[statement])), "over_torch": more}
        print(f"{statement}: {more:+.2f} s (at most +{MOST}): {'reached' if more <= MOST else 'missed'}")
        if more > MOST:
            base = base or packages(TORCH)
            blamed = (packages(statement) - base).most_common(6)
            results["imports"][statement]["packages"] = dict(blamed)
            print("    " + ", ".join(f"{package} {spent:.2f} s" for package, spent in blamed))
    if options.write:
        path = ROOT / "benchmarks" / "results" / f"imports-{results['made']}.json"
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
