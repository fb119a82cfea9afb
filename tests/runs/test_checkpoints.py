"""What is saved comes back to the bit; what is damaged is told and passed over; what would run code is refused."""

import errno
import json
import os
import random
import signal
import threading
import warnings
from collections import OrderedDict
from pathlib import Path

import lives
import numpy as np
import pytest
import torch

from steelnb import storage
from steelnb.runs import checkpoints
from steelnb.runs.checkpoints import MANIFEST, NAME, CheckpointError, Checkpoints
from steelnb.storage import StorageError
from steelnb.training.trainer import random_state, restore_random


def state(step):
    return {"step": step, "weights": torch.full((3, 4), float(step)), "history": [{"epoch": 1, "dice": 0.5}]}


def saved(folder, *steps, best=()):
    """Checkpoints of these steps, written one after another."""
    folder.mkdir(exist_ok=True)
    kept = Checkpoints(folder)
    for step in steps:
        kept.save(state(step), step, best=step in best)
    kept.wait()
    return kept


def steps_in(folder):
    return sorted(int(NAME.fullmatch(path.name)[1]) for path in folder.iterdir() if path.name != MANIFEST)


def newest(folder):
    return max(folder.glob("step-*.pt"))


def loaded(folder):
    """What a new process finds, and what it reports."""
    lines = []
    return Checkpoints(folder).load(lines.append), lines


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.cpu().numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


def test_every_kind_of_content_comes_back_to_the_bit(tmp_path):
    torch.manual_seed(0)
    content = {
        "float32": torch.randn(5, 3), "float64": torch.randn(4, dtype=torch.float64), "half": torch.randn(4).half(),
        "long": torch.arange(5), "byte": torch.randint(0, 255, (9,)).byte(),
        "bool": torch.tensor([True, False]), "none in it": torch.zeros(0, 3), "one": torch.tensor(1e-40),
        "odd floats": torch.tensor([float("nan"), float("inf"), -0.0]),
        "part of a larger one": torch.randn(8, 8)[::2, 3],
        "text": "Größe\0\n", "number": 2**70, "float": 0.1 + 0.2, "nan": float("nan"), "nothing": None, "yes": True,
        "nested": [1, (2.5, [None, {"a": torch.ones(2)}]), {}], 7: {"keys of": {(1, "tuple"): False}},
        "ordered": OrderedDict(b=1, a=2),
    }
    kept = Checkpoints(tmp_path)
    kept.save(content, 3)
    kept.wait()
    back, lines = loaded(tmp_path)
    assert same(content | {"ordered": {"b": 1, "a": 2}}, back)
    assert lines == []


def test_optimizer_and_schedule_come_back_to_the_bit(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    for _ in range(3):
        model(torch.rand(4, 3)).sum().backward()
        optimizer.step()
        schedule.step()
    kept = Checkpoints(tmp_path)
    parts = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "model": dict(model.state_dict())}
    kept.save(parts, 3)
    kept.wait()
    assert same(parts, loaded(tmp_path)[0])


def test_the_draws_after_are_the_draws_it_would_have_made(tmp_path):
    def drawn():
        return (random.random(), random.gauss(0, 1), np.random.rand(3).tolist(), np.random.normal(),  # noqa: NPY002
                torch.rand(3).tolist(), torch.randperm(9).tolist())

    random.seed(1), np.random.seed(2), torch.manual_seed(3)  # noqa: NPY002
    for _ in range(3):  # an odd number: Python and NumPy keep every second normal number in hand
        drawn()
    kept = Checkpoints(tmp_path)
    kept.save({"random": random_state()}, 1)
    kept.wait()
    then = drawn()
    random.seed(9), np.random.seed(9), torch.manual_seed(9)  # noqa: NPY002
    restore_random(loaded(tmp_path)[0]["random"])
    assert drawn() == then


def test_what_changes_after_save_is_not_in_it(tmp_path, monkeypatch):
    go, write = threading.Event(), storage.write_file
    monkeypatch.setattr(storage, "write_file", lambda *a: (go.wait(10), write(*a)))
    kept, content = Checkpoints(tmp_path), {"weights": torch.zeros(3), "history": [1]}
    kept.save(content, 1)
    content["weights"] += 1
    content["history"].append(2)
    go.set()
    kept.wait()
    assert same(loaded(tmp_path)[0], {"weights": torch.zeros(3), "history": [1]})


