"""A killed worker costs what was done since the last save, and changes nothing."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load, save

from ncbatch import layout
from ncbatch.plan.spec import RunSpec
from ncbatch.plan.units import Unit
from ncbatch.store import AccessDenied, Store, open_store
from ncbatch.worker import work_in_progress
from ncbatch.worker.unit import open_attempt, run_unit
from ncbatch.worker.work_in_progress import WorkInProgress
from ncbatch.worker.workspace import Workspace
from tests.workbench import ATTEMPTS, Workbench, make_image, make_variant, sga

STEPS = 40


class Killed(BaseException):
    """SIGKILL, as far as the worker's code can tell."""


@dataclass
class DeadlyStore:
    """A real store whose client dies after some saves of work in progress."""

    store: Store
    saves_left: int
    saved: int = field(default=0, init=False)

    def put(self, key: str, data: bytes) -> None:
        self.store.put(key, data)
        if key.startswith("wip/"):
            self.saved += 1
            self.saves_left -= 1
            if not self.saves_left:
                raise Killed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


def _planned(bench: Workbench, **recipe: Any) -> tuple[RunSpec, Unit]:
    bench.add({"a.png": make_image(seed=1), "b.png": make_image(70, 64, seed=2)})
    spec = bench.spec(make_variant(sga(STEPS, **recipe)))
    return spec, bench.unit(spec)


def _kill_after(bench: Workbench, spec: RunSpec, unit: Unit, saves: int) -> None:
    workspace = bench.workspace(spec, wip_seconds=0.0)
    workspace.output = DeadlyStore(bench.output, saves)
    with pytest.raises(Killed):
        run_unit(workspace, unit, ATTEMPTS[0], {})
    assert bench.output.head(layout.wip_key(unit.id)) is not None


def _finish(workspace: Workspace, unit: Unit) -> None:
    run_unit(workspace, unit, ATTEMPTS[1], {})


def _streams(bench: Workbench) -> dict[str, bytes]:
    return {key: bench.bitstream(row) for key, row in bench.rows().items()}


