"""From files to batches on a device: finding images, decoding them in workers, and keeping the device fed."""

from alexkern.data.batch import Batch, collate
from alexkern.data.damage import DamageTally
from alexkern.data.decode import UnreadableImage, decode
from alexkern.data.loader import Loader
from alexkern.data.sampler import BatchOrder
from alexkern.data.samples import DataError, Samples, find_samples, hold_out
from alexkern.data.splits import find_sets

__all__ = [
    "Batch",
    "BatchOrder",
    "DamageTally",
    "DataError",
    "Loader",
    "Samples",
    "UnreadableImage",
    "collate",
    "decode",
    "find_samples",
    "find_sets",
    "hold_out",
]
