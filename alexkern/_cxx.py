"""The C++ compiler of alexkern._cpu. setup.py runs this file by its path: the standard library only."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess

NAMES = ("c++", "g++", "clang++")  # CMake's order


def find_cxx() -> tuple[list[str], str]:
    """The command of GCC or Clang, whose vector extensions the sources are written in; or [] and why there is none."""
    named = os.environ.get("CXX")
    found = [path for name in NAMES if (path := shutil.which(name))]
    command = shlex.split(named) if named else found[:1]
    if not command:
        return [], f"no C++ compiler was found (looked at CXX, and in PATH for {', '.join(NAMES)})"
    macros = [*command, "-dM", "-E", "-x", "c++", os.devnull]
    try:
        said = subprocess.run(macros, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return [], f"the C++ compiler {shlex.join(command)} does not run ({error})"
    # One that has the name and fails is taken for what it is called: the build shows what it says.
    fails = said.returncode != 0 and re.search(r"(g|c|clang)\+\+", os.path.basename(command[-1]))
    if "__GNUC__" in said.stdout or fails:
        return command, ""
    return [], f"the C++ compiler {shlex.join(command)} is neither GCC nor Clang"
