"""Does a training that is killed 100 times end like one that never was?

Kills by SIGKILL, half of them at random moments, half right before or after a random file operation; then the SHA-256
of the last and of the best weights, and the history without its seconds, beside those of an undisturbed run.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import lives

from steelnb import runtime
from steelnb.data import synthetic

KILLS, EPOCHS = 100, 90


def main() -> int:
    print(runtime.describe())
    with tempfile.TemporaryDirectory() as folder:
        steel = synthetic.write_dataset(Path(folder) / "steel", 12, seed=3, shape=(64, 200), progress=False)
        undisturbed, killed = Path(folder) / "undisturbed", Path(folder) / "killed"
        started = time.perf_counter()
        life = lives.start(steel, undisturbed, epochs=EPOCHS)
        life.join()
        between = time.perf_counter()
        ways = lives.killed_again_and_again(steel, killed, KILLS, epochs=EPOCHS)
        ended = time.perf_counter()
        same = lives.end_of(undisturbed) == lives.end_of(killed)
        print(f"undisturbed: {between - started:.1f} s; killed {sum(ways.values())} times: {ended - between:.1f} s")
        print(*(f"{number} kills {way}" for way, number in ways.items()), sep="; ")
        print("the same weights and history, to the last bit" if same else "NOT the same weights or history")
        return 0 if same and sum(ways.values()) == KILLS else 1


if __name__ == "__main__":
    sys.exit(main())
