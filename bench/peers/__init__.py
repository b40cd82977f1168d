"""The competitors, one small file each. A new one is a subclass of `Peer` and a line here."""

from alexkern.bench.peers.compile import (
    Compile,
    CompileContiguous,
    CompileCudaGraphs,
    CompileFrozen,
    CompileMaxAutotune,
)
from alexkern.bench.peers.cudnn import CudnnConvolutionRelu
from alexkern.bench.peers.cudnn_frontend import CudnnFrontend
from alexkern.bench.peers.eager import Eager, EagerChannelsLast
from alexkern.bench.peers.onnxruntime import OnnxRuntime
from alexkern.bench.peers.openvino import OpenVino
from alexkern.bench.peers.peer import Peer
from alexkern.bench.peers.tensorrt import TensorRT
from alexkern.bench.peers.torchvision import Torchvision

PEERS: tuple[Peer, ...] = (
    Eager(),
    EagerChannelsLast(),
    CudnnConvolutionRelu(),
    CudnnFrontend(),
    Torchvision(),
    Compile("torch.compile"),
    CompileContiguous(),
    CompileFrozen(),
    CompileCudaGraphs(),
    CompileMaxAutotune(),
    OnnxRuntime(),
    OpenVino(),
    TensorRT(),
)

__all__ = ["PEERS", "Peer"]
