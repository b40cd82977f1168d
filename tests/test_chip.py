"""`make chip`: stages of tiny commands that pass, fail, hang and are killed, and what is left of them in the end."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alexkern import cli
from alexkern.bench.record import write
from alexkern.bench.rows import rows
from alexkern.tools import archive, chip, staging, worst
from alexkern.tools.staging import Stage
from support import bench_records
from support.pinned import hold

ROOT = Path(__file__).resolve().parents[1]
CHIP = ROOT / "alexkern" / "tools" / "chip.py"
HERE = {"sources": "0123", "GPU": "none"}
PATIENCE_S = 60.0


def stage(name: str, code: str, share: float = 0.5, **settings: Any) -> Stage:
    return Stage(name, share, lambda folder, limit: ("-c", code), **settings)


def run(out: Path, *stages: Stage, seconds: float = 60.0) -> int:
    return staging.run(stages, out, out / "chip.tar.gz", seconds, HERE)


def summary(out: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((out / "summary.json").read_text())
    assert found["identity"] == HERE
    return {row["stage"]: row for row in found["stages"]}


def log(out: Path, name: str) -> str:
    return (out / name / "log.txt").read_text()


def packed(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def until(reached: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def gone(path: Path) -> bool:
    """Whether the process whose number is in a file has ended."""
    return not Path("/proc", path.read_text()).exists()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> float:
    """A share of which the limit is some seconds: a command gets its SIGINT when three quarters of them are over."""
    monkeypatch.setattr(staging, "LEAST_S", 3.0)
    return 1e-6


# Leaves an orphan in a session of its own that nothing but SIGKILL ends.
ORPHAN = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with open(PATH + "~", "w") as file:
            file.write(str(os.getpid()))
        os.rename(PATH + "~", PATH)
        time.sleep(600)
    os._exit(0)
os.wait()
while not os.path.exists(PATH):
    time.sleep(0.02)
"""
HANGS = f"{ORPHAN}print('hangs now', flush=True)\ntime.sleep(600)\n"
STUBBORN = HANGS.replace("print", "signal.signal(signal.SIGINT, signal.SIG_IGN)\nprint")


def test_stages_run_in_order_and_the_summary_is_there_at_every_moment(tmp_path: Path, capsys: Any) -> None:
    look = f"print(open({str(tmp_path / 'summary.json')!r}).read())"
    out = tmp_path
    assert run(out, stage("one", "print('first')"), stage("two", look), stage("three", "print('last')")) == 0
    seen = json.loads(log(out, "two").partition("\n$ ")[2].partition("\n")[2])
    assert [row["status"] for row in seen["stages"]] == ["passed", "running", "waiting"]
    found = summary(out)
    assert list(found) == ["one", "two", "three"]
    assert all(row["status"] == "passed" and row["exit"] == 0 and row["seconds"] > 0 for row in found.values())
    assert "first" in log(out, "one") and "last" in log(out, "three")
    assert set(packed(out / "chip.tar.gz")) == {"summary.json", *(f"{name}/log.txt" for name in found)}
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[-5:-1]] == ["stage", *found]


def test_a_limit_is_a_share_of_what_is_left(tmp_path: Path) -> None:
    run(tmp_path, stage("one", "import time; time.sleep(1)", 0.25), stage("two", "", 1.0), seconds=60.0)
    limits = [row["limit"] for row in summary(tmp_path).values()]
    assert 14 < limits[0] <= 15 and 30 < limits[1] <= 59


@pytest.mark.parametrize(("code", "says", "least_s"), [(HANGS, "KeyboardInterrupt", 0.0), (STUBBORN, "hangs now", 3.0)])
def test_what_hangs_is_killed_at_its_limit_with_all_below_it(
    code: str, says: str, least_s: float, tmp_path: Path, short: float
) -> None:
    pid = tmp_path / "pid"
    stages = stage("hang", code.replace("PATH", repr(str(pid))), short), stage("next", "print('goes on')")
    assert run(tmp_path, *stages) == 1
    found = summary(tmp_path)
    assert (found["hang"]["status"], found["next"]["status"]) == ("limit", "passed")
    assert found["hang"]["says"] == says and "hangs now" in log(tmp_path, "hang")
    assert gone(pid) and found["hang"]["seconds"] >= least_s


def test_what_a_command_leaves_running_is_killed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    assert run(tmp_path, stage("leaves", ORPHAN.replace("PATH", repr(str(pid))))) == 0
    assert gone(pid)


