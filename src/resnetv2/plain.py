"""Frozen dataclasses of plain values that survive JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, ClassVar, Self, cast

from resnetv2.errors import ConfigError, unknown


class Plain:
    """What a dataclass of numbers, texts, tuples and mappings needs to be written as JSON and read back."""

    noun: ClassVar[str]  # what a field is called in an error: "setting"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready plain values; ``from_dict`` is the inverse."""
        return {f.name: _to_json(getattr(self, f.name)) for f in fields(cast("Any", self))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from what ``to_dict`` returned; fields that are absent take their defaults.

        Raises:
            ConfigError: unknown keys, each with the nearest known one; or a value out of range.
        """
        known = {f.name for f in fields(cast("Any", cls))}
        strangers = [unknown(cls.noun, str(key), known) for key in values if key not in known]
        if strangers:
            raise ConfigError("; ".join(strangers))
        return cls(**{key: _from_json(value) for key, value in values.items()})

    def _mistyped(self) -> Iterator[str]:
        """Name the fields whose value is not of their default's type; a whole number may stand for a float."""
        for field in fields(cast("Any", self)):
            value, kind = getattr(self, field.name), type(field.default)
            if type(value) is not kind and not (kind is float and type(value) is int):
                yield f"{field.name} must be of type {kind.__name__}, got {value!r}"


def _to_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_json(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _from_json(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value
