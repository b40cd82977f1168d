"""The command line: what it prints for good input, and the one line that it prints for each kind of bad input."""

from __future__ import annotations

import csv
import importlib
import inspect
import io
import json
import re
import struct
import sys
import types
import zlib
from pathlib import Path
from unittest import mock

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import alexkern
from alexkern import cli
from alexkern.commands import classify
from alexkern.models import MODELS, AlexNet, ImageClassification, alexnet, save_weights
from alexkern.ops.registry import OPERATORS
from support.optional import need
from support.pinned import hold

CLASSES = ("temple", "dahlia", "[red]fox[/red]", "snow\x1b[2Jow l", "ash", "birch", "elm")


def test_what_users_call_takes_what_it_took() -> None:
    """Names, order and defaults of all that a module says is for users; tests/test_docs.py has the operators'."""
    rooms = (alexkern, *(importlib.import_module(f"alexkern.{room}") for room in ("data", "models", "nn", "training")))
    lines = []
    for room in (*rooms, alexkern.functional):
        for name in sorted({*room.__all__} - {*OPERATORS}):
            called = getattr(room, name)
            if callable(called) and not (isinstance(called, type) and issubclass(called, Exception)):
                parameters = inspect.signature(called).parameters.values()
                bare = (str(parameter.replace(annotation=inspect.Parameter.empty)) for parameter in parameters)
                lines.append(f"{room.__name__}.{name}({', '.join(bare)})")
    hold("signatures", lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def model() -> AlexNet:
    """Random weights, a little enlarged, so that the photographs are told apart."""
    torch.manual_seed(20120930)
    model = alexnet(num_classes=len(CLASSES)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(2.5 if name.endswith("weight") else 0)
    model.classes = CLASSES
    return model


@pytest.fixture(scope="module")
def weights(folder, model) -> Path:
    save_weights(model, folder / "trees.safetensors")
    return folder / "trees.safetensors"


@pytest.fixture(scope="module")
def bare_weights(folder) -> Path:
    """A .pth file of a few kilobytes for three classes: nothing but tensors, all of them zero."""
    path = folder / "bare.pth"
    torch.save(bare_tensors("alexnet"), path)
    return path


def bare_tensors(name: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in MODELS[name](num_classes=3).state_dict().items()}
    return {key: torch.tensor(0.0).expand(shape) for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def photos(folder) -> list[Path]:
    """The two photographs that scikit-learn ships, as a JPEG and a PNG file."""
    china, flower = need("sklearn.datasets").load_sample_images().images
    paths = [folder / "photos" / "china.jpg", folder / "photos" / "flower.png"]
    paths[0].parent.mkdir()
    for path, pixels in zip(paths, (china, flower), strict=True):
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture
def run(capsys):
    """Runs a command in this process: its exit status, what it printed, and the lines on stderr."""

    def run(*arguments: object) -> tuple[int, str, list[str]]:
        status = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err.splitlines()

    return run


def rows(output: str) -> list[tuple[str, str]]:
    """(probability, class) of every row of the printed tables."""
    return re.findall(r"│\s+([\d.]+%) │ (.*?)\s*│", output)


def titles(output: str) -> list[str]:
    return [line for line in output.splitlines() if line and line[0] not in "┏┃┡│└"]


# classify, good input


def test_classify_photographs(run, model, weights, photos):
    status, output, errors = run("classify", *photos, "--weights", weights, "--top", 7)
    assert (status, errors) == (0, [])
    images = torch.stack([ImageClassification()(Image.open(path)) for path in photos])
    with torch.no_grad():  # torch's own modules, one by one
        logits = nn.Sequential(*model.features, model.avgpool, nn.Flatten(), *model.classifier)(images)
    found = rows(output)
    printed = ["temple", "dahlia", "[red]fox[/red]", "snow?[2Jow l", "ash", "birch", "elm"]
    for position, probabilities in enumerate(logits.double().softmax(dim=1)):
        order = probabilities.argsort(descending=True)
        its = found[position * 7 : position * 7 + 7]
        assert [name for _, name in its] == [printed[index] for index in order]
        for (text, _), index in zip(its, order, strict=True):
            assert float(text[:-1]) == pytest.approx(100 * probabilities[index].item(), abs=0.02)
    assert len(found) == 14 and found[:7] != found[7:]
    assert titles(output) == [str(path) for path in photos]


def test_a_table_is_as_pinned(capsys):
    guesses = [("[red]fox[/red]", 3, 0.98765), ("snow\x1bow l", 0, 0.00004), ("ash", 1, 0.0)]
    classify._Tables().guesses(Path("a\x1b[b].png"), guesses)
    hold("classify", capsys.readouterr().out.splitlines())


def test_top(run, weights, photos):
    _, every, _ = run("classify", photos[0], "--weights", weights, "--top", 100)
    _, default, _ = run("classify", photos[0], "--weights", weights)
    _, one, _ = run("classify", photos[0], "--weights", weights, "--top", 1)
    assert len(rows(every)) == 7 and rows(default) == rows(every)[:5] and rows(one) == rows(every)[:1]
    assert sum(float(probability[:-1]) for probability, _ in rows(every)) == pytest.approx(100, abs=0.05)


def test_folders_are_walked_in_order(run, weights, photos, tmp_path):
    for name in ("b/2.PNG", "b/1.jpeg", "a.jpg", "b/notes.txt", "c/.hidden.png", "10.png", "9.JPG"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        image = Image.open(photos[len(name) % 2]).resize((70, 80))
        image.save(path, format="PNG" if name.lower().endswith("png") else "JPEG")
    outputs = [run("classify", tmp_path, photos[0], "--weights", weights, "--batch-size", size) for size in (2, 16)]
    for status, output, errors in outputs:
        assert (status, errors) == (0, [])
        found = [str(tmp_path / name) for name in ("10.png", "9.JPG", "a.jpg", "b/1.jpeg", "b/2.PNG")]
        assert titles(output) == [*found, str(photos[0])]
        # How many images there are at once decides by which kernels: a number may be off by one in its last place.
        for (ours, name), (other, wanted) in zip(rows(output), rows(outputs[0][1]), strict=True):
            assert name == wanted and float(ours[:-1]) == pytest.approx(float(other[:-1]), abs=0.0101)


def test_class_names(run, weights, bare_weights, photos, tmp_path):
    _, output, _ = run("classify", photos[0], "--weights", bare_weights)
    assert sorted(rows(output)) == [("33.33%", "0"), ("33.33%", "1"), ("33.33%", "2")]
    labels = tmp_path / "labels.txt"
    labels.write_bytes("\ufeffEiche\r\n\r\nBuche\r\nÄsche\r\n\n".encode())
    _, output, _ = run("classify", photos[0], "--weights", bare_weights, "--labels", labels)
    assert sorted(name for _, name in rows(output)) == ["Buche", "Eiche", "Äsche"]
    labels.write_text("\n".join("ABCDEFG"), encoding="utf-8")
    _, theirs, _ = run("classify", photos[0], "--weights", weights)
    _, ours, _ = run("classify", photos[0], "--weights", weights, "--labels", labels)
    names = ["temple", "dahlia", "[red]fox[/red]", "snow?[2Jow l", "ash", "birch", "elm"]
    assert rows(ours) == [(probability, "ABCDEFG"[names.index(name)]) for probability, name in rows(theirs)]


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model(run, name, photos, tmp_path):
    torch.save(bare_tensors(name), tmp_path / "weights.pth")
    status, output, errors = run("classify", photos[0], "--weights", tmp_path / "weights.pth", "--model", name)
    assert (status, errors, len(rows(output))) == (0, [], 3)


def test_the_files_own_transforms_are_used(run, model, weights, photos, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(model, "preprocessing", ImageClassification(63, 64, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    save_weights(model, tmp_path / "small.safetensors")
    read = classify._read_images
    monkeypatch.setattr(classify, "_read_images", lambda *arguments: seen.append(arguments[1]) or read(*arguments))
    _, small, _ = run("classify", photos[0], "--weights", tmp_path / "small.safetensors")
    _, usual, _ = run("classify", photos[0], "--weights", weights)
    assert seen == [model.preprocessing, ImageClassification()]
    assert rows(small) != rows(usual)


def test_a_turned_photograph_is_turned_back(run, weights, photos, tmp_path):
    upright = Image.open(photos[1])
    exif = upright.getexif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees clockwise to see it upright
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    _, want, _ = run("classify", photos[1], "--weights", weights)
    _, turned, _ = run("classify", tmp_path / "turned.png", "--weights", weights)
    assert rows(turned) == rows(want)


def test_the_progress_bar_goes_to_stderr(run, bare_weights, photos, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    _, output, errors = run("classify", *photos, "--weights", bare_weights, "--batch-size", 1)
    assert "2/2" in "".join(errors) and "2/2" not in output
    assert output.count("33.33%") == 6 and "33.33%" not in "".join(errors)


# classify, bad input


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes) -> bytes:
    """A greyscale PNG file that says it has that size, whatever is in it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def bad_images(photos: list[Path]) -> dict[str, tuple[bytes, str]]:
    """name -> (content, what the line says)"""
    jpeg, flower = (path.read_bytes() for path in photos)
    return {
        "text.jpg": (b"Dear all,\nplease find attached\n", "not an image"),
        "notes.txt": (b"Dear all,\nplease find attached\n", "not an image"),
        "empty.png": (b"", "not an image"),
        "page.gif": (b"GIF89a" + bytes(100), "not an image"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "cannot be read (.*truncated"),
        "half.png": (flower[: len(flower) // 2], "cannot be read (.*truncated"),
        "flipped.png": (flower[:60] + bytes(2000) + flower[2060:], "cannot be read ("),
        "hollow.png": (png(100, 100, b""), "cannot be read ("),
        "bomb.png": (png(30_000, 30_000, bytes(1000)), "too large, 900,000,000 pixels; wanted at most 89,478,485"),
        "large.png": (png(10_000, 10_000, bytes(1000)), "too large, 100,000,000 pixels; wanted at most 89,478,485"),
    }


def test_bad_images_get_a_line_each(run, bare_weights, photos, tmp_path):
    wanted = []
    for name, (content, words) in bad_images(photos).items():
        (tmp_path / name).write_bytes(content)
        wanted.append(re.escape(f"alexkern classify: {tmp_path / name}: ") + re.escape(words).replace(r"\.\*", ".*"))
    paths = [tmp_path / name for name in bad_images(photos)]
    for size in (1, 3, 16):
        arguments = [photos[0], *paths, photos[1], "--weights", bare_weights, "--batch-size", size]
        status, output, errors = run("classify", *arguments)
        assert status == 1
        assert titles(output) == [str(path) for path in photos] and len(rows(output)) == 6
        assert len(errors) == len(wanted)
        for error, pattern in zip(errors, wanted, strict=True):
            assert re.match(pattern, error), (error, pattern)


def test_a_thread_is_an_image(run, bare_weights, tmp_path):
    """Resized as a whole it would have 65,536,000,000 pixels."""
    (tmp_path / "thread.png").write_bytes(png(1_000_000, 1, bytes(1_000_001)))
    status, output, errors = run("classify", tmp_path / "thread.png", "--weights", bare_weights)
    assert (status, errors) == (0, []) and len(rows(output)) == 3


def test_a_damaged_image_is_a_row(run, weights, photos, tmp_path):
    """In JSON and CSV, in its place among the others, with the error that stderr has."""
    for name, place in (("1.jpg", photos[0]), ("10.png", photos[1])):
        (tmp_path / name).write_bytes(place.read_bytes())
    (tmp_path / "2.jpg").write_text("no image")
    (tmp_path / "B").mkdir()
    (tmp_path / "B" / 'a, "b".png').write_bytes(photos[1].read_bytes())
    arguments = ("classify", tmp_path, "--weights", weights, "--top", 2, "--batch-size", 2)
    paths = [f"{tmp_path}/{name}" for name in ("1.jpg", "10.png", "2.jpg", 'B/a, "b".png')]
    status, output, errors = run(*arguments, "--json")
    reason = "not an image"
    assert (status, errors) == (1, [f"alexkern classify: {tmp_path}/2.jpg: {reason}"])
    found = json.loads(output)
    assert list(found) == ["images"] and [row["path"] for row in found["images"]] == paths
    assert found["images"][2] == {"path": paths[2], "error": reason}
    names = [[guess["class"] for guess in found["images"][place]["classes"]] for place in (1, 3)]
    assert names[0] == names[1]
    for row in (found["images"][0], found["images"][1]):
        assert [list(guess) for guess in row["classes"]] == [["class", "index", "probability"]] * 2
        assert row["classes"][0]["probability"] >= row["classes"][1]["probability"] > 0
        assert all(CLASSES[guess["index"]] == guess["class"] for guess in row["classes"])
    status, output, errors = run(*arguments, "--csv")
    assert status == 1 and len(errors) == 1
    rows = list(csv.DictReader(output.splitlines()))
    wanted = [(path, rank) for path in paths for rank in ([""] if path == paths[2] else ["1", "2"])]
    assert [(row["path"], row["rank"]) for row in rows] == wanted
    assert rows[4]["error"] == reason and rows[4]["class"] == rows[4]["probability"] == ""
    guess = found["images"][3]["classes"][0]
    assert (rows[5]["class"], int(rows[5]["index"])) == (guess["class"], guess["index"])
    assert float(rows[5]["probability"]) == guess["probability"] and rows[5]["error"] == ""
    status, output, errors = run("classify", tmp_path / "none.png", *arguments[1:], "--json")
    assert status == 2 and len(errors) == 2
    assert json.loads(output)["images"][0] == {"path": f"{tmp_path}/none.png", "error": "no such file or folder"}


# streams


def test_a_stdout_of_ascii_prints_what_it_can(bare_weights, photos, tmp_path, monkeypatch, capsys):
    (tmp_path / "labels.txt").write_text("Eiche\nÄsche\n樺\n", encoding="utf-8")
    (tmp_path / "Ä.png").write_bytes(photos[1].read_bytes())
    for form in ((), ("--csv",), ("--json",)):
        stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stdout)
            line = [tmp_path / "Ä.png", "--weights", bare_weights, "--labels", tmp_path / "labels.txt", *form]
            assert cli.main(["classify", *map(str, line)]) == 0
        text = stdout.buffer.getvalue().decode("ascii")
        assert ("\\u00c4sche" if form == ("--json",) else "\\xc4sche") in text and "\\u6a3a" in text
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("options, colour, bar", [((), None, True), ((), "1", True), (("--quiet",), None, False)])
def test_the_bar_is_plain_or_absent_where_asked(options, colour, bar, run, bare_weights, photos, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # as a terminal
    if colour:
        monkeypatch.setenv("NO_COLOR", colour)
    status, output, errors = run("classify", photos[0], "--weights", bare_weights, *options)
    text = "\n".join(errors)
    assert status == 0 and ("1/1" in text) == bar
    assert bool(re.search(r"\x1b\[[\d;]*(3\d|38;\d+;\d+)m", text)) == (bar and not colour)


def test_images_that_are_not_there(run, bare_weights, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing to see")
    status, output, errors = run(
        "classify", tmp_path / "none.jpg", tmp_path / "empty", photos[0], "--weights", bare_weights
    )
    assert status == 2 and titles(output) == [str(photos[0])]
    assert errors == [
        f"alexkern classify: {tmp_path / 'none.jpg'}: no such file or folder",
        f"alexkern classify: {tmp_path / 'empty'}: no images in this folder",
    ]


def test_names_cannot_drive_the_terminal(run, bare_weights, photos, tmp_path):
    path = tmp_path / "\x1b[2J[blue].png"
    path.write_bytes(photos[1].read_bytes())
    _, output, errors = run("classify", path, tmp_path / "\x1b[2J.jpg", "--weights", bare_weights)
    assert titles(output) == [str(tmp_path / "?[2J[blue].png")]
    assert errors == [f"alexkern classify: {tmp_path / '?[2J.jpg'}: no such file or folder"]


def bad_files(folder: Path, model: AlexNet) -> dict[str, str]:
    """Arguments after an image and its weights, with files written for them -> what the line says."""
    (folder / "folder").mkdir()
    (folder / "text.pth").write_text("Dear all,\nplease find attached\n")
    (folder / "text.safetensors").write_text("Dear all,\nplease find attached\n")
    torch.save(bare_tensors("alexnet_2012"), folder / "2012.pth")
    (folder / "half.pth").write_bytes((folder / "2012.pth").read_bytes()[:2000])
    torch.save(nn.Linear(2, 2).state_dict(), folder / "linear.pth")
    torch.save(nn.Linear(2, 2), folder / "module.pth")
    with mock.patch.object(AlexNet, "name", "alexnet_2040"):
        save_weights(model, folder / "2040.safetensors")
    (folder / "two.txt").write_text("one\ntwo\n")
    (folder / "binary.txt").write_bytes(b"\xff\xfe\x00")
    return {
        "--weights none.pth": "weights 'none.pth': no such file$",
        "--weights folder": "folder': no such file",
        "--weights text.pth": "text.pth': (not a whole .pth file|refused)",
        "--weights text.safetensors": "text.safetensors': not a whole .safetensors file",
        "--weights half.pth": "half.pth': not a whole .pth file",
        "--weights module.pth": "module.pth': refused",
        "--weights linear.pth": r"linear.pth' are of another network: wanted a matrix classifier\.6\.weight",
        "--weights 2012.pth": "2012.pth' are of another network; missing: features.3.weight .*; unexpected: .*; wrong",
        "--weights 2040.safetensors": "'alexnet_2040'; wanted one of alexnet, alexnet_2012",
        "--weights DEFAULT --model alexnet_2012": "no published weights 'DEFAULT'",
        "--labels none.txt": "--labels none.txt: cannot be read",
        "--labels binary.txt": "--labels binary.txt: cannot be read",
        "--labels two.txt": "--labels two.txt: 2 lines, but the network has 3 classes",
        "--device meta": "--device meta: ",
        "--device toaster": "--device toaster: ",
        "--device cuda:77": "--device cuda:77: ",
    }


def test_bad_files_and_devices_get_a_line(run, model, bare_weights, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, words in bad_files(tmp_path, model).items():
        status, output, errors = run("classify", photos[0], "--weights", bare_weights, *arguments.split())
        assert (status, output, len(errors)) == (2, "", 1), (arguments, errors)
        assert re.search(f"^alexkern classify: .*{words}", errors[0]), errors


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "COMMAND"),
        (["paint"], "paint"),
        (["classify", "a.jpg"], "--weights"),
        (["classify", "--weights", "w.pth"], "IMAGE"),
        (
            ["classify", "a.jpg", "--weights", "w.pth", "--top", "0"],
            "argument --top: wanted a whole number from 1 to 1,000,000,000, got '0'",
        ),
        (["classify", "a.jpg", "--weights", "w.pth", "--batch-size", "-3"], "--batch-size"),
        (["classify", "a.jpg", "--weights", "w.pth", "--top", "many"], "from 1 to 1,000,000,000, got 'many'"),
        (["classify", "a.jpg", "--weights", "w.pth", "--model", "vgg"], "vgg"),
        (["classify", "a.jpg", "--weights", "w.pth", "--colour"], "--colour"),
        (["info", "--colour"], "--colour"),
    ],
)
def test_bad_arguments(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


# the other commands


def test_the_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"alexkern {alexkern.info().versions['alexkern']}\n"


def test_info(run):
    status, output, errors = run("info")
    assert (status, output, errors) == (0, f"{alexkern.info()}\n", [])
    status, output, errors = run("info", "--json")
    found = json.loads(output)
    assert (status, errors) == (0, []) and list(found) == [
        "versions", "processor", "gpus", "driver", "nvcc", "native", "snapshots", "memory", "services",
    ]  # fmt: skip
    assert {row["operator"] for row in found["services"]} >= set(OPERATORS)
    assert list(found["services"][0]) == ["operator", "backend", "why_not", "dtypes"]


def test_bench_prints_its_record(run, monkeypatch, tmp_path):
    def main(arguments):
        (option,) = (word for word in arguments if word.startswith("--record="))
        print("noise of pytest")
        if "nothing" not in arguments:
            Path(option.partition("=")[2], "record.json").write_text('{"complete": true, "error": NaN}')
        return 1

    monkeypatch.setitem(sys.modules, "alexkern.bench.run", types.SimpleNamespace(main=main))
    for more in ([], ["--record", tmp_path]):
        status, output, errors = run("bench", "--json", *more)
        assert (status, json.loads(output), errors) == (1, {"complete": True, "error": None}, ["noise of pytest"])
    assert (tmp_path / "record.json").exists()
    status, output, errors = run("bench", "--json", "-k", "nothing")
    assert (status, output, errors[1]) == (1, "", "alexkern bench: nothing was measured")
    assert run("bench", "--json", "--report", tmp_path)[0] == 2


def test_bench_that_is_not_there(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "alexkern.bench.run", None)
    status, output, errors = run("bench")
    assert (status, output, len(errors)) == (2, "", 1)
    assert errors[0].startswith("alexkern bench: the benchmarks cannot be imported")


def test_a_backend_that_is_not_there(run, monkeypatch):
    def refuse():
        raise alexkern.BackendUnavailable("alexkern: there is no folder")

    monkeypatch.setattr(alexkern, "info", refuse)
    assert run("info") == (2, "", ["alexkern info: alexkern: there is no folder"])


def test_an_interrupt_is_quiet(run, monkeypatch, bare_weights, photos):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(classify, "_predict", interrupt)
    assert run("classify", photos[0], "--weights", bare_weights) == (130, "", [])
