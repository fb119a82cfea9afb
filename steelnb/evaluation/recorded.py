"""Results of long runs that took place, with date and machine.  Taught in 09_hundred_times_faster.

The files are ``benchmarks/results/QUESTION-DATE.json`` of the repository; an installed steelnb carries them as
``steelnb/results``.
"""

import json
from pathlib import Path

PLACES = tuple(Path(__file__).resolve().parents[1] / place for place in ("results", "../benchmarks/results"))


def recorded_result(question: str) -> dict:
    """The newest result of a benchmark, "time_to_quality" for instance, as the benchmark left it.

    Raises FileNotFoundError naming the questions that have one.
    """
    files = [file for place in PLACES for file in place.glob("*.json")]
    fitting = [file for file in files if file.stem.rsplit("-", 3)[0] == question]
    if not fitting:
        known = sorted({file.stem.rsplit("-", 3)[0] for file in files})
        raise FileNotFoundError(f"no result of {question!r}; there is {', '.join(known) or 'none at all'}")
    return json.loads(max(fitting, key=lambda file: file.stem).read_text(encoding="utf-8"))
