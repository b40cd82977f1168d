"""torchao: weights that become subclasses of Tensor, and quantisation of what torch.export captured."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from support.clients import check, images
from support.optional import need

quantization = need("torchao.quantization")
pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(
    "config", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig", "Float8WeightOnlyConfig"]
)
def test_quantize(config: str) -> None:
    def run(model: nn.Module) -> object:
        quantization.quantize_(model, getattr(quantization, config)())
        kinds = {type(module.weight).__name__ for module in model.modules() if isinstance(module, nn.Linear)}
        with torch.no_grad():
            return model(images()), sorted(kinds)

    check(run)


def test_export_prepare_convert() -> None:
    from torchao.quantization.pt2e import quantize_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    def run(model: nn.Module) -> torch.Tensor:
        quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = quantize_pt2e.prepare_pt2e(torch.export.export(model, (images(),)).module(), quantizer)
        prepared(images())
        return quantize_pt2e.convert_pt2e(prepared)(images())

    check(run)