def test_before_its_limit_a_command_may_say_what_it_has(tmp_path: Path, short: float) -> None:
    says = "import time\ntry:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    print('2 passed')"
    assert run(tmp_path, stage("tune", says, short, says=staging.tail, open_ended=True)) == 0
    assert summary(tmp_path)["tune"]["status"] == "partial" and summary(tmp_path)["tune"]["says"] == "2 passed"


@pytest.mark.parametrize(
    ("status", "says", "open_ended", "verdict"),
    [
        (0, "1 failed", True, "passed"),
        (1, "2 passed", True, "failed"),
        (124, "2 passed", True, "partial"),
        (124, "1 failed, 1 passed", True, "failed"),
        (124, "2 passed, 1 error", True, "failed"),
        (124, "", True, "limit"),
        (124, "2 passed", False, "limit"),
    ],
)
def test_verdicts(status: int, says: str, open_ended: bool, verdict: str) -> None:
    assert staging.verdict(status, says, open_ended) == verdict


@pytest.mark.parametrize(
    ("code", "exit_status", "says"),
    [
        ("raise SystemExit('no such thing')", 1, "no such thing"),
        ("raise SystemExit(3)", 3, ""),
        ("import faulthandler, os; faulthandler.disable(); os.kill(os.getpid(), 11)", 139, ""),
    ],
)
def test_a_failed_stage_fails_the_run_and_the_next_goes_on(
    tmp_path: Path, code: str, exit_status: int, says: str
) -> None:
    assert run(tmp_path, stage("one", code), stage("two", "")) == 1
    found = summary(tmp_path)
    assert (found["one"]["status"], found["one"]["exit"]) == ("failed", exit_status)
    assert found["one"]["says"] == says and found["two"]["status"] == "passed"


def test_what_lacks_its_tool_is_skipped_and_says_why(tmp_path: Path) -> None:
    reasons = {"why": "no GPU"}
    skipped = stage("one", "", missing=lambda statuses: reasons.get("why"))
    after = stage("two", "", missing=lambda statuses: f"one was {statuses['one']}")
    assert run(tmp_path, skipped, after) == 0
    assert [row["status"] for row in summary(tmp_path).values()] == ["skipped", "skipped"]
    assert [row["says"] for row in summary(tmp_path).values()] == ["no GPU", "one was skipped"]
    reasons.clear()
    assert run(tmp_path, skipped, after) == 0
    assert summary(tmp_path)["one"]["status"] == "passed"


def test_without_time_a_stage_waits_for_the_next_run(tmp_path: Path) -> None:
    assert run(tmp_path, stage("one", ""), seconds=1.0) == 0
    assert summary(tmp_path)["one"] == {"stage": "one", "status": "waiting", "says": "no time was left"}
    assert run(tmp_path, stage("one", "")) == 0
    assert summary(tmp_path)["one"]["status"] == "passed"


def test_a_second_run_keeps_what_was_done(tmp_path: Path) -> None:
    stages = stage("build", "print('built')", always=True), stage("once", "raise SystemExit(1)")
    assert run(tmp_path, *stages) == run(tmp_path, *stages) == 1
    assert log(tmp_path, "build").count("built\n") == 2 and log(tmp_path, "once").count("$ ") == 1


def test_what_it_prints_for_programs_lies_beside_its_log(tmp_path: Path) -> None:
    def says(folder: Path) -> str:
        return str(json.loads(staging.text(folder / "output.json"))["a"])

    both = "import sys; print('log', file=sys.stderr); print('{\"a\": 7}')"
    torn = "print('{')"
    assert run(tmp_path, stage("one", both, json=True, says=says), stage("two", torn, json=True, says=says)) == 0
    assert summary(tmp_path)["one"]["says"] == "7" and log(tmp_path, "one").endswith("log\n")
    assert summary(tmp_path)["two"]["says"].startswith("JSONDecodeError in what it left")


# A run of the tool itself, its stages replaced: the second hangs until it finds a file.
RUN = """
import runpy, sys
chip = runpy.run_path(sys.argv[1])
chip["main"].__globals__["identity"] = lambda: {here!r}
stages = [chip["Stage"](name, 0.5, lambda folder, limit, code=code: ("-c", code)) for name, code in {codes!r}.items()]
sys.exit(chip["main"](["--out", sys.argv[2], "--seconds", "600"], stages))
"""