def test_the_newest_two_and_the_best_are_kept(tmp_path):
    saved(tmp_path, 1, 2, 3, 4, 5, best=(1, 2))
    assert steps_in(tmp_path) == [2, 4, 5]
    assert loaded(tmp_path)[0]["step"] == 5
    kept = Checkpoints(tmp_path)
    kept.load()
    for step in (6, 7, 8):  # a new process drops what the last one kept, and keeps its best
        kept.save(state(step), step, best=step == 7)
        kept.wait()
    assert steps_in(tmp_path) == [7, 8]
    assert kept.written == 3


def test_as_many_are_kept_as_are_asked_for(tmp_path):
    kept = Checkpoints(tmp_path, keep=3)
    for step in range(6):
        kept.save(state(step), step)
    kept.wait()
    assert steps_in(tmp_path) == [3, 4, 5]


def test_the_name_tells_what_is_in_the_file(tmp_path):
    saved(tmp_path, 1200, best=(1200,))
    name = newest(tmp_path).name
    assert name == f"step-000001200-best.{storage.sha256(newest(tmp_path).read_bytes())[:16]}.pt"
    assert json.loads((tmp_path / MANIFEST).read_text())["checkpoints"] == [name]


def test_what_is_dropped_is_cut_to_nothing_first_and_after_the_manifest(tmp_path, monkeypatch):
    dropped = []

    def seen(path, unlink=os.unlink):
        dropped.append((NAME.fullmatch(path.name)[1], path.stat().st_size))
        assert path.name not in (tmp_path / MANIFEST).read_text()
        unlink(path)

    monkeypatch.setattr(storage.os, "unlink", seen)
    saved(tmp_path, 1, 2, 3, 4)
    assert dropped == [("000000001", 0), ("000000002", 0)]


def test_the_one_before_is_whole_until_the_next_is_listed(tmp_path, monkeypatch):
    """At the moment of each file operation of a save, by what the folder holds then."""
    saved(tmp_path, 1)
    write, seen = storage.write_file, []

    def watched(path, content):
        seen.append((Path(path).name, loaded(tmp_path)[0]["step"]))
        write(path, content)
        seen.append((Path(path).name, loaded(tmp_path)[0]["step"]))

    monkeypatch.setattr(storage, "write_file", watched)
    kept = Checkpoints(tmp_path, keep=1)
    kept.load()
    kept.save(state(2), 2)
    kept.wait()
    assert [step for _, step in seen] == [1, 1, 1, 2]
    assert [name for name, _ in seen][2:] == [MANIFEST, MANIFEST]  # last


def test_nothing_yet(tmp_path):
    assert loaded(tmp_path) == (None, [])
    assert loaded(tmp_path / "no such folder") == (None, [])


# ---- damage


def damage(whole, rng):
    """A file with one byte flipped (two of three times), or cut."""
    at = rng.randrange(len(whole))
    if rng.random() < 1 / 3:
        return whole[:at]
    return whole[:at] + bytes([whole[at] ^ rng.randrange(1, 256)]) + whole[at + 1 :]


def test_a_thousand_damages_of_a_checkpoint(tmp_path):
    """Truncated, flipped, empty or missing: reported, and the one before it is taken."""
    saved(tmp_path, 1, 2)
    file, rng = newest(tmp_path), random.Random(0)
    whole = file.read_bytes()
    for content in [b"", None, *(damage(whole, rng) for _ in range(1000))]:
        file.unlink() if content is None else file.write_bytes(content)
        back, lines = loaded(tmp_path)
        assert same(back, state(1))
        why = "is missing" if content is None else "has changed since it was written (its SHA-256 differs)"
        why = "is empty" if content == b"" else why
        assert lines == [f"checkpoint {file.name} {why}: the one before it is taken"]
    file.write_bytes(whole)
    assert loaded(tmp_path)[0]["step"] == 2


@pytest.mark.parametrize("listed", [True, False])
def test_after_damage_the_next_save_leaves_only_whole_ones(tmp_path, listed):
    saved(tmp_path, 1, 2)
    newest(tmp_path).write_bytes(b"spoilt")
    if not listed:
        (tmp_path / MANIFEST).unlink()
    kept = Checkpoints(tmp_path)
    assert kept.load(lambda line: None)["step"] == 1
    kept.save(state(2), 2)
    kept.wait()
    assert steps_in(tmp_path) == [1, 2]
    assert all(checkpoints.read_checkpoint(path) for path in tmp_path.glob("step-*.pt"))


