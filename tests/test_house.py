"""The order of the house: what may import what, lowest first, and what holds everywhere, read off every module.

Imports inside functions and for types alone count too. Nothing imports upwards, and there are no circles.
"""

from __future__ import annotations

import ast
from collections.abc import Container
from functools import cache
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"alexkern": "alexkern", "kernels": "alexkern.kernels", "bench": "alexkern.bench"}  # folder: package
# Lowest first; a name stands for its package too. What shares a line may import one another, but in no circle.
ORDER = (
    ("_cxx", "_environment", "_nvcc", "_sources", "_trees", "_version", "arithmetic", "files", "geometry", "ranges"),
    ("plan", "errors", "augmentation", "accuracy", "cost", "cache", "console", "drawing", "optional", "processor"),
    ("backends.torch.philox",),
    ("measure", "references", "resampling", "verified"),
    ("backends.building", "backends.extension", "backends.way"),
    ("backends.torch", "backends.cpu", "backends.cuda", "kernels"),
    ("backends",),
    ("trusted", "measure.memory"),
    ("dispatch",),
    ("ops",),
    ("functional", "captures"),
    ("nn",),
    ("fuse", "frozen", "compiler"),
    ("compare", "info", "graph", "models", "verify"),
    ("",),  # the package's own face
    ("data", "export"),
    ("training",),
    ("commands",),
    ("bench", "tools"),
    ("cli",),
    ("__main__", "bench.__main__", "cost.__main__"),
)
# Where a module of ours may be imported by a name that is put together.
COMPUTED = {"alexkern.dispatch", "alexkern.backends.extension", "alexkern.cli"}
OTHERS = {"alexkern.optional"}  # imports what is not ours
# Above dispatch, who names a backend: what says which memory the CPU's holds, and what only developers run.
NAMING = ("", "info", "cost.__main__", "commands.tune", "tools", "bench")


def modules() -> dict[str, Path]:
    found = {}
    for folder, package in ROOMS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """The modules of ours that a file names in import statements, wherever they stand in it."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif called(node) and isinstance(node.args[0], ast.Constant):
            names = [str(node.args[0].value)]
        else:
            continue
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            found |= {name} if name else set()
    return found


@cache
def graph() -> dict[str, set[str]]:
    return {name: imports(path) - {name} for name, path in MODULES.items()}


@cache
def nodes(path: Path) -> list[ast.AST]:
    return [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


PLACES = {entry: place for place, entries in enumerate(ORDER) for entry in entries}


def entry(name: str, entries: Container[str]) -> str | None:
    """The longest of the entries that a module falls under; "" is the package's own face alone."""
    inner = name.removeprefix("alexkern").removeprefix(".")
    while inner not in entries:
        inner = inner.rpartition(".")[0]
        if not inner:
            return None
    return inner


def place(name: str) -> int:
    found = entry(name, PLACES)
    assert found is not None, f"{name} has no place in the order"
    return PLACES[found]


def test_nothing_imports_upwards() -> None:
    above = {(name, other) for name, others in graph().items() for other in others if place(other) > place(name)}
    assert not above, above


def test_above_dispatch_no_backend_is_imported_by_name() -> None:
    backends = tuple(f"alexkern.{name}" for name in ORDER[place("alexkern.backends.cpu")])
    named = {
        name
        for name, others in graph().items()
        if place(name) > place("alexkern.dispatch") and any(other.startswith(backends) for other in others)
    }
    assert not (found := {name for name in named if entry(name, NAMING) is None}), found


def test_tools_are_for_commands_and_the_bench_alone() -> None:
    users = {name for name, others in graph().items() if any(other.startswith("alexkern.tools") for other in others)}
    found = {name for name in users if entry(name, ("commands", "cost.__main__", "bench", "tools")) is None}
    assert users and not found, found


def test_there_are_no_circles() -> None:
    left = {name: set(others) for name, others in graph().items()}
    while leaves := {name for name, others in left.items() if not others}:
        left = {name: others - leaves for name, others in left.items() if name not in leaves}
    assert not left, {name: others for name, others in left.items()}


def called(node: ast.AST) -> TypeGuard[ast.Call]:
    """Whether it is a call of import_module or __import__."""
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in ("import_module", "__import__")


def computed_imports(path: Path) -> bool:
    """Whether a file calls import_module or __import__ with anything but a whole name."""
    return any(called(node) and not isinstance(node.args[0], ast.Constant) for node in nodes(path))


def test_modules_of_ours_have_computed_names_in_few_places() -> None:
    found = {name for name, path in MODULES.items() if computed_imports(path)}
    allowed = COMPUTED | OTHERS | {name for name in MODULES if name.startswith("alexkern.commands")}
    assert found <= allowed, found - allowed


def test_a_planted_import_is_found(tmp_path: Path) -> None:
    lazy = tmp_path / "lazy.py"
    lazy.write_text(
        "def call():\n    from alexkern.ops import conv2d_relu\n    import alexkern.nn as n\n"
        "    import_module('alexkern.fuse')\n"
    )
    assert imports(lazy) == {"alexkern.ops.conv2d_relu", "alexkern.nn", "alexkern.fuse"}
    nodes.cache_clear()
    lazy.write_text("import importlib\nimportlib.import_module(f'alexkern.{1}')\n")
    assert computed_imports(lazy)


def keywords(of: str) -> set[tuple[str, object]]:
    """Where a function of that name is called with `strict=` or `frozen=`, or with none: the module, and its value."""
    wanted = {"zip": "strict", "dataclass": "frozen"}[of]
    found = set()
    for name, path in MODULES.items():
        for node in nodes(path):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == of:
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                found.add((name, given.get(wanted)))
            elif isinstance(node, ast.ClassDef):
                found |= {(f"{name}.{node.name}", None) for one in node.decorator_list if ast.unparse(one).endswith(of)}
    return found


def test_what_is_zipped_is_of_one_length_but_in_few_places() -> None:
    others = {name for name, strict in keywords("zip") if strict != "True"}
    assert others == {"alexkern.tools.aot", "alexkern.cost.__main__", "alexkern.bench.layers"}


def test_records_are_frozen_but_those_that_grow() -> None:
    others = {name for name, frozen in keywords("dataclass") if frozen != "True"}
    assert others == {
        "alexkern.training.schedule.Schedule", "alexkern.training.trainer.Progress", "alexkern.data.batch.Batch",
        "alexkern.verify.report.Row", "alexkern.kernels.config.Rehearsal",
    }  # fmt: skip


def test_no_parameter_is_by_place_alone() -> None:
    found = {
        name
        for name, path in MODULES.items()
        for node in nodes(path)
        if isinstance(node, ast.arguments) and node.posonlyargs
    }
    assert found == {"alexkern.backends.way"}  # whose ways take different ones behind it
