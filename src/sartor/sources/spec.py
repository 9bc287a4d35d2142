"""The one line that names a model or a data set: 'kind:rest?option=value&option=value'."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from sartor.errors import BadInput, UnknownName


@dataclass(frozen=True)
class Spec:
    """A source in three parts; `text` is as it was written."""

    text: str
    kind: str  # "timm", "cifar10", or all before the last colon: "models/net.py", "package.module"
    rest: str  # what follows the colon: a model's name, a folder, a factory
    options: Mapping[str, Any] = field(default_factory=dict)


def parse_spec(text: str, kinds: Iterable[str], example: str) -> Spec:
    """Read a source.

    Args:
        text: 'kind:rest', perhaps with '?name=value&name=value' behind it. Values are read as JSON where they are JSON
            (numbers, true, false, null), else as text.
        kinds: kinds that stand before the first colon; anything else is 'file or module:factory', split at the last.
        example: shown when the text cannot be read.

    Returns:
        The parts.

    Raises:
        BadInput: not such a line.

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
    except json.JSONDecodeError:
        return text


def known_options(spec: Spec, known: Iterable[str]) -> None:
    """Raise for an option the source does not know."""
    for name in spec.options:
        if name not in (names := set(known)):
            raise UnknownName(f"option of {spec.kind!r}", name, names)


def numbers(spec: Spec, name: str, default: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """An option that lists numbers: 'mean=0.5,0.4,0.4'.

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
    """An option that is one of a few words."""
    value = spec.options.get(name, default)
    if value not in choices:
        raise BadInput(f"option {name!r} of {spec.text!r}: expected {' or '.join(choices)}; got {value!r}")
    return str(value)


def whole(spec: Spec, name: str, default: int, *, least: int = 1) -> int:
    """An option that is a whole number."""
    value = spec.options.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadInput(f"option {name!r} of {spec.text!r}: expected a whole number >= {least}; got {value!r}")
    return value
