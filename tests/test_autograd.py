"""What the operators keep for backward, and their first derivatives; test_derivatives.py has all others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import alexkern
from alexkern import dispatch, functional
from alexkern.bench.memory import SavedBytes
from support.backends import DEVICE, combination, serving
from support.cases import SUITES, Case, Tensors, leaves_of

EVERY_OPERATOR = [suite.case(suite.autograd) for suite in SUITES.values()]


def saved_by(case: Case, tensors: Tensors) -> tuple[Tensor, list[Tensor]]:
    kept: list[Tensor] = []
    with saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        output = case.call(*tensors)
    return output, kept


@pytest.mark.parametrize(
    ("case", "backend"),
    [combination(case, backend) for case in EVERY_OPERATOR for backend in serving(case.operator)],
)
def test_saves_what_the_table_allows(case: Case, backend: str, generator: torch.Generator) -> None:
    leaves = leaves_of(case.draw(torch.float32, DEVICE, generator))
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


def test_no_gradient_saves_nothing(generator: torch.Generator) -> None:
    for case in EVERY_OPERATOR:
        output, kept = saved_by(case, case.draw(torch.float32, DEVICE, generator))
        assert kept == [] and not output.requires_grad


def test_backward_uses_the_forwards_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend of the forward is carried along: leaving the `with` block before backward changes nothing."""
    calls, module = [], dispatch.implementation("torch", "max_pool2d")
    original = module.backward
    monkeypatch.setattr(module, "backward", lambda *args: calls.append("torch") or original(*args))
    input = torch.randn(1, 2, 5, 5, requires_grad=True)
    with alexkern.backend("torch"):
        output = functional.max_pool2d(input, 3, 2)
    with alexkern.backend("auto"):
        output.sum().backward()
    assert calls == ["torch"]


def test_checkpoint_draws_the_same_zeros_again() -> None:
    input, weight = torch.randn(6, 20), torch.randn(30, 20)
    results = []
    for reentrant in (None, True, False):
        leaves = [tensor.clone().requires_grad_() for tensor in (input, weight)]
        torch.manual_seed(5)
        if reentrant is None:
            output = functional.linear_relu_dropout(*leaves)
        else:
            output = checkpoint(functional.linear_relu_dropout, *leaves, use_reentrant=reentrant)
        output.square().sum().backward()
        results.append((output.detach(), *(leaf.grad for leaf in leaves)))
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))
