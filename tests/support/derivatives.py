"""Derivatives of every kind that torch has, of any function of tensors: what ours and plain torch's are compared by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, func
from torch.autograd import forward_ad

from support.cases import leaves_of

Function = Callable[..., Tensor]
Kind = Callable[[Function, Sequence[Tensor]], Sequence[Tensor]]


def directions(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """One for each of the tensors, the same in every run."""
    generator = torch.Generator().manual_seed(41)
    return tuple(torch.randn(one.shape, generator=generator, dtype=torch.float64).to(one) for one in tensors)


def energy(function: Function) -> Function:
    return lambda *tensors: function(*tensors).square().sum()


def every(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(range(len(tensors)))


def gradients(output: Tensor, leaves: Sequence[Tensor], **options: bool) -> tuple[Tensor, ...]:
    return torch.autograd.grad(output, leaves, allow_unused=True, materialize_grads=True, **options)


def along(grads: Sequence[Tensor]) -> Tensor:
    """The gradients' product with fixed directions."""
    return torch.stack([(grad * to).sum() for grad, to in zip(grads, directions(grads), strict=True)]).sum()


def recorded(function: Function, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The first derivative, the second along a direction, and the third along the same."""
    leaves = leaves_of(tensors)
    first = gradients(energy(function)(*leaves), leaves, create_graph=True)
    second = gradients(along(first), leaves, create_graph=True)
    return *first, *second, *gradients(along(second), leaves)


def mixed(function: Function, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """A gradient penalty beside the value that it belongs to."""
    leaves = leaves_of(tensors)
    output = function(*leaves)
    first = torch.autograd.grad(output.square().sum(), leaves, create_graph=True)
    (output.sum() + torch.stack([grad.pow(2).sum() for grad in first]).sum()).backward()
    return [leaf.grad for leaf in leaves]  # type: ignore[misc]


def batched(function: Function, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Some gradients at a time, recorded or not."""
    leaves = leaves_of(tensors)
    output = function(*leaves).square()
    grads = torch.stack([torch.ones_like(output), *(directions([output])[0] * factor for factor in (1, -2))])
    plain = torch.autograd.grad(output, leaves, grads, is_grads_batched=True, retain_graph=True)
    kept = torch.autograd.grad(output, leaves, grads, is_grads_batched=True, create_graph=True)
    return *plain, *gradients(along([grad.square() for grad in kept]), leaves)


def dual_gradient(function: Function, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """A tangent that comes with the gradient alone."""
    leaves = leaves_of(tensors)
    output = function(*leaves)
    with forward_ad.dual_level():
        grad = forward_ad.make_dual(torch.ones_like(output), directions([output])[0])
        duals = [forward_ad.unpack_dual(one) for one in torch.autograd.grad(output, leaves, grad)]
        return [part for dual in duals for part in dual]  # type: ignore[misc]


def dual(function: Function, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Forward mode, and the gradient of its tangent: forward over reverse."""
    leaves = leaves_of(tensors)
    with forward_ad.dual_level():
        pairs = zip(leaves, directions(leaves), strict=True)
        output = function(*(forward_ad.make_dual(leaf, tangent) for leaf, tangent in pairs))
        value, tangent = forward_ad.unpack_dual(output.square())
        return value, tangent, *gradients(tangent.sum(), leaves)


def per_sample(function: Function, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """vmap(grad(f)) over the first tensor, batched in its last dimension."""
    samples = torch.stack([tensors[0] * factor for factor in (1.0, -0.5, 2.0)], dim=-1)
    transform = func.vmap(
        func.grad(energy(function), every(tensors)), (-1, *(None for _ in tensors[1:])), randomness="same"
    )
    return transform(samples, *tensors[1:])


def jvp(function: Function, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    return func.jvp(function, tuple(tensors), directions(tensors))


def hvp(function: Function, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """By torch.func forward over reverse and reverse over reverse, and by torch.autograd.functional."""
    gradient = func.grad(energy(function), every(tensors))
    forward = func.jvp(gradient, tuple(tensors), directions(tensors))[1]
    reverse = func.grad(lambda *tensors: along(gradient(*tensors)), every(tensors))(*tensors)
    return *forward, *reverse, *torch.autograd.functional.hvp(energy(function), tuple(tensors), directions(tensors))[1]


def hessian(function: Function, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """In the first tensor: by torch.func, and by torch.autograd.functional with vmap."""

    def loss(first: Tensor) -> Tensor:
        return energy(function)(first, *tensors[1:])

    vectorized = torch.autograd.functional.hessian(loss, tensors[0], vectorize=True)
    return func.jacfwd(func.jacrev(loss), randomness="same")(tensors[0]), vectorized


def jacobian(function: Function, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    forward = func.jacfwd(function, every(tensors), randomness="same")(*tensors)
    return *func.jacrev(function, every(tensors))(*tensors), *forward


KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (recorded, mixed, batched, dual_gradient, dual, per_sample, jvp, hvp, hessian, jacobian)
}
EAGER = ("recorded", "mixed", "batched", "dual_gradient")  # whose forward is a kernel's, where there is one
