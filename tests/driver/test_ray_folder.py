"""Where Ray cannot keep its files: told before it is started, in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ncbatch.driver.ray_folder import check_ray_folder, ray_folder
from ncbatch.errors import RunError


def test_it_is_where_ray_puts_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ray._common.utils import get_default_ray_temp_dir

    for name, value in (
        ("RAY_TMPDIR", None),
        ("TMPDIR", None),
        ("TMPDIR", tmp_path),
        ("RAY_TMPDIR", "/var/tmp"),
    ):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, str(value))
        assert str(ray_folder()) == get_default_ray_temp_dir()


def test_a_folder_that_can_be_used_is_left_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("/tmp") / f"nc{os.getpid()}"
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    check_ray_folder()
    (folder / "ray").rmdir()
    folder.rmdir()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("/tmp/" + "x" * 90, r"the path is \d+ bytes too long for its sockets"),
        ("/tmp/" + "é" * 30, "bytes too long for its sockets"),
        ("/proc", "Ray cannot work in /proc/ray \\("),  # nobody can write there
        ("/dev/null", r"Ray cannot work in /dev/null/ray \(Not a directory\)"),
    ],
)
def test_what_is_wrong_with_it_is_said(monkeypatch: pytest.MonkeyPatch, place: str, message: str) -> None:
    monkeypatch.setenv("RAY_TMPDIR", place)
    with pytest.raises(
        RunError, match=f"{message}.*; set RAY_TMPDIR to a folder that can be written"
    ) as raised:
        check_ray_folder()
    assert "\n" not in str(raised.value)
