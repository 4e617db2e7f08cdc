"""What only folders have: links, hidden files, permissions, processes that die in the middle of a write."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ncbatch.store import AccessDenied, LocalStore, ObjectNotFound, Store, StoreError, open_store

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def folder(tmp_path: Path) -> LocalStore:
    store = open_store(str(tmp_path / "root"), create=True)
    assert isinstance(store, LocalStore)
    return store


def keys(store: Store, prefix: str = "") -> list[str]:
    return [info.key for info in store.list(prefix)]


def test_the_root_is_made_by_the_first_write_only(folder: LocalStore) -> None:
    folder.check()
    assert keys(folder) == []
    assert folder.head("x") is None
    assert not folder.root.exists()
    folder.put("x", b"")
    assert keys(folder) == ["x"]


def test_nothing_hidden_is_listed(folder: LocalStore) -> None:
    for name in (".git/config", ".DS_Store", "photos/.thumbnails/a.png", "photos/.hidden", "photos/a.png"):
        path = folder.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    folder.put("b", b"")
    assert keys(folder) == ["b", "photos/a.png"]


def test_the_folder_of_unfinished_writes_is_out_of_reach(folder: LocalStore) -> None:
    folder.put("x", b"")
    hidden = [path for path in folder.root.iterdir() if path.name.startswith(".")]
    assert len(hidden) == 1
    assert list(hidden[0].iterdir()) == [], "a finished write leaves nothing in it"
    with pytest.raises(StoreError, match="rename the object"):
        folder.put(f"{hidden[0].name}/y", b"")


def test_links_are_followed_but_never_in_circles(folder: LocalStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "photo.png").write_bytes(b"12345")
    folder.put("a/own", b"1")
    (folder.root / "a" / "linked.png").symlink_to(outside / "photo.png")
    (folder.root / "linked").symlink_to(outside, target_is_directory=True)
    (folder.root / "a" / "up").symlink_to(folder.root, target_is_directory=True)
    (folder.root / "a" / "self").symlink_to("self")
    (folder.root / "broken").symlink_to("nowhere")
    assert keys(folder) == ["a/linked.png", "a/own", "linked/photo.png"]
    assert folder.get("linked/photo.png") == b"12345"
    assert [info.size for info in folder.list("a/linked")] == [5]


def test_what_is_no_regular_file_is_no_object(folder: LocalStore) -> None:
    folder.put("d/x", b"")
    os.mkfifo(folder.root / "pipe")
    assert keys(folder) == ["d/x"]
    for name in ("pipe", "d"):
        assert folder.head(name) is None
        with pytest.raises(ObjectNotFound):
            folder.get(name)
    folder.delete("d")
    assert folder.get("d/x") == b""


def test_names_that_are_not_utf8_are_skipped_with_a_warning(
    folder: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    folder.put("good", b"")
    (folder.root / os.fsdecode(b"bad\xff.png")).write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        assert keys(folder) == ["good"]
    assert "bad\\udcff.png" in caplog.text


def test_the_etag_follows_the_content(folder: LocalStore) -> None:
    folder.put("x", b"same size 1")
    status = (folder.root / "x").stat()
    info = folder.head("x")
    assert info is not None
    assert info.etag == f"{status.st_mtime_ns:x}-{status.st_size:x}"
    os.utime(folder.root / "x", ns=(0, status.st_mtime_ns + 1))
    assert folder.head("x") != info


def test_missing_and_wrong_roots_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="absent does not exist"):
        open_store(str(tmp_path / "absent"))
    for create in (False, True):
        with pytest.raises(StoreError, match="file is not a folder"):
            open_store(str(tmp_path / "file"), create=create)
    below_a_file = open_store(str(tmp_path / "file" / "below"), create=True)
    with pytest.raises(StoreError, match="is a file"):
        below_a_file.check()
    with pytest.raises(StoreError, match="rename one of the two"):
        below_a_file.put("x", b"")


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, StoreError, "free space"),
        (errno.EDQUOT, StoreError, "free space"),
        (errno.EACCES, AccessDenied, "permissions"),
        (errno.EROFS, AccessDenied, "permissions"),
        (errno.EIO, StoreError, "check the disk"),
    ],
)
def test_a_write_the_system_refuses(
    folder: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StoreError], words: str
) -> None:
    folder.put("x", b"old")

    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(kind, match=words) as refusal:
        folder.put("x", b"new")
    monkeypatch.undo()
    assert "'x'" in str(refusal.value)
    assert folder.get("x") == b"old"
    assert list((folder.root / ".ncbatch-tmp").iterdir()) == []


def test_a_file_system_without_hard_links_is_named(
    folder: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match="no hard links"):
        folder.put_if_absent("x", b"")


def _write_in_a_process(root: Path, number: int, start: float, results: multiprocessing.Queue[bool]) -> None:
    store = LocalStore(root, create=True)
    time.sleep(max(0.0, start - time.time()))
    results.put(store.put_if_absent("units/ab/race", b"%d" % number))


def test_one_of_several_processes_creates(folder: LocalStore) -> None:
    results: multiprocessing.Queue[bool] = SPAWN.Queue()
    start = time.time() + 1.5
    writers = [
        SPAWN.Process(target=_write_in_a_process, args=(folder.root, number, start, results))
        for number in range(4)
    ]
    for writer in writers:
        writer.start()
    won = [results.get(timeout=900) for _ in writers]
    for writer in writers:
        writer.join()
    assert sorted(won) == [False, False, False, True]


@pytest.mark.parametrize("operation", ["put", "put_if_absent"])
def test_a_killed_writer_leaves_nothing_visible(folder: LocalStore, operation: str) -> None:
    # It stops itself where the bytes are written and have no name yet, and is then killed.
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from ncbatch.store import LocalStore\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGSTOP)\n"
        f"LocalStore(Path(sys.argv[1]), create=True).{operation}('units/u', bytes(3_000_000))\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script, str(folder.root)])
    try:
        _, status = os.waitpid(writer.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "the writer ended before it could be killed"
        left = list((folder.root / ".ncbatch-tmp").iterdir())
        assert [path.stat().st_size for path in left] == [3_000_000]
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert keys(folder) == []
    assert folder.head("units/u") is None
    assert folder.put_if_absent("units/u", b"a later attempt") is True
    assert keys(folder) == ["units/u"]
    # What it left is removed once it is old enough to be nobody's.
    folder.check()
    assert left[0].exists()
    os.utime(left[0], (0, 0))
    folder.check()
    assert not left[0].exists()
