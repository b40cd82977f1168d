"""dropout: zeros with probability p, and a backward that draws the same zeros again instead of keeping a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

from alexkern.ops import checks, seed
from alexkern.ops.description import ROWS, Example
from alexkern.ops.layer import Layer
from alexkern.ops.operator import Operator
from alexkern.plan import Spec
from alexkern.references.dropout import REFERENCE


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Dropout whose backward keeps 16 bytes, never a mask.

    The arguments are those of :func:`torch.nn.functional.dropout` without inplace. The paper's section 4.2 (Krizhevsky,
    Sutskever, Hinton 2012) with the scaling moved to training: kept values are multiplied by 1 / (1 - p). Philox4x32-10
    (Salmon, Moraes, Dror, Shaw 2011) decides element by element from a seed and an offset drawn from torch's generator
    of input's device; the torch, cpu, Triton and CUDA backends drop the very same elements.

    Args:
        input: any shape; float32, float16, bfloat16 or, on the torch backend, float64.
        p: probability of dropping an element, from 0 (input itself is returned) to 1 (everything is dropped).
        training: where False, input itself is returned.

    Returns:
        Tensor of input's shape, laid out as torch.empty_like(input). A dropped NaN or infinity is NaN, as in torch.

    Saved for backward: seed and offset.

    Raises:
        TypeError: an argument of the wrong type.
        ArgumentError: (a ValueError and a RuntimeError) p outside 0 to 1, or a dtype that is not floating point.
    """
    if has_torch_function_unary(input):
        return handle_torch_function(dropout, (input,), input, p, training)
    checks.floating("dropout", "input", input)
    p = checks.probability("dropout", p)
    if not training or p == 0.0 or input.numel() == 0:
        return input
    return OPERATOR(input, seed.draw(input.device), p)


def read(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Layer:
    return Layer(kind=nn.Dropout, p=p, training=training, inplace=inplace)


class Dropout(Operator):
    name = "dropout"
    schema = "Tensor input, Tensor seed, float p"
    backward_schema = "Tensor seed, SymInt[] output_stride, float p"
    layers = ((nn.Dropout,),)
    spellings = {F.dropout: read}
    reference = REFERENCE
    example = Example((ROWS,), (0.5,), (0.5,), seeded=True)

    def misfit(self, *modules: Any) -> str | None:
        return "inplace" if modules[0].inplace else None

    def arguments(self, *modules: Any) -> dict[str, Any]:
        return {"p": modules[0].p, "training": modules[0].training}

    def gains(self, backend: Any, images: Sequence[int], *modules: Any) -> bool:
        return bool(modules[0].training)  # else it hands on its input

    def plan_backward(self, grad: Tensor, *args: Any) -> tuple[Spec, ...]:
        _, output_stride, _ = args
        return (Spec(tuple(grad.shape), tuple(output_stride), grad.dtype),)

    def save(self, args: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        _, seed, p = args
        return (seed,), (outputs[0].stride(), p)


OPERATOR = Dropout()
