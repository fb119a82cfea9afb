"""One training on several processes, each with its own GPU or machine.

`torchrun --nproc-per-node 2 -m steelnb -- train …` starts the processes and sets each one's rank in the environment.
PyTorch's DistributedDataParallel averages the gradients; this module has the other communication that a run needs.
Without torchrun there is one process, and everything here does nothing.
"""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous


class World(NamedTuple):
    """rank: number of this process, from 0; size: number of processes."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that scores, writes files and reports."""
        return self.rank == 0

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over all processes; batch-norm statistics are those of the first."""
        return nn.parallel.DistributedDataParallel(model) if self.size > 1 else model

    def share(self, batch: list[int]) -> tuple[list[int], float]:
        """This process's part of a batch, and the factor that turns the mean over processes into one over samples.

        A process without a part gets the first sample with factor 0, since every process must take part in every step.
        """
        mine = batch[self.rank :: self.size]
        return mine or batch[:1], len(mine) * self.size / len(batch)

    def summed(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def agreed(self, number: int) -> int:
        """The largest `number` of all processes."""
        if self.size == 1:
            return number
        largest = torch.tensor(number)  # on the CPU through gloo, so that no GPU waits for it
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def broadcast(self, make: Callable):
        """Runs `make` in rank 0; returns the result in every process. An error there is raised in every process."""
        if self.size == 1:
            return make()
        box = [None]
        if self.first:
            try:
                box = [make()]
            except Exception as error:
                box = [error]
        dist.broadcast_object_list(box)
        if isinstance(box[0], Exception):
            raise box[0]
        return box[0]


@contextlib.contextmanager
def world() -> Iterator[World]:
    """Connects the processes of this training for the duration of the context."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, rank, size = next(rendezvous("env://", timeout=timedelta(minutes=5)))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo", store=_fresh(store, rank, size), rank=rank, world_size=size,
        timeout=timedelta(hours=2),  # the others wait while the first scores whole images
    )
    try:
        yield World(rank, size)
    finally:
        dist.destroy_process_group()


def _fresh(store: dist.Store, rank: int, size: int) -> dist.Store:
    """A prefix of torchrun's store that none of these processes has used before.

    When torchrun restarts workers, they get the store of those that died (torch 2.13) and with it addresses at which
    nobody listens any more. So the first process names a new round, and every other process waits until the first one
    has acknowledged it in that round.
    """
    me = uuid.uuid4().hex
    if rank == 0:
        store.set("round", me)
        for other in range(1, size):
            store.set(f"{me} {other} {store.get(f'{me} {other}').decode()}", "seen")
        return dist.PrefixStore(me, store)
    for _ in range(300):
        current = store.get("round").decode()
        store.set(f"{current} {rank}", me)
        with contextlib.suppress(RuntimeError):  # a round of processes that have died
            store.wait([f"{current} {rank} {me}"], timedelta(seconds=1))
            return dist.PrefixStore(current, store)
    raise RuntimeError(f"process {rank} of {size} has waited five minutes for process 0: is it running?")
