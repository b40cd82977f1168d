"""What the operators keep for backward, and their first derivatives; test_derivatives.py has all others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import alexkern
from alexkern import dispatch, functional
from alexkern.bench.memory import SavedBytes
from support.backends import DEVICE, serving
from support.cases import SUITES, Case

EVERY_OPERATOR = [suite.case(suite.autograd) for suite in SUITES.values()]
COMBINATIONS = [
    pytest.param(case, backend, id=f"{case.operator}-{backend}")
    for case in EVERY_OPERATOR
    for backend in serving(case.operator)
]


def saved_by(case: Case, leaves: list[Tensor | None]) -> tuple[Tensor, list[Tensor]]:
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = case.call(*leaves)
    return output, kept


@pytest.mark.parametrize(("case", "backend"), COMBINATIONS)
def test_saves_what_the_table_allows(case: Case, backend: str, generator: torch.Generator) -> None:
    leaves = [
        None if tensor is None else tensor.requires_grad_() for tensor in case.draw(torch.float32, DEVICE, generator)
    ]
    with alexkern.backend(backend):
        output, kept = saved_by(case, leaves)
    places = {tensor.data_ptr(): (tuple(tensor.shape), tensor.dtype) for tensor in kept}
    allowed, keeps = dict(zip(("input", "weight"), leaves, strict=False)), SUITES[case.operator].keeps
    allowed["output"] = output
    for name in allowed.keys() & keeps:
        places.pop(allowed[name].data_ptr(), None)
    others = {
        "offsets": (tuple(output.shape), torch.uint8),
        "mask": ((-(-output.numel() // 8),), torch.uint8),
        "seed": ((2,), torch.int64),
    }
    assert list(places.values()) == [others[name] for name in keeps if name in others]


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_training_step_saves_less_than_half(channels_last: bool, generator: torch.Generator) -> None:
    """At most 0.45 of the bytes that torch saves for backward beside parameters. Both grow with the batch alone."""
    images = torch.randn(2, 3, 224, 224, generator=generator).to(DEVICE)
    model = alexkern.models.alexnet().to(DEVICE).train()
    if channels_last:
        model, images = (value.to(memory_format=torch.channels_last) for value in (model, images))
    saved = []
    for sequential in (alexkern.nn.FusedSequential, nn.Sequential):
        for part in (model.features, model.classifier):
            part.__class__ = sequential
        with SavedBytes(excluded=model.parameters()) as kept:
            output = model(images)
        assert output.requires_grad
        saved.append(kept.total)
    assert 2_000_000 < saved[0] <= 0.45 * saved[1]


def test_large_windows_keep_int32(generator: torch.Generator) -> None:
    case = SUITES["max_pool2d"].case("window_289")
    (input,) = case.draw(torch.float32, DEVICE, generator)
    assert input is not None
    _, kept = saved_by(case, [input.requires_grad_()])
    assert [tensor.dtype for tensor in kept] == [torch.int32]


def test_no_gradient_saves_nothing(generator: torch.Generator) -> None:
    for case in EVERY_OPERATOR:
        output, kept = saved_by(case, case.draw(torch.float32, DEVICE, generator))
        assert kept == [] and not output.requires_grad


@pytest.mark.parametrize(("case", "backend"), COMBINATIONS)
def test_create_graph_alone_is_harmless(case: Case, backend: str, generator: torch.Generator) -> None:
    leaves = [
        None if tensor is None else tensor.requires_grad_() for tensor in case.draw(torch.float32, DEVICE, generator)
    ]
    present = [leaf for leaf in leaves if leaf is not None]
    with alexkern.backend(backend):
        torch.manual_seed(0)
        recorded = torch.autograd.grad(case.call(*leaves).sum(), present, create_graph=True)
        torch.manual_seed(0)
        usual = torch.autograd.grad(case.call(*leaves).sum(), present)
    for one, other in zip(recorded, usual, strict=True):
        # The definition's backward is recorded, whichever backend was to run.
        assert torch.equal(one, other) if backend == "torch" else torch.allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", EVERY_OPERATOR, ids=lambda case: case.operator)
def test_gradcheck(case: Case, generator: torch.Generator) -> None:
    """Float64, on the torch backend, against finite differences."""
    small = Case(case.operator, "small", *SUITES[case.operator].small)
    leaves = [tensor for tensor in small.draw(torch.float64, torch.device("cpu"), generator) if tensor is not None]

    def call(*tensors: Tensor) -> Tensor:
        torch.manual_seed(3)
        return small.call(*tensors)

    with alexkern.backend("torch"):
        assert torch.autograd.gradcheck(call, [leaf.requires_grad_() for leaf in leaves])


def test_backward_uses_the_forwards_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend of the forward is carried along: leaving the `with` block before backward changes nothing."""
    module = dispatch.implementation("torch", "max_pool2d")
    calls = []
    original = module.backward
    monkeypatch.setattr(module, "backward", lambda *args: (calls.append("torch"), original(*args))[1])
    input = torch.randn(1, 2, 5, 5, requires_grad=True)
    with alexkern.backend("torch"):
        output = functional.max_pool2d(input, 3, 2)
    with alexkern.backend("auto"):
        output.sum().backward()
    assert calls == ["torch"]


def test_checkpoint_draws_the_same_zeros_again() -> None:
    from torch.utils.checkpoint import checkpoint

    input = torch.randn(6, 20)
    weight = torch.randn(30, 20)
    results = []
    for reentrant in (None, True, False):
        x, w = input.clone().requires_grad_(), weight.clone().requires_grad_()
        torch.manual_seed(5)
        if reentrant is None:
            output = functional.linear_relu_dropout(x, w)
        else:
            output = checkpoint(functional.linear_relu_dropout, x, w, use_reentrant=reentrant)
        output.square().sum().backward()
        results.append((output.detach(), x.grad, w.grad))
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))
