"""Reading a model's configuration: typed fields, one clear sentence for each mistake.

A configuration is understood or refused: every key that is read is remembered, and a key that
nobody reads must be in the table of keys without influence on dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from planner.errors import PlannerError
from planner.specs.config_keys import is_harmless

MAX_COUNT = 10**9
"""No dimension of a model is larger; a bigger number is a slip of the finger."""


class Fields:
    """The keys of one configuration, and which of them have been read.

    Parameters
    ----------
    where
        The file or the name, for messages.
    values
        The configuration, nested parts already merged into it.
    """

    def __init__(self, where: str, values: Mapping[str, Any]) -> None:
        self.where = where
        self.values = values
        self.read: set[str] = set()
        self.inners: dict[str, Fields] = {}

    def first(self, *keys: str) -> tuple[str, Any]:
        """The first of several names with a value that is not null, or ``(keys[0], None)``."""
        self.read.update(keys)
        for key in keys:
            if self.values.get(key) is not None:
                return key, self.values[key]
        return keys[0], None

    def has(self, *keys: str) -> bool:
        """Whether one of the names has a value that is not null."""
        return self.first(*keys)[1] is not None

    def count(self, *keys: str, default: int | None = None, least: int = 1) -> int:
        """A whole number of at least ``least``; an error where it is missing without default."""
        key, value = self.first(*keys)
        if value is None:
            if default is None:
                raise self.missing(*keys)
            return default
        return self._whole(key, value, least)

    def optional(self, *keys: str, least: int = 1) -> int | None:
        """A whole number, or None where the field is absent, null or 0."""
        key, value = self.first(*keys)
        return None if value is None or value == 0 else self._whole(key, value, least)

    def flag(self, *keys: str, default: bool = False) -> bool:
        """A true or false."""
        key, value = self.first(*keys)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false")
        return value

    def text(self, *keys: str, default: str = "") -> str:
        """A string."""
        key, value = self.first(*keys)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong(key, value, "a text")
        return value

    def choice(self, key: str, values: Mapping[str, Any], default: Any) -> Any:
        """What ``values`` holds for the text in a field."""
        found = self.text(key)
        if found and found not in values:
            raise self.wrong(key, found, f"one of: {', '.join(values)}")
        return values[found] if found else default

    def per_layer(
        self, layers: int, *keys: str, default: int | None = None, least: int = 0
    ) -> list[int]:
        """One whole number for each layer, from a number for all or a list."""
        key, value = self.first(*keys)
        if not isinstance(value, list):
            return [self.count(*keys, default=default, least=least)] * layers
        return [self._whole(key, item, least) for item in self._long(key, value, layers)]

    def kinds(self, layers: int, key: str, known: Iterable[str]) -> list[str] | None:
        """One word of ``known`` for each layer, or None where the field is absent."""
        value = self.first(key)[1]
        if value is None:
            return None
        known = tuple(known)
        words = self._long(key, value, layers)
        for word in words:
            if word not in known:
                raise self.wrong(key, word, f"only: {', '.join(known)}")
        return words

    def layer_numbers(self, key: str) -> list[int] | None:
        """A list of layer numbers, or None where the field is absent."""
        value = self.first(key)[1]
        if value is None:
            return None
        if not isinstance(value, list):
            raise self.wrong(key, value, "a list of layer numbers")
        return [self._whole(key, item, 0) for item in value]

    def inner(self, key: str) -> Fields:
        """The object in a field; what nobody reads of it counts as unread here too."""
        if key not in self.inners:
            value = self.first(key)[1]
            if not isinstance(value, Mapping):
                raise self.wrong(key, value, "an object")
            self.inners[key] = Fields(f"{self.where}: {key}", value)
        return self.inners[key]

    def unread(self) -> dict[str, Any]:
        """Keys with a value that nobody read and that may matter, sorted."""
        found = {
            key: value
            for key, value in sorted(self.values.items())
            if key not in self.read and value not in _EMPTY and not is_harmless(key)
        }
        for outer, fields in self.inners.items():
            found |= {f"{outer}.{key}": value for key, value in fields.unread().items()}
        return found

    def missing(self, *keys: str, expected: str = "a whole number") -> PlannerError:
        """The error for an absent field."""
        names = " or ".join(map(repr, keys))
        return PlannerError(f"{self.where}: missing field {names}, expected {expected}")

    def wrong(self, key: str, found: object, expected: str) -> PlannerError:
        """The error for a field with the wrong value."""
        shown = repr(found)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return PlannerError(f"{self.where}: field {key!r}: found {shown}, expected {expected}")

    def _whole(self, key: str, value: object, least: int) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(key, value, f"a whole number of at least {least}")
        if not least <= value <= MAX_COUNT:
            raise self.wrong(key, value, f"a whole number from {least} to {MAX_COUNT}")
        return value

    def _long(self, key: str, value: object, layers: int) -> list[Any]:
        if not isinstance(value, list) or len(value) < layers:
            size = f"a list of {len(value)}" if isinstance(value, list) else repr(value)
            raise PlannerError(
                f"{self.where}: field {key!r}: found {size}, "
                f"expected a list with one entry for each of {layers} layers"
            )
        return value[:layers]


_EMPTY: tuple[object, ...] = (None, False, 0, 0.0, "", [], {})
