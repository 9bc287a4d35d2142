"""The values that travel between rooms: frozen, checked at construction, no other behaviour."""

from __future__ import annotations

import itertools
import json
import math
import operator
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from sartor.errors import BadInput, CorruptFile

Role = Literal["out", "in", "norm", "buffer", "other"]
Scores = Mapping[str, Tensor]  # group name -> [units]; larger = keep
Counts = Mapping[str, int]  # group name -> units kept; a group not named is whole
SECTIONS = 10  # of samples taken on a noisy machine, at least; see `wide_interval`
METRICS = ("macs", "flops", "params", "bytes", "memory", "latency")


@dataclass(frozen=True)
class Member:
    """One place where the units of a group occur.

    `role` says what the dimension does there: "out" the operator writes these units, "in" it reads and sums over them,
    "norm" scales them one by one, "buffer" statistics of them, "other" anything else.
    """

    tensor: str  # name in named_parameters() or named_buffers()
    dim: int
    role: Role


@dataclass(frozen=True)
class Group:
    """Units that live or die together."""

    name: str  # "<tensor>:<dim>" of its first writer, with "#k" when one dimension holds several groups
    kind: str  # what its units are: a key of sartor.structure.kinds.KINDS
    units: int
    members: tuple[Member, ...]
    mixes: str | None = None  # why cutting changes the other units (a layer norm, say); None: cutting is exact


@dataclass(frozen=True)
class Frozen:
    """A dimension of a parameter that cannot be cut, and why, in plain words."""

    axis: str
    size: int
    reason: str


@dataclass(frozen=True)
class Limit:
    """One line of a budget: metric <= at_most."""

    metric: str  # one of METRICS
    at_most: float  # share of the original when relative, else a count, bytes or seconds
    relative: bool
    target: str | None = None  # where latency is measured

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise BadInput(f"budget metric: expected one of {', '.join(METRICS)}; got {self.metric!r}")
        if not (math.isfinite(self.at_most) and self.at_most > 0):
            raise BadInput(f"budget limit for {self.metric}: expected a positive number; got {self.at_most}")
        if self.relative and self.at_most > 1:
            raise BadInput(
                f"budget limit for {self.metric}: expected at most 100 % of the original; got {100 * self.at_most:g} %"
            )
        if (self.metric == "latency") != (self.target is not None):
            raise BadInput(
                "a latency limit names its target and no other limit does: 'latency<=60% @ onnxruntime-cpu'; "
                f"got metric {self.metric!r} with target {self.target!r}"
            )


@dataclass(frozen=True)
class Budget:
    """What is asked for: limits on cost, and how much quality may be lost at most (in points of the metric)."""

    limits: tuple[Limit, ...]
    max_drop: float | None = None

    def __post_init__(self) -> None:
        if not self.limits:
            raise BadInput("a budget needs at least one limit on cost, such as 'macs<=50%'; got none")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise BadInput(f"budget 'drop': expected points >= 0; got {self.max_drop}")


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


@dataclass(frozen=True)
class Target:
    """Where latency is true."""

    backend: str  # "eager", "compile", "onnxruntime", ...; or the name or path of a file that describes the target
    device: str = "cpu"  # "": the backend is such a file
    threads: int = 0  # 0: as many as the machine has
    batch: int = 1
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """As written in a budget: "onnxruntime-cpu", or "boards/pi.toml"."""
        return f"{self.backend}-{self.device}" if self.device else self.backend


