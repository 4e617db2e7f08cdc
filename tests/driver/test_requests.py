"""What encoding a corpus asks of the store: what does not change is fetched once."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ncbatch import layout
from ncbatch.codec.errors import ModelError
from ncbatch.driver.driver import Work
from ncbatch.driver.encode_corpus import encode_corpus
from ncbatch.driver.limits import EarlierFailures
from ncbatch.driver.options import EncodeOptions
from ncbatch.errors import StoppedByPolicyError
from ncbatch.metrics.failures import Failure
from ncbatch.metrics.summary import Summary
from ncbatch.models import zoo
from ncbatch.models.loading import RunModels, keep_model
from ncbatch.plan.places import open_places
from ncbatch.plan.retry import Retry
from ncbatch.plan.spec import RunSpec, Variant
from ncbatch.store import AccessDenied, LocalStore, Store, StoreOptions
from ncbatch.worker.unit import run_unit
from ncbatch.worker.workspace import Workspace
from tests.workbench import AMORTIZED, ATTEMPTS, CHECKPOINT, MODEL, Workbench, make_image, make_variant


class PoolHere:
    """In the place of Ray's workers: this process."""

    room = 1

    def __init__(self, config: Any, *_: Any) -> None:
        self.workspace = Workspace(config.spec, config.corpus, config.output, MODEL.device, config.options)
        self.workspace.models.add(MODEL)

    def __enter__(self) -> PoolHere:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class DriverHere:
    """In the place of the driver: does a run's pending units one after the other, up to `limit` of them."""

    limit = 100
    works: list[Work]

    def __init__(self, work: Work, output: Store, pool: PoolHere, *_: Any, again: Any, **__: Any) -> None:
        self._work, self._pool, self._again = work, pool, again
        type(self).works = [work]
        self.images = sum(len(unit.images) for unit in work.run.units)

    def drive(self) -> str | None:
        for unit in self._work.run.pending[: self.limit]:
            run_unit(self._pool.workspace, unit, ATTEMPTS[unit.generation], {})
        if self.limit < len(self._work.run.pending):
            return "halfway"
        more = self._again()
        if more is None:
            return None
        self._work = more
        self.works.append(more)
        return self.drive()


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ncbatch.driver.encode_corpus.Pool", PoolHere)
    monkeypatch.setattr(
        "ncbatch.driver.encode_corpus.calibrate", lambda _, variants, __: dict.fromkeys(variants, 1e-6)
    )
    monkeypatch.setattr("ncbatch.driver.encode_corpus.Driver", DriverHere)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often each key was fetched, of all local stores together."""
    counts: Counter[str] = Counter()
    get, lock = LocalStore.get, threading.Lock()

    def counted(store: LocalStore, key: str) -> bytes:
        with lock:
            counts[key] += 1
        return get(store, key)

    monkeypatch.setattr(LocalStore, "get", counted)
    yield counts


def encode(bench: Workbench, spec: RunSpec, options: EncodeOptions | None = None) -> Summary:
    places = open_places(spec, bench.output.uri, StoreOptions())
    return encode_corpus(places, options or EncodeOptions(), lambda _: None)


def test_a_run_is_opened_and_its_table_read_once_on_resume(
    local: Workbench, fetched: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    local.add({"a.png": make_image(), "bad.png": b"text"})
    spec = local.spec(make_variant(name="one"), make_variant(name="two"))
    encode(local, spec)
    commits = local.keys("units/")
    assert len(commits) == 4
    local.add({"new.png": make_image(seed=1)})
    monkeypatch.setattr(DriverHere, "limit", 1)  # and stopped there, so that no table is read at the end
    fetched.clear()
    with pytest.raises(StoppedByPolicyError, match="stopped: halfway"):
        encode(local, spec, EncodeOptions(retry=Retry()))
    assert fetched[layout.RUN] == 1
    assert {key: fetched[key] for key in commits} == dict.fromkeys(commits, 1)
    (work,) = DriverHere.works
    assert work.before == EarlierFailures(failed=2, killed=0)
    assert sum(result.ok for result in work.results.values()) == 2


def test_all_that_is_not_rays_works_off_the_main_thread(local: Workbench) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    local.add({"a.png": make_image()})
    with ThreadPoolExecutor(1) as threads:
        summary = threads.submit(encode, local, local.spec()).result()
    assert (summary.ok, summary.failed) == (1, 0)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_new_run_is_looked_for_once_and_read_back_once(local: Workbench, fetched: Counter[str]) -> None:
    local.add({"a.png": make_image()})
    summary = encode(local, local.spec())
    assert (summary.ok, summary.failed) == (1, 0)
    assert fetched[layout.RUN] == 2


def test_a_worker_loads_each_model_once_however_variants_take_turns(
    local: Workbench, fetched: Counter[str]
) -> None:
    others = {name: zoo.load_builtin(name) for name in ("base-0.005", "base-0.020")}
    for checkpoint in others.values():
        keep_model(local.output, checkpoint)
    variants = [
        Variant(name=f"{name}-{alpha}", model=name, model_digest=c.digest, recipe=AMORTIZED, alpha=alpha)
        for alpha in ("white", "black")
        for name, c in others.items()
    ]
    local.add({"a.png": make_image()})
    encode(local, local.spec(*variants))
    keys = [layout.model_key(checkpoint.digest) for checkpoint in others.values()]
    assert [fetched[key] for key in keys] == [1, 1]


def test_of_more_models_than_memory_is_for_the_last_used_stay(
    local: Workbench, fetched: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = [zoo.load_builtin(name) for name in ("base-0.005", "base-0.010", "base-0.020")]
    for checkpoint in checkpoints:
        keep_model(local.output, checkpoint)
    size = sum(tensor.nbytes for tensor in checkpoints[0].tensors.values())
    monkeypatch.setattr("ncbatch.models.loading._KEPT_BYTES", int(2.5 * size))
    models = RunModels(local.output, MODEL.device)
    first, second, third = (checkpoint.digest for checkpoint in checkpoints)
    for digest in (first, second, first, third, first, second):
        assert models.get(digest).digest == digest
    assert [fetched[layout.model_key(digest)] for digest in (first, second, third)] == [1, 2, 1]


def test_a_model_that_has_become_another_is_not_kept_for_it(local: Workbench) -> None:
    local.add({"a.png": make_image()})
    changed = make_variant().model_copy(update={"model_digest": "0" * 64})
    with pytest.raises(ModelError, match=r"the model base-0.010 is another now: its digest is .*, not 0000"):
        encode(local, local.spec(changed))
    assert local.keys("models/") == [] and layout.RUN not in local.keys("")


def test_a_model_is_read_from_nearer_than_the_runs_folder(local: Workbench, fetched: Counter[str]) -> None:
    keep_model(local.output, CHECKPOINT)
    key = layout.model_key(CHECKPOINT.digest)
    whole, other = CHECKPOINT.to_bytes(), zoo.load_builtin("base-0.005").to_bytes()
    for given, reads in ((whole, 0), (None, 1), (other, 2)):
        models = RunModels(local.output, MODEL.device, {CHECKPOINT.digest: given}.get)
        assert models.get(CHECKPOINT.digest).digest == CHECKPOINT.digest
        assert fetched[key] == reads


# Failed rows that may have been a matter of the moment


def test_what_may_be_over_is_tried_once_more_by_itself(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.add({"a.png": make_image(), "b.png": make_image(seed=1), "bad.png": b"text"})
    get, broken = LocalStore.get_with_info, {"a.png": 1, "b.png": 100}

    def denied(store: LocalStore, key: str) -> Any:
        if broken.get(key, 0) > 0:
            broken[key] -= 1
            raise AccessDenied(f"{key} is denied")
        return get(store, key)

    monkeypatch.setattr(LocalStore, "get_with_info", denied)
    summary = encode(local, local.spec())
    assert (summary.ok, summary.failed) == (1, 2)
    rows = local.rows()
    assert {key: (row.generation, row.error_class) for key, row in rows.items()} == {
        "a.png": (1, None), "b.png": (1, "access_denied"), "bad.png": (0, "unreadable"),
    }  # fmt: skip
    _, second = DriverHere.works
    assert second.before == EarlierFailures(failed=2), "which is no news"
    assert sorted(i.key for unit in second.run.pending for i in unit.images) == ["a.png", "b.png"]
    encode(local, local.spec())
    (work,) = DriverHere.works
    assert work.run.pending == [], "once, whoever drives"
    broken.clear()
    assert encode(local, local.spec(), EncodeOptions(retry=Retry())).failed == 1
    assert local.rows()["b.png"].status == "ok"


def test_a_driver_that_dies_before_the_second_attempt_leaves_it_to_the_next(
    local: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.add({"a.png": make_image()})
    spec, missing = local.spec(), Failure("missing", "gone for a while")
    run_unit(local.workspace(spec), local.unit(spec), ATTEMPTS[0], {"a.png": missing})
    monkeypatch.setattr(DriverHere, "limit", 0)
    with pytest.raises(StoppedByPolicyError):
        encode(local, spec)
    assert [unit.generation for unit in DriverHere.works[-1].run.pending] == [1]
    monkeypatch.setattr(DriverHere, "limit", 100)
    assert encode(local, spec).ok == 1
    assert local.rows()["a.png"].generation == 1


def test_what_is_no_longer_there_is_not_asked_for_again(local: Workbench) -> None:
    local.add({"a.png": make_image(), "gone.png": make_image(seed=1)})
    spec, missing = local.spec(), Failure("missing", "gone")
    run_unit(local.workspace(spec), local.unit(spec), ATTEMPTS[0], {"gone.png": missing})
    local.corpus.delete("gone.png")
    summary = encode(local, spec)
    assert (summary.ok, summary.failed, len(DriverHere.works)) == (1, 1, 1)
