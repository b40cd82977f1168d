"""No traceback for any input of a user: hypothesis draws options and folders."""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from alexkern import cli
from alexkern.models import MODELS, save_weights
from alexkern.ranges import Range
from support.optional import need
from support.tiny import CLASSES, tiny

need("hypothesis")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

COMMANDS = ("train", "train", "train", "classify", "evaluate", "augment", "export")  # as often as they stand here
CHEAP = {"--epochs": (1,), "--workers": (0,), "--batch-size": (1, 6, 65_536), "--size": (63, 64), "--resize": (63, 90)}
CHEAP |= {"--count": (1, 2), "--most": (1, 2), "--warmup": (0, 1), "--save-every": (1, 2)}
NO_NUMBERS = ("nan", "-1", "1e400", "", "x", "١", "0x3f", "--", "\udcff", "9" * 400)
PICTURE = Image.linear_gradient("L").resize((70, 66))
STATUSES = {0, 1, 2, *range(128, 160)}


def saved(name: str, cut: float = 1.0, **how: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        PICTURE.save(path, name, **how)
        path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])

    return write


FILES: tuple[Callable[[Path], object], ...] = (
    saved("PNG"), saved("PNG"), saved("JPEG"), saved("GIF"), saved("TIFF"), saved("WEBP"), saved("JPEG", 0.5),
    saved("PNG", 0.7), saved("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"), lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"Dear all,"), os.mkfifo, lambda path: path.symlink_to(".."),
    lambda path: path.symlink_to(path), lambda path: path.symlink_to("/nowhere"), lambda path: path.mkdir(),
    lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff\xff\0\0\xff\xff\x08\0\0\0\0" + bytes(40)),
)  # fmt: skip
OTHERS = "Red train Val test 1 01 .hidden __MACOSX 日本 caf\udce9 [b]".split()
NAMES = st.sampled_from((*CLASSES, *OTHERS, "x y", "new\nline"))
ENDINGS = st.sampled_from((".png", ".jpg", ".JPEG", ".gif", ".txt", "", "\udcff.png"))
FOLDERS = st.dictionaries(NAMES, st.lists(st.tuples(st.sampled_from(FILES), ENDINGS), max_size=5), max_size=4)
TREES = st.one_of(FOLDERS, st.dictionaries(NAMES, FOLDERS, max_size=3))
PLACES = st.sampled_from(("red", "blue", "red/deep", "red/.cache", "__MACOSX", "日本", "caf\udce9"))
MESS = st.dictionaries(PLACES, st.lists(st.tuples(st.sampled_from(FILES), ENDINGS), min_size=2, max_size=5), max_size=3)
SOUND = {name: [(saved("PNG"), "good.png")] * 4 for name in ("red", "blue")}
LINES = st.lists(
    st.sampled_from((b"0.png red", b"1.png\tblue", b"", b"# x", b"red", b"\xef\xbb\xbf0.png red", b"\xff \xfe", b"\0"))
)


def build(folder: Path, tree: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(tree, dict):
        for name, inner in tree.items():
            build(folder / name, inner)
        return
    for number, (write, ending) in enumerate(tree):
        write(folder / f"{number}{ending}")


def options(command: str) -> list[argparse.Action]:
    (commands,) = (action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction))
    return [action for action in commands.choices[command]._actions if action.option_strings]


def values(action: argparse.Action, paths: list[str]) -> st.SearchStrategy[str]:
    """Good ones as often as bad ones."""
    flag = action.option_strings[0]
    if isinstance(action.type, Range):
        good = CHEAP.get(flag) or [action.type.kind(end) for end in (action.type.least, action.type.most)]
        return st.one_of(*3 * [st.sampled_from([str(value) for value in good])], st.sampled_from(NO_NUMBERS))
    if action.choices:
        known = [str(choice) for choice in action.choices if choice not in ("onnx", "torch-export")]  # which are slow
        return st.sampled_from([*known, *known, ""])
    return st.sampled_from([*paths, "cpu", "toaster", "cuda:77", "", "a\0b", "x" * 300, "caf\udce9"])


@st.composite
def command_lines(draw: Any, command: str, paths: list[str]) -> list[str]:
    line = draw(st.lists(st.sampled_from(paths), min_size=1, max_size=2 if command in ("classify", "augment") else 1))
    for action in draw(st.lists(st.sampled_from(options(command)), max_size=3)):
        count = action.nargs if isinstance(action.nargs, int) else 1
        line += [action.option_strings[-1], *(draw(values(action, paths)) for _ in range(count))]
    return line


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder to stand in, with a file of weights; the small network in place of alexnet."""
    folder = tmp_path_factory.mktemp("any")
    model = tiny(num_classes=3).eval()
    model.classes = CLASSES
    save_weights(model, folder / "w.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "alexnet", tiny)
        patch.setattr("alexkern.training.pictures.write_curves", lambda rows, path: None)  # which takes a second
        patch.chdir(folder)
        yield


NUMBERS = itertools.count()


def holds(data: st.DataObject, capsys: pytest.CaptureFixture) -> None:
    here = Path(str(next(NUMBERS)))
    build(here / "data", SOUND)
    build(here / "data", data.draw(MESS, "mess"))
    build(here / "other", data.draw(TREES, "other"))
    (here / "list.txt").write_bytes(b"\r\n".join(data.draw(LINES, "list")))
    paths = [*[f"{here}/data"] * 5, f"{here}/other", f"{here}/list.txt", f"{here}/none", "w.safetensors"]
    command = data.draw(st.sampled_from(COMMANDS), "command")
    needed = {
        "train": f"--size 63 --resize 63 --hold-out 0.3 --epochs 1 --workers 0 --device cpu --out {here}/o",
        "evaluate": "--workers 0 --device cpu w.safetensors",
        "classify": "--weights w.safetensors",
        "augment": f"--size 32 --count 2 --out {here}/sheet.png",
        "export": f"--to torchvision --out {here}/w.pth",
    }[command].split()
    line = [command, *needed, *data.draw(command_lines(command, paths), "line")]
    try:
        status = cli.main(line)
    except SystemExit as exit:  # as argparse ends
        status = exit.code if isinstance(exit.code, int) else 1
    finally:
        captured = capsys.readouterr()
    assert status in STATUSES
    assert "Traceback" not in captured.out + captured.err
    assert status != 2 or captured.err, line


@pytest.mark.parametrize("examples", [50, pytest.param(500, marks=pytest.mark.full)])
def test_any_input(examples: int, place: None, capsys: pytest.CaptureFixture) -> None:
    checks = (HealthCheck.too_slow, HealthCheck.data_too_large)

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=checks)
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        holds(data, capsys)

    run()
