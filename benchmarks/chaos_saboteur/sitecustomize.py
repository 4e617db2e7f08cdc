"""What is wrong with the workers of `benchmarks.chaos`. Python imports this by itself, where the path has it.

The environment of a node says what is wrong with the whole node, NCBATCH_CHAOS: "sick", its workers fail
whatever they encode; "clock", its clock is an hour off. In NCBATCH_CHAOS_FLAGS, a folder, the worker that is
the first to take away the file `sick-worker` is sick from then on.
"""

import importlib.abc
import importlib.util
import os
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_SECONDS = float(os.environ.get("NCBATCH_CHAOS_SECONDS", "0"))
_WRONG = os.environ.get("NCBATCH_CHAOS", "")


def _sicken(module: Any) -> None:
    real = module.ClassicalCoder._encode
    flag = Path(os.environ["NCBATCH_CHAOS_FLAGS"], "sick-worker")
    sick = _WRONG == "sick"

    def encode(self: Any, pixels: Any) -> Any:
        nonlocal sick
        if not sick and flag.exists():
            try:
                flag.unlink()
                sick = True
            except FileNotFoundError:
                pass  # another worker was faster
        if sick:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        time.sleep(_SECONDS)
        return real(self, pixels)

    module.ClassicalCoder._encode = encode


def _shift_clock(module: Any) -> None:
    if _WRONG == "clock":
        import datetime

        real = module.get_current_datetime
        module.get_current_datetime = lambda *a, **k: real(*a, **k) + datetime.timedelta(hours=1)


_CHANGES = {"ncbatch.codec.codecs": _sicken, "botocore.auth": _shift_clock}


class _Finder(importlib.abc.MetaPathFinder):
    """Lets the modules be found as always, and changes them once they have been executed."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        change = _CHANGES.get(name)
        if change is None or not sys.argv[0].endswith("default_worker.py"):
            return None
        del _CHANGES[name]
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            change(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Finder())
