"""`analyse`: probes on one network, over one shared pass of data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sartor.analysis.data_pass import pass_over
from sartor.analysis.registry import Probe, Readings, find_probe
from sartor.analysis.rows import Analysis, AnalysisRow, ProbeRow
from sartor.analysis.subject import ProbeSubject
from sartor.borrow import device_of
from sartor.errors import BadInput, SartorError
from sartor.structure import trace
from sartor.structure.example import Example, to_device, with_batch
from sartor.train.batch import first_samples
from sartor.types import SILENT, Data, Listener
from sartor.wrappers import unwrapped

DEFAULT = (
    "accuracy",
    "calibration",
    "dead-units",
    "neural-collapse",
    "conditioning",
    "fgsm",
    "corruptions",
    "efficiency",
)
Chosen = str | Probe | Callable[..., Readings]


def analyse(
    model: nn.Module,
    data: Iterable[Any] | Data,
    probes: Sequence[Chosen] | None = None,
    *,
    example: Example | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Analysis:
    """Rows (layer, quantity, value, interval) of probes on one network; it stays as it is.

    Args:
        model: any module that can be traced; of a wrapped one, the network inside.
        data: batches (inputs, targets), or a `Data`: its validation part, else its test part, else what it calibrates
            with. Probes that compare with training samples find them in a `Data` only.
        probes: names (`sartor list probes`), functions, or `functools.partial` of functions with options. None:
            `DEFAULT`; of those, what cannot be computed for this network becomes a note.
        example: example inputs to trace with; None: one sample of the data.
        samples: at most so many are looked at, the first ones.
        seed: of everything random.

    Returns:
        The rows, with the source and the bias of each probe.

    Raises:
        BadInput: a named probe cannot be computed for this network or these data; says why.
        UnknownName: no probe is called so.
        CannotTrace: the forward cannot be followed.
    """
    part, training = part_of(data), data.for_scores if isinstance(data, Data) else None
    subject = subject_of(unwrapped(model).module, part, example, samples, seed)
    if training is not None and training is not part:
        subject = beside_training(subject, training, samples)
    name = type(unwrapped(model).module).__name__
    return analysis_of(subject, probes, name)


def analysis_of(
    subject: ProbeSubject,
    probes: Sequence[Chosen] | None,
    name: str,
    listener: Listener = SILENT,
    *,
    strict: bool | None = None,
) -> Analysis:
    """The analysis of a subject.

    Args:
        subject: network and samples.
        probes: as for `analyse`.
        name: of the model.
        listener: is told which probe runs.
        strict: whether a probe that cannot be computed is an error, in place of a note; None: if probes are named.
    """
    strict = probes is not None if strict is None else strict
    chosen = [find_probe(p) for p in (DEFAULT if probes is None else probes)]
    listener.begin("look at the data", f"{subject.samples} samples")
    seen = pass_over(subject, {n for p in chosen for n in p.needs})
    notes = list(seen.notes)
    rows: list[AnalysisRow] = []
    for p in chosen:
        listener.begin(p.name)
        try:
            rows += [AnalysisRow.of(p.name, r) for r in p.function(**{n: seen[n] for n in p.needs})]
        except SartorError as e:
            if strict:
                raise
            notes.append(f"{p.name}: {e}")
    return Analysis(
        model=name, samples=subject.samples, rows=rows, notes=notes,
        probes=[ProbeRow(name=p.name, source=p.source, bias=p.bias) for p in chosen],
    )  # fmt: skip


def subject_of(
    model: nn.Module, batches: Iterable[Any], example: Example | None = None, samples: int = 1000, seed: int = 0
) -> ProbeSubject:
    """The network with the first `samples` samples on its device, traced; arguments as for `analyse`."""
    device = device_of(model)
    taken = _taken(batches, samples, device)
    if not taken:
        raise BadInput("analyse: expected at least one batch; the data gave none")
    first = taken[0][0] if example is None else example
    graph = trace(model, to_device(with_batch(first, 1), device))
    return ProbeSubject(model, graph, taken, seed)


def beside_training(subject: ProbeSubject, training: Iterable[Any], samples: int) -> ProbeSubject:
    """The subject with the first `samples` samples of the part that it was trained on."""
    return replace(subject, training=_taken(training, samples, subject.device))


def part_of(data: Iterable[Any] | Data) -> Iterable[Any]:
    """The batches of a `Data` that an analysis looks at.

    Raises:
        BadInput: it has none.
    """
    if not isinstance(data, Data):
        return data
    for part in (data.val, data.test, data.for_scores):
        if part is not None:
            return part
    raise BadInput("analyse: expected data with a validation, test or training part; got none")


def _taken(batches: Iterable[Any], samples: int, device: torch.device) -> tuple[tuple[Example, Any], ...]:
    taken = []
    for inputs, targets in first_samples(batches, samples):
        labels = targets if targets is None or isinstance(targets, torch.Tensor) else torch.as_tensor(targets)
        taken.append(to_device((inputs, labels), device))
    return tuple(taken)
