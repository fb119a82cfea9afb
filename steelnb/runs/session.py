"""One session of a run: folder lock, time budget, its row in sessions.csv."""

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

SESSIONS = "sessions.csv"
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
    """The run folder is in use. The message says by which process and what to do."""


class Session:
    """A context in which only one process uses a run folder, and signals are turned into requests to stop.

    hours, session_hours: time budgets of the whole run and of this session, in hours of wall clock; None: unlimited.
    patience: seconds to wait for the lock; a killed run's data workers hold it for a few seconds more.
    leads: False in processes other than the first of a distributed training: no lock and no row in sessions.csv.
    report: called with a line if sessions.csv cannot be written.
    number: number of this session in the run. before: hours of earlier sessions, as saved in the newest checkpoint.
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
            row = (_read(self.run / SESSIONS) or [{}])[-1]
            raise SessionError(
                f"{self.run} is in use by another process (number {row.get('process', '?')}, started "
                f"{row.get('began', '?')}): wait until it ends, stop it, or choose another folder"
            ) from None
        if self.leads:
            with contextlib.suppress(storage.StorageError):
                storage.delete_unfinished(self.run)  # left by killed sessions; nobody else writes here now
        self._handlers = {}
        if threading.current_thread() is threading.main_thread():  # other threads cannot handle signals in Python
            for sign, code in ((signal.SIGINT, 3), (signal.SIGTERM, 4)):
                self._handlers[sign] = signal.signal(sign, lambda *_, code=code: self._on_signal(code))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _) -> None:
        for sign, handler in self._handlers.items():
            signal.signal(sign, handler or signal.SIG_DFL)  # None: it was not installed from Python
        try:
            if kind is not None and self._rows:
                self.note(ended=f"{kind.__name__}: {' '.join(str(error).split())}"[:200])
        finally:
            self._lock.release()

    def begin(self, before: float, step: int, device: str, processes: int = 1) -> None:
        """Adds this session's row to sessions.csv."""
        self.before = before
        if not self.leads:
            return
        self._rows = _read(self.run / SESSIONS)
        if self._rows and self._rows[-1]["ended"] == "":
            self._rows[-1]["ended"] = "killed"
        self.number = len(self._rows) + 1
        began = time.strftime("%Y-%m-%d %H:%M:%S")
        self._rows.append(dict(session=self.number, began=began, process=os.getpid(), device=device,
                               processes=processes, from_step=step))
        self.note(to_step=step, ended="")

    def note(self, **columns) -> None:
        """Writes sessions.csv with this session's hours and `columns` (to_step, ended).

        A failure does not stop the run: it is reported once, and the next call writes everything.
        """
        self._rows[-1] |= {"hours": f"{self.elapsed:.4f}", "hours_in_all": f"{self.total:.4f}", **columns}
        text = io.StringIO()
        writer = csv.DictWriter(text, SESSION_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        try:
            storage.write_file(self.run / SESSIONS, text.getvalue().encode())
            self._is_written = True
        except storage.StorageError as error:
            if self._is_written:
                self.report(f"the run continues without its log: {error}")
            self._is_written = False

    @property
    def elapsed(self) -> float:
        """Hours of this session."""
        return (time.perf_counter() - self._started) / 3600

    @property
    def total(self) -> float:
        """Hours of all sessions, earlier ones as saved in the newest checkpoint."""
        return self.before + self.elapsed

    def asked_to_stop(self) -> int:
        """0, or the number in REASONS of a reason to stop at the next step."""
        if self._signal:
            return self._signal
        if self.session_hours is not None and self.elapsed >= self.session_hours:
            return 2
        return int(self.hours is not None and self.total >= self.hours)

    def line(self, steps: int, done: int, left: int) -> str:
        """As "session 4 · 37.2 of 100 h · ends about 24 Nov 14:30". steps: of this session; done, left: of the run."""
        of = f" of {self.hours:g}" if self.hours is not None else ""
        spent = f"{self.total:.1f}{of} h" if of or self.total >= 0.1 else f"{3600 * self.total:.0f} s"
        parts = [f"session {self.number}", spent]
        pace = self.elapsed / steps if steps else self.before / done if done else None
        if pace and left:
            hours = min(pace * left, self.hours - self.total if self.hours is not None else float("inf"))
            ends = time.localtime(time.time() + 3600 * max(hours, 0))
            parts.append(f"ends about {time.strftime('%d %b %H:%M' if hours >= 0.1 else '%H:%M:%S', ends)}")
        return " · ".join(parts)

    def _on_signal(self, code: int) -> None:
        if self._signal == code == 3:  # a second Ctrl-C stops at once
            raise KeyboardInterrupt
        self._signal = code


def is_session_table(path: Path) -> bool:
    """Whether a file has the header of sessions.csv."""
    try:
        with path.open("rb") as file:
            return file.readline().strip() == ",".join(SESSION_COLUMNS).encode()
    except OSError:
        return False


def _read(path: Path) -> list[dict]:
    """The rows of sessions.csv; none if it is missing or damaged, which must not stop a run."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if list(row) == SESSION_COLUMNS and None not in row.values()]
    except (OSError, csv.Error, UnicodeDecodeError):
        return []
