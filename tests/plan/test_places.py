"""What is refused before a run is begun leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ncbatch import layout
from ncbatch.cli.main import main
from ncbatch.driver.encode_corpus import encode_corpus
from ncbatch.driver.options import EncodeOptions
from ncbatch.errors import UsageError
from ncbatch.plan.places import open_places
from ncbatch.plan.spec import RunSpec, read_run
from ncbatch.store import Store, StoreOptions, open_store
from ncbatch.store.s3 import S3Store
from tests.workbench import CHECKPOINT, Workbench, encoded_as, make_image, make_variant

QUICK = StoreOptions(retry_seconds=20.0)
REFUSED: list[tuple[str, tuple[str, ...], str]] = [
    ("in", (), "is the corpus and the output; name another folder for the output"),
    ("in", ("--manifest", "{folder}/list.csv"), "is the corpus and the output"),
    ("in/", ("--dry-run",), "is the corpus and the output"),
    ("out", ("--include", "zzz*"), "in/ matches --include 'zzz*' (passed over 1 object that is excluded, is"),
    ("out", ("--manifest", "{folder}/text.parquet"), "is neither Parquet nor CSV"),
    ("out", ("--manifest", "{folder}/gone.csv"), "gone.csv"),
    ("done/bitstreams", (), "lies inside the folder of the run"),
    ("done/a/b", ("--manifest", "{folder}/list.csv"), "lies inside the folder of the run"),
    ("done/a/b", ("--dry-run",), "lies inside the folder of the run"),
    ("link/below", (), "lies inside the folder of the run"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A corpus `in`, `done` with a planned run of it, and `link` to a folder in there."""
    bench = Workbench(
        open_store(str(tmp_path / "in"), create=True), open_store(str(tmp_path / "done"), create=True), True
    )
    bench.add({"a.png": make_image()})
    bench.open(bench.spec())
    (tmp_path / "list.csv").write_text("key\na.png\n")
    (tmp_path / "text.parquet").write_text("no table")
    (tmp_path / "link").symlink_to(tmp_path / "done" / "plan")
    return tmp_path


@pytest.mark.parametrize(("output", "flags", "message"), REFUSED)
def test_a_refused_request_writes_nothing(
    folder: Path, output: str, flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    words = [word.format(folder=folder) for word in flags]
    assert main(["encode", str(folder / "in"), str(folder / output), *words]) == 1
    told = capsys.readouterr().err.strip()
    assert message in told
    assert len(told.splitlines()) == 1, told
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_run_never_stands_without_its_models(local: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are there before anything is planned, and workers start."""
    there = []

    def drive(*_: object) -> tuple[str, int]:
        there.extend(local.keys(""))
        raise KeyboardInterrupt

    monkeypatch.setattr("ncbatch.driver.encode_corpus._drive", drive)
    local.add({"a.png": make_image()})
    places = open_places(local.spec(), local.output.uri, StoreOptions())
    with pytest.raises(KeyboardInterrupt):
        encode_corpus(places, EncodeOptions(), lambda _: None)
    assert layout.model_key(CHECKPOINT.digest) in there and layout.RUN not in there


@pytest.mark.parametrize(("place", "told"), [("in/out", 1), ("out", 0), ("in-beside", 0)])
def test_an_output_in_the_corpus_is_told_once(
    folder: Path, place: str, told: int, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = open_store(str(folder / "in"))
    inner = Workbench(corpus, open_store(str(folder / place), create=True), True)
    spec = inner.spec()
    for _ in range(2):  # a run that goes on has said so before
        open_places(spec, inner.output.uri, StoreOptions())
        inner.open(spec)
    found = [
        message for message in caplog.messages if "lies in the corpus; what is below it is no" in message
    ]
    assert len(found) == told


def test_what_is_called_as_a_run_and_is_none_keeps_nothing_out(local: Workbench) -> None:
    local.add({"a.png": make_image()})
    local.output.put("run.json", b"[]")
    open_places(local.spec(), local.output.uri + "deeper/", StoreOptions())


def test_a_run_that_lies_in_another_already_goes_on(folder: Path) -> None:
    corpus = open_store(str(folder / "in"))
    inner = Workbench(corpus, open_store(str(folder / "done" / "inner"), create=True), True)
    spec = inner.spec()
    inner.open(spec)
    assert open_places(spec, inner.output.uri, StoreOptions()).stored == read_run(inner.output)


@pytest.mark.s3
def test_in_a_bucket_each_folder_above_is_one_request(
    on_s3: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_s3.corpus.put("a.png", encoded_as(make_image()))
    spec: RunSpec = on_s3.spec(make_variant())
    asked: list[str] = []
    get: Callable[[S3Store, str], bytes] = S3Store.get

    def counted(store: S3Store, key: str) -> bytes:
        asked.append(store.uri + key)
        return get(store, key)

    monkeypatch.setattr(S3Store, "get", counted)
    bucket = on_s3.output.uri.removesuffix("out/")
    assert open_places(spec, f"{bucket}x/y", QUICK).stored is None
    assert asked == [f"{bucket}x/y/run.json", f"{bucket}x/run.json", f"{bucket}run.json"]
    on_s3.open(spec)
    with pytest.raises(UsageError, match=rf"lies inside the folder of the run {on_s3.output.uri};"):
        open_places(spec, f"{on_s3.output.uri}bitstreams/v", QUICK)
    del asked[:]
    assert open_places(spec, on_s3.output.uri, QUICK).stored is not None
    assert asked == [f"{on_s3.output.uri}run.json"], "a run that goes on asks for no more"
    beside: Store = open_places(spec, on_s3.output.uri.rstrip("/") + "side", QUICK).output
    assert list(beside.list()) == []
