"""Where files are kept that can be made again. What lies there is loaded as code, so that nobody else may write there.

The folder is ALEXKERN_CACHE, else `alexkern` in XDG_CACHE_HOME or ~/.cache. One that cannot be written to, that belongs
to another user or that others can write to is not used: then it is a temporary folder of this process and of those that
it starts, and goes when it ends.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import warnings
from pathlib import Path

from alexkern._environment import read
from alexkern.errors import BackendUnavailable

NAME = "ALEXKERN_CACHE"


def cache_folder(kind: str) -> Path:
    """Where files of a kind are kept; it is there.

    Raises:
        BackendUnavailable: there is no place for it.
    """
    folder = wanted_folder(kind)
    reason = unwritable(folder) or _make(folder) or distrusted(folder)
    if reason is not None:
        folder = _private(reason) / kind
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def wanted_folder(kind: str) -> Path:
    """Where they are kept if that can be; nothing is made or asked."""
    named = read(NAME)
    return (Path(named).absolute() if named else usual_folder()) / kind


def usual_folder() -> Path:
    """Ours in the user's cache folder, whether or not it can be used; relative where the user has no home."""
    # As the XDG base directory specification has it, a relative path counts for nothing.
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else os.path.expanduser("~/.cache")) / "alexkern"


def place_triton_cache() -> None:
    """Triton keeps what it compiles where we do, if it cannot in its own folder.

    Raises:
        BackendUnavailable: nor can we.
    """
    if not os.environ.get("TRITON_CACHE_DIR"):
        folder = Path(os.environ.get("TRITON_HOME") or os.path.expanduser("~")) / ".triton" / "cache"
        if unwritable(folder) or distrusted(folder):
            os.environ["TRITON_CACHE_DIR"] = str(cache_folder("triton"))


def unwritable(folder: Path) -> str | None:
    """Why files cannot be put into a folder, which need not be there yet; None where they can."""
    if not folder.is_absolute():
        return "this user has no home folder"
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return None if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else f"{there} cannot be written to"


def distrusted(folder: Path) -> str | None:
    """Why what lies in a folder may be another user's work; None where it is this one's."""
    if os.name != "posix":
        return None
    for path in (folder.parent, folder):
        if path.exists():
            status = path.stat()
            if status.st_uid != os.geteuid():
                return f"{path} belongs to another user"
            if status.st_mode & 0o022:
                return f"{path} can be written to by others"
    return None


def _make(folder: Path) -> str | None:
    try:
        for path in (folder.parent, folder):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:  # a file system may refuse what its permissions grant
        return f"{error.filename}: {error.strerror}"
    return None


def _private(reason: str) -> Path:
    advice = "set XDG_CACHE_HOME to a folder of your own"
    try:
        folder = Path(tempfile.mkdtemp(prefix="alexkern-"))
    except OSError as error:
        raise BackendUnavailable(
            f"alexkern: there is no folder for what is compiled ({reason}; {error.strerror}): {advice}"
        ) from None
    warnings.warn(f"alexkern keeps nothing of what it compiles or downloads: {reason}; {advice}", stacklevel=4)
    atexit.register(_remove, folder, os.getpid())
    os.environ[NAME] = str(folder)  # for the rest of this process, and for those that it starts
    return folder


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # and not in one that was forked
        shutil.rmtree(folder, ignore_errors=True)
