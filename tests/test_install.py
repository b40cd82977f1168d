"""The install, by real pip runs on copies of the tree: with nvcc, without, with a broken one, skipped and required."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest

from alexkern._cxx import find_cxx
from alexkern._nvcc import MINIMUM, find_nvcc, release, too_old
from support.installing import ROOT, copy_tree, install, make_venv, pip, run, script

TRITON = find_spec("triton")  # brings NVIDIA's cuobjdump along
CUOBJDUMP = Path(TRITON.origin).parent / "backends/nvidia/bin/cuobjdump" if TRITON and TRITON.origin else None
BROKEN_NVCC = "#!/bin/sh\necho 'nvcc fatal : no libdevice to be found' >&2\nexit 1\n"

needs_nvcc = pytest.mark.skipif(find_nvcc() is None, reason="nvcc is not here")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return copy_tree(tmp_path / "tree")


@pytest.fixture(scope="module")
def built_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tree for the tests that build the native module: what one has compiled, the next need not."""
    return copy_tree(tmp_path_factory.mktemp("built") / "tree")


@pytest.fixture
def bare_tree(tree: Path) -> Path:
    """A tree that finds no toolkit in the default place, whatever this machine has there."""
    search = tree / "alexkern" / "_nvcc.py"
    text = search.read_text()
    assert '"/usr/local/cuda"' in text
    search.write_text(text.replace('"/usr/local/cuda"', '"/nowhere/cuda"'))
    return tree


def failure(tree: Path, **settings: object) -> str:
    """What an install says that fails."""
    done = install(tree, tree.parent / "target", **settings)
    assert done.returncode != 0 and "Traceback" not in done.stdout, done.stdout
    return done.stdout


def test_nvcc_absent_installs_without_the_native_module_and_says_so(bare_tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    done = install(bare_tree, target, PATH=tmp_path / "empty")
    assert done.returncode == 0, done.stdout
    assert "alexkern: installing without alexkern._cuda: nvcc was not found" in done.stdout
    assert not list(target.rglob("_*.so"))
    assert "Root-Is-Purelib: true" in next(target.glob("*.dist-info/WHEEL")).read_text()
    command = (make_venv(tmp_path / "venv"), "-c", "import alexkern; print(alexkern.info())")
    report = run(*command, cwd=tmp_path, PYTHONPATH=target, PATH=tmp_path / "empty")
    wanted = "alexkern._cuda was not built: at the install nvcc was not found (looked at "
    assert report.stdout.count(wanted) == 1, report.stdout
    (record,) = target.glob("*.dist-info/RECORD")
    assert "alexkern/_cuda_not_built," in record.read_text()  # so that an uninstall removes it


def test_nvcc_broken_is_an_error_with_its_own_message(tree: Path, tmp_path: Path) -> None:
    nvcc = script(tmp_path / "cuda/bin/nvcc", BROKEN_NVCC)
    message, _, after = failure(tree, CUDA_HOME=tmp_path / "cuda").partition("nvcc fatal : no libdevice to be found")
    assert str(nvcc) in message
    assert f"alexkern: the build of alexkern._cuda with {nvcc} failed" in after
    assert len(after.splitlines()) < 20, "the compiler's message is buried"


REQUIRED = "alexkern: ALEXKERN_REQUIRE_CUDA is set, but "
ARCHS = "targets of compute capability 8.0 or more, such as 80;90a or 8.0;9.0a+PTX"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"PATH": "/nowhere", "ALEXKERN_REQUIRE_CUDA": 1}, f"{REQUIRED}nvcc was not found"),
        ({"ALEXKERN_SKIP_CUDA": 1, "ALEXKERN_REQUIRE_CUDA": 1}, f"{REQUIRED}ALEXKERN_SKIP_CUDA was set"),
        (
            {"ALEXKERN_SKIP_CUDA": "maybe"},
            "alexkern: ALEXKERN_SKIP_CUDA must be one of 1, true, yes, on, 0, false, no, off, got 'maybe'\n",
        ),
        ({"ALEXKERN_CUDA_ARCHS": 75}, f"alexkern: ALEXKERN_CUDA_ARCHS must be {ARCHS}, got '75'\n"),
        ({}, "alexkern: {} is of CUDA 12.4, and the kernels need 12.5 or newer. ALEXKERN_SKIP_CUDA=1"),
    ],
    ids=["absent but required", "skipped and required", "a wrong switch", "wrong targets", "too old"],
)
def test_an_error_of_one_line_before_anything_is_compiled(
    settings: dict[str, object], line: str, bare_tree: Path, tmp_path: Path
) -> None:
    says = f"[ $1 = --version ] || touch {tmp_path}/started\necho 'Cuda compilation tools, release 12.4, V12.4.131'"
    nvcc = script(tmp_path / "nvcc", f"#!/bin/sh\n{says}\n")
    said = failure(bare_tree, **({} if "PATH" in settings else {"CUDACXX": nvcc}), **settings)
    assert said.count(line.format(nvcc)) == 1, said
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("another", "the C++ compiler another is neither GCC nor Clang"),
        ("none", "the C++ compiler none does not run ([Errno 2] No such file or directory: 'none')"),
    ],
)
def test_without_compilers_the_install_goes_on(compiler: str, reason: str, tree: Path, tmp_path: Path) -> None:
    """And says why. An nvcc that is skipped is not even started."""
    script(tmp_path / "cuda/bin/nvcc", BROKEN_NVCC)
    script(tmp_path / "another", "#!/bin/sh\necho '#define _MSC_VER 1944'\n")
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    settings = {"CXX": compiler, "PATH": path, "ALEXKERN_SKIP_CPU": 0, "ALEXKERN_SKIP_CUDA": 1}
    done = install(tree, tmp_path / "target", CUDA_HOME=tmp_path / "cuda", **settings)
    assert done.returncode == 0, done.stdout
    for module, why in (("_cpu", reason), ("_cuda", "ALEXKERN_SKIP_CUDA was set")):
        assert f"alexkern: installing without alexkern.{module}: {why}\n" in done.stdout
        assert (tmp_path / f"target/alexkern/{module}_not_built").read_text() == why
    assert not list((tmp_path / "target").rglob("_*.so"))


