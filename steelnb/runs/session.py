"""One sitting of a run: its lock, its line in the ledger, its time.  Taught in 09_hundred_hours."""

import contextlib
import csv
import io
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from steelnb import storage

LEDGER = "sessions.csv"
SESSION_COLUMNS = [
    "session", "began", "process", "device", "processes", "from_step", "to_step", "hours", "hours_in_all", "ended",
]
REASONS = {  # by the number that processes agree on
    1: "the hours of this run are over",
    2: "the hours of this session are over",
    3: "stopped by hand (Ctrl-C, or the notebook's stop button)",
    4: "told to stop (SIGTERM)",
}


class SessionError(RuntimeError):
    """A run folder that this process may not use now. The message says why and what to do."""


class Session:
    """A context in which one process alone works on a run folder, and signals only ask it to stop.

    hours, session_hours: budgets of the whole run and of this sitting, in hours of wall clock; None: no end.
    patience: seconds to wait for the lock; a killed run's helpers hold it for some seconds more.
    leads: False in a process that follows another one on the same run: no lock and no ledger of its own.
    report: gets a line where the ledger cannot be written.
    number: which sitting of the run this is. before: hours of the earlier ones, as far as their checkpoints know.
    """

    def __init__(
        self, run: Path, hours: float | None = None, session_hours: float | None = None, patience: float = 10.0,
        leads: bool = True, report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.report, self._is_written = report, True
        self.run, self.hours, self.session_hours, self.leads = Path(run), hours, session_hours, leads
        self.before, self.number = 0.0, 0
        self._signal, self._rows = 0, []
        self._lock = FileLock(self.run / "lock", timeout=patience)

    def __enter__(self) -> "Session":
        self._started = time.perf_counter()
        try:
            if self.leads:
                self._lock.acquire()
        except Timeout:
            row = (_read(self.run / LEDGER) or [{}])[-1]
            raise SessionError(
                f"{self.run} is in use by another process (number {row.get('process', '?')}, begun "
                f"{row.get('began', '?')}): wait until it ends, stop it, or name another folder"
            ) from None
        if self.leads:
            with contextlib.suppress(storage.StorageError):
                storage.delete_unfinished(self.run)  # what killed sessions left; nobody else writes here now
        self._handlers = {}
        if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no signals
            for sign, code in ((signal.SIGINT, 3), (signal.SIGTERM, 4)):
                self._handlers[sign] = signal.signal(sign, lambda *_, code=code: self._asked(code))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _) -> None:
        for sign, handler in self._handlers.items():
            signal.signal(sign, handler or signal.SIG_DFL)  # None: it was not Python's
        try:
            if kind is not None and self._rows:
                self.note(ended=f"{kind.__name__}: {' '.join(str(error).split())}"[:200])
        finally:
            self._lock.release()

    def begin(self, before: float, step: int, device: str, processes: int = 1) -> None:
        """Opens this sitting's line in the ledger."""
        self.before = before
        if not self.leads:
            return
        self._rows = _read(self.run / LEDGER)
        if self._rows and self._rows[-1]["ended"] == "":
            self._rows[-1]["ended"] = "killed"
        self.number = len(self._rows) + 1
        began = time.strftime("%Y-%m-%d %H:%M:%S")
        self._rows.append(dict(session=self.number, began=began, process=os.getpid(), device=device,
                               processes=processes, from_step=step))
        self.note(to_step=step, ended="")

    def note(self, **columns) -> None:
        """Writes the ledger with this sitting's hours and `columns` (to_step, ended).

        A run does not stop for its log: where it cannot be written, that is reported once, and the next time makes up.
        """
        self._rows[-1] |= {"hours": f"{self.elapsed:.4f}", "hours_in_all": f"{self.total:.4f}", **columns}
        text = io.StringIO()
        writer = csv.DictWriter(text, SESSION_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        try:
            storage.write_file(self.run / LEDGER, text.getvalue().encode())
            self._is_written = True
        except storage.StorageError as error:
            if self._is_written:
                self.report(f"the run goes on without its log: {error}")
            self._is_written = False

    @property
    def elapsed(self) -> float:
        """Hours of this sitting."""
        return (time.perf_counter() - self._started) / 3600

    @property
    def total(self) -> float:
        """Hours of all sittings, as far as their checkpoints know."""
        return self.before + self.elapsed

    def asked_to_stop(self) -> int:
        """0, or the number of a reason in REASONS to stop at the next step."""
        if self._signal:
            return self._signal
        if self.session_hours is not None and self.elapsed >= self.session_hours:
            return 2
        return int(self.hours is not None and self.total >= self.hours)

    def line(self, steps: int, done: int, left: int) -> str:
        """As "session 4 · 37.2 of 100 h · ends about 24 Nov 14:30". `steps` of this sitting; `done`, `left` of all."""
        of = f" of {self.hours:g}" if self.hours is not None else ""
        spent = f"{self.total:.1f}{of} h" if of or self.total >= 0.1 else f"{3600 * self.total:.0f} s"
        parts = [f"session {self.number}", spent]
        pace = self.elapsed / steps if steps else self.before / done if done else None
        if pace and left:
            hours = min(pace * left, self.hours - self.total if self.hours is not None else float("inf"))
            ends = time.localtime(time.time() + 3600 * max(hours, 0))
            parts.append(f"ends about {time.strftime('%d %b %H:%M' if hours >= 0.1 else '%H:%M:%S', ends)}")
        return " · ".join(parts)

    def _asked(self, code: int) -> None:
        if self._signal == code == 3:  # a second Ctrl-C means now
            raise KeyboardInterrupt
        self._signal = code


def is_ledger(path: Path) -> bool:
    """Whether a file begins as a ledger does."""
    try:
        with path.open("rb") as file:
            return file.readline().strip() == ",".join(SESSION_COLUMNS).encode()
    except OSError:
        return False


def _read(path: Path) -> list[dict]:
    """The ledger's lines; none where it is missing or damaged, since a run must not die of its diary."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if list(row) == SESSION_COLUMNS and None not in row.values()]
    except (OSError, csv.Error, UnicodeDecodeError):
        return []
