"""Every flag that takes a number: what is none, or out of bounds, is one line that names the flag."""

from __future__ import annotations

import argparse
import math

import pytest

from ncbatch.cli.flag_types import Number, Numbers, cpu_count, fraction, natural, positive_float
from ncbatch.cli.main import build_parser


def _commands() -> dict[str, argparse.ArgumentParser]:
    (adder,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(adder.choices)


def _actions() -> list[tuple[str, argparse.Action]]:
    return [(name, action) for name, command in _commands().items() for action in command._actions]


_NUMERIC = [
    pytest.param(command, action.option_strings[0], id=f"{command} {action.option_strings[0]}")
    for command, action in _actions()
    if isinstance(action.type, Number | Numbers)
]


def test_no_flag_takes_a_number_without_bounds() -> None:
    assert len(_NUMERIC) > 80
    assert [(c, a.dest) for c, a in _actions() if a.type in (int, float, complex)] == []


@pytest.mark.parametrize(("command", "flag"), _NUMERIC)
def test_what_is_no_number_of_the_kind_is_told_in_a_line(
    command: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in ("nan", "-nan", "inf", "-inf", "1e999", "-1", "-0.5", "much", "9" * 5000, ""):
        with pytest.raises(SystemExit) as end:
            build_parser().parse_args([command, f"{flag}={value}"])
        told = capsys.readouterr().err
        assert end.value.code == 1
        assert told.startswith(f"ncbatch {command}: error: argument {flag}: ") and told.count("\n") == 1


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (natural, ["0", "7", str(2**63 - 1)], ["-1", "1.5", "1e3", str(2**63)]),
        (positive_float, ["1e-300", "3", "1e300"], ["0", "-0.0", "nan", "inf"]),
        (fraction, ["0", "1", "0.05"], ["1.01", "-0.01", "nan"]),
        (cpu_count, ["0.5", "10000"], ["0", "10001"]),
    ],
)
def test_bounds(kind: Number, good: list[str], bad: list[str]) -> None:
    for text in good:
        assert kind(text) == pytest.approx(float(text), rel=1e-15)
        assert isinstance(kind(text), int if kind.whole else float)
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=f"^'{text}' is not a "):
            kind(text)


def test_what_is_expected_is_said() -> None:
    assert natural.words == "a whole number of at least 0"
    assert positive_float.words == "a finite number greater than 0"
    assert fraction.words == "a number of at least 0 and at most 1"
    assert Number().words == "a finite number"
    assert not math.isinf(Number()("1e308"))


def test_lists() -> None:
    assert Numbers(positive_float)("0.01, 0.02,") == [0.01, 0.02]
    for text in ("", " , "):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a list of numbers"):
            Numbers(positive_float)(text)
