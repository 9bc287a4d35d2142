"""One pass over the data that collects what all probes read: outputs, features, activity of units, activations."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sartor.activations.follow import replay
from sartor.activations.micro_batches import working_memory
from sartor.analysis.layers import Layer, classifier, layers
from sartor.analysis.subject import ProbeSubject, class_numbers, logits_of
from sartor.borrow import borrowed
from sartor.errors import BadInput
from sartor.structure.calls import Op, Value
from sartor.structure.example import batch_of
from sartor.structure.model_copy import named_tensors

WIDEST = 1024  # numbers of one sample of one layer that are kept; wider layers are projected


@dataclass(frozen=True)
class Outputs:
    """Of all samples."""

    logits: Tensor  # float64 [n, classes]
    labels: Tensor  # int64 [n]


@dataclass(frozen=True)
class Features:
    """What the last linear layer reads, and the layer."""

    values: Tensor  # float64 [n, width]
    weight: Tensor  # float64 [classes, width]
    bias: Tensor | None  # float64 [classes]
    labels: Tensor  # int64 [n]


@dataclass
class UnitActivity:
    """How often the units of one layer are active, over all samples."""

    rectifies: bool  # whether the layer gives exactly zero where a unit is not active
    lowest: Tensor = field(default_factory=lambda: torch.empty(0))  # [units]
    highest: Tensor = field(default_factory=lambda: torch.empty(0))  # [units]
    silent: list[Tensor] = field(default_factory=list)  # [n] each: share of the units without a value > 0 in a sample
    positive: Tensor | float = 0.0  # [units], number of values > 0
    values: int = 0  # of each unit

    def see(self, rows: Tensor) -> None:
        """Enter one batch, [samples, units, positions]."""
        low, high = rows.amin((0, 2)), rows.amax((0, 2))
        first = not self.values
        self.lowest = low if first else torch.minimum(self.lowest, low)
        self.highest = high if first else torch.maximum(self.highest, high)
        self.silent.append((rows.amax(2) <= 0).double().mean(1).cpu())
        self.positive = self.positive + (rows > 0).sum((0, 2))
        self.values += rows.shape[0] * rows.shape[2]


@dataclass(frozen=True)
class Activations:
    """What one layer gives."""

    values: Tensor  # float32 [n, min(width, WIDEST)]
    width: int  # numbers of one sample
    labels: Tensor  # int64 [n]; empty: there are no labels

    @property
    def projected(self) -> bool:
        """Whether `values` is a random projection (count sketch) that keeps distances on average."""
        return self.width > self.values.shape[1]


@dataclass(frozen=True)
class Seen:
    """What the pass collected, by the names of a probe's parameters, and why something could not be collected."""

    given: Mapping[str, Any]
    missing: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Any:
        """What a probe reads.

        Raises:
            BadInput: it could not be collected; says why.
        """
        if name in self.missing:
            raise BadInput(self.missing[name])
        return self.given[name]


def pass_over(subject: ProbeSubject, needs: Collection[str]) -> Seen:
    """Run the network once over all batches and collect what `needs` names; see `Probe.needs`."""
    wanted = set(needs) & {"outputs", "features", "units", "activations"}
    if not wanted:
        return Seen({"subject": subject}, {})
    collector = _Collector(subject, wanted)
    with torch.no_grad(), borrowed(subject.model):
        for inputs, targets in subject.parts():
            collector.see(inputs, targets)
    return Seen({**collector.given(), "subject": subject}, collector.missing, tuple(collector.notes()))


