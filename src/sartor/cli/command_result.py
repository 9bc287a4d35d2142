"""The result of a command, and how it is printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console, RenderableType

from sartor.types.rows import stamped


@dataclass(frozen=True)
class CommandResult:
    """What a command returns."""

    data: Mapping[str, Any]  # the object that `--json` prints
    view: RenderableType  # the same for people
    code: int = 0  # exit code of the program


def print_result(result: CommandResult, stream: TextIO, *, as_json: bool) -> None:
    """Write exactly one JSON object, or the view."""
    if as_json:
        print_json(result.data, stream)
    else:
        wide = {} if stream.isatty() else {"width": 120}
        Console(file=stream, highlight=False, **wide).print(result.view)  # type: ignore[arg-type]
    stream.flush()


def print_json(data: Mapping[str, Any], stream: TextIO) -> None:
    """Write one line of JSON with the format and the version of Sartor; NaN and infinite numbers become null."""
    from sartor.types import to_plain

    stream.write(json.dumps(to_plain(stamped(data)), ensure_ascii=False, allow_nan=False) + "\n")
