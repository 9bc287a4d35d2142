"""Frozen values whose fields are checked when they are made, by pydantic; what is wrong is a `BadInput`."""

from __future__ import annotations

import functools
import re
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
    problem = error.errors(include_url=False)[0]
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, BadInput):  # raised by a check of our own
        return cause
    path = ".".join(str(p) for p in problem["loc"])
    got = f"got {problem['input']!r}"
    match problem["type"]:
        case "callable_type" | "string_type" if path.endswith((".str", ".callable")):
            return BadInput(f"{what} field {path.rpartition('.')[0]!r}: expected a name or a function; {got}")
        case "unexpected_keyword_argument" | "extra_forbidden":
            return BadInput(f"{what} field {path!r} does not exist")
        case "union_tag_invalid":
            expected = f"one of the kinds {problem['ctx']['expected_tags']}"
            return BadInput(f"{what} field {path!r}: expected {expected}; got {problem['ctx']['tag']!r}")
    expected = problem["msg"].removeprefix("Input should be ")
    return BadInput(f"{what} field {path!r}: expected {expected}; {got}")


def _words(name: str) -> str:
    """A class name in words.

    >>> _words("FineTune")
    'fine-tune'
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