def test_a_cxx_that_fails_is_an_error_with_its_own_message(tree: Path, tmp_path: Path) -> None:
    compiler = script(tmp_path / "g++", "#!/bin/sh\necho 'g++: fatal error: no cc1plus' >&2\nexit 1\n")
    said = failure(tree, CXX=compiler, ALEXKERN_SKIP_CPU=0, ALEXKERN_SKIP_CUDA=1)
    _, _, after = said.partition("g++: fatal error: no cc1plus")
    wanted = f"the build of alexkern._cpu with {compiler} failed, for the reason printed above. ALEXKERN_SKIP_CPU=1"
    assert wanted in after


NEW_KERNEL = """
#include "../isa.h"

template <alexkern::Isa>
int answer();
template <>
int answer<alexkern::Isa::ALEXKERN_ISA>() { return 42; }
"""
NEW_BINDING = """
#include "../../binding.h"
#include "../isa.h"

template <alexkern::Isa>
int answer();
const alexkern::Binding binding([](pybind11::module_& module) {
    module.def("answer", [] { return alexkern::on_isa([](auto isa) { return answer<isa>(); }); });
});
"""


@pytest.mark.full
@pytest.mark.skipif(not find_cxx()[0], reason=find_cxx()[1])
def test_the_module_for_the_processor_needs_no_nvcc(bare_tree: Path, tmp_path: Path) -> None:
    """Its kernels are left out here: it would take long to compile them. One in a new folder needs nothing outside."""
    for source in (bare_tree / "csrc/cpu").glob("*/*.cpp"):
        source.write_text("")
    for binding in (bare_tree / "csrc/cpu").glob("*/bind.h"):
        binding.unlink()
    script(bare_tree / "csrc/cpu/new/new.cpp", NEW_KERNEL)
    script(bare_tree / "csrc/cpu/new/bind.h", NEW_BINDING)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in (find_cxx()[0][0], "as", "ld", "ninja"):
        if path := shutil.which(name):
            (programs / Path(name).name).symlink_to(path)
    done = install(bare_tree, tmp_path / "target", PATH=programs, ALEXKERN_SKIP_CPU=0)
    assert done.returncode == 0, done.stdout
    assert "installing without alexkern._cuda: nvcc was not found" in done.stdout
    code = "from alexkern import _cpu; print(_cpu.__version__, _cpu.answer())"
    done = run(make_venv(tmp_path / "venv"), "-c", code, cwd=tmp_path, PYTHONPATH=tmp_path / "target")
    assert done.stdout.split()[-1] == "42", done.stdout


