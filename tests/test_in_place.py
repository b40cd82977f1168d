"""What comes out of an operator may be edited in place wherever torch's own layers let it be, and gradients stay right.

Inputs are whole numbers: sums of them are exact in float32, so there is one right gradient.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import alexkern
from alexkern.ops.registry import OPERATORS
from support import oracle
from support.backends import DEVICE, combination, is_slow, serving
from support.cases import Case, cases, leaves_of


def arithmetic(y: Tensor) -> None:
    y += 1
    y.mul_(2)
    y[..., :1].zero_()
    F.dropout(y, 0.5, inplace=True)


EDITS: tuple[Callable[[Tensor], Any], ...] = (
    arithmetic,
    lambda y: F.relu6(y, inplace=True),
    lambda y: F.elu(y, inplace=True),
)


def combinations() -> list[Any]:
    """Of every operator a case for each number of dimensions, dropping and not; of images in either format."""
    found: list[Any] = []
    for operator in OPERATORS:
        kinds: dict[tuple[int, bool], Case] = {}
        for case in cases(operator):
            shape, drops = case.shapes[0], case.arguments.get("training", True) and case.arguments.get("p", 0.5) > 0
            if shape and 0 not in shape:  # a number has no slice
                kinds.setdefault((len(shape), drops), case)
        first = next(iter(kinds.values()))
        for case, backend in itertools.product(kinds.values(), serving(operator)):
            found.append(combination(case, backend, torch.contiguous_format, quick=case is first))
            if len(case.shapes[0] or ()) == 4:
                found.append(combination(case, backend, torch.channels_last, quick=False))
    return found


def edited(
    call: Callable[..., Tensor], leaves: list[Tensor], edit: Callable[[Tensor], Any]
) -> tuple[Tensor, ...] | str:
    """The edited output and its gradients, or why there are none."""
    torch.manual_seed(0)
    output = call()
    torch.manual_seed(1)
    try:
        edit(output)
        cotangent = torch.arange(output.numel(), device=DEVICE).view(output.shape) % 5 - 2.0
        return output.detach(), *torch.autograd.grad(output, leaves, cotangent)
    except RuntimeError as error:
        return str(error)


@pytest.mark.parametrize(("case", "backend", "memory_format"), combinations())
def test_edits_that_torch_takes(
    case: Case, backend: str, memory_format: torch.memory_format, generator: torch.Generator
) -> None:
    tensors = [
        None if shape is None else torch.randint(-3, 4, shape, generator=generator).float().to(DEVICE)
        for shape in case.shapes
    ]
    assert tensors[0] is not None
    tensors[0] = tensors[0].contiguous(memory_format=memory_format)
    leaves = [tensor.requires_grad_() for tensor in tensors if tensor is not None]
    keep = oracle.keep(case, tensors)
    for edit in EDITS[:1] if is_slow(backend) else EDITS:
        wanted = edited(lambda: oracle.plain(case, tensors, keep), leaves, edit)
        with alexkern.backend(backend):
            ours = edited(lambda: case.call(*tensors), leaves, edit)
        if isinstance(wanted, str):
            assert isinstance(ours, str) and re.search("modified by an inplace|leaf Variable", ours)
            continue
        assert not isinstance(ours, str), ours
        for one, other in zip(ours, wanted, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("case", [case for operator in OPERATORS for case in cases(operator)], ids=str)
def test_outputs_are_no_views(case: Case, generator: torch.Generator) -> None:
    """So they may be detached in place, too. conv2d_relu's of one image is a view of what it has saved."""
    tensors = leaves_of(case.draw(torch.float32, DEVICE, generator))
    assert tensors[0] is not None
    output = case.call(*tensors)
    assert output._is_view() == (case.operator == "conv2d_relu" and tensors[0].dim() == 3)
    assert output._is_view() or output is tensors[0] or output.detach_() is output


@pytest.mark.parametrize("unbatched", [False, True])
def test_in_place_modules_behind_fused_runs(unbatched: bool, generator: torch.Generator) -> None:
    images = torch.randint(-3, 4, (3, 12, 12) if unbatched else (2, 3, 12, 12), generator=generator).float().to(DEVICE)
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.ReLU6(inplace=True), nn.Dropout(0.5, inplace=True),
        nn.MaxPool2d(2, 1), nn.ELU(inplace=True), nn.Flatten(-3), nn.Linear(36, 8), nn.ReLU(), nn.Dropout(0.0),
        nn.Linear(8, 3),
    ).to(DEVICE)  # fmt: skip
    gradients = []
    for make in (lambda model: model, alexkern.fuse):
        model = make(plain)
        torch.manual_seed(3)
        model(images).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        model.zero_grad()
    assert type(plain) is alexkern.nn.FusedSequential
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
