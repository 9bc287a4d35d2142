"""A recipe: one published method as one frozen value."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from sartor.errors import BadInput


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
    fibres: bool = False  # other inner units for every head or group, where possible; see sartor.run.per_head_plans
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


def _check(value: Any, name: str, fine: bool, expected: str) -> None:
    if not fine:
        kind = type(value).__name__.lower()
        raise BadInput(f"{kind} field {name!r}: expected {expected}; got {getattr(value, name)!r}")