def _went_on(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.message.partition(" from ")[0] for r in caplog.records if "continuing" in r.message]


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=work_in_progress.__name__)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the images become when nothing happens."""
    root = tmp_path_factory.mktemp("undisturbed")
    corpus, output = (open_store(str(root / name), create=True) for name in ("in", "out"))
    bench = Workbench(corpus, output, create_only=True)
    spec, unit = _planned(bench)
    run_unit(bench.workspace(spec), unit, ATTEMPTS[0], {})
    return _streams(bench)


@pytest.mark.parametrize("saves", [1, 2, 5])
def test_a_new_attempt_goes_on_and_ends_the_same(
    local: Workbench, undisturbed: dict[str, bytes], caplog: pytest.LogCaptureFixture, saves: int
) -> None:
    spec, unit = _planned(local)
    _kill_after(local, spec, unit, saves)
    _finish(local.workspace(spec), unit)
    assert _went_on(caplog) == [f"continuing at step {10 * ((saves - 1) % 3 + 1)}"], "three saves per image"
    assert _streams(local) == undisturbed
    assert local.keys("wip/") == []


def test_images_that_stop_do_so_in_the_next_attempt_too(local: Workbench, tmp_path: Path) -> None:
    stopping = {"patience": 1, "check_every": 1}
    corpus, output = (open_store(str(tmp_path / name), create=True) for name in ("in", "out"))
    bench = Workbench(corpus, output, create_only=True)
    spec, unit = _planned(bench, **stopping)
    run_unit(bench.workspace(spec), unit, ATTEMPTS[0], {})
    taken = {key: row.steps_taken for key, row in bench.rows().items()}
    assert all(steps is not None and 28 < steps < STEPS for steps in taken.values())
    spec, unit = _planned(local, **stopping)
    _kill_after(local, spec, unit, 2)
    _finish(local.workspace(spec), unit)
    assert {key: row.steps_taken for key, row in local.rows().items()} == taken
    assert _streams(local) == _streams(bench)


def test_killed_again_and_again(local: Workbench, undisturbed: dict[str, bytes]) -> None:
    spec, unit = _planned(local)
    for _ in range(5):
        _kill_after(local, spec, unit, 1)
    _finish(local.workspace(spec), unit)
    assert _streams(local) == undisturbed


def test_a_batch_goes_on_as_a_batch(
    local: Workbench, undisturbed: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    local.add({"a.png": make_image(seed=1), "c.png": make_image(seed=3)})
    spec = local.spec(make_variant(sga(STEPS)))
    unit = local.unit(spec)
    workspace = local.workspace(spec, wip_seconds=0.0, batch_size=2)
    workspace.output = DeadlyStore(local.output, 2)
    with pytest.raises(Killed):
        run_unit(workspace, unit, ATTEMPTS[0], {})
    _finish(local.workspace(spec, batch_size=2), unit)
    assert _went_on(caplog) == ["continuing at step 20"]
    assert _streams(local)["a.png"] == undisturbed["a.png"]


def test_an_interrupted_batch_goes_on_whatever_size_batches_have(
    local: Workbench, undisturbed: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """As on a GPU, where the next worker may have found another size, or has yet to find one."""
    local.add({f"{n}.png": make_image(70, 64, seed=n) for n in range(3)})
    spec, unit = _planned(local)
    workspace = local.workspace(spec, wip_seconds=0.0, batch_size=2)
    workspace.output = DeadlyStore(local.output, 5)  # in the second batch; the first has three saves
    with pytest.raises(Killed):
        run_unit(workspace, unit, ATTEMPTS[0], {})
    _finish(local.workspace(spec, batch_size=1), unit)
    assert _went_on(caplog) == ["continuing at step 20"]
    rows = local.rows()
    assert [key for key in undisturbed if local.bitstream(rows[key]) != undisturbed[key]] == []


@pytest.mark.s3
def test_it_goes_on_from_s3(
    on_s3: Workbench, undisturbed: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    spec, unit = _planned(on_s3)
    _kill_after(on_s3, spec, unit, 2)
    _finish(on_s3.workspace(spec), unit)
    assert _went_on(caplog) == ["continuing at step 20"]
    assert _streams(on_s3) == undisturbed
    assert on_s3.keys("wip/") == []


def test_nothing_is_saved_before_it_is_time(local: Workbench) -> None:
    spec, unit = _planned(local)
    counting = DeadlyStore(local.output, 10**9)
    workspace = local.workspace(spec, wip_seconds=60.0)
    workspace.output = counting
    _finish(workspace, unit)
    assert counting.saved == 0


def test_the_state_of_another_recipe_or_image_is_not_taken(
    local: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    spec, unit = _planned(local)
    key = layout.wip_key(unit.id)
    _kill_after(local, spec, unit, 2)
    own = local.output.get(key)
    variant = spec.variants[0]
    image = unit.images[0]
    for other_variant, other_image in (
        (make_variant(sga(STEPS, seed=1)), image),
        (variant, type(image)(image.key, "another etag", image.bytes)),
        (variant, unit.images[1]),
    ):
        found = WorkInProgress(local.output, unit, other_variant, 0.0).resume([other_image])
        assert found is None
    assert WorkInProgress(local.output, unit, variant, 0.0).resume(unit.images) is None, "another batch"
    assert _went_on(caplog) == []
    assert local.output.get(key) == own
    assert WorkInProgress(local.output, unit, variant, 0.0).resume([image]) is not None


def test_the_state_of_another_version_is_not_taken(local: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, unit = _planned(local)
    _kill_after(local, spec, unit, 2)
    monkeypatch.setattr(work_in_progress, "__version__", "99")
    assert WorkInProgress(local.output, unit, spec.variants[0], 0.0).resume(unit.images[:1]) is None


def test_the_state_is_fetched_once_for_a_unit(local: Workbench) -> None:
    spec, unit = _planned(local)
    state = WorkInProgress(local.output, unit, spec.variants[0], 0.0)
    assert state.resume(unit.images[:1]) is None
    _kill_after(local, spec, unit, 1)
    assert state.resume(unit.images[:1]) is None, "what comes to stand there later is somebody else's"


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "no tag"])
def test_a_damaged_state_is_ignored(
    local: Workbench, undisturbed: dict[str, bytes], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    spec, unit = _planned(local)
    _kill_after(local, spec, unit, 2)
    key = layout.wip_key(unit.id)
    data = local.output.get(key)
    untagged = save({name: tensor for name, tensor in load(data).items() if name != "tag"})
    changed = {"empty": b"", "cut": data[: len(data) // 2], "garbage": b"\xff" * 5000, "no tag": untagged}
    local.output.put(key, changed[damage])
    _finish(local.workspace(spec), unit)
    assert _went_on(caplog) == []
    assert ("which is damaged" in caplog.text) == (damage != "no tag")
    assert _streams(local) == undisturbed
    assert local.keys("wip/") == []


def test_a_state_of_another_layout_is_left_alone(
    local: Workbench,
    undisturbed: dict[str, bytes],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An earlier program saved it, with other tensors; a run goes on with a later one."""
    spec, unit = _planned(local)
    with monkeypatch.context() as earlier:
        earlier.setattr(work_in_progress, "_LAYOUT", 1)
        _kill_after(local, spec, unit, 2)
    key = layout.wip_key(unit.id)
    state = load(local.output.get(key))
    local.output.put(key, save({name: tensor for name, tensor in state.items() if name != "stopped"}))
    _finish(local.workspace(spec), unit)
    assert _went_on(caplog) == [] and _streams(local) == undisturbed


