"""Frozen dataclasses to and from plain JSON values, strictly: an unknown key is an error, not a default."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from funcrec.core.errors import ConfigError, fail


def to_plain(value: Any) -> Any:
    """A dataclass as an object with its class name under ``"kind"``; tuples as lists; scalars as they are."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"kind": type(value).__name__} | {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
    return [to_plain(v) for v in value] if isinstance(value, tuple) else value


def from_plain(value: Any, kinds: Mapping[str, type]) -> Any:
    """The inverse of :func:`to_plain`; keys that have defaults may be left out.

    Raises:
        ConfigError: an unknown kind or key, with the nearest valid one, or a key that is needed and absent.
    """
    if isinstance(value, list):
        return tuple(from_plain(v, kinds) for v in value)
    if not isinstance(value, dict):
        return value
    kind = str(value.get("kind"))
    if kind not in kinds:
        fail(ConfigError, "'kind'", got=repr(kind), expected=f"one of {list(kinds)}", fix=nearest(kind, kinds))
    known = {f.name: f for f in fields(kinds[kind])}
    given = {k: from_plain(v, kinds) for k, v in value.items() if k != "kind"}
    for key in given:
        if key not in known:
            fail(ConfigError, f"{kind}: unknown key {key!r}", expected=f"one of {list(known)}", fix=nearest(key, known))
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if lacking := [n for n in needed if n not in given]:
        fail(ConfigError, f"{kind}: keys that are lacking", got=lacking, expected=f"all of {needed}")
    try:
        return kinds[kind](**given)
    except TypeError as error:
        fail(ConfigError, f"{kind}: a value of the wrong type", got=str(error))


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy for a wrong name: the known names that look like it, else all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if not close:
        return f"there are {known[:50]}"
    return "did you mean " + " or ".join(map(repr, close)) + "?"
