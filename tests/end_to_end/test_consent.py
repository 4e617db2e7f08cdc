"""A question at a terminal, before much is encoded once more."""

from __future__ import annotations

import pytest

from ncbatch import layout
from ncbatch.plan.changes import MAY_CHANGE_AT_LEAST
from ncbatch.plan.request import make_spec
from ncbatch.store import StoreOptions
from ncbatch.worker.unit import run_unit
from tests.end_to_end.command_line import HANG_SECONDS, wait_for
from tests.end_to_end.terminal import Terminal
from tests.workbench import ATTEMPTS, Workbench, make_image


@pytest.mark.parametrize("answer", ["n", ""])
def test_who_does_not_say_yes_gets_nothing_encoded(local: Workbench, answer: str) -> None:
    many = MAY_CHANGE_AT_LEAST + 1
    local.add({f"{n}.png": make_image(seed=n) for n in range(many)})
    spec = make_spec(local.corpus.uri, StoreOptions(), [{"method": "jpeg", "quality": 60}])
    for unit in local.open(spec).units:
        run_unit(local.workspace(spec), unit, ATTEMPTS[0], {})
    local.add({f"{n}.png": make_image(80, 64, seed=n) for n in range(many)})
    before = local.keys("")
    words = ("encode", local.corpus.uri, local.output.uri, "--method", "jpeg", "--quality", "60")
    with Terminal(*words) as terminal:
        wait_for(lambda: "go on? [y/N]" in terminal.text(), "the question")
        terminal.enter(answer)
        assert terminal.wait(HANG_SECONDS) == 1
        told = terminal.text()
    again = f"so {many} of its {many} encodings would be made again"
    assert f"{many} inputs have changed since the run was planned, {again}" in told
    assert "ncbatch: error: nothing was planned or encoded, as you did not answer yes" in told
    assert [key for key in local.keys("") if key != layout.STATUS] == before
