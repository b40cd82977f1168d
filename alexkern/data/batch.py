"""What a worker hands over: images of any sizes, padded to one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from alexkern.data.decode import UnreadableImage, read
from alexkern.data.samples import Samples


@dataclass
class Batch:
    """images (N, H, W, 3) uint8, sizes (N, 2) int64 of height and width, labels (N,) int64.

    damaged has a path and a reason for every image that could not be read and is missing here.
    """

    images: Tensor
    sizes: Tensor
    labels: Tensor
    damaged: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.labels)

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from which a GPU copies by itself. DataLoader calls it."""
        return self._map(Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        """The same on a device; the copy is not waited for."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Say that a stream uses the memory, which another one allocated."""
        for tensor in (self.images, self.sizes, self.labels):
            tensor.record_stream(stream)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(change(self.images), change(self.sizes), change(self.labels), self.damaged)


Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Item = tuple[Pixels | None, int, str, str]  # pixels (H, W, 3) or None, label, path, why there are none


class Images(Dataset[Item]):
    """The samples, decoded one by one."""

    def __init__(self, samples: Samples, bound: int) -> None:
        self.samples = samples
        self.bound = bound

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        path, label = self.samples.paths[index], self.samples.labels[index]
        try:
            return np.asarray(read(path, self.bound)), label, path, ""
        except UnreadableImage as error:
            return None, label, path, str(error)


def collate(items: Sequence[Item]) -> Batch:
    """The images that could be read, each in the upper left corner of its place, zeros around it.

    In a worker they are copied once, into memory that it shares with the process that asked.
    """
    good = [(pixels, label) for pixels, label, _, _ in items if pixels is not None]
    damaged = [(path, reason) for pixels, _, path, reason in items if pixels is None]
    sizes = torch.tensor([pixels.shape[:2] for pixels, _ in good], dtype=torch.int64).view(-1, 2)
    height, width = sizes.amax(dim=0).tolist() if good else (1, 1)
    shape = (len(good), height, width, 3)
    if get_worker_info() is None:
        images = torch.zeros(shape, dtype=torch.uint8)
    else:  # as torch's own collate does; new shared memory is zero
        shared = torch.UntypedStorage._new_shared(math.prod(shape))
        images = torch.empty(0, dtype=torch.uint8).set_(shared).view(shape)
    for slot, (pixels, _) in zip(images.numpy(), good, strict=True):
        slot[: pixels.shape[0], : pixels.shape[1]] = pixels
    return Batch(images, sizes, torch.tensor([label for _, label in good], dtype=torch.int64), damaged)
