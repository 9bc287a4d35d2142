"""edits.json: the JSON of a cut, checked field by field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationError

from sartor.errors import CorruptFile
from sartor.json_file import parse_json
from sartor.types.checked import refusal
from sartor.types.rows import Row

Index = Annotated[int, Field(strict=True, ge=0)]
Length = Annotated[int, Field(strict=True, ge=0)]


Step = tuple[str, list[JsonValue], dict[str, JsonValue], list[Index], list[Index]]
PROGRAM_FORMAT = 2


class Formula(Row):
    """(times * product of sizes + plus) // (by * product of other sizes); see `sartor.surgery.size_formula`."""

    of: Annotated[list[tuple[Index, Index]], Field(min_length=1)]  # slot and dimension of each factor
    over: list[tuple[Index, Index]] = Field(default_factory=list)
    times: int = 1
    plus: int = 0
    by: Annotated[int, Field(strict=True, ge=1)] = 1


class SizeOf(Row):
    """A size that follows from sizes of tensors before it."""

    size: Formula


class VariantFile(Row):
    """A rewritten forward for calls with one signature."""

    call: dict[str, JsonValue]  # argument -> its value, with "*" for tensors
    inputs: list[list[Length | SizeOf | None]]  # shape of each tensor; null where any size will do
    same: list[Index]  # of each input, the first that is the same tensor
    output: JsonValue
    steps: list[Step]  # operator, args, kwargs, slots of its results, slots that nobody reads afterwards


class ProgramFile(Row):
    """A rewritten forward; see `sartor.surgery.program.Program` for what a step is."""

    format: Literal[2]
    positional: list[str]  # names of the parameters that may be passed by position
    defaults: dict[str, JsonValue]  # of the parameters that have one
    variants: Annotated[list[VariantFile], Field(min_length=1)]
    fixed: list[str] = Field(default_factory=list)  # sentences: what it does not take although the original may


class BatchSize(Row):
    """Format 1: a size in multiples of the batch."""

    batch: Annotated[int, Field(strict=True, ge=1)]


class OldProgramFile(Row):
    """Format 1 of a rewritten forward: one call, with the batch as the only free size."""

    format: Literal[1]
    inputs: list[list[Length | BatchSize]]  # shape of each tensor that the module is called with
    same: list[Index]
    plain: tuple[list[JsonValue], dict[str, JsonValue]]  # positional and keyword arguments, with "*" for tensors
    output: JsonValue
    steps: list[Step]

    def upgraded(self) -> ProgramFile:
        """The same in the present format."""
        places = [
            ([i, d], n.batch)
            for i, shape in enumerate(self.inputs)
            for d, n in enumerate(shape)
            if isinstance(n, BatchSize)
        ]
        place, each = places[0] if places else ([0, 0], 1)

        def size(k: int) -> dict[str, Any]:
            return {"size": {"of": [place], "times": k, "by": each}}

        def converted(x: Any) -> Any:
            if isinstance(x, dict):
                return size(x["batch"]) if set(x) == {"batch"} else {k: converted(v) for k, v in x.items()}
            return [converted(v) for v in x] if isinstance(x, list) else x

        inputs = [
            [n if isinstance(n, int) else None if [i, d] == place else size(n.batch) for d, n in enumerate(shape)]
            for i, shape in enumerate(self.inputs)
        ]
        positional, keywords = self.plain
        call = {**{f"*{i}": v for i, v in enumerate(positional)}, **keywords}
        variant = {
            "call": {name: v for name, v in call.items() if v is not None},
            "inputs": inputs,
            "same": self.same,
            "output": self.output,
            "steps": [
                [name, converted(a), converted(k), outs, [slot for slot in drop if slot != place[0]]]
                for name, a, k, outs, drop in self.steps  # sizes of the first input are read later
            ],
        }
        return ProgramFile.model_validate(
            {"format": PROGRAM_FORMAT, "positional": [], "defaults": {}, "variants": [variant]}
        )


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
    forwards: dict[str, Annotated[ProgramFile | OldProgramFile, Field(discriminator="format")]] = Field(
        default_factory=dict
    )  # by module path
    numbers: dict[str, list[tuple[Literal["argument", "tensor", "attention"], int | float, int | float]]] = Field(
        default_factory=dict
    )  # module path -> kind, as the cut network computes it, as the original does
    clips: dict[str, Annotated[list[Annotated[float, Field(ge=0)] | None], Field(min_length=1)]] = Field(
        default_factory=dict
    )  # module path -> limit of each of its rectifiers; null: none

    @classmethod
    def read(cls, text: str) -> EditsFile:
        """The checked fields of edits.json.

        Raises:
            CorruptFile: not JSON, or a field is missing or of the wrong kind; names it.
        """
        try:
            return cls.model_validate(parse_json(text, "edits"))
        except ValidationError as e:
            raise CorruptFile(str(refusal(e, "edits"))) from e


def edits_schema() -> dict[str, Any]:
    """The JSON schema of edits.json."""
    return EditsFile.model_json_schema()
