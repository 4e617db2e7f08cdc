"""Flags out of settings: a command states which models it takes, and its flags are their fields.

    @command
    def status(output: Run, /, *, store: Annotated[StoreOptions, STORE], json: bool = False) -> int: ...

A parameter with a `Setting` is an argument itself. One whose type is a dataclass of settings is made of the
flags of its fields. `Given` is for models whose defaults depend on each other: it passes on what was given,
and nothing else.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from cyclopts import Group, Parameter

from ncbatch.errors import UsageError, unknown
from ncbatch.settings import Section, Setting, key_text, stated

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

Model = TypeVar("Model")


@dataclass(frozen=True)
class Given:
    """Marks a parameter that gets what was given of some pydantic fields, by their names.

    Attributes:
        fields: that become flags; each has a description.
        default: a field's default in words, where the field itself does not say it.
        instead: other settings for some fields.
    """

    fields: Mapping[str, FieldInfo]
    default: Callable[[str], str] | None = None
    instead: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class Flag:
    """One argument of a command. path: of the field that it sets, from the command's parameter on."""

    path: tuple[str, ...]
    hint: Any
    setting: Setting
    default: Any = None
    section: Section | None = None
    positional: bool = False

    @property
    def name(self) -> str:
        """The flag as it is typed, or the positional argument's name."""
        return flag_of(self.setting.name or self.path[-1])

    @property
    def required(self) -> bool:
        """Whether it has to be given."""
        return self.default is inspect.Parameter.empty

    @property
    def help(self) -> str:
        """What the setting says, and its default."""
        default = self.setting.default or _shown(self.default)
        return self.setting.text + (f"; default: {default}" if default else "")

    def parameter(self) -> inspect.Parameter:
        """For the signature that the parser reads."""
        kind = inspect.Parameter.POSITIONAL_ONLY if self.positional else inspect.Parameter.KEYWORD_ONLY
        about: dict[str, Any] = {"help": self.help, "show": not self.setting.hidden, "show_default": False}
        if not self.positional:
            letters = (f"-{also}" if len(also) == 1 else f"--{also}" for also in self.setting.also)
            about["name"] = (self.name, *letters)
        if self.setting.unit:
            about |= _unit(self.setting.unit)
        if self.setting.environment:
            about["env_var"] = variable(self.name)
        if self.section is not None:
            about["group"] = Group(self.section.title, sort_key=self.section.place)
        if self.hint is not bool:
            about |= {"converter": lambda _, tokens: self._converted(tokens), "accepts_keys": False}
            if not self._several:
                about["n_tokens"] = 1
        default = inspect.Parameter.empty if self.required else None
        return inspect.Parameter(
            "__".join(self.path),
            kind,
            default=default,
            annotation=Annotated[self._annotation(), Parameter(**about)],
        )

    @property
    def _several(self) -> bool:
        """Whether it may be given several times."""
        return get_origin(self.hint) is tuple and self.setting.read in (None, key_text)

    def _annotation(self) -> Any:
        """What the parser is to know of the type: `_converted` reads everything but bools."""
        if self.hint is bool or self._several or get_origin(self.hint) is Literal:
            return self.hint if self.required else self.hint | None
        return Any

    def _converted(self, tokens: Sequence[Any]) -> Any:
        if tokens[0].source == "env" and not tokens[0].value:  # as if the variable were not there
            return None
        values = [self.read(token.value) for token in tokens]
        return tuple(values) if self._several else values[0]

    def read(self, text: str) -> Any:
        """The value that a text stands for; raises ValueError."""
        if get_origin(self.hint) is Literal:
            choices = get_args(self.hint)
            if text not in choices:
                raise ValueError(unknown(text, choices))
            return text
        return text if self.setting.read is None else self.setting.read(text)


def _unit(unit: str) -> dict[str, Any]:
    """For `Parameter`; cyclopts 4, the last release for Python 3.10, shows no units."""
    return {"metavar": unit} if "metavar" in inspect.signature(Parameter).parameters else {}


def flag_of(field: str) -> str:
    """The flag of a field that says nothing else."""
    return "--" + field.replace("_", "-")


def variable(flag: str) -> str:
    """The environment variable that gives a flag's default."""
    return "NCBATCH_" + flag.removeprefix("--").replace("-", "_").upper()


class Command:
    """A function of settings, as the parser sees it: with a parameter for each flag.

    Attributes:
        function: what it is made of.
        flags: in the order of the help.
    """

    def __init__(self, function: Callable[..., int]) -> None:
        self.function = function
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self._hints = get_type_hints(function, include_extras=True)
        self._parameters = inspect.signature(function).parameters
        self.flags = [f for name, p in self._parameters.items() for f in _flags(name, self._hints[name], p)]
        rest = (p for p in self._parameters.values() if p.kind is p.VAR_POSITIONAL)
        self.__annotations__: dict[str, Any] = {}  # those of the signature count
        self.__signature__ = inspect.Signature(
            [
                *(flag.parameter() for flag in self.flags if flag.positional),
                *(_rest(p, self._hints[p.name]) for p in rest),
                *(flag.parameter() for flag in self.flags if not flag.positional),
            ]
        )

    def __call__(self, *words: Any, **given: Any) -> int:
        """Runs the command with what the parser found; returns the exit code."""
        bound = self.arguments(*words, **given)
        return self.function(*bound.args, **bound.kwargs)

    def arguments(self, *words: Any, **given: Any) -> inspect.BoundArguments:
        """What the function is called with, of what the parser found."""
        names = [flag.path[0] for flag in self.flags if flag.positional]
        values = dict(zip(names, words, strict=False))
        values |= {name: value for name, value in given.items() if value is not None}
        found = {}
        for name, parameter in self._parameters.items():
            if parameter.kind is not parameter.VAR_POSITIONAL:
                value = _argument(name, self._hints[name], values)
                found[name] = parameter.default if value is None else value
        places = [found.pop(name) for name in names]
        return inspect.signature(self.function).bind(*places, *words[len(names) :], **found)


