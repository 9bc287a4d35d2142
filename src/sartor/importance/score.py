"""From criteria to one number a unit: reduced over the tensors a unit lives in, comparable across groups."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn

from sartor.activations.observers import Loss
from sartor.cost import unit_macs
from sartor.errors import BadInput
from sartor.importance.calibration_pass import Note, from_weights, gather, weight_places
from sartor.importance.mixture import Term, mixed, parse_mixture
from sartor.importance.reduce import NORMALISATIONS, REDUCTIONS, Means, normalised, per_macs
from sartor.importance.registry import READABLE, Criterion, find_criterion
from sartor.structure import Graph
from sartor.types import Group, check_precision

Scores = dict[str, Tensor]  # group -> [units]
Asked = str | Criterion | Callable[..., Tensor]


class Options(TypedDict, total=False):
    """What `score` hands on; see `scores`."""

    reduce: str
    normalise: str
    per_cost: float
    groups: Sequence[str] | None
    batches: Iterable[Any] | None
    loss: Loss | None
    samples: int
    seed: int
    note: Note
    precision: str
    passes: int
    pass_samples: int


def score(graph: Graph, model: nn.Module, criterion: Asked = "l2", **options: Unpack[Options]) -> Scores:
    """Score every unit of every group by one criterion or mixture; larger = keep.

    Args:
        graph: traced from `model`.
        model: borrowed: nothing of it changes.
        criterion: see `scores`.
        options: those of `scores`, by the same names and with the same defaults.

    Returns:
        group name -> [units], float64 on the CPU, finite.
    """
    (found,) = scores(graph, model, [criterion], **options).values()
    return found


def scores(
    graph: Graph,
    model: nn.Module,
    criteria: Sequence[Asked],
    *,
    reduce: str = "sum",
    normalise: str = "mean",
    per_cost: float = 0.0,
    groups: Sequence[str] | None = None,
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
    samples: int = 2000,
    seed: int = 0,
    note: Note = warnings.warn,
    precision: str = "float32",
    passes: int = 1000,
    pass_samples: int = 128,
) -> dict[str, Scores]:
    """Score every unit of every group by several criteria in one pass over the data; larger = keep.

    Args:
        graph: traced from `model`.
        model: borrowed: nothing of it changes. Everything is computed on its device.
        criteria: each a registered name; a mixture of names such as "0.5*taylor + 0.5*fpgm" or "flap*fpgm", in which
            normalised scores are multiplied and added; or a function whose parameters say what it looks at (see
            `Criterion`); one parameter of any name is the weight, [units, rest] -> [units].
        reduce: over the tensors a unit lives in (weights that write, read or scale it; biases and statistics are not
            read): "sum", "mean", "max", or "producer": the sum over those that write it. For activations, over the
            places where the group is read (or written, as the criterion says). A criterion that reads no writers
            (bn-scale) takes "producer" as "sum". With a sum, a unit that lives in many places (a channel of a residual
            stream) weighs as much more.
        normalise: makes tensors and groups comparable, before the reduction: the scores a tensor gives to the units of
            a group are left as they are ("none"), divided by their mean ("mean") or maximum ("max", both of absolute
            values), or replaced by rank / units ("rank", ties share their mean rank). "macs" leaves them as they are
            and divides what comes out by the MACs one unit of the group frees, relative to the mean group.
        per_cost: exponent e >= 0: scores are divided by (MACs one unit frees, relative to the mean group) ** e, so that
            of two equally important units the costly one goes first. "macs" is "none" with e = 1.
        groups: names of those to score; None: all.
        batches: (inputs, targets) pairs, for criteria that look at data. Gone through once.
        loss: loss(output, targets), a mean over samples, for gradients and gaps; None: cross entropy for gradients, the
            squared distance from the original's outputs for gaps.
        samples: calibration samples at most; a criterion that needs fewer says so itself.
        seed: for criteria that draw.
        note: told in one sentence whenever a group could not be scored by the criterion itself: it has no tensor of the
            kind read. Such a group is ranked by l2 of its tensors, brought to the mean of the other groups. Told also
            when units were scored by derivatives because `passes` did not reach.
        precision: of the forward: "float32" (the model's own) or "bfloat16" (autocast).
        passes: forward passes at most for a criterion that asks for gaps, shared by the groups.
        pass_samples: calibration samples of each of those passes, the first ones.

    Returns:
        criterion as asked (a function by its name) -> group name -> [units], float64 on the CPU, finite.

    Raises:
        UnknownName: no such criterion or group.
        BadInput: an option is not one of those above, two criteria bear one name, data are missing, a criterion returns
            another shape or a number that is not finite, or it applies to no group at all.
    """
    _one_of("reduce", reduce, REDUCTIONS)
    _one_of("normalise", normalise, NORMALISATIONS)
    check_precision(precision)
    if not (math.isfinite(per_cost) and per_cost >= 0):
        raise BadInput(f"per_cost: expected a number >= 0; got {per_cost}")
    for option, value in (("samples", samples), ("passes", passes), ("pass_samples", pass_samples)):
        if value < 1:
            raise BadInput(f"{option}: expected at least 1; got {value}")
    asked = _asked(criteria)
    parts = {c.name: c for terms in asked.values() for _, cs in terms for c in cs}
    wanted = {n: graph.group(n) for n in (graph.groups if groups is None else groups)}
    if not wanted:
        raise BadInput("groups: expected at least one to score; got none")
    means = gather(
        graph, model, list(parts.values()), wanted, reduce=reduce, batches=batches, loss=loss, samples=samples,
        seed=seed, note=note, precision=precision, passes=passes, pass_samples=pass_samples,
    )  # fmt: skip
    done = {name: _complete(graph, model, c, means[c], wanted, reduce, normalise, note) for name, c in parts.items()}
    exponent = per_cost + (normalise == "macs")
    freed = {n: float(unit_macs(graph, n)) for n in wanted} if exponent else {}
    found: dict[str, Scores] = {}
    for label, terms in asked.items():
        whole = mixed(tuple(Term(weight, tuple(c.name for c in cs)) for weight, cs in terms), done)
        found[label] = per_macs(whole, freed, exponent) if exponent else whole
    return found


def _asked(criteria: Sequence[Asked]) -> dict[str, list[tuple[float, list[Criterion]]]]:
    """Label -> terms of (weight, criteria)."""
    if not criteria or isinstance(criteria, str):
        raise BadInput(f"criteria: expected a list of names or functions, at least one; got {criteria!r}")
    found: dict[str, list[tuple[float, list[Criterion]]]] = {}
    by_name: dict[str, Criterion] = {}
    for c in criteria:
        if isinstance(c, str):
            label, terms = c, [(t.weight, [find_criterion(n) for n in t.names]) for t in parse_mixture(c)]
        else:
            one = find_criterion(c)
            label, terms = one.name, [(1.0, [one])]
        for _, parts in terms:
            for part in parts:
                if by_name.setdefault(part.name, part) != part:
                    raise BadInput(f"criteria: two of them are called {part.name!r}; give each function its own name")
        found[label] = terms
    return found


def _complete(
    graph: Graph,
    model: nn.Module,
    chosen: Criterion,
    means: Means,
    wanted: Mapping[str, Group],
    reduce: str,
    normalise: str,
    note: Note,
) -> Scores:
    """Reduced scores of every group wanted: l2, at the others' mean, for those not spoken of."""
    raw = means.reduced(reduce, normalise)
    missed = [g for n, g in wanted.items() if n not in raw]
    if missed:
        names = ", ".join(g.name for g in missed[:3]) + (f" and {len(missed) - 3} more" if len(missed) > 3 else "")
        if not raw:
            raise BadInput(
                f"criterion {chosen.name!r} applies to no group of this model ({names}): none has what it reads "
                f"({', '.join(chosen.reads)}); choose another, such as 'l2'"
            )
        typical = torch.cat(list(raw.values())).abs().mean()
        raw |= {n: normalised(s, "mean") * typical for n, s in _by_l2(graph, model, missed).items()}
        of = f"{len(missed)} of {len(wanted)} groups ({names})"
        note(f"criterion {chosen.name!r} does not apply to {of}: ranked by l2 there")
    return {n: raw[n] for n in wanted}


def _by_l2(graph: Graph, model: nn.Module, missed: Sequence[Group]) -> Scores:
    places = weight_places(graph, missed, READABLE)
    bare = [g for g in missed if g.name not in places]
    last_resort = weight_places(graph, bare, ("out", "in", "norm", "other"), biases=True)
    found = from_weights(graph, model, find_criterion("l2"), {**places, **last_resort}).reduced("sum", "none")
    for group in missed:
        if group.name not in found:
            raise BadInput(f"group {group.name!r} holds no floating-point parameter to score; exclude it")
    return found


def _one_of(option: str, got: str, known: tuple[str, ...]) -> None:
    if got not in known:
        raise BadInput(f"{option}: expected one of {', '.join(known)}; got {got!r}")
