"""Inputs and gradients of any strides: sliced, expanded, permuted, channels_last, with a storage offset."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import alexkern
from alexkern import dispatch, plan
from alexkern.plan import is_channels_last
from support import oracle, routes
from support.backends import DEVICE, combination, serving
from support.canaries import canaries
from support.cases import CASES, SUITES, Case, channels_last, each
from support.guarded import at_the_end, room


def contiguous(value: Tensor) -> Tensor:
    return value.contiguous()


def with_offset(value: Tensor) -> Tensor:
    """Starts three elements into its storage: not where any vector load would like it."""
    buffer = value.new_full((value.numel() + 3,), float("nan"))
    return buffer[3:].view(value.shape).copy_(value)


def sliced(value: Tensor) -> Tensor:
    """Every second entry of every dimension, NaN in between."""
    wide = value.new_full([2 * size for size in value.shape], float("nan"))
    view = wide[tuple(slice(None, None, 2) for _ in value.shape)]
    return view.copy_(value)


def permuted(value: Tensor) -> Tensor:
    """Dimensions in reverse order in memory."""
    order = tuple(reversed(range(value.dim())))
    return value.permute(order).contiguous().permute(order)


def expanded(value: Tensor) -> Tensor:
    """One image for the whole batch (or one row): stride 0."""
    return value[:1].expand(value.shape) if value.dim() and value.shape[0] else value


def scalar(value: Tensor) -> Tensor:
    """One number for everything: what y.sum().backward() sends."""
    return value.new_tensor(0.5).expand(value.shape)


def part_of_cat(value: Tensor) -> Tensor:
    """The middle of a concatenation along dimension 1: what the backward of torch.cat sends."""
    if value.dim() < 2:
        return value
    return torch.cat((torch.full_like(value, float("nan")), value, value), dim=1).narrow(
        1, value.shape[1], value.shape[1]
    )


def negated(value: Tensor) -> Tensor:
    """Minus what lies in memory, as the imaginary part of a conjugate is."""
    return torch._neg_view(-value)


def far_apart(value: Tensor) -> Tensor:
    """The first and the last more than 2**31 elements apart, channels_last each; pages between them are nobody's."""
    if value.dim() == 0 or len(value) < 2:
        return value
    one, step = channels_last(value[:1].contiguous()), 2**31 // (len(value) - 1) + 1
    buffer = value.new_empty(step * (len(value) - 1) + one.numel())
    return buffer.as_strided(value.shape, (step, *one.stride()[1:])).copy_(value)


INPUTS = (channels_last, with_offset, sliced, permuted, expanded, part_of_cat, negated)
GRADS = (contiguous, channels_last, sliced, permuted, scalar, part_of_cat, negated)
# In the interpreter: the smallest that have every kind of kernel.
QUICK = ("batch_1_odd", "groups_3", "channels_5", "odd", "fc7", "sequences")
# And those whose kernels have ends that others do not have: blocks of pixels, strides, padding, a window alone.
ENDS = ("stride_4_first_layer", "stride_2_3", "padding_over_filter", "one_window", "padded_pool", "even_size")
COMBINATIONS = [
    combination(case, backend, quick=case.label in QUICK)
    for case in CASES
    if case.label in SUITES[case.operator].layouts
    for backend in serving(case.operator)
]


@pytest.mark.parametrize(
    ("layout", "grad_layout"),
    [*((layout, contiguous) for layout in INPUTS), *((contiguous, layout) for layout in GRADS)],
    ids=lambda layout: layout.__name__,
)
@pytest.mark.parametrize(("case", "backend"), COMBINATIONS)
def test_layouts(
    case: Case,
    backend: str,
    layout: Callable[[Tensor], Tensor],
    grad_layout: Callable[[Tensor], Tensor],
    generator: torch.Generator,
) -> None:
    """Of the inputs, and of the gradient that comes in."""
    tensors = each(layout, case.draw(torch.float32, DEVICE, generator))
    before = each(torch.clone, tensors)
    with alexkern.backend(backend), canaries():
        output, _ = routes.run("direct", case, tensors, None)
    grad = grad_layout(torch.randn(output.shape, generator=generator).to(DEVICE))
    with alexkern.backend(backend), canaries():
        _, grads = routes.run("autograd", case, tensors, grad)
    oracle.judge(case, tensors, output, backend, grad)(output, grads)
    for tensor, copy in zip(tensors, before, strict=True):
        assert tensor is None or torch.equal(tensor, copy), "an input was written to"


