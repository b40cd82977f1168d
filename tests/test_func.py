"""torch.func's vmap, and what it does to random numbers; test_derivatives.py has the derivatives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

import alexkern
from alexkern import functional
from alexkern.backends.torch import philox
from alexkern.ops import seed
from support.backends import DEVICE
from support.cases import SUITES, Case
from support.networks import small_alexnet

PURE = [suite.case(suite.func) for suite in SUITES.values() if suite.func is not None]


@pytest.mark.parametrize("case", PURE, ids=str)
@pytest.mark.parametrize("batched", ["input", "all"])
def test_vmap_is_a_loop(case: Case, batched: str, generator: torch.Generator) -> None:
    draws = [case.draw(torch.float32, DEVICE, generator) for _ in range(3)]
    places = range(1 if batched == "input" else len(case.shapes))
    arguments, in_dims = list(draws[0]), [None] * len(case.shapes)
    for place in places:
        if case.shapes[place] is not None:
            arguments[place], in_dims[place] = torch.stack([draw[place] for draw in draws], dim=1), 1
    output = vmap(case.call, in_dims=tuple(in_dims))(*arguments)
    for index, draw in enumerate(draws):
        one = [draw[place] if place in places else shared for place, shared in enumerate(draws[0])]
        torch.testing.assert_close(output[index], case.call(*one))


@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        (functional.dropout, F.dropout),
        (lambda x: functional.linear_relu_dropout(x, torch.eye(64)), lambda x: F.dropout(F.relu(x))),
    ],
    ids=["dropout", "linear_relu_dropout"],
)
def test_dropout_obeys_vmaps_randomness(ours: Callable[[Tensor], Tensor], torchs: Callable[[Tensor], Tensor]) -> None:
    input = torch.ones(4, 64)
    texts = []
    for function in (ours, torchs):
        with pytest.raises(RuntimeError, match="randomness error mode") as error:
            vmap(function)(input)
        texts.append(str(error.value))
    assert texts[0] == texts[1]
    torch.manual_seed(2)
    same = vmap(ours, randomness="same")(input)
    torch.manual_seed(2)
    assert torch.equal(same, ours(input[0]).expand(4, -1))
    different = vmap(ours, randomness="different")(input)
    assert not torch.equal(different[0], different[1])
    gradients = vmap(grad(lambda x: ours(x).sum()), randomness="different")(input)
    assert set(gradients.unique().tolist()) == {0.0, 2.0}
    for randomness in ("same", "different"):
        assert vmap(ours, randomness=randomness)(torch.ones(0, 64)).shape == (0, 64)


@pytest.mark.parametrize("dim", [0, 1, 3])
def test_every_sample_drops_what_its_own_seed_says(dim: int) -> None:
    """Whatever its memory looks like within the batch."""
    samples = torch.randn(3, 2, 4, 5).movedim(0, dim)
    torch.manual_seed(1)
    outputs = vmap(functional.dropout, in_dims=dim, randomness="different")(samples)
    torch.manual_seed(1)
    drawn = vmap(lambda _: seed.draw(torch.device("cpu")), randomness="different")(torch.empty(3))
    for sample, output, one in zip(samples.unbind(dim), outputs, drawn, strict=True):
        assert torch.equal(output, sample * philox.keep(one, 0.5, (2, 4, 5), torch.empty_like(sample).stride()) * 2)


def test_nested_transforms_drop_the_same(generator: torch.Generator) -> None:
    """A batch of seeds within a batch, and a gradient in between."""
    input = torch.rand(2, 3, 16, generator=generator) + 1
    inner = vmap(grad(lambda x: functional.dropout(x, 0.25).square().sum()), randomness="different")
    outer = vmap(inner, randomness="different")(input)
    kept = outer != 0
    torch.testing.assert_close(outer[kept], 2 * (input / 0.75**2)[kept])
    assert len({tuple(row) for row in kept.flatten(0, 1).tolist()}) == 6


def test_functional_call_of_a_fused_model() -> None:
    """Of some images, which its layers lay out in channels_last memory."""
    model = alexkern.fuse(small_alexnet()).eval()
    image = torch.randn(2, 3, 63, 63)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    gradients = grad(lambda p: functional_call(model, p, (image,)).square().sum())(parameters)
    model(image).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5)
