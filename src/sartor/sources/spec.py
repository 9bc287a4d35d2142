"""Specs: the text that names a model or a data set, 'kind:rest?option=value&option=value'."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from sartor.errors import BadInput, UnknownName


@dataclass(frozen=True)
class Spec:
    """A parsed spec."""

    text: str  # as it was written
    kind: str  # "timm", "cifar10", or everything before the last colon: "models/net.py", "package.module"
    rest: str  # behind the colon: the name of a model, a folder, a factory
    options: Mapping[str, Any] = field(default_factory=dict)


def parse_spec(text: str, kinds: Iterable[str], example: str) -> Spec:
    """Parse a spec.

    Args:
        text: 'kind:rest', optionally followed by '?name=value&name=value'. A value that is valid JSON (number, true,
            false, null) is read as JSON, else as text.
        kinds: known kinds, which stand before the first colon. Any other text is 'FILE_OR_MODULE:factory', divided at
            the last colon.
        example: of a valid spec, for the error message.

    Raises:
        BadInput: the text is not a spec.

    >>> parse_spec("cifar10:data/c10?std=1,1,1", ["cifar10"], "")
    Spec(text='cifar10:data/c10?std=1,1,1', kind='cifar10', rest='data/c10', options={'std': '1,1,1'})
    >>> parse_spec("bench/resnet.py:net?depth=56", [], "").options
    {'depth': 56}
    """
    if not isinstance(text, str) or ":" not in text:
        raise BadInput(f"expected a source such as {example}; got {text!r}")
    place, _, query = text.partition("?")
    kind, _, rest = place.partition(":")
    if kind not in set(kinds):
        kind, _, rest = place.rpartition(":")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise BadInput(f"{text!r}: expected options as '?name=value&name=value'; got {query!r}") from None
    return Spec(text, kind.strip(), rest.strip(), {name: _value(value) for name, value in pairs})


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, or nested too deeply
        return text


def known_options(spec: Spec, known: Iterable[str]) -> None:
    """Check that the source knows every option.

    Raises:
        UnknownName: it does not; the message names the nearest option.
    """
    for name in spec.options:
        if name not in (names := set(known)):
            raise UnknownName(f"option of {spec.kind!r}", name, names)


def numbers(spec: Spec, name: str, default: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """The value of an option that lists numbers, such as 'mean=0.5,0.4,0.4'.

    >>> numbers(parse_spec("npz:x.npz?mean=0.5,0.25", ["npz"], ""), "mean", None)
    (0.5, 0.25)
    """
    if name not in spec.options:
        return default
    try:
        return tuple(float(v) for v in str(spec.options[name]).split(","))
    except ValueError:
        raise BadInput(f"option {name!r} of {spec.text!r}: expected numbers such as 0.5,0.4,0.4") from None


def choice(spec: Spec, name: str, choices: tuple[str, ...], default: str) -> str:
    """The value of an option that is one of `choices`."""
    value = spec.options.get(name, default)
    if value not in choices:
        raise BadInput(f"option {name!r} of {spec.text!r}: expected {' or '.join(choices)}; got {value!r}")
    return str(value)


def whole(spec: Spec, name: str, default: int, *, least: int = 1) -> int:
    """The value of an option that is a whole number >= `least`."""
    value = spec.options.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadInput(f"option {name!r} of {spec.text!r}: expected a whole number >= {least}; got {value!r}")
    return value
