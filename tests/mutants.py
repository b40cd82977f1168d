"""`make mutants N=50 SEED=1`: plants N small slips, one at a time, and names those that the tests let pass.

A slip is drawn by the seed: of a group of files, a file, a place. Python's come from cosmic-ray (the extra [mutants]),
those of Triton and C++, and swapped sides everywhere, from SLIPS. For each, the tests of its file are run for at most
LIMIT seconds of a processor: one that fails has killed it. A build that fails decides nothing, nor do tests that are
stopped before those that are surest to find it have passed.

The file is changed where it lies and put back, also by the next run if this one is killed; a file with changes of your
own is left alone. What was found stands in build/mutants/SEED.jsonl, and a run goes on behind it. To plant one again:
`python tests/mutants.py --seed 1 --only 17`, and --keep leaves it planted.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import random
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as tests/conftest.py has it, before torch is imported
import pytest  # noqa: E402
import torch  # noqa: E402, F401

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import test_house as house  # noqa: E402

SOURCES = runpy.run_path(str(ROOT / "alexkern" / "_sources.py"))
OPERATORS = [path.stem for path in (ROOT / "alexkern" / "references").glob("[a-z]*.py")]
FOLDER = ROOT / "build" / "mutants"
# Of each group as many: where the numbers are made, and what brings tensors there.
GROUPS = {
    "python": ("alexkern/**/*.py", "bench/**/*.py"),
    "triton": ("kernels/*.py",),
    "cpu": ("csrc/cpu/*/*.cpp", "csrc/cpu/*/*.h"),
    "cuda": ("csrc/cuda/*/*.cu", "csrc/cuda/*/*.cuh"),
}
# What is written for what: sides and the like both ways, a narrow integer for a wide one.
PAIRS = """h/w H/W R/S P/Q p/q r/s .x/.y left/top right/bottom row/column rows/columns height/width [0]/[1]
</<= >/>= ==/!= min/max minimum/maximum and/or &&/||""".split()
OTHER = {one: other for pair in PAIRS for one, other in (pair.split("/"), pair.split("/")[::-1])}
OTHER |= {"+ 1": "- 1", "- 1": "+ 1", "int64": "int32", "int64_t": "int32_t", "uint64_t": "uint32_t"}
SIDES = "|".join(map(re.escape, PAIRS[: PAIRS.index("</<=")])).replace("/", "|")
# Where to look. What has no other is dropped.
SLIPS = {
    "comparison": r"(?<= )(<=?|>=?|[=!]=)(?= )",
    "off by one": r"(?<= )([+-]) 1\b",
    "sides": rf"(?<!\w)(?:{SIDES})(?!\w)|(?<=\w)\.[xy]\b",
    "32 bits": r"\bu?int64(_t)?\b",
    "and": r"(?<= )(&&|\|\||and|or)(?= )",
    "smaller": r"\b(min|max|minimum|maximum)(?=\()",
    "barrier": r"(\w+(::|\.))*(__sync\w+|debug_barrier|\w*(fence|wait|arrive|commit)\w*(<\w+>)?)\([^;]*\);?$",
    "dropped line": r"(?<=    )[\w.\[\]+ ]+ [-+*|&]?= [^{}]+;$|(?<=    )[\w.]+ [-+*|&]= .+$",
}
QUIET = re.compile("RemoveDecorator|Variable|BitOr|AddNot|ExceptionReplacer|Is_|IsNot")  # annotations, noise


@dataclass(frozen=True)
class Slip:
    path: str
    line: int
    kind: str
    before: str
    after: str
    text: str  # the whole file with it


def planted(path: str, source: str, text: str, kind: str) -> Slip | None:
    """The slip that makes `text` of a file, or None where it changes nothing that runs."""
    old, new = source.splitlines(), text.splitlines()
    line = next((index for index, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), None)
    if line is None or not code(path, source)[line] or "import " in old[line]:
        return None
    return Slip(path, line + 1, kind, old[line].strip(), new[line].strip(), text)


@cache
def code(path: str, source: str) -> list[str]:
    """The lines without comments, and in Python without strings: empty where nothing runs."""
    if not path.endswith(".py"):
        blank = [re.sub(r'"[^"]*"', lambda text: " " * len(text[0]), line) for line in source.splitlines()]
        return [re.sub(r"//.*|^ *#.*|\w*assert\(.*", "", line) for line in blank]
    lines = [list(line) for line in source.splitlines()]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            for row in range(token.start[0] - 1, token.end[0]):
                first = token.start[1] if row == token.start[0] - 1 else 0
                last = token.end[1] if row == token.end[0] - 1 else len(lines[row])
                lines[row][first:last] = " " * (last - first)
    return ["".join(line).rstrip() for line in lines]


def slips(path: str, source: str) -> dict[str, list[Slip]]:
    """All of a file, by kind."""
    found: dict[str, list[Slip]] = {}
    whole = source.splitlines(keepends=True)
    for number, line in enumerate(code(path, source)):
        for kind, pattern in SLIPS.items():
            for match in re.finditer(pattern, line):
                other = OTHER.get(match[0], "pass" if path.endswith(".py") else ";")
                edited = whole[number][: match.start()] + other + whole[number][match.end() :]
                slip = planted(path, source, "".join((*whole[:number], edited, *whole[number + 1 :])), kind)
                found.setdefault(kind, []).extend([slip] if slip else [])
    return found


def of_cosmic_ray(path: str, source: str) -> Iterator[tuple[str, Any]]:
    """Its operators that have a place in the file, and how to plant a drawn one."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    nodes = [*ast_nodes(get_ast(source))]
    for name in filter(lambda name: not QUIET.search(name), operator_names()):
        operator = get_operator(name)()
        if places := sum(len([*operator.mutation_positions(node)]) for node in nodes):
            yield name, lambda rng, operator=operator, n=places: mutate_code(source, operator, rng.randrange(n))


