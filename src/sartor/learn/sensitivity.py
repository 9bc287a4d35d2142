"""Scores from measured loss against width: each group is narrowed by itself, and the outputs are compared.

For every group, the units are put in the order of the scores given, the least ones are closed by gates, and the outputs
are compared with the original's, at a few widths. Between these points the loss is interpolated; the marginal loss of
each unit becomes its new score. A global allocator then chooses the widths of least summed loss for the MACs freed:
exactly, since the curves are made convex first.

Source: per-layer sensitivity as in Li et al. 2017, arXiv:1608.08710, section 3.2; there accuracy is read off by eye.
Monotone interpolation: Fritsch and Carlson 1980, as `scipy.interpolate.PchipInterpolator`. That groups are measured one
at a time and their losses added is the assumption that every such method makes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression
from torch import Tensor, nn

from sartor.cost import unit_macs
from sartor.errors import BadInput
from sartor.learn.gates import Gated
from sartor.structure import Graph
from sartor.structure.example import Example, batch_of, first_tensor, with_batch
from sartor.types import SILENT, Listener, Scores

_SPREAD = 1e-12  # of the largest score, from one unit of a group to the next
Curve = list[tuple[int, float]]  # (units gone, loss), rising in both


@dataclass(frozen=True, kw_only=True)
class CurveOptions:
    """How the loss is measured against the width of a group, and compared across groups."""

    points: Sequence[float] = (0.75, 0.5, 0.25)  # shares of a group kept; one unit is measured besides
    samples: int = 256  # inputs read at most; the time is that of (points + 1) forwards of them a group
    per_cost: float = 1.0
    # exponent e >= 0: marginal losses are divided by (MACs a unit frees, relative to the mean group) ** e; 0 for a
    # budget on something else than MACs, then units of all groups count alike

    def __post_init__(self) -> None:
        if not self.points or not all(0 < p < 1 for p in self.points):
            raise BadInput(
                f"sensitivity, points: expected shares kept strictly between 0 and 1; got {list(self.points)}"
            )
        if not (math.isfinite(self.per_cost) and self.per_cost >= 0):
            raise BadInput(f"sensitivity, per_cost: expected a number >= 0; got {self.per_cost}")


def sensitivity_scores(
    graph: Graph,
    model: nn.Module,
    scores: Scores,
    inputs: Iterable[Example],
    *,
    options: CurveOptions = CurveOptions(),
    listener: Listener = SILENT,
) -> dict[str, Tensor]:
    """Scores that compare across groups: what the loss of a unit costs at its depth, for each MAC it frees.

    The order of the units within a group stays that of `scores`.

    Args:
        graph: of the model.
        model: borrowed; nothing of it changes.
        scores: group -> [units], larger = keep; only these groups are measured. Tied groups are narrowed together.
        inputs: calibration inputs, no labels.
        options: at which widths, on how many inputs, and how groups compare.
        listener: progress after every tenth of the groups.

    Returns:
        group -> [units], float64 on the CPU, >= 0, strictly increasing with the given scores' order.

    Raises:
        BadInput: scores of the wrong shape, no inputs, or an output that is not finite.
        UnknownName: no such group.
    """
    if not scores:
        raise BadInput("sensitivity: expected scores of at least one group; got none")
    gated = Gated(graph, model, list(scores))
    order = {n: _least_first(n, s, gated.units[n]) for n, s in scores.items()}
    taken = _first(inputs, options.samples)
    with torch.no_grad():
        targets = [first_tensor(gated(x, {})).double() for x in taken]
        together = _together(list(scores), graph.ties)
        marginal: dict[str, Tensor] = {}
        for i, names in enumerate(together):
            units = gated.units[names[0]]
            curve: Curve = [(0, 0.0)]
            for gone in sorted({units - max(1, round(p * units)) for p in (*options.points, 0.0)} - {0}):
                gates = {n: _closed(order[n], gone) for n in names}
                loss = _gap(gated, gates, taken, targets)
                if not math.isfinite(loss):
                    raise BadInput(
                        f"sensitivity, group {names[0]!r}: the outputs are not finite with {gone} of {units} units "
                        "gone. Are inputs and weights finite?"
                    )
                curve.append((gone, loss))
            steps = torch.from_numpy(marginal_losses(curve, units))
            for n in names:
                marginal[n] = torch.empty(units, dtype=torch.float64)
                marginal[n][order[n]] = steps
            if (i + 1) % max(1, len(together) // 10) == 0:
                listener.tell(f"{i + 1} of {len(together)} groups measured")
    return _for_each_mac(graph, marginal, order, together, options.per_cost)


def marginal_losses(curve: Curve, units: int) -> np.ndarray:
    """What each unit adds to the loss when units go one by one: [units], rising, summing to the last point's loss.

    The points are made monotone (a narrower group never counts as better), interpolated without overshoot, and where
    the increments fall they are pooled: the nearest convex curve, without which the first units of a group could not
    be taken alone. The last unit counts as the one before it: it is never measured, and floors keep it.

    >>> marginal_losses([(0, 0.0), (1, 1.0), (3, 7.0)], 4).round(2)
    array([1.  , 2.27, 3.73, 3.73])
    """
    gone, loss = (np.asarray(column, dtype=np.float64) for column in zip(*curve))
    loss = np.maximum.accumulate(loss)
    last = int(gone[-1])
    at = PchipInterpolator(gone, loss)(np.arange(last + 1)) if len(gone) > 2 else np.linspace(0, loss[-1], last + 1)
    steps = isotonic_regression(np.diff(at)).x.clip(min=0)
    return np.concatenate([steps, np.full(units - last, steps[-1])])


def _for_each_mac(
    graph: Graph,
    marginal: Scores,
    order: Mapping[str, Tensor],
    together: Sequence[tuple[str, ...]],
    exponent: float,
) -> dict[str, Tensor]:
    """Divided by the MACs freed; then spread by next to nothing, so that equal units of a group keep their order."""
    cost = {names: sum(unit_macs(graph, n) for n in names) for names in together}
    typical = sum(cost.values()) / len(cost) or 1.0
    out = {n: marginal[n] / max(c / typical, 1e-6) ** exponent for names, c in cost.items() for n in names}
    spread = _SPREAD * (max(float(s.max()) for s in out.values()) or 1.0)
    for n, s in out.items():
        s[order[n]] += spread * torch.arange(len(s), dtype=torch.float64)
    return {n: out[n] for n in order}


def _together(names: Sequence[str], ties: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Groups that must keep equal counts, and the others by themselves."""
    out: list[tuple[str, ...]] = []
    for n in names:
        if not any(n in t for t in out):
            tie = next((t for t in ties if n in t), (n,))
            out.append(tuple(t for t in tie if t in names))
    return out


