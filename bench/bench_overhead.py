"""What a call costs on the host beyond its backend's own work, and beyond torch's own call, on tensors so small that
little else is left.

The last rows are a network's, as torch.compile calls it by our backend and by inductor.

"backend alone" is the same call of the backend's forward, dropout's draw of a seed included. linear_relu_dropout drops
nothing here: in torch operators the random bits take forty times as long as its route, whose cost would drown in their
spread.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from alexkern import dispatch
from alexkern.bench.checks import WrongResult
from alexkern.bench.comparison import Comparison, Kind, Trial, Variant, compares, threads
from alexkern.bench.layers import Target
from alexkern.bench.options import Options
from alexkern.bench.priority import FIRST
from alexkern.measure.timing import Call
from alexkern.ops import seed
from alexkern.ops.registry import OPERATORS

SECONDS, LEAST_S = 0.3, 0.1
ROUTES = ("no grad", "grad", "dispatcher")
ALONE, TORCH, INDUCTOR = "backend alone", "torch's own call", "compiled by inductor"
TINY = (1, 3, 8, 8)  # images of a network of which a compiled call is host work alone


def overheads(options: Options) -> Iterable[Comparison]:
    for name, operator in OPERATORS.items():
        over = [(route, ALONE) for route in ROUTES]
        over += [(route, TORCH) for route in ROUTES[:2] if operator.reference is not None]
        for route, peer in over:
            yield Comparison(
                kind=Kind.OVERHEAD,
                section="host overhead per call",
                what=f"{name}, {route}" + (", over torch" if peer == TORCH else ""),
                variants=(Variant("alexkern", ours=True), Variant(peer)),
                setup=partial(_trial, name, route, options.target),
                seconds=SECONDS,
                least_s=LEAST_S,
                priority=FIRST["overhead"],
            )

    for route in ROUTES[:2]:
        yield Comparison(
            kind=Kind.OVERHEAD,
            section="host overhead per call",
            what=f"tiny network, {route}, over inductor",
            variants=(Variant("alexkern", ours=True, prepare_s=1), Variant(INDUCTOR, prepare_s=2)),
            setup=partial(_compiled, route, options.target),
            seconds=SECONDS,
            least_s=LEAST_S,
            priority=FIRST["overhead"],
        )


def _compiled(route: str, target: Target) -> Trial:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(72, 16),
        nn.ReLU(),
        nn.Linear(16, 4),
    )
    network = nn.Sequential(*layers).to(target.device, target.dtype)
    images = target.randn(*TINY)
    with torch.no_grad():
        wanted = network(images)

    def prepare(variant: str) -> Call:
        compiled = torch.compile(network, backend="inductor" if variant == INDUCTOR else "alexkern", dynamic=False)
        call = torch.set_grad_enabled(route == "grad")(lambda: compiled(images))
        with threads(1):  # as overheads are timed: dynamo compiles anew for each number
            call()
        return call

    def check(variant: str, result: object) -> None:
        output = _first(result)
        if output.requires_grad != (route == "grad") or not torch.allclose(output, wanted, rtol=1e-2, atol=1e-2):
            raise WrongResult(f"off by {float((output - wanted).abs().max())}")

    return Trial(prepare, check)


def _trial(name: str, route: str, target: Target) -> Trial:
    operator = OPERATORS[name]
    case = operator.example
    tensors = [target.randn(*shape) for shape in case.shapes]
    backend = dispatch.resolve(name, tensors[0])
    served_by = dispatch.resolve_name(name, tensors[0])
    parameters = operator.training(case.backend) if route == "grad" else case.backend

    def arguments() -> tuple[object, ...]:
        return (*tensors, *((seed.draw(target.device),) if case.seeded else ()), *parameters)

    def prepare(variant: str) -> Call:
        if variant == ALONE:
            return lambda: backend.forward(*arguments())
        if route == "dispatcher":
            return lambda: operator.dispatched(served_by, *arguments())
        own = [tensor.clone().requires_grad_(route == "grad") for tensor in tensors]
        if variant == TORCH:
            assert operator.reference is not None
            plain, rest = operator.reference.plain or operator.reference.forward, arguments()[len(own) :]
            return lambda: plain(*own, *rest)
        return lambda: operator.function(*own, *case.public)

    shape = _first(prepare(ALONE)()).shape

    def check(variant: str, result: object) -> None:
        output = _first(result)
        if output.shape != shape or output.requires_grad != (variant != ALONE and route == "grad"):
            raise WrongResult(f"shape {tuple(output.shape)}, requires_grad {output.requires_grad}")

    return Trial(prepare, check)


def _first(result: object) -> Tensor:
    output = result[0] if isinstance(result, (tuple, list)) else result
    assert isinstance(output, Tensor)
    return output


bench_overhead = compares(overheads)
