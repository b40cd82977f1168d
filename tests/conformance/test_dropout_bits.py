"""Dropout's one definition: known answers, and the same elements on every backend, forward and backward."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from alexkern import dispatch
from alexkern.backends.torch import philox
from support.backends import DEVICE, serving

# The known answers of Salmon et al.'s Random123 for philox4x32-10: (counter, key, result).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
SEEDS = [(0, 0), (1, 0), (-1, -2), (2**63 - 1, 2**62), (-(2**63), 2**32 - 3), (5, -(2**63))]


@pytest.mark.parametrize(("counter", "key", "wanted"), KNOWN)
def test_known_answers(counter: tuple, key: tuple, wanted: tuple) -> None:
    """Of integers, and of tensors of them: there what is given stays as it was."""
    assert philox.block(*counter, *key) == wanted
    tensors = [torch.tensor([0, number, number], device=DEVICE) for number in (*counter, *key)]
    found = philox.block(*tensors)
    assert [words[2].item() for words in found] == [words[1].item() for words in found] == [*wanted]
    assert [tensor[1].item() for tensor in tensors] == [*counter, *key]


@pytest.mark.parametrize("seed", SEEDS, ids=str)
def test_words(seed: tuple[int, int]) -> None:
    """Word i is word i % 4 of counter offset + i // 4 modulo 2**64, for every seed, across the wrap as well."""
    key, offset = (value % 2**64 for value in seed)
    words = philox.words(torch.tensor(seed, device=DEVICE), 23).tolist()
    for index, word in enumerate(words):
        counter = (offset + index // 4) % 2**64
        assert word == philox.block(counter & 0xFFFFFFFF, counter >> 32, 0, 0, key, key >> 32)[index % 4]


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_elements_are_numbered_as_they_lie_in_memory(p: float) -> None:
    seed = torch.tensor((-(2**62) + 7, 2**63 - 3), device=DEVICE)  # the counter wraps
    words, shape, strides = philox.words(seed, 90).tolist(), (2, 5, 3, 3), (45, 1, 15, 5)  # channels_last
    keep = philox.keep(seed, p, shape, strides)
    for index in itertools.product(*map(range, shape)):
        place = sum(at * stride for at, stride in zip(index, strides, strict=True))
        assert keep[index].item() == (words[place] >= math.floor(p * 2**32))


@pytest.mark.parametrize("backend", serving("dropout"))
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", SEEDS, ids=str)
def test_same_elements_on_every_backend(backend: str, p: float, seed: tuple[int, int]) -> None:
    """Values and gradients are dropped where the definition says, in the memory order of the output."""
    operator = dispatch.implementation(backend, "dropout")
    place = torch.tensor(seed, device=DEVICE)
    inputs = {
        "contiguous": torch.ones(3, 7, 5, device=DEVICE),
        "permuted": torch.ones(5, 3, 7, device=DEVICE).permute(1, 2, 0),
        "expanded": torch.ones(1, 7, 1, device=DEVICE).expand(3, 7, 5),
        "channels_last": torch.ones(2, 6, 3, 5, device=DEVICE).contiguous(memory_format=torch.channels_last),
        "sliced": torch.ones(2, 6, 3, 5, device=DEVICE)[:, 1:4, :, ::2],
    }
    for label, input in inputs.items():
        output = operator.forward(input, place, p)
        assert output.stride() == torch.empty_like(input).stride(), label
        keep = philox.keep(place, p, tuple(input.shape), output.stride())
        assert torch.equal(output != 0, keep), label
        grad = torch.ones_like(input)
        (gradient,) = operator.backward(grad, place, output.stride(), p, (True,))
        assert torch.equal(gradient, output), label


@pytest.mark.parametrize("backend", serving("linear_relu_dropout"))
@pytest.mark.parametrize("p", [0.25, 0.5, 1.0])
def test_linear_drops_the_same_elements(backend: str, p: float) -> None:
    operator = dispatch.implementation(backend, "linear_relu_dropout")
    place = torch.tensor((2**40 + 5, -3), device=DEVICE)
    input = torch.eye(6, device=DEVICE)
    weight = torch.ones(9, 6, device=DEVICE)
    output, mask = operator.forward(input, weight, None, place, p, True)
    keep = philox.keep(place, p, tuple(output.shape), output.stride())
    assert torch.equal(output != 0, keep)
    gradient, _, bias_gradient = operator.backward(
        torch.ones_like(output), input, weight, mask, place, p, (True, False, True)
    )
    scale = 1 / (1 - p) if p < 1 else 0.0
    torch.testing.assert_close(bias_gradient, keep.sum(0) * scale)
    torch.testing.assert_close(gradient, (keep.sum(1, keepdim=True) * scale).expand(6, 6).contiguous())


@pytest.mark.parametrize("operator", ["dropout", "linear_relu_dropout"])
@pytest.mark.parametrize("backend", serving("dropout"))
def test_a_word_that_is_the_limit_is_kept(backend: str, operator: str) -> None:
    """p = word / 2**32 exactly, and the next larger p, for the words of several lanes; small ones and large ones."""
    if backend not in serving(operator):
        pytest.skip(f"{backend} has no {operator}")
    place = torch.tensor((2012, 7), device=DEVICE)
    ones, words = torch.ones(6, 9, device=DEVICE), philox.words(place, 54).view(6, 9)
    module = dispatch.implementation(backend, operator)

    def kept(p: float) -> torch.Tensor:
        if operator == "dropout":
            return module.forward(ones, place, p) != 0
        return module.forward(ones.new_ones(6, 1), ones.new_ones(9, 1), None, place, p, False)[0] != 0

    ordered = words.flatten().sort().values.tolist()
    for word in (ordered[0], ordered[20], ordered[33], ordered[-1]):
        assert torch.equal(kept(word / 2**32), words >= word)
        assert torch.equal(kept((word + 1) / 2**32), words > word)
