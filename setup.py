"""Calls CMake for the native modules alexkern._cpu and alexkern._cuda, and maps kernels/ and bench/ into the package.

Everything else stands in pyproject.toml, and how the module is built in CMakeLists.txt. Read from the environment:

    ALEXKERN_*   see alexkern/_environment.py
    CXX, PATH                             where GCC or Clang is
    CUDACXX, CUDA_HOME, CUDA_PATH, PATH   where nvcc is; CUDAHOSTCXX, its host compiler
"""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shlex
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
CXX = runpy.run_path(str(ROOT / "alexkern" / "_cxx.py"))
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


def choose() -> dict[str, tuple[list[str], str]]:
    """Of each module the compiler to build it with, or [] and the reason."""
    nvcc = NVCC["find_nvcc"]()
    compilers = {
        "cpu": CXX["find_cxx"](),
        "cuda": ([nvcc], "") if nvcc else ([], f"nvcc was not found (looked at {NVCC['PLACES']})"),
    }
    for name in compilers:
        if read(skipping(name)):
            compilers[name] = [], f"{skipping(name)} was set"
    return compilers


def skipping(name: str) -> str:
    return f"ALEXKERN_SKIP_{name.upper()}"


def program(name: str, folder: str) -> str | None:
    """A build requirement's program, which need not be on PATH, or else the system's."""
    place = getattr(importlib.import_module(name), folder) if importlib.util.find_spec(name) else ""
    return shutil.which(os.path.join(place, name))


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
    """Says which module is not built: in the log and in the package, or, if asked for, as an error."""

    def run(self) -> None:
        if Path(self.build_lib).resolve().is_relative_to(ROOT / "build"):
            # A file deleted since the last build would still lie here, and come along.
            shutil.rmtree(self.build_lib, ignore_errors=True)
        if read("ALEXKERN_REQUIRE_CUDA") and not COMPILERS["cuda"][0]:
            raise SystemExit(f"alexkern: ALEXKERN_REQUIRE_CUDA is set, but {COMPILERS['cuda'][1]}")
        super().run()
        package = (ROOT if self.editable_mode else Path(self.build_lib)) / "alexkern"
        if self.editable_mode:
            # What earlier editable installs left in the source tree, for this Python and others, is stale now.
            for module in package.glob("_*.so"):
                module.unlink()
        for name, (compiler, why_not) in COMPILERS.items():
            record = SOURCES["not_built"](package, name)
            record.unlink(missing_ok=True)
            if not compiler:
                print(f"alexkern: installing without alexkern._{name}: {why_not}", flush=True)
                record.write_text(why_not, encoding="utf-8")


class BuildNative(build_ext):
    def build_extension(self, ext: Extension) -> None:
        name = ext.name.removeprefix("alexkern._")
        pybind11, cmake, ninja = find_tools()
        self._try_compiler(name)
        build = self._build_folder(name)
        settings = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_MAKE_PROGRAM": ninja,
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11,
            "ALEXKERN_MODULE": name,
            "ALEXKERN_VERSION": self.distribution.get_version(),
            "ALEXKERN_SOURCES": SOURCES["digest"](ROOT, name),
            "ALEXKERN_OUTPUT_DIR": Path(self.get_ext_fullpath(ext.name)).resolve().parent,
        }
        if name == "cuda":
            settings["CMAKE_CUDA_COMPILER"] = COMPILERS["cuda"][0][0]
            settings["ALEXKERN_CUDA_ARCHS"] = ";".join(read("ALEXKERN_CUDA_ARCHS"))
        defines = [f"-D{key}={value}" for key, value in settings.items()]
        self._call(name, [cmake, "-G", "Ninja", "-S", str(ROOT), "-B", build, *defines])
        self._call(name, [cmake, "--build", build])

    def _try_compiler(self, name: str) -> None:
        """Compile an empty file: CMake buries or swallows what a broken compiler says, and this prints nothing else."""
        compiler, flags = COMPILERS[name][0], ["-x", "c++"]
        if name == "cuda":
            if problem := NVCC["too_old"](compiler[0]):
                raise SystemExit(f"alexkern: {problem}. {skipping(name)}=1 installs without alexkern._cuda.")
            flags = ["-ccbin", os.environ["CUDAHOSTCXX"]] if os.environ.get("CUDAHOSTCXX") else []
            flags += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in read("ALEXKERN_CUDA_ARCHS")]
            flags += ["-x", "cu"]
        os.makedirs(self.build_temp, exist_ok=True)
        self._call(name, [*compiler, *flags, "-c", os.devnull, "-o", os.path.join(self.build_temp, "trial.o")])

    def _build_folder(self, name: str) -> str:
        """One folder for all builds alike, so that unchanged sources are not compiled again, named after everything
        that CMake reads on its first run only."""
        version = subprocess.run([*COMPILERS[name][0], "--version"], capture_output=True, text=True).stdout
        read_once = [version, *(os.environ.get(variable, "") for variable in READ_ONCE_BY_CMAKE)]
        return str(ROOT / "build" / f"{name}-{sys.implementation.cache_tag}-{crc32(repr(read_once).encode()):08x}")

    def _call(self, name: str, command: list[str]) -> None:
        print("alexkern:", *command, flush=True)
        try:
            failed = subprocess.run(command).returncode != 0
        except OSError as error:
            print(error, flush=True)
            failed = True
        if failed:
            # SystemExit: after any other exception setuptools prints its own traceback below the compiler's message.
            raise SystemExit(
                f"alexkern: the build of alexkern._{name} with {shlex.join(COMPILERS[name][0])} failed, for the reason "
                f"printed above. {skipping(name)}=1 installs without it."
            )


if problem := wanting("setuptools", setuptools.__version__):
    raise SystemExit(problem)
COMPILERS = choose()
packages = find_packages(include=["alexkern", "alexkern.*"])
for name, folder in MAPPED.items():
    packages += [name, *(f"{name}.{child}" for child in find_packages(folder))]

setup(
    long_description=description(),
    long_description_content_type="text/markdown",
    packages=packages,
    package_dir={"alexkern": "alexkern", **MAPPED},
    ext_modules=[Extension(f"alexkern._{name}", sources=[]) for name in COMPILERS if COMPILERS[name][0]],
    cmdclass={"build_py": BuildPackage, "build_ext": BuildNative},
)