def draw(number: int, rng: random.Random) -> Slip:
    """One of the groups in turn; a file by its size; a kind; a place."""
    group = [*GROUPS][number % len(GROUPS)]
    files = sorted({path for pattern in GROUPS[group] for path in ROOT.glob(pattern)})
    while True:
        (file,) = rng.choices(files, [path.stat().st_size for path in files])
        path, source = str(file.relative_to(ROOT)), file.read_text(encoding="utf-8")
        if group == "python" and rng.random() < 0.7:
            kinds: dict[str, list[tuple[str, Any]]] = {}
            for name, plant in of_cosmic_ray(path, source):
                kinds.setdefault(name.partition("_")[0], []).append((name, plant))
            name, plant = rng.choice(rng.choice([*kinds.values()])) if kinds else ("", None)
            slip = planted(path, source, plant(rng), name) if plant else None
        else:
            own = [found for found in slips(path, source).values() if found]
            slip = rng.choice(rng.choice(own)) if own else None
        if slip is not None:
            return slip


def including(source: Path) -> list[Path]:
    """The file, and those that include it, at whatever depth."""
    found = [source]
    for file in found:
        for other in (*source.parent.parent.glob("*/*.cu*"), *source.parent.parent.glob("*/*.cpp")):
            included = re.findall(r'#include "(.+)"', other.read_text())
            if other not in found and file in [(other.parent / name).resolve() for name in included]:
                found.append(other)
    return found


