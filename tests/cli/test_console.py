"""Tables on standard output."""

from __future__ import annotations

import pytest

from ncbatch.cli.console import print_table


def test_a_row_is_a_line_whatever_keys_hold(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("image_key", "bpp"), [("a\nb\t\x1b[2J.png", 0.5), ("plain.png", 1.25)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [["image_key", "bpp"], ["a\\nb\\t\\x1b[2J.png", "0.5"], ["plain.png", "1.25"]]
