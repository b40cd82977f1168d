"""One run a folder: run.lock names the process that writes there, and the system knows whether it still does.

The system's lock on the file ends with its process, however that ends; where a file system has none, the process is
looked up. Neither says anything of another host: its file stays until somebody removes it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from typing import Any, TextIO

from alexkern.training.errors import TrainingError

NAME = "run.lock"
_held: set[Path] = set()  # by this process, from which the system's lock does not keep it


class RunLock:
    """Within a `with` block no other run that asks for the folder gets it.

    Raises:
        TrainingError: another one has it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder.resolve() / NAME

    def __enter__(self) -> None:
        mine = {"process": os.getpid(), "host": socket.gethostname()}
        if self.path in _held:
            raise self._taken(mine)
        while True:
            self.file = open(self.path, "a+", encoding="utf-8")
            free, owner = _lock(self.file), _read(self.file)
            if owner.get("host", mine["host"]) != mine["host"]:
                free = False
            if not (_gone(owner.get("process")) if free is None else free):
                self.file.close()
                raise self._taken(owner)
            if self._is_there():
                break
            self.file.close()
        self.file.truncate(0)
        json.dump(mine, self.file)
        self.file.flush()
        _held.add(self.path)

    def __exit__(self, *exception: object) -> None:
        _held.discard(self.path)
        if self._is_there():
            self.path.unlink()
        self.file.close()

    def _taken(self, owner: dict[str, Any]) -> TrainingError:
        who = f"process {owner.get('process', '?')} on {owner.get('host', '?')}"
        return TrainingError(f"--out {self.path.parent}: {who} trains here; if it no longer does, remove {self.path}")

    def _is_there(self) -> bool:
        """Whether the file is still the folder's: its owner removes it, and a user may."""
        try:
            return os.path.samestat(os.fstat(self.file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False


def _lock(file: TextIO) -> bool | None:
    """Whether nobody else on this host has it, who then cannot get it; None on a file system without locks.

    Not flock: that would be the workers' too, which outlive a process that was killed by some seconds.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def _read(file: TextIO) -> dict[str, Any]:
    """What is in it; nothing where its owner was ended before it wrote."""
    file.seek(0)
    try:
        owner = json.load(file)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _gone(process: Any) -> bool:
    if not isinstance(process, int) or process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
