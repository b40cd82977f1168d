"""Batch normalisation in a snapshot: folded into the run alone, in float64 before the one rounding."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import alexkern
from alexkern.accuracy import assert_accurate
from alexkern.frozen.convolution import FrozenConvolution
from support.backends import DEVICE

# Conv2d's arguments, what follows the normalisation, and whether that is affine.
CASES: dict[str, tuple[dict[str, Any], list[type[nn.Module]], bool]] = {
    "pooled": ({"kernel_size": 3, "padding": 1}, [nn.ReLU, nn.MaxPool2d], True),
    "no bias": ({"kernel_size": 5, "padding": "same", "bias": False}, [nn.ReLU], True),
    "groups": ({"kernel_size": (3, 2), "stride": (2, 1), "groups": 4}, [], True),
    "not affine": ({"kernel_size": 3, "dilation": 2}, [nn.ReLU], False),
    "bare": ({"kernel_size": 1, "bias": False}, [], False),
}


def network(case: str, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """With statistics as of a trained one: far from 0 and 1, a negative scale among them."""
    torch.manual_seed(6)
    arguments, rest, affine = CASES[case]
    norm = nn.BatchNorm2d(32, eps=1e-3, affine=affine)
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.normal_(0, 0.5)
    norm.running_var.uniform_(0.05, 3)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    behind = [kind(2) if kind is nn.MaxPool2d else kind() for kind in rest]  # type: ignore[call-arg]
    return nn.Sequential(nn.Conv2d(16, 32, **arguments), norm, *behind, nn.Conv2d(32, 3, 1)).to(DEVICE, dtype).eval()


def normalisations(model: nn.Module, image: Tensor) -> int:
    """How many batch normalisations torch's profiler sees in a call."""
    with profile(activities=[ProfilerActivity.CPU]) as seen, torch.no_grad():
        model(image)
    return sum(event.name == "aten::batch_norm" for event in seen.events())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_it_is_folded(case: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    model = network(case, dtype)
    frozen = alexkern.freeze(model)
    image = torch.randn(3, 16, 11, 12, generator=generator).to(DEVICE, dtype)
    for piece in (slice(None, -1), slice(None)):
        with torch.no_grad():
            exact = copy.deepcopy(model[piece]).double()(image.double())
            wanted, found = model[piece](image), frozen[piece](image)
        if dtype == torch.float64:  # for which the reference is no better
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        else:
            assert_accurate(found, exact, wanted)
        assert found.stride() == wanted.stride()
    assert (normalisations(model, image), normalisations(frozen, image)) == (1, 0)
    value = image
    for layer, child in zip(model, frozen, strict=True):  # called one by one
        assert type(child) is type(layer) and torch.equal(child(value), layer(value))
        value = layer(value)
    torch.testing.assert_close(frozen.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("part", ["weight", "bias", "running_mean", "running_var"])
def test_what_is_loaded_is_folded_again(part: str, generator: torch.Generator) -> None:
    model = network("pooled")
    frozen = alexkern.freeze(model)
    image = torch.randn(2, 16, 9, 9, generator=generator).to(DEVICE)
    before = frozen(image)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state[f"1.{part}"] += 0.5
    for network_ in (model, frozen):
        network_.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(frozen(image), model(image))
    assert not torch.allclose(frozen(image), before, atol=1e-3)
    assert normalisations(frozen, image) == 0


def test_one_that_is_more_than_a_scale_and_a_shift_stays(generator: torch.Generator) -> None:
    image = torch.randn(4, 16, 9, 9, generator=generator).to(DEVICE)

    def frozen_and_model(norm: nn.Module | None = None) -> tuple[nn.Sequential, nn.Sequential]:
        model = network("pooled")
        model[1] = model[1] if norm is None else norm.to(DEVICE).eval()
        return alexkern.freeze(model), model

    class Own(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + 1

    for norm in (nn.BatchNorm2d(32, track_running_stats=False), Own(32)):
        frozen, model = frozen_and_model(norm)
        torch.testing.assert_close(frozen(image), model(image))
        assert normalisations(frozen, image) == 1
    frozen, model = frozen_and_model()  # in training mode, set on it alone: its statistics go on
    for network_ in (frozen, model):
        network_[1].train()
        network_[1].requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(frozen(image), model(image))
    torch.testing.assert_close(frozen[1].running_mean, model[1].running_mean)
    assert frozen[1].num_batches_tracked == 1
    frozen, model = frozen_and_model()  # watched
    seen: list[Tensor] = []
    handle = frozen[1].register_forward_hook(lambda _, args, output: seen.extend((args[0].clone(), output.clone())))
    assert normalisations(frozen, image) == 1
    torch.testing.assert_close(seen[1], model[:2](image))
    handle.remove()
    assert normalisations(frozen, image) == 0


def test_the_first_convolution_takes_bytes_with_it(generator: torch.Generator) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 8, 11, 4, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2)).eval()
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    model = model.to(DEVICE)
    frozen = alexkern.freeze(model, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    (step,) = frozen._current().steps
    assert isinstance(step, FrozenConvolution) and step.images is not None and step.images.in_depth is not None
    images = torch.randint(256, (2, 3, 43, 47), generator=generator, dtype=torch.uint8).to(DEVICE)
    mean, std = (torch.tensor(row, device=DEVICE).view(3, 1, 1) for row in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    with torch.no_grad():
        wanted = model((images / 255 - mean) / std)
        torch.testing.assert_close(frozen(images), wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(frozen[:3](images), model[:3]((images / 255 - mean) / std), rtol=1e-4, atol=1e-4)
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):  # and with the children one by one
            torch.testing.assert_close(frozen(images), model((images / 255 - mean) / std))
        frozen[0].register_forward_hook(lambda *_: None)
        torch.testing.assert_close(frozen(images), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_folded_behind_a_linear_layer(bias: bool, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Of rows. Of sequences it normalises another dimension, which is as long here."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(40, 24, bias), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 3))
    nn.init.normal_(model[1].running_mean)  # type: ignore[arg-type]
    nn.init.uniform_(model[1].running_var, 0.1, 2)  # type: ignore[arg-type]
    nn.init.normal_(model[1].weight)  # type: ignore[arg-type]
    model = model.to(DEVICE, dtype).eval()
    frozen = alexkern.freeze(model)
    for shape, norms in (((5, 40), 0), ((2, 24, 40), 1)):
        rows = torch.randn(shape, generator=generator).to(DEVICE, dtype)
        with torch.no_grad():
            exact, wanted = copy.deepcopy(model).double()(rows.double()), model(rows)
            if dtype == torch.float64:
                torch.testing.assert_close(frozen(rows), wanted, rtol=1e-12, atol=1e-12)
            else:
                assert_accurate(frozen(rows), exact, wanted)
        assert normalisations(frozen, rows) == norms
    assert torch.equal(frozen[0].weight, model[0].weight)
    with torch.no_grad():
        for network_ in (frozen, model):
            network_[1].bias.add_(1)  # type: ignore[operator,union-attr]
        rows = rows[0]
        torch.testing.assert_close(frozen(rows), model(rows), rtol=2e-2, atol=2e-2)
