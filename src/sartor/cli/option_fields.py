"""Commands whose parameters are the fields of dataclasses: options that belong together are one value."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from sartor.cli.command_result import CommandResult
from sartor.cli.failures import Interrupted, message


def command_of(
    act: Callable[..., CommandResult], *kinds: type[Any], annotation: Callable[[Any], Any] = lambda hint: hint
) -> Callable[..., CommandResult]:
    """A function that typer can register: it takes the fields of all dataclasses, and calls `act` with their values.

    Args:
        act: takes one value of each dataclass, in order.
        kinds: dataclasses whose fields are `Annotated` with typer options; names of fields differ between them.
        annotation: translates the type hint of a field into one that typer reads.

    Raises:
        Interrupted: from the returned function, on Ctrl-C; some versions of the parser would exit without a message.
    """

    def command(**values: Any) -> CommandResult:
        try:
            return act(*(kind(**{f.name: values[f.name] for f in fields(kind)}) for kind in kinds))
        except KeyboardInterrupt as e:
            raise Interrupted(message(e)) from e

    parameters = [p for kind in kinds for p in _parameters(kind, annotation)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__name__, command.__doc__ = getattr(act, "__name__", "command"), act.__doc__
    return command


def _parameters(kind: type[Any], annotation: Callable[[Any], Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    empty, keyword = inspect.Parameter.empty, inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(
            f.name, keyword, annotation=annotation(hints[f.name]),
            default=empty if f.default is MISSING else f.default,
        )
        for f in fields(kind)
    ]  # fmt: skip
