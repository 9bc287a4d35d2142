"""What `inspect --json` prints, as checked rows."""

from __future__ import annotations

from sartor.types.rows import Answer, Row


class InspectedGroup(Row):
    """Units that go together, and what they are worth."""

    name: str
    kind: str
    units: int
    mixes: str | None  # why cutting it changes the other units; None: it does not
    members: list[str]  # "<tensor>:<dimension>"
    macs_share: float
    params_share: float
    writes: list[str]  # modules whose parameters write the units
    reads: list[str]  # modules whose parameters read the units


class FrozenAxis(Row):
    """A dimension that cannot be cut."""

    axis: str
    reason: str


class Coverage(Row):
    """Shares of the network that lie on an axis that can be cut."""

    params_on_cuttable_axis: float
    macs_on_cuttable_axis: float


class StepRow(Row):
    """One operator on the way between two places."""

    operator: str
    module: str
    text: str


class ChainRow(Row):
    """How the units of one group get from one place to another."""

    group: str
    kind: str
    units: int
    start: str
    end: str
    steps: list[StepRow]


class ExplanationRow(Row):
    """The answer to --why."""

    chains: list[ChainRow]
    facts: list[str]


class RewrittenModule(Row):
    """A module whose forward has to be rewritten, and what that leaves fixed."""

    module: str
    fixed: list[str]  # sentences; empty: it stays as general as it was


class Inspection(Answer):
    """The whole object."""

    model: str
    groups: list[InspectedGroup]
    frozen: list[FrozenAxis]
    coverage: Coverage
    kinds: dict[str, int]  # kind of unit -> number of groups
    ties: list[list[str]]  # groups that must keep equal counts
    rewritten: list[RewrittenModule]
    seconds: float
    why: ExplanationRow | None = None
