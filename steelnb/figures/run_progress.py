"""Curves, progress and time left of a run, read from its folder while it is trained.  Taught in 09_hundred_hours.

Everything is read from the files that `runs.train` writes, in whatever process; any of them may be missing or damaged.
"""

import csv
import io
import json
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from steelnb.figures import plots

SIZE = (plots.NARROW, 4.4)  # inches
CURVES = {  # the axes, upper and lower: columns of history.csv
    "loss": {"train_loss": ("training", plots.INK), "validation_loss": ("validation", plots.PREDICTION)},
    "Dice, defective images": {"validation_dice": ("validation Dice", plots.HIT)},
}
NEEDED = ["epoch", "step", *(column for curves in CURVES.values() for column in curves)]


@dataclass(frozen=True)
class Progress:
    """Progress of a run. Steps are those of the last checkpoint or score; times use the pace of the last session."""

    history: pd.DataFrame  # one row per epoch, the columns NEEDED; empty before the first
    step: int = 0
    total: int | None = None  # steps of the whole run
    seconds_left: float | None = None
    hours: float = 0.0  # of all sessions
    ended: str | None = None  # from sessions.csv: "" while a session is running, or after it was killed
    written: float | None = None  # time of the last change of its files, seconds since 1970

    @property
    def finished(self) -> bool:
        return self.ended == "finished"

    def line(self) -> str:
        """As "epoch 3 · step 120 of 200 · 41 s so far · about 12 s left"."""
        if self.written is None:
            return "nothing has been written yet"
        parts = [f"epoch {int(self.history['epoch'].iloc[-1])}"] if len(self.history) else ["no epoch scored yet"]
        parts += [f"step {self.step:,}" + (f" of {self.total:,}" if self.total else "")]
        parts += [f"{_duration(3600 * self.hours)} so far"]
        if self.ended:
            parts.append("finished" if self.finished else f"last session: {self.ended}")
        elif self.seconds_left is not None:
            parts.append(f"about {_duration(self.seconds_left)} left")
        return " · ".join(parts)

    def age(self) -> str:
        """Time since one of its files was last written, in words; after a long time, the run was probably killed."""
        return "" if self.written is None else f"last written {_duration(max(time.time() - self.written, 0))} ago"


def progress(run: str | Path) -> Progress:
    """Reads a run folder. Files that are missing or incomplete are left out; none of them can cause an error."""
    run = Path(run)
    session = [{}, *_rows(run / "sessions.csv")][-1]  # read first, since it is written after history.csv
    history = _history(run / "history.csv")
    began, saved = (_number(session.get(name)) for name in ("from_step", "to_step"))
    hours, in_all = (_number(session.get(name)) for name in ("hours", "hours_in_all"))
    scored = int(history["step"].iloc[-1]) if len(history) else 0
    step, total, left = max(scored, int(saved)), _total(run / "config.json"), None
    # Step and hours of a session were written together.
    spent, steps = (hours, saved - began) if saved > began and hours else (in_all, step)
    pace = 3600 * spent / steps if steps else 0
    if total and (pace or step >= total):  # a very short run has 0 hours in sessions.csv
        left = pace * max(total - step, 0)
    times = [_written(run / name) for name in ("history.csv", "sessions.csv", "config.json")]
    return Progress(history, step, total, left, in_all, session.get("ended"), max(filter(None, times), default=None))


def draw_run(run: str | Path, figure: Figure | None = None) -> Figure:
    """The curves of a run folder so far.

    Losses, and Dice on the validation images with a defect. The static version of `widgets.monitor_training`; by
    default a new pyplot figure.
    """
    figure = figure or plt.figure(figsize=SIZE)
    figure.clear()
    figure.set_layout_engine("none")  # fixed positions, so that nothing moves from epoch to epoch
    history = progress(run).history
    for (label, curves), bottom in zip(CURVES.items(), (0.6, 0.1), strict=True):
        ax = figure.add_axes((0.12, bottom, 0.85, 0.33))
        for column, (name, colour) in curves.items():
            ax.plot(history["epoch"], history[column], "o-", ms=3, lw=1.5, color=colour, label=name)
        ax.set(xlabel="epoch", ylabel=label, xlim=(0.5, max(history["epoch"].max(), 2) + 0.5 if len(history) else 2.5))
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_title(_title(history, list(curves)), loc="left")
        if len(curves) > 1 and len(history):
            ax.legend(loc="best")
    ax.set_ylim(0, 1)
    return figure


def _title(history: pd.DataFrame, columns: list[str]) -> str:
    if not len(history):
        return "no epoch scored yet"
    if columns == ["validation_dice"]:
        if history["validation_dice"].isna().all():
            return "no defect to validate on"
        best = history["validation_dice"].idxmax()
        return f"best Dice {history['validation_dice'][best]:.2f}, in epoch {int(history['epoch'][best])}"
    now = history.iloc[-1]
    return f"loss {now['train_loss']:.3f}, on validation images {now['validation_loss']:.3f}"


def _history(path: Path) -> pd.DataFrame:
    """The complete rows of a history; none if it cannot be read."""
    rows = [[_number(row.get(name), float("nan")) for name in NEEDED] for row in _rows(path)]
    table = pd.DataFrame(rows, columns=NEEDED, dtype=float)
    return table.dropna(subset=["epoch", "step", "train_loss"], ignore_index=True)


def _rows(path: Path) -> list[dict[str, str]]:
    """The complete rows of a table: lines with an end, and as many fields as the header."""
    try:
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
        return [row for row in csv.DictReader(io.StringIO(whole)) if None not in row and None not in row.values()]
    except (OSError, csv.Error, UnicodeDecodeError):
        return []


def _total(path: Path) -> int | None:
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["steps"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _number(text: str | None, otherwise: float = 0.0) -> float:
    """The value of a field if it is a finite number ≥ 0, else `otherwise`."""
    try:
        value = float(text or "nan")
    except ValueError:
        return otherwise
    return value if 0 <= value < float("inf") else otherwise


def _written(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"

