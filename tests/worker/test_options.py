"""A worker's options: told once, and handed on whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ncbatch.driver.options import EncodeOptions, PoolConfig
from ncbatch.errors import UsageError
from ncbatch.worker.options import WorkerOptions
from tests.workbench import Workbench


def test_looks_are_where_a_refinement_pauses() -> None:
    assert WorkerOptions(trace_every=30).trace_every == 30
    with pytest.raises(UsageError, match="--trace 25: give a multiple of 10 steps"):
        WorkerOptions(trace_every=25)


def test_what_memory_does_to_the_batch_size_is_no_option(local: Workbench) -> None:
    spec = local.spec()
    workspace = local.workspace(spec, batch_size=8)
    workspace.batching(spec.variants[0]).too_large((64, 64), 8)
    assert workspace.batching(spec.variants[0]).size((128, 64)) == 4
    assert workspace.options.batch_size == 8


def test_a_worker_computes_with_the_cpus_that_it_has() -> None:
    assert [PoolConfig(cpus=cpus).threads for cpus in (0.25, 1.0, 3.5)] == [1, 1, 3]
    assert EncodeOptions().worker == WorkerOptions()


def test_options_need_nothing_heavy() -> None:
    program = "import sys, ncbatch.driver.options; print({'torch', 'ray', 'pyarrow'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
