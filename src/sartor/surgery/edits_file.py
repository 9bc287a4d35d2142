"""edits.json: the JSON of a cut, checked field by field."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationError

from sartor.errors import CorruptFile
from sartor.types.checked import refusal
from sartor.types.rows import Row

Index = Annotated[int, Field(strict=True, ge=0)]
Length = Annotated[int, Field(strict=True, ge=0)]


class BatchSize(Row):
    """A size in multiples of the batch."""

    batch: Annotated[int, Field(strict=True, ge=1)]


Step = tuple[str, list[JsonValue], dict[str, JsonValue], list[Index], list[Index]]


class ProgramFile(Row):
    """A rewritten forward; see `sartor.surgery.program.Program` for what a step is."""

    format: Literal[1]
    inputs: list[list[Length | BatchSize]]  # shape of each tensor that the module is called with
    same: list[Index]  # of each input, the first that is the same tensor
    plain: list[JsonValue]  # what the module is called with besides tensors
    output: JsonValue
    steps: list[Step]  # operator, args, kwargs, slots of its results, slots that nobody reads afterwards


class KeptRows(Row):
    """Kept indices that depend on the index along another dimension."""

    along: Index
    which: list[Index]  # row by index along that dimension
    rows: list[list[Index]]


class TensorEdit(Row):
    """One parameter or buffer: its shape before the cut, and the kept indices by dimension."""

    shape: list[Length]
    keep: dict[int, list[Index] | KeptRows]


class EditsFile(Row):
    """The whole file. Format 1 did not say its number."""

    format: Literal[1, 2] = 1
    sartor: str = ""
    tensors: dict[str, TensorEdit]
    attributes: list[tuple[str, str, JsonValue]]  # module path, attribute, new value
    forwards: dict[str, ProgramFile] = Field(default_factory=dict)  # by module path

    @classmethod
    def read(cls, text: str) -> EditsFile:
        """The checked fields of edits.json.

        Raises:
            CorruptFile: not JSON, or a field is missing or of the wrong kind; names it.
        """
        try:
            return cls.model_validate(json.loads(text))
        except (json.JSONDecodeError, RecursionError) as e:
            raise CorruptFile(f"edits: expected JSON with tensors and attributes; {e}") from e
        except ValidationError as e:
            raise CorruptFile(str(refusal(e, "edits"))) from e


def edits_schema() -> dict[str, Any]:
    """The JSON schema of edits.json."""
    return EditsFile.model_json_schema()
