"""A seventh operator, softsign, planted by its registry entry alone; with `-p support.seventh` from pytest's start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

from alexkern.backends import torch as definitions
from alexkern.ops.description import IMAGE, Example
from alexkern.ops.layer import Layer
from alexkern.ops.operator import Operator
from alexkern.ops.registry import OPERATORS

NAME = "softsign"
PLACE = str(Path(__file__).with_name("planted"))


def softsign(input: Tensor) -> Tensor:
    if has_torch_function_unary(input):
        return handle_torch_function(softsign, (input,), input)
    return OPERATORS[NAME](input)


class Softsign(Operator):
    name = NAME
    schema = "Tensor input"
    backward_schema = "Tensor input"
    layers = ((nn.Softsign,),)
    spellings = {F.softsign: lambda input: Layer(kind=nn.Softsign)}  # noqa: RUF012
    example = Example((IMAGE,), (), ())

    def arguments(self, *modules: Any) -> dict[str, Any]:
        return {}


with pytest.MonkeyPatch.context() as patch:
    patch.setattr(definitions, "__path__", [*definitions.__path__, PLACE])
    OPERATOR = Softsign()


def pytest_configure() -> None:
    OPERATORS[NAME] = OPERATOR
