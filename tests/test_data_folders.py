"""What people's folders and lists look like: the order of classes, links, hidden files, splits, odd names and lines."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from PIL import Image

from alexkern.data import DataError, find_samples, find_sets
from alexkern.data.decode import images_in
from alexkern.data.text import read_lines
from support.optional import need

NUMBERS = ("1", "01", "001", "2", "10", "é", "Z", "a", "a-")
UNDECODABLE = os.fsdecode(b"caf\xe9")


def put(root: Path, *names: str, count: int = 1) -> Path:
    """Images of 2 x 2 pixels: ROOT/NAME/0.png and so on."""
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("RGB", (2, 2)).save(root / name / f"{number}.png")
    return root


# Classes


def test_classes_are_sorted_by_code_point_as_imagefolder_does(tmp_path: Path) -> None:
    put(tmp_path, *NUMBERS)
    samples = find_samples(tmp_path)
    assert samples.classes == ("001", "01", "1", "10", "2", "Z", "a", "a-", "é")
    need("torchvision")
    from torchvision.datasets import ImageFolder

    assert ImageFolder(str(tmp_path)).classes == list(samples.classes)
    assert [path for path, _ in ImageFolder(str(tmp_path)).samples] == list(samples.paths)


def test_the_order_is_the_same_everywhere(tmp_path: Path) -> None:
    put(tmp_path, *NUMBERS, UNDECODABLE)
    code = "import sys; from alexkern.data import find_samples; print(ascii(find_samples(sys.argv[1]).classes))"
    line = [sys.executable, "-c", code, str(tmp_path)]
    environment = os.environ | {"PYTHONHASHSEED": "7", "LC_ALL": "C"}
    found = subprocess.run(line, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.strip() == ascii(tuple(sorted((*NUMBERS, UNDECODABLE))))


def test_a_network_keeps_its_own_order(tmp_path: Path) -> None:
    """That of a checkpoint: classes are numbered as it has them, and others are told apart."""
    put(tmp_path, "1", "2", "10", count=4)
    old = ("1", "2", "10")
    training, validation, _ = find_sets(tmp_path, None, 0.25, 0, old)
    for samples in (training, validation):
        assert samples.classes == old
        assert [old[label] for label in samples.labels] == [Path(path).parent.name for path in samples.paths]
    plain, held, _ = find_sets(tmp_path, None, 0.25, 0)
    assert plain.classes == ("1", "10", "2") and sorted(plain.paths + held.paths) == sorted(
        training.paths + validation.paths
    )
    with pytest.raises(DataError, match="3 classes, and the network has 2: here with '10'$"):
        find_sets(tmp_path, None, 0.25, 0, ("1", "2"))
    with pytest.raises(DataError, match=r"has 4: here without '20' \(and 1 more\) and with '10'$"):
        find_sets(tmp_path, None, 0.25, 0, ("20", "1", "2", "30"))


# Folders


def test_links_are_walked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of names, whatever the file system's is."""

    def backwards(folder: str, read: Callable = os.scandir) -> AbstractContextManager:
        with read(folder) as entries:
            return nullcontext(sorted(entries, key=lambda entry: entry.name, reverse=True))

    monkeypatch.setattr(os, "scandir", backwards)
    root, outside = put(tmp_path / "data", "a/deep", "a", "a/0", "b"), put(tmp_path / "outside", "deep")
    for place, target in {
        "a/around": root, "a/up": tmp_path, "a/self": root / "a" / "self", "b/other": root / "a", "b/out": outside,
        "b/again": outside / "deep", "c": outside, "d": tmp_path / "nowhere",
    }.items():  # fmt: skip
        (root / place).symlink_to(target)
    (outside / "back").symlink_to(tmp_path)
    (root / "a" / "1.png").symlink_to(outside / "deep" / "0.png")
    samples = find_samples(root)
    found = [
        (os.path.relpath(path, root), samples.classes[label])
        for path, label in zip(samples.paths, samples.labels, strict=True)
    ]
    names = ("a/0/0.png", "a/0.png", "a/1.png", "a/deep/0.png", "b/0.png", "c/deep/0.png")
    assert found == [(name, name[0]) for name in names]
    nothing, loops = samples.notes[:2]
    assert loops == f"{root}/a/around (and 5 more): a link to a folder that contains it or was walked already; left out"
    assert nothing == f"{root}/a/self (and 1 more): no regular file; left out"


def test_links_to_what_is_hidden_here_are_followed(tmp_path: Path) -> None:
    put(tmp_path / ".store", "a", "b")
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(tmp_path / ".store" / name)
    samples = find_samples(tmp_path)
    assert [os.path.relpath(path, tmp_path) for path in samples.paths] == ["a/0.png", "b/0.png"]


def test_hidden_files_and_what_systems_leave_behind(tmp_path: Path) -> None:
    put(tmp_path, "a", "b", "a/.thumbnails", ".ipynb_checkpoints", "__MACOSX/a", "b/@eaDir", count=2)
    for name in ("a/Thumbs.db", "a/._0.png", "a/.hidden.png", "README"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "b" / "1.png").rename(tmp_path / "b" / "1.PNG")
    samples = find_samples(tmp_path)
    assert samples.classes == ("a", "b") and len(samples) == 4 and samples.notes == ()
    assert [path.name for path in images_in(tmp_path)] == ["0.png", "1.png", "0.png", "1.PNG"]


