"""The shape of JSON that is read or printed: rows with checked fields, and answers that say their format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue

from sartor.version import version

FORMAT: Literal[2] = (
    2  # of answers and of edits.json and command.json; format 1 had the same fields and did not say its number
)


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None


Number = Annotated[float | None, AfterValidator(_finite)]  # None: unknown, or not finite: JSON has no NaN


class Row(BaseModel):
    """A JSON object with these fields and no others; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)


class Answer(Row):
    """The whole object that a command prints with --json, or a file of it.

    Fields with the default None are optional: they are left out while they are None.
    """

    format: Literal[2] = FORMAT
    sartor: str = Field(default_factory=version)

    def to_plain(self) -> dict[str, Any]:
        """The object, as JSON knows it."""
        absent = {name for name in _optional(type(self)) if getattr(self, name) is None}
        return self.model_dump(mode="json", exclude=absent)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core))
        if "required" in schema:
            schema["required"] = [name for name in schema["required"] if name not in _optional(cls)]
        return schema


def _optional(kind: type[Answer]) -> set[str]:
    return {n for n, f in kind.model_fields.items() if not f.is_required() and f.default is None}


def stamped(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An object with its format and the version of Sartor in front, unless it says them already.

    A JSON schema stays as it is: it says its format under "$schema", and "format" means something else there.

    >>> stamped({"format": 3, "sartor": "9", "a": 1})
    {'format': 3, 'sartor': '9', 'a': 1}
    """
    head = {} if "$schema" in answer else {"format": FORMAT, "sartor": version()}
    return {**head, **answer}
