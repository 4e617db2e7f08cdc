"""Faults inside worker processes. Python imports this by itself where the folder is on PYTHONPATH.

An image whose file contains `ncbatch-test:kill` kills the process that opens it, and `ncbatch-test:hang`
keeps it busy for ever. With `ncbatch-test:break` its device computes no more, as after an error in a kernel,
but only that of the first process with such an image. While NCBATCH_TEST_FLAGS names a folder with a file
`die-at-start`, workers do not start; with a file `locked-out-PID`, the store refuses that process to read.
NCBATCH_TEST_SECONDS is how long it takes to open any image.
"""

import importlib.abc
import importlib.util
import os
import signal
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_TARGET = "ncbatch.worker.fetch"
_SECONDS = float(os.environ.get("NCBATCH_TEST_SECONDS", "0"))


def _sabotage(module: Any) -> None:
    real = module.read_file

    def read_file(data: bytes, *args: Any, **kwargs: Any) -> Any:
        if b"ncbatch-test:kill" in data:
            os.kill(os.getpid(), signal.SIGKILL)
        if b"ncbatch-test:hang" in data:
            time.sleep(3600)
        if b"ncbatch-test:break" in data and _is_first("broken"):
            from ncbatch.worker import worker

            worker.fault = lambda device: "CUDA error: an illegal memory access was encountered"
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        time.sleep(_SECONDS)
        return real(data, *args, **kwargs)

    module.read_file = read_file
    if os.environ.get("NCBATCH_TEST_FLAGS"):
        _lock_out()


def _lock_out() -> None:
    """Reads and checks of a store fail while this process is locked out."""
    from ncbatch.store import AccessDenied
    from ncbatch.store.s3 import S3Store

    flag = Path(os.environ["NCBATCH_TEST_FLAGS"], f"locked-out-{os.getpid()}")

    def refused(name: str) -> None:
        real = getattr(S3Store, name)

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            if flag.exists():
                raise AccessDenied("this node's role has been taken away")
            return real(self, *args, **kwargs)

        setattr(S3Store, name, method)

    for name in ("get_with_info", "check"):
        refused(name)


def _is_first(name: str) -> bool:
    try:
        Path(os.environ["NCBATCH_TEST_FLAGS"], name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class _Finder(importlib.abc.MetaPathFinder):
    """Lets the module be found as always, and changes it once it has been executed."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != _TARGET:
            return None
        if sys.argv[0].endswith("default_worker.py"):  # Ray's worker processes, not its drivers
            flags = os.environ.get("NCBATCH_TEST_FLAGS")
            if flags and Path(flags, "die-at-start").exists():
                os._exit(7)
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _sabotage(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Finder())
