"""The phone book of criteria, and what a criterion asks for, read from its own parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sartor.errors import BadInput
from sartor.registry import Registry
from sartor.types import Role

INPUTS = ("weight", "grad", "activation", "reader", "units", "generator")
READABLE: tuple[Role, ...] = ("out", "in", "norm")


@dataclass(frozen=True)
class Criterion:
    """A function from what it asks for to one score a unit, larger = keep.

    `needs` names the parameters it is called with, a subset of:

    - weight: [units, rest], one tensor of the group seen per unit; scores of all its tensors are reduced afterwards;
    - grad: [units, rest], gradient of one batch's mean loss at the same elements; scores are averaged over batches;
    - activation: [units, samples, rest], what the units carry at one place of the network; averaged over samples;
    - reader: [units, rest], the weights that read the units at the place of `activation` (see `readers.py`);
    - units: how many there are, for a criterion that looks at nothing else;
    - generator: a torch.Generator, seeded for this group alone.

    `reads` are the roles of the tensors it looks at.
    """

    name: str
    function: Callable[..., Tensor]
    needs: tuple[str, ...]
    reads: tuple[Role, ...] = READABLE

    def roles(self, reduce: str) -> tuple[Role, ...]:
        """Roles of the tensors read under a reduction: "out" narrows to the writers where they are read at all."""
        return ("out",) if reduce == "out" and "out" in self.reads else self.reads


CRITERIA: Registry[Criterion] = Registry("importance criterion")


def criterion(
    name: str, *, source: str, reads: tuple[Role, ...] = READABLE, equivariant: bool = True
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Enter a function under `name`; the function comes back untouched.

    Args:
        name: as recipes and the command line say it.
        source: where it was published.
        reads: roles of the tensors it looks at.
        equivariant: whether renumbering the units renumbers its scores (a random one cannot promise that).
    """

    def enter(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        chosen = Criterion(name, function, _needs(function, name), reads)
        summary = (function.__doc__ or "").strip().split("\n")[0]
        CRITERIA.add(
            name, chosen, source=source, summary=summary, needs=chosen.needs, reads=reads, equivariant=equivariant
        )
        return function

    return enter


def find_criterion(criterion: str | Criterion | Callable[..., Tensor]) -> Criterion:
    """A registered criterion by name, or any function as one.

    Raises:
        UnknownName: no criterion is called so.
        BadInput: the function asks for something nobody can give it.

    >>> find_criterion(lambda w: w.amax(1)).needs
    ('weight',)
    """
    if isinstance(criterion, Criterion):
        return criterion
    if isinstance(criterion, str):
        return CRITERIA[criterion].value
    for entry in CRITERIA.entries():
        if entry.value.function is criterion:
            return entry.value
    name = getattr(criterion, "__name__", type(criterion).__name__)
    return Criterion(name, criterion, _needs(criterion, name))


def _needs(function: Callable[..., Any], name: str) -> tuple[str, ...]:
    """Parameter names; the first one, if it has a name of its own, is the weight."""
    needs: list[str] = []
    for i, p in enumerate(inspect.signature(function).parameters.values()):
        if p.name in INPUTS:
            needs.append(p.name)
        elif i == 0 and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            needs.append("weight")
        elif p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise BadInput(
                f"criterion {name!r}, parameter {p.name!r}: expected one of {', '.join(INPUTS)}, or a default value"
            )
    if "activation" in needs and ("weight" in needs or "grad" in needs):
        raise BadInput(
            f"criterion {name!r} asks for activations and weights in one call; "
            "they lie at different places of the network: ask for one of them"
        )
    if "reader" in needs and "activation" not in needs:
        raise BadInput(f"criterion {name!r} asks for the weights of a reader: ask for the activations it reads too")
    if not needs:
        raise BadInput(f"criterion {name!r}: expected parameters among {', '.join(INPUTS)}; got none")
    return tuple(needs)
