"""Masks of removed units on the full weights: what is zero, what comes back and with which values.

A removed unit is zero wherever it occurs in a parameter: where it is written, scaled and read, as in the zero-masked
original of `sartor.surgery.silence`. So a step costs as much as before, and no framework has to know of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from sartor.cost import macs
from sartor.errors import BadInput
from sartor.sparse.growth.values import grown_values
from sartor.structure import Graph
from sartor.structure.axes import find
from sartor.structure.graph import Resolved
from sartor.structure.model_copy import named_tensors
from sartor.surgery.silence import dead_slices
from sartor.torch_internals import own_parameters
from sartor.types import Plan
from sartor.types.when import Values

Live = dict[str, dict[int, Tensor]]  # tensor -> dimension -> bool [size] of the dimensions that lose units


class UnitMasks:
    """The units that are live in a network which trains; everything is changed in place.

    Args:
        model: inside its wrappers.
        graph: with the groups whose units may go.
        optimizer: its state for removed units is set to zero; None: there is none.
    """

    def __init__(self, model: nn.Module, graph: Graph, optimizer: Optimizer | None = None):
        self.model, self.graph, self.optimizer = model, graph, optimizer
        self.live_plan = Plan({}, "everything", graph.fingerprint)
        self.dense_macs = macs(graph)
        self.density = 1.0  # MACs of what is live over those of the dense network
        self.memory: dict[str, Tensor] = {}  # tensor -> the value that each removed element had when it was removed
        self.first: dict[str, Tensor] = {}  # values when the session began, if they are to come back
        names: dict[int, str] = {}
        self.parameters: set[str] = set()
        for owner, key, name, t in named_tensors(model):
            names.setdefault(id(t), name)
            if key in own_parameters(owner):
                self.parameters.add(name)
        self.tensors = {name: t for *_, name, t in named_tensors(model) if names[id(t)] == name}
        self._rows: list[tuple[Tensor, dict[int, Tensor]]] = []

    def remember_first(self) -> None:
        """Keep the present values: those that units come back with under "rewind"."""
        carried = {find(leaf) for leaf in self.graph.leaves.values()}
        whole = Plan({n: (0,) for n in self.graph.groups}, "one unit", self.graph.fingerprint)
        changing = self._live(self.graph.resolve(whole)) if carried else {}
        self.first = {name: self.tensors[name].detach().clone() for name in changing}

    def adopt(self, plan: Plan, values: Values = "recent", generator: Generator | None = None) -> None:
        """Remove the units that a plan does not keep, and bring back those that it keeps and that were removed.

        Args:
            plan: for this graph, without fibres.
            values: of units that come back; see `PruneAndRegrow`. Statistics of norms come back as they were.
            generator: for "reinitialise".

        Raises:
            BadInput: the plan does not fit, or has fibres.
        """
        if plan.fibres:
            raise BadInput("masks while training: expected a plan without fibres: rows of a head would differ")
        resolved = self.graph.resolve(plan)
        before, after = self._live(self.graph.resolve(self.live_plan)), self._live(resolved)
        with torch.no_grad():
            for name in dict.fromkeys((*before, *after)):
                self._exchange(name, before.get(name, {}), after.get(name, {}), (values, generator))
        self.live_plan = plan
        self.density = macs(self.graph, plan.counts()) / self.dense_macs if self.dense_macs else 1.0
        self._rows = [(t, slices) for _, t, slices in dead_slices(self.model, resolved)] if resolved.masks else []
        self.apply_()

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Inside, removed elements have their most recently used values, so that units can be compared; then zero."""
        dead = self._live(self.graph.resolve(self.live_plan))
        with torch.no_grad():
            for name in dead.keys() & self.memory.keys() & self.parameters:
                t = self.tensors[name]
                t.copy_(torch.where(_outer(dead[name], t), t, self.memory[name]))
        try:
            yield
        finally:
            self.apply_()

    @torch.no_grad()
    def apply_(self) -> None:
        """Set every removed slice to zero again."""
        for t, slices in self._present_rows():
            for d, index in slices.items():
                t.index_fill_(d, index, 0)

    @torch.no_grad()
    def mask_gradients_(self) -> None:
        """Set the gradients of removed slices to zero, so that the optimizer's state for them stays zero."""
        for t, slices in self._present_rows():
            if t.grad is not None and t.grad.layout is torch.strided:  # sparse ones leave no state behind
                for d, index in slices.items():
                    t.grad.index_fill_(d, index, 0)

    def state_dict(self) -> dict[str, Any]:
        """Live units and remembered values."""
        return {
            "plan": self.live_plan.to_json(),
            "memory": {n: t.clone() for n, t in self.memory.items()},
            "first": {n: t.clone() for n, t in self.first.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse. Removed slices become zero in the model, which they are in a checkpoint of the same step."""
        plan = Plan.from_json(state["plan"])
        for table in ("memory", "first"):
            for name, t in state[table].items():
                if name not in self.tensors or self.tensors[name].shape != t.shape:
                    raise BadInput(f"session state, {table} of {name!r}: expected a tensor of shape {tuple(t.shape)}")
        self.memory = {n: t.to(self.tensors[n].device, copy=True) for n, t in state["memory"].items()}
        self.first = {n: t.to(self.tensors[n].device, copy=True) for n, t in state["first"].items()}
        self.live_plan = plan
        resolved = self.graph.resolve(plan)
        self.density = macs(self.graph, plan.counts()) / self.dense_macs if self.dense_macs else 1.0
        self._rows = [(t, slices) for _, t, slices in dead_slices(self.model, resolved)] if resolved.masks else []
        self.apply_()

    def _present_rows(self) -> list[tuple[Tensor, dict[int, Tensor]]]:
        """Parameters and the indices of removed units, which follow a model that was moved to another device."""
        if self._rows and next(iter(self._rows[0][1].values())).device != self._rows[0][0].device:
            self._rows = [(t, {d: i.to(t.device) for d, i in slices.items()}) for t, slices in self._rows]
        return self._rows

    def _live(self, resolved: Resolved) -> Live:
        """The masks of every tensor that loses units, on the CPU; a tied tensor under its first name."""
        table: Live = {}
        for name in self.tensors if resolved.masks else ():
            axes = self.graph.tensors[name].axes if name in self.graph.tensors else ()
            masks = {d: resolved.masks.mask(a) for d, a in enumerate(axes) if not resolved.masks.is_whole(a)}
            if masks:
                table[name] = masks
        return table

    def _exchange(
        self, name: str, before: Mapping[int, Tensor], after: Mapping[int, Tensor],
        policy: tuple[Values, Generator | None],
    ) -> None:  # fmt: skip
        """Remember what dies in one tensor, give values to what comes back, zero the optimizer's state of the dead."""
        t = self.tensors[name]
        if before.keys() == after.keys() and all(torch.equal(m, after[d]) for d, m in before.items()):
            return
        was, is_live = _outer(before, t), _outer(after, t)
        dying, born = was & ~is_live, is_live & ~was
        parameter = name in self.parameters
        if bool(dying.any()):
            kept = self.memory.get(name)
            self.memory[name] = torch.where(dying, t, t if kept is None else kept).detach()
        if bool(born.any()):
            values = policy[0] if parameter else "recent"
            t.copy_(torch.where(born, self._values(name, values, was & is_live, policy[1]), t))
            if values == "zero":
                for d in self._read_dimensions(name) & after.keys():
                    old = before.get(d)
                    if old is not None:
                        t.index_fill_(d, (after[d] & ~old).nonzero()[:, 0].to(t.device), 0)
        if parameter and self.optimizer is not None:
            for value in self.optimizer.state.get(t, {}).values():
                if isinstance(value, Tensor) and value.shape == t.shape and t.dim():
                    value.masked_fill_(~is_live, 0)

    def _values(self, name: str, values: Values, live: Tensor, generator: Generator | None) -> Tensor:
        """What the elements of a tensor are when they come back; under "zero", readers are set to zero afterwards."""
        stored = self.first.get(name) if values == "rewind" else self.memory.get(name)
        return grown_values("recent" if values == "zero" else values, self.tensors[name], live, stored, generator)

    def _read_dimensions(self, name: str) -> set[int]:
        """Dimensions of a tensor along which its units are read, not written."""
        members = (m for g in self.graph.groups.values() for m in g.members)
        return {m.dim for m in members if m.tensor == name and m.role == "in"}


def _outer(masks: Mapping[int, Tensor], like: Tensor) -> Tensor:
    """Bool tensor of a tensor's shape: true where every dimension is live."""
    live = torch.ones((), dtype=torch.bool, device=like.device)
    for d, mask in masks.items():
        shape = [1] * like.dim()
        shape[d] = -1
        live = live & mask.to(like.device).reshape(shape)
    return live.expand(like.shape)


__all__ = ["UnitMasks"]
