"""Which backend serves a call, and how that is chosen."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import alexkern
from alexkern import dispatch
from alexkern.backends import extension
from alexkern.backends.torch import conv2d_relu as reference
from alexkern.ops.registry import OPERATORS
from support.routes import Transparent


def test_context_manager_restores_also_after_an_error() -> None:
    before = alexkern.current_backend()
    with pytest.raises(KeyError), alexkern.backend("torch"):
        assert alexkern.current_backend() == "torch"
        raise KeyError
    assert alexkern.current_backend() == before


def test_set_backend() -> None:
    before = alexkern.current_backend()
    alexkern.set_backend("torch")
    assert dispatch.resolve("conv2d_relu", torch.zeros(1)) is reference
    alexkern.set_backend(before)


def test_auto_serves_a_cpu_tensor_by_cpu_and_else_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(dtype: torch.dtype = torch.float32) -> str:
        dispatch.forget()
        return dispatch.resolve("conv2d_relu", torch.zeros(1, dtype=dtype)).__name__

    ours = "torch" if extension.cpu.module is None else "cpu"
    with alexkern.backend("auto"):
        assert taken() == f"alexkern.backends.{ours}.conv2d_relu"
        assert taken(torch.float64) == taken(torch.float16) == "alexkern.backends.torch.conv2d_relu"
        monkeypatch.setenv("ALEXKERN_DISABLE", "cpu.conv2d_relu")
        assert taken() == "alexkern.backends.torch.conv2d_relu"
        monkeypatch.undo()
        monkeypatch.setattr(extension.cpu, "module", None)
        assert taken() == "alexkern.backends.torch.conv2d_relu"
    dispatch.forget()


@pytest.mark.parametrize(("name", "dtype"), [("cpu", torch.float64), ("cpu", torch.float16), ("triton", torch.float64)])
def test_a_backend_by_name_serves_no_other_dtypes(name: str, dtype: torch.dtype) -> None:
    if name == "triton" and dispatch.missing("triton", "dropout", "cpu", torch.float32) is not None:
        pytest.skip("no Triton here")
    with alexkern.backend(name):
        with pytest.raises(alexkern.BackendUnavailable, match=f"dropout: backend '{name}' is not available: .*{dtype}"):
            alexkern.functional.dropout(torch.zeros(3, dtype=dtype))


@pytest.mark.parametrize("name", list(OPERATORS))
def test_under_compile_auto_leaves_a_cpu_to_torch(name: str) -> None:
    with alexkern.backend("auto"):
        assert dispatch.left_to_compiler(name, torch.zeros(1))
    if extension.cpu.module is not None:
        with alexkern.backend("cpu"):
            assert not dispatch.left_to_compiler(name, torch.zeros(1))


def test_absent_backend_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dispatch.PACKAGES, "cuda", "alexkern.no_such_backend")
    monkeypatch.setattr(dispatch, "_resolved", {})
    with (
        alexkern.backend("cuda"),
        pytest.raises(alexkern.BackendUnavailable, match="conv2d_relu.*cuda.*no cuda kernel"),
    ):
        alexkern.functional.conv2d_relu(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 1, 1))


def test_auto_warns_once_when_it_falls_back_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_warned", set())
    monkeypatch.setattr(dispatch, "missing", lambda name, *_: None if name == "torch" else "not here")
    gpu, others = torch.device("cuda"), ((torch.device("cpu"), torch.float32), (torch.device("cuda"), torch.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch is what serves these
        assert all(dispatch.serving("auto", "conv2d_relu", *other) == "torch" for other in others)
    with pytest.warns(UserWarning, match=r"conv2d_relu is served by torch's own operators \(cuda, triton: not here\)"):
        assert dispatch.serving("auto", "conv2d_relu", gpu, torch.float32) == "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dispatch.serving("auto", "conv2d_relu", gpu, torch.float32) == "torch"
        assert dispatch.serving("auto", "dropout", gpu, torch.float32) == "torch"


def test_explain_names_every_operator() -> None:
    rows = dispatch.explain(OPERATORS, torch.device("cpu"))
    assert [row.operator for row in rows] == list(OPERATORS)
    taken, other = ("torch", "cpu") if extension.cpu.module is None else ("cpu", "torch")
    for row in rows:
        assert (row.backend, row.dtypes) == (taken, ())
        assert set(row.why_not) == {other, "cuda", "triton"} and all(row.why_not.values())


def test_environment_sets_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXKERN_BACKEND", "torch")
    command = [sys.executable, "-c", "import alexkern; print(alexkern.current_backend())"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "torch\n"


def test_a_wrong_name_is_an_error_that_lists_the_right_ones() -> None:
    before = alexkern.current_backend()
    with pytest.raises(ValueError, match="backend must be one of auto, cpu, cuda, triton, torch, got 'tpu'"):
        alexkern.set_backend("tpu")
    with pytest.raises(ValueError, match="got 'tpu'"), alexkern.backend("tpu"):
        pass
    assert alexkern.current_backend() == before


def test_a_type_checker_knows_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dispatch.BACKENDS == ("auto", *dispatch.PACKAGES)
    mypy = pytest.importorskip("mypy.api")
    head = "from alexkern.dispatch import backend, current_backend, set_backend\n"
    right = [f"set_backend({name!r})\nwith backend({name!r}): ..." for name in dispatch.BACKENDS]
    (tmp_path / "right.py").write_text(head + "\n".join([*right, "set_backend(current_backend())"]))
    (tmp_path / "wrong.py").write_text(f"{head}set_backend('tpu')\nwith backend(str()): ...\n")
    # Only the modules that say it: all of torch would take a minute.
    shown = [f"[mypy-alexkern.{name}]\nfollow_imports = silent\n" for name in ("dispatch", "_environment")]
    (tmp_path / "mypy.ini").write_text("".join(["[mypy]\nfollow_imports = skip\n", *shown]))
    monkeypatch.setenv("MYPYPATH", str(Path(alexkern.__path__[0]).parent))
    monkeypatch.chdir(tmp_path)
    options = ["--config-file=mypy.ini", "--cache-dir=cache", "--no-error-summary"]
    output, errors, _ = mypy.run([*options, "right.py", "wrong.py"])
    assert not errors
    assert [line.partition(": ")[0] for line in output.splitlines()] == ["wrong.py:2", "wrong.py:3"]
    assert all("[arg-type]" in line and "Literal['auto'" in line for line in output.splitlines())


@pytest.mark.parametrize("backend", dispatch.PACKAGES)
@pytest.mark.parametrize("name", OPERATORS)
def test_backends_take_the_same_arguments(name: str, backend: str) -> None:
    """Those of the operator's schema: of the backward behind the gradient, and before what is wanted."""
    assert dispatch.absent(backend, name) is None
    module, operator = dispatch.implementation(backend, name), OPERATORS[name]
    for function, schema, more in (
        (module.forward, operator.schema, 0),
        (module.backward, operator.backward_schema, 2),
    ):
        inspect.signature(function).bind(*[None] * (schema.count(",") + 1 + more))


