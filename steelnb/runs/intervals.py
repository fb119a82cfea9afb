"""How often to write a checkpoint, and what a session that ends loses by it.  Taught in 09_hundred_hours.

Often costs time while all is well, seldom costs work when the session is killed. With one kill a session, the sum of
both is least at √(2 · cost · length) (Young 1974, *A first order approximation to the optimum checkpoint interval*).
"""

import math
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from steelnb.runs.checkpoints import MOST, Checkpoints


class Cost(NamedTuple):
    """Of one checkpoint, in seconds: how long the training is held up, and how long until it is safe on the disk."""

    held_up: float
    until_safe: float


class Interval(NamedTuple):
    """`seconds` between checkpoints, and what a session of `session` seconds that is killed loses by them, on average.

    lost: seconds of work that no checkpoint holds. spent: seconds in which checkpoints held the training up.
    """

    seconds: float
    session: float
    lost: float
    spent: float

    def __str__(self) -> str:
        share = (self.lost + self.spent) / self.session
        return (f"a checkpoint each {self.seconds:.0f} s: a session of {self.session / 3600:g} h spends "
                f"{self.spent:.0f} s on them and loses {self.lost:.0f} s where it is killed, {share:.1%} in all")


def cost_of(state: dict, folder: str | Path | None = None, competes: bool = False) -> Cost:
    """What a checkpoint of `state` costs in a folder, measured: one is written there and taken away again.

    folder: a run's, such as one on Google Drive; None: the machine's temporary folder.
    competes: as in `checkpoints.Checkpoints`.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="checkpoint-") as place:
        written = Checkpoints(place, competes=competes)
        started = time.perf_counter()
        written.save(state, 0)
        written.wait()
        return Cost(written.spent, time.perf_counter() - started)


def choose(session: float, cost: Cost, step: float = 0.0) -> Interval:
    """The interval that loses least of sessions of `session` seconds which end by being killed at any moment.

    step: seconds of one training step, at whose end alone a checkpoint can be taken.
    Longer where checkpoints would take more than 1 % of the time, as `Checkpoints.due` has it.
    """
    if not session > 0:
        raise ValueError(f"a session of {session} s: its length is needed, in seconds")
    return expected(max(math.sqrt(2 * cost.held_up * session), cost.held_up / MOST, step), session, cost, step)


def expected(seconds: float, session: float, cost: Cost, step: float = 0.0) -> Interval:
    """What sessions with a checkpoint each `seconds` lose and spend.

    The kill falls anywhere into a cycle of work and writing. While work goes on it costs half of it on average, while
    it stands still all of it, and until the checkpoint is safe the work of the cycle before as well.
    """
    work = math.ceil(max(seconds, step) / step) * step if step else seconds
    cycle = work + cost.held_up
    lost = work * (work / 2 + cost.until_safe) / cycle
    return Interval(seconds, session, lost, cost.held_up * session / cycle)
