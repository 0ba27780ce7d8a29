"""Rows: a dataclass on one side, a plain Redis hash on the other, one field per field. Text stays text, numbers are decimal,
`None` is an absent field, anything nested is JSON: the form that functions in every language write."""

from __future__ import annotations

import copy
import dataclasses
import enum
import json
import math
import re
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")
Fields = dict[str, bytes]
# Makes the fields of a row of one version, as texts, those of the next.
Upgrade = Callable[[int, dict[str, str]], None]

_INTEGER = re.compile(r"[+-]?[0-9]+\Z")
_TABLE = re.compile(r"[a-z0-9-]+\Z")


class RowError(Exception):
    """A row that cannot be read or written, with its field."""


@dataclass_transform()
def row(table: str, *, version: int = 1, upgrade: Upgrade | None = None) -> Callable[[type[T]], type[T]]:
    """Makes a class the row of a key: a dataclass, all of whose fields have defaults, stored in `table`.

    A field that is renamed or gets another type makes a new `version`; `upgrade(version, fields)` makes the fields of a row
    of that version, texts by name, those of the next.
    """
    if not _TABLE.match(table):
        raise TypeError(f"{table!r} is no name of a table: a-z, 0-9 and '-'")
    if version < 1 or (version > 1 and upgrade is None):
        raise TypeError(f"rows of version {version} need an `upgrade` from the versions before")

    def of(cls: type[T]) -> type[T]:
        made = cls if dataclasses.is_dataclass(cls) else dataclasses.dataclass(cls)
        setattr(made, "__oncue_row__", RowType(made, table, version, upgrade))
        return made

    return of


class RowType:
    """How rows of one class are read and written."""

    def __init__(self, cls: type[Any], table: str, version: int, upgrade: Upgrade | None) -> None:
        self.cls, self.table, self.version, self.upgrade = cls, table, version, upgrade
        self._codecs: dict[str, _Codec] | None = None
        self._flat = True

    def codecs(self) -> dict[str, _Codec]:
        """A codec for each field, made at first use, when all names that annotations need are there."""
        if self._codecs is None:
            hints = typing.get_type_hints(self.cls)
            codecs = {}
            for field in dataclasses.fields(self.cls):
                missing = dataclasses.MISSING
                if field.default is missing and field.default_factory is missing:
                    raise TypeError(f"{self.cls.__name__}.{field.name} needs a default: a row begins empty")
                codecs[field.name] = _codec(hints[field.name], f"{self.cls.__name__}.{field.name}")
            self._flat = all(codec.flat for codec in codecs.values())
            self._codecs = codecs
        return self._codecs

    def open(self, fields: Fields, version: int) -> Any:
        """The row as read; fields that are absent have their defaults, those that it does not know are left alone."""
        if version < self.version:
            fields = self._upgraded(fields, version)
        values = {}
        for name, codec in self.codecs().items():
            text = fields.get(name)
            if text is not None:
                try:
                    values[name] = codec.read(text)
                except (ValueError, TypeError, KeyError) as e:
                    raise RowError(f"field {name}: {e}") from None
        return self.cls(**values)

    def _upgraded(self, fields: Fields, version: int) -> Fields:
        try:
            texts = {name: value.decode() for name, value in fields.items()}
            for step in range(version, self.version):
                assert self.upgrade is not None
                self.upgrade(step, texts)
        except Exception as e:
            raise RowError(f"upgrade from version {version}: {e}") from e
        return {name: text.encode() for name, text in texts.items()}

    def fields(self, value: Any) -> Fields:
        """All fields of a row, as they are stored."""
        found = {}
        for name, codec in self.codecs().items():
            field = getattr(value, name)
            if field is not None:
                try:
                    found[name] = codec.write(field)
                except (ValueError, TypeError, AttributeError) as e:
                    raise RowError(f"field {name}: {e}") from None
        return found

    def changes(self, now: Fields, read: Fields, version: int) -> tuple[Fields, list[str]]:
        """Fields to set and names of fields to delete, against what was read."""
        known = self.codecs()
        # After an upgrade whatever it took away is gone; otherwise foreign fields stay.
        left = self._upgraded(read, version) if version < self.version else None
        gone = [
            name
            for name in read
            if name not in now and (name in known or (left is not None and name not in left))
        ]
        return {name: text for name, text in now.items() if read.get(name) != text}, gone

    def snapshot(self, value: Any) -> Any:
        """A copy that the row's later changes leave alone."""
        self.codecs()
        return copy.copy(value) if self._flat else copy.deepcopy(value)


