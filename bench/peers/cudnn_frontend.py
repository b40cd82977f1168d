"""cuDNN's graph of convolution, bias and ReLU, by its own Python package; the rest of the network is torch's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from alexkern.bench.peers.cudnn import CudnnConvolutionRelu
from alexkern.geometry import convolution


class FusedConvolution(nn.Module):
    """In place of a convolution and its ReLU, for inference; the graph is built for the shape of the first images."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self._execute: Callable[[Tensor], Tensor] | None = None

    def forward(self, input: Tensor) -> Tensor:
        if self._execute is None:
            self._execute = build(self.conv, input)
        return self._execute(input)


class CudnnFrontend(CudnnConvolutionRelu):
    name = "cudnn-frontend graph"
    packages = ("cudnn",)
    install = "pip install nvidia-cudnn-frontend"
    fused = FusedConvolution


def build(conv: nn.Conv2d, input: Tensor) -> Callable[[Tensor], Tensor]:
    """cuDNN's best plan for inputs like this one, channels_last, on torch's current stream at each call."""
    import cudnn

    kinds = {torch.float16: "HALF", torch.bfloat16: "BFLOAT16", torch.float32: "FLOAT"}
    kind = getattr(cudnn.data_type, kinds[input.dtype])
    handle = cudnn.create_handle()
    graph = cudnn.pygraph(
        io_data_type=kind,
        intermediate_data_type=cudnn.data_type.FLOAT,
        compute_data_type=cudnn.data_type.FLOAT,
        handle=handle,
    )
    weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
    bias = conv.bias.detach().view(1, -1, 1, 1) if conv.bias is not None else None
    x, w = graph.tensor_like(input), graph.tensor_like(weight)
    y = graph.conv_fprop(
        image=x, weight=w, padding=list(conv.padding), stride=list(conv.stride), dilation=list(conv.dilation)
    )
    operands = {x: input, w: weight}
    if bias is not None:
        b = graph.tensor_like(bias)
        operands[b] = bias
        y = graph.bias(name="bias", input=y, bias=b)
    y = graph.relu(name="relu", input=y)
    y.set_output(True).set_data_type(kind)
    graph.build([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    workspace = torch.empty(max(graph.get_workspace_size(), 1), dtype=torch.uint8, device=input.device)
    of = convolution(input, conv.weight, conv.stride, conv.padding, conv.dilation, conv.groups)
    shape = (of.N, of.K, of.P, of.Q)

    def execute(input: Tensor) -> Tensor:
        output = torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=torch.channels_last)
        cudnn.set_stream(handle=handle, stream=torch.cuda.current_stream().cuda_stream)
        graph.execute({**operands, x: input, y: output}, workspace, handle=handle)
        return output

    return execute
