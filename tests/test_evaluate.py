"""`alexkern evaluate`, `train --init` and `train --dry-run`: known counts, known weights, and nothing written."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from alexkern import cli
from alexkern.commands import evaluate as command
from alexkern.models import ImageClassification, read_weights, save_weights
from alexkern.training.confusion import Confusion
from support.optional import need
from support.pinned import hold
from support.tiny import CLASSES, OPTIONS, tiny, write_images

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture
def run(capsys: pytest.CaptureFixture):
    def run(*arguments: object) -> tuple[int, str, list[str]]:
        status = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err.splitlines()

    return run


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network that takes all images for green, then blue."""
    torch.manual_seed(1)
    model = tiny(num_classes=3).eval()
    with torch.no_grad():
        model.classifier[6].weight.zero_()
        model.classifier[6].bias.copy_(torch.tensor([1.0, 2.0, 0.0]))
    model.classes, model.preprocessing = CLASSES, ImageClassification(63, 64)
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_weights(model, path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four of blue and green, none of red, of which one is damaged."""
    folder = write_images(tmp_path_factory.mktemp("images"), 4, ("blue", "green"))
    (folder / "green" / "bad.png").write_text("no image")
    return folder


LOSS = 0.5 * (torch.tensor([1.0, 2.0, 0.0]).logsumexp(0) * 2 - 3).item()


def test_counts_by_class(run, weights: Path, images: Path, tmp_path: Path) -> None:
    status, output, errors = run("evaluate", weights, images, "--json", "--workers", 0, "--batch-size", 3)
    assert status == 1
    assert errors == [f"alexkern evaluate: {images}/green/bad.png: not an image; left out"]
    found = json.loads(output)
    assert found.pop("loss") == pytest.approx(LOSS, rel=1e-5)
    assert found == {
        "weights": str(weights), "data": str(images), "images": 8, "top1": 0.5, "top5": 1.0,
        "classes": [
            {"class": "blue", "images": 4, "top1": 0.0, "top5": 1.0},
            {"class": "green", "images": 4, "top1": 1.0, "top5": 1.0},
            {"class": "red", "images": 0, "top1": None, "top5": None},
        ],
        "confusion": [[0, 4, 0], [0, 4, 0], [0, 0, 0]],
        "damaged": [{"path": f"{images}/green/bad.png", "error": "not an image"}],
    }  # fmt: skip
    (tmp_path / "blue").symlink_to(images / "blue")
    (tmp_path / "red").symlink_to(images / "green")
    (images / "green" / "bad.png").rename(tmp_path / "bad")
    status, output, errors = run("evaluate", weights, tmp_path, "--workers", 1)
    (tmp_path / "bad").rename(images / "green" / "bad.png")
    assert (status, errors) == (0, [])
    assert re.match(r"8 images: loss [\d.]+, top-1 0.0%, top-5 100.0%\n\nclass +images", output)
    assert re.search(r"red +4 +0.0% +100.0% +green \(4\)$", output)


def test_a_batch_without_an_image_is_passed_over(run, weights: Path, images: Path) -> None:
    bad, first = images / "green" / "bad.png", images / "blue" / "0.png"
    aside = first.rename(images / "aside")
    bad.rename(first)
    status, output, _ = run("evaluate", weights, images, "--json", "--workers", 0, "--batch-size", 1)
    first.rename(bad)
    aside.rename(first)
    assert status == 1 and json.loads(output)["images"] == 7


def test_it_is_trainings_own_evaluation(run, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 6)
    status, output, _ = run("train", images, "--val", images, *OPTIONS, "--epochs", 1, "--out", tmp_path / "run")
    line = re.search(r"validation loss ([\d.]+), top-1 ([\d.]+)%", output)
    status, output, _ = run("evaluate", tmp_path / "run" / "model.safetensors", images, "--workers", 0)
    assert status == 0 and output.startswith(f"18 images: loss {line[1]}, top-1 {line[2]}%, top-5 100.0%\n")


def test_the_table_is_as_pinned() -> None:
    counts = torch.tensor([[7, 2, 1, 0], [0, 3, 0, 0], [0, 0, 0, 0], [2, 1, 2, 0]])
    found = Confusion(("a", "b\x1b", "nobody", "d"), counts, torch.tensor([10, 3, 0, 4]), 0.123456)
    hold("evaluate", command._text(found).splitlines())
    data = found.as_data()
    assert (data["images"], data["loss"], data["top1"], data["top5"]) == (18, 0.123456, 10 / 18, 17 / 18)
    assert data["classes"][0] == {"class": "a", "images": 10, "top1": 0.7, "top5": 1.0}
    assert math.isnan(data["classes"][2]["top1"]) and math.isnan(data["classes"][2]["top5"])
    assert data["confusion"] == counts.tolist()
    assert command._text(Confusion(("a",), torch.zeros(1, 1), torch.zeros(1), math.nan)) == "no image can be read"


def test_what_is_wrong_with_a_step_is_a_line(run, weights: Path, images: Path, monkeypatch) -> None:
    fails = mock.Mock(side_effect=RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    monkeypatch.setattr(command, "confusion", fails)
    status, output, errors = run("evaluate", weights, images, "--workers", 0)
    assert (status, output, len(errors)) == (1, "", 1) and "a smaller --batch-size needs less" in errors[0]


def test_a_picture(run, weights: Path, images: Path, tmp_path: Path) -> None:
    need("matplotlib")
    run("evaluate", weights, images, "--confusion", tmp_path / "c.svg", "--workers", 0)
    assert ">green<" in (tmp_path / "c.svg").read_text()


@pytest.mark.parametrize("count", [2, 30, 100, 101])
def test_a_picture_looks_as_is_pinned(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With names up to a hundred classes."""
    figures = need("matplotlib.figure")
    from support import drawn

    saved: list[tuple[Any, ...]] = []
    monkeypatch.setattr(figures.Figure, "savefig", lambda figure, path, **how: saved.append((figure, path, how)))
    counts = torch.eye(count, dtype=torch.int64) * torch.tensor([3] * (count - 1) + [0])
    counts[0, 1] = 1
    Confusion([f"c{n}" for n in range(count)], counts, torch.zeros(count), 0.0).draw(Path("a.png"))
    ((figure, path, how),) = saved
    assert (path, how) == (Path("a.png"), {"dpi": 150})
    side = min(max(4, count / 4), 24)
    axes, names = figure.axes[0], [f"c{n}" for n in range(count)]
    assert figure.get_size_inches().tolist() == [side + 1, side]
    for axis in (axes.xaxis, axes.yaxis):
        assert ([label.get_text() for label in axis.get_ticklabels()] == names) is (count <= 100)
    if count == 2:
        hold("confusion", drawn.lines(figure))


def test_what_cannot_be_evaluated(run, weights: Path, images: Path, tmp_path: Path, monkeypatch) -> None:
    other = write_images(tmp_path / "other", 1, ("blue", "violet"))
    bare = tmp_path / "bare.pth"
    torch.save(read_weights(weights).state_dict, bare)
    for arguments, words in (
        ((weights, tmp_path / "none"), "none: no such folder or list file"),
        ((weights, other), "class 'violet' is not one of the 3"),
        ((bare, images), f"{images}: 2 classes, but the network has 3, without names"),
        ((tmp_path / "none.pth", images), "no such file"),
        ((weights, images, "--confusion", tmp_path / "c.doc"), "--confusion "),
        ((weights, images, "--device", "toaster"), "--device toaster: "),
    ):
        status, _, errors = run("evaluate", *arguments, "--workers", 0)
        assert status == 2 and errors[-1].startswith("alexkern evaluate: ") and words in errors[-1], errors
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, output, errors = run("evaluate", weights, images, "--confusion", tmp_path / "c.svg", "--workers", 0)
    assert status == 1 and output and "pip install 'alexkern[pictures]'" in errors[-1]


# Training's


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"), 6)


NOTHING = (*OPTIONS, "--epochs", 1, "--learning-rate", 0)


@pytest.mark.parametrize("classes, new", [(CLASSES, False), (("a", "b", "c"), True), (tuple("abcdefg"), True)])
def test_init(classes: tuple[str, ...], new: bool, run, weights: Path, data: Path, tmp_path: Path) -> None:
    torch.manual_seed(8)
    model = tiny(num_classes=len(classes))
    model.classes = classes
    save_weights(model, tmp_path / "first.safetensors")
    status, output, errors = run("train", data, *NOTHING, "--init", tmp_path / "first.safetensors", "--out", tmp_path)
    assert (status, errors) == (0, [])
    said = "classifier.6 is new, the other layers are" if new else "all layers are"
    assert f"{tmp_path}/first.safetensors: {said} the file's\n" in output
    found = read_weights(tmp_path / "model.safetensors").state_dict
    for name, tensor in model.state_dict().items():
        assert torch.equal(found[name], tensor) != (new and name.startswith("classifier.6")), name


def test_init_that_does_not_fit(run, data: Path, tmp_path: Path) -> None:
    model = tiny(num_classes=3)
    model.features[3] = torch.nn.Conv2d(8, 9, 3)
    torch.save(model.state_dict(), tmp_path / "other.pth")
    for arguments, words in (
        (("--init", tmp_path / "other.pth"), "--init: alexnet: weights .* are of another network"),
        (("--init", "none.pth"), "--init: weights 'none.pth': no such file"),
        (("--init", "none.pth", "--resume"), "wanted --init or --resume"),
    ):
        status, _, errors = run("train", data, *NOTHING, *arguments, "--out", tmp_path / "run")
        assert status == 2 and len(errors) == 1 and re.search(words, errors[0]), errors
    assert not list((tmp_path / "run").glob("*"))


def test_dry_run(run, data: Path, tmp_path: Path) -> None:
    status, output, errors = run("train", data, *OPTIONS, "--dry-run", "--out", tmp_path / "run", "--workers", 1)
    assert (status, errors) == (0, []) and not (tmp_path / "run").exists()
    first, training, validation, memory, last = output.splitlines()
    shapes = r"pixels \(\d, \d+, \d+, 3\) uint8, images \(\d, 3, 63, 63\) float32, logits \(\d, 3\) float32"
    assert re.fullmatch(f"a batch of training: {shapes}; loss [\\d.]+", training)
    assert re.fullmatch(f"a batch of validation: {shapes}", validation)
    count = sum(parameter.numel() for parameter in tiny(num_classes=3).parameters())
    size = 12 * count / 2**20  # weights, gradients, momentum
    assert memory.startswith(f"memory: {count:,} parameters, with gradients and optimizer {size:.1f} MiB; at most ")
    assert last == "nothing is written"
    status, _, errors = run("train", data, *OPTIONS, "--dry-run", "--out", data)  # one in use, with anything in it
    assert status == 0 and not list(data.glob("run.lock"))
