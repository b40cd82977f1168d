"""torchviz: a drawing of the graph behind an output. Each node's saved tensors are asked for their sizes."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from support.cases import CASES, Case, each
from support.clients import TRAINED, check, images
from support.optional import need


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_saved_has_a_size(case: Case, generator: torch.Generator) -> None:
    """Without the package: all that it asks of an operator's node."""
    tensors = case.draw(torch.float32, torch.device("cpu"), generator)
    output = case.call(*each(Tensor.requires_grad_, tensors))
    node = output.grad_fn
    while node is not None:
        assert all(isinstance(tensor, Tensor) for tensor in getattr(node, "saved_tensors", ()))
        node = node.next_functions[0][0] if node.next_functions else None


@pytest.mark.full
@pytest.mark.parametrize("training", [False, True])
def test_every_parameter_is_drawn(training: bool) -> None:
    torchviz = need("torchviz")

    def run(model: nn.Module) -> object:
        output = model.train(training)(images()).mean()
        dot = torchviz.make_dot(output, params=dict(model.named_parameters()), show_attrs=True, show_saved=True)
        return sorted(set(re.findall(r"(?:features|classifier)\.\d\.\w+", dot.source)))

    check(run, TRAINED)