def test_a_call_is_direct_where_nothing_comes_between(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.ones(2)
    assert dispatch.is_direct(plain) and not dispatch.is_direct(torch.nn.Parameter(plain))
    with Transparent():
        assert not dispatch.is_direct(plain)
        with Transparent():
            assert not dispatch.is_direct(plain)
    with torch.autocast("cpu", torch.bfloat16):
        assert not dispatch.is_direct(plain)
    found: list[bool] = []
    torch.func.vmap(lambda row: found.append(dispatch.is_direct(plain)) or row)(torch.ones(2, 2))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert found == [False] and not dispatch.is_direct(plain)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_backend_is_handed_tuples_by_the_dispatcher_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose own are lists, which no table of geometries takes for a key."""
    operator, definition, seen = OPERATORS[name], dispatch.definition(name), []

    def noting(call: Any) -> Any:
        return lambda *args: seen.extend(args) or call(*args)

    for direction in ("forward", "backward"):
        monkeypatch.setattr(definition, direction, noting(getattr(definition, direction)))
    case = operator.example
    tensors = [torch.randn(shape, requires_grad=True) for shape in case.shapes]
    seed = (torch.zeros(2, dtype=torch.int64),) if case.seeded else ()
    outputs = operator.dispatched("torch", *tensors, *seed, *operator.training(case.backend))
    (outputs[0] if operator.has_offsets else outputs).sum().backward()
    assert list not in map(type, seen) and tensors[0].grad is not None
