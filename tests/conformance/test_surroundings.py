"""What goes on around a call changes no bit of it: other threads, passes repeated, tensors replaced or off by a few."""

from __future__ import annotations

import inspect
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

import alexkern
from alexkern.accuracy import assert_same
from alexkern.ops.registry import OPERATORS
from support.backends import DEVICE, serving
from support.cases import Case, Tensors, each, small

RUNS = [(operator, backend) for operator in OPERATORS for backend in serving(operator)]


def gradients(case: Case, tensors: Tensors, passes: int = 1) -> list[Tensor]:
    """The output and, of the last of some passes, the gradients; dropout draws what seed 0 gives."""
    leaves = each(lambda tensor: tensor.detach().requires_grad_(), tensors)
    present = [leaf for leaf in leaves if leaf is not None]
    torch.manual_seed(0)
    output = case.call(*leaves)
    for more in range(passes - 1, -1, -1):
        grads = torch.autograd.grad(output, present, output.detach() + 1, retain_graph=more > 0)
    return [output.detach(), *grads]


def assert_all_same(ours: list[Tensor], wanted: list[Tensor]) -> None:
    for one, other in zip(ours, wanted, strict=True):
        assert_same(one, other)


def assert_all_close(ours: list[Tensor], wanted: list[Tensor]) -> None:
    for one, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("operator", "backend"), RUNS)
def test_a_backward_pass_repeated(operator: str, backend: str, generator: torch.Generator) -> None:
    case = small(operator)
    tensors = case.draw(torch.float32, DEVICE, generator)
    with alexkern.backend(backend):
        assert_all_same(gradients(case, tensors, passes=3), gradients(case, tensors))


@pytest.mark.parametrize(("operator", "backend"), RUNS)
def test_saved_tensors_replaced(operator: str, backend: str, generator: torch.Generator) -> None:
    """By copies elsewhere, in another order of memory where they have four dimensions."""
    case = small(operator)
    tensors = case.draw(torch.float32, DEVICE, generator)

    def moved(tensor: Tensor) -> Tensor:
        return tensor.clone(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor.clone()

    with alexkern.backend(backend):
        wanted = gradients(case, tensors)
        with saved_tensors_hooks(
            lambda tensor: tensor.cpu().numpy().copy(), lambda kept: torch.tensor(kept).to(DEVICE)
        ):
            assert_all_same(gradients(case, tensors), wanted)
        with saved_tensors_hooks(moved, lambda tensor: tensor):
            assert_all_close(gradients(case, tensors), wanted)


@pytest.mark.parametrize("elements", [1, 4])
@pytest.mark.parametrize(("operator", "backend"), RUNS)
def test_operands_off_by_a_few_elements(operator: str, backend: str, elements: int, generator: torch.Generator) -> None:
    case = small(operator)
    tensors = case.draw(torch.float32, DEVICE, generator)

    def off(tensor: Tensor) -> Tensor:
        buffer = tensor.new_full((tensor.numel() + elements,), float("nan"))
        return buffer[elements:].view(tensor.shape).copy_(tensor)

    with alexkern.backend(backend):
        assert_all_close(gradients(case, each(off, tensors)), gradients(case, tensors))


def is_threaded(backend: str) -> bool:
    """Interpreter and emulator are one program at a time."""
    return DEVICE.type == "cuda" or backend in ("cpu", "torch")


@pytest.mark.parametrize(("operator", "backend"), [run for run in RUNS if is_threaded(run[1]) and run[0] != "dropout"])
def test_four_threads_at_once(operator: str, backend: str, generator: torch.Generator) -> None:
    case = small(operator)
    if "p" in inspect.signature(OPERATORS[operator].function).parameters:  # torch's generator is one for all threads
        case = replace(case, arguments=case.arguments | {"p": 0.0})
    inputs = [case.draw(torch.float32, DEVICE, generator) for _ in range(4)]
    start = threading.Barrier(4)

    def run(tensors: Tensors) -> list[list[Tensor]]:
        start.wait()
        return [gradients(case, tensors) for _ in range(20)]

    with alexkern.backend(backend), ThreadPoolExecutor(4) as threads:
        wanted = [gradients(case, tensors) for tensors in inputs]
        for results, alone in zip(threads.map(run, inputs), wanted, strict=True):
            for result in results:
                assert_all_same(result, alone)


@pytest.mark.parametrize("p", [0.0, 5e-324, 0.5, 1.0])
@pytest.mark.parametrize("seed", [2**63 - 1, -(2**63), 2**64 - 1])
def test_probabilities_and_seeds_at_their_ends(p: float, seed: int, generator: torch.Generator) -> None:
    """torch takes seeds up to 2**64 - 1, and every backend draws the same with them."""
    x = torch.rand((3, 5), generator=generator).to(DEVICE) + 1
    outputs = []
    for backend in serving("dropout"):
        torch.manual_seed(seed)
        with alexkern.backend(backend):
            outputs.append(OPERATORS["dropout"].function(x, p))
    for output in outputs:
        assert_same(output, outputs[0])
    kept = outputs[0] != 0
    assert bool(kept.all()) if p < 1e-300 else not bool(kept.any()) if p == 1 else True
