"""cuDNN's fused convolution, bias and ReLU, as torch offers it: torch.cudnn_convolution_relu."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from alexkern.bench.peers.peer import Peer, bound


class ConvolutionRelu(nn.Module):
    """In place of a convolution, for inference."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, input: Tensor) -> Tensor:
        conv = self.conv
        return torch.cudnn_convolution_relu(
            input, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups
        )


class CudnnConvolutionRelu(Peer):
    name = "torch.cudnn_convolution_relu"
    devices = "cuda"
    fused: type[nn.Module] = ConvolutionRelu  # in place of a convolution and its ReLU

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        fuse_pairs(model, self.fused)
        model.to(memory_format=torch.channels_last)
        return bound(model, example.to(memory_format=torch.channels_last))


def fuse_pairs(model: nn.Module, fused: Callable[[nn.Conv2d], nn.Module]) -> None:
    """Puts `fused(conv)` in place of every Conv2d that a ReLU follows in a Sequential, and Identity for that ReLU."""
    for sequential in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        for index in range(len(sequential) - 1):
            conv, relu = sequential[index], sequential[index + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(relu, nn.ReLU):
                sequential[index], sequential[index + 1] = fused(conv), nn.Identity()
