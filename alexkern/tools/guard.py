"""Runs a command for a limited time and leaves nothing of it behind: python guard.py SECONDS COMMAND ...

Its input is a pipe. Where that closes, because whoever held it ended or was killed, the command ends as well. Exit
status: the command's, 128 and the signal's number where it died of one, 124 at the limit. Some seconds before the limit
the command gets a SIGINT, so that it can say what it has; then it and all its descendants are killed, those too that
have left its group, its session or their parent. Needs the standard library and Linux's /proc.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

AT_LIMIT = 124  # timeout(1)'s
GRACE_S = 5.0  # between SIGINT and SIGKILL, at most a quarter of the limit
DYING_S = 10.0  # a process in the midst of a driver's call does not die at once
PR_SET_CHILD_SUBREAPER = 36


def main(seconds: float, command: list[str]) -> int:
    if sys.platform == "linux":  # orphans become this process's children, wherever in the tree they were
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # A shell's background jobs ignore it, and so would the command.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end = time.monotonic() + seconds
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    alone = wait(process, end - min(GRACE_S, seconds / 4))
    if process.returncode is None and not alone:
        process.send_signal(signal.SIGINT)
        wait(process, end)
        status = AT_LIMIT
    else:
        status = process.returncode or 0
    process.kill()
    left = kill_descendants()
    if left:
        print(f"guard: could not be killed: {left}", file=sys.stderr)
    return status if status >= 0 else 128 - status


def wait(process: subprocess.Popen[bytes], until: float) -> bool:
    """For the process's end, that time, or the end of the input; whether it was the last."""
    while process.poll() is None and time.monotonic() < until:
        if select.select([0], [], [], 0.05)[0]:
            return True
    return False


def kill_descendants() -> list[int]:
    """All of them; what is left when that takes too long."""
    until = time.monotonic() + DYING_S
    while (left := descendants()) and time.monotonic() < until:
        for pid in left:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)
    return left


def descendants() -> list[int]:
    """Of this process, by the parents that /proc names."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            text = stat.read_text(encoding="utf-8", errors="replace")  # PID (NAME) STATE PARENT ...
            children.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found = [os.getpid()]
    for pid in found:
        found += children.get(pid, ())
    return found[1:]


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