command = Command
"""The decorator of a command's function."""


def _rest(parameter: inspect.Parameter, hint: Any) -> inspect.Parameter:
    """The parameter for all further words, of which there must be one at least."""
    bare, metadata = _split(hint)
    setting = next((mark for mark in metadata if isinstance(mark, Setting)), None)
    if setting is not None:
        hint = Annotated[bare, Parameter(help=setting.text, required=True, **_unit(setting.unit))]
    return parameter.replace(annotation=hint)


def _flags(name: str, hint: Any, parameter: inspect.Parameter) -> Iterator[Flag]:
    if parameter.kind is parameter.VAR_POSITIONAL:
        return
    bare, metadata = _split(hint)
    section = next((mark for mark in metadata if isinstance(mark, Section)), None)
    setting = next((mark for mark in metadata if isinstance(mark, Setting)), None)
    given = next((mark for mark in metadata if isinstance(mark, Given)), None)
    if setting is not None:
        positional = parameter.kind is parameter.POSITIONAL_ONLY
        yield Flag((name,), _without_none(bare), setting, parameter.default, section, positional)
    elif given is not None:
        for found in given_flags(given):
            yield dataclasses.replace(found, path=(name, *found.path), section=section)
    else:
        for found in model_flags(bare, section):
            yield dataclasses.replace(found, path=(name, *found.path))


def model_flags(model: Any, section: Section | None = None) -> Iterator[Flag]:
    """The flags of a dataclass, and of dataclasses within it."""
    if dataclasses.is_dataclass(model):
        hints = get_type_hints(model, include_extras=True)
        for each in dataclasses.fields(model):
            bare, metadata = _split(hints[each.name])
            own = next((mark for mark in metadata if isinstance(mark, Section)), section)
            setting = next((mark for mark in metadata if isinstance(mark, Setting)), None)
            if setting is not None:
                default = inspect.Parameter.empty if each.default is dataclasses.MISSING else each.default
                yield Flag((each.name,), _without_none(bare), setting, default, own)
            elif dataclasses.is_dataclass(bare):
                for found in model_flags(bare, own):
                    yield dataclasses.replace(found, path=(each.name, *found.path))


def given_flags(given: Given) -> Iterator[Flag]:
    """The flags of pydantic fields."""
    for name, info in given.fields.items():
        setting = given.instead.get(name) or stated(info)
        told = given.default(name) if given.default is not None else ""
        if told:  # it knows all the classes that have the field, and the field only its own
            setting = dataclasses.replace(setting, default=told)
        yield Flag(
            (name,), _without_none(info.annotation), setting, None if info.is_required() else info.default
        )


def from_environment(model: type[Model]) -> Model:
    """A dataclass of settings with what the environment says; the others have their defaults.

    Raises:
        UsageError: a variable has a value that cannot be.
    """
    values = {}
    for flag in model_flags(model):
        text = os.environ.get(variable(flag.name)) if flag.setting.environment else None
        if text:
            try:
                several = flag.setting.read in (None, key_text) and get_origin(flag.hint) is tuple
                values["__".join(flag.path)] = (
                    tuple(map(flag.read, text.split())) if several else flag.read(text)
                )
            except ValueError as error:
                raise UsageError(f"{variable(flag.name)}: {error}") from error
    built: Model = _built(model, values)
    return built


def _argument(name: str, hint: Any, values: Mapping[str, Any]) -> Any:
    """What a function gets for a parameter; None where its own default is to hold."""
    bare, metadata = _split(hint)
    if any(isinstance(mark, Setting) for mark in metadata):
        return values.get(name)
    mine = {key.removeprefix(f"{name}__"): v for key, v in values.items() if key.startswith(f"{name}__")}
    if any(isinstance(mark, Given) for mark in metadata):
        return mine
    return _built(bare, mine)


def _built(model: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass with the fields that are given, by path; the others have their defaults."""
    hints = get_type_hints(model)
    fields: dict[str, Any] = {}
    for each in dataclasses.fields(model):
        within = {key.partition("__")[2]: v for key, v in values.items() if key.startswith(f"{each.name}__")}
        if within:
            fields[each.name] = _built(hints[each.name], within)
        elif each.name in values:
            fields[each.name] = values[each.name]
    return model(**fields)


def _split(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    if get_origin(hint) is Annotated:
        bare, *metadata = get_args(hint)
        return bare, tuple(metadata)
    return hint, ()


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        rest = [part for part in get_args(hint) if part is not types.NoneType]
        return rest[0] if len(rest) == 1 else Union[tuple(rest)]  # noqa: UP007 - of types known at run time only
    return hint


def _shown(default: Any) -> str:
    """A default in words; nothing of those that say nothing."""
    if (
        default is None
        or default is inspect.Parameter.empty
        or isinstance(default, bool)
        or default in ((), "")
    ):
        return ""
    if isinstance(default, tuple):
        return ",".join(map(_shown, default))
    return f"{default:g}" if isinstance(default, float) else str(default)
