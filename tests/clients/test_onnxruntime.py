"""onnxruntime, on both of torch's exports to ONNX: the nodes and the numbers of the plain network."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from support.clients import check, images
from support.optional import need

onnx, _, onnxruntime = need("onnx"), need("onnxscript"), need("onnxruntime")
pytestmark = pytest.mark.full


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_exported(dynamo: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)

    def run(model: nn.Module) -> object:
        path = str(tmp_path / "network.onnx")
        torch.onnx.export(model, (images(),), path, dynamo=dynamo, verbose=False, input_names=["images"])
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        nodes = [node.op_type for node in onnx.load(path).graph.node]
        return session.run(None, {"images": images().numpy()}), nodes

    check(run)
