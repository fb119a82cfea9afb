"""Recorded results of long runs, with date and machine.  Taught in 11_hundred_times_faster.

Benchmarks write ``benchmarks/results/QUESTION-DATE.json``, studies ``studies/records/NAME.jsonl``; an installed steelnb
contains them as ``steelnb/results`` and ``steelnb/records``.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

PACKAGE = Path(__file__).resolve().parents[1]
PLACES = tuple(PACKAGE / place for place in ("results", "../benchmarks/results"))
RECORDS = tuple(PACKAGE / place for place in ("records", "../studies/records"))


def recorded_result(question: str) -> dict:
    """The newest result of a benchmark, for example "time_to_quality", as the benchmark wrote it.

    Raises FileNotFoundError with the names of those that have a result.
    """
    files = [file for place in PLACES for file in place.glob("*.json")]
    fitting = [file for file in files if file.stem.rsplit("-", 3)[0] == question]
    if not fitting:
        known = sorted({file.stem.rsplit("-", 3)[0] for file in files})
        raise FileNotFoundError(f"no result of {question!r}; recorded are: {', '.join(known) or 'none at all'}")
    return json.loads(max(fitting, key=lambda file: file.stem).read_text(encoding="utf-8"))


def records(name: str) -> pd.DataFrame:
    """The records of a study, one row per finished cell; columns are its setting, its numbers, then the rest.

    Raises FileNotFoundError with the names of the studies that have records.
    """
    files = {file.stem: file for place in RECORDS for file in place.glob("*.jsonl")}
    if name not in files:
        raise FileNotFoundError(f"no records of {name!r}; recorded are: {', '.join(sorted(files)) or 'none at all'}")
    return table(lines(files[name]))


def csv(name: str) -> pd.DataFrame:
    """A table that a study leaves beside its records while it goes on, for example "long_run-original-history".

    Raises FileNotFoundError with the names of those that there are.
    """
    files = {file.stem: file for place in RECORDS for file in place.glob("*.csv")}
    if name not in files:
        raise FileNotFoundError(f"no table {name!r}; there are: {', '.join(sorted(files)) or 'none at all'}")
    return pd.read_csv(files[name])


def seed_interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean of one number per seed and its 95 % t interval, (mean, low, high); NaN limits with fewer than two seeds."""
    from scipy import stats

    values = np.asarray(list(values), float)
    mean, n = (values.mean() if len(values) else np.nan), len(values)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5 if n > 1 else np.nan
    return float(mean), float(mean - half), float(mean + half)


def seeds_and_images_interval(gains: np.ndarray, draws: int = 2000) -> tuple[float, float, float]:
    """Mean of paired differences, [seeds, images], with a 95 % interval: both are drawn with replacement."""
    rng, weights = np.random.default_rng(0), []
    for n in gains.shape:
        weights.append(rng.multinomial(n, np.full(n, 1 / n), draws) / n)
    means = np.einsum("ds,sn,dn->d", weights[0], gains, weights[1], optimize=True)
    return float(gains.mean()), *map(float, np.quantile(means, (0.025, 0.975)))


def table(rows: list[dict]) -> pd.DataFrame:
    """Records as a table. Raises ValueError if a number has the name of a setting."""
    for row in rows:
        if twice := row["setting"].keys() & row["numbers"].keys():
            raise ValueError(f"study {row['study']}: {', '.join(sorted(twice))} is both a setting and a number")
    about = ("cpu_seconds", "date", "commit")
    return pd.DataFrame([row["setting"] | row["numbers"] | {name: row[name] for name in about} for row in rows])


def lines(path: Path) -> list[dict]:
    """The records of a file, in order; none if there is no file. An unfinished last line is left out.

    Raises ValueError, naming file and line, if any other is not JSON.
    """
    found = []
    whole, _, _ = (path.read_bytes() if path.exists() else b"").rpartition(b"\n")
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            found.append(json.loads(line))
        except ValueError:
            raise ValueError(f"{path.name}, line {number} is not a record; remove it to run its cell again") from None
    return found
