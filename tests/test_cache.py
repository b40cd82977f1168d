"""Where compiled files are kept, and what happens where they cannot be kept, or not be trusted."""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import alexkern
from alexkern import cache
from alexkern.backends import building
from alexkern.cache import cache_folder, place_triton_cache
from alexkern.models import weights

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own, and a place for temporary folders."""
    for name in ("XDG_CACHE_HOME", "ALEXKERN_CACHE", "TRITON_CACHE_DIR", "TRITON_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, "")  # so that what the code sets is undone
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "home"


def private(folder: Path, tmp_path: Path) -> bool:
    """Whether a folder is in one of nobody's guess, which nobody else can enter."""
    (only,) = (tmp_path / "tmp").iterdir()
    assert only.stat().st_mode & 0o777 == 0o700 and re.fullmatch(r"alexkern-\w{8}", only.name)
    return folder.parent == only


def test_the_usual_place(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache_folder("nvcc") == home / ".cache/alexkern/nvcc"
        assert cache_folder("nvcc").stat().st_mode & 0o777 == 0o700
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # counts for nothing
        assert cache_folder("nvcc") == home / ".cache/alexkern/nvcc"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_folder("emulator") == tmp_path / "xdg/alexkern/emulator"
        monkeypatch.setenv("ALEXKERN_CACHE", str(tmp_path / "named"))
        assert cache_folder("emulator") == tmp_path / "named/emulator"
    assert not list((tmp_path / "tmp").iterdir())


def spoil(how: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make the usual folder unusable, and return what the warning says."""
    folder = home / ".cache/alexkern"
    if how == "unknown user":
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
        return "this user has no home folder"
    if how == "no folder":
        (home / ".cache").touch()
        return f"{home}/.cache cannot be written to"
    if how == "read-only":  # which for root only a file system can be
        monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(str(home)))
        return f"{home} cannot be written to"
    if how == "refused by the file system":
        make = Path.mkdir

        def refuse(path: Path, *arguments: Any, **options: Any) -> None:
            if path.is_relative_to(home):
                raise OSError(30, "Read-only file system", str(path))
            make(path, *arguments, **options)

        monkeypatch.setattr(Path, "mkdir", refuse)
        return f"{folder}: Read-only file system"
    (folder / "nvcc").mkdir(parents=True)
    if how == "another's":
        monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
        return f"{folder} belongs to another user"
    spoiled = folder / "nvcc" if how == "open within" else folder
    spoiled.chmod(0o757)
    return f"{spoiled} can be written to by others"


WAYS = ("unknown user", "no folder", "read-only", "refused by the file system", "another's", "open", "open within")


@pytest.mark.parametrize("how", WAYS)
def test_another_folder_in_its_place(how: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    says = spoil(how, home, monkeypatch)
    with pytest.warns(UserWarning) as caught:
        found = cache_folder("nvcc")
    assert [str(warning.message) for warning in caught] == [
        f"alexkern keeps nothing of what it compiles or downloads: {says}; set XDG_CACHE_HOME to a folder of your own"
    ]
    monkeypatch.undo()  # of the owner, too
    assert found.is_dir() and private(found, tmp_path)
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("how", ["unknown user", "another's"])
def test_no_place_at_all(how: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says = spoil(how, home, monkeypatch)
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null/none")
    with pytest.raises(alexkern.BackendUnavailable) as caught:
        cache_folder("nvcc")
    assert str(caught.value) == (
        f"alexkern: there is no folder for what is compiled ({says}; Not a directory): "
        "set XDG_CACHE_HOME to a folder of your own"
    )


def test_children_share_it_and_it_goes_with_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from alexkern.cache import cache_folder\n"
        "found = cache_folder('nvcc')\n"
        "(found / 'made').touch()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    sys.exit()\n"  # which runs what is registered for the end
        "os.waitpid(pid, 0)\n"
        "print(found, cache_folder('emulator').parent, (found / 'made').exists(), os.environ['ALEXKERN_CACHE'])\n"
    )
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, parent, made, for_children = done.stdout.split()
    assert found == f"{parent}/nvcc" and made == "True" and parent.startswith(f"{tmp_path}/tmp/alexkern-")
    assert for_children == parent
    assert done.stderr.count("set XDG_CACHE_HOME") == 1
    assert not list((tmp_path / "tmp").iterdir())


def test_a_folder_left_behind_is_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that outlives its parent must not load what somebody else has put in the place of the parent's folder."""
    planted = tmp_path / "tmp/alexkern-12345678"
    planted.mkdir()
    monkeypatch.setenv("ALEXKERN_CACHE", str(planted))
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.warns(UserWarning, match="belongs to another user"):
        assert cache_folder("emulator").parent != planted


def test_tritons_cache(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place_triton_cache()
    assert "TRITON_CACHE_DIR" not in os.environ and not (home / ".triton").exists()
    (home / ".triton").mkdir(mode=0o700)
    (home / ".triton/cache").touch()
    place_triton_cache()
    assert os.environ["TRITON_CACHE_DIR"] == str(home / ".cache/alexkern/triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", "/taken/at/its/word")
    place_triton_cache()
    assert os.environ["TRITON_CACHE_DIR"] == "/taken/at/its/word"


def test_downloads(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    url = "https://example.org/models/weights-01234567.pth"
    usual = home / ".cache/torch/hub/checkpoints"
    assert weights._downloads(url) == usual
    usual.mkdir(parents=True)
    (usual / "weights-01234567.pth").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: "torch" not in str(path))
    assert weights._downloads(url) == usual  # it is there already
    (usual / "weights-01234567.pth").unlink()
    assert weights._downloads(url) == home / ".cache/alexkern/weights"


def test_there_is_one_place_that_decides() -> None:
    pattern = re.compile(r"expanduser|Path\.home|\"XDG_CACHE|mkdtemp|gettempdir")
    files = [path for name in ("alexkern", "kernels", "bench") for path in (ROOT / name).rglob("*.py")]
    assert len(files) > 100
    assert [path.name for path in files if pattern.search(path.read_text())] == ["cache.py"]


def test_who_else_may_write_is_not_asked_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o777)
    assert cache.distrusted(tmp_path / "a") == f"{tmp_path} can be written to by others"
    monkeypatch.setattr(cache, "os", SimpleNamespace(name="nt"))
    assert cache.distrusted(tmp_path / "a") is None


@pytest.mark.parametrize("bits", [0o020, 0o002, 0o022, 0o755])
def test_a_folder_that_a_group_or_all_can_write_to(bits: int, tmp_path: Path) -> None:
    folder = tmp_path / "own" / "kind"
    folder.mkdir(parents=True)
    for path in (folder.parent, folder):
        path.chmod(0o700 | bits)
        assert cache.distrusted(folder) == (None if bits == 0o755 else f"{path} can be written to by others")
        path.chmod(0o700)
    assert cache.distrusted(folder) is None and cache.distrusted(folder / "not" / "there") is None


def test_why_files_cannot_be_put_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.unwritable(tmp_path / "a" / "b") is None
    denied = PermissionError(13, "Permission denied", "/a")
    monkeypatch.setattr(Path, "exists", lambda path: (_ for _ in ()).throw(denied))
    assert cache.unwritable(tmp_path / "a") == "/a: Permission denied"


@pytest.mark.parametrize("owner", [True, False])
def test_only_the_process_that_made_a_folder_removes_it(owner: bool, tmp_path: Path) -> None:
    cache._remove(tmp_path / "none", os.getpid())
    (tmp_path / "kept").mkdir()
    cache._remove(tmp_path / "kept", os.getpid() + (not owner))
    assert (tmp_path / "kept").exists() is not owner


# What is compiled into it


def test_what_is_not_used_goes_after_a_month(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, month = 1e9, 30 * 24 * 3600
    monkeypatch.setattr(building.time, "time", lambda: now)
    ages = {"a-1.o": month + 1, "b-1.o": month, "c-1.json": month + 1, "used-1.o": 2 * month, "lock": 9e8}
    for name, age in ages.items():
        (home / name).write_text("")
        os.utime(home / name, (now - age, now - age))
    building.remove_old(home, {home / "used-1.o"})
    assert sorted(path.name for path in home.iterdir()) == ["b-1.o", "lock", "used-1.o"]


def test_a_digest_tells_parts_apart() -> None:
    found = {building.digest(*parts) for parts in (("ab", "c"), ("a", "bc"), ("abc",), ("c", "ab"), ())}
    assert len(found) == 5 and all(len(one) == 16 for one in found)
    assert building.digest(b"ab", "c") == building.digest("ab", b"c")


def test_a_compilers_target_appears_whole_or_not_at_all(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "")
    target = home / "a.o"
    script = 'echo out; echo err >&2; echo "${LD_PRELOAD-none}" > "$2"'
    assert building.make(["sh", "-c", script, "cc"], target, "compiling") == "out\nerr\n"
    assert target.read_text() == "none\n"
    target.unlink()
    with pytest.raises(RuntimeError) as caught:
        building.make(["sh", "-c", f"{script}; exit 3", "c c"], target, "compiling it")
    first, *said = str(caught.value).splitlines()
    assert first.startswith("alexkern: compiling it failed: sh -c ") and first.endswith(" 'c c'")
    assert said == ["out", "err"]
    assert not list(home.iterdir())


def test_functions_run_side_by_side_and_give_their_results_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 3})
    together = threading.Barrier(3)

    def call(number: int) -> int:
        together.wait(timeout=60)
        return number

    assert building.in_parallel(call, (3, 1, 2)) == [3, 1, 2]


def test_a_lock_keeps_others_out(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    with building.locked(path), path.open("w") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_bindings_of_every_folder_come_first(tmp_path: Path) -> None:
    for name in ("b/bind.h", "a/bind.h", "c/other.h"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("")
    assert building.offers(tmp_path) == ["-include", f"{tmp_path}/a/bind.h", "-include", f"{tmp_path}/b/bind.h"]