def test_pipes_and_sockets_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a", "b", count=2)
    os.mkfifo(tmp_path / "a" / "pipe.png")
    monkeypatch.chdir(tmp_path / "b")  # a socket's path has to be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.png")
        samples = find_samples(tmp_path)
    assert samples.notes == (f"{tmp_path}/a/pipe.png (and 1 more): no regular file; left out",) and len(samples) == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    put(tmp_path, "a", "b", "b/closed", count=2)
    (tmp_path / "b" / "closed").chmod(0)
    assert find_samples(tmp_path).notes == (f"{tmp_path}/b/closed: Permission denied; left out",)


def test_doubtful_classes_get_a_line_each(tmp_path: Path) -> None:
    put(tmp_path, "Cat", "cat", "cafe\u0301", "caf\u00e9", count=2)
    put(tmp_path, "one", "two")
    put(tmp_path, ".")
    notes = find_samples(tmp_path).notes
    assert notes == (
        f"{tmp_path}/0.png: outside of the class folders; left out",
        "classes 'Cat' and 'cat' differ in case or coding only",
        "classes 'cafe\u0301' and 'caf\u00e9' differ in case or coding only",
        "a class of one image, which none validates: 'one' (and 1 more)",
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="/empty: a class folder without images"):
        find_samples(tmp_path)
    assert len(find_samples(tmp_path, ("Cat", "cafe\u0301", "caf\u00e9", "cat", "empty", "one", "two"))) == 10


def test_names_that_are_not_text(tmp_path: Path) -> None:
    put(tmp_path, UNDECODABLE, "日本", count=3)
    training, validation, _ = find_sets(tmp_path, None, 0.3, 0)
    assert training.classes == (UNDECODABLE, "日本") and (len(training), len(validation)) == (4, 2)


# Splits


@pytest.mark.parametrize(
    "folders, training, validation, beside",
    [
        (("train", "val"), "train", "val", ""),
        (("Train", "VAL", "extra", "more"), "Train", "VAL", "extra (and 1 more): beside Train and VAL; left out"),
        (("train", "valid"), "train", "valid", ""),
        (("train", "Validation", "test"), "train", "Validation", "test: beside train and Validation; left out"),
        (("train", "test"), "train", "test", ""),
        (("TRAIN",), "TRAIN", None, ""),
    ],
)
def test_splits(folders: tuple[str, ...], training: str, validation: str | None, beside: str, tmp_path: Path) -> None:
    for folder in folders:
        put(tmp_path / folder, "a", "b", count=4)
    left, right, notes = find_sets(tmp_path, None, 0.25, 0)
    assert {Path(path).parts[-3] for path in left.paths} == {training}
    assert {Path(path).parts[-3] for path in right.paths} == {validation or training}
    assert (len(left), len(right)) == ((8, 8) if validation else (6, 2))
    assert notes == ([f"{tmp_path}/{beside}"] if beside else [])


def test_train_may_be_a_class(tmp_path: Path) -> None:
    put(tmp_path, "bus", "train", "tram", count=2)
    assert find_sets(tmp_path, None, 0.5, 0)[0].classes == ("bus", "train", "tram")


def test_two_folders_for_training(tmp_path: Path) -> None:
    for name in ("Train", "train", "val"):
        put(tmp_path / name, "a", "b")
    with pytest.raises(DataError, match=r"'Train' \(and 1 more\) differ in case only; wanted one train"):
        find_sets(tmp_path, None, 0.5, 0)


# Text


def test_lists_of_any_system(tmp_path: Path) -> None:
    put(tmp_path / "my photos", "a", count=2)
    content = "\ufeffmy photos/a/0.png cat\r\n\r\n# more\r\nmy photos/a/1.png\tgreat dane\r\n../x y.png cat\r\n"
    (tmp_path / "list.txt").write_bytes(content.encode() + b"caf\xe9.png cat\n")
    samples = find_samples(tmp_path / "list.txt")
    assert samples.classes == ("cat", "great dane") and samples.labels == (0, 1, 0, 0)
    wanted = ["my photos/a/0.png", "my photos/a/1.png", "../x y.png", f"{UNDECODABLE}.png"]
    assert list(samples.paths) == [f"{tmp_path}/{name}" for name in wanted]
    (tmp_path / "wide.txt").write_bytes("a.png cat\nb.png dog\n".encode("utf-16"))
    with pytest.raises(DataError, match="cannot be read as a list of images .not text in UTF-8"):
        find_samples(tmp_path / "wide.txt")


def test_lines_end_only_where_lines_end(tmp_path: Path) -> None:
    (tmp_path / "l").write_bytes("\ufeffa\u2028b\x0bc\r\nd\re\n".encode())
    assert read_lines(tmp_path / "l") == ["a\u2028b\x0bc", "d", "e", ""]
