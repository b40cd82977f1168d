"""OpenVINO, on its own conversion of the network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from alexkern.bench.peers.peer import Peer


class OpenVino(Peer):
    name = "openvino"
    restless = True
    devices = "cpu"
    cost = 1
    prepare_s = 5.0
    packages = ("openvino",)

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        """The network is handed over in float32, and the hint says what to compute in: numpy has no bfloat16."""
        import openvino

        dtype, images = example.dtype, example.float()
        hints = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # Left to itself it takes bfloat16 where the CPU has it, whatever the model's dtype.
            "INFERENCE_PRECISION_HINT": hints[dtype],
        }
        network = openvino.convert_model(model.float(), example_input=images[:1], input=list(images.shape))
        request = openvino.Core().compile_model(network, "CPU", settings).create_infer_request()
        feed = openvino.Tensor(images.numpy(), shared_memory=True)

        def call() -> Tensor:
            request.infer({0: feed}, share_inputs=True)
            return torch.from_numpy(request.get_output_tensor(0).data).to(dtype)

        return call
