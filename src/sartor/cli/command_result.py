"""What a command answers, and how it is printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console, RenderableType


@dataclass(frozen=True)
class Reply:
    """The answer of a command: one object for `--json`, one picture of it for people, and the exit code."""

    data: Mapping[str, Any]
    view: RenderableType
    code: int = 0


def print_reply(reply: Reply, stream: TextIO, *, as_json: bool) -> None:
    """Write the answer: exactly one JSON object, or the view."""
    if as_json:
        print_json(reply.data, stream)
    else:
        wide = {} if stream.isatty() else {"width": 120}
        Console(file=stream, highlight=False, **wide).print(reply.view)  # type: ignore[arg-type]
    stream.flush()


def print_json(data: Mapping[str, Any], stream: TextIO) -> None:
    """One line; numbers that JSON does not know become null."""
    from sartor.types import to_plain

    stream.write(json.dumps(to_plain(dict(data)), ensure_ascii=False, allow_nan=False) + "\n")
