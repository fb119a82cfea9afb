"""How often to write a checkpoint, and how much work a killed session loses.  Taught in 09_hundred_hours.

Frequent checkpoints cost time, rare ones lose more work when the session is killed. With one kill per session, the sum
is smallest at √(2 · cost · length) (Young 1974, *A first order approximation to the optimum checkpoint interval*).
"""

import math
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from steelnb.runs.checkpoints import MOST, Checkpoints


class Cost(NamedTuple):
    """Cost of one checkpoint, in seconds: how long training pauses, and how long until it is safe on disk."""

    held_up: float
    until_safe: float


class Interval(NamedTuple):
    """`seconds` between checkpoints, and what a killed session of `session` seconds loses on average.

    lost: seconds of work after the last checkpoint. spent: seconds for which checkpoints paused the training.
    """

    seconds: float
    session: float
    lost: float
    spent: float

    def __str__(self) -> str:
        share = (self.lost + self.spent) / self.session
        return (f"one checkpoint every {self.seconds:.0f} s: a session of {self.session / 3600:g} h spends "
                f"{self.spent:.0f} s on them and loses {self.lost:.0f} s if it is killed, {share:.1%} in all")


def cost_of(state: dict, folder: str | Path | None = None, competes: bool = False) -> Cost:
    """Measured cost of a checkpoint of `state` in a folder: one is written there and deleted again.

    folder: a run folder, for example on Google Drive; None: the machine's temporary folder.
    competes: as in `checkpoints.Checkpoints`.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="checkpoint-") as place:
        written = Checkpoints(place, competes=competes)
        started = time.perf_counter()
        written.save(state, 0)
        written.wait()
        return Cost(written.spent, time.perf_counter() - started)


def choose(session: float, cost: Cost, step: float = 0.0) -> Interval:
    """The interval with the smallest loss for sessions of `session` seconds that are killed at a random moment.

    step: seconds per training step; checkpoints are possible only at the end of a step.
    The interval is longer if checkpoints would take more than 1 % of the time, as in `Checkpoints.due`.
    """
    if not session > 0:
        raise ValueError(f"a session of {session} s: its length is needed, in seconds")
    return expected(max(math.sqrt(2 * cost.held_up * session), cost.held_up / MOST, step), session, cost, step)


def expected(seconds: float, session: float, cost: Cost, step: float = 0.0) -> Interval:
    """Expected loss and cost of sessions with one checkpoint every `seconds`.

    The kill comes at a random moment of a cycle of work and writing. During work it costs half of the cycle's work on
    average, during the pause all of it, and until the checkpoint is safe on disk also the work of the previous cycle.
    """
    work = math.ceil(max(seconds, step) / step) * step if step else seconds
    cycle = work + cost.held_up
    lost = work * (work / 2 + cost.until_safe) / cycle
    return Interval(seconds, session, lost, cost.held_up * session / cycle)
