"""From criteria to one number a unit: reduced over the tensors a unit occurs in, comparable across groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sartor.cost import unit_macs
from sartor.errors import BadInput
from sartor.importance.calibration_pass import from_weights, gather, weight_places
from sartor.importance.mixture import Term, mixed, parse_mixture
from sartor.importance.reduce import Means, normalised, per_macs
from sartor.importance.registry import READABLE, ScoreFunction, find_criterion
from sartor.structure import Graph
from sartor.types import WARNINGS, Calibration, Group, Listener, Scaling

Scores = dict[str, Tensor]  # group -> [units]
NO_DATA, MEANS = Calibration(), Scaling()  # the defaults
AnyCriterion = str | ScoreFunction | Callable[..., Tensor]


class AppliesToNoGroup(BadInput):
    """A criterion reads nothing that any group of the model has."""


def score(
    graph: Graph,
    model: nn.Module,
    criterion: AnyCriterion = "l2",
    *,
    calibration: Calibration = NO_DATA,
    scaling: Scaling = MEANS,
    listener: Listener = WARNINGS,
) -> Scores:
    """Score every unit of every group by one criterion or mixture; larger = keep.

    Args:
        graph: traced from `model`; `graph.only(names)` scores some of its groups.
        model: borrowed: nothing of it changes.
        criterion: see `scores`, as for the other arguments.

    Returns:
        group name -> [units], float64 on the CPU, finite.
    """
    (by_group,) = scores(
        graph, model, [criterion], calibration=calibration, scaling=scaling, listener=listener
    ).values()
    return by_group


def scores(
    graph: Graph,
    model: nn.Module,
    criteria: Sequence[AnyCriterion],
    *,
    calibration: Calibration = NO_DATA,
    scaling: Scaling = MEANS,
    listener: Listener = WARNINGS,
) -> dict[str, Scores]:
    """Score every unit of every group by several criteria in one pass over the data; larger = keep.

    Args:
        graph: traced from `model`; `graph.only(names)` scores some of its groups.
        model: borrowed: nothing of it changes. Everything is computed on its device.
        criteria: each a registered name; a mixture of names such as "0.5*taylor + 0.5*fpgm" or "flap*fpgm", in which
            normalised scores are multiplied and added; or a function whose parameters say what it reads (see
            `ScoreFunction`); one parameter of any name is the weight, [units, rest] -> [units].
        calibration: data, and how it is read, for criteria that read data.
        scaling: what makes one number a unit of the scores at each place, and groups comparable.
        listener: noted whenever a group could not be scored by the criterion itself, because it has no tensor of the
            kind read: such a group is ranked by l2 of its tensors, scaled to the mean of the other groups. Noted too
            when units were scored by derivatives because `calibration.passes` did not suffice to silence them all.

    Returns:
        criterion as given (a function by its name) -> group name -> [units], float64 on the CPU, finite.

    Raises:
        UnknownName: no such criterion.
        BadInput: two criteria of one name, data are missing, a criterion returns another shape or a number that is not
            finite, or it applies to no group at all.
    """
    mixtures = _mixtures(criteria)
    parts = {c.name: c for terms in mixtures.values() for _, cs in terms for c in cs}
    if not graph.groups:
        raise BadInput("groups: expected at least one to score; got none")
    means = gather(graph, model, list(parts.values()), calibration, scaling, listener)
    done = {name: _complete(graph, model, c, means[c], scaling, listener) for name, c in parts.items()}
    exponent = scaling.cost_exponent
    freed = {n: float(unit_macs(graph, n)) for n in graph.groups} if exponent else {}
    by_label: dict[str, Scores] = {}
    for label, terms in mixtures.items():
        whole = mixed(tuple(Term(weight, tuple(c.name for c in cs)) for weight, cs in terms), done)
        by_label[label] = per_macs(whole, freed, exponent) if exponent else whole
    return by_label


def _mixtures(criteria: Sequence[AnyCriterion]) -> dict[str, list[tuple[float, list[ScoreFunction]]]]:
    """Label -> terms of (weight, criteria)."""
    if not criteria or isinstance(criteria, str):
        raise BadInput(f"criteria: expected a list of names or functions, at least one; got {criteria!r}")
    mixtures: dict[str, list[tuple[float, list[ScoreFunction]]]] = {}
    by_name: dict[str, ScoreFunction] = {}
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
        mixtures[label] = terms
    return mixtures


def _complete(
    graph: Graph, model: nn.Module, chosen: ScoreFunction, means: Means, scaling: Scaling, listener: Listener
) -> Scores:
    """Reduced scores of every group; those that the criterion cannot score get l2, scaled to the others' mean."""
    raw = means.reduced(scaling)
    missing = [g for n, g in graph.groups.items() if n not in raw]
    if missing:
        names = ", ".join(g.name for g in missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        if not raw:
            raise AppliesToNoGroup(
                f"criterion {chosen.name!r} applies to no group of this model ({names}): none has what it reads "
                f"({', '.join(chosen.reads)}); choose another, such as 'l2'"
            )
        typical = torch.cat(list(raw.values())).abs().mean()
        raw |= {n: normalised(s, "mean") * typical for n, s in _by_l2(graph, model, missing).items()}
        of = f"{len(missing)} of {len(graph.groups)} groups ({names})"
        listener.note(f"criterion {chosen.name!r} does not apply to {of}: ranked by l2 there")
    return {n: raw[n] for n in graph.groups}


def _by_l2(graph: Graph, model: nn.Module, groups: Sequence[Group]) -> Scores:
    places = weight_places(graph, groups, READABLE)
    bare = [g for g in groups if g.name not in places]
    last_resort = weight_places(graph, bare, ("out", "in", "norm", "other"), biases=True)
    means = from_weights(graph, model, find_criterion("l2"), {**places, **last_resort})
    norms = means.reduced(Scaling(reduce="sum", normalise="none"))
    for group in groups:
        if group.name not in norms:
            raise BadInput(f"group {group.name!r} holds no floating-point parameter to score; exclude it")
    return norms
