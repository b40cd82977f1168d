"""ONNX Runtime, on torch's own export of the network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from alexkern.bench.peers.onnx_export import INPUT, exported
from alexkern.bench.peers.peer import Peer


class OnnxRuntime(Peer):
    name = "onnxruntime"
    restless = True
    packages = ("onnx", "onnxscript", "onnxruntime")
    cost = 1
    prepare_s = 5.0

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        provider = "CUDAExecutionProvider" if example.is_cuda else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise RuntimeError(f"this onnxruntime has no {provider}")
        with exported(model, example) as path:
            session = onnxruntime.InferenceSession(path, options, providers=[(provider, _settings(example))])
        if example.is_cuda:
            return _bound_on_device(session, example)
        feed = {INPUT: example.numpy()}
        return lambda: torch.from_numpy(session.run(None, feed)[0])


def _settings(example: Tensor) -> dict[str, str]:
    """The provider's: on a GPU torch's stream, which is the one that is timed, and torch's arithmetic of float32."""
    if not example.is_cuda:
        return {}
    return {
        "device_id": str(example.device.index or 0),
        "user_compute_stream": str(torch.cuda.current_stream(example.device).cuda_stream),
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "use_tf32": str(int(torch.backends.cudnn.allow_tf32)),
    }


def _bound_on_device(session, example: Tensor) -> Callable[[], Tensor]:  # type: ignore[no-untyped-def]
    """A call whose input and output stay on the GPU."""
    from onnxruntime import OrtValue

    binding = session.io_binding()
    binding.bind_ortvalue_input(INPUT, OrtValue.from_dlpack(example.__dlpack__()))
    binding.bind_output(session.get_outputs()[0].name, "cuda", example.device.index or 0)

    def call() -> Tensor:
        session.run_with_iobinding(binding)
        return torch.from_dlpack(binding.get_outputs()[0].to_dlpack())

    return call
