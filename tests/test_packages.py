"""What is said of packages that do not fit together."""

import argparse

import pytest

from ncbatch.cli import commands, main


def test_a_package_that_cannot_be_imported_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """pyarrow 26 beside numpy 1, as a later `pip install` of something else may leave them."""

    def models(args: argparse.Namespace) -> None:
        raise ImportError("pyarrow requires NumPy 2.0 or newer, found 1.26.4")

    monkeypatch.setattr(commands, "models", models)
    assert main.main(["models"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ncbatch: error: pyarrow requires NumPy 2.0") and "environment of its own" in line
