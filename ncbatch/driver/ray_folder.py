"""The folder in which a Ray of our own keeps its sessions: whether it can, before Ray tries."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from ncbatch.errors import RunError

# Of a socket's path, in bytes; the last one of a C string is its end.
_LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107
_SOCKET = "session_2000-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
_REMEDY = "set RAY_TMPDIR to a folder that can be written and has a short path, such as /var/tmp"


def check_ray_folder() -> None:
    """Raises RunError where Ray could not start for want of a folder."""
    folder = ray_folder()
    longest = len(os.fsencode(folder / _SOCKET.format(pid=os.getpid())))
    if longest > _LONGEST_SOCKET:
        raise RunError(
            f"Ray cannot work in {folder}: the path is {longest - _LONGEST_SOCKET} bytes too long for its "
            f"sockets; {_REMEDY}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="ncbatch-"):
            pass
    except OSError as error:
        raise RunError(f"Ray cannot work in {folder} ({error.strerror}); {_REMEDY}") from error


def ray_folder() -> Path:
    """Where Ray puts it (`ray._common.utils.get_default_ray_temp_dir`)."""
    chosen = os.environ.get("RAY_TMPDIR")
    if chosen is None and sys.platform.startswith("linux"):
        chosen = os.environ.get("TMPDIR")
    return Path("/tmp" if chosen is None else chosen).absolute() / "ray"
