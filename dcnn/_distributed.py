"""Several processes, one model: torch's own DDP, as ``torchrun`` sets it up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed, nn

from dcnn._networks import device_named


@dataclass(frozen=True)
class Team:
    """Which of how many processes this is, and where it computes."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def wrapped(self, network: nn.Module) -> nn.Module:
        """``network``, whose gradients are averaged over all processes."""
        if self.size == 1:
            return network
        where = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=where)

    def share(self, rows: int) -> slice:
        """The part that this process has of a batch of ``rows``.

        Parts are of one size, so that averaging their gradients gives the batch's; up to ``size`` − 1 rows are left out. A
        batch with fewer rows than processes goes to all of them whole.
        """
        each = rows // self.size
        return slice(self.rank * each, (self.rank + 1) * each) if each else slice(0, rows)


@contextmanager
def team(device: str) -> Iterator[Team]:
    """The processes that ``torchrun`` started, or this one alone.

    Each takes the GPU of its local rank where ``device`` is "auto" or "cuda"; gloo connects CPUs, NCCL GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    place = device_named(device)
    if size == 1:
        yield Team(0, 1, place)
        return
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    ours = not distributed.is_initialized()
    if ours:
        distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Team(distributed.get_rank(), distributed.get_world_size(), place)
    finally:
        if ours:
            distributed.destroy_process_group()
