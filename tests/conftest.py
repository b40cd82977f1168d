"""Settings that have to stand before anything imports torch or triton."""

from __future__ import annotations

import os

import torch

# Without a GPU the Triton kernels run in Triton's interpreter, which is chosen when a kernel is defined, and the CUDA
# kernels on the emulator, which compiles them once.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
    os.environ.setdefault("ALEXKERN_EMULATE", "1")
# One process a core already (pytest-xdist): threads on top would only fight.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

import pytest  # noqa: E402

import alexkern  # noqa: E402
from alexkern.bench.storage import make_no_empty_folder  # noqa: E402
from support.backends import describe_backends  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    make_no_empty_folder(config)


def pytest_report_header() -> list[str]:
    return [*alexkern.info().head, *describe_backends()]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture
def generator() -> torch.Generator:
    """Fresh, seeded inputs: the same in every run of a test."""
    return torch.Generator().manual_seed(20120930)
