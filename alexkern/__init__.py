"""alexkern: hand-tuned kernels for AlexNet-shaped convolutional networks."""

from alexkern import functional, models, nn
from alexkern.dispatch import BackendUnavailable, backend, current_backend, set_backend
from alexkern.errors import ArgumentError
from alexkern.frozen import freeze
from alexkern.fuse import fuse
from alexkern.graph import graph
from alexkern.info import info

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "BackendUnavailable",
    "backend",
    "current_backend",
    "freeze",
    "functional",
    "fuse",
    "graph",
    "info",
    "models",
    "nn",
    "set_backend",
]
