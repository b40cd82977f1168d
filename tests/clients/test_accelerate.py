"""accelerate: forwards wrapped for mixed precision and given back, weights that lie elsewhere until a layer runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from support.clients import EVERY, TRAINED, check, images, labels
from support.optional import need

accelerate = need("accelerate")
pytestmark = pytest.mark.full


@pytest.fixture(autouse=True)
def own_state() -> Iterator[None]:
    yield
    accelerate.state.AcceleratorState._reset_state(True)


def test_a_step_and_the_model_behind_it() -> None:
    def run(model: nn.Module) -> list[Any]:
        accelerator = accelerate.Accelerator(cpu=True)
        prepared, optimizer = accelerator.prepare(model.train(), torch.optim.SGD(model.parameters(), lr=0.1))
        accelerator.backward(nn.functional.cross_entropy(prepared(images()), labels()))
        optimizer.step()
        return [accelerator.unwrap_model(prepared)(images()), *model.parameters()]

    check(run, TRAINED)


def test_mixed_precision() -> None:
    """The loss alone: gradients of bfloat16 are rounded elsewhere in a fused run."""

    def run(model: nn.Module) -> list[Any]:
        accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
        prepared = accelerator.prepare(model)
        dtype = prepared(images()).dtype
        return [str(dtype), accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)(images())]

    check(run, EVERY)


@pytest.mark.parametrize("kind", ["cpu", "disk"])
def test_offloaded_weights(kind: str, tmp_path: Path) -> None:
    def run(model: nn.Module) -> torch.Tensor:
        where = {"offload_dir": tmp_path} if kind == "disk" else {}
        getattr(accelerate, f"{kind}_offload")(model, execution_device=torch.device("cpu"), **where)
        with torch.no_grad():
            return model(images())

    check(run)


def test_a_hook_and_its_removal(operators: list[str]) -> None:
    """Its forward is set on the instance; what is put back is the class's own, and the run is fused again."""

    class Double(accelerate.hooks.ModelHook):
        def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return (2 * args[0],), kwargs

    def run(model: nn.Module) -> list[Any]:
        accelerate.hooks.add_hook_to_module(model.features[0], Double())
        doubled = model(images())
        accelerate.hooks.remove_hook_from_module(model.features[0])
        return [doubled, model(images())]

    check(run, TRAINED)
    assert operators.count("conv2d_relu_max_pool2d") == 2 * (1 + 2)
