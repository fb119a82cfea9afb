"""Runs the cells of a study, each once, whatever stops it in between.

A study is a module ``studies/NAME.py``. Its docstring begins with the question; "Prediction:" and "Decision rule:"
follow, and are committed before the first record exists. It has

- ``cells() -> list[dict]``: the settings as plain JSON, `seed` among them, the most informative first, so that an
  unfinished study is of use;
- ``run(setting) -> dict``: the numbers as plain JSON, the same each time for one setting;
- ``summary(records: pandas.DataFrame) -> str``: Markdown, the answer in two lines, then a table with intervals, drawn
  from the records alone, also from a part of them (a row per cell; setting and numbers are columns, see
  `steelnb.evaluation.recorded.records`);
- optionally ``figure(records)``, a Matplotlib figure, ``HOURS``, the core-hours planned, and ``progress() -> str``, how
  far a first cell is that takes hours.

A finished cell is a line of ``studies/records/NAME.jsonl`` and never runs again; a line torn by a kill is cut off by
the next write. Any number of processes may work on a study: each cell is locked while it runs, and the lock ends with
its process.
"""

import hashlib
import importlib
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pandas as pd
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

import steelnb
from steelnb.evaluation import recorded

HERE = Path(__file__).resolve().parent
RECORDS = HERE / "records"
LOCKS = HERE.parent / "build" / "studies"
HELPERS = {"__init__", "__main__", "runner"}  # and whatever has no `cells`


def names() -> list[str]:
    """Names of the studies: modules with cells."""
    files = sorted(HERE.glob("*.py"))
    return [f.stem for f in files if f.stem not in HELPERS and "\ndef cells(" in f.read_text(encoding="utf-8")]


def load(name: str) -> ModuleType:
    """A study's module. Raises ValueError with the names of all studies."""
    if name not in names():
        raise ValueError(f"no study {name!r}; there is {', '.join(names())}")
    return importlib.import_module(f"studies.{name}")


def key(setting: dict) -> str:
    """The identity of a cell: its setting, in any order of names."""
    return hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()[:16]


def finished(name: str, folder: Path = RECORDS) -> dict[str, dict]:
    """The records of a study by the key of their cell."""
    return {key(record["setting"]): record for record in recorded.lines(folder / f"{name}.jsonl")}


def append(name: str, record: dict, folder: Path = RECORDS, locks: Path = LOCKS) -> None:
    """Appends a record as one line and syncs it to disk; first removes an incomplete line left by a kill."""
    line = json.dumps(record, allow_nan=False, ensure_ascii=False).encode() + b"\n"
    path = folder / f"{name}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{name}.lock"), open(path, "ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def work(name: str, study: ModuleType, folder: Path = RECORDS, locks: Path = LOCKS) -> int:
    """Runs the cells that are neither finished nor being run, in their order. Returns the number of failures."""
    about, failed = {"versions": versions(), "commit": commit()}, 0
    locks.mkdir(parents=True, exist_ok=True)
    for setting in study.cells():
        lock = FileLock(locks / f"{name}-{key(setting)}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        with lock:
            if key(setting) in finished(name, folder):
                continue
            started = sum(os.times()[:4])  # of this process and of those it started
            try:
                numbers = study.run(setting)
                spent = round(sum(os.times()[:4]) - started, 2)
                date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")
                record = {"study": name, "setting": setting, **about, "cpu_seconds": spent, "date": date}
                append(name, record | {"numbers": numbers}, folder, locks)
            except Exception:
                failed += 1
                print(f"{name}: the cell {setting} failed\n{traceback.format_exc()}", file=sys.stderr)
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            break
    return failed


def _worker(name: str) -> None:
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(work(name, load(name)) > 0)


def run(name: str, workers: int) -> int:
    """Runs a study on `workers` processes of one thread each. Returns 0, or 1 where a cell failed."""
    cells, spawn = load(name).cells(), multiprocessing.get_context("spawn")
    wanted = {key(setting) for setting in cells}
    os.environ["OMP_NUM_THREADS"] = "1"
    processes = [spawn.Process(target=_worker, args=(name,), daemon=True) for _ in range(workers)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaving ends the workers
    for process in processes:
        process.start()
    done = len(wanted & finished(name).keys())
    with tqdm(total=len(wanted), initial=done, desc=name, unit="cell", smoothing=0.1) as bar:
        while any(process.is_alive() for process in processes):
            time.sleep(1)
            bar.update(len(wanted & finished(name).keys()) - bar.n)
        bar.update(len(wanted & finished(name).keys()) - bar.n)
    return int(any(process.exitcode for process in processes))


def versions() -> dict[str, str]:
    """The versions that a cell's numbers may depend on."""
    import numpy
    import torch

    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__,
            "steelnb": steelnb.__version__}


def commit() -> str | None:
    """The commit of the code, with a + where the working tree differs from it; None outside a checkout."""
    def git(*words: str) -> str:
        ran = subprocess.run(["git", "-C", str(HERE), *words], capture_output=True, text=True, check=True)
        return ran.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", "../steelnb", ":!records")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def listing() -> pd.DataFrame:
    """One row per study: cells, finished cells, core-hours spent, and core-hours left by the mean cell so far."""
    rows = []
    for name in names():
        study, done = load(name), finished(name)
        wanted = {key(setting) for setting in study.cells()}
        spent = [done[each]["cpu_seconds"] / 3600 for each in wanted & done.keys()]
        mean = sum(spent) / len(spent) if spent else getattr(study, "HOURS", float("nan")) / len(wanted)
        rows.append({"study": name, "cells": len(wanted), "done": len(spent), "hours spent": sum(spent),
                     "hours to come": mean * (len(wanted) - len(spent)), "question": question(study)})
    return pd.DataFrame(rows)


def question(study: ModuleType) -> str:
    """The first sentence of a study's docstring, which ends in a question mark."""
    text, mark, _ = " ".join((study.__doc__ or "").split()).partition("?")
    return text + mark


def summary(name: str) -> str:
    """A study's summary from the records of its present cells, and its progress."""
    study, done = load(name), finished(name)
    wanted = [key(setting) for setting in study.cells()]
    there = [each for each in wanted if each in done]
    if not there:
        under_way = f" {study.progress()}" if hasattr(study, "progress") else ""
        return f"None of its {len(wanted)} cells is recorded yet.{under_way}"
    hours = sum(done[each]["cpu_seconds"] for each in there) / 3600
    state = "complete" if len(there) == len(wanted) else "unfinished; the same command goes on"
    table = study.summary(recorded.table([done[each] for each in there]))
    return f"{len(there)} of {len(wanted)} cells ({hours:.2f} core-hours): {state}.\n\n{table.strip()}"


def section(name: str) -> str:
    """A study's section of README.md, from docstring and records."""
    return f"## `{name}`: {question(load(name))}\n\n`make study ONLY={name}` · {summary(name)}\n"


def readme() -> str:
    """The whole of studies/README.md."""
    return "\n".join([(HERE / "README.head.md").read_text(encoding="utf-8"), *map(section, names())])
