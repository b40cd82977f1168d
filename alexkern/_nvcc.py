"""Where nvcc is. setup.py runs this file by its path while the package is not there yet: the standard library only."""

from __future__ import annotations

import os
import shutil

DEFAULT_ROOT = "/usr/local/cuda"
PLACES = f"CUDACXX, CUDA_HOME, CUDA_PATH, PATH and {DEFAULT_ROOT}"


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
