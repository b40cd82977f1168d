"""The competitors, one small file each. A new one is a subclass of `Peer` and a line here."""

from alexkern.bench.peers.compile import Compile, CompileFrozen
from alexkern.bench.peers.eager import Eager, EagerChannelsLast
from alexkern.bench.peers.onnxruntime import OnnxRuntime
from alexkern.bench.peers.openvino import OpenVino
from alexkern.bench.peers.peer import Peer
from alexkern.bench.peers.torchvision import Torchvision

PEERS: tuple[Peer, ...] = (
    Eager(),
    EagerChannelsLast(),
    Compile(torch_layout="channels_last"),
    Compile(torch_layout="contiguous"),
    CompileFrozen(),
    OnnxRuntime(),
    OpenVino(),
    Torchvision(),
)

__all__ = ["PEERS", "Peer"]
