"""What do checkpoints cost a training?

For the original's network (width 64, depth 4, 31 M parameters, SGD with momentum) and the smoke recipe's: copying the
state, which holds the training up; writing it (fsync, reading back, hashing), which happens in the background but takes
a core from a training on the CPU; and the share of the time that this is at the pace that `Checkpoints.due` allows.
"""

import tempfile
import time
from pathlib import Path

import torch

from steelnb import runtime
from steelnb.runs.checkpoints import Checkpoints
from steelnb.training.recipes import ORIGINAL, SMOKE
from steelnb.training.trainer import Trainer

EVERY = 60.0  # seconds between checkpoints, as training.train has it


def main() -> None:
    print(runtime.describe())
    for recipe in (SMOKE, ORIGINAL):
        trainer = Trainer(recipe, 1, 100, seed=0, device=torch.device("cpu"))
        for parameter in trainer.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        trainer.optimizer.step()  # so that it has moments to save
        with tempfile.TemporaryDirectory() as folder:
            lost = {}
            for competes in (False, True):
                store = Checkpoints(folder, competes=competes)
                for step in range(4):  # the first one warms up
                    store.save(trainer.state(), step)
                    store.wait()
                    if step == 0:
                        store.spent = 0.0
                lost[competes] = store.spent / 3
            size = max(path.stat().st_size for path in Path(folder).glob("*.pt"))
            started = time.perf_counter()
            store.load(print)
            read = time.perf_counter() - started
        copying, writing = lost[False], lost[True] - lost[False]
        print(f"{recipe.name}: {size / 1e6:.1f} MB; copying {1000 * copying:.0f} ms, writing in the background "
              f"{1000 * writing:.0f} ms, reading and checking {1000 * read:.0f} ms")
        for where, cost in (("a GPU", copying), ("a CPU", copying + writing)):
            pace = max(EVERY, 100 * cost)
            print(f"    training on {where}: one every {pace:.0f} s, {cost / pace:.2%} of the time")


if __name__ == "__main__":
    main()
