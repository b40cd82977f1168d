"""The chips that the static report is about, with their published ceilings.

Dense rates and memory bandwidth of NVIDIA's data sheets: H200 SXM (2024), H100 SXM5 (2023), A100 SXM4 80 GB (2021). A
tensor core's rate is the same in float16 and bfloat16; float32 is that of the ordinary units.
"""

from __future__ import annotations

from dataclasses import dataclass

from alexkern.bench.ceilings import Ceilings
from alexkern.kernels.config import Device

T = 1e12


@dataclass(frozen=True)
class Chip:
    """A GPU as a schedule sees it, and its published operations (by arithmetic) and bytes per second."""

    device: Device
    flops: dict[str, float]
    bytes: float

    @property
    def name(self) -> str:
        return self.device.name.removeprefix("NVIDIA ")

    def ceilings(self, arithmetic: str) -> Ceilings:
        return Ceilings(self.flops[arithmetic], self.bytes)


HOPPER = {"bfloat16": 989.4 * T, "float16": 989.4 * T, "tf32": 494.7 * T, "float32": 66.9 * T}
AMPERE = {"bfloat16": 312 * T, "float16": 312 * T, "tf32": 156 * T, "float32": 19.5 * T}
CHIPS = (
    Chip(Device("NVIDIA H200", (9, 0), 132, 232448), HOPPER, 4.8 * T),
    Chip(Device("NVIDIA H100", (9, 0), 132, 232448), HOPPER, 3.35 * T),
    Chip(Device("NVIDIA A100", (8, 0), 108, 166912), AMPERE, 2.039 * T),
)
