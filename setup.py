"""Calls CMake for the native module alexkern._C, and maps kernels/ and bench/ into the package.

Everything else stands in pyproject.toml, and how the module is built in CMakeLists.txt. Read from the environment:

    ALEXKERN_*   see alexkern/_environment.py
    CUDACXX, CUDA_HOME, CUDA_PATH, PATH   where nvcc is; CUDAHOSTCXX, its host compiler
"""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import setuptools
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MAPPED = {"alexkern.kernels": "kernels", "alexkern.bench": "bench"}
READ_ONCE_BY_CMAKE = ("CXX", "CXXFLAGS", "CUDAHOSTCXX", "CUDAFLAGS", "LDFLAGS")
NVCC = runpy.run_path(str(ROOT / "alexkern" / "_nvcc.py"))
SOURCES = runpy.run_path(str(ROOT / "alexkern" / "_sources.py"))
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
BUILD_REQUIREMENTS = dict(re.findall(r'"([a-z0-9]+)(?:>=([\d.]+))?"', re.findall(r"^requires = .*", PROJECT, re.M)[0]))
ENVIRONMENT = runpy.run_path(str(ROOT / "alexkern" / "_environment.py"))
read = ENVIRONMENT["read"]
try:
    ENVIRONMENT["check"]()
except ValueError as error:
    raise SystemExit(f"alexkern: {error}") from None


def choose_nvcc() -> tuple[str | None, str]:
    """The compiler to build with, or None and the reason."""
    if read("ALEXKERN_SKIP_CUDA"):
        return None, "ALEXKERN_SKIP_CUDA was set"
    return NVCC["find_nvcc"](), f"nvcc was not found (looked at {NVCC['PLACES']})"


def program(name: str, folder: str) -> str | None:
    """A build requirement's program, which need not be on PATH, or else the system's."""
    if importlib.util.find_spec(name):
        return os.path.join(getattr(importlib.import_module(name), folder), name)
    return shutil.which(name)


def wanting(name: str, here: str) -> str | None:
    """One line if there is no version of a build requirement in `here`, or one older than pyproject.toml has it."""
    lowest = BUILD_REQUIREMENTS[name]
    wanted = f"{name}>={lowest}" if lowest else name
    version = re.search(r"\d+(\.\d+)+", here)
    if version and [*map(int, version[0].split("."))] >= [*map(int, (lowest or "0").split("."))]:
        return None
    return f"alexkern is built with {wanted}, and {version[0] if version else 'none'} is here: pip install '{wanted}'"


def find_tools() -> tuple[str, str, str]:
    """The folder of pybind11's CMake files, cmake and ninja; or the end, with a line for each that is to be installed.

    pip looks after them only where it isolates the build.
    """
    pybind11 = importlib.import_module("pybind11") if importlib.util.find_spec("pybind11") else None
    here = {"pybind11": pybind11.__version__ if pybind11 else ""}
    programs = {"cmake": program("cmake", "CMAKE_BIN_DIR"), "ninja": program("ninja", "BIN_DIR")}
    for name, path in programs.items():
        here[name] = subprocess.run([path, "--version"], capture_output=True, text=True).stdout if path else ""
    if problems := [line for line in map(wanting, here, here.values()) if line]:
        raise SystemExit("\n".join(problems))
    return pybind11.get_cmake_dir(), programs["cmake"], programs["ninja"]


def description() -> str:
    """README for a package page, which has none of the files that its links lead to: with absolute ones."""
    home = re.findall(r'^Homepage = "(.*)"', PROJECT, re.M)[0]
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("](#", "](README.md#")
    text = re.sub(r"(!\[[^\]]*\]\()(?!\w+:)", rf"\1{home}/raw/HEAD/", text)
    return re.sub(r"(\]\()(?!\w+:)", rf"\1{home}/blob/HEAD/", text)


