"""Which backend serves a call, and how that is chosen."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import alexkern
from alexkern import dispatch
from alexkern.backends.torch import conv2d_relu as reference
from alexkern.ops.registry import OPERATORS


def test_context_manager_restores_also_after_an_error() -> None:
    before = alexkern.current_backend()
    with pytest.raises(KeyError), alexkern.backend("torch"):
        assert alexkern.current_backend() == "torch"
        raise KeyError
    assert alexkern.current_backend() == before


def test_set_backend() -> None:
    before = alexkern.current_backend()
    try:
        alexkern.set_backend("torch")
        assert dispatch.resolve("conv2d_relu", torch.zeros(1)) is reference
    finally:
        alexkern.set_backend(before)


def test_auto_serves_a_cpu_tensor_by_torch() -> None:
    with alexkern.backend("auto"):
        assert dispatch.resolve("conv2d_relu", torch.zeros(1)) is reference


def test_absent_backend_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dispatch.PACKAGES, "cuda", "alexkern.no_such_backend")
    monkeypatch.setattr(dispatch, "_resolved", {})
    with (
        alexkern.backend("cuda"),
        pytest.raises(alexkern.BackendUnavailable, match="conv2d_relu.*cuda.*no cuda kernel"),
    ):
        alexkern.functional.conv2d_relu(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 1, 1))


def test_float64_is_the_torch_backends() -> None:
    if dispatch.missing("triton", "conv2d_relu", "cpu", torch.float32) is not None:
        pytest.skip("no Triton here")
    with alexkern.backend("triton"), pytest.raises(alexkern.BackendUnavailable, match="float64"):
        alexkern.functional.conv2d_relu(torch.zeros(1, 1, 3, 3).double(), torch.zeros(1, 1, 1, 1).double())


def test_auto_warns_once_when_it_falls_back_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_warned", set())
    monkeypatch.setattr(dispatch, "missing", lambda name, *_: None if name == "torch" else "not here")
    with pytest.warns(UserWarning, match="conv2d_relu falls back.*cuda: not here; triton: not here"):
        assert dispatch.serving("auto", "conv2d_relu", "cuda", torch.float32) == "torch"
    assert dispatch.serving("auto", "conv2d_relu", "cuda", torch.float32) == "torch"  # and says nothing


def test_explain_names_every_operator() -> None:
    rows = dispatch.explain(OPERATORS, "cpu")
    assert [row[0] for row in rows] == list(OPERATORS)
    for _, serving, why_not in rows:
        assert serving == "torch"
        assert set(why_not) == {"cuda", "triton"} and all(why_not.values())


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_environment_sets_the_default() -> None:
    done = run("import alexkern; print(alexkern.current_backend())", ALEXKERN_BACKEND="torch")
    assert done.stdout.strip() == "torch", done.stderr


def test_environment_with_a_wrong_name() -> None:
    done = run("import alexkern", ALEXKERN_BACKEND="tpu")
    assert done.returncode != 0 and "ALEXKERN_BACKEND: backend must be one of auto, cuda, triton, torch" in done.stderr
