"""torch.func: grad, vjp, vmap and their combinations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev, vmap

import alexkern
from alexkern import functional
from support.backends import DEVICE
from support.cases import SUITES, Case

PURE = [suite.case(suite.func) for suite in SUITES.values() if suite.func is not None]


@pytest.mark.parametrize("case", PURE, ids=str)
@pytest.mark.parametrize("batched", ["input", "all"])
def test_vmap_is_a_loop(case: Case, batched: str, generator: torch.Generator) -> None:
    draws = [case.draw(torch.float32, DEVICE, generator) for _ in range(3)]
    stacked = [None if column[0] is None else torch.stack(column, dim=1) for column in zip(*draws, strict=True)]
    shared = draws[0]
    arguments = [stacked[0], *(stacked[1:] if batched == "all" else shared[1:])]
    in_dims = tuple(
        1 if value is not None and (index == 0 or batched == "all") else None for index, value in enumerate(arguments)
    )
    output = vmap(case.call, in_dims=in_dims)(*arguments)
    for index, draw in enumerate(draws):
        one = [draw[0], *(draw[1:] if batched == "all" else shared[1:])]
        torch.testing.assert_close(output[index], case.call(*one))


@pytest.mark.parametrize("case", PURE, ids=str)
def test_per_sample_gradients(case: Case, generator: torch.Generator) -> None:
    """vmap(grad(f)): the gradients of every sample alone."""
    draws = [case.draw(torch.float32, DEVICE, generator) for _ in range(3)]
    inputs = torch.stack([draw[0] for draw in draws])  # type: ignore[misc]
    rest = draws[0][1:]

    def loss(input: Tensor, *others: Tensor) -> Tensor:
        return case.call(input, *others).square().sum()

    places = tuple(index for index in range(1 + len(rest)) if index == 0 or rest[index - 1] is not None)
    per_sample = vmap(grad(loss, argnums=places), in_dims=(0, *(None for _ in rest)))(inputs, *rest)
    for index in range(3):
        leaves = [inputs[index].clone().requires_grad_()]
        leaves += [other.clone().requires_grad_() for other in rest if other is not None]
        wanted = torch.autograd.grad(loss(*leaves), leaves)
        for ours, reference in zip(per_sample, wanted, strict=True):
            torch.testing.assert_close(ours[index], reference, rtol=1e-4, atol=1e-5)


def test_jacrev() -> None:
    image = torch.randn(1, 1, 4, 4)
    weight = torch.randn(2, 1, 3, 3)
    ours = jacrev(lambda x: functional.conv2d_relu(x, weight))(image)
    wanted = jacrev(lambda x: torch.relu(torch.nn.functional.conv2d(x, weight)))(image)
    torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("case", PURE, ids=str)
def test_nested_grad_raises(case: Case, generator: torch.Generator) -> None:
    tensors = case.draw(torch.float32, DEVICE, generator)

    def loss(input: Tensor) -> Tensor:
        return case.call(input, *tensors[1:]).square().sum()

    def penalty(input: Tensor) -> Tensor:
        return loss(input) + grad(loss)(input).square().sum()

    with pytest.raises(RuntimeError, match=f"alexkern.{case.operator}: double backward"):
        grad(penalty)(tensors[0])


def test_dropout_obeys_vmaps_randomness() -> None:
    input = torch.ones(4, 64)
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(functional.dropout)(input)
    same = vmap(functional.dropout, randomness="same")(input)
    different = vmap(functional.dropout, randomness="different")(input)
    assert all(torch.equal(row, same[0]) for row in same)
    assert not torch.equal(different[0], different[1])
    gradients = vmap(grad(lambda x: functional.dropout(x).sum()), randomness="different")(input)
    assert set(gradients.unique().tolist()) == {0.0, 2.0}


def test_functional_call_of_a_fused_model() -> None:
    from support.networks import small_alexnet

    model = alexkern.fuse(small_alexnet()).eval()
    image = torch.randn(2, 3, 63, 63)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    gradients = grad(lambda p: functional_call(model, p, (image,)).square().sum())(parameters)
    model(image).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5)
