"""What probes give: readings, and the rows of an analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import Field

from sartor.errors import UnknownName
from sartor.types.rows import Answer, Number, Row


@dataclass(frozen=True)
class Reading:
    """One number that a probe measured."""

    quantity: str  # such as "ece" or "condition number"
    value: float | None  # None: it is not defined here, as `note` says
    layer: str = ""  # module path and operator; "": the whole network
    interval: tuple[float, float] | None = None  # 95 % confidence interval, or [lower, upper] bound; None: not known
    unit: str = ""  # such as "%" or "nats"; "": a plain number
    note: str = ""  # what a reader has to know about this one number


class AnalysisRow(Row):
    """One reading with the probe that gave it."""

    probe: str
    layer: str
    quantity: str
    value: Number
    interval: tuple[Number, Number] | None = None
    unit: str = ""
    note: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What two analyses are compared by."""
        return self.probe, self.layer, self.quantity

    @staticmethod
    def of(probe: str, reading: Reading) -> AnalysisRow:
        """A reading as a row."""
        r = reading
        return AnalysisRow(
            probe=probe, layer=r.layer, quantity=r.quantity, value=r.value, interval=r.interval, unit=r.unit,
            note=r.note,
        )  # fmt: skip


class ProbeRow(Row):
    """A probe that was run."""

    name: str
    source: str
    bias: str  # in which direction its estimator errs, and why


class Analysis(Answer):
    """The rows of several probes on one network."""

    model: str
    samples: int
    probes: list[ProbeRow] = Field(default_factory=list)
    rows: list[AnalysisRow] = Field(default_factory=list)
    against: str | None = None  # the other network
    against_rows: list[AnalysisRow] | None = None
    notes: list[str] = Field(default_factory=list)

    def value(self, quantity: str, layer: str = "", probe: str | None = None) -> float:
        """One number by its name.

        Raises:
            UnknownName: there is no such row, or it has no value.
        """
        for row in self.rows:
            if (row.quantity, row.layer) == (quantity, layer) and probe in (None, row.probe) and row.value is not None:
                return row.value
        known = [f"{r.quantity} of {r.layer}" if r.layer else r.quantity for r in self.rows]
        raise UnknownName("quantity", f"{quantity} of {layer}" if layer else quantity, known)


@dataclass(frozen=True)
class Pairing:
    """The rows of two networks side by side, in the order of the first; None: only the other network has the row."""

    rows: Sequence[AnalysisRow]
    other: Sequence[AnalysisRow] = field(default_factory=list)

    def pairs(self) -> list[tuple[AnalysisRow | None, AnalysisRow | None]]:
        """(row, row of the other network)."""
        of_other = {row.key: row for row in self.other}
        mine = {row.key for row in self.rows}
        return [
            *((row, of_other.get(row.key)) for row in self.rows),
            *((None, row) for row in self.other if row.key not in mine),
        ]
