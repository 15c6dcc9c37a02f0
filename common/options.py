"""Options declared once, as fields of a frozen dataclass; everything that knows an option derives from there.

    @dataclass(frozen=True)
    class Loop(Options):
        batch_size: int = option(128, minimum=2, help="Utterances per step.")

    @click.command(cls=Command)
    @options_of(Loop, group="Training")             # --batch-size
    def main(**values): loop = Loop.take(values)

The field's name with dashes is the name on the command line and in TOML files. Its annotation gives the type: str,
int, float, bool, Path, one of them or None, or a tuple of some, which is a repeatable option. A program that
makes the dataclass itself gets the same checks as a user who types the option.
"""

from __future__ import annotations

import dataclasses
import numbers
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from ser_memory.common.errors import UsageError, listing

_KEY = "option"
_LARGEST_FLOAT = 3e38  # of the numbers that the training computes with
_LARGEST_INT = 10**18
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Declared:
    """What is declared about an option besides its name, type and default."""

    help: str
    minimum: float | None = None
    maximum: float | None = None
    above: bool = False  # the minimum itself is not allowed
    below: bool = False  # the maximum itself is not allowed
    choices: tuple[str, ...] = ()
    variable: str = ""  # environment variable whose value is used if the option is not given
    unset: str = ""  # what None or an empty tuple means, for --help, such as "one per core"
    none: str = ""  # the word that is typed for None, such as "all"
    folder: bool = False  # of a path: it must not be a file
    separated: bool = False  # of several values: they may be typed as one, with commas between them


def option(default: Any, **declared: Any) -> Any:
    """A field that is an option; the keywords are those of `Declared`."""
    return field(default=default, metadata={_KEY: Declared(**declared)})


@dataclass(frozen=True)
class Options:
    """Base of all classes of options."""

    title: ClassVar[str] = ""  # heading of these options in --help

    def __post_init__(self) -> None:
        """Raises UsageError, which names the option, for a value that is not allowed."""
        for name, declared, hint in _declared(type(self)):
            value = getattr(self, name)
            for item in value if isinstance(value, tuple) else (value,):
                _check(flag(name), item, declared, hint)

    @classmethod
    def take(cls, values: Mapping[str, Any]) -> Self:
        """An instance from what `values` has of its fields; the others keep their defaults."""
        names = {item.name for item in fields(cls)}
        given = {name: value for name, value in values.items() if name in names}
        for name, declared, hint in _declared(cls):
            if given.get(name) is None and os.environ.get(declared.variable):
                given[name] = _from_environment(declared.variable, hint)
            if name in given:
                items = _several(name, given[name], declared) if hint.many else (given[name],)
                plain = tuple(_plain(item, declared, hint) for item in items)
                given[name] = plain if hint.many else plain[0]
                if hint.many and not plain and _default(cls, name):
                    raise UsageError(f"{flag(name)} is an empty list: give at least one.")
        return cls(**given)


def flag(name: str) -> str:
    """`--batch-size` for batch_size, `--from` for from_, whose name would be a word of Python."""
    return f"--{name.removesuffix('_').replace('_', '-')}"


def names_of(*classes: type[Options]) -> list[str]:
    """The names of all options of some classes."""
    return [name for cls in classes for name, _, _ in _declared(cls)]


def kind_of(cls: type[Options], name: str) -> type:
    """The type of one value of an option: str, int, float, bool or Path."""
    return next(hint.kind for each, _, hint in _declared(cls) if each == name)


def typed(cls: type[Options], name: str, text: str) -> Any:
    """One value of an option of text or numbers, from how it is typed.

    Raises UsageError, which names the option, if it is not allowed.
    """
    declared, hint = next((declared, hint) for each, declared, hint in _declared(cls) if each == name)
    value: Any = text
    with suppress(ValueError):  # text that is no number; the check reports it
        value = text if declared.none and text == declared.none else hint.kind(text)
    made = getattr(cls.take({name: value}), name)
    return made[0] if hint.many else made


def spelled(cls: type[Options], name: str, value: Any) -> str | int | float | bool | list[str | int | float]:
    """A value that is set, as TOML and JSON have it; None is the word for it."""
    declared = next(declared for each, declared, _ in _declared(cls) if each == name)
    if value is None:
        return declared.none
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, (int, float)) else str(value)


def refuse_unknown(names: Iterable[str], *classes: type[Options]) -> None:
    """Raise UsageError for a keyword that is no option of the classes."""
    known = names_of(*classes)
    for name in names:
        if name not in known:
            raise UsageError(f"There is no option {name!r}: the options are {listing(known, 60)}.")


def options_of(*classes: type[Options]) -> Callable[[_F], _F]:
    """Add the options of these classes to a click command, in order, under their titles."""

    def decorate(function: _F) -> _F:
        import click

        from ser_memory.common.console import GroupedOption

        for cls in reversed(classes):
            for name, declared, hint in reversed(_declared(cls)):
                default = _default(cls, name)
                unset = default is None or default == ()
                if declared.none and default is None:
                    default, unset = declared.none, False
                if declared.separated:
                    default = [",".join(default)]
                note = f"  [default: {declared.unset}]" if unset and declared.unset else ""
                decorator = click.option(
                    flag(name),
                    name,
                    cls=GroupedOption,
                    group=cls.title,
                    type=_click_type(declared, hint),
                    is_flag=hint.kind is bool,
                    multiple=hint.many,
                    default=default,
                    show_default=not unset and hint.kind is not bool,
                    help=declared.help + note,
                )
                function = decorator(function)
        return function

    return decorate


