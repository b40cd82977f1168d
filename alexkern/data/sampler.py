"""In which order images are seen: a function of seed, epoch and position, with no other state to save."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class BatchOrder(Sampler[list[int]]):
    """The batches of an epoch, or this process's share of each.

    A batch has `batch_size` images over all processes, and process `rank` of `world` takes the rank-th run of them: so
    the images of a step do not depend on how many processes share it. So that all shares are equal, up to world - 1
    images are left out of a shuffled epoch, other ones in each; an order that is not shuffled keeps all of them.
    """

    def __init__(
        self, count: int, batch_size: int, *, seed: int = 0, shuffle: bool = True, rank: int = 0, world: int = 1
    ) -> None:
        if batch_size % world:
            raise ValueError(f"BatchOrder: batch_size must be a multiple of {world} processes, got {batch_size}")
        self.count, self.batch_size, self.seed, self.shuffle = count, batch_size, seed, shuffle
        self.rank, self.world = rank, world
        self.epoch, self.start = 0, 0

    def begin(self, epoch: int, start: int = 0) -> None:
        """Say which epoch the next iteration is, and at which of its batches it starts."""
        self.epoch, self.start = epoch, start

    @property
    def steps(self) -> int:
        """Batches of a whole epoch."""
        return -(-self._used // self.batch_size)

    def share(self, step: int) -> int:
        """How many images of a step's batch each process takes, the last perhaps fewer."""
        return -(-min(self.batch_size, self._used - step * self.batch_size) // self.world)

    @property
    def _used(self) -> int:
        return self.count - self.count % self.world if self.shuffle else self.count

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(self.count))
        if self.shuffle:
            generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
            order = torch.randperm(self.count, generator=generator).tolist()
        for step in range(self.start, self.steps):
            batch = order[step * self.batch_size : min((step + 1) * self.batch_size, self._used)]
            share = self.share(step)
            yield batch[self.rank * share : (self.rank + 1) * share]
