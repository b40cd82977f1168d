"""On a GPU: kernels run in the order of the current stream, forward and backward, and go into CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import alexkern
from alexkern import functional
from support import sanitized
from support.backends import DEVICE, serving
from support.cases import CASES, Case

pytestmark = pytest.mark.gpu

CYCLES = 100_000_000  # of the GPU's clock: some tens of milliseconds, in which the host is long done
COMBINATIONS = [
    pytest.param(case, backend, id=f"{case}-{backend}")
    for case in CASES
    if str(case) in sanitized.QUICK
    for backend in serving(case.operator)
    if backend != "torch"
]
DROPOUTS = ("dropout", "linear_relu_dropout")


def drawn(case: Case, generator: torch.Generator) -> list[Tensor]:
    tensors = case.draw(torch.float16, DEVICE, generator)
    return [tensor for tensor in tensors if tensor is not None]


def results(case: Case, tensors: list[Tensor]) -> list[Tensor]:
    """The output and all gradients, for a gradient of ones."""
    own = [tensor.detach().requires_grad_() for tensor in tensors]
    output = case.call(*own)
    return [output.detach(), *torch.autograd.grad(output.sum(), own)]


@pytest.mark.parametrize(("case", "backend"), COMBINATIONS)
def test_a_side_stream_is_kept_to(case: Case, backend: str, generator: torch.Generator) -> None:
    """What is launched elsewhere would read the inputs before they are there."""
    inputs = drawn(case, generator)
    with alexkern.backend(backend):
        torch.manual_seed(7)
        wanted = results(case, inputs)  # compiles, too
        torch.cuda.synchronize()
        late = [torch.zeros_like(tensor) for tensor in inputs]
        torch.manual_seed(7)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(CYCLES)
            for tensor, value in zip(late, inputs, strict=True):
                tensor.copy_(value)
            found = results(case, late)
        stream.synchronize()
    for ours, value in zip(found, wanted, strict=True):
        assert torch.equal(ours, value)


def captured(call: Callable[[], list[Tensor]]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    """The graph of a forward and a backward pass, and what its replays fill."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()  # compiles, and allocates what outlives a call
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        filled = call()
    return graph, filled


@pytest.mark.parametrize(("case", "backend"), [one for one in COMBINATIONS if one.values[0].operator not in DROPOUTS])
def test_a_graph_computes_on_what_it_is_given_then(case: Case, backend: str, generator: torch.Generator) -> None:
    with alexkern.backend(backend):
        static = drawn(case, generator)
        graph, filled = captured(lambda: results(case, static))
        for _ in range(2):
            inputs = drawn(case, generator)
            for tensor, value in zip(static, inputs, strict=True):
                tensor.copy_(value)
            graph.replay()
            for ours, wanted in zip(filled, results(case, inputs), strict=True):
                assert torch.equal(ours, wanted)


@pytest.mark.parametrize("backend", [name for name in serving("dropout") if name != "torch"])
def test_every_replay_of_a_graph_drops_anew(backend: str) -> None:
    """And backward drops what the forward of the same replay has dropped."""
    input = torch.ones(4096, device=DEVICE, requires_grad=True)

    def call() -> list[Tensor]:
        output = functional.dropout(input)
        return [output.detach(), *torch.autograd.grad(output.sum(), input)]

    with alexkern.backend(backend):
        graph, (output, gradient) = captured(call)
        patterns = []
        for _ in range(3):
            graph.replay()
            assert torch.equal(gradient, output)  # the input is one everywhere
            patterns.append(output.clone())
    for first, second in zip(patterns, patterns[1:], strict=False):
        assert set(first.unique().tolist()) == {0.0, 2.0}
        assert 1024 < int((first != second).sum()) < 3072


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize(("case", "backend"), COMBINATIONS)
def test_another_gpu_than_the_current_one(case: Case, backend: str, generator: torch.Generator) -> None:
    inputs = [tensor.to("cuda:1") for tensor in drawn(case, generator)]
    with alexkern.backend(backend):
        torch.cuda.manual_seed_all(7)
        found = results(case, inputs)
        torch.cuda.manual_seed_all(7)
        with torch.cuda.device(1):
            wanted = results(case, inputs)
    assert torch.cuda.current_device() == 0
    for ours, value in zip(found, wanted, strict=True):
        assert ours.device.index == 1 and torch.equal(ours, value)
