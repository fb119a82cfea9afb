"""A run that is killed again and again ends like one that never was: to the last bit of its weights and its history."""

import os
import random
import signal
import socket
import subprocess
import sys
import time

import lives
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


@pytest.fixture(scope="module")
def undisturbed(steel_folder, tmp_path_factory):
    """What the run comes to when nothing happens to it."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    life = lives.start(steel_folder, run)
    life.join()
    assert life.exitcode == 0
    return lives.end_of(run)


def test_killed_twenty_times(steel_folder, tmp_path, undisturbed):
    """At random moments of the clock, and before or after random file operations, inside a checkpoint's writing."""
    killed = lives.killed_again_and_again(steel_folder, tmp_path / "run", 20)
    assert killed == {"by the clock": 10, "in a file operation": 10}
    assert lives.end_of(tmp_path / "run") == undisturbed
    assert sum(row["ended"] == "killed" for row in lives.ledger(tmp_path / "run")) >= 10


def test_two_processes_killed(steel_folder, tmp_path):
    """The same of two processes that share each batch: one is killed, the other cannot go on, both begin again."""

    def pair(run, **options):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            place = 2, "localhost", free.getsockname()[1]
        return [lives.start(steel_folder, run, rank=(rank, *place), epochs=20, **options) for rank in range(2)]

    for process in (undisturbed := pair(tmp_path / "undisturbed")):
        process.join()
    assert [process.exitcode for process in undisturbed] == [0, 0]

    rng = random.Random(0)
    for kill in range(4):
        both = pair(tmp_path / "run", doomed=True)
        lives.wait_until_it_trains(both[0], tmp_path / "run")
        time.sleep(rng.uniform(0, 0.4))
        both[kill % 2].kill()
        for process in both:
            process.join(60)
        assert both[kill % 2].exitcode == -signal.SIGKILL, "it was faster than its end"
        assert both[1 - kill % 2].exitcode == 1, "the other one did not notice"
    for process in (last := pair(tmp_path / "run")):
        process.join()
    assert [process.exitcode for process in last] == [0, 0]
    assert lives.end_of(tmp_path / "run") == lives.end_of(tmp_path / "undisturbed")


def test_torchrun_starts_a_killed_worker_again(steel_folder, tmp_path):
    """As docs/guide.md has it: torchrun's agent begins all workers again, and they go on from the checkpoint."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               "--max-restarts", "2", "-m", "steelnb", "--", "train", "--data", steel_folder, "--run", run, "--quiet",
               "--recipe", "smoke", "--checkpoint-seconds", "0", "--epochs", "30", "--set", "epoch_samples=40",
               "--set", "crop=[32,32]",
               "--set", 'model={"width":2,"depth":1}']
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    agent = subprocess.Popen(
        list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while not (ledger := lives.ledger(run)) or int(ledger[-1]["to_step"]) < 20:
            assert agent.poll() is None, agent.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(int(ledger[-1]["process"]), signal.SIGKILL)
        said, _ = agent.communicate(timeout=180)
    finally:
        agent.kill()
    assert agent.returncode == 0, said
    first, second = lives.ledger(run)
    assert (first["ended"], second["ended"]) == ("killed", "finished")
    assert first["processes"] == second["processes"] == "2"
    assert int(second["from_step"]) >= 20
    assert int(second["to_step"]) == 300