def test_a_name_that_belongs_to_another_content_is_damage(tmp_path):
    saved(tmp_path, 1, 2)
    older, newer = sorted(tmp_path.glob("step-*.pt"))
    newer.write_bytes(older.read_bytes())  # whole, but not what the manifest lists
    assert loaded(tmp_path)[0]["step"] == 1
    copy = tmp_path / "copy.pt"
    copy.write_bytes(older.read_bytes())
    with pytest.raises(CheckpointError, match=r"^copy\.pt is not named like a checkpoint$"):
        checkpoints.read_checkpoint(copy)


def test_any_damage_of_the_manifest_leaves_a_whole_checkpoint(tmp_path):
    saved(tmp_path, 1, 2, best=(1,))
    manifest, rng = tmp_path / MANIFEST, random.Random(0)
    whole, told = manifest.read_bytes(), set()
    odd = [b"", None, b"null", b"[]", b"7", b'"text"', b"{}", b'{"sha256": 1}', b'{"checkpoints": []}', b"\xff\xfe"]
    for content in odd + [damage(whole, rng) for _ in range(300)]:
        manifest.unlink() if content is None else manifest.write_bytes(content)
        back, lines = loaded(tmp_path)
        assert same(back, state(2))
        # A blank that became another blank is no damage.
        assert len(lines) == 1 or json.loads(content) == json.loads(whole), "not reported"
        told |= set(lines)
    assert told == {
        f"{MANIFEST} is {how}: checkpoints are listed by their file names" for how in ("missing", "damaged")
    }


def test_a_forged_manifest_cannot_name_other_files(tmp_path):
    saved(tmp_path / "run", 1)
    (tmp_path / "other.pt").write_bytes(newest(tmp_path / "run").read_bytes())
    listed = {"checkpoints": ["../other.pt"]}
    listed["sha256"] = storage.sha256(json.dumps(listed).encode())
    (tmp_path / "run" / MANIFEST).write_text(json.dumps(listed))
    back, lines = loaded(tmp_path / "run")
    assert back["step"] == 1
    assert lines == ["manifest.json is damaged: checkpoints are listed by their file names"]


def test_none_that_can_be_used_is_an_error_that_names_them(tmp_path):
    saved(tmp_path, 1, 2, 3, best=(1,))
    files = sorted(tmp_path.glob("step-*.pt"))
    files[0].write_bytes(b"")
    files[1].unlink()
    files[2].write_bytes(b"spoilt")
    lines = []
    with pytest.raises(CheckpointError) as error:
        Checkpoints(tmp_path).load(lines.append)
    said = str(error.value)
    assert said.startswith(f"no checkpoint in {tmp_path} can be used (")
    assert f"{files[0].name} is empty" in said
    assert f"{files[1].name} is missing" in said
    assert f"{files[2].name} has changed since it was written" in said
    assert said.endswith("Restore a copy of the folder, or start a new run in another one")
    assert len(lines) == 3
    assert lines[-1].endswith("there is none before it")