@dataclass(frozen=True)
class Latency:
    """Raw samples of one artefact on one target.

    On a machine where other work had the core for part of the time, `running` says how long of every sample the process
    ran, and what is derived is derived from that; everywhere else it is empty.
    """

    seconds: tuple[float, ...]  # by the clock on the wall
    warmup: int
    target: Target
    environment: Mapping[str, Any] = field(default_factory=dict)
    running: tuple[float, ...] = ()

    @property
    def times(self) -> tuple[float, ...]:
        """`running` where it is known, else `seconds`."""
        return self.running or self.seconds

    @property
    def median_s(self) -> float:
        """Median of the times, in seconds."""
        return statistics.median(self.times)

    @property
    def iqr_s(self) -> float:
        """Interquartile range of the times, in seconds."""
        q = statistics.quantiles(self.times, n=4) if len(self.times) > 1 else [0.0, 0.0, 0.0]
        return q[2] - q[0]

    @property
    def noisy(self) -> str:
        """How the machine was disturbed meanwhile, in words; "" where it was quiet, or where nobody looked."""
        return str((self.environment.get("noise") or {}).get("why", ""))


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % confidence interval of the median, from order statistics; of fewer than six values, all of their range."""
    ordered, n = sorted(values), len(values)
    half = 1.96 * math.sqrt(n) / 2
    return ordered[max(0, math.floor(n / 2 - half) - 1)], ordered[min(n - 1, math.ceil(n / 2 + half))]


def wide_interval(values: Sequence[float], sessions: int = 1) -> tuple[float, float]:
    """A 95 % confidence interval of the median of values that hang together in time; at least `median_interval`.

    Order statistics count every value as news, but a burst slows many neighbours. So the values, in the order they were
    taken, are cut into at least ten sections, none of which spans two sessions, and the spread of the sections' medians
    about the median of all gives the interval, by Student's t; never beyond the values themselves.

    Source: sectioning; Asmussen and Glynn 2007, Stochastic Simulation, III.5a; for quantiles Nakayama 2014,
    doi:10.1145/2558328.

    Args:
        values: of all sessions, as many of each.
        sessions: how many.

    >>> steady, burst = [1.0, 1.1, 1.2] * 25, [3.0] * 15
    >>> median_interval(steady + burst)
    (1.1, 1.2)
    >>> [round(x, 2) for x in wide_interval(steady + burst)]
    [1.0, 1.74]
    """
    low, high = median_interval(values)
    each = math.ceil(SECTIONS / sessions)
    length = len(values) // sessions
    each = min(each, length)
    if each * sessions < 2:
        return low, high
    from scipy.special import stdtrit

    middle = statistics.median(values)
    cuts = [k * length + i * length // each for k in range(sessions) for i in range(each)] + [len(values)]
    off = [statistics.median(values[a:b]) - middle for a, b in itertools.pairwise(cuts)]
    half = float(stdtrit(len(off) - 1, 0.975)) * math.sqrt(sum(x * x for x in off) / (len(off) - 1) / len(off))
    return max(min(values), min(low, middle - half)), min(max(values), max(high, middle + half))


@dataclass(frozen=True)
class Comparison:
    """Two artefacts timed in turns on one target; sample i of both was taken side by side."""

    original: Latency
    fitted: Latency

    @property
    def ratios(self) -> tuple[float, ...]:
        """fitted / original, pair by pair."""
        return tuple(f / o for o, f in zip(self.original.times, self.fitted.times))

    @property
    def ratio(self) -> float:
        """Median of the pairwise ratios."""
        return statistics.median(self.ratios)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the median ratio; on a noisy machine a wide one."""
        sessions = int(self.original.environment.get("sessions", 1))
        return wide_interval(self.ratios, sessions) if self.noisy else median_interval(self.ratios)

    @property
    def noisy(self) -> str:
        """How the machine was disturbed meanwhile, in words; "" where it was quiet."""
        return self.original.noisy or self.fitted.noisy


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the cut network is trained back. Zero epochs: not at all."""

    epochs: int = 0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.05  # share of all steps
    label_smoothing: float = 0.0
    distill: float = 0.7  # weight of the original's soft targets, 0: none
    temperature: float = 2.0
    ema: float = 0.0  # decay of the averaged weights, 0: none
    clip: float = 0.0  # largest gradient norm, 0: no limit
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False

    def __post_init__(self) -> None:
        _check(self, "epochs", self.epochs >= 0, ">= 0")
        _check(self, "lr", self.lr > 0, "> 0")
        _check(self, "optimizer", self.optimizer in ("sgd", "adamw"), "sgd or adamw")
        _check(self, "precision", self.precision in ("float32", "bfloat16", "float16"), "float32, bfloat16 or float16")
        for name in ("warmup", "label_smoothing", "distill", "ema", "momentum"):
            _check(self, name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        _check(self, "temperature", self.temperature > 0, "> 0")


@dataclass(frozen=True, kw_only=True)
class Gates:
    """How gates are trained where they decide what stays; see `sartor.learn.learn_gates`."""

    steps: int = 200
    batch: int = 64  # samples a step at most
    lr: float = 0.6  # of Adam, on the logits of the gates
    start: float = 0.9  # every gate before the first step
    beta: float = 6.0  # weight of the distance from the budget
    gamma: float = 0.2  # weight of the distance of the gates from 0 and 1
    task: Literal["labels", "distill", "gap"] = "labels"  # the loss; the last two need no labels
    tail: float = 0.4  # share of the steps, at the end, of which the one with the lowest loss gives the gates

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            _check(self, name, getattr(self, name) >= 1, ">= 1")
        _check(self, "lr", self.lr > 0, "> 0")
        _check(self, "start", 0 < self.start < 1, "strictly between 0 and 1")
        for name in ("beta", "gamma"):
            _check(self, name, 0 <= getattr(self, name) < math.inf, ">= 0")
        _check(self, "task", self.task in ("labels", "distill", "gap"), "labels, distill or gap")
        _check(self, "tail", 0 < self.tail <= 1, "in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What matters, how much where, and how it heals: one frozen value a method."""

    name: str = "custom"
    source: str = ""
    criterion: Any = "l2"  # name, or a function [units, rest] -> [units]
    reduce: Literal["sum", "mean", "max", "producer"] = "sum"  # over the tensors a unit lives in; or writers only
    normalise: Literal["none", "mean", "max", "rank", "macs"] = "max"  # across groups
    per_cost: float = 0.0  # exponent: scores are divided by (MACs a unit frees) ** per_cost
    learn: Literal["", "gates", "sensitivity"] = ""  # scores from trained gates, or from measured loss against width
    gates: Gates = field(default_factory=Gates)  # where learn is "gates"
    allocation: str = "global"  # a name of the allocator registry
    search: int = 0  # allocations tried on calibration data, see sartor.run.search
    floor: float = 0.1  # least share of every group that stays
    round_to: int = 1  # kept counts are multiples of it
    only: tuple[str, ...] = ()  # kinds, names or modules of groups, see sartor.allocate.select; empty: all
    exclude: tuple[str, ...] = ()
    streams: bool = True  # whether channels that residual sums carry may go
    fibres: bool = False  # other inner units for every head or group, where possible; see sartor.run.fibred
    refit: bool = False  # every layer that reads something else is refitted to the original by least squares
    fold_mean: bool = True  # mean contribution of removed units goes into consumers' biases, unless refitted
    refresh_norm: bool = True  # batch-norm statistics re-estimated, kept only if it helps
    calibration: int = 2000  # samples for scores and repair
    training: Training = field(default_factory=Training)
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self, "reduce", self.reduce in ("sum", "mean", "max", "producer"), "sum, mean, max or producer")
        normalise = ("none", "mean", "max", "rank", "macs")
        _check(self, "normalise", self.normalise in normalise, "none, mean, max, rank or macs")
        _check(self, "learn", self.learn in ("", "gates", "sensitivity"), "gates, sensitivity or nothing")
        _check(self, "floor", 0 <= self.floor < 1, "in [0, 1)")
        _check(self, "round_to", self.round_to >= 1, ">= 1")
        _check(self, "search", self.search >= 0, ">= 0")
        _check(self, "calibration", self.calibration >= 1, ">= 1")
        _check(self, "criterion", isinstance(self.criterion, str) or callable(self.criterion), "a name or a function")


