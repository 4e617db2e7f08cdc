"""The library in a thread of another program: it encodes, and leaves the signal handlers alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.command_line import HANG_SECONDS, ROOT, environment
from tests.end_to_end.images import save_images
from tests.end_to_end.runs import assert_verified, output_store, rows

pytestmark = pytest.mark.ray

PROGRAM = """
import signal, sys, threading

from ncbatch.driver.encode_corpus import encode_corpus
from ncbatch.driver.options import EncodeOptions, PoolConfig
from ncbatch.plan.places import open_places
from ncbatch.plan.request import make_spec
from ncbatch.store import StoreOptions


def own(number, frame):
    raise AssertionError("no signal is sent")


for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, own)
found = []


def work():
    spec = make_spec(sys.argv[1], StoreOptions(), [{"method": "amortized"}])
    places = open_places(spec, sys.argv[2], StoreOptions())
    found.append(encode_corpus(places, EncodeOptions(pool=PoolConfig(workers=1)), lambda snapshot: None))


thread = threading.Thread(target=work)
thread.start()
thread.join()
print(found[0].ok, found[0].failed)
print(all(signal.getsignal(number) is own for number in (signal.SIGINT, signal.SIGTERM)))
"""


def test_a_corpus_is_encoded_off_the_main_thread(tmp_path: Path) -> None:
    save_images(tmp_path / "in", 3)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "in"), str(tmp_path / "out")],
        cwd=ROOT,
        env=environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["3 0", "True"], done.stdout
    out = output_store(tmp_path / "out")
    assert_verified(out)
    assert len(rows(out)) == 3 and out.head("lease.json") is None
