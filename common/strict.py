"""JSON -> dataclasses, for files that somebody else may have changed: every value has the declared type, or is refused."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, TypeVar

_T = TypeVar("_T")


def read_as(cls: type[_T], value: object) -> _T:
    """An instance of a dataclass from what `json.loads` gave for `dataclasses.asdict` of one.

    Fields may be str, int, float, bool, dict, tuples and lists of one kind, dataclasses, and any of these or None.
    Raises ValueError, which names the field, for another type, a number that is not finite, an unknown field or one
    that is absent and has no default; and what the class itself raises.
    """
    return typing.cast(_T, _read(cls, value, cls.__name__))


def _read(kind: Any, value: Any, place: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, place)
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        (other,) = (part for part in parts if part is not types.NoneType)
        return None if value is None else _read(other, value, place)
    if origin in (tuple, list) and isinstance(value, list):
        return origin(_read(parts[0], each, place) for each in value)
    if origin is dict and isinstance(value, dict):
        return {
            name: value[name] if parts[1] is Any else _read(parts[1], value[name], place) for name in value
        }
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind in (str, int, bool) and type(value) is kind:
        return value
    raise ValueError(f"{place} is {value!r:.40}")


def _dataclass(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{place} is {value!r:.40}")
    hints = typing.get_type_hints(kind)
    known = {each.name: each for each in dataclasses.fields(kind)}
    unknown = [name for name in value if name not in known]
    absent = [
        name
        for name, each in known.items()
        if name not in value and each.default is each.default_factory is dataclasses.MISSING
    ]
    if unknown or absent:
        raise ValueError(
            f"{place} has {'an unknown' if unknown else 'no'} field {(unknown or absent)[0]!r:.40}"
        )
    return kind(**{name: _read(hints[name], each, f"{place}.{name}") for name, each in value.items()})
