"""The edges of a process: streams that cannot show all or have no reader, and whose exit code it is."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ncbatch.cli import process
from ncbatch.cli.main import main
from ncbatch.exit_codes import ExitCode
from tests.end_to_end.command_line import HANG_SECONDS, ROOT, environment


def _run(program: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.run(
        command, cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=HANG_SECONDS
    )


OWN = """
    import sys
    from ncbatch.cli import process
    def command():
        {body}
    sys.exit(process.run(command, own=True))
"""


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("return 0", 0),
        ("return 2", 2),
        ("sys.exit(3)", 3),
        ("raise ValueError", 1),
        ("import atexit; atexit.register(print, 'bye'); return 2", 2),
        ("import ctypes; ctypes.CDLL(None).exit(2)", ExitCode.CRASHED),
        ("import ctypes; ctypes.CDLL(None).exit(0)", ExitCode.CRASHED),
        ("import os; os.close(1); return 2", 2),
    ],
)
def test_an_exit_code_is_ours(body: str, code: int) -> None:
    done = _run(OWN.format(body=body))
    assert done.returncode == code, done
    assert ("bye" in done.stdout) == ("bye" in body)


def test_a_library_that_ends_a_thread_ends_nothing_as_if_it_were_us() -> None:
    start = "t = threading.Thread(target=ctypes.CDLL(None).exit, args=(2,)); t.start(); t.join()"
    done = _run(OWN.format(body=f"import ctypes, threading; {start}; return 0"))
    assert done.returncode == ExitCode.CRASHED, done


def test_what_a_stream_cannot_show_is_escaped() -> None:
    program = OWN.format(body="print('\\\\udce9', file=sys.stderr); return 0")
    done = _run(program, PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (0, "\\udce9\n")
    program = OWN.format(body="print('日本'); return 0")
    assert _run(program, PYTHONIOENCODING="latin-1").stdout == "\\u65e5\\u672c\n"


@pytest.mark.parametrize("own", [False, True])
def test_nobody_reads(own: bool) -> None:
    body = "[print('x' * 10_000) for _ in range(100)]; return 2"
    program = textwrap.dedent(OWN.format(body=body)).replace("own=True", f"own={own}")
    command = f'{sys.executable} -c "$PROGRAM" | true; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], env=environment(PROGRAM=program), cwd=ROOT,
                          capture_output=True, text=True, timeout=HANG_SECONDS)  # fmt: skip
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_a_working_directory_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    try:
        for words in (["models"], ["status", "out"], ["encode", str(tmp_path), str(tmp_path / "out")]):
            assert main(words) == 1
            told = capsys.readouterr().err
            assert told.startswith("ncbatch: error: the working directory is gone") and told.count("\n") == 1
        assert main(["--help"]) == 0
    finally:
        os.chdir(tmp_path)


def test_a_command_in_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    """As a process of its own, which begins there: whatever is imported copes."""
    (tmp_path / "gone").mkdir()
    program = "import os; os.rmdir(os.getcwd()); import sys; sys.argv[1:] = ['models']\n"
    done = _run(program + "from ncbatch.cli.main import main; sys.exit(main())", cwd=tmp_path / "gone")
    assert done.returncode == 1
    assert done.stderr.startswith("ncbatch: error: the working directory is gone")
    assert done.stderr.count("\n") == 1


def test_streams_that_are_no_files_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    process.escape_what_cannot_be_shown()
    assert process.run(lambda: 3, own=False) == 3