@pytest.mark.parametrize(
    ("case", "backend"),
    [
        combination(case, backend)
        for case in CASES
        if case.label in ("channels_1", "uneven", "odd", "three_dimensions", "sequences")
        and case.label in SUITES[case.operator].layouts
        for backend in serving(case.operator)
    ],
)
def test_images_far_apart(case: Case, backend: str, generator: torch.Generator) -> None:
    test_layouts(case, backend, far_apart, far_apart, generator)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="a GPU has no such pages")
@pytest.mark.parametrize("layout", [contiguous, channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(
    ("case", "backend"),
    [
        combination(case, "triton")
        for case in CASES
        if case.label in (*QUICK, *ENDS) and "triton" in serving(case.operator)
    ],
)
def test_nothing_is_read_beyond_a_tensor(
    case: Case,
    backend: str,
    layout: Callable[[Tensor], Tensor],
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Given or planned, each ends in front of a page that nobody may touch. test_cpu.py has those of the processor."""
    monkeypatch.setattr(plan, "_allocate", lambda shape, stride, dtype, device: room(shape, stride, dtype))
    drawn = case.draw(torch.float32, DEVICE, generator)
    drawn[0][..., -2:-1] = float("inf")  # what it spoils is looked after as well
    tensors = each(lambda tensor: at_the_end(layout(tensor)), drawn)
    with alexkern.backend("torch"):
        grad = at_the_end(layout(torch.ones_like(case.call(*drawn))))
    with alexkern.backend(backend):
        _, grads = routes.run("autograd", case, tensors, grad)
    assert all((grad is None) == (tensor is None) for grad, tensor in zip(grads, tensors, strict=True))


@pytest.mark.parametrize(("case", "backend"), COMBINATIONS)
def test_only_the_gradients_asked_for(case: Case, backend: str, generator: torch.Generator) -> None:
    """Each tensor alone requires a gradient: it gets the one it would get among the others."""
    tensors = case.draw(torch.float32, DEVICE, generator)
    with alexkern.backend(backend):
        output, everything = routes.run("autograd", case, tensors, None)
        for place, wanted in enumerate(everything):
            if wanted is not None:
                leaves = each(lambda tensor: tensor.detach().clone(), tensors)
                leaves[place].requires_grad_()
                torch.manual_seed(0)
                case.call(*leaves).backward(torch.ones_like(output))
                torch.testing.assert_close(leaves[place].grad, wanted, rtol=1e-5, atol=1e-6)


def test_torchs_pooling_gets_a_gradient_in_the_format_of_its_images(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes by the gradient's, and copies indices and images that lie otherwise."""
    operator = dispatch.implementation("torch", "conv2d_relu_max_pool2d")
    image, weight = (channels_last(torch.randn(of, generator=generator)) for of in ((2, 3, 9, 9), (5, 3, 3, 3)))
    arguments = ((1, 1), (0, 0), (1, 1), 1, (3, 3), (2, 2), (0, 0))
    output, offsets = operator.forward(image, weight, None, *arguments, True)
    backward, formats = operator.max_pool2d.backward, []

    def watched(grad: Tensor, *rest: object) -> object:
        formats.append(is_channels_last(grad))
        return backward(grad, *rest)

    monkeypatch.setattr(operator.max_pool2d, "backward", watched)
    grad = torch.randn(output.shape, generator=generator)
    one, other = (
        operator.backward(of, image, weight, offsets, *arguments, (True, True, False))[1]
        for of in (grad, channels_last(grad))
    )
    assert formats == [True, True] and torch.equal(one, other)
