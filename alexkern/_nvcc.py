"""Where nvcc is. setup.py runs this file by its path while the package is not there yet: the standard library only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

DEFAULT_ROOT = "/usr/local/cuda"
PLACES = f"CUDACXX, CUDA_HOME, CUDA_PATH, PATH and {DEFAULT_ROOT}"
MINIMUM = (12, 5)  # the first with cudaGetDriverEntryPointByVersion, which csrc/cuda/ptx/tensor_map.cuh calls


def release(nvcc: str) -> tuple[int, int] | None:
    """The CUDA release of a compiler; None where it does not say."""
    try:
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"release (\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None


def too_old(nvcc: str) -> str | None:
    """What is wrong with a compiler that is older than the kernels need; None with one that is not, or does not say."""
    found = release(nvcc)
    if found is None or found >= MINIMUM:
        return None
    return f"{nvcc} is of CUDA {found[0]}.{found[1]}, and the kernels need {MINIMUM[0]}.{MINIMUM[1]} or newer"


def find_nvcc() -> str | None:
    """The CUDA compiler that a build uses, or None.

    CUDACXX names the compiler itself and is taken at its word, so that a wrong one fails with its name; the others
    are searched in the order of PLACES, and one without an nvcc is passed over.
    """
    named = os.environ.get("CUDACXX")
    if named:
        return named
    homes = [root for root in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")) if root]
    folders = [os.path.join(root, "bin") for root in homes]
    folders += [os.environ.get("PATH", os.defpath), os.path.join(DEFAULT_ROOT, "bin")]
    return shutil.which("nvcc", path=os.pathsep.join(folders))