def start(out: Path, pid: Path, free: Path) -> subprocess.Popen[str]:
    body = "\n    ".join(HANGS.replace("PATH", repr(str(pid))).splitlines())
    second = f"import os\nif not os.path.exists({str(free)!r}):\n    {body}\n"
    codes = {"one": "print('done once')", "two": second, "three": "print('last')"}
    command = [sys.executable, "-I", "-S", "-c", RUN.format(here=HERE, codes=codes), str(CHIP), str(out)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def test_killed_in_the_middle_it_goes_on_there(tmp_path: Path) -> None:
    out, pid, free = tmp_path / "out", tmp_path / "pid", tmp_path / "free"
    with start(out, pid, free) as running:
        until(lambda: pid.exists() and pid.read_text() != "", "the second stage does not begin")
        os.killpg(running.pid, signal.SIGKILL)
    until(lambda: gone(pid), "the second stage's grandchild outlives the run")
    assert [row["status"] for row in summary(out).values()] == ["passed", "running", "waiting"]
    assert b"done once" in packed(out / "chip.tar.gz")["one/log.txt"]
    free.touch()
    with start(out, pid, free) as running:
        printed = running.communicate()[0]
    assert running.returncode == 0, printed
    assert [row["status"] for row in summary(out).values()] == ["passed"] * 3
    assert log(out, "one").count("done once\n") == 1 and "last" in log(out, "three")
    assert "hangs now" in log(out, "two") and log(out, "two").count("$ ") == 2


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_the_summary(tmp_path: Path, sent: signal.Signals) -> None:
    out, pid = tmp_path / "out", tmp_path / "pid"
    with start(out, pid, tmp_path / "free") as running:
        until(lambda: pid.exists() and pid.read_text() != "", "the second stage does not begin")
        os.killpg(running.pid, sent)
        printed = running.communicate()[0]
    assert running.returncode == 130 and "Traceback" not in printed, printed
    assert [row["status"] for row in summary(out).values()] == ["passed", "interrupted", "waiting"]
    assert json.loads(packed(out / "chip.tar.gz")["summary.json"]) == json.loads((out / "summary.json").read_text())
    assert "two    interrupted" in printed.splitlines()[-3]
    assert gone(pid)


def test_results_of_something_else_are_not_gone_on_with(tmp_path: Path, capsys: Any) -> None:
    run(tmp_path, stage("one", ""))
    assert chip.main(["--out", str(tmp_path)], [stage("one", "")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "summary.json is of other sources, Python" in error and "OUT" in error


@pytest.mark.parametrize("seconds", ["0", "-1", "ten", "nan"])
def test_seconds_are_a_number(tmp_path: Path, capsys: Any, seconds: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        chip.main(["--out", str(tmp_path), f"--seconds={seconds}"], [])
    assert f"wanted a number of seconds, got '{seconds}'" in capsys.readouterr().err


def test_the_archive_keeps_within_its_size(tmp_path: Path) -> None:
    folder, rng = tmp_path / "out", random.Random(20120930)
    (folder / "tests").mkdir(parents=True)
    long = "".join(f"{line} {rng.randbytes(20).hex()}\n" for line in range(4000)).encode()
    files = {"summary.json": b"{}", "tests/log.txt": long, "small.txt": b"a line\n", "raw.bin": rng.randbytes(200_000)}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    whole, small = folder / "chip.tar.gz", tmp_path / "small.tar.gz"
    archive.pack(folder, whole)
    assert packed(whole) == files
    archive.pack(folder, whole)  # which does not take itself in
    assert packed(whole) == files
    whole.unlink()
    archive.pack(folder, small, limit=60_000)
    assert 20_000 < small.stat().st_size <= 60_000
    found = packed(small)
    assert found["summary.json"] == b"{}" and found["small.txt"] == b"a line\n" and "raw.bin" not in found
    head, said, tail = found["tests/log.txt"].partition(b"\n[... ")
    assert said and long.startswith(head) and long.endswith(tail.partition(b" ...]\n")[2]) and len(head) > 5000
    cut = int(tail.split()[0])
    assert len(head) + len(tail.partition(b" ...]\n")[2]) + cut == len(long)
    assert found["CUT.txt"].decode().splitlines() == [
        "raw.bin: left out, it has 200000 bytes",
        f"tests/log.txt: {cut} of its {len(long)} bytes are cut out of its middle",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "small.tar.gz"]


def test_it_needs_the_standard_library_alone() -> None:
    done = subprocess.run([sys.executable, "-I", "-S", str(CHIP), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--seconds" in done.stdout, done.stderr
    command = ["make", "-n", "--no-print-directory", "chip", "OUT=a b", "SECONDS=7", "PYTHON=python3", "ARCHIVE="]
    make = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert make.stdout == 'python3 alexkern/tools/chip.py --out "a b" --archive "" --seconds "7"\n'


def test_the_stages_are_those_of_its_page() -> None:
    page = (ROOT / "docs" / "chip.md").read_text()
    named = [line.split("|")[1].strip(" `") for line in page.splitlines() if line.startswith("| `")]
    assert named == [one.name for one in chip.STAGES]


def test_the_stages_call_what_there_is(tmp_path: Path) -> None:
    for one in chip.STAGES:
        command = list(one.command(tmp_path, 100.0))
        if command[:2] == ["-m", "alexkern"]:
            _, unknown = cli._parser().parse_known_args(command[2:])
            assert not unknown or command[2] == "bench", unknown
        for word in command:
            file, _, test = word.partition("::")
            if file.startswith("tests/"):
                assert (ROOT / file).exists() and f"def {test}" in (ROOT / file).read_text() if test else True
    assert "tests/test_gpu_streams.py" in chip.gpu_tests(tmp_path, 1.0)


def test_what_stages_say(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text(
        "\n$ pip\n  alexkern: installing without alexkern._cuda: old reason\n"
        "\n$ pip\n  alexkern: installing without alexkern._cuda: nvcc was not found\n"
        "=== 1 failed, 3 passed in 4.12s ===\n====== 2 failed, 3 passed in 64.12s (0:01:04) ======\n"
    )
    (tmp_path / "README.md").write_text("# H\n\n- bfloat16: 1\n- operators: alexkern is ahead in 3\n- a\n")
    assert chip.built(tmp_path) == "installing without alexkern._cuda: nvcc was not found"
    assert chip.tested(tmp_path) == "2 failed, 3 passed in 64.12s (0:01:04)"
    assert chip.benched(tmp_path) == f"operators: alexkern is ahead in 3; {chip.tested(tmp_path)}"
    (tmp_path / "README.md").unlink()
    assert chip.benched(tmp_path) == "" and chip.tuned(tmp_path) == "" and chip.verified(tmp_path) == ""
    entries = [{"microseconds": 1.0, "default_microseconds": 2.0}, {"microseconds": 2.0, "default_microseconds": 2.0}]
    (tmp_path / "nvidia-h200.json").write_text(json.dumps({"entries": entries}))
    assert chip.tuned(tmp_path) == "2 choices, 1 of them faster than the default"


def test_what_was_built_is_said_where_the_install_came_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chip, "ROOT", tmp_path)
    (tmp_path / "alexkern").mkdir()
    for name in ("_cuda.cpython-311.so", "_cpu.abi3.so", "other.so"):
        (tmp_path / "alexkern" / name).write_text("")
    failed = "the build of alexkern._cuda failed"
    reason = f"alexkern: {failed}"
    for words, said in (
        ("Successfully installed alexkern", "_cpu; _cuda"),
        (f"{reason}\n{reason}", failed),
        (f"{reason}\nSuccessfully installed", f"_cpu; _cuda; {failed}"),
        ("nothing", ""),
    ):
        (tmp_path / "log.txt").write_text(f"\n$ pip\n{words}\n")
        assert chip.built(tmp_path) == said


def test_what_verify_found_is_said_and_kept(tmp_path: Path) -> None:
    record = tmp_path / "nvidia-h200-0.json"
    record.write_text("{}")
    found = [{"operator": "dropout", "backend": name, "passed": not lines, "failures": lines}
             for name, lines in (("cuda", ["hangs"]), ("triton", []))]  # fmt: skip
    probes = [{"what": "parity", "passed": False, "reason": "hangs"}, {"what": "boxes", "passed": None, "reason": "a"}]
    folder = tmp_path / "verify"
    folder.mkdir()
    (folder / "output.json").write_text(json.dumps({"record": str(record), "rows": found, "probes": probes}))
    assert chip.verified(folder) == "1 right, 2 wrong; parity: hangs; dropout on cuda: hangs"
    assert (folder / record.name).exists()


def test_the_worst_rows_are_profiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    record = bench_records.record()
    found = worst.worst(record, 3)
    ratios = [row.ratio for row in found]
    assert ratios == sorted(ratios) and len({row.entry.group for row in found}) == 3  # type: ignore[type-var]
    assert all(row.ratio >= ratios[0] for row in rows(record.entries) if row.ratio and row.entry.kind.name == "NETWORK")
    write(record, tmp_path)
    calls = {found[0].ours.name: lambda: torch.ones(3) * 2}
    comparison = bench_records.comparison(section=found[0].entry.section, what=found[0].entry.what, **calls)
    monkeypatch.setattr(worst, "comparisons", lambda options: [comparison])
    ncu = tmp_path / "ncu"
    ncu.write_text('#!/bin/sh\necho "$@"\ncase "$*" in *2) exit 3; esac\n')
    ncu.chmod(0o755)
    monkeypatch.setattr(worst, "find_ncu", lambda: str(ncu))
    assert worst.main([str(tmp_path), "--out", str(tmp_path / "out"), "--count", "2"]) == 1
    page = (tmp_path / "out" / "1-torch.txt").read_text()
    assert worst.title(found[0]) in page and "aten::" in page
    asked = [(tmp_path / "out" / f"{number}-ncu.txt").read_text() for number in (1, 2)]
    assert [line.split()[-3:] for line in asked] == [[str(tmp_path), "--only", number] for number in "12"]
    printed = capsys.readouterr().out
    assert worst.main([str(tmp_path), "--out", str(tmp_path / "out"), "--count", "2"]) == 1  # into what is there
    assert capsys.readouterr().out == printed
    assert "2. " in printed and "not profiled: LookupError: it is none of a run's" in printed
    assert "\n1-ncu.txt\nncu failed with status 3: " in printed
    assert printed.splitlines()[-1] == f"1 of 2 rows profiled, the worst: {worst.title(found[0])}"


def test_every_group_of_a_run_is_found_again() -> None:
    groups = {comparison.group for comparison in worst.comparisons(worst.Options.read(worst.Unset()))}
    assert any(group.startswith("dropout, alexnet, float32") for group in groups)


def test_no_record_to_take_the_worst_of(tmp_path: Path) -> None:
    with pytest.raises(worst.CommandError, match="record.json: cannot be read"):
        worst.main([str(tmp_path)])


def test_the_stages_are_as_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each calls with 100 seconds, where, and what of its results counts when they are up."""
    here = tmp_path / "here"
    monkeypatch.setattr(chip, "ROOT", tmp_path)
    (tmp_path / "tests").mkdir()
    for name, words in (("test_a.py", "mark.gpu"), ("test_b.py", "none"), ("test_gpu_sanitizers.py", "mark.gpu")):
        (tmp_path / "tests" / name).write_text(words)
    lines = []
    for one in chip.STAGES:
        marks = [mark for mark in ("always", "json", "open_ended") if getattr(one, mark)]
        command = " ".join(one.command(here, 100.0)).replace(str(tmp_path), "ROOT")
        environment = {name: value.replace(str(tmp_path), "ROOT") for name, value in one.environment(here).items()}
        lines.append(f"{one.name} {one.share:g} {' '.join(marks)} {environment}: {command}")
    hold("chip", lines)
    assert [chip.verify(here, limit)[-1] for limit in (10, 50, 51, 299, 300, 999)] == [
        f"--limit={limit}" for limit in (10, 10, 10, 60, 60, 60)
    ]


def test_gpus_are_those_that_nvidia_smi_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = tmp_path / "asked"
    for text, wanted in (
        (f'echo "$@" > {asked}; printf "A, 580, 9.0\\nB, 580, 8.0\\n"', ("A, 580, 9.0", "B, 580, 8.0")),
        ("echo A; exit 9", ()), (None, ()),
    ):  # fmt: skip
        program = tmp_path / "nvidia-smi"
        program.unlink(missing_ok=True)
        if text:
            program.write_text(f"#!/bin/sh\n{text}\n")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin" if text else str(tmp_path))
        chip.gpus.cache_clear()
        assert chip.gpus() == wanted
        if wanted:
            assert chip.identity()["GPU"] == "A, 580, 9.0; B, 580, 8.0"
            assert chip.no_gpu({}) is None
    assert chip.no_gpu({}) == "no GPU: nvidia-smi shows none" and chip.identity()["GPU"] == "none"
    assert asked.read_text() == "--query-gpu=name,driver_version,compute_cap --format=csv,noheader\n"
    chip.gpus.cache_clear()


def test_what_a_run_is_of_hangs_on_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chip, "ROOT", tmp_path)
    before = chip.identity()
    assert before.keys() == {"sources", "GPU", "Python", "torch", "triton", "numpy"} and len(before["sources"]) == 16
    seen = {before["sources"]}
    for name in ("setup.py", "csrc/a.cuh", "csrc/b/a.cuh", "tests/a.txt", "docs/a.py", "csrc/a.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        for content in ("a", "b"):
            (tmp_path / name).write_text(content)
            seen.add(chip.identity()["sources"])
    assert len(seen) == 1 + 4 * 2  # neither documents nor what is no source
    assert torch.__version__.startswith(chip._version("torch")) and chip._version("no-such-package") == "none"


@pytest.mark.parametrize(
    ("statuses", "words"),
    [
        ({"build": "failed"}, None), ({"build": "limit"}, None), ({"build": "passed"}, "the build did not fail"),
        ({"bench": "passed"}, None), ({"bench": "partial"}, None), ({"bench": "failed"}, None),
        ({"bench": "limit"}, "the bench left no record"), ({"bench": "skipped"}, "the bench left no record"),
    ],
)  # fmt: skip
def test_stages_that_hang_on_another(statuses: dict[str, str], words: str | None) -> None:
    reason = chip.no_need if "build" in statuses else chip.no_record
    assert reason(statuses) == words and chip.any_of(reason, lambda _: "b")(statuses) == (words or "b")
    assert chip.any_of(lambda _: None, reason)(statuses) == words
    assert chip.lacking("json", "sys")({}) is None
    assert chip.lacking("json", "nothing_a", "nothing_b")({}) == "not installed: nothing_a, nothing_b"


@pytest.mark.parametrize("where", ["PATH", "/usr/local/cuda/bin", None])
def test_programs_of_cuda_are_found(where: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setenv("PATH", "/somewhere")
    monkeypatch.setattr(shutil, "which", lambda name, path: asked.append((name, path)) or where)
    for gpu in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        assert worst.find_ncu() == (where if gpu else None)
    assert chip.no_sanitizer({}) == (None if where else "compute-sanitizer is not installed")
    path = f"/somewhere{os.pathsep}/usr/local/cuda/bin"
    assert asked == [("ncu", path), ("compute-sanitizer", path)]


def test_one_row_is_called_between_the_marks_of_the_profiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    record = bench_records.record()
    found, log = worst.worst(record, 3), []
    write(record, tmp_path)
    call = {found[1].ours.name: lambda: log.append("call")}
    comparison = bench_records.comparison(section=found[1].entry.section, what=found[1].entry.what, **call)
    monkeypatch.setattr(worst, "comparisons", lambda options: [comparison])
    for name in ("start", "stop"):
        monkeypatch.setattr(torch.cuda.profiler, name, lambda name=name: log.append(name))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("wait"))
    assert worst.main([str(tmp_path), "--only", "2", "--count", "1"]) == 0
    assert log == [*["call"] * 3, "wait", "start", "call", "wait", "stop"]
    assert capsys.readouterr().out == "" and [path.name for path in tmp_path.iterdir()] == ["record.json"]
    write(dataclasses.replace(record, entries=()), tmp_path)
    with pytest.raises(worst.CommandError, match=f"^{tmp_path}: no row with a peer$"):
        worst.main([str(tmp_path)])


def test_the_table_of_a_run() -> None:
    rows = [
        {"stage": "build", "status": "passed", "seconds": 12.6, "says": "_cpu"},
        {"stage": "a", "status": "waiting"},
        {"stage": "tests", "status": "failed", "seconds": 100.0, "says": "x" * 120},
    ]
    assert staging.table(rows) == [
        "stage  status   seconds",
        "build  passed   13       _cpu",
        "a      waiting  0",
        "tests  failed   100      " + "x" * 100,
    ]


def test_what_a_log_has_of_its_last_attempt(tmp_path: Path) -> None:
    assert staging.said(tmp_path) == staging.tail(tmp_path) == staging.text(tmp_path / "log.txt") == ""
    (tmp_path / "log.txt").write_text("\n$ a\nfirst\n\n$ b c\none\n  two \n \n")
    assert (staging.said(tmp_path), staging.tail(tmp_path)) == ("one\n  two \n \n", "  two ")
