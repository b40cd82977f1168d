"""OpenVINO, on its own conversion of the network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from alexkern.bench.peers.peer import Peer


class OpenVino(Peer):
    name = "openvino"
    restless = True
    packages = ("openvino",)

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        import openvino

        if example.is_cuda:
            raise RuntimeError("OpenVINO has no CUDA device")
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # Left to itself it takes bfloat16 where the CPU has it, whatever the model's dtype.
            "INFERENCE_PRECISION_HINT": {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}[
                example.dtype
            ],
        }
        network = openvino.convert_model(model, example_input=example[:1], input=list(example.shape))
        request = openvino.Core().compile_model(network, "CPU", settings).create_infer_request()
        feed = openvino.Tensor(example.numpy(), shared_memory=True)

        def call() -> Tensor:
            request.infer({0: feed}, share_inputs=True)
            return torch.from_numpy(request.get_output_tensor(0).data)

        return call
