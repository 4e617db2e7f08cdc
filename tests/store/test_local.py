"""What only folders have: links, hidden files, permissions, processes that die in the middle of a write."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncbatch.store import (
    AccessDenied,
    LocalStore,
    ObjectNotFound,
    Store,
    StoreError,
    StoreFull,
    key_of_name,
    open_store,
)
from ncbatch.store.local_names import name_of_key

ROOT = Path(__file__).resolve().parents[2]
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
    with pytest.raises(StoreError, match="rename the object"):
        folder.put(".ncbatch-tmp/y", b"")


def test_writes_leave_nothing_but_their_objects(folder: LocalStore) -> None:
    folder.put("x", b"")
    folder.put_if_absent("y/z", b"")
    folder.put_if_absent("y/z", b"other")
    assert sorted(path.name for path in folder.root.rglob("*")) == ["x", "y", "z"]


def test_writers_at_once_do_not_take_the_folder_of_unfinished_writes_from_each_other(
    folder: LocalStore,
) -> None:
    def write(writer: int) -> None:
        for n in range(50):
            folder.put(f"{writer}/{n}", b"bytes")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(keys(folder)) == 400
    assert sorted(path.name for path in folder.root.iterdir()) == [str(n) for n in range(8)]


def test_a_folder_that_goes_while_it_is_made_is_made_again(
    folder: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process removes it, empty, when it has been found there and not yet looked at."""
    (folder.root / ".ncbatch-tmp").mkdir(parents=True)
    (folder.root / "wip").mkdir()
    mkdir, gone = os.mkdir, []

    def found(path: Path, mode: int = 0o777) -> None:
        try:
            mkdir(path, mode)
        except FileExistsError:
            os.rmdir(path)  # noqa: PTH106
            gone.append(Path(path).name)
            raise

    monkeypatch.setattr(os, "mkdir", found)
    folder.put("wip/x", b"bytes")
    assert (gone, folder.get("wip/x")) == ([".ncbatch-tmp", "wip"], b"bytes")


def test_what_a_killed_writer_left_goes_after_a_day_and_the_folder_with_it(folder: LocalStore) -> None:
    left = folder.root / ".ncbatch-tmp" / "left"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    folder.put("x", b"")
    folder.check()
    assert left.exists(), "its writer may be alive"
    os.utime(left, (time.time() - 2 * 86_400,) * 2)
    folder.check()
    assert [path.name for path in folder.root.iterdir()] == ["x"]


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


NAMES = {
    b"plain.png": "plain.png",
    "é 日本.png".encode(): "é 日本.png",
    b"caf\xe9.png": "caf\\xe9.png",
    b"\xe9\xc3\xa9\xff/\x80": "\\xe9é\\xff/\\x80",
    b"back\\slash": "back\\slash",
    b"caf\\xe9.png": "caf\\x5cxe9.png",
    b"\\x5c": "\\x5cx5c",
    b"\\x41\\xE9": "\\x41\\xE9",
    b"\\\xe9": "\\\\xe9",
}


def test_names_are_bytes_and_keys_are_text(folder: LocalStore) -> None:
    """Whatever the names are, each file has a key of its own, under which it is found, read and written."""
    for name in NAMES:
        path = os.path.join(os.fsencode(folder.root), name)  # noqa: PTH118
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(name)
    assert sorted(NAMES.values(), key=str.encode) == keys(folder)
    for name, key in NAMES.items():
        assert folder.get(key) == name and folder.head(key) is not None
        assert [info.key for info in folder.list(key)] == [key]
        folder.delete(key)
        folder.put(key, name)
        assert os.path.exists(os.path.join(os.fsencode(folder.root), name))  # noqa: PTH110, PTH118
    assert sorted(NAMES.values(), key=str.encode) == keys(folder)


def test_a_key_that_no_name_has_is_refused(folder: LocalStore) -> None:
    for key in ("\\xc3\\xa9.png", "\\x5c.png"):
        for action in (folder.get, folder.head, lambda key: folder.put(key, b"")):
            with pytest.raises(StoreError, match="can have this key: the escapes of"):
                action(key)


@given(st.binary(min_size=1))
def test_names_and_keys_are_one_to_one(name: bytes) -> None:
    key = key_of_name(name)
    assert name_of_key(key) == name
    key.encode()


_OTHER_LOCALE = """
import os, pickle, sys
from ncbatch.store import open_store
assert sys.getfilesystemencoding() != "utf-8", sys.getfilesystemencoding()
folder, corpus = open_store(sys.argv[1]), pickle.loads(bytes.fromhex(sys.argv[2]))
for store in (folder, open_store(folder.uri), corpus, pickle.loads(pickle.dumps(folder))):
    assert store.uri == corpus.uri, store.uri
    for info in store.list():
        assert store.get(info.key) == info.key.encode(), info
        print(ascii(info.key))
folder.put("\\u65e5\\u672c/new.png", "\\u65e5\\u672c/new.png".encode())
"""


def test_a_locale_that_is_not_utf8_changes_no_key(folder: LocalStore) -> None:
    """As in a worker: the same keys and URIs, in a folder whose own name is not of that locale either."""
    inner = LocalStore(folder.root / "é", create=True)
    expected = ["caf\\xe9.png", "é.png", "日本.png"]
    for key in expected:
        inner.put(key, key.encode())
    command = [
        sys.executable,
        "-X",
        "utf8=0",
        "-c",
        _OTHER_LOCALE,
        str(inner.root),
        pickle.dumps(inner).hex(),
    ]
    env = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [ascii(key) for key in expected] * 4
    assert inner.get("日本/new.png") == "日本/new.png".encode()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_closed_folder_is_an_error_or_told(folder: LocalStore) -> None:
    _closed_folder(folder)


def test_a_folder_that_cannot_be_listed_is_an_error_or_told(
    folder: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    close(monkeypatch, folder, "lost+found")
    _closed_folder(folder)


def close(monkeypatch: pytest.MonkeyPatch, folder: LocalStore, name: str) -> None:
    """For root, whom permissions do not stop."""
    scandir, closed = os.scandir, os.path.join(os.fsencode(folder.root), os.fsencode(name))  # noqa: PTH118

    def refused(path: bytes) -> object:
        if os.path.normpath(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)


def _closed_folder(folder: LocalStore) -> None:
    folder.put("a.png", b"")
    folder.put("lost+found/x.png", b"")
    folder.put("z.png", b"")
    (folder.root / "lost+found").chmod(0)
    try:
        with pytest.raises(AccessDenied, match=r"lost\+found"):
            keys(folder)
        told = []
        found = [
            info.key for info in folder.list(unreadable=lambda key, error: told.append((key, str(error))))
        ]
        assert found == ["a.png", "z.png"]
        ((key, reason),) = told
        assert key == "lost+found/" and "denies access to 'lost+found/'" in reason
    finally:
        (folder.root / "lost+found").chmod(0o755)


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
        with pytest.raises(StoreError, match="file is a file; name a folder"):
            open_store(str(tmp_path / "file"), create=create)
    below_a_file = open_store(str(tmp_path / "file" / "below"), create=True)
    with pytest.raises(StoreError, match="is a file"):
        below_a_file.check()
    with pytest.raises(StoreError, match="rename one of the two"):
        below_a_file.put("x", b"")


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, StoreFull, "free space"),
        (errno.EDQUOT, StoreFull, "free space"),
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
    assert not (folder.root / ".ncbatch-tmp").exists()


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
