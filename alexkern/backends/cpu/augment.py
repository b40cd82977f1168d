"""augment by csrc/cpu/augment: what is not turned is cut out, resized, flipped and normalised in one pass.

The draw, the colours and what is turned are those of the torch backend.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alexkern.augmentation import COLUMNS, Policy
from alexkern.backends.cpu import native
from alexkern.backends.torch import augment as reference
from alexkern.plan import Spec, contiguous_strides, empty


def forward(images: Tensor, sizes: Tensor, seed: Tensor, policy: Policy) -> Tensor:
    """images (N, H, W, 3) uint8, sizes (N, 2) int64 of height and width -> the batch as `policy` says."""
    turns = policy.rotation != Policy.rotation
    return reference.batch(images.contiguous(), sizes, seed, policy, reference.pictures if turns else pictures)


def pictures(images: Tensor, table: Tensor, policy: Policy, output: Tensor) -> None:
    """As the torch backend's."""
    if reference.colours(policy) or output.dtype != torch.float32:
        shape = (len(images), *policy.size, 3)
        pixels = empty(Spec(shape, contiguous_strides(shape), torch.float32), images.device)
        _sample(images, table, policy, pixels, (1 / 255,) * 3, (0.0,) * 3)
        reference.finish(pixels, table, policy, output)
    else:
        shift = tuple(-mean / std for mean, std in zip(policy.mean, policy.std, strict=True))
        _sample(images, table, policy, output, tuple(1 / (255 * std) for std in policy.std), shift)


def _sample(
    images: Tensor, table: Tensor, policy: Policy, output: Tensor, scale: tuple[float, ...], shift: tuple[float, ...]
) -> None:
    N, H, W, _ = images.shape
    numbers = (N, H, W, *policy.size, *output.shape[1:3], *output.stride()[:2])
    parts, threads = _parts(table, policy), torch.get_num_threads()
    floats = threads * native().augment_workspace(numbers)
    workspace = empty(Spec((floats,), (1,), torch.float32), images.device)
    addresses = (tensor.data_ptr() for tensor in (images, parts, output, workspace))
    native().augment(numbers, *addresses, threads, tuple(scale), tuple(shift))


def _parts(table: Tensor, policy: Policy) -> Tensor:
    """augment.h's Part for each image, (N, 9) int64: the whole numbers of the torch backend's sample_straight."""
    row = dict(zip(COLUMNS, table.double().unbind(dim=1), strict=True))
    top, bottom, left, right = (row[f"window_{side}"].long() for side in ("top", "bottom", "left", "right"))
    rows, first = _resized(bottom - top, row["top"] - top, row["height"], policy.size[0])
    columns, second = _resized(right - left, row["left"] - left, row["width"], policy.size[1])
    return torch.stack((top, bottom, left, right, rows, columns, first, second, row["flip"].long()), dim=1)


def _resized(window: Tensor, start: Tensor, box: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Pixels of the resized window, and which of them is the box's first."""
    return (window * size / box).round().long(), (start * size / box).round().long()
