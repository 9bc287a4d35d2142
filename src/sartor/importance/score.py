"""From a criterion to one number a unit: reduced over the tensors a unit lives in, comparable across groups."""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from sartor.cost import unit_macs
from sartor.errors import BadInput
from sartor.importance.collect import Loss, activations, gradients, limited
from sartor.importance.readers import reader_weight
from sartor.importance.registry import READABLE, Criterion, find_criterion
from sartor.structure import Graph
from sartor.structure.record import named_tensors
from sartor.types import Group, Member, Role

REDUCTIONS = ("sum", "mean", "max", "out")
NORMALISATIONS = ("none", "mean", "max", "rank")
Note = Callable[[str], None]


def score(
    graph: Graph,
    model: nn.Module,
    criterion: str | Criterion | Callable[..., Tensor] = "l2",
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
) -> dict[str, Tensor]:
    """Score every unit of every group; larger = keep.

    Args:
        graph: traced from `model`.
        model: borrowed: nothing of it changes.
        criterion: a registered name, several joined by "*" (their normalised scores are multiplied), or a function
            whose parameters say what it looks at (see `Criterion`);
            one parameter of any name is the weight, [units, rest] -> [units].
        reduce: over the tensors a unit lives in (weights that write, read or scale it; biases and statistics are not
            read): "sum", "mean", "max", or "out": the sum over those that write it. For activations, over the places
            where consumers read the group. A criterion that reads no writers (bn-scale) takes "out" as "sum".
            With a sum, a unit that lives in many places (a channel of a residual stream) weighs as much more.
        normalise: makes tensors and groups comparable, before the reduction: the scores a tensor gives to the units of
            a group are left as they are ("none"), divided by their mean ("mean") or maximum ("max", both of absolute
            values), or replaced by rank / units ("rank", ties share their mean rank).
        per_cost: exponent e >= 0: scores are divided by (MACs one unit frees, relative to the mean group) ** e, so that
            of two equally important units the costly one goes first.
        groups: names of those to score; None: all.
        batches: (inputs, targets) pairs, for criteria that look at gradients or activations.
        loss: loss(output, targets) for gradients; None: cross entropy.
        samples: calibration samples at most.
        seed: for criteria that draw.
        note: told in one sentence whenever a group could not be scored by the criterion itself: it has no tensor of the
            kind read. Such a group is ranked by l2 of its tensors, brought to the mean of the other groups.

    Returns:
        group name -> [units], float64 on the CPU, finite.

    Raises:
        UnknownName: no such criterion or group.
        BadInput: an option is not one of those above, data are missing, the criterion returns another shape or a
            number that is not finite, or it applies to no group at all.
    """
    if isinstance(criterion, str) and "*" in criterion:
        parts = [
            score(
                graph,
                model,
                part.strip(),
                reduce=reduce,
                normalise=normalise,
                groups=groups,
                batches=batches,
                loss=loss,
                samples=samples,
                seed=seed,
                note=note,
            )
            for part in criterion.split("*")
        ]
        together = {n: torch.stack([p[n] for p in parts]).prod(0) for n in parts[0]}
        return _per_cost(graph, together, per_cost) if per_cost else together
    _one_of("reduce", reduce, REDUCTIONS)
    _one_of("normalise", normalise, NORMALISATIONS)
    if not (math.isfinite(per_cost) and per_cost >= 0):
        raise BadInput(f"per_cost: expected a number >= 0; got {per_cost}")
    if samples < 1:
        raise BadInput(f"samples: expected at least 1; got {samples}")
    chosen = find_criterion(criterion)
    wanted = {n: graph.group(n) for n in (graph.groups if groups is None else groups)}
    if "activation" in chosen.needs:
        raw = _from_activations(graph, model, chosen, wanted, reduce, normalise, batches, samples, seed)
    elif "weight" in chosen.needs or "grad" in chosen.needs:
        places = _places(graph, wanted.values(), chosen.roles(reduce))
        raw = _from_weights(graph, model, chosen, places, reduce, normalise, batches, loss, samples, seed)
    else:
        raw = {n: normalised(_apply(chosen, g, seed), normalise) for n, g in wanted.items()}
    raw |= _stand_in(graph, model, chosen, [g for n, g in wanted.items() if n not in raw], raw, note)
    scores = {n: raw[n] for n in wanted}
    return _per_cost(graph, scores, per_cost) if per_cost else scores


