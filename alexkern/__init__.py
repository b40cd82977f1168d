"""alexkern: hand-tuned kernels for AlexNet-shaped convolutional networks."""

from alexkern import functional, models, nn
from alexkern._version import __version__
from alexkern.backends.cpu.memory import release_memory
from alexkern.compare import compare
from alexkern.dispatch import backend, current_backend, set_backend
from alexkern.errors import ArgumentError, BackendUnavailable
from alexkern.frozen import freeze
from alexkern.fuse import fuse, fusion_report, unfuse
from alexkern.graph import graph
from alexkern.info import info

__all__ = [
    "__version__",
    "ArgumentError",
    "BackendUnavailable",
    "backend",
    "compare",
    "current_backend",
    "freeze",
    "functional",
    "fuse",
    "fusion_report",
    "graph",
    "info",
    "models",
    "nn",
    "release_memory",
    "set_backend",
    "unfuse",
]