def test_the_lowest_nvcc_is_the_same_everywhere() -> None:
    lowest = ".".join(map(str, MINIMUM))
    assert f"find_package(CUDAToolkit {lowest} REQUIRED)" in (ROOT / "CMakeLists.txt").read_text()
    assert f"nvcc of CUDA {lowest} or newer" in (ROOT / "docs/environment.md").read_text()


def hide(venv: Path, *names: str) -> Path:
    """What is installed here as the interpreter `venv` sees it, less some packages."""
    (outer,) = venv.parent.parent.glob("lib/*/site-packages/outer.pth")
    shown = venv.parent.parent / "shown"
    shown.mkdir()
    for folder in outer.read_text().splitlines():
        for entry in Path(folder).iterdir():
            package = re.split(r"[-.]", entry.name)[0]
            if package not in names and entry.suffix != ".pth" and not (shown / entry.name).exists():
                (shown / entry.name).symlink_to(entry)
    outer.write_text(str(shown))
    return shown


def refusal(interpreter: Path, tree: Path, folder: Path, **settings: object) -> list[str]:
    """What alexkern says of an install without build isolation that fails."""
    script(folder / "cuda/bin/nvcc", "#!/bin/sh\n")
    options = ("--no-deps", "--no-build-isolation", "--target", folder / "target")
    done = run(*pip(interpreter), "install", *options, tree, cwd=folder, CUDA_HOME=folder / "cuda", **settings)
    assert done.returncode != 0 and "Traceback" not in done.stdout, done.stdout
    return [line.strip() for line in done.stdout.splitlines() if "alexkern is " in line]


def test_without_its_build_tools_the_install_names_each(tree: Path, tmp_path: Path) -> None:
    interpreter = make_venv(tmp_path / "venv")
    hide(interpreter, "pybind11", "cmake", "ninja")
    programs = tmp_path / "programs"
    programs.mkdir()
    assert refusal(interpreter, tree, tmp_path, PATH=programs) == [
        "alexkern is built with pybind11>=2.13, and none is here: pip install 'pybind11>=2.13'",
        "alexkern is built with cmake>=3.26, and none is here: pip install 'cmake>=3.26'",
        "alexkern is built with ninja, and none is here: pip install 'ninja'",
    ]
    script(programs / "cmake", "#!/bin/sh\necho 'cmake version 3.9.4'\n")
    script(programs / "ninja", "#!/bin/sh\necho 1.10.0\n")
    assert refusal(interpreter, tree, tmp_path, PATH=programs)[1:] == [
        "alexkern is built with cmake>=3.26, and 3.9.4 is here: pip install 'cmake>=3.26'",
    ]


def test_a_setuptools_too_old_for_pyproject_is_named(tree: Path, tmp_path: Path) -> None:
    interpreter = make_venv(tmp_path / "venv")
    shown = hide(interpreter)
    (metadata,) = shown.glob("setuptools-*.dist-info")
    metadata.unlink()
    script(shown / "setuptools-69.5.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: setuptools\nVersion: 69.5.1\n")
    assert refusal(interpreter, tree, tmp_path, ALEXKERN_SKIP_CUDA=1) == [
        "alexkern is built with setuptools>=77, and 69.5.1 is here: pip install 'setuptools>=77'"
    ]


@needs_nvcc
def test_a_kernel_that_does_not_compile_is_an_error_with_the_compilers_message(tree: Path, tmp_path: Path) -> None:
    # In a new operator's folder: this also shows that the build picks such a folder up.
    (tree / "csrc/cuda/bindings.cpp").write_text("")
    for source in (*tree.glob("csrc/**/*.cu"), *tree.glob("csrc/cuda/*/bind.h")):
        source.unlink()  # they would take long to compile
    script(tree / "csrc/cuda/new_operator/forward.cu", "#error this kernel is broken\n")
    assert "error: #error this kernel is broken" in failure(tree, ALEXKERN_CUDA_ARCHS=80)


