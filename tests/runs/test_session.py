"""One process alone works on a run; signals and hours only ask it to stop; the ledger says how it went."""

import csv
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from steelnb import storage
from steelnb.runs import session
from steelnb.runs.session import REASONS, Session, SessionError

HOLDER = """
import sys, time
from pathlib import Path
from steelnb.runs.session import Session
with Session(Path(sys.argv[1])) as sitting:
    sitting.begin(0.0, 0, "cpu")
    print("held", flush=True)
    time.sleep(60)
"""


def ledger(run):
    with (run / "sessions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def sat(run, before=0.0, ended="finished", **columns):
    """A session of a moment."""
    with Session(run) as sitting:
        sitting.begin(before, 0, "cpu")
        sitting.note(ended=ended, **columns)
    return sitting


@pytest.fixture
def holder(tmp_path):
    """Another process, at work on the run in tmp_path."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def fail(run, error, before=0.0, first=lambda: None):
    """A session that begins and fails."""
    with Session(run) as sitting:
        sitting.begin(before, 40, "T4", processes=2)
        first()
        raise error


class Clock:
    """The module's time, with hours that pass when a test says so."""

    def __init__(self):
        self.hours = 0.0

    def perf_counter(self):
        return 3600 * self.hours

    def __getattr__(self, name):
        return getattr(time, name)


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(session, "time", clock := Clock())
    return clock


# ---- the lock


def test_a_second_process_is_refused_and_told_which_is_the_first(tmp_path, holder):
    began = time.perf_counter()
    message = re.escape(f"{tmp_path} is in use by another process (number {holder.pid}, started 20")
    with pytest.raises(SessionError, match=message + ".*: wait until it ends, stop it, or choose another folder"):
        Session(tmp_path, patience=0.3).__enter__()
    assert time.perf_counter() - began >= 0.3
    assert holder.poll() is None
    assert len(ledger(tmp_path)) == 1


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_process_leaves_no_lock_behind(tmp_path, holder):
    holder.kill()
    holder.wait()
    with Session(tmp_path, patience=0) as sitting:
        sitting.begin(0.0, 7, "cpu")
        assert sitting.number == 2
    first, second = ledger(tmp_path)
    assert first["ended"] == "killed"
    assert first["process"] == str(holder.pid)
    assert second["process"] == str(os.getpid())
    assert second["from_step"] == "7"


def test_the_lock_goes_when_the_session_ends_and_when_it_fails(tmp_path):
    with Session(tmp_path), pytest.raises(SessionError, match=r"in use by another process \(number \?, started \?\)"):
        Session(tmp_path, patience=0).__enter__()
    with pytest.raises(RuntimeError), Session(tmp_path, patience=0):
        raise RuntimeError
    with Session(tmp_path, patience=0):
        pass


def test_one_that_follows_takes_no_lock_and_writes_no_ledger(tmp_path):
    with Session(tmp_path) as first, Session(tmp_path, leads=False, patience=0) as second:
        first.begin(1.0, 0, "cpu", 2)
        second.begin(1.0, 0, "cpu", 2)
        assert second.total >= 1
    assert [row["processes"] for row in ledger(tmp_path)] == ["2"]


# ---- signals


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 4), (signal.SIGINT, 3)])
def test_a_signal_asks_to_stop_and_no_more(tmp_path, sign, code):
    with Session(tmp_path) as sitting:
        assert sitting.asked_to_stop() == 0
        os.kill(os.getpid(), sign)
        assert sitting.asked_to_stop() == code
        assert sitting.asked_to_stop() == code
    assert ("SIGTERM" if code == 4 else "Ctrl-C") in REASONS[code]


def test_a_second_ctrl_c_means_now(tmp_path):
    def interrupted():
        with Session(tmp_path) as sitting:
            sitting.begin(0.0, 0, "cpu")
            os.kill(os.getpid(), signal.SIGINT)
            assert sitting.asked_to_stop() == 3
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert signal.getsignal(signal.SIGINT) is before
    assert ledger(tmp_path)[-1]["ended"].startswith("KeyboardInterrupt")
    with Session(tmp_path, patience=0):
        pass


def test_sigterm_twice_and_then_ctrl_c_still_only_ask(tmp_path):
    with Session(tmp_path) as sitting:
        for sign in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), sign)
        assert sitting.asked_to_stop() in (3, 4)


