"""freeze(): the numbers stay, the model stays, and the snapshot is one."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import alexkern
from alexkern.backends import cpu
from alexkern.backends.cpu import crossovers
from alexkern.backends.cpu.packed_linear import (
    EXCHANGED_ROWS,
    FEWEST_ROWS,
    LARGE,
    MOST_ROWS,
    Exchanged,
    FewRows,
)
from alexkern.frozen import FrozenSequential
from alexkern.frozen.convolution import FrozenConvolution
from alexkern.frozen.modules import CHUNK_BYTES
from support.networks import NETWORKS, small_alexnet


def image_for(name: str, batch: int, generator: torch.Generator) -> Tensor:
    _, *shape = NETWORKS[name][1]
    return torch.randn(batch, *shape, generator=generator)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("with_example", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_accuracy_is_unchanged(name: str, with_example: bool, fused: bool, generator: torch.Generator) -> None:
    torch.manual_seed(11)
    model = NETWORKS[name][0]().eval()
    if fused:
        alexkern.fuse(model)
    image = image_for(name, 2, generator)
    frozen = alexkern.freeze(model, image if with_example else None)
    double = copy.deepcopy(model).double()
    for batch in (2, 1, 5) if name == "nested" else (2, 1, 5, 0):  # nested's view(N, -1) takes no empty batch
        image = image_for(name, batch, generator)
        with torch.inference_mode():
            wanted = double(image.double())
            # The rule for operators compares largest errors, which a handful of logits is too few for.
            scale = wanted.abs().max().item() if wanted.numel() else 1.0
            torch.testing.assert_close(frozen(image).double(), wanted, rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype: torch.dtype, generator: torch.Generator) -> None:
    model = small_alexnet().to(dtype).eval()
    image = image_for("alexnet", 2, generator).to(dtype)
    with torch.no_grad():
        wanted = copy.deepcopy(model).double()(image.double()).to(dtype)
        assert alexkern.freeze(model)(image).dtype == dtype
        torch.testing.assert_close(alexkern.freeze(model)(image), wanted, rtol=2e-2, atol=2e-2)


def steps(frozen: nn.Module) -> list[Any]:
    assert isinstance(frozen, FrozenSequential)
    return frozen._current().steps


def test_the_repr_says_what_was_packed() -> None:
    text = repr(alexkern.freeze(small_alexnet()))
    for words in ("(0-2) weight=float32 in oneDNN blocks, relu=True, max_pool=(3, 2, 0)", "(6) weight=", "(3): "):
        assert words in text, text


def test_it_is_a_snapshot_and_the_model_is_untouched(generator: torch.Generator) -> None:
    model = small_alexnet()  # in training mode, which it stays in
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image = image_for("alexnet", 2, generator)
    frozen = alexkern.freeze(model, image)
    first = frozen(image)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert type(model[0]) is nn.Sequential
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(frozen(image), first)


def test_nan_survives_the_relu() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3), nn.ReLU())
    image = torch.tensor([[[[math.nan, 1.0, -1.0, 2.0]]]])
    nn.init.ones_(model[0].weight)
    frozen = alexkern.freeze(model)
    assert frozen[:2](image).isnan().tolist() == [[[[True, False, False, False]]]]
    assert bool(frozen(image).isnan().all())


@pytest.mark.parametrize("channels_last", [False, True])
def test_large_batches_go_in_chunks(
    channels_last: bool, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More activation than one chunk holds: the same numbers as image by image, what follows the poolings included."""
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.LocalResponseNorm(5),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 8, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 1),
        nn.Softmax2d(),
    ).eval()
    image = torch.randn(7, 3, 112, 112, generator=generator)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    frozen = alexkern.freeze(model)
    sizes: dict[Any, list[int]] = {step.modules[0]: [] for step in steps(frozen)}
    call = FrozenConvolution.__call__
    monkeypatch.setattr(
        FrozenConvolution,
        "__call__",
        lambda step, rows, *how: sizes[step.modules[0]].append(len(rows)) or call(step, rows, *how),
    )
    whole = frozen(image)
    chunks = math.ceil(64 * 112 * 112 * 4 * 7 / CHUNK_BYTES)
    assert chunks > 1 and len(sizes[frozen[0]]) == len(sizes[frozen[4]]) == chunks and sum(sizes[frozen[4]]) == 7
    assert sizes[frozen[7]] == [7]
    for index in (0, 3, 6):
        torch.testing.assert_close(whole[index : index + 1], frozen(image[index : index + 1]))
    wanted = model(image)
    torch.testing.assert_close(whole, wanted)
    assert whole.stride() == wanted.stride()
    seen: list[int] = []
    frozen[4].register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))  # sees the batch
    torch.testing.assert_close(frozen(image[:6]), whole[:6])
    assert seen == [6]


