"""The registry of criteria, and what each one reads, taken from the names of its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from sartor.errors import BadInput
from sartor.registry import Registry
from sartor.types import Role

INPUTS = (
    "weight", "grad", "mean_grad", "fisher", "activation", "moments", "reader", "labels", "contribution", "gap",
    "reads", "units", "generator",
)  # fmt: skip
PLACES = (
    ("weight", "grad", "mean_grad", "fisher"),
    ("activation", "moments", "reader"),
    ("contribution",),
    ("gap",),
    ("reads",),
)  # each from another place
READABLE: tuple[Role, ...] = ("out", "in", "norm")
At = Literal["read", "written"]


@dataclass(frozen=True)
class Sampling:
    """How a criterion reads activations and contributions."""

    at: At = "read"  # activations are what readers take in, or what writers give (before a norm)
    samples: int | None = None  # how many samples suffice; None: all that are given
    per_batch: bool | None = None
    # whether a score depends on which samples came in one batch; if not, batches may be split in any way, and are, to
    # bound memory. None: only if it reads `grad`
    batch: int = 1  # batches of fewer samples are joined until there are so many; larger ones are taken as they come


@dataclass(frozen=True)
class ScoreFunction:
    """A function from what it reads to one score a unit, larger = keep.

    `needs` are the names of its parameters, a subset of:

    - weight: [units, rest], one tensor of the group seen per unit; scores of all its tensors are reduced afterwards;
    - grad: [units, rest], gradient of one batch's mean loss at the same elements; scores are averaged over batches;
    - mean_grad: [units, rest], gradient of the mean loss of all samples, at the same elements; one call;
    - fisher: [units, rest], the empirical Fisher diagonal at the same elements: the mean over all samples of the
      squared gradient of each sample's own loss (see `activations/sample_gradients.py`); one call;
    - activation: [units, samples, rest], what the units carry at one place of the network; averaged over samples. A
      unit that several columns of the tensor carry (a head, a channel before a linear layer) has `rest` ordered by
      column, then by position;
    - moments: mean and variance of what each column of a unit carries at one place, over all samples (see `Moments`);
      one call;
    - reader: [units, columns, rest], the weights that read each column of the units at the place of `activation` or
      `moments` (see `reader_weight`);
    - labels: [samples], whole numbers, the targets of the samples of `activation` or `contribution`;
    - contribution: [units, samples], minus the first-order change of each sample's loss when the unit's activations
      become zero wherever they are read: sum over places and positions of (d loss_n / d a) * a, float64. The same as
      sum of (d loss_n / d w) * w over the weights that read the unit, without a gradient for each sample and weight:
      a gate on the unit at every reader, differentiated at 1 (one backward pass a batch). One call a group and batch;
    - gap: how much worse the network gets without some units, by silencing them (see `activations/silencing.py`);
      one call a group;
    - reads: the convolutions and linear layers that read the group, with their Gram matrices (see `elimination.py`);
      one call a group, none for a group that no such layer reads;
    - units: how many there are, for a criterion that reads nothing else;
    - generator: a torch.Generator, seeded for this group alone.

    `reads` are the roles of the weights it reads; for `at`, `samples`, `per_batch` and `batch` see `Sampling`.

    One that `compares` is given the units of the whole layer that a group is part of, unless it is asked for those of
    the group alone (`Scaling.among`): see `sartor.importance.layers`. It scores each, and those of the group are taken.
    """

    name: str
    function: Callable[..., Tensor]
    needs: tuple[str, ...]
    reads: tuple[Role, ...] = READABLE
    at: At = "read"
    samples: int | None = None
    per_batch: bool = False
    batch: int = 1
    compares: bool = False

    def roles(self, reduce: str) -> tuple[Role, ...]:
        """Roles of the tensors read under a reduction: "producer" narrows to the writers where they are read at all."""
        return ("out",) if reduce == "producer" and "out" in self.reads else self.reads


CRITERIA: Registry[ScoreFunction] = Registry("importance criterion")


def criterion(
    name: str,
    *,
    source: str,
    reads: tuple[Role, ...] = READABLE,
    sampling: Sampling = Sampling(),
    compares: bool = False,
    equivariant: bool = True,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Enter a function under `name`; the function comes back untouched.

    Args:
        name: as recipes and the command line use it.
        source: where it was published.
        reads: roles of the weights it reads.
        sampling: how it reads activations and contributions.
        compares: whether the score of a unit depends on the other units that are given with it.
        equivariant: whether renumbering the units renumbers its scores (a random one cannot promise that).
    """

    def enter(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        needs = _needs(function, name)
        per_batch = "grad" in needs if sampling.per_batch is None else sampling.per_batch
        chosen = ScoreFunction(
            name, function, needs, reads, sampling.at, sampling.samples, per_batch, sampling.batch, compares
        )
        summary = (function.__doc__ or "").strip().split("\n")[0]
        CRITERIA.add(
            name, chosen, source=source, summary=summary, needs=needs, reads=reads, equivariant=equivariant,
            per_batch=per_batch, compares=compares,
        )  # fmt: skip
        return function

    return enter


def find_criterion(criterion: str | ScoreFunction | Callable[..., Tensor]) -> ScoreFunction:
    """A registered criterion by name, or any function as one (taken to depend on the batch as a whole).

    Raises:
        UnknownName: no criterion is called so.
        BadInput: a parameter of the function is none of those that a criterion can read.

    >>> find_criterion(lambda w: w.amax(1)).needs
    ('weight',)
    """
    if isinstance(criterion, ScoreFunction):
        return criterion
    if isinstance(criterion, str):
        return CRITERIA[criterion].value
    for entry in CRITERIA.entries():
        if entry.value.function is criterion:
            return entry.value
    name = getattr(criterion, "__name__", type(criterion).__name__)
    return ScoreFunction(name, criterion, _needs(criterion, name), per_batch=True)


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
    by_place = [[n for n in place if n in needs] for place in PLACES]
    if sum(map(bool, by_place)) > 1:
        raise BadInput(
            f"criterion {name!r} reads {' and '.join(p[0] for p in by_place if p)} in one call; "
            "they belong to different places of the network: take one of them as a parameter"
        )
    if "reader" in needs and not {"activation", "moments"} & set(needs):
        raise BadInput(f"criterion {name!r} reads `reader`: take `activation` or `moments`, which it reads, as well")
    if {"activation", "moments"} <= set(needs) or ("grad" in needs and {"mean_grad", "fisher"} & set(needs)):
        raise BadInput(
            f"criterion {name!r} reads {', '.join(needs)}: some of them come once a batch and some once, after the "
            "last batch; take one kind"
        )
    if "labels" in needs and not {"activation", "contribution"} & set(needs):
        raise BadInput(f"criterion {name!r} reads labels: take the activations or contributions of the samples too")
    if not needs:
        raise BadInput(f"criterion {name!r}: expected parameters among {', '.join(INPUTS)}; got none")
    return tuple(needs)
