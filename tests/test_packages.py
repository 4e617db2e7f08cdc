"""What is said of packages that do not fit together."""

import pytest

from ncbatch.cli import main, models
from ncbatch.cli.app import app


def test_a_package_that_cannot_be_imported_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """pyarrow 26 beside numpy 1, as a later `pip install` of something else may leave them."""

    def rows() -> None:
        raise ImportError("pyarrow requires NumPy 2.0 or newer, found 1.26.4")

    monkeypatch.setattr(models, "_builtin_rows", rows)
    assert main.main(["models"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ncbatch: error: pyarrow requires NumPy 2.0") and "environment of its own" in line
    # A command's module is imported when the command is used: that this fails is told as well.
    app.command("ncbatch.cli.nowhere:nothing", name="nothing", show=False)
    assert main.main(["nothing"]) == 1
    del app["nothing"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "No module named 'ncbatch.cli.nowhere'" in line and "environment of its own" in line