def normalised(scores: Tensor, how: str) -> Tensor:
    """Scores of one tensor's units, made comparable to those of others; all zeros stay zeros.

    >>> normalised(torch.tensor([1.0, 3.0]), "mean"), normalised(torch.tensor([5.0, 1.0, 5.0]), "rank")
    (tensor([0.5000, 1.5000]), tensor([0.8333, 0.3333, 0.8333], dtype=torch.float64))
    """
    if how == "rank":
        return torch.from_numpy(rankdata(scores.numpy(), method="average") / len(scores))
    size = {"mean": scores.abs().mean(), "max": scores.abs().max()}.get(how)
    return scores if size is None or size == 0 else scores / size


def _per_cost(graph: Graph, scores: Mapping[str, Tensor], exponent: float) -> dict[str, Tensor]:
    cost = {n: float(unit_macs(graph, n)) for n in scores}
    typical = sum(cost.values()) / len(cost) or 1.0
    return {n: s / max(cost[n] / typical, 1e-6) ** exponent for n, s in scores.items()}


def _from_weights(
    graph: Graph,
    model: nn.Module,
    chosen: Criterion,
    places: Mapping[str, Sequence[Member]],
    reduce: str,
    normalise: str,
    batches: Iterable[Any] | None,
    loss: Loss | None,
    samples: int,
    seed: int,
) -> dict[str, Tensor]:
    values = {n: t.detach() for *_, n, t in named_tensors(model)}
    totals = _Means()

    def visit(weight: float, grads: Mapping[str, Tensor] | None) -> None:
        for name, members in places.items():
            for i, member in enumerate(members):
                given = {}
                if "weight" in chosen.needs:
                    given["weight"] = graph.unit_view(name, member, values[member.tensor]).double()
                if grads is not None:
                    given["grad"] = graph.unit_view(name, member, grads[member.tensor]).double()
                totals.add((name, i), _apply(chosen, graph.groups[name], seed, member.tensor, **given), weight)

    if "grad" in chosen.needs:
        shared = _first_names(model)
        for inputs, targets, n in limited(batches, samples, needed_for=f"criterion {chosen.name!r}"):
            grads = gradients(model, inputs, targets, loss)
            visit(n, {name: grads[first] for name, first in shared.items() if first in grads})
    else:
        visit(1.0, None)
    return totals.reduced(reduce, normalise)


def _from_activations(
    graph: Graph,
    model: nn.Module,
    chosen: Criterion,
    wanted: Mapping[str, Group],
    reduce: str,
    normalise: str,
    batches: Iterable[Any] | None,
    samples: int,
    seed: int,
) -> dict[str, Tensor]:
    totals = _Means()
    tensors = {n: t for *_, n, t in named_tensors(model)}
    readers: dict[tuple[str, int], Tensor] = {}

    def given(name: str, place: int, value: Tensor) -> dict[str, Any]:
        if "reader" not in chosen.needs:
            return {"activation": value}
        if (name, place) not in readers:
            readers[name, place] = reader_weight(graph, name, graph.sites(name)[place], tensors)
        return {"activation": value, "reader": readers[name, place]}

    for inputs, _, n in limited(batches, samples, needed_for=f"criterion {chosen.name!r}"):

        def visit(name: str, place: int, value: Tensor, n: int = n) -> None:
            totals.add((name, place), _apply(chosen, wanted[name], seed, **given(name, place, value)), n)

        activations(graph, model, inputs, wanted, visit)
    return totals.reduced(reduce, normalise)


