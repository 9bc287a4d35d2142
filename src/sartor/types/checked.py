"""Frozen values whose fields are checked when they are made, by pydantic; what is wrong is a `BadInput`."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from sartor.errors import BadInput

T = TypeVar("T")
Count = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[int, Field(strict=True, ge=1)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Weight = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def checked(cls: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass that refuses unknown fields and values of the wrong kind or out of range.

    `dataclasses.replace` checks again. Equality and repr are those of a dataclass.

    Raises:
        BadInput: from the constructor; names the field, what was expected and what came.

    >>> @checked
    ... class Limits:
    ...     floor: Share = 0.1
    >>> Limits(0.2)
    Limits(floor=0.2)
    >>> Limits(floor=2.0)
    Traceback (most recent call last):
    ...
    sartor.errors.BadInput: limits field 'floor': expected less than or equal to 1; got 2.0
    """
    made: Any = dataclass(frozen=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))(cls)
    construct = made.__init__

    @functools.wraps(construct)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            construct(self, *args, **kwargs)
        except ValidationError as e:
            raise refusal(e, _words(cls.__name__)) from None

    made.__init__ = init
    return made  # type: ignore[no-any-return]


def refusal(error: ValidationError, what: str) -> BadInput:
    """The first thing that is wrong with a value, as "recipe field 'x.y': expected ...; got ...".

    Args:
        error: from pydantic.
        what: what the value is called in the message.
    """
    problems = error.errors(include_url=False)
    problem = problems[0]
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, BadInput):  # raised by a check of our own
        return cause
    members = _members(problems)
    path = ".".join(str(p) for p in problem["loc"][: -1 if members else None] if not _CONTAINER.match(str(p)))
    got = f"got {_short(problem['input'])}"
    if members:
        names = list(dict.fromkeys(map(_expected, members)))
        if "a function" in names:
            names[names.index("text")] = "a name"
        return BadInput(f"{what} field {path!r}: expected {' or '.join(names)}; {got}")
    match problem["type"]:
        case "missing":
            return BadInput(f"{what} field {path!r} is missing")
        case "unexpected_keyword_argument" | "extra_forbidden":
            return BadInput(f"{what} field {path!r} does not exist")
        case "json_invalid":
            return BadInput(f"{what}: expected JSON; {problem['ctx']['error']}")
        case "union_tag_invalid":
            expected = f"one of the kinds {problem['ctx']['expected_tags']}"
            return BadInput(f"{what} field {path!r}: expected {expected}; got {problem['ctx']['tag']!r}")
    newer = ". A newer Sartor may have written it" if path == "format" else ""
    place = f"{what} field {path!r}" if path else what
    return BadInput(f"{place}: expected {_expected(problem)}; {got}{newer}")


_CONTAINER = re.compile(r"(dict|list|tuple|nullable|function-\w+)\[|\[key\]$")  # names a type, not a field
_MEMBER = re.compile(r"(str|int|float|bool|none|callable|constrained-\w+)$|(dict|list|tuple)\[|[A-Z]\w*$")  # of a union
_EXPECTED = {
    "string_type": "text", "int_type": "a whole number", "float_type": "a number", "bool_type": "true or false",
    "dict_type": "a table", "model_type": "a table", "model_attributes_type": "a table", "list_type": "a list",
    "tuple_type": "a list", "callable_type": "a function", "dataclass_type": "a table", "none_required": "null",
}  # fmt: skip
_MOST_SHOWN = 200  # characters of a wrong value


def _members(problems: Sequence[Any]) -> list[Any]:
    """The problems with all members of a union, if the first problem is that a value is of none of its kinds."""
    first = problems[0]
    *place, last = first["loc"] or [""]
    if not isinstance(last, str) or not _MEMBER.match(last):
        return []
    beside = [p for p in problems if [*p["loc"]][:-1] == place and p["input"] is first["input"]]
    return beside if len(beside) > 1 and all(_MEMBER.match(str(p["loc"][-1])) for p in beside) else []


def _expected(problem: Any) -> str:
    return _EXPECTED.get(problem["type"]) or str(problem["msg"]).removeprefix("Input should be ")


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}..."


def _words(name: str) -> str:
    """A class name in words.

    >>> _words("FineTune")
    'fine-tune'
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