class _Collector:
    def __init__(self, subject: ProbeSubject, wanted: Collection[str]):
        self.subject, self.wanted, self.graph = subject, wanted, subject.graph
        self.layers: dict[int, Layer] = {}
        if "units" in wanted or "activations" in wanted:
            self.layers = {x.op: x for x in layers(self.graph)}
        self.missing: dict[str, str] = {}
        self.head = classifier(self.graph) if "features" in wanted else None
        if "features" in wanted and self.head is None:
            self.missing["features"] = (
                "analyse: features are what the last linear layer reads, and this network's first output does not come "
                "from one; leave out the probes that read features"
            )
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.features: list[Tensor] = []
        self.units: dict[str, UnitActivity] = {}
        self.rows: dict[str, list[Tensor]] = {x.name: [] for x in self.layers.values()}
        self.widths: dict[str, int] = {}
        self.lost: set[str] = set()
        per_sample = 4 * WIDEST * max(1, len(self.layers))
        self.most = max(2, working_memory() // (2 * per_sample))
        self.kept = 0

    def see(self, inputs: Any, targets: Any) -> None:
        """Run one part of a batch."""
        n = batch_of(inputs)
        keep = min(n, self.most - self.kept)

        def visit(op: Op, args: Any, kwargs: Any, out: Any) -> None:
            if op is self.head:
                self.features.append(args[0].double().cpu())
            layer = self.layers.get(op.index)
            if layer is not None:
                self._layer(layer, out, n, keep)

        out = replay(self.graph, self.subject.model, inputs, visit)
        if {"outputs", "features"} & set(self.wanted) and "outputs" not in self.missing:
            try:
                logits = logits_of(out)
                self.labels.append(class_numbers(targets, logits).cpu())
                self.logits.append(logits.double().cpu())
            except BadInput as e:
                self.missing.update(outputs=str(e), features=str(e))
        elif targets is not None and isinstance(targets, Tensor) and targets.shape[:1] == (n,) and targets.dim() == 1:
            self.labels.append(targets.cpu())
        self.kept += max(0, keep)

    def _layer(self, layer: Layer, value: Tensor, n: int, keep: int) -> None:
        rows = layer.rows(self.graph, value, n)
        if rows is None:
            self.lost.add(layer.name)
            return
        if "units" in self.wanted:
            self.units.setdefault(layer.name, UnitActivity(layer.rectifies)).see(rows)
        if "activations" in self.wanted and keep > 0:
            flat = rows[:keep].flatten(1).float()
            self.widths[layer.name] = flat.shape[1]
            self.rows[layer.name].append(sketch(flat, WIDEST, layer.op).cpu())

    def given(self) -> dict[str, Any]:
        """What was collected, by the names of parameters."""
        labels = torch.cat(self.labels) if self.labels else torch.empty(0, dtype=torch.int64)
        given: dict[str, Any] = {}
        if self.logits and "outputs" not in self.missing:
            given["outputs"] = Outputs(torch.cat(self.logits), labels)
        if self.head is not None and "features" not in self.missing:
            tensors = {name: t.detach() for *_, name, t in named_tensors(self.subject.model)}
            bias = self.head.arg("bias")
            given["features"] = Features(
                torch.cat(self.features).flatten(1),
                tensors[self.head.args[1].name].double().cpu(),
                tensors[bias.name].double().cpu() if isinstance(bias, Value) and bias.name else None,
                labels,
            )
        if "units" in self.wanted:
            given["units"] = self.units
        if "activations" in self.wanted:
            given["activations"] = {
                name: Activations(torch.cat(rows), self.widths[name], labels[: self.kept])
                for name, rows in self.rows.items()
                if rows
            }
        return given

    def notes(self) -> list[str]:
        """What was left out."""
        notes = [f"samples cannot be told apart in {', '.join(sorted(self.lost))}: left out"] if self.lost else []
        if "activations" in self.wanted and self.kept < self.subject.samples:
            notes.append(f"activations of {self.kept} of {self.subject.samples} samples are kept, to bound memory")
        return notes


def sketch(rows: Tensor, width: int, seed: int) -> Tensor:
    """[n, width] of [n, more]: every column is added, with a random sign, to a random one of `width` columns.

    Scalar products are kept in expectation. Rows that are no wider come back as they are.

    Source: Charikar, Chen and Farach-Colton 2002 (count sketch), doi:10.1007/3-540-45465-9_59.
    """
    if rows.shape[1] <= width:
        return rows
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(width, (rows.shape[1],), generator=generator).to(rows.device)
    sign = (torch.randint(2, (rows.shape[1],), generator=generator) * 2 - 1).to(rows)
    return torch.zeros(len(rows), width, dtype=rows.dtype, device=rows.device).index_add_(1, place, rows * sign)
