"""TensorRT, on torch's own export of the network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from alexkern.bench.peers.onnx_export import INPUT, exported
from alexkern.bench.peers.peer import Peer


class TensorRT(Peer):
    name = "tensorrt"
    devices = "cuda"
    packages = ("onnx", "onnxscript", "tensorrt")
    install = "pip install onnx onnxscript tensorrt"
    cost = 2
    prepare_s = 40.0

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        import tensorrt

        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        builder = tensorrt.Builder(logger)
        # Strongly typed: every layer computes in the dtype that the network is in.
        flags = 1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(flags)
        parser = tensorrt.OnnxParser(network, logger)
        with exported(model, example) as path:
            # From the file and not from its bytes: the weights lie beside it.
            if not parser.parse_from_file(path):
                raise RuntimeError(str(parser.get_error(0)))
        config = builder.create_builder_config()
        if not torch.backends.cudnn.allow_tf32:
            config.clear_flag(tensorrt.BuilderFlag.TF32)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise RuntimeError("TensorRT found no plan for the network")
        runtime = tensorrt.Runtime(logger)
        context = runtime.deserialize_cuda_engine(plan).create_execution_context()
        name = network.get_output(0).name
        images = example.contiguous()
        output = torch.empty(tuple(context.get_tensor_shape(name)), dtype=example.dtype, device=example.device)
        context.set_tensor_address(INPUT, images.data_ptr())
        context.set_tensor_address(name, output.data_ptr())
        held = (runtime, images)  # which the context only points to

        def call(held: object = held) -> Tensor:
            if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
                raise RuntimeError("TensorRT could not run the network")
            return output

        return call