class _Codec:
    """Text of one field, by its annotation."""

    def __init__(self, read: Callable[[bytes], Any], write: Callable[[Any], bytes], flat: bool) -> None:
        self.read, self.write, self.flat = read, write, flat


def _codec(hint: Any, place: str) -> _Codec:
    hint = _without_none(hint, place)
    if hint is str:
        return _Codec(bytes.decode, _write_text, True)
    if hint is int:
        return _Codec(lambda text: _integer(text.decode()), _write_integer, True)
    if hint is float:
        return _Codec(lambda text: float(text), lambda value: _number(float(value)).encode(), True)
    if hint is bool:
        return _Codec(_read_bool, lambda value: b"true" if value else b"false", True)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _Codec(lambda text: _enum(hint, text.decode()), lambda value: str(value.value).encode(), True)
    _check_nested(hint, place)
    return _Codec(
        lambda text: _of_json(json.loads(text), hint),
        lambda value: _text(_to_json(value)).encode(),
        False,
    )


def _write_text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value.encode()


def _write_integer(value: Any) -> bytes:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return str(value).encode()


def _read_bool(text: bytes) -> bool:
    if text not in (b"true", b"false"):
        raise ValueError(f"{text.decode(errors='replace')!r} is neither true nor false")
    return text == b"true"


def _integer(text: str) -> int:
    if not _INTEGER.match(text):
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def _enum(hint: type[enum.Enum], text: str) -> enum.Enum:
    for member in hint:
        if str(member.value) == text:
            return member
    raise ValueError(f"{text!r} is no {hint.__name__}")


def _number(value: float) -> str:
    """A number as JSON has it, written as other languages do: `1e16`, and not `1e+16`."""
    text = json.dumps(value, allow_nan=math.isinf(value))
    if "e" in text:
        mantissa, exponent = text.split("e")
        text = f"{mantissa}e{int(exponent)}"
    return text


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False, sort_keys=True)


def _without_none(hint: Any, place: str) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        others = [part for part in typing.get_args(hint) if part is not type(None)]
        if len(others) != 1:
            raise TypeError(f"{place} is one of several types; a field has one, or none")
        return others[0]
    return hint


_PLAIN = (str, int, float, bool, bytes, dict, list, Any, object)


def _check_nested(hint: Any, place: str) -> None:
    """Refuses what no JSON can hold, when the class is made and not when the first event comes."""
    hint = _without_none(hint, place)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (list, set, frozenset, tuple):
        for arg in args:
            if arg is not Ellipsis:
                _check_nested(arg, place)
    elif origin is dict:
        if args[0] not in (str, int):
            raise TypeError(f"{place}: keys are text or whole numbers")
        _check_nested(args[1], place)
    elif dataclasses.is_dataclass(hint):
        for name, inner in typing.get_type_hints(hint).items():
            _check_nested(inner, f"{place}.{name}")
    elif not (hint in _PLAIN or (isinstance(hint, type) and issubclass(hint, enum.Enum))):
        raise TypeError(f"{place}: a row cannot hold {hint}; text, numbers, lists, dicts and dataclasses of them can be stored")


def _of_json(value: Any, hint: Any) -> Any:
    if value is None:
        return None
    hint = _without_none(hint, "")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (list, set, frozenset):
        return origin(_of_json(item, args[0]) for item in value)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_of_json(item, args[0]) for item in value)
        return tuple(_of_json(item, arg) for item, arg in zip(value, args, strict=True))
    if origin is dict:
        return {args[0](key): _of_json(item, args[1]) for key, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        return hint(**{name: _of_json(item, hints[name]) for name, item in value.items() if name in hints})
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    if hint is bytes:
        return bytes(value)
    if hint is float and isinstance(value, int):
        return float(value)
    if hint in (str, int, float, bool) and not (isinstance(value, hint) and (hint is not int or value is not True)):
        raise ValueError(f"{value!r} is no {hint.__name__}")
    return value


def _to_json(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float, bool)) and not isinstance(value, enum.Enum):
        return value
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value):
        return {field.name: _to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(_to_json(item) for item in value)
    if isinstance(value, (list, tuple, bytes, bytearray)):
        return [_to_json(item) for item in value]
    raise TypeError(f"a row cannot hold {type(value).__name__}")
