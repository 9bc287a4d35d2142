"""TOML files with checked fields: run files of `sartor fit` and network lists of `sartor bench`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from sartor.errors import BadInput, UnknownName

_MOST_BYTES = 4 * 2**20


def read_toml(path: Path, missing: str) -> dict[str, Any]:
    """The values of a TOML file.

    Args:
        path: the file.
        missing: the message if there is no such file.

    Raises:
        BadInput: no such file, not TOML, or too large.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise BadInput(f"{path}: expected TOML of at most {_MOST_BYTES} bytes; it has {path.stat().st_size}")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(missing) from None
    except RecursionError as e:
        raise BadInput(f"{path}: expected TOML; it is nested too deeply") from e
    except BadInput:
        raise
    except ValueError as e:  # no TOML, no UTF-8, or a number of thousands of digits
        raise BadInput(f"{path}: expected TOML; {str(e)[:300]}") from e


def known_fields(values: Mapping[str, Any], kind: Any, where: str) -> None:
    """Check that every name is a field of the dataclass `kind`.

    Raises:
        UnknownName: a name is not; the message names the nearest field.
    """
    known = [f.name for f in fields(kind)]
    for name in values:
        if name not in known:
            raise UnknownName(f"field of {where}", str(name), known)