@dataclass(frozen=True)
class _Hint:
    """The type of an option."""

    kind: type
    many: bool
    optional: bool


def _declared(cls: type[Options]) -> list[tuple[str, Declared, _Hint]]:
    hints = typing.get_type_hints(cls)
    return [
        (item.name, item.metadata[_KEY], _hint(hints[item.name]))
        for item in fields(cls)
        if _KEY in item.metadata
    ]


def _hint(annotation: Any) -> _Hint:
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        (kind,) = (part for part in parts if part is not type(None))
        return _Hint(kind, False, True)
    if typing.get_origin(annotation) is tuple:
        return _Hint(parts[0], True, False)
    return _Hint(annotation, False, False)


def _from_environment(variable: str, hint: _Hint) -> Any:
    """The value of an environment variable. Raises UsageError, which names it, if it has another type."""
    text = os.environ[variable]
    try:
        return hint.kind(text)
    except ValueError:
        raise UsageError(f"${variable} is {text!r}: it must be {_KINDS[hint.kind]}.") from None


def _several(name: str, value: Any, declared: Declared) -> tuple[Any, ...]:
    """The values of an option that takes several, from one value or from a list."""
    if isinstance(value, (set, frozenset)):
        raise UsageError(f"{flag(name)} is a set, which has no order: give a list.")
    one = isinstance(value, (str, bytes)) or not isinstance(value, Iterable)
    items = (value,) if one else tuple(value)
    if not declared.separated:
        return items
    parts = (item.split(",") if isinstance(item, str) else [item] for item in items)
    return tuple(part.strip() if isinstance(part, str) else part for each in parts for part in each)


def _plain(value: Any, declared: Declared, hint: _Hint) -> Any:
    """The value as the option's own type, if it is one in another guise: NumPy's numbers, a path as text."""
    if declared.none and isinstance(value, str) and value == declared.none:
        return None
    if isinstance(value, bool):
        return value
    if hint.kind is Path and isinstance(value, str):
        return Path(value)
    if hint.kind in (int, str) and isinstance(value, numbers.Integral):
        return hint.kind(int(value))
    if hint.kind is float and isinstance(value, numbers.Real):
        with suppress(OverflowError):  # of a whole number; the check reports it
            return float(value)
    return value


def _default(cls: type[Options], name: str) -> Any:
    found = next(item for item in fields(cls) if item.name == name)
    return None if found.default is dataclasses.MISSING else found.default


def _check(name: str, value: Any, declared: Declared, hint: _Hint) -> None:
    if value is None and hint.optional:
        return
    kinds = (int, float) if hint.kind is float else (str, Path) if hint.kind is Path else (hint.kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and hint.kind is not bool):
        raise UsageError(f"{name} {value!r} must be {_KINDS.get(hint.kind, hint.kind.__name__)}.")
    if declared.choices and value not in declared.choices:
        raise UsageError(f"{name} {value!r} must be one of {listing(declared.choices)}.")
    if isinstance(value, Path) and "\0" in str(value):
        raise UsageError(f"{name} {str(value)!r} must be {_KINDS[Path]}: it has a NUL character.")
    if isinstance(value, (int, float)):
        low, high = declared.minimum, declared.maximum
        too_low = low is not None and (value <= low if declared.above else value < low)
        too_high = high is not None and (value >= high if declared.below else value > high)
        largest = _LARGEST_FLOAT if hint.kind is float else _LARGEST_INT
        if abs(value) > largest and not too_low:  # also of infinity
            raise UsageError(f"{name} {value} must be at most {largest:g}.")
        if value != value or too_low or too_high:  # noqa: PLR0124  # the first of what is not a number
            raise UsageError(f"{name} {value} must be {_range(declared) or 'a finite number'}.")


_KINDS = {int: "a whole number", float: "a number", str: "text", Path: "a path", bool: "true or false"}


def _range(declared: Declared) -> str:
    ends = []
    if declared.minimum is not None:
        ends.append(f"{'above' if declared.above else 'at least'} {declared.minimum:g}")
    if declared.maximum is not None:
        ends.append(f"{'below' if declared.below else 'at most'} {declared.maximum:g}")
    return " and ".join(ends)


def _click_type(declared: Declared, hint: _Hint) -> Any:
    import click

    from ser_memory.common.console import Number, OrNone

    kind: Any = hint.kind
    if declared.choices and not declared.separated:  # several are checked apart, once they are
        kind = click.Choice(declared.choices)
    elif hint.kind is int:
        low, high = declared.minimum, declared.maximum
        bounded = low is not None or high is not None
        kind = click.IntRange(None if low is None else int(low), None if high is None else int(high))
        kind = kind if bounded else click.INT
    elif hint.kind is float:
        kind = Number(declared.minimum, declared.maximum, min_open=declared.above, max_open=declared.below)
    elif hint.kind is Path:
        kind = click.Path(path_type=Path, file_okay=not declared.folder)
    return OrNone(declared.none, kind) if declared.none else kind