class BuildPackage(build_py):
    """Says that there is no native module to build: in the log and beside _native.py, or, if asked for, as an error."""

    def run(self) -> None:
        if Path(self.build_lib).resolve().is_relative_to(ROOT / "build"):
            # A file deleted since the last build would still lie here, and come along.
            shutil.rmtree(self.build_lib, ignore_errors=True)
        if nvcc is None:
            if read("ALEXKERN_REQUIRE_CUDA"):
                raise SystemExit(f"alexkern: ALEXKERN_REQUIRE_CUDA is set, but {why_not}")
            print(f"alexkern: installing without the cuda backend: {why_not}", flush=True)
        if self.editable_mode:
            # What earlier editable installs left in the source tree, for this Python and others, is stale now.
            for module in (ROOT / "alexkern").glob("_C.*"):
                module.unlink()
        super().run()
        record = (ROOT if self.editable_mode else Path(self.build_lib)) / "alexkern" / NVCC["NOT_BUILT"]
        record.unlink(missing_ok=True)
        if nvcc is None:
            record.write_text(why_not, encoding="utf-8")


class BuildNative(build_ext):
    def build_extension(self, ext: Extension) -> None:
        pybind11, cmake, ninja = find_tools()
        self._try_compiler()
        build = self._build_folder()
        settings = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_CUDA_COMPILER": nvcc,
            "CMAKE_MAKE_PROGRAM": ninja,
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11,
            "ALEXKERN_CUDA_ARCHS": ";".join(read("ALEXKERN_CUDA_ARCHS")),
            "ALEXKERN_VERSION": self.distribution.get_version(),
            "ALEXKERN_SOURCES": SOURCES["digest"](ROOT),
            "ALEXKERN_OUTPUT_DIR": Path(self.get_ext_fullpath(ext.name)).resolve().parent,
        }
        defines = [f"-D{name}={value}" for name, value in settings.items()]
        self._call([cmake, "-G", "Ninja", "-S", str(ROOT), "-B", build, *defines])
        self._call([cmake, "--build", build])

    def _try_compiler(self) -> None:
        """Compile an empty file: CMake buries or swallows what a broken compiler says, and this prints nothing else."""
        problem = NVCC["too_old"](nvcc)
        if problem:
            raise SystemExit(f"alexkern: {problem}. ALEXKERN_SKIP_CUDA=1 installs without the cuda backend.")
        os.makedirs(self.build_temp, exist_ok=True)
        flags = ["-ccbin", os.environ["CUDAHOSTCXX"]] if os.environ.get("CUDAHOSTCXX") else []
        flags += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in read("ALEXKERN_CUDA_ARCHS")]
        self._call([nvcc, *flags, "-x", "cu", "-c", os.devnull, "-o", os.path.join(self.build_temp, "trial.o")])

    def _build_folder(self) -> str:
        """One folder for all builds alike, so that unchanged kernels are not compiled again, named after everything
        that CMake reads on its first run only."""
        version = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
        read_once = [version, *(os.environ.get(name, "") for name in READ_ONCE_BY_CMAKE)]
        return str(ROOT / "build" / f"native-{sys.implementation.cache_tag}-{crc32(repr(read_once).encode()):08x}")

    def _call(self, command: list[str]) -> None:
        print("alexkern:", *command, flush=True)
        try:
            failed = subprocess.run(command).returncode != 0
        except OSError as error:
            print(error, flush=True)
            failed = True
        if failed:
            # SystemExit: after any other exception setuptools prints its own traceback below the compiler's message.
            raise SystemExit(
                f"alexkern: the native build with {nvcc} failed, for the reason printed above. "
                "ALEXKERN_SKIP_CUDA=1 installs without the cuda backend."
            )


if problem := wanting("setuptools", setuptools.__version__):
    raise SystemExit(problem)
nvcc, why_not = choose_nvcc()
packages = find_packages(include=["alexkern", "alexkern.*"])
for name, folder in MAPPED.items():
    packages += [name, *(f"{name}.{child}" for child in find_packages(folder))]

setup(
    long_description=description(),
    long_description_content_type="text/markdown",
    packages=packages,
    package_dir={"alexkern": "alexkern", **MAPPED},
    ext_modules=[Extension("alexkern._C", sources=[])] if nvcc else [],
    cmdclass={"build_py": BuildPackage, "build_ext": BuildNative},
)
