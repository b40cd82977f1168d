"""Child processes for tests that start many: forked by one that has imported torch and alexkern, so that none has to.

`command(program)` is in place of [sys.executable, "-c", program]: the same standard streams, environment, folder and
arguments, and the same end, by a status or by a signal. Whoever kills it kills what it stands for.
"""

from __future__ import annotations

import array
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from typing import Any

CLIENT = [sys.executable, "-I", "-S", __file__]
_running: list[subprocess.Popen[bytes]] = []  # whose input closes with this process


@functools.cache
def start() -> str:
    """The server of this process: its socket."""
    path = os.path.join(tempfile.mkdtemp(), "zygote")
    program = f"import sys; sys.path[:] = {sys.path!r}; from support import zygote; zygote.serve({path!r})"
    server = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()
    _running.append(server)
    return path


def command(program: str) -> list[str]:
    return [*CLIENT, start(), program]


def serve(path: str) -> None:
    import torch  # noqa: F401

    from alexkern import cli  # noqa: F401
    from alexkern.verify import child  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        print(flush=True)
        while 0 not in select.select([listening, 0], [], [])[0]:  # until who started it is gone
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                attend(connection)
            connection.close()


def attend(connection: socket.socket) -> None:
    """Fork once more, wait for the end, and tell the client how it was; or be told by the client's."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size = int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "big")
    text, streams, _, _ = socket.recv_fds(connection, size, 3, socket.MSG_WAITALL)
    asked: dict[str, Any] = json.loads(text)
    child = os.fork()
    if child == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        sys.stdin, sys.stdout = open(0), open(1, "w")
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["folder"])
        sys.argv = ["-c", *asked["arguments"]]
        exec(asked["program"], {"__name__": "__main__"})
        sys.stdout.flush()
        os._exit(0)
    for stream in streams:
        os.close(stream)

    def until_gone() -> None:
        if not connection.recv(1):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    threading.Thread(target=until_gone, daemon=True).start()
    _, status = os.waitpid(child, 0)
    connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
    os._exit(0)


def main(path: str, program: str, *arguments: str) -> None:
    asked = {"program": program, "arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
    text = json.dumps(asked).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(len(text).to_bytes(8, "big"))
        connection.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (0, 1, 2)))])
        for stream in (0, 1, 2):
            os.close(stream)
        status = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big", signed=True)
    if status < 0:
        with suppress(OSError):  # SIGKILL needs none, and takes none
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