def runs(path: str) -> list[list[str]]:
    """What to hand to pytest, run after run: five files of tests that are named after the file or import it, then
    conformance, and of Python on the host all that is pinned; in the end the other such files."""
    parts = Path(path).with_suffix("").parts
    stem, room = parts[-1], {"kernels": "triton", "alexkern": "torch"}.get(parts[0], parts[1])
    room = parts[2] if parts[1] == "backends" and parts[2] in ("cpu", "cuda") else room
    operator = next((name for name in sorted(OPERATORS, key=len)[::-1] if name in path), "")
    if room == "triton" and not operator:
        using = {
            name.rpartition(".")[2] for name, others in house.graph().items() if f"alexkern.kernels.{stem}" in others
        }
        operator = " or ".join(sorted(using & {*OPERATORS}))
    tests = sorted((ROOT / "tests").rglob("test_*.py"), key=lambda test: test.stat().st_size)
    of_rooms = {"triton": "test_triton_", "cuda": "test_native_", "cpu": "test_cpu_"}  # the others' cannot see it
    others = tuple(prefix for other, prefix in of_rooms.items() if room in of_rooms and other != room)
    tests = [test for test in tests if not test.stem.startswith(others)] if others else tests
    words = {stem, *parts[2:-1]} - {"__init__", "torch", "cpu", "cuda", "commands", "training", "ops"}
    if parts[0] == "csrc":  # and after those who include it; test_geometry.py calls every binding
        words |= {file.parent.name for file in including(ROOT / path)} | ({"geometry"} if stem == "bind" else set())
    words |= {"cli"} if "commands" in parts else {"verify"} if "references" in parts else set()
    named = [test for test in tests if any(re.search(rf"_{word}(_|$)", test.stem) for word in words)]
    files = {path} | {f"alexkern/backends/{room}/{word}.py" for word in words if parts[:2] == ("csrc", "cpu")}
    level = {name for name, file in house.MODULES.items() if str(file.relative_to(ROOT)) in files}
    importing = set[Path]()
    while level and not importing:
        importing = {test for test in tests if house.imports(test) & level}
        level = {name for name, others in house.graph().items() if others & level}
    chosen = [str(t.relative_to(ROOT)) for t in dict.fromkeys((*named, *(t for t in tests if t in importing)))]
    found = [chosen[:5]] if chosen else []
    if room == "cpu":
        found.append(["tests/test_cpu.py"])
    if parts[:2] == ("csrc", "cuda"):
        found.append(["tests/test_native.py"])
    if operator:
        rooms = f" and {room}" if room in of_rooms else ""
        found.append(["tests/conformance", "-k", f"({operator}){rooms}" if " " in operator else f"{operator}{rooms}"])
    whole = [["tests/test_emulator.py"], ["tests/test_sm90.py"]] if room == "cuda" else [["tests/conformance"]]
    found = found or whole
    if parts[0] in ("alexkern", "bench"):
        pinning = [
            str(test.relative_to(ROOT)) for test in tests if "support.pinned" in test.read_text(encoding="utf-8")
        ]
        found.append([*pinning, "tests/test_house.py", "-k", "pinned or test_house"])
    return [*found, chosen[5:]]


def build(path: str) -> bool:
    """Compile what the file is compiled to; Python sources have to compile too."""
    if path.startswith("csrc/cpu"):
        return build_cpu()
    command = [sys.executable, "-m", "py_compile", path]
    if path.startswith("csrc/cuda"):
        command = [sys.executable, "-c", "from alexkern.backends.cuda import emulated; emulated.load()"]
    return (
        subprocess.run(command, cwd=ROOT, env=os.environ | {"ALEXKERN_EMULATE": "1"}, capture_output=True).returncode
        == 0
    )


def build_cpu() -> bool:
    """alexkern._cpu, in the folder where it was built.

    Its binding takes longest, and has to be compiled again for one reason, the digest of the sources: the module is
    given that afterwards.
    """
    cache = next(ROOT.glob(f"build/cpu-{sys.implementation.cache_tag}-*/CMakeCache.txt"), None)
    if cache is None:
        raise SystemExit("mutants: alexkern._cpu was not built here: make build")
    settings = dict(re.findall(r"^(\w+):\w+=(.*)$", cache.read_text(), re.M))
    if subprocess.run([settings["CMAKE_MAKE_PROGRAM"], "-C", cache.parent], capture_output=True).returncode != 0:
        return False
    before, after = settings["ALEXKERN_SOURCES"], SOURCES["digest"](ROOT, "cpu")
    for built in Path(settings["ALEXKERN_OUTPUT_DIR"]).glob("_cpu.*.so"):
        new = FOLDER / "new"
        new.write_bytes(built.read_bytes().replace(before.encode(), after.encode()))
        new.replace(ROOT / "alexkern" / built.name)
    return True


