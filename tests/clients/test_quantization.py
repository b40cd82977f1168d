"""torch.ao.quantization: prepare, calibrate and convert, eager and on an FX graph, dynamic, and aware in training."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from support.clients import TRAINED, check, images, labels

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.ao import quantization
    from torch.ao.quantization import quantize_fx

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    if "x86" not in torch.backends.quantized.supported_engines:
        pytest.skip("this torch has no kernels for quantised numbers on this processor")
    before = torch.backends.quantized.engine
    monkeypatch.setattr(torch.backends.quantized, "engine", "x86" if before == "none" else before)


@pytest.mark.parametrize("fused", [False, True])
def test_eager(fused: bool) -> None:
    def run(model: nn.Module) -> object:
        whole = nn.ModuleList([quantization.QuantStub(), model, quantization.DeQuantStub()])
        whole.eval().qconfig = quantization.get_default_qconfig("x86")
        if fused:
            runs = [["1.features.0", "1.features.1"], ["1.classifier.1", "1.classifier.2"]]
            quantization.fuse_modules(whole, runs, inplace=True)
        for step in (quantization.prepare, quantization.convert):
            whole = step(whole)
            quant, inner, dequant = whole
            result = dequant(inner(quant(images())))
        return result

    check(run)


def test_dynamic() -> None:
    check(lambda model: quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)(images()))


def test_on_a_graph() -> None:
    def run(model: nn.Module) -> object:
        mapping = quantization.get_default_qconfig_mapping("x86")
        prepared = quantize_fx.prepare_fx(model, mapping, (images(),))
        prepared(images())
        return quantize_fx.convert_fx(prepared)(images())

    check(run)


def test_aware_in_training() -> None:
    def run(model: nn.Module) -> object:
        model.train().qconfig = quantization.get_default_qat_qconfig("x86")
        prepared = quantization.prepare_qat(model)
        loss = nn.functional.cross_entropy(prepared(images()), labels())
        loss.backward()
        return loss, [parameter.grad for parameter in prepared.parameters()]

    check(run, TRAINED)
