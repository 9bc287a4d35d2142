"""Numbers with units, parsed and formatted: '200k', '1.5MB', '60%', '4ms'."""

from __future__ import annotations

import re

from sartor.errors import BadInput

_COUNT = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_BYTES = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
_NUMBER = re.compile(r"^\s*([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Zµ%]*)\s*$")
KINDS = {"count": _COUNT, "bytes": _BYTES, "seconds": _SECONDS}


def parse_quantity(text: str, kind: str) -> tuple[float, bool]:
    """Parse a number with its unit.

    Args:
        text: such as "50%", "200k", "1.5MB", "4 ms".
        kind: "count" (k, M, G, T), "bytes" (kB, MB, GB, KiB, MiB, GiB; a bare number counts bytes) or
            "seconds" (s, ms, us; a unit is required).

    Returns:
        (value, relative); relative values are fractions of the original: "50%" -> (0.5, True).

    Raises:
        BadInput: not a number with a unit of this kind.

    >>> parse_quantity("50%", "count"), parse_quantity("200k", "count"), parse_quantity("4ms", "seconds")
    ((0.5, True), (200000.0, False), (0.004, False))
    """
    m = _NUMBER.match(text)
    scale = KINDS[kind]
    if m:
        number, unit = float(m[1].replace("_", "")), m[2]
        if unit == "%":
            return number / 100, True
        if kind == "bytes" and unit == "":
            return number, False
        if unit.lower() in scale:
            return number * scale[unit.lower()], False
    raise BadInput(f"expected a number such as {_example(kind)} or a share such as 50%; got {text.strip()!r}")


def parse_shares(text: str, flag: str = "--shares") -> list[float]:
    """Percentages between 0 and 100, separated by commas, as shares.

    Args:
        text: such as "70, 50%,30".
        flag: the option that they were given with, for messages.

    Raises:
        BadInput: no number, not a number, or one that is not strictly between 0 and 100.

    >>> parse_shares("70, 50%,30")
    [0.7, 0.5, 0.3]
    """
    shares = []
    for word in filter(None, re.split(r"[,\s]+", text)):
        try:
            percent = float(word.removesuffix("%"))
        except ValueError:
            raise BadInput(f"{flag}: expected percentages such as 70,50,30; got {word!r}") from None
        if not 0 < percent < 100:
            raise BadInput(f"{flag}: expected percentages strictly between 0 and 100; got {word!r}")
        shares.append(percent / 100)
    if not shares:
        raise BadInput(f"{flag}: expected percentages such as 70,50,30; got none")
    return shares


def _example(kind: str) -> str:
    return {"count": "200k, 1.5M", "bytes": "800kB, 1.5MB", "seconds": "4ms, 0.2s"}[kind]


def show_count(n: float) -> str:
    """A count as text.

    >>> show_count(125485696), show_count(853018), show_count(12)
    ('125.49 M', '853.02 k', '12')
    """
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(n) >= size:
            return f"{n / size:.2f} {unit}"
    return f"{n:g}"


def show_bytes(n: float) -> str:
    """A size in bytes as text.

    >>> show_bytes(3412072)
    '3.41 MB'
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(n) >= size:
            return f"{n / size:.2f} {unit}"
    return f"{n:g} B"


def show_seconds(s: float) -> str:
    """A duration as text.

    >>> show_seconds(0.00412), show_seconds(75)
    ('4.12 ms', '75.0 s')
    """
    return f"{s * 1e6:.1f} us" if abs(s) < 1e-3 else f"{s * 1e3:.2f} ms" if abs(s) < 1 else f"{s:.1f} s"


def show_percent(fraction: float, digits: int = 1) -> str:
    """A share as text.

    >>> show_percent(0.4987)
    '49.9 %'
    """
    return f"{100 * fraction:.{digits}f} %"