def test_handlers_are_what_they_were(tmp_path):
    mine = lambda *_: None  # noqa: E731
    old = {sign: signal.signal(sign, mine) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Session(tmp_path):
            assert all(signal.getsignal(sign) is not mine for sign in old)
        assert all(signal.getsignal(sign) is mine for sign in old)
        with pytest.raises(RuntimeError), Session(tmp_path):
            raise RuntimeError
        assert all(signal.getsignal(sign) is mine for sign in old)
        with Session(tmp_path), pytest.raises(SessionError):
            Session(tmp_path, patience=0).__enter__()  # refused: it has changed nothing
        assert all(signal.getsignal(sign) is mine for sign in old)
    finally:
        for sign, handler in old.items():
            signal.signal(sign, handler)


def test_outside_the_main_thread_there_are_no_signals_but_all_else(tmp_path):
    before, done = signal.getsignal(signal.SIGINT), []

    def sit():
        with Session(tmp_path, session_hours=1e-9) as sitting:
            sitting.begin(0.0, 0, "cpu")
            done.append((signal.getsignal(signal.SIGINT) is before, sitting.asked_to_stop()))
            sitting.note(ended="finished")

    thread = threading.Thread(target=sit)
    thread.start()
    thread.join(10)
    assert done == [(True, 2)]
    assert ledger(tmp_path)[0]["ended"] == "finished"


# ---- hours


def test_the_hours_of_the_run_and_of_the_session(tmp_path, clock):
    with Session(tmp_path, hours=100, session_hours=11.5) as sitting:
        sitting.begin(80.0, 0, "cpu")
        for hours, code in ((0, 0), (11.4, 0), (11.5, 2)):
            clock.hours = hours
            assert sitting.asked_to_stop() == code
        assert sitting.total == pytest.approx(91.5)
    clock.hours = 0
    with Session(tmp_path, hours=100) as sitting:
        sitting.begin(91.5, 0, "cpu")
        for hours, code in ((8.4, 0), (8.6, 1)):
            clock.hours = hours
            assert sitting.asked_to_stop() == code
    clock.hours = 0
    with Session(tmp_path) as sitting:
        sitting.begin(0.0, 0, "cpu")
        clock.hours = 1e6
        assert sitting.asked_to_stop() == 0


def test_a_signal_comes_before_the_hours(tmp_path):
    with Session(tmp_path, session_hours=1e-9) as sitting:
        assert sitting.asked_to_stop() == 2
        os.kill(os.getpid(), signal.SIGTERM)
        assert sitting.asked_to_stop() == 4


# ---- the ledger


def test_the_ledger_has_a_line_a_session(tmp_path, clock):
    clock.hours = 1.0
    with Session(tmp_path) as sitting:
        sitting.begin(0.0, 0, "cpu, 1 threads")
        assert sitting.number == 1
        assert ledger(tmp_path)[0]["ended"] == ""
        clock.hours = 2.5
        sitting.note(to_step=40, ended="finished")
    with pytest.raises(ValueError, match="spoilt"):
        fail(tmp_path, ValueError("spoilt\nover two lines"), 1.5, lambda: setattr(clock, "hours", 3.0))
    assert sat(tmp_path, 2.0).number == 3
    first, second, third = ledger(tmp_path)
    assert list(first) == ["session", "began", "process", "device", "processes", "from_step", "to_step", "hours",
                           "hours_in_all", "ended"]
    assert first | {"began": ""} == dict(
        session="1", began="", process=str(os.getpid()), device="cpu, 1 threads", processes="1", from_step="0",
        hours="1.5000", hours_in_all="1.5000", to_step="40", ended="finished")
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", first["began"])
    assert second["ended"] == "ValueError: spoilt over two lines"
    assert (second["hours"], second["hours_in_all"], second["processes"]) == ("0.5000", "2.0000", "2")
    assert third["ended"] == "finished"


def test_a_session_that_never_ended_was_killed(tmp_path):
    for _ in range(3):
        sat(tmp_path, ended="")
    sat(tmp_path)
    assert [row["ended"] for row in ledger(tmp_path)] == ["killed", "killed", "killed", "finished"]
    assert [row["session"] for row in ledger(tmp_path)] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    "damage",
    [b"", b"\n\n", b"\xff\xfe\x00", b"session,began\n", b'"', b"\0" * 300, b"nothing of the kind\nat all\n"],
)
def test_a_run_does_not_die_of_a_damaged_ledger(tmp_path, damage):
    (tmp_path / "sessions.csv").write_bytes(damage)
    assert sat(tmp_path).number == 1
    assert [row["ended"] for row in ledger(tmp_path)] == ["finished"]


