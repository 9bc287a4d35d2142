"""How much worse a network gets without some of its units, measured by silencing them, one forward pass each.

Silencing a unit zeroes every parameter slice it has and keeps the shapes, as the proof of a cut does; a norm that takes
statistics over the units counts the silent ones too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sartor.activations.follow import autocast
from sartor.activations.observers import Request, observe
from sartor.activations.sites import read_sites
from sartor.borrow import borrowed, device_of
from sartor.errors import BadInput
from sartor.structure import Graph
from sartor.structure.axes import find, keep_mask
from sartor.structure.example import as_args, batch_of, first_tensor, to_device
from sartor.structure.model_copy import named_tensors
from sartor.types import Loss, Precision

_EXACT_OUTPUTS = 16  # a sample with more outputs is differentiated along this many random mixtures of them instead


class Gap:
    """The loss of a network with only some units of one group left, minus that of the whole network.

    Calling it with `stays` [units], bool, runs the network once on the samples kept and returns a float: without a loss
    the squared distance of the first output from the original's, relative to its squared size (>= 0); with a loss, its
    mean's rise (negative where the network gets better).

    `units` is how many there are, `passes` how many forward passes the group may still use.
    """

    def __init__(self, units: int, passes: int, measure: Callable[[Tensor], float], estimate: Callable[[], Tensor]):
        self.units, self.passes, self._measure, self._estimate = units, passes, measure, estimate
        self.estimated = False  # whether `estimate` was called

    def __call__(self, stays: Tensor) -> float:
        if stays.shape != (self.units,) or stays.dtype != torch.bool:
            raise BadInput(
                f"gap: expected a bool tensor of shape ({self.units},), true for units that stay; "
                f"got {stays.dtype} {tuple(stays.shape)}"
            )
        self.passes -= 1
        return self._measure(stays)

    def estimate(self) -> Tensor:
        """[units], float64: an estimate of the gap without each single unit, from derivatives at the whole network.

        Without a loss: |d output / d gate|^2 of a gate on the unit (Gauss-Newton; the outputs' first order), relative
        as above. With a loss: minus its derivative at the gate.
        """
        self.estimated = True
        return self._estimate()


class Gaps:
    """The gaps of all groups of one network on the same samples."""

    def __init__(
        self,
        graph: Graph,
        model: nn.Module,
        batches: Sequence[tuple[Any, Any]],
        *,
        loss: Loss | None,
        precision: Precision,
        seed: int,
    ):
        self.graph, self.model, self.loss, self.precision, self.seed = graph, model, loss, precision, seed
        device = device_of(model)
        self.batches = [(to_device(x, device), to_device(y, device), batch_of(x)) for x, y in batches]
        self.n = sum(n for *_, n in self.batches)
        self.weights = {n: p.detach() for n, p in model.named_parameters()}
        self.buffers = {n: b.detach() for n, b in model.named_buffers()}
        first: dict[int, str] = {}
        self.names = {n: first.setdefault(id(t), n) for *_, n, t in named_tensors(model)}
        self.directions = {v.name for op in graph.ops if op.kind == "weight_norm" for v in op.args[:1]}
        self.outputs = [first_tensor(self._output(x, {})).detach() for x, _, _ in self.batches]
        self.size = sum(float(w.double().square().sum()) for w in self.outputs) or 1.0
        self.start = self._mean_loss({}) if loss else 0.0
        self._estimates: Mapping[str, Tensor] | None = None

    def of(self, group: str, passes: int) -> Gap:
        """The gap of one group, which may use this many forward passes."""
        units = self.graph.group(group).units
        return Gap(units, passes, lambda stays: self._measure(group, stays), lambda: self._estimate(group))

    def shares(self, groups: Iterable[str], passes: int) -> dict[str, int]:
        """Forward passes by group, in proportion to its units; a group without an estimate gets one for each unit."""
        units = {g: self.graph.group(g).units for g in groups}
        blind = {g for g in units if not read_sites(self.graph, g)}
        left = max(0, passes - sum(units[g] for g in blind))
        rest = [g for g in units if g not in blind]
        total = sum(units[g] for g in rest)
        if left >= total:
            return units
        share = {g: left * units[g] // total for g in rest}
        over = sorted(rest, key=lambda g: -(left * units[g] % total))[: left - sum(share.values())]
        return {g: units[g] if g in blind else share[g] + (g in over) for g in units}

    def _measure(self, group: str, stays: Tensor) -> float:
        silent = self._silenced(group, stays)
        if self.loss:
            return self._mean_loss(silent) - self.start
        far = 0.0
        for (x, _, _), original in zip(self.batches, self.outputs):
            far += float((first_tensor(self._output(x, silent)).double() - original.double()).square().sum())
        return far / self.size

    def _silenced(self, group: str, stays: Tensor) -> dict[str, Tensor]:
        masks = {find(self.graph.leaves[group]): stays.cpu()}
        changed: dict[str, Tensor] = {}
        for member in self.graph.group(group).members:
            name = self.names[member.tensor]
            if name not in self.weights or member.tensor in self.directions or name in changed:
                continue  # a direction of length 0 has no value; its magnitude is zeroed
            t = self.weights[name]
            for d, axis in enumerate(self.graph.tensors[member.tensor].axes):
                mask = keep_mask(axis, masks)
                if not bool(mask.all()):
                    t = t * mask.to(t).view([-1 if i == d else 1 for i in range(t.dim())])
            changed[name] = t
        return changed

    def _output(self, inputs: Any, changed: Mapping[str, Tensor]) -> Any:
        args, kwargs = as_args(inputs)
        values = {**self.weights, **changed, **{n: b.clone() for n, b in self.buffers.items()}}
        with borrowed(self.model), torch.no_grad(), autocast(self.model, self.precision):
            return torch.func.functional_call(self.model, values, args, kwargs)

    def _mean_loss(self, changed: Mapping[str, Tensor]) -> float:
        assert self.loss is not None
        return sum(float(self.loss(self._output(x, changed), y)) * n for x, y, n in self.batches) / self.n

    def _estimate(self, group: str) -> Tensor:
        if self._estimates is None:
            self._estimates = self._all_estimates()
        return self._estimates[group].clone()

    def _all_estimates(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        estimates: dict[str, Tensor] = {}

        def add(x: Any, y: Any, loss: Loss | None, value: Callable[[Tensor], Tensor]) -> None:
            request = Request(contributions=self.graph.groups)
            seen = observe(self.graph, self.model, (x, y), request, loss=loss, precision=self.precision)
            for name, c in seen.contributions.items():
                part = value(c).cpu()
                estimates[name] = estimates[name] + part if name in estimates else part

        for (x, y, n), output in zip(self.batches, self.outputs):
            if self.loss:
                add(x, y, self.loss, lambda c: -c.sum(1) / self.n)
                continue
            for v, weight in _directions(output, n, generator):
                add(x, y, _projection(v, n), lambda c, w=weight: c.square().sum(1) * w / self.size)  # type: ignore[misc]
        return estimates


def _directions(output: Tensor, n: int, generator: torch.Generator) -> Iterable[tuple[Tensor, float]]:
    """Directions in the outputs and their weights, so that the weighted squares add up to the squared length."""
    each = output.numel() // max(1, n)
    if output.shape[:1] == (n,) and each <= _EXACT_OUTPUTS:
        for k in range(each):
            v = torch.zeros(n, each)
            v[:, k] = 1
            yield v.reshape(output.shape).to(output), 1.0
        return
    for _ in range(_EXACT_OUTPUTS):
        signs = torch.randint(0, 2, output.shape, generator=generator) * 2.0 - 1
        yield signs.to(output), 1.0 / _EXACT_OUTPUTS


def _projection(v: Tensor, n: int) -> Loss:
    """As a mean over samples, so that each sample's loss is its output along v."""
    return lambda output, targets: (first_tensor(output) * v).sum() / n
