"""Verifying and decoding on a cluster, from the command line: units, resume after a kill, damage found."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ncbatch import layout
from ncbatch.codec.methods import Jpeg
from ncbatch.decoding.run_reader import RunReader
from ncbatch.plan.spec import Variant
from ncbatch.store import open_store
from tests.end_to_end.command_line import Said, ncbatch, running, wait_for
from tests.end_to_end.images import save_images
from tests.end_to_end.runs import count, output_store, rows
from tests.workbench import Workbench

pytestmark = pytest.mark.ray

_LOCAL = ("--ray-address", "local", "--workers", "2")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Made in this process: starting Ray takes seconds."""
    save_images(tmp_path / "corpus", 40)
    corpus = open_store(str(tmp_path / "corpus"))
    bench = Workbench(corpus, open_store(str(tmp_path / "output"), create=True), create_only=True)
    bench.encode(bench.spec(Variant(name="jpeg-80", recipe=Jpeg(quality=80))))
    return tmp_path / "output"


def test_a_check_goes_on_after_a_kill_and_finds_what_is_damaged(
    run: Path, said: Said, tmp_path: Path
) -> None:
    out = output_store(run)
    found = rows(out)
    damaged = sorted(found)[17]
    path = run / found[damaged]["bitstream_key"]
    path.write_bytes(path.read_bytes()[:-3] + b"xyz")

    # The driver and its workers die in the middle.
    with running("verify", run, *_LOCAL) as command:
        wait_for(lambda: count(out, "checking/verify-00000001/units/"), "some is done")
        command.process.send_signal(signal.SIGKILL)
        command.process.wait()
    before = {i.key: i.etag for i in out.list("checking/verify-00000001/units/")}
    assert not layout_done(run)
    done = ncbatch("verify", run, *_LOCAL).expect(2)
    assert f"{damaged} (jpeg-80)" in done.err and "its hash differs" in done.err
    assert "going on with verify-00000001" in done.err
    assert "39 images verified" in done.out and "1 is not" in done.out
    after = {i.key: i.etag for i in out.list("checking/verify-00000001/units/")}
    assert before.items() <= after.items() and len(after) >= 4, "what was done is not done again"

    # The findings are a table beside the run's own.
    sql = (
        "select image_key, damaged, f.generation from findings f join metrics using (image_key) "
        "where problem is not null"
    )
    told = json.loads(said("query", run, sql, "--format", "json").expect(0).out)
    assert told == [{"image_key": damaged, "damaged": True, "generation": 0}]
    sql = "select count(*) as n, count(distinct image_key) as images, max(check_name) as name from findings"
    told = json.loads(said("query", run, sql, "--format", "json").expect(0).out)
    assert told == [{"n": 40, "images": 40, "name": "verify-00000001"}]

    # Without a cluster the same is found, and nothing is written into the run.
    here = said("verify", run).expect(2)
    assert f"{damaged} (jpeg-80)" in here.err and "39 images verified" in here.out
    assert [i.key for i in out.list("checks/")] == [
        "checks/verify-00000001.done.json",
        "checks/verify-00000001.json",
    ]

    # Decoding: the same images as in one process, those but the damaged one.
    into = tmp_path / "decoded"
    done = ncbatch("decode", run, into, *_LOCAL, "--json").expect(2)
    told = json.loads(done.out)
    assert told["decoded"] == 39 and [p["image_key"] for p in told["problems"]] == [damaged]
    reader = RunReader(out)
    for key in sorted(found):
        if key != damaged:
            np.testing.assert_array_equal(np.asarray(Image.open(into / key)), reader.image(key, "jpeg-80"))

    # What is finished is what a sweep takes away, and the findings stay.
    swept = said("gc", run, "--delete", "--older-than", "0").expect(0)
    assert "checks" in swept.out and not list(out.list("checking/"))
    assert json.loads(said("query", run, sql, "--format", "json").expect(0).out)[0]["n"] == 80


def layout_done(run: Path) -> bool:
    return (run / layout.check_done_key("verify-00000001")).exists()


def test_an_impossible_destination_is_told_before_anything_starts(
    run: Path, said: Said, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    told = said("decode", run, tmp_path / "file" / "sub", *_LOCAL).expect(1)
    assert f"sub cannot be made because {tmp_path}/file is a file" in told.message
    assert not list(output_store(run).list("checks/"))


def test_a_sample_is_checked(run: Path, said: Said) -> None:
    assert "3 images verified" in said("verify", run, "--sample", "3").expect(0).out
    assert "4 images verified" in said("verify", run, "--sample", "10%").expect(0).out
    assert "40 images verified" in said("verify", run, "--sample", "500").expect(0).out
    assert "nor a percentage" in said("verify", run, "--sample", "some").expect(1).message
    assert "name one with --ray-address" in said("verify", run, "--anew").expect(1).message