def _stand_in(
    graph: Graph, model: nn.Module, chosen: Criterion, missed: Sequence[Group], raw: Mapping[str, Tensor], note: Note
) -> dict[str, Tensor]:
    """Scores by l2 for the groups a criterion has nothing to say about, at the mean of those it has."""
    if not missed:
        return {}
    names = ", ".join(g.name for g in missed[:3]) + (f" and {len(missed) - 3} more" if len(missed) > 3 else "")
    if not raw:
        raise BadInput(
            f"criterion {chosen.name!r} applies to no group of this model ({names}): none has what it reads "
            f"({', '.join(chosen.reads)}); choose another, such as 'l2'"
        )
    places = _places(graph, missed, READABLE)
    last_resort = _places(
        graph, [g for g in missed if g.name not in places], ("out", "in", "norm", "other"), biases=True
    )
    l2 = find_criterion("l2")
    found = _from_weights(graph, model, l2, {**places, **last_resort}, "sum", "none", None, None, 1, 0)
    for group in missed:
        if group.name not in found:
            raise BadInput(f"group {group.name!r} holds no floating-point parameter to score; exclude it")
    typical = torch.cat(list(raw.values())).abs().mean()
    of = f"{len(missed)} of {len(missed) + len(raw)} groups ({names})"
    note(f"criterion {chosen.name!r} does not apply to {of}: ranked by l2 there")
    return {n: normalised(s, "mean") * typical for n, s in found.items()}


def _places(
    graph: Graph, groups: Iterable[Group], roles: tuple[Role, ...], *, biases: bool = False
) -> dict[str, list[Member]]:
    """The members with one of these roles, by group; groups without any are left out.

    What operators add (biases of layers, shifts of norms) does not say what a unit is worth: left out unless `biases`.
    """
    added = set() if biases else {id(op.arg("bias")) for op in graph.ops}
    found = {
        g.name: [
            m
            for m in g.members
            if m.role in roles
            and graph.tensors[m.tensor].dtype.is_floating_point
            and id(graph.tensors[m.tensor]) not in added
        ]
        for g in groups
    }
    return {name: members for name, members in found.items() if members}


def _first_names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter -> the first one, which is the one that carries the gradient."""
    first: dict[int, str] = {}
    return {n: first.setdefault(id(p), n) for n, p in model.named_parameters(remove_duplicate=False)}


def _apply(chosen: Criterion, group: Group, seed: int, tensor: str = "", **given: Any) -> Tensor:
    """Call the criterion and check what comes back."""
    name, units = group.name, group.units
    weight = [given.pop("weight")] if "weight" in given else []
    if "units" in chosen.needs:
        given["units"] = units
    if "generator" in chosen.needs:
        given["generator"] = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    s = chosen.function(*weight, **given)
    if not isinstance(s, Tensor) or s.shape != (units,):
        got = tuple(s.shape) if isinstance(s, Tensor) else type(s).__name__
        raise BadInput(f"criterion {chosen.name!r}, group {name!r}: expected a tensor of shape ({units},); got {got}")
    s = s.detach().to("cpu", torch.float64)
    if not torch.isfinite(s).all():
        bad = int((~torch.isfinite(s)).nonzero()[0])
        raise BadInput(
            f"criterion {chosen.name!r}, group {name!r}, unit {bad}{f' in {tensor}' if tensor else ''}: "
            f"expected a finite score; got {s[bad].item()}. Are all weights and calibration inputs finite?"
        )
    return s


class _Means:
    """Weighted running means of scores by (group, place)."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, int], Tensor] = {}
        self.weights: dict[tuple[str, int], float] = {}

    def add(self, key: tuple[str, int], scores: Tensor, weight: float) -> None:
        self.sums[key] = self.sums[key] + scores * weight if key in self.sums else scores * weight
        self.weights[key] = self.weights.get(key, 0.0) + weight

    def reduced(self, reduce: str, normalise: str) -> dict[str, Tensor]:
        """group -> [units] over its places, each normalised first."""
        by_group: dict[str, list[Tensor]] = {}
        for key in sorted(self.sums):
            by_group.setdefault(key[0], []).append(normalised(self.sums[key] / self.weights[key], normalise))
        pick = {"mean": lambda t: t.mean(0), "max": lambda t: t.amax(0)}.get(reduce, lambda t: t.sum(0))
        return {name: pick(torch.stack(rows)) for name, rows in by_group.items()}


def _one_of(option: str, got: str, known: tuple[str, ...]) -> None:
    if got not in known:
        raise BadInput(f"{option}: expected one of {', '.join(known)}; got {got!r}")