def spent() -> float:
    """Seconds of a processor that what was started here has taken, and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tested(*arguments: str, limit: float) -> tuple[int, str]:
    """pytest's status, negative where a signal ended it, and what it said. A fork, because torch is imported here.

    Held to seconds of a processor, so that a busy machine decides as an idle one does; asleep, it has 20 times those.
    """
    with tempfile.TemporaryFile("w+") as said:
        if (child := os.fork()) == 0:
            seconds = int(limit) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            signal.alarm(20 * seconds)
            os.dup2(said.fileno(), 1), os.dup2(said.fileno(), 2)
            os.chdir(ROOT)
            sys.path[0] = str(ROOT)
            ended = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *arguments])
            sys.stdout.flush()
            os._exit(ended)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        return status, said.read()


def tried(slip: Slip, limit: float) -> str:
    if not build(slip.path):
        return "not built"
    end = spent() + limit
    *deciding, others = runs(slip.path)
    for arguments in (*deciding, others) if others else deciding:
        status, said = tested(*arguments, limit=max(end - spent(), 1))
        if -status in (signal.SIGKILL, signal.SIGALRM):
            return "SURVIVED" if arguments is others else "too long"
        if status not in (0, 5):  # all passed; none was chosen
            failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", said, re.M)
            crashed = ["::".join(test) for test in re.findall(r'File ".*/(tests/.+)", line \d+ in (test_\w+)', said)]
            failed = failed or crashed[:1] or arguments
            put_back()
            return "fails without it" if tested(*failed, limit=limit)[0] else f"killed by {failed[0]}"
    return "SURVIVED"


def plant(slip: Slip) -> None:
    """Where it lies. FOLDER keeps the file as it was, and the module, which then need not be built again."""
    original = (ROOT / slip.path).read_text(encoding="utf-8")
    for module in ROOT.glob("alexkern/_cpu.*.so") if slip.path.startswith("csrc/cpu") else ():
        shutil.copy2(module, FOLDER)
    (FOLDER / "original.json").write_text(json.dumps([slip.path, original]))
    (ROOT / slip.path).write_text(slip.text, encoding="utf-8")


def put_back() -> None:
    """What a run that was killed left planted, too."""
    if (kept := FOLDER / "original.json").exists():
        path, text = json.loads(kept.read_text())
        (ROOT / path).write_text(text, encoding="utf-8")
        # Compiled within the same second, from a text as long, it would stay the slip's.
        Path(importlib.util.cache_from_source(str(ROOT / path))).unlink(missing_ok=True)
        for module in FOLDER.glob("_cpu.*.so"):
            module.replace(ROOT / "alexkern" / module.name)
        kept.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of a processor for the tests of one")
    parser.add_argument("--group", choices=GROUPS, help="only those of one group")
    parser.add_argument("--only", type=int, help="the number of one")
    parser.add_argument("--keep", action="store_true", help="plant it, and stop")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    put_back()
    journal = FOLDER / f"{options.seed}.jsonl"
    lines = journal.read_text().splitlines() if journal.exists() else []
    done = {line["number"]: line for line in map(json.loads, lines)}
    for number in range(options.n) if options.only is None else [options.only]:
        if options.group not in (None, [*GROUPS][number % len(GROUPS)]):
            continue
        slip = draw(number, random.Random(f"{options.seed} {number}"))
        known = asdict(slip) | {"text": None, "number": number}
        if options.only is None and number in done and done[number] | {"found": None} == known | {"found": None}:
            continue
        if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", slip.path], cwd=ROOT).returncode != 0:
            raise SystemExit(f"mutants: {slip.path} has changes that are not committed")
        plant(slip)
        print(f"{number}: {slip.path}:{slip.line}, {slip.kind}\n  - {slip.before}\n  + {slip.after}", flush=True)
        if options.keep:
            return 0
        try:
            found = tried(slip, options.limit)
        finally:
            put_back()
        print(f"  {found}", flush=True)
        done[number] = known | {"found": found}
        with journal.open("a") as file:
            file.write(json.dumps(done[number]) + "\n")
    print(Counter(line["found"].partition(" by ")[0] for line in done.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
