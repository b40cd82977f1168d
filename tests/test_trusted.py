"""What `auto` takes on a GPU: what a record says is right there, and of that the fastest. No GPU is needed."""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import alexkern
from alexkern import dispatch, trusted, verified
from alexkern.ops.registry import OPERATORS

CHIP = "NVIDIA H200"
GPU = torch.device("cuda", 0)
RIGHT: dict[str, Any] = {"passed": True, "failure": None, "ms": {}, "torch_ms": {}}
WRONG = RIGHT | {"passed": False, "failure": "FAILED: wrong: output of ragged in float32: error 2.00, allowed 1.00"}
Known = dict[str, dict[str, Any]]


def timed(ms: dict[str, float], torch_ms: dict[str, float]) -> dict[str, Any]:
    return RIGHT | {"ms": ms, "torch_ms": torch_ms}


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A GPU that both backends could serve, of which nothing is known."""
    monkeypatch.delenv("ALEXKERN_DISABLE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: CHIP)
    for backend in ("alexkern.backends.cuda", "alexkern.kernels"):
        monkeypatch.setattr(f"{backend}.missing", lambda device_type, dtype: None)
    monkeypatch.setattr(verified, "record", lambda device: None)
    monkeypatch.setattr(verified, "COMMITTED", tmp_path)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[[Known], list[torch.device]]:
    """Lets `alexkern verify` have found something; the devices whose record is read afterwards."""

    def found(operators: Known) -> list[torch.device]:
        read: list[torch.device] = []
        record = {"identity": {}, "operators": operators}
        monkeypatch.setattr(verified, "record", lambda device: read.append(device) or record)
        dispatch.forget()
        return read

    return found


def commit(folder: Path, operators: Known, chip: str = CHIP) -> None:
    (folder / "nvidia-h200.json").write_text(json.dumps({"identity": {"chip": chip}, "operators": operators}))
    dispatch.forget()


def taken(operator: str = "conv2d_relu", dtype: torch.dtype = torch.bfloat16) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = dispatch.serving("auto", operator, GPU, dtype)
        tensor: Any = SimpleNamespace(device=GPU, dtype=dtype)
        with alexkern.backend("auto"):
            assert dispatch.resolve(operator, tensor).__name__ == f"{dispatch.PACKAGES[name]}.{operator}"
            assert dispatch.resolve_name(operator, tensor) == name
    return name


def reasons(operator: str = "conv2d_relu", dtype: torch.dtype = torch.bfloat16) -> dict[str, str | None]:
    return dispatch.why_not(operator, GPU, dtype, dispatch._arithmetic(operator, dtype))


def test_until_it_is_verified_torch_serves_and_says_so_once() -> None:
    words = rf"^alexkern.dropout is served by torch's own operators \(cuda, triton: {trusted.UNVERIFIED}\)$"
    with pytest.warns(UserWarning, match=words) as caught:
        for operator in ("dropout", *OPERATORS):
            for dtype in (torch.float32, torch.float16):
                assert dispatch.serving("auto", operator, GPU, dtype) == "torch"
    assert len(caught) == 1 and "alexkern verify" in str(caught[0].message)


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_by_name_it_is_taken_in_any_case(backend: str, found: Callable[[Known], Any]) -> None:
    found({"dropout": {backend: WRONG}})
    for operator in ("dropout", "conv2d_relu"):
        assert dispatch.serving(backend, operator, GPU, torch.float32) == backend


def test_what_passed_is_taken_for_that_operator_alone(found: Callable[[Known], Any]) -> None:
    found({"conv2d_relu": {"triton": RIGHT, "cuda": WRONG, "torch": RIGHT}, "dropout": {"torch": RIGHT}})
    assert taken() == "triton" and taken("dropout") == taken("max_pool2d") == "torch"
    assert reasons() == {
        "cuda": "wrong on this GPU: output of ragged in float32: error 2.00, allowed 1.00",
        "triton": None,
        "torch": "not timed here in bfloat16: triton comes first",
    }
    found({"conv2d_relu": {"triton": RIGHT, "cuda": RIGHT}})
    assert taken() == "cuda"
    assert reasons()["triton"] == "not timed here in bfloat16: cuda comes first"


def test_the_fastest_of_them_torch_included(found: Callable[[Known], Any]) -> None:
    theirs = {"bfloat16": 1.0, "float16": 1.0}
    cuda = timed({"bfloat16": 1.234, "float16": 0.4}, theirs)
    triton = timed({"bfloat16": 1.1, "float16": 0.5}, {"bfloat16": 1.04, "float16": 0.45})
    found({"conv2d_relu": {"cuda": cuda, "triton": triton}})
    assert taken() == "torch" and taken(dtype=torch.float16) == "cuda"
    assert reasons() == {
        "cuda": "slower here: 1.23 ms, torch 1",
        "triton": "slower here: 1.1 ms, torch 1",
        "torch": None,
    }
    assert reasons(dtype=torch.float16) == {
        "cuda": None,
        "triton": "slower here: 0.5 ms, cuda 0.4",
        "torch": "slower here: 0.45 ms, cuda 0.4",
    }
    found({"conv2d_relu": {"cuda": cuda | {"passed": False}, "triton": triton}})
    assert taken(dtype=torch.float16) == "torch"
    dispatch._warned.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch is faster: nothing to say
        dispatch.serving("auto", "conv2d_relu", GPU, torch.float16)


@pytest.mark.parametrize(("operator", "is_conv"), [("conv2d_relu", True), ("linear_relu_dropout", False)])
def test_float32_as_torch_multiplies_it_now(operator: str, is_conv: bool, found: Callable[[Known], Any]) -> None:
    ms, theirs = {"float32": 2.0, "tf32": 0.5}, {"float32": 1.0, "tf32": 1.0}
    read = found({name: {"triton": timed(ms, theirs)} for name in (operator, "dropout")})
    settings: tuple[Any, ...] = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [setting.fp32_precision for setting in settings]
    try:
        for ours, others in (("ieee", "tf32"), ("tf32", "ieee"), ("ieee", "ieee")):
            conv, matmul = (ours, others) if is_conv else (others, ours)
            settings[0].fp32_precision, settings[1].fp32_precision = conv, matmul
            assert taken(operator, torch.float32) == ("triton" if ours == "tf32" else "torch")
            assert taken("dropout", torch.float32) == "torch"  # which multiplies nothing
        assert read == [GPU]
        found({operator: {"cuda": timed({"float32": 0.1, "tf32": 0.1}, theirs)}})
        assert taken(operator, torch.float32) == "cuda"
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


def test_a_record_is_read_once_and_again_when_told(found: Callable[[Known], Any]) -> None:
    assert taken() == "torch"
    read = found({"conv2d_relu": {"cuda": RIGHT}})
    for operator in OPERATORS:
        taken(operator)
    assert read == [GPU] and taken() == "cuda"
    verified.record = lambda device: None  # type: ignore[assignment]  # the fixture puts it back
    assert taken() == "cuda"
    dispatch.forget()
    assert taken() == "torch"


def test_a_record_in_the_tree(tmp_path: Path, found: Callable[[Known], Any]) -> None:
    commit(tmp_path, {"conv2d_relu": {"cuda": RIGHT}, "dropout": {"cuda": RIGHT}})
    assert taken() == taken("dropout") == "cuda" and taken("max_pool2d") == "torch"
    found({"conv2d_relu": {"cuda": WRONG}})  # the user's own counts for more
    assert taken() == "torch" and taken("dropout") == "cuda"
    commit(tmp_path, {"dropout": {"cuda": RIGHT}}, chip="NVIDIA H100")
    assert taken("dropout") == "torch"
    (tmp_path / "nvidia-h200.json").write_text("{")
    dispatch.forget()
    assert taken("dropout") == "torch"


def test_the_records_in_the_tree_are_of_the_chips_they_are_called_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for path in verified.COMMITTED.glob("*"):
        chip = json.loads(path.read_text())["identity"]["chip"]
        assert path.name == f"{verified._slug(chip)}.json" and verified.committed(chip)


def test_augment_is_taken_once_it_has_passed(found: Callable[[Known], Any]) -> None:
    """Of what there is only once: its Triton kernel."""
    assert taken("augment") == "torch" and reasons("augment")["triton"] == trusted.UNVERIFIED
    assert reasons("augment")["cuda"] == "this version of alexkern has no cuda kernel for augment"
    found({"augment": {"triton": RIGHT}})
    assert taken("augment") == "triton"
    found({"augment": {"triton": timed({"float32": 2.0, "float16": 0.5}, {"float32": 1.0, "float16": 1.0})}})
    assert taken("augment", torch.float32) == "torch" and taken("augment", torch.float16) == "triton"
    found({"augment": {"triton": WRONG}})
    assert taken("augment") == "torch" and reasons("augment")["triton"].startswith("wrong on this GPU: ")


def test_a_fake_tensor_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: pytest.fail("CUDA was asked"))
    assert taken() == "torch"


@pytest.mark.parametrize("off", ["cuda", "cuda.conv2d_relu"])
def test_switched_off(off: str, found: Callable[[Known], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    found({operator: {"cuda": RIGHT, "triton": RIGHT} for operator in OPERATORS})
    monkeypatch.setenv("ALEXKERN_DISABLE", off)
    assert taken() == "triton" and reasons()["cuda"] == "switched off by ALEXKERN_DISABLE"
    with pytest.raises(alexkern.BackendUnavailable, match="conv2d_relu.*cuda.*: switched off by ALEXKERN_DISABLE$"):
        dispatch.serving("cuda", "conv2d_relu", GPU, torch.float32)
    assert taken("dropout") == ("triton" if off == "cuda" else "cuda")
    monkeypatch.setenv("ALEXKERN_DISABLE", f"{off},triton")
    dispatch.forget()
    assert taken() == "torch"


def test_a_switch_for_no_operator_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXKERN_DISABLE", "triton.augment,cuda.conv2d,triton")
    with pytest.warns(
        UserWarning, match="^ALEXKERN_DISABLE: cuda.conv2d switches nothing off: .*, conv2d_relu,"
    ) as caught:
        dispatch.check_disabled(alexkern.functional.__all__)
    assert len(caught) == 1


def test_info_shows_it(found: Callable[[Known], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    info = sys.modules["alexkern.info"]
    monkeypatch.setattr(info, "_gpus", lambda smi: (CHIP,))
    monkeypatch.setenv("ALEXKERN_DISABLE", "cuda.max_pool2d")
    slow = timed({"float16": 0.5, "bfloat16": 1.2}, {"float16": 1.0, "bfloat16": 1.0})
    found({"conv2d_relu": {"triton": slow}, "dropout": {"cuda": WRONG}})
    report = alexkern.info()
    assert json.loads(json.dumps(dataclasses.asdict(report)))["services"]
    served = {(one.operator, one.dtypes): one.backend for one in report.services}
    assert served["conv2d_relu", ("float16",)] == "triton" and served["conv2d_relu", ("bfloat16",)] == "torch"
    assert served["dropout", ()] == served["max_pool2d", ()] == "torch"
    unverified = f"  not by cuda: {trusted.UNVERIFIED}\n"
    for lines in (
        f"\nconv2d_relu in bfloat16\n  served by torch\n{unverified}  not by triton: slower here: 1.2 ms, torch 1\n",
        f"\nconv2d_relu in float16\n  served by triton\n{unverified}  not by torch: slower here: 1 ms, triton 0.5\n",
        "\ndropout\n  served by torch\n  not by cuda: wrong on this GPU: output of ragged in float32: error 2.00",
        "\nmax_pool2d\n  served by torch\n  not by cuda: switched off by ALEXKERN_DISABLE\n",
    ):
        assert lines in f"{report}\n"
