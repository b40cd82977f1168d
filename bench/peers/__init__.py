"""The competitors, one small file each. A new one is a subclass of `Peer` and a line here."""

import torch

from alexkern.bench.peers.compile import CUDA_GRAPHS, Compile, CompileFrozen
from alexkern.bench.peers.cudnn import CudnnConvolutionRelu
from alexkern.bench.peers.cudnn_frontend import CudnnFrontend
from alexkern.bench.peers.eager import EAGER
from alexkern.bench.peers.onnxruntime import OnnxRuntime
from alexkern.bench.peers.openvino import OpenVino
from alexkern.bench.peers.peer import Peer
from alexkern.bench.peers.tensorrt import TensorRT
from alexkern.bench.peers.torchvision import Torchvision

PEERS: tuple[Peer, ...] = (
    *EAGER,
    CudnnConvolutionRelu(),
    CudnnFrontend(),
    Torchvision(),
    Compile("torch.compile"),
    Compile("torch.compile contiguous", layout=torch.contiguous_format, defaults=()),
    CompileFrozen(),
    Compile("torch.compile CUDA graphs", mode=CUDA_GRAPHS, devices="cuda"),
    # Tries templates against libraries at every layer. On a CPU it gains next to nothing and takes minutes.
    Compile(
        "torch.compile max-autotune", mode="max-autotune-no-cudagraphs", defaults=("cuda",), cost=2, prepare_s=60.0
    ),
    OnnxRuntime(),
    OpenVino(),
    TensorRT(),
)

__all__ = ["PEERS", "Peer"]