@dataclass
class RefusingStore:
    """A real store that takes and deletes no work in progress, as a bucket's policy may have it."""

    store: Store
    refused: list[str] = field(default_factory=list, init=False)

    def put(self, key: str, data: bytes) -> None:
        self._refuse("put", key)
        self.store.put(key, data)

    def delete(self, key: str) -> None:
        self._refuse("delete", key)
        self.store.delete(key)

    def _refuse(self, what: str, key: str) -> None:
        if key.startswith("wip/"):
            self.refused.append(what)
            raise AccessDenied("not here")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


def test_a_store_that_refuses_work_in_progress_stops_no_unit(
    local: Workbench, undisturbed: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    spec, unit = _planned(local)
    workspace = local.workspace(spec, wip_seconds=0.0)
    refusing = workspace.output = RefusingStore(local.output)
    run_unit(workspace, unit, ATTEMPTS[0], {})
    assert _streams(local) == undisturbed
    assert set(refusing.refused) == {"put", "delete"}
    assert "encoding goes on without it: not here" in caplog.text


def test_nothing_is_deleted_where_nothing_was_found_or_saved(local: Workbench) -> None:
    """Each request is time in which a device waits."""
    spec, unit = _planned(local)
    workspace = local.workspace(spec)
    counting = workspace.output = RefusingStore(local.output)
    run_unit(workspace, unit, ATTEMPTS[0], {})
    assert counting.refused == []


def test_a_state_whose_image_was_finished_is_deleted_with_the_commit(local: Workbench) -> None:
    """Killed between the bitstream and the commit: all is adopted, and nobody asks for the state again."""
    spec, unit = _planned(local)
    attempt = open_attempt(local.workspace(spec, wip_seconds=0.0), unit, ATTEMPTS[0])
    assert len(list(attempt.rows(unit.images, {}))) == 2
    assert len(local.keys("wip/")) == 1
    _finish(local.workspace(spec), unit)
    assert {row.adopted for row in local.rows().values()} == {True}
    assert local.keys("wip/") == []
