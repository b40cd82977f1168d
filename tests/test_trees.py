"""Two checkouts and one install: what is not of one tree is not tested, nor measured."""

from __future__ import annotations

import shutil
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from alexkern._trees import mixed
from support.installing import ROOT, copy_tree, make_venv, pip, run, script


class Finder:
    """Finds the packages where it is told to, and nothing else."""

    def __init__(self, **folders: Path) -> None:
        self.folders = folders

    def find_spec(self, name: str, path: list[str] | None = None, target: object = None) -> ModuleSpec | None:
        folder = self.folders.get(name.rpartition(".")[2])
        return ModuleSpec(name, None, origin=str(folder / "__init__.py")) if folder else None


def checkout(root: Path) -> dict[str, Path]:
    return {name: root / name for name in ("alexkern", "kernels", "bench")}


def installed(root: Path) -> dict[str, Path]:
    return checkout(root / "alexkern") | {"alexkern": root / "alexkern"}


def test_what_is_of_one_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, tests = tmp_path / "alexkern", tmp_path / "b", tmp_path / "tests alone"  # a checkout may be called so
    (b / "alexkern").mkdir(parents=True)
    tests.mkdir()

    def verdict(here: Path | None = None, **folders: Path) -> str | None:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "meta_path", [Finder(), Finder(**folders)])
            return mixed(here)

    for here, folders in ((a, checkout(a)), (None, checkout(a)), (None, installed(a)), (tests, installed(a))):
        assert verdict(here, **folders) is None
    named = f"alexkern is of {a}, alexkern.kernels is of {a}, alexkern.bench is of {a}, this folder is of "
    for here, folders in ((b, checkout(a)), (b, installed(a)), (tests, checkout(a))):
        assert f"{named}{here};" in str(verdict(here, **folders))
    for part in ("alexkern", "kernels", "bench"):
        other = checkout(a) | {part: b / part}
        assert str(a) in str(verdict(**other)) and str(b) in str(verdict(**other))
        del other[part]
        assert "no tree" in str(verdict(**other))


def test_every_command_refuses_a_second_tree(tmp_path: Path) -> None:
    a, b = copy_tree(tmp_path / "a"), copy_tree(tmp_path / "b")
    for tree in (a, b):
        shutil.copy(ROOT / "conftest.py", tree)
        script(tree / "tests/test_one.py", "def test_one():\n    pass\n")
    python = make_venv(tmp_path / "venv")
    options = ("--no-deps", "--no-build-isolation", "--editable", a)
    done = run(*pip(python), "install", *options, cwd=tmp_path, ALEXKERN_SKIP_CUDA=1)
    assert done.returncode == 0, done.stdout
    plain = script(python.parent / "pytest", f"#!{python}\nimport sys, pytest\nsys.exit(pytest.main())\n")

    for command in (
        (plain,),
        (plain, "bench/"),
        (python, "-m", "pytest"),
        (python.parent / "alexkern", "bench"),
        (python, "-m", "alexkern", "bench", "--static"),
    ):
        done = run(*command, cwd=b)
        assert done.returncode == 4, (command, done.stdout)
        assert f" is of {a}" in done.stdout and f" is of {b}" in done.stdout, (command, done.stdout)
        assert len(done.stdout.strip().splitlines()) == 1, (command, done.stdout)
    done = run(plain, "-q", cwd=a)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
