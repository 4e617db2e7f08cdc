"""Every flag that takes a number: what is none, or out of bounds, is one line that names the flag."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import pydantic
import pytest
from cyclopts import CycloptsError

from ncbatch.cli.app import COMMANDS, flags_of, parse
from ncbatch.cli.flags import Flag, command
from ncbatch.cli.usage import told
from ncbatch.settings import (
    Multiple,
    Number,
    Numbers,
    Setting,
    cpu_count,
    fraction,
    natural,
    positive_float,
    positive_int,
    stated,
)
from tests.cli.parsed import parsed


def _flags() -> list[tuple[str, Flag]]:
    return [(name, flag) for name in COMMANDS for flag in flags_of(name)]


_NUMERIC = [
    pytest.param(command, flag.name, id=f"{command} {flag.name}")
    for command, flag in _flags()
    if isinstance(flag.setting.read, Number | Numbers | Multiple)
]


_REQUIRED = {"pack": ("in", "--out=x"), "train": ("in", "--out=x")}
"""Words without which a command line is wrong, besides its places."""


def test_no_flag_takes_a_number_without_bounds() -> None:
    assert len(_NUMERIC) > 80
    assert [(name, f.name) for name, f in _flags() if f.hint in (int, float) and f.setting.read is None] == []
    assert [(name, f.name) for name, f in _flags() if f.setting.read in (int, float)] == []


@pytest.mark.parametrize(("command", "flag"), _NUMERIC)
def test_what_is_no_number_of_the_kind_is_told_in_a_line(command: str, flag: str) -> None:
    for value in ("nan", "-nan", "inf", "-inf", "1e999", "-1", "-0.5", "much", "9" * 5000, ""):
        with pytest.raises(CycloptsError) as caught:
            parsed(command, f"{flag}={value}", *_REQUIRED.get(command, ("in", "out")))
        message = told(caught.value)
        assert message.startswith(f"ncbatch {command}: error: argument {flag}: ") and "\n" not in message


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
        with pytest.raises(ValueError, match=f"^'{text}' is not a "):
            kind(text)


def test_what_is_expected_is_said() -> None:
    assert natural.words == "a whole number of at least 0"
    assert positive_float.words == "a finite number greater than 0"
    assert fraction.words == "a number of at least 0 and at most 1"
    assert Number().words == "a finite number"
    assert not math.isinf(Number()("1e308"))


def test_lists() -> None:
    assert Numbers(positive_float)("0.01, 0.02,") == (0.01, 0.02)
    for text in ("", " , "):
        with pytest.raises(ValueError, match="is not a list of numbers"):
            Numbers(positive_float)(text)


def test_lists_of_a_fixed_length() -> None:
    three = Numbers(positive_int, count=3)
    assert three("48,96,160") == (48, 96, 160)
    with pytest.raises(ValueError, match="'48,96' has 2 numbers, where 3 are needed"):
        three("48,96")


def test_multiples() -> None:
    assert Multiple(10)("0") == 0 and Multiple(10)("30") == 30
    for text in ("5", "-10", "ten"):
        with pytest.raises(ValueError, match=f"^'{text}' is not "):
            Multiple(10)(text)


class _Model(pydantic.BaseModel):
    count: int = pydantic.Field(3, gt=0, le=9, description="how many", json_schema_extra={"unit": "EGGS"})
    share: float | None = pydantic.Field(
        None, ge=0, description="of them", json_schema_extra={"also": ["part"]}
    )
    name: str = pydantic.Field("x", description="of it")
    wanted: bool = pydantic.Field(False, description="whether")


def test_a_field_of_pydantic_states_its_bounds_unit_and_names() -> None:
    count, share, name, wanted = (stated(field) for field in _Model.model_fields.values())
    assert (count.text, count.unit, count.read) == ("how many", "EGGS", Number(whole=True, least=1, most=9))
    assert (share.unit, share.also, share.read) == ("N", ("part",), Number(least=0))
    assert (name.unit, name.read, wanted.read) == ("", None, None)


@dataclass(frozen=True)
class _Inner:
    size: Annotated[int, Setting("how large", "N", natural, name="inner-size")] = 4
    kept: float = 0.5


@dataclass(frozen=True)
class _Outer:
    inner: _Inner = _Inner()
    word: Annotated[str | None, Setting("a word", "WORD", default="none")] = None


def test_a_model_within_a_model_is_built_of_what_was_given() -> None:
    @command
    def run(place: Annotated[str, Setting("where", "PLACE")], /, *, outer: _Outer) -> int:
        return outer.inner.size

    assert [flag.name for flag in run.flags] == ["--place", "--inner-size", "--word"]
    assert run.flags[1].help == "how large; default: 4" and run.flags[2].help == "a word; default: none"
    assert run.arguments("here", outer__inner__size=7).arguments == {
        "place": "here",
        "outer": _Outer(_Inner(7)),
    }
    assert run("here") == 4


def test_standard_input_is_a_value_like_another() -> None:
    assert parsed("query", "out", "--file", "-")["file"] == "-"
    assert parsed("query", "out", "--file=-")["file"] == "-"


def test_a_flag_behind_two_dashes_is_told_where_it_belongs() -> None:
    with pytest.raises(CycloptsError) as caught:
        parsed("encode", "in", "--", "out", "--dry-run")
    assert "--dry-run stands behind --" in told(caught.value)


def test_an_unknown_command_is_refused_even_with_help() -> None:
    with pytest.raises(CycloptsError) as caught:
        parse(["encod", "--help"])
    assert "there is no 'encod' (did you mean encode?)" in told(caught.value)


def test_a_default_that_differs_by_method_is_said_for_each() -> None:
    (rate,) = (flag for flag in flags_of("encode") if flag.name == "--annealing-rate")
    assert rate.help.endswith("default: 2 / steps, or 8 / steps for deterministic-annealing")