@dataclass(frozen=True)
class Counted:
    """Costs that are counted, not timed."""

    macs: int  # multiply-accumulates of one forward of the example batch
    params: int  # elements of parameters, tied ones once
    bytes: int  # of parameters and buffers as they lie in memory
    memory: int  # peak bytes of activations alive at once in one forward of the example batch

    @property
    def flops(self) -> int:
        """Two for every multiply-accumulate."""
        return 2 * self.macs

    def get(self, metric: str) -> float:
        """The value of a counted metric by name."""
        return float(getattr(self, metric))


@dataclass(frozen=True)
class Proof:
    """Cut model against silenced original, before any repair."""

    passed: bool
    max_relative_error: float
    groups: int  # cut groups checked against the silenced original
    mixing_groups: int  # cut groups that an operator mixes: left out of the exact comparison, cut all the same
    tolerance: float = 1e-4


def _check(value: Any, name: str, fine: bool, expected: str) -> None:
    if not fine:
        kind = type(value).__name__.lower()
        raise BadInput(f"{kind} field {name!r}: expected {expected}; got {getattr(value, name)!r}")


def to_plain(value: Any) -> Any:
    """Dataclasses, paths, tuples and tensors as JSON knows them."""
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(v) for v in value]
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return getattr(value, "__name__", str(value))


__all__ = [
    "Budget", "Comparison", "Counted", "Counts", "Frozen", "Gates", "Group", "Latency", "Limit", "METRICS", "Member",
    "Plan", "Proof", "Recipe", "Role", "Scores", "Target", "Training", "asdict", "median_interval",
    "to_plain", "wide_interval",
]  # fmt: skip