def _gap(gated: Gated, gates: dict[str, Tensor], inputs: Sequence[Example], targets: Sequence[Tensor]) -> float:
    """Squared distance of all outputs from the targets, relative to their squared size."""
    far = near = 0.0
    for x, target in zip(inputs, targets):
        far += float((first_tensor(gated(x, gates)).double() - target).square().sum())
        near += float(target.square().sum())
    return far / near if near else far


def _closed(order: Tensor, gone: int) -> Tensor:
    gate = torch.ones(len(order))
    gate[order[:gone]] = 0.0
    return gate


def _least_first(name: str, scores: Tensor, units: int) -> Tensor:
    if scores.shape != (units,) or not bool(torch.isfinite(scores).all()):
        raise BadInput(
            f"sensitivity, scores of group {name!r}: expected {units} finite numbers; got shape {tuple(scores.shape)}"
        )
    return torch.argsort(scores.detach().cpu(), descending=True, stable=True).flip(0)  # as allocators take them away


def _first(inputs: Iterable[Example], samples: int) -> list[Example]:
    """Batches of the first `samples` inputs, the last one cut to fit."""
    taken: list[Example] = []
    left = samples
    for x in inputs:
        n = batch_of(x)
        taken.append(with_batch(x, left) if n > left else x)
        left -= n
        if left <= 0:
            break
    if not taken:
        raise BadInput("sensitivity: expected calibration inputs; got none")
    return taken
