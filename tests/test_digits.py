"""examples/digits.py: quickly, that it learns and that its file is read back; at length, that it reads digits well."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from rich.console import Console

from alexkern import cli
from alexkern.models import AlexNet, alexnet, save_weights
from support.optional import need

load_digits = need("sklearn.datasets").load_digits
confusion_matrix = need("sklearn.metrics").confusion_matrix

SCRIPT = Path(__file__).parents[1] / "examples" / "digits.py"


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def zeros_and_ones(digits):
    """Eight of each: few enough to train on in seconds."""
    training, _ = digits.load()
    chosen = torch.cat([(training.classes == digit).nonzero()[:8, 0] for digit in (0, 1)])
    return digits.Digits(training.images[chosen], training.classes[chosen])


@pytest.fixture(scope="module")
def trained(digits, zeros_and_ones) -> tuple[AlexNet, list[float], bool]:
    """A model after ten steps, their losses, and whether every parameter moved."""
    torch.manual_seed(0)
    model = digits.build()
    before = {name: parameter[:1].clone() for name, parameter in model.named_parameters()}
    losses = list(digits.train(model, zeros_and_ones, epochs=10, batch_size=16, learning_rate=1e-4))
    moved = all(not torch.equal(parameter[:1], before[name]) for name, parameter in model.named_parameters())
    return model, losses, moved


def printed(output: str) -> list[tuple[float, str]]:
    """(per cent, class) of every row of the tables that classify prints."""
    return [(float(percent), name) for percent, name in re.findall(r"([\d.]+)% │ (\d)", output)]


def test_the_split(digits):
    training, held_out = digits.load()
    assert len(training.images) == len(training.classes) == 1437
    assert len(held_out.images) == len(held_out.classes) == 360
    counts = np.bincount(load_digits().target)
    assert (np.abs(held_out.classes.bincount().numpy() - counts / 5) < 1).all()
    assert torch.equal(held_out.images, digits.load()[1].images)
    # Together they are what scikit-learn ships, each digit once.
    pixels = torch.cat([training.images, held_out.images])
    assert pixels.dtype == torch.uint8 and pixels.shape == (1797, 3, 8, 8)
    assert torch.equal(pixels[:, 0], pixels[:, 1]) and torch.equal(pixels[:, 0], pixels[:, 2])
    ours = np.column_stack([pixels[:, 0].flatten(1).numpy(), torch.cat([training.classes, held_out.classes])])
    wanted = np.column_stack([np.round(load_digits().data * 255 / 16), load_digits().target])
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, wanted.tolist()))


def test_shifted_moves_each_image_by_itself(digits, generator):
    torch.manual_seed(0)
    most = digits.MAX_SHIFT
    inputs = torch.rand(200, 3, 16, 18, generator=generator)
    moves = []
    for image, output in zip(inputs, digits.shifted(inputs), strict=True):
        for y in range(-most, most + 1):
            for x in range(-most, most + 1):
                want = torch.full_like(image, -1.0)
                target = want[:, max(0, -y) : 16 - max(0, y), max(0, -x) : 18 - max(0, x)]
                target.copy_(image[:, max(0, y) : 16 + min(0, y), max(0, x) : 18 + min(0, x)])
                if torch.equal(output, want):
                    moves.append((y, x))
    assert len(moves) == len(inputs)
    for axis in zip(*moves, strict=True):
        assert set(axis) == set(range(-most, most + 1))


def test_it_learns(digits, zeros_and_ones, trained):
    model, losses, moved = trained
    assert len(losses) == digits.steps(zeros_and_ones, epochs=10, batch_size=16) == 10
    assert losses[0] == pytest.approx(np.log(10), abs=0.05)
    assert losses[-1] < 1.5
    assert moved
    assert set(digits.predict(model, zeros_and_ones.images).tolist()) <= {0, 1}


def test_classify_reads_what_was_saved(digits, zeros_and_ones, trained, tmp_path, capsys):
    model = trained[0]
    save_weights(model, tmp_path / "digits.safetensors")
    digits.write_images(zeros_and_ones, tmp_path / "images")
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert len(names) == 16 and names[0] == "0_000.png" and names[-1] == "1_015.png"
    arguments = ["classify", str(tmp_path / "images"), "--weights", str(tmp_path / "digits.safetensors"), "--top", "10"]
    assert cli.main(arguments) == 0
    found = printed(capsys.readouterr().out)
    with torch.no_grad():
        probabilities = model.eval()(digits.TRANSFORMS(zeros_and_ones.images)).softmax(dim=1)
    assert len(found) == 160
    for position, (percent, name) in enumerate(found):
        assert percent == pytest.approx(100 * probabilities[position // 10, int(name)].item(), abs=0.3)
    assert found[0][1] == str(probabilities[0].argmax().item())
    again = alexnet(weights=tmp_path / "digits.safetensors", num_classes=10)
    assert again.classes == tuple("0123456789") and again.transforms() == digits.TRANSFORMS


def test_the_whole_script_on_few_digits(digits, zeros_and_ones, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(digits, "load", lambda: (zeros_and_ones, zeros_and_ones))
    out = tmp_path / "digits.safetensors"
    assert digits.main(["--epochs", "1", "--out", str(out), "--images", str(tmp_path / "images")]) == 0
    output = capsys.readouterr().out
    assert re.search(r"\d+ of 16 held-out digits read right: ", output) and "read as" in output
    assert out.is_file() and len(list((tmp_path / "images").iterdir())) == 16


def test_the_confusion_matrix(digits, generator, capsys):
    classes, predictions = torch.randint(0, 10, (2, 500), generator=generator)
    matrix = digits.confusion_matrix(classes, predictions)
    assert torch.equal(matrix, torch.from_numpy(confusion_matrix(classes, predictions, labels=range(10))))
    matrix = torch.diag(torch.full((10,), 30))
    matrix[8, 1], matrix[3, 9] = 5, 12
    digits.report(Console(width=100), matrix)
    output = capsys.readouterr().out
    assert re.findall(r"\d read as \d: \d+", output) == ["3 read as 9: 12", "8 read as 1: 5"]
    rows = [re.findall(r"[\d.]+", line) for line in output.splitlines() if line.startswith("│")]
    assert rows == [[str(digit), *(str(n) if n else "." for n in matrix[digit].tolist())] for digit in range(10)]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--epochs", "0"], "--epochs"),
        (["--batch-size", "0"], "--batch-size"),
        (["--out", "digits.pth"], "--out must be a .safetensors file"),
        (["--out", "no/such/folder/digits.safetensors"], "folder that exists"),
    ],
)
def test_bad_arguments_are_found_before_training(digits, arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        digits.main(arguments)
    assert caught.value.code == 2 and words in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.full
def test_it_reads_97_of_100_held_out_digits(digits, tmp_path, capsys):
    """The script as it is run, and then the command, which must read the very same digits right."""
    out, images = tmp_path / "digits.safetensors", tmp_path / "images"
    assert digits.main(["--out", str(out), "--images", str(images)]) == 0
    right, count = map(int, re.search(r"(\d+) of (\d+) held-out", capsys.readouterr().out).groups())
    assert count == 360 and right >= 0.97 * count
    assert cli.main(["classify", str(images), "--weights", str(out), "--top", "1"]) == 0
    written = [path.name[0] for path in sorted(images.iterdir())]
    read = [name for _, name in printed(capsys.readouterr().out)]
    assert len(read) == count
    # The command resizes with PIL, the script with torch: they round a few pixels differently.
    assert abs(sum(a == b for a, b in zip(written, read, strict=True)) - right) <= 1
