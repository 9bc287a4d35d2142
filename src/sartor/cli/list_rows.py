"""What `list --json` prints, as checked rows."""

from __future__ import annotations

from sartor.types.rows import Answer, Row


class EntryRow(Row):
    """One method, target or source of data."""

    name: str
    source: str  # of the method: a paper, or where it is made
    summary: str


class TargetRow(EntryRow):
    """One target."""

    available: bool  # whether it works on this machine
    why_not: str  # "": it works


class Listing(Answer):
    """The entries of the kind that was listed; one field is present."""

    criteria: list[EntryRow] | None = None
    recipes: list[EntryRow] | None = None
    targets: list[TargetRow] | None = None
    allocators: list[EntryRow] | None = None
    data: list[EntryRow] | None = None
    probes: list[EntryRow] | None = None