def test_of_a_cut_ledger_the_whole_lines_are_kept(tmp_path):
    sat(tmp_path), sat(tmp_path)
    whole = (tmp_path / "sessions.csv").read_bytes()
    (tmp_path / "sessions.csv").write_bytes(whole[:-30])
    assert sat(tmp_path).number == 2
    assert len(ledger(tmp_path)) == 2


def test_a_ledger_of_which_a_byte_was_flipped_in_any_place(tmp_path):
    sat(tmp_path), sat(tmp_path)
    whole = (tmp_path / "sessions.csv").read_bytes()
    for at in range(0, len(whole), 3):
        (tmp_path / "sessions.csv").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        sat(tmp_path)
        assert ledger(tmp_path)[-1]["ended"] == "finished"


def test_a_ledger_that_cannot_be_written_stops_nothing_and_is_made_up_for(tmp_path, monkeypatch):
    """As on Windows while a spreadsheet has it open: reported once, and written whole the next time."""

    def refused(path, content):
        raise storage.StorageError("cannot write sessions.csv: Permission denied")

    lines = []
    with Session(tmp_path, report=lines.append) as sitting:
        sitting.begin(0.0, 0, "cpu")
        for _ in range(2):
            with monkeypatch.context() as disk:
                disk.setattr(storage, "write_file", refused)
                sitting.note(to_step=1)
                sitting.note(to_step=2)
            assert ledger(tmp_path)[-1]["to_step"] in ("0", "2")
            sitting.note(ended="")
            assert ledger(tmp_path)[-1]["to_step"] == "2"
    assert lines == 2 * ["the run continues without its log: cannot write sessions.csv: Permission denied"]
    with pytest.raises(ValueError, match="of the run"):
        fail(tmp_path, ValueError("of the run"), first=lambda: monkeypatch.setattr(storage, "write_file", refused))
    with Session(tmp_path, patience=0):
        pass


def test_a_session_clears_what_killed_ones_left(tmp_path):
    left = tmp_path / ".history.csv.0123456789abcdef.part"
    for leads in (False, True):
        left.write_bytes(b"half")
        with Session(tmp_path, leads=leads):
            assert left.exists() != leads


# ---- its line


@pytest.fixture
def noon(clock):
    """It is 24 November, 12:00, and 37.2 of the hours are over; this session, the fourth, has lasted 1."""
    clock.time = lambda: time.mktime((2026, 11, 24, 12, 0, 0, 0, 0, -1))
    return clock


@pytest.mark.parametrize(
    ("hours", "steps", "done", "left", "line"),
    [
        (100, 0, 0, 0, "session 4 · 37.2 of 100 h"),
        (100, 1000, 37200, 2500, "session 4 · 37.2 of 100 h · ends about 24 Nov 14:30"),
        (100, 1000, 37200, 10**6, "session 4 · 37.2 of 100 h · ends about 27 Nov 02:48"),  # when its hours are over
        (100, 0, 36200, 2500, "session 4 · 37.2 of 100 h · ends about 24 Nov 14:30"),  # the pace of those before
        (100, 1000, 37200, 0, "session 4 · 37.2 of 100 h"),
        (None, 1000, 37200, 1, "session 4 · 37.2 h · ends about 12:00:03"),
        (37, 1000, 37200, 2500, "session 4 · 37.2 of 37 h · ends about 12:00:00"),
    ],
)
def test_line(tmp_path, noon, hours, steps, done, left, line):
    with Session(tmp_path, hours) as sitting:
        sitting.begin(36.2, 0, "cpu")
        sitting.number = 4
        noon.hours = 1.0
        assert sitting.line(steps, done, left) == line


def test_the_line_of_a_short_run_is_in_seconds(tmp_path, noon):
    with Session(tmp_path) as sitting:
        sitting.begin(0.0, 0, "cpu")
        noon.hours = 30 / 3600
        assert sitting.line(10, 10, 20) == "session 1 · 30 s · ends about 12:01:00"
        noon.hours = 0.2
        assert sitting.line(0, 0, 5) == "session 1 · 0.2 h"
