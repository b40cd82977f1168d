"""torch's own export of a network to ONNX, for the runtimes that read it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

INPUT = "input"


@contextmanager
def exported(model: nn.Module, example: Tensor) -> Iterator[str]:
    """Within the block the exported file is there, with the weights beside it; its one input is called INPUT."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.onnx"
        torch.onnx.export(model, (example,), path, input_names=[INPUT], dynamo=True, verbose=False)
        yield path
