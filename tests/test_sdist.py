"""The source distribution and the metadata: what they carry, and what they ask for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from support.installing import ROOT, run, script

HOME = "https://github.com/alexkern/alexkern"
OF_GIT_ALONE = {".gitignore", ".pre-commit-config.yaml"}
MADE = r"PKG-INFO|setup\.cfg|alexkern\.egg-info/.*"
JUNK = (
    "alexkern/_cuda.cpython-311-x86_64-linux-gnu.so", "alexkern/__pycache__/cli.cpython-311.pyc", "build/lib/old.py",
    "dist/alexkern-0.0.1.tar.gz", "examples/digits.safetensors", ".benchmarks/0001.json", "notes.txt",
)  # fmt: skip
LINKS = "\n![A picture](docs/a.png), [below](#use), [elsewhere](https://a.b)\n"  # of kinds that README need not have
BUILD = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"


@pytest.fixture(scope="module")
def files() -> list[str]:
    """Those that git has, less those that were deleted since."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("this is no checkout of git's, or git is not here")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def sdist(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution, unpacked, of a tree that has been worked in."""
    folder = tmp_path_factory.mktemp("sdist")
    for name in files:
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "tree" / name)
    for name in JUNK:
        script(folder / "tree" / name, "")
    with (folder / "tree/README.md").open("a", encoding="utf-8") as readme:
        readme.write(LINKS)
    done = run(sys.executable, "-c", BUILD, folder, cwd=folder / "tree", ALEXKERN_SKIP_CUDA=1)
    assert done.returncode == 0, done.stdout
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "out", filter="data")
    (unpacked,) = (folder / "out").iterdir()
    return unpacked


@pytest.fixture(scope="module")
def metadata(sdist: Path) -> EmailMessage:
    message = BytesParser(policy=default).parsebytes((sdist / "PKG-INFO").read_bytes())
    assert isinstance(message, EmailMessage)
    return message


def test_the_source_distribution_is_what_git_has(files: list[str], sdist: Path) -> None:
    carried = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    assert {name for name in carried if not re.fullmatch(MADE, name)} == set(files) - OF_GIT_ALONE


def test_every_link_of_the_package_page_is_absolute(sdist: Path, metadata: EmailMessage) -> None:
    page, readme = str(metadata.get_payload()), (sdist / "README.md").read_text(encoding="utf-8")
    assert metadata["Description-Content-Type"] == "text/markdown"
    links = re.findall(r"\]\(([^)]*)\)", page)
    assert len(links) == readme.count("](") > 50
    assert [link for link in links if not link.startswith("https://")] == []
    for link in (
        f"![A picture]({HOME}/raw/HEAD/docs/a.png)",
        f"[below]({HOME}/blob/HEAD/README.md#use)",
        "(https://a.b)",
    ):
        assert link in page
    relative = page.replace(f"{HOME}/raw/HEAD/", "").replace(f"{HOME}/blob/HEAD/", "").replace("](README.md#", "](#")
    assert relative.strip() == readme.strip()


def test_the_projects_addresses(metadata: EmailMessage) -> None:
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))
    assert set(urls) == {"Homepage", "Documentation", "Changelog", "Issues"}
    assert urls["Homepage"] == HOME and all(url.startswith(HOME) for url in urls.values())


def test_hints_name_extras(metadata: EmailMessage) -> None:
    """Of what the product asks for: a dependency by its name, anything else by the extra that brings it."""
    known = {f"'alexkern[{extra}]'" for extra in metadata.get_all("Provides-Extra", [])}
    known |= {Requirement(line).name for line in metadata.get_all("Requires-Dist", []) if "extra" not in line}
    for folder in ("alexkern", "kernels"):
        for path in (ROOT / folder).rglob("*.py"):
            hints = re.findall(r"\(pip install ([^,)]+)", path.read_text(encoding="utf-8"))
            assert set(hints) <= known, path


def test_an_install_takes_every_newer_torch_and_python(metadata: EmailMessage) -> None:
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    bounds = [SpecifierSet(metadata["Requires-Python"]), *(requirement.specifier for requirement in requirements)]
    assert {bound.operator for specifiers in bounds for bound in specifiers} == {">="}
    plain = {requirement.name: requirement for requirement in requirements if "extra" not in str(requirement.marker)}
    assert {"torch", "triton", "pytest", "pytest-benchmark"} <= set(plain) and "torchvision" not in plain
    for version in ("2.11.0", "2.13.0+cpu", "2.14.1", "2.15.0"):
        assert plain["torch"].specifier.contains(version), version
    assert plain["triton"].specifier.contains("3.6.0")