class Mixed(nn.Module):
    """What no image has for itself."""

    def forward(self, input: Tensor) -> Tensor:
        return input - input.mean(dim=0, keepdim=True)


@pytest.mark.parametrize("behind", [0, 1])
def test_what_mixes_images_gets_all_of_them(behind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in front of a pooling, and where all else runs image by image."""
    monkeypatch.setattr("alexkern.frozen.modules.CHUNK_BYTES", 1)
    torch.manual_seed(4)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2)][: 2 + behind]
    model = nn.Sequential(*layers, Mixed(), nn.MaxPool2d(2)).eval()
    images = torch.randn(6, 3, 22, 22)
    torch.testing.assert_close(alexkern.freeze(model)(images), model(images), rtol=1e-4, atol=1e-5)


def test_an_average_of_single_pixels_is_passed_on(generator: torch.Generator) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.AdaptiveAvgPool2d((6, 5)), nn.AdaptiveAvgPool2d(3)).eval()
    frozen = alexkern.freeze(model)
    assert type(frozen[1]) is nn.AdaptiveAvgPool2d
    image = torch.randn(2, 2, 6, 5, generator=generator)
    assert frozen[1:2](image) is image
    square = image[..., :3, :3]
    assert frozen[2:](square) is square and frozen[1:2](square) is not square
    for size in ((6, 5), (5, 6), (13, 11)):
        image = torch.randn(2, 2, *size, generator=generator)
        with torch.no_grad():
            torch.testing.assert_close(frozen(image), model(image))
    partly = alexkern.freeze(nn.Sequential(nn.AdaptiveAvgPool2d((None, 2))))
    assert partly(torch.ones(1, 1, 5, 4)).shape == (1, 1, 5, 2)


def test_linear_layers_of_all_batches_read_one_weight_in_huge_pages(generator: torch.Generator) -> None:
    model = nn.Sequential(nn.Linear(1024, 1500), nn.ReLU(), nn.Linear(1500, 3), nn.Linear(3, 2, bias=False)).eval()
    frozen = alexkern.freeze(model)
    large = steps(frozen)[0].weight
    assert large.numel() >= LARGE
    assert torch.equal(large, model[0].weight) and torch.equal(steps(frozen)[1].weight, model[2].weight)
    assert large.data_ptr() % 2**21 == 0 and large.is_contiguous()
    assert large.untyped_storage().data_ptr() != model[0].weight.untyped_storage().data_ptr()
    restored = pickle.loads(pickle.dumps(frozen))
    for snapshot in (frozen, restored):  # which is the child's own
        assert snapshot[0].weight.data_ptr() == steps(snapshot)[0].weight.data_ptr()
        assert snapshot[0].weight.data_ptr() % 2**21 == 0
    for shape in ((1,), (FEWEST_ROWS[torch.float32],), (MOST_ROWS,), (MOST_ROWS + 1,), (2, 3, 2), (0,), (2, 0), ()):
        rows = torch.randn(*shape, 1024, generator=generator)
        with torch.no_grad():
            torch.testing.assert_close(frozen(rows), model(rows))
        assert torch.equal(restored(rows), frozen(rows)) and frozen(rows).is_contiguous()
    rows = torch.randn(1024, 9, generator=generator).t()
    with torch.no_grad():
        torch.testing.assert_close(frozen(rows), model(rows))
    rows[4, 5] = math.nan
    assert frozen[:2](rows).isnan().any(1).tolist() == [index == 4 for index in range(9)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_layers_exchange_their_operands_where_it_pays(
    dtype: torch.dtype, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.Linear(1024, 1500), nn.ReLU(), nn.Linear(1500, 3), nn.ReLU()).to(dtype).eval()
    frozen = alexkern.freeze(model)
    if not any(isinstance(way, Exchanged) for way in steps(frozen)[0].ways):
        pytest.skip(f"oneDNN does not compute in {dtype} on this processor")
    exchanged: list[tuple[int, int]] = []
    own = Exchanged.__call__
    monkeypatch.setattr(
        Exchanged, "__call__", lambda way, rows: exchanged.append((len(way.weight), len(rows))) or own(way, rows)
    )
    fewest = FEWEST_ROWS[dtype]
    monkeypatch.setattr(FewRows, "serves", lambda way, rows: False)
    for count in (0, fewest - 1, fewest, 50, MOST_ROWS, MOST_ROWS + 1):
        rows = torch.randn(count, 1024, generator=generator).to(dtype)
        with torch.no_grad():
            torch.testing.assert_close(frozen(rows), model(rows))
    assert exchanged == [(1500, fewest), (1500, 50), (1500, MOST_ROWS)]  # the second layer is small


@pytest.mark.skipif(cpu.missing("cpu", torch.float32) is not None, reason="the cpu backend is not there")
def test_linear_layers_of_few_rows_are_csrc_cpus(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a ReLU and without, by the crossovers of its table."""
    model = nn.Sequential(nn.Linear(1024, 1500), nn.ReLU(), nn.Linear(1500, 1024, bias=False)).eval()
    frozen = alexkern.freeze(model)
    monkeypatch.setattr(crossovers, "TABLE", {crossovers.measured(): {"forward": ((2**20, ((3, 40),)),)}})
    served: list[int] = []
    own = FewRows.__call__
    monkeypatch.setattr(FewRows, "__call__", lambda way, rows: served.append(len(rows)) or own(way, rows))
    for count in (0, 2, 3, EXCHANGED_ROWS - 1, EXCHANGED_ROWS):
        rows = torch.randn(count, 1024, generator=generator)
        with torch.no_grad():
            torch.testing.assert_close(frozen(rows), model(rows))
    assert served == [3, 3, EXCHANGED_ROWS - 1, EXCHANGED_ROWS - 1]
    with torch.no_grad(), pytest.raises(alexkern.errors.ArgumentError, match="shape"):
        frozen(torch.zeros(8, 1023))


@pytest.mark.parametrize("channels_last", [False, True])
def test_format_is_torchs(channels_last: bool, generator: torch.Generator) -> None:
    model = small_alexnet()[0].eval()
    image = image_for("alexnet", 2, generator)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    assert alexkern.freeze(model)(image).stride() == model(image).stride()
    assert alexkern.freeze(model)(image[0]).stride() == model(image[0]).stride()


def test_pruned_and_padded_modules_run_as_they_are(generator: torch.Generator) -> None:
    model = small_alexnet().eval()
    prune.l1_unstructured(model[0][3], "weight", 0.3)
    image = image_for("alexnet", 1, generator)
    frozen = alexkern.freeze(model)
    with torch.no_grad():
        torch.testing.assert_close(frozen(image), model(image))
    odd = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.ReLU(),
        nn.Conv2d(4, 4, 2, padding="same"),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.MaxPool2d(2, ceil_mode=True),
    ).eval()
    frozen = alexkern.freeze(odd)
    assert [isinstance(step, FrozenConvolution) for step in steps(frozen)] == [False, False, False, True, False]
    image = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(frozen(image), odd(image))


def test_bad_input_says_so() -> None:
    frozen = alexkern.freeze(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    with pytest.raises(alexkern.ArgumentError, match=r"freeze: input must be of 3 channels, got shape \(1, 2, 8, 8\)"):
        frozen(torch.zeros(1, 2, 8, 8))
    with pytest.raises(alexkern.ArgumentError, match="torch.float32 on cpu, as frozen, got torch.float64 on cpu"):
        frozen(torch.zeros(1, 3, 8, 8).double())
    linear = alexkern.freeze(nn.Sequential(nn.Linear(5, 4)))
    with pytest.raises(alexkern.ArgumentError, match=r"of 5 channels, got shape \(2, 4\)"):
        linear(torch.zeros(2, 4))
