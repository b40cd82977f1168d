"""Batches on a device: decoded in worker processes, pinned, and copied on a stream of their own, one batch ahead."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from alexkern.data import workers as decoding
from alexkern.data.batch import Batch, Images, collate
from alexkern.data.sampler import BatchOrder
from alexkern.data.samples import Samples


class Loader:
    """Iterating gives the batches of `order`, on `device`. An iteration starts where `order.begin` said.

    waiting: the share of the time of the iteration so far in which whoever takes the batches waited for one.
    """

    def __init__(
        self, samples: Samples, order: BatchOrder, *, bound: int, workers: int, device: torch.device, prefetch: int = 2
    ) -> None:
        self.order, self.device, self.waiting = order, device, 0.0
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.loader = DataLoader(
            Images(samples, bound),
            batch_sampler=order,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=device.type == "cuda",
            # A generator of its own: DataLoader draws a seed at every start, and a resumed run starts once more often.
            generator=torch.Generator(),
            worker_init_fn=decoding.start,
            prefetch_factor=prefetch if workers else None,
            persistent_workers=workers > 0,
        )

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        with decoding.held_back():
            loaded = iter(self.loader)
        begun, waited = time.perf_counter(), 0.0
        batches = self._ahead(loaded) if self.stream is not None else loaded
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            now = time.perf_counter()
            waited += now - asked
            self.waiting = waited / (now - begun)
            if batch is None:
                return
            yield batch

    def _ahead(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Copy batch i + 1 on the side stream while batch i is worked on."""
        assert self.stream is not None
        waiting: Batch | None = None
        for batch in batches:
            with torch.cuda.stream(self.stream):
                copied = batch.to(self.device)
            if waiting is not None:
                yield waiting
            # Whoever takes the batch does so on its own stream, and after the copy.
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self.stream)
            copied.record_stream(current)
            waiting = copied
        if waiting is not None:
            yield waiting