@pytest.mark.full
@needs_nvcc
def test_wheel_works_away_from_the_tree(built_tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    done = install(built_tree, target, ALEXKERN_REQUIRE_CUDA="yes", ALEXKERN_CUDA_ARCHS="8.0+PTX")
    assert done.returncode == 0, done.stdout

    native = target / "alexkern" / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    assert not [name for name in (b"libtorch", b"libc10", b"libcudart.so") if name in native.read_bytes()]
    if CUOBJDUMP is not None:
        built_in = run(CUOBJDUMP, "--list-elf", "--list-ptx", native, cwd=tmp_path).stdout
        assert set(re.findall(r"sm_\w+\.(?:cubin|ptx)", built_in)) == {"sm_80.cubin", "sm_80.ptx"}
    assert (target / "alexkern/py.typed").exists()
    assert not (target / "kernels").exists() and not (target / "bench").exists()
    code = """
        import alexkern, alexkern.bench, alexkern.kernels
        from alexkern import _cuda
        assert _cuda.__version__ == alexkern.__version__
        assert _cuda.targets == ("sm_80", "compute_80"), _cuda.targets
        assert _cuda.driver_version() is None or _cuda.driver_version() >= (1, 0)
        print(alexkern.__file__, alexkern.kernels.__file__, alexkern.bench.__file__)
        print(alexkern.info())
    """
    interpreter = make_venv(tmp_path / "venv")
    done = run(interpreter, "-c", textwrap.dedent(code), cwd=tmp_path, PYTHONPATH=target)
    assert done.returncode == 0, done.stdout
    for file in ("alexkern/__init__.py", "alexkern/kernels/__init__.py", "alexkern/bench/__init__.py"):
        assert str(target / file) in done.stdout
    assert "for sm_80, compute_80; needs a driver for CUDA" in done.stdout
    done = run(interpreter, "-m", "alexkern", "learn", "4", cwd=tmp_path, PYTHONPATH=target)
    assert done.returncode == 2 and "alexkern learn: the ladder is in the source tree" in done.stdout


@pytest.mark.full
@needs_nvcc
def test_editable_install_follows_the_tree_and_drops_a_skipped_module(built_tree: Path, tmp_path: Path) -> None:
    tree = built_tree
    interpreter = make_venv(tmp_path / "venv")
    options = ("install", "--verbose", "--no-deps", "--no-build-isolation", "--editable", tree)

    (tree / "alexkern/_cuda.cpython-27-other.so").touch()
    done = run(*pip(interpreter), *options, cwd=tmp_path, ALEXKERN_CUDA_ARCHS="80")
    assert done.returncode == 0, done.stdout
    (native,) = (tree / "alexkern").glob("_*.so")
    assert native.name == f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    (tree / "kernels/added_later.py").write_text("answer = 42\n")
    code = "import alexkern, alexkern.kernels.added_later as new; print(alexkern.__file__, new.__file__, new.answer)"
    done = run(interpreter, "-c", code, cwd=tmp_path)
    assert done.stdout.split() == [str(tree / "alexkern/__init__.py"), str(tree / "kernels/added_later.py"), "42"]
    done = run(interpreter.parent / "alexkern", "info", cwd=tmp_path)
    assert done.returncode == 0 and "for sm_80, compute_80; needs a driver" in done.stdout, done.stdout
    bindings = tree / "csrc/cuda/bindings.cpp"
    text = bindings.read_text()
    bindings.write_text(f"{text}// changed\n")
    done = run(interpreter.parent / "alexkern", "info", cwd=tmp_path)
    assert "none: alexkern._cuda was built from other sources" in done.stdout, done.stdout
    bindings.write_text(text)

    done = run(*pip(interpreter), *options, cwd=tmp_path, ALEXKERN_SKIP_CUDA=1)
    assert done.returncode == 0, done.stdout
    assert not list((tree / "alexkern").glob("_*.so"))
    done = run(interpreter.parent / "alexkern", "info", cwd=tmp_path)
    assert "was not built: at the install ALEXKERN_SKIP_CUDA was set; mend that" in done.stdout


@needs_nvcc
def test_targets_are_those_asked_for_or_the_gpus_here_or_the_default(tree: Path, tmp_path: Path) -> None:
    import cmake
    import pybind11

    command = [Path(cmake.CMAKE_BIN_DIR) / "cmake", "-G", "Ninja", "-S", tree, "-B", tmp_path / "build"]
    command += [f"-DCMAKE_CUDA_COMPILER={find_nvcc()}", f"-DPython_EXECUTABLE={sys.executable}"]
    command += ["-DALEXKERN_MODULE=cuda", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"], sysconfig.get_path("scripts")])

    def configure(*gpus: str, archs: str = "") -> str:
        script(tmp_path / "bin/nvidia-smi", f"#!/bin/sh\nprintf '%s\\n' {' '.join(gpus)}\n")
        return run(*command, f"-DALEXKERN_CUDA_ARCHS={archs}", cwd=tmp_path, PATH=path).stdout

    # 7.5 is too old for any kernel, and 99.0 too new for this nvcc: compute_80 serves it.
    assert "CUDA targets: sm_90a sm_86 compute_80\n" in configure("9.0", "8.6", "7.5", "99.0", "9.0")
    assert "CUDA targets: sm_80 sm_90a compute_80\n" in configure("7.5")
    assert "CUDA targets: sm_80 compute_80\n" in configure("9.0", archs="80")
    assert "CUDA targets: sm_90a sm_80 compute_80\n" in configure(archs="90a;80")
    for wrong in ("sm_90", "75"):
        assert f"targets from 80 on, such as 80;90a, got {wrong}\n" in configure(archs=f"80;{wrong}")


def test_nvcc_is_searched_in_the_order_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("alexkern._nvcc.DEFAULT_ROOT", str(tmp_path / "default"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert find_nvcc() is None
    nvcc = {}
    for name in ("default/bin", "path", "a/bin", "b/bin"):
        nvcc[name] = str(script(tmp_path / name / "nvcc", BROKEN_NVCC))
    (tmp_path / "path/nvcc").unlink()
    assert find_nvcc() == nvcc["default/bin"]
    script(tmp_path / "path/nvcc", BROKEN_NVCC)
    assert find_nvcc() == nvcc["path"]
    for variable, value, found in (
        ("CUDA_PATH", tmp_path / "a", nvcc["a/bin"]),
        ("CUDA_HOME", tmp_path / "b", nvcc["b/bin"]),
        ("CUDA_HOME", tmp_path / "a root without nvcc", nvcc["a/bin"]),
        ("CUDACXX", "/taken/at/its/word", "/taken/at/its/word"),
    ):
        monkeypatch.setenv(variable, str(value))
        assert find_nvcc() == found


def test_kernels_cannot_be_imported_under_a_second_name() -> None:
    done = run(sys.executable, "-c", "import kernels", cwd=ROOT)
    assert done.returncode != 0
    assert done.stdout.splitlines()[-1] == (
        "ImportError: import kernels: the Triton kernels are the package alexkern.kernels; import that instead"
    )


GNU, OTHER = 'echo "#define __GNUC__ 13"', 'echo "#define _MSC_VER 1"'


@pytest.mark.parametrize(
    ("named", "programs", "found", "reason"),
    [
        (None, {"c++": GNU, "g++": OTHER}, ["c++"], ""),
        (None, {"g++": GNU, "clang++": OTHER}, ["g++"], ""),
        (None, {"clang++": GNU}, ["clang++"], ""),
        ("own -O1", {"own": GNU, "c++": OTHER}, ["own", "-O1"], ""),
        ("none-there", {"c++": GNU}, [], "the C++ compiler none-there does not run"),
        (None, {"c++": OTHER}, [], "is neither GCC nor Clang"),
        (None, {"c++": "exit 1"}, ["c++"], ""),
        ("my-g++", {"my-g++": "exit 1"}, ["my-g++"], ""),
        ("own", {"own": "exit 1"}, [], "the C++ compiler own is neither GCC nor Clang"),
        (None, {}, [], "no C++ compiler was found (looked at CXX, and in PATH for c++, g++, clang++)"),
    ],
)
def test_which_compiler_is_found(
    named: str | None, programs: dict[str, str], found: list[str], reason: str, tmp_path: Path, monkeypatch
) -> None:
    """The one that is named, else the first there is; one that fails is taken for what it is called."""
    for name, text in programs.items():
        script(tmp_path / name, f"#!/bin/sh\n{text}\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    if named:
        monkeypatch.setenv("CXX", named)
    command, why = find_cxx()
    assert [Path(word).name for word in command] == found and reason in why and bool(why) == bool(reason)


@pytest.mark.parametrize(
    ("says", "found", "old"),
    [
        ("release 12.4, V12.4.1", (12, 4), True), ("release 12.5, V12.5.1", (12, 5), False),
        ("release 13.0", (13, 0), False), ("release 9.9", (9, 9), True), ("nothing", None, False),
    ],
)  # fmt: skip
def test_which_nvcc_is_too_old(says: str, found: tuple[int, int] | None, old: bool, tmp_path: Path) -> None:
    nvcc = script(tmp_path / "nvcc", f"#!/bin/sh\necho 'Cuda compilation tools, {says}'\n")
    assert release(str(nvcc)) == found and release(str(tmp_path / "none")) is None
    words = f"{nvcc} is of CUDA {says.split()[1].rstrip(',')}, and the kernels need 12.5 or newer" if old else None
    assert too_old(str(nvcc)) == words
