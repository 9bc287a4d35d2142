"""The plan: everything that was decided about a network, as one value and as JSON."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import field
from functools import cache
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from sartor.errors import BadInput, CorruptFile
from sartor.json_file import parse_json
from sartor.types.checked import checked, refusal
from sartor.types.rows import unstamped
from sartor.version import version

FORMAT = 2  # of the JSON; format 1 had neither rankings, blocks nor number formats
Index = Annotated[int, Field(strict=True)]
Indices = tuple[Index, ...]


@checked
class Plan:
    """Which units stay and how the rest is stored. Surgery, cost and report need nothing else.

    A group that `keep` does not name stays whole. Blocks and number formats are part of the file format; surgery
    refuses a plan that uses them until it can carry them out.
    """

    keep: Mapping[str, Indices]  # group name -> sorted kept unit indices
    made_by: str  # name of the recipe
    fingerprint: str  # of the Graph it was made for
    fibres: Mapping[str, tuple[Indices, ...]] = field(default_factory=dict)
    # group -> in place of what `keep` names, as many units for each unit of the leaf it is fibred over (`Graph.fibres`)
    ranking: Mapping[str, Indices] = field(default_factory=dict)  # group -> all units, the most important first
    removed_blocks: tuple[str, ...] = ()  # paths of residual branches that are taken away
    number_formats: Mapping[str, str] = field(default_factory=dict)  # tensor name -> how its numbers are stored

    def __post_init__(self) -> None:
        for name, kept in [*self.keep.items(), *((n, row) for n, rows in self.fibres.items() for row in rows)]:
            if not kept or any(b <= a for a, b in itertools.pairwise(kept)) or kept[0] < 0:
                raise BadInput(
                    f"plan, group {name!r}: kept indices must be sorted, unique, non-empty and >= 0; got {kept[:8]}"
                )
        for name, rows in self.fibres.items():
            if name not in self.keep:
                raise BadInput(f"plan, fibres of {name!r}: expected the group under 'keep' as well, for its count")
            sizes = {len(row) for row in rows}
            if sizes != {len(self.keep[name])}:
                raise BadInput(
                    f"plan, fibres of {name!r}: expected {len(self.keep[name])} kept indices in every row, as many as "
                    f"under 'keep'; got {sorted(sizes)}"
                )
        for name, order in self.ranking.items():
            if not order or sorted(order) != list(range(len(order))):
                raise BadInput(
                    f"plan, ranking of {name!r}: expected every unit index from 0 once, the most important first; "
                    f"got {order[:8]}"
                )
            chosen = self.keep.get(name)
            if chosen is not None and name not in self.fibres and chosen != tuple(sorted(order[: len(chosen)])):
                raise BadInput(f"plan, group {name!r}: expected the kept units to be the first of its ranking")
        if len(set(self.removed_blocks)) < len(self.removed_blocks) or not all(self.removed_blocks):
            raise BadInput(
                f"plan, removed_blocks: expected different module paths, none of them empty; got {self.removed_blocks}"
            )

    def counts(self) -> dict[str, int]:
        """Units kept by group."""
        return {name: len(kept) for name, kept in self.keep.items()}

    def to_json(self) -> str:
        """One group a line, so that a person can edit it."""
        head = {"format": FORMAT, "sartor": version(), "made_by": self.made_by, "fingerprint": self.fingerprint}
        parts = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
        tables: dict[str, Mapping[str, Any]] = {
            "keep": self.keep, "fibres": self.fibres, "ranking": self.ranking, "number_formats": self.number_formats
        }  # fmt: skip
        for name, table in tables.items():
            if table or name == "keep":
                rows = ",\n".join(f"    {json.dumps(n)}: {json.dumps(v)}" for n, v in table.items())
                parts.append(f"{json.dumps(name)}: {{\n{rows}\n  }}")
        if self.removed_blocks:
            parts.append(f'"removed_blocks": {json.dumps(self.removed_blocks)}')
        return "{\n  " + ",\n  ".join(parts) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The inverse of `to_json`; reads formats 1 and 2.

        Raises:
            CorruptFile: not the JSON of a plan.
            BadInput: the JSON of a plan that contradicts itself, or of a later format.
        """
        raw = parse_json(text, "plan")
        if not isinstance(raw, dict):
            raise CorruptFile(f"plan: expected a JSON object; got {type(raw).__name__}")
        try:
            return _adapter().validate_python(unstamped(raw, "plan", FORMAT))  # type: ignore[no-any-return]
        except ValidationError as e:
            problem = refusal(e, "plan")
            if e.errors(include_url=False)[0]["type"] == "value_error":  # a check of the plan itself
                raise problem from None
            raise CorruptFile(str(problem)) from e

    @staticmethod
    def schema() -> dict[str, Any]:
        """The JSON schema of `to_json`."""
        found = _adapter().json_schema()
        found["properties"] |= {"format": {"enum": [1, FORMAT]}, "sartor": {"type": "string"}}
        return found  # type: ignore[no-any-return]


@cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(Plan)
