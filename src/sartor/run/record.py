"""The record of a run: the request, the decisions and the measurements, as one value that survives JSON.

`result.json`, `fit --json` and the report are views of a `Record`; `record.jsonl` holds its steps as they happened.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field

from sartor.errors import CorruptFile, SartorError
from sartor.export.files import atomic_write
from sartor.run.record_upgrade import from_format_1, with_statuses
from sartor.types import LimitStatus, Listener, to_plain
from sartor.types.checked import refusal
from sartor.types.rows import Number, Row
from sartor.version import version

HOLDS = ("met", "within noise")
NOT_WRITTEN = "NOT WRITTEN"  # the beginning of a note about a file of the run folder
SEVERITY: tuple[LimitStatus, ...] = ("met", "within noise", "not measured", "missed")  # of a budget: the worst counts
FORMAT = 2  # of result.json and record.jsonl; format 1 did not say its number


class BudgetRow(Row):
    """One limit and what the fitted network costs; `value` and `original` in the metric's own unit.

    Of a latency limit, `status` follows from the 95 % interval of the measured ratio: it lies at or below the limit
    ("met"), contains it ("within noise") or lies above ("missed"); "not measured" if the timing failed, as a note says.
    """

    metric: str
    target: str | None
    limit: float
    relative: bool
    original: Number
    value: Number
    status: LimitStatus

    @computed_field  # type: ignore[prop-decorator]
    @property
    def met(self) -> bool:
        """Whether the limit holds as far as the measurement can say."""
        return self.status in HOLDS


class QualityRow(Row):
    """Quality by stage; None: not judged."""

    original: Number = None
    after_cut: Number = None
    after_repair: Number = None
    final: Number = None
    chosen_by_validation: Number = None


class JudgedQuality(QualityRow):
    """Quality on the validation part, in the unit of its metric."""

    metric: str = "accuracy"


class VerdictRow(Row):
    """The proof that the cut network computes what the zero-masked original computes."""

    passed: bool
    max_relative_error: Number
    groups: int
    mixing_groups: int
    tolerance: float
    status: Literal["exact", "partly", "not comparable"] | None = None
    left_out: list[tuple[str, str]] = Field(default_factory=list)  # (group, why its function was not compared)
    tensors: int | None = None  # equal to the kept slices of the original, bit for bit; None: not recorded
    outputs: int | None = None  # output tensors compared
    examples: int | None = None  # pairs of forwards compared
    redrawn_error: Number = None  # with redrawn weights; None: not compared, or not recorded
    redrawn_tolerance: float | None = None
    redrawn_precision: str = ""
    note: str = ""


class Pair(Row):
    """A cost that is counted."""

    original: int
    fitted: int


class Samples(Row):
    """Single inferences, in the order they were taken, in milliseconds."""

    original_ms: list[float]
    fitted_ms: list[float]


class LatencyRow(Row):
    """Two networks timed in turns on one target."""

    target: str
    original_ms: float  # median
    fitted_ms: float  # median
    ratio: float  # median of the pairwise ratios
    interval: tuple[float, float]  # 95 % confidence interval of the ratio
    noisy: str  # how the machine was disturbed, in words; "": it was not
    samples: Samples
    file: str | None = None  # the delivered file that was timed, beside the original's export; None: the module
    sha256: str | None = None  # of that file


class GroupRow(Row):
    """Units that go together."""

    name: str
    kind: str
    units: int
    kept: int
    mixes: str | None  # why cutting it changes the other units; None: it does not
    members: list[str]  # "<tensor>:<dimension>"
    macs_share: float
    params_share: float


class FrozenRow(Row):
    """A dimension that cannot be cut."""

    axis: str
    size: int | None  # None: results of format 1 did not record it
    reason: str


class AnalysedRow(Row):
    """One quantity that a probe measured before and after; see `sartor.analysis`."""

    probe: str
    layer: str  # "": the whole network
    quantity: str
    unit: str
    original: Number
    original_interval: tuple[Number, Number] | None = None
    fitted: Number
    fitted_interval: tuple[Number, Number] | None = None
    note: str = ""


class TrailRow(Row):
    """One plan that the latency search timed."""

    macs_share: float
    ratio: float
    predicted: float | None = None
    noisy: str = ""


class AskedRow(Row):
    """The request of the run."""

    budget: str
    recipe: dict[str, Any]  # its five choices


class StepRow(BaseModel):
    """One line of record.jsonl; further fields hold what the step found."""

    model_config = ConfigDict(frozen=True, extra="allow")

    step: str
    seconds: float | None = None
    failed: str | None = None


class Record(Row):
    """A finished run. Tables may be empty: no latency was measured, nothing was trained, nothing written."""

    format: Literal[2] = 2
    sartor: str = Field(default_factory=version)
    run: str | None = None  # the folder
    model: str
    recipe: str
    status: LimitStatus  # the worst of the budget's rows
    budget: list[BudgetRow]
    quality: JudgedQuality
    test: QualityRow = QualityRow()  # top-1 accuracy on the test part, in percent
    proof: VerdictRow
    counted: dict[str, Pair]
    latency: list[LatencyRow] = Field(default_factory=list)
    seconds: dict[str, float] = Field(default_factory=dict)  # by step
    files: dict[str, str] = Field(default_factory=dict)
    asked: AskedRow
    groups: list[GroupRow] = Field(default_factory=list)
    frozen: list[FrozenRow] = Field(default_factory=list)
    training: list[dict[str, Any]] = Field(default_factory=list)  # one row an epoch
    chosen_epoch: int | None = None
    trail: list[TrailRow] = Field(default_factory=list)
    analysis: list[AnalysedRow] = Field(default_factory=list)  # of the probes that the run was asked for
    environment: dict[str, Any] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    record: list[StepRow] = Field(default_factory=list)  # the steps; not part of result.json

    def result(self) -> dict[str, Any]:
        """The object of `fit --json` and of result.json."""
        return self.model_dump(mode="json", exclude={"record"})

    def with_steps(self) -> dict[str, Any]:
        """The same with the steps under "record": what a report shows."""
        return self.model_dump(mode="json")

    @classmethod
    def result_schema(cls) -> dict[str, Any]:
        """The JSON schema of `result`."""
        schema = cls.model_json_schema(mode="serialization")
        del schema["properties"]["record"], schema["$defs"][StepRow.__name__]
        schema["required"].remove("record")
        return schema

    @staticmethod
    def steps(rows: Iterable[Mapping[str, Any]]) -> list[StepRow]:
        """Lines of record.jsonl as rows."""
        return [StepRow(**row) for row in rows]

    @classmethod
    def from_result(cls, raw: Mapping[str, Any], what: str = "result") -> Record:
        """The inverse of `result` and `with_steps`; reads format 1 as well.

        Raises:
            CorruptFile: a field is missing or of the wrong kind; names it.
        """
        try:
            return cls.model_validate(with_statuses(raw if "format" in raw else from_format_1(raw)))
        except ValidationError as e:
            raise CorruptFile(str(refusal(e, what))) from e


class Recorder(Listener):
    """Collects the steps of a run, appends each to a file when there is one, and passes progress on.

    Args:
        path: of record.jsonl; None: nothing is written.
        listener: receives progress and notes.
        clock: in seconds.
    """

    def __init__(self, path: Path | None, listener: Listener, clock: Callable[[], float] = time.perf_counter):
        super().__init__()
        self.path, self.listener, self.clock = path, listener, clock
        self.steps: list[dict[str, Any]] = []
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        self._unwritable = False

    def begin(self, step: str, text: str = "") -> None:
        """Passed on."""
        self.listener.begin(step, text)

    def tell(self, text: str, done: float | None = None) -> None:
        """Passed on."""
        self.listener.tell(text, done)

    def note(self, sentence: str) -> None:
        """Kept once, and passed on."""
        if sentence not in self.notes:
            self.notes.append(sentence)
            self.listener.note(sentence)

    def add(self, step: str, **facts: Any) -> None:
        """One line of the record. Where the file cannot be written any more, a note says so and the run goes on.

        Raises:
            SartorError: not even the first line can be written.
        """
        row = {"step": step, **to_plain(facts)}
        self.steps.append(row)
        if self.path is not None and not self._unwritable:
            try:
                with self.path.open("a") as f:
                    f.write(json.dumps(row) + "\n")
            except OSError as e:
                reason = f"{self.path}: cannot be written ({e.strerror or e})"
                if len(self.steps) == 1:
                    raise SartorError(reason) from e
                self._unwritable = True
                self.note(f"{reason}; the later steps of the run are in its result only")

    def state(self) -> dict[str, Any]:
        """What was recorded so far, as plain values."""
        return {"steps": list(self.steps), "seconds": dict(self.seconds), "notes": list(self.notes)}

    def restore(self, state: Any) -> None:
        """Put back what `state` gave, in place of what was recorded since; the first row and new notes stay.

        Raises:
            CorruptFile: it is no such state.
        """
        try:
            steps = [dict(row) for row in state["steps"]]
            Record.steps(steps)
            seconds = {str(name): float(value) for name, value in state["seconds"].items()}
            notes = [str(note) for note in state["notes"]]
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise CorruptFile(f"record of an interrupted run: {type(e).__name__}: {e}") from e
        self.steps, self.seconds = [*self.steps[:1], *steps[1:]], seconds
        self.notes = notes + [note for note in self.notes if note not in notes]
        if self.path is not None and not self._unwritable:
            try:
                atomic_write(self.path, "".join(json.dumps(row) + "\n" for row in self.steps))
            except SartorError as e:
                self._unwritable = True
                self.note(f"{e}; the later steps of the run are in its result only")

    @contextmanager
    def timed(self, name: str, text: str = "") -> Iterator[dict[str, Any]]:
        """Time a step; what is put into the dict that it gives is recorded with it, also when the step fails."""
        self.begin(name, text)
        facts: dict[str, Any] = {}
        start = self.clock()
        try:
            yield facts
        except BaseException as e:
            self.add(name, seconds=round(self.clock() - start, 4), failed=f"{type(e).__name__}: {e}", **facts)
            raise
        spent = self.clock() - start
        self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 4)
        self.add(name, seconds=round(spent, 4), **facts)
        self.tell(str(facts.get("text", "")), 1.0)
