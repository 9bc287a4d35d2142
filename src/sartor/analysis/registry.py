"""The registry of probes, and what each one reads, taken from the names of its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sartor.analysis.rows import Reading
from sartor.errors import BadInput
from sartor.registry import Registry

INPUTS = ("outputs", "features", "units", "activations", "subject")
Readings = Iterable[Reading]


@dataclass(frozen=True)
class Probe:
    """A function from what it reads to readings.

    `needs` are the names of its parameters without a default value, a subset of:

    - outputs: `Outputs`, logits and class numbers of all samples;
    - features: `Features`, what the last linear layer reads, its weight and bias, and class numbers;
    - units: layer -> `UnitActivity`, how often each unit is active;
    - activations: layer -> `Activations`, one row a sample; wide layers come as a random projection;
    - subject: `ProbeSubject`, the network and the batches themselves, for probes that run it otherwise.

    All but the last are collected in one pass over the data that all probes share.
    """

    name: str
    function: Callable[..., Readings]
    needs: tuple[str, ...]
    source: str
    bias: str


PROBES: Registry[Probe] = Registry("probe")


def probe(name: str, *, source: str, bias: str) -> Callable[[Callable[..., Readings]], Callable[..., Readings]]:
    """Enter a function under `name`; the function comes back untouched.

    Args:
        name: as `sartor.analyse` and the command line use it.
        source: where it was published.
        bias: in which direction its estimator errs, and why; "none" with a reason where it is exact.
    """

    def enter(function: Callable[..., Readings]) -> Callable[..., Readings]:
        summary = (function.__doc__ or "").strip().split("\n")[0]
        entry = Probe(name, function, _needs(function, name), source, bias)
        PROBES.add(name, entry, source=source, summary=summary, bias=bias)
        return function

    return enter


def find_probe(which: str | Probe | Callable[..., Readings]) -> Probe:
    """A registered probe by name, or any function as one, also a `functools.partial` that sets its options.

    Raises:
        UnknownName: no probe is called so.
        BadInput: a parameter of the function is none of those that a probe can read.
    """
    if isinstance(which, Probe):
        return which
    if isinstance(which, str):
        return PROBES[which].value
    if not callable(which):
        raise BadInput(f"probes: expected a name or a function; got {type(which).__name__}")
    inner = getattr(which, "func", which)
    for entry in PROBES.entries():
        if entry.value.function is inner:
            known = entry.value
            return Probe(known.name, which, _needs(which, known.name), known.source, known.bias)
    name = getattr(inner, "__name__", type(which).__name__)
    return Probe(name, which, _needs(which, name), "", "")


def _needs(function: Callable[..., Any], name: str) -> tuple[str, ...]:
    needs = []
    for p in inspect.signature(function).parameters.values():
        if p.name in INPUTS:
            needs.append(p.name)
        elif p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise BadInput(
                f"probe {name!r}, parameter {p.name!r}: expected one of {', '.join(INPUTS)}, or a default value"
            )
    if not needs:
        raise BadInput(f"probe {name!r}: expected a parameter among {', '.join(INPUTS)}; got none")
    return tuple(needs)
