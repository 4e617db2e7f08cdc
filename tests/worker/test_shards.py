"""Bitstreams whose keys begin with a hash, where a run asks for that."""

from __future__ import annotations

import hashlib

import pytest

from ncbatch import layout
from ncbatch.cli.encode_command import encode_command
from ncbatch.decoding.run_reader import RunReader
from ncbatch.errors import SpecMismatchError
from ncbatch.models.loading import keep_model
from ncbatch.plan.garbage import find_garbage
from tests.workbench import ATTEMPTS, CHECKPOINT, Workbench, make_image


@pytest.mark.parametrize("digits", [1, 2, 4])
def test_keys_may_begin_with_a_hash(bench: Workbench, digits: int) -> None:
    """So that a bucket spreads the requests; rows, adoption and whoever tidies up find the keys."""
    bench.add({f"2024/{n}.png": make_image(seed=n) for n in range(3)})
    spec = bench.spec(shard_prefix=digits)
    keep_model(bench.output, CHECKPOINT)
    rows = bench.encode(spec)
    for key, row in rows.items():
        shard = hashlib.sha256(key.encode()).hexdigest()[:digits]
        assert str(row.bitstream_key).startswith(f"bitstreams/{shard}/v/{key}.")
        bench.bitstream(row)
    assert [found.problem for found in RunReader(bench.output).verify()] == [None] * 3
    left = bench.keys(layout.BITSTREAMS_PREFIX)[0]
    assert find_garbage(bench.output, 0.0) == []
    bench.output.delete(layout.unit_key(bench.unit(spec).id))
    assert find_garbage(bench.output, 0.0) == [], "to be adopted"
    again = bench.encode(spec, attempt=ATTEMPTS[1])
    assert all(row.adopted for row in again.values()) and left in bench.keys(layout.BITSTREAMS_PREFIX)


def test_how_keys_begin_belongs_to_a_run(local: Workbench) -> None:
    local.add({"a.png": make_image()})
    local.open(local.spec(shard_prefix=2))
    with pytest.raises(SpecMismatchError, match="shard_prefix: 2 there, 0 asked for"):
        local.open(local.spec())
    assert local.spec(shard_prefix=0).digest == local.spec().digest != local.spec(shard_prefix=2).digest
    command = encode_command(local.spec(shard_prefix=2), local.output.uri)
    assert "--shard-prefix=2" in command
