"""The plan: everything that was decided about a network."""

from __future__ import annotations

import itertools
import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sartor.errors import BadInput, CorruptFile


@dataclass(frozen=True)
class Plan:
    """Which units stay: the waist of the hourglass. A group not named stays whole."""

    keep: Mapping[str, tuple[int, ...]]  # group name -> sorted kept unit indices
    made_by: str
    fingerprint: str  # of the Graph it was made for
    fibres: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    # group -> in place of what `keep` names, as many units for each unit of the leaf it is fibred over (`Graph.fibres`)

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

    def counts(self) -> dict[str, int]:
        """Units kept by group."""
        return {name: len(kept) for name, kept in self.keep.items()}

    def to_json(self) -> str:
        """One group a line, so that a person can edit it."""
        rows = ",\n".join(f"    {json.dumps(n)}: {json.dumps(list(k))}" for n, k in self.keep.items())
        head = f'"made_by": {json.dumps(self.made_by)},\n  "fingerprint": {json.dumps(self.fingerprint)}'
        fibred = ",\n".join(f"    {json.dumps(n)}: {json.dumps(r)}" for n, r in self.fibres.items())
        fibres = f',\n  "fibres": {{\n{fibred}\n  }}' if fibred else ""
        return f'{{\n  {head},\n  "keep": {{\n{rows}\n  }}{fibres}\n}}\n'

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The inverse of `to_json`."""
        try:
            raw = json.loads(text)
            keep = {str(n): _indices(k) for n, k in raw["keep"].items()}
            fibres = {str(n): tuple(map(_indices, rows)) for n, rows in raw.get("fibres", {}).items()}
            return cls(keep, str(raw["made_by"]), str(raw["fingerprint"]), fibres)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as e:
            raise CorruptFile(f"plan: expected JSON with keep, made_by and fingerprint; {type(e).__name__}: {e}") from e


def _indices(raw: Any) -> tuple[int, ...]:
    return tuple(operator.index(i) for i in raw)
