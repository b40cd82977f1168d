"""Installs, by real pip runs on copies of the tree and without the network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("alexkern", "kernels", "bench", "csrc")
FILES = ("pyproject.toml", "setup.py", "CMakeLists.txt", "MANIFEST.in", "README.md", "LICENSE")
SETTINGS = ("CUDA", "NVCC", "ALEXKERN", "PIP", "PYTHON")  # variables that a test starts without

# Their metadata is asked for: find_spec("pip") makes setuptools believe that pip runs in this process, and break later.
installed = {distribution.name.lower() for distribution in metadata.distributions()}
if missing := [name for name in ("pip", "setuptools", "pybind11", "cmake", "ninja") if name not in installed]:
    pytest.skip(f"an install without the network needs {', '.join(missing)}: the dev extra", allow_module_level=True)


def copy_tree(target: Path) -> Path:
    for folder in SOURCES:
        # A native module built in place must not come along: what a test finds is what its own install made.
        ignore = shutil.ignore_patterns("__pycache__", "*.so", "results")
        shutil.copytree(ROOT / folder, target / folder, ignore=ignore)
    for file in FILES:
        shutil.copy(ROOT / file, target)
    return target


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def run(*command: object, cwd: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    """Runs a command with this environment, less what would steer an install, plus `settings`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    env |= {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    env |= {"ALEXKERN_SKIP_CPU": "1"}  # it compiles for seconds: for tests that ask for it
    env |= {name: str(value) for name, value in settings.items()}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def install(tree: Path, target: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    options = ("--verbose", "--no-deps", "--no-build-isolation", "--target", target)
    return run(sys.executable, "-m", "pip", "install", *options, tree, cwd=tree.parent, **settings)


def make_venv(folder: Path) -> Path:
    """An interpreter that sees what is installed here, but not by the import hook of an editable alexkern."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    site = folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    (site / "outer.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    return folder / "bin/python"


def pip(interpreter: Path) -> tuple[object, ...]:
    """pip as it is here, for another interpreter, which need not have one."""
    return (sys.executable, "-m", "pip", "--python", interpreter)