class Payload:
    """Pickled, it becomes a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("way", ["system", "open", "exec"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, way, zipped):
    """Named with its right digest, and listed in a right manifest."""
    trace = tmp_path / "it ran"
    call = {"system": (os.system, f"touch '{trace}'"), "open": (open, str(trace), "w"),
            "exec": (exec, f"open({str(trace)!r}, 'w')")}[way]
    kept = saved(tmp_path / "run", 1)
    torch.save({"step": 2, "weights": Payload(*call)}, tmp_path / "bad", _use_new_zipfile_serialization=zipped)
    content = (tmp_path / "bad").read_bytes()
    name = f"step-000000002.{storage.sha256(content)[:16]}.pt"
    (tmp_path / "run" / name).write_bytes(content)
    listed = {"checkpoints": [*kept._names, name]}
    listed["sha256"] = storage.sha256(json.dumps(listed).encode())
    (tmp_path / "run" / MANIFEST).write_text(json.dumps(listed))
    back, lines = loaded(tmp_path / "run")
    assert not trace.exists()
    assert same(back, state(1))
    named = {"system": f"{os.system.__module__}.system", "open": f"{open.__module__}.open", "exec": "exec"}[way]
    assert lines == [f"checkpoint {name} is refused: it would run {named}: the one before it is taken"]
    torch.load(tmp_path / "bad", weights_only=False)  # as torch did by itself before 2.6
    assert trace.exists(), "the payload does nothing: this test shows nothing"


@pytest.mark.parametrize("content", [b"not what torch writes", b"PK\3\4" + bytes(50), bytes(1000)])
def test_what_torch_cannot_read_is_refused(tmp_path, content):
    path = tmp_path / f"step-000000001.{storage.sha256(content)[:16]}.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"^{path.name} is refused: torch cannot read it \(\w+\)$"):
        checkpoints.read_checkpoint(path)


def test_something_that_is_no_state_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list")
    content = (tmp_path / "list").read_bytes()
    path = tmp_path / f"step-000000001.{storage.sha256(content)[:16]}.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is refused: it contains a list, not a dict"):
        checkpoints.read_checkpoint(path)


# ---- writing


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_kill_at_any_file_operation_leaves_the_old_or_the_new_state(tmp_path):
    """Before (even) and after (odd) each one of a save that also drops a checkpoint and clears up a leftover."""
    found = []
    for number in range(2, 60):
        folder = tmp_path / str(number)
        saved(folder, 1, 2, best=(1,))
        for name in (".manifest.json.0123456789abcdef.part", ".step-000000001.fedcba9876543210.part"):
            (folder / name).write_bytes(b"an earlier process died over this")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the threads of others play no part in the child
            child = os.fork()
        if child == 0:
            try:
                kept = Checkpoints(folder)
                kept.load(lambda line: None)
                lives.die_in_a_file_operation(number)
                kept.save(state(3), 3, best=True)
                kept.wait()
            finally:
                os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        back, lines = loaded(folder)
        assert lines == []
        assert same(back, state(2)) or same(back, state(3))
        found.append(back["step"])
        kept = Checkpoints(folder)
        kept.load()
        kept.save(state(4), 4)
        kept.wait()
        assert steps_in(folder) == ([1, 2, 4] if back["step"] == 2 else [3, 4])
        assert len(list(folder.iterdir())) == len(steps_in(folder)) + 1, "something is left over"
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
    assert number >= 16, "fewer file operations than two writes and one deletion take"
    assert found == sorted(found)
    assert set(found) == {2, 3}


def full(path, content):
    raise StorageError(f"cannot write {Path(path).name}: No space left on device")


def test_a_write_that_failed_is_told_at_the_next_save(tmp_path, monkeypatch):
    kept = saved(tmp_path, 1)
    monkeypatch.setattr(storage, "write_file", full)
    kept.save(state(2), 2)
    with pytest.raises(StorageError, match="No space left"):
        kept.save(state(3), 3)
    kept.save(state(3), 3)
    with pytest.raises(StorageError, match="No space left"):
        kept.wait()
    kept.wait()  # told once
    monkeypatch.undo()
    assert loaded(tmp_path)[0]["step"] == 1
    kept.save(state(4), 4)  # there is room again
    kept.wait()
    assert steps_in(tmp_path) == [1, 4]


@pytest.mark.parametrize("call", ["truncate", "unlink"])
def test_what_cannot_be_deleted_is_a_storage_error_too(tmp_path, monkeypatch, call):
    def gone(path, *_):
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    kept = saved(tmp_path, 1, 2)
    monkeypatch.setattr(storage.os, call, gone)
    kept.save(state(3), 3)
    with pytest.raises(StorageError, match="can no longer be reached"):
        kept.wait()
    monkeypatch.undo()
    assert loaded(tmp_path)[0]["step"] == 3


def test_what_is_not_a_checkpoint_is_left_alone(tmp_path):
    (tmp_path / ".ipynb_checkpoints").mkdir()  # as Jupyter makes them
    (tmp_path / "notes.txt").write_text("of the reader")
    (tmp_path / "step-000000001-copy.pt").write_text("of the reader")
    saved(tmp_path, 1, 2, 3)
    assert loaded(tmp_path)[0]["step"] == 3
    assert (tmp_path / "notes.txt").read_text() == (tmp_path / "step-000000001-copy.pt").read_text() == "of the reader"


def test_what_goes_before_and_after_is_done_with_the_copy(tmp_path):
    kept, seen = Checkpoints(tmp_path), []
    content = state(1)
    kept.save(content, 1, before=lambda copy: seen.append((copy["step"], len(list(tmp_path.iterdir())))),
              after=lambda copy: seen.append((copy["step"], loaded(tmp_path)[0]["step"])))
    kept.wait()
    assert seen == [(1, 0), (1, 1)]


def test_where_what_goes_before_fails_there_is_no_checkpoint(tmp_path):
    kept = saved(tmp_path, 1)
    kept.save(state(2), 2, before=lambda copy: full("weights.safetensors", b""))
    with pytest.raises(StorageError, match=r"cannot write weights\.safetensors"):
        kept.wait()
    assert steps_in(tmp_path) == [1]


@pytest.mark.parametrize(
    "value", [np.float32(1), np.float64(1), np.zeros(2), {1}, b"bytes", Path("here"), torch.float16, object(), 1j]
)
def test_what_could_not_be_loaded_again_is_a_mistake_at_once(tmp_path, value):
    kept = saved(tmp_path, 1)
    with pytest.raises(TypeError, match=f"^a checkpoint contains tensors and plain types, not {type(value).__name__}"):
        kept.save({"deep": [{"in": value}]}, 2)
    assert loaded(tmp_path)[0]["step"] == 1


# ---- when


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def perf_counter(self):
        return self.now

    thread_time = perf_counter


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(checkpoints, "time", clock := Clock())
    return clock


@pytest.fixture
def cost(monkeypatch, clock):
    """Makes copying the state take so many seconds."""

    def takes(seconds):
        def copied(value):
            clock.now += seconds
            return value

        monkeypatch.setattr(checkpoints, "_copied", copied)

    return takes


def test_due_at_once_and_then_after_so_many_seconds(tmp_path, clock, cost):
    kept = Checkpoints(tmp_path)
    assert kept.due(60)
    cost(0)
    kept.save(state(1), 1)
    kept.wait()
    for later, due in ((0, False), (59.9, False), (0.2, True), (1000, True)):
        clock.now += later
        assert kept.due(60) is due


def test_due_later_where_saving_is_slow(tmp_path, clock, cost):
    kept = Checkpoints(tmp_path)
    cost(2.0)
    kept.save(state(1), 1)
    kept.wait()
    clock.now += 199
    assert not kept.due(60)
    clock.now += 2
    assert kept.due(60)
    assert kept.spent == 2


def test_where_writing_competes_it_costs_too(tmp_path, clock, cost, monkeypatch):
    go, write = threading.Event(), storage.write_file

    def slow(path, content):
        go.wait(10)
        clock.now += 1.5
        write(path, content)

    monkeypatch.setattr(storage, "write_file", slow)
    for competes, seconds in ((True, 5), (False, 2)):  # a copy of 2 seconds, and two files
        kept = Checkpoints(tmp_path, competes=competes)
        cost(2.0)
        go.clear()
        kept.save(state(1), 1)
        go.set()
        kept.wait()
        clock.now = kept._saved_at + 100 * seconds - 1
        assert not kept.due(60)
        clock.now += 2
        assert kept.due(60)
        assert kept.spent == seconds


def test_0_seconds_means_all_the_time(tmp_path, clock, cost):
    kept = Checkpoints(tmp_path)
    cost(1000)
    kept.save(state(1), 1)
    kept.wait()
    assert kept.due(0)
    assert not kept.due(1e-9)


def test_at_most_one_percent_of_the_time_goes_into_it(tmp_path, clock, cost, monkeypatch):
    monkeypatch.setattr(Checkpoints, "_write", lambda *_: None)
    kept, rng, began = Checkpoints(tmp_path), random.Random(0), clock.now
    kept.save(state(0), 0)
    for step in range(100_000):
        clock.now += 0.01
        if kept.due(1e-9):
            cost(rng.uniform(0.01, 0.03))
            kept.save({}, step)
            kept.wait()
    share = kept.spent / (clock.now - began)
    assert 0.005 < share <= 0.0125  # costs that vary: what the next one will take is not known


def test_never_due_while_one_is_being_written(tmp_path, monkeypatch):
    go, write = threading.Event(), storage.write_file
    monkeypatch.setattr(storage, "write_file", lambda *a: (go.wait(10), write(*a)))
    kept = Checkpoints(tmp_path)
    kept.save({}, 1)
    kept._saved_at = -float("inf")
    assert not kept.due(0)
    go.set()
    kept.wait()
    assert kept.due(0)


def test_waiting_for_the_last_one_counts_as_held_up(tmp_path, clock, monkeypatch):
    go, write = threading.Event(), storage.write_file
    monkeypatch.setattr(storage, "write_file", lambda *a: (go.wait(10), write(*a)))
    kept, wait = Checkpoints(tmp_path), Checkpoints.wait

    def slow(self):
        clock.now += 5
        go.set()
        wait(self)

    kept.save({}, 1)
    monkeypatch.setattr(Checkpoints, "wait", slow)
    kept.save({}, 2)
    wait(kept)
    assert kept.spent == 5
    assert kept.written == 2
