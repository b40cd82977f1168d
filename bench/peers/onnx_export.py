"""torch's own export of a network to ONNX, for the runtimes that read it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

INPUT = "input"


def export(model: nn.Module, example: Tensor, folder: Path) -> Path:
    """The exported file, with the weights beside it; its one input is called INPUT."""
    path = folder / "model.onnx"
    torch.onnx.export(model, (example,), path, input_names=[INPUT], dynamo=True, verbose=False)
    return path
