"""The sliced form of a plan: the cut network, called with slices of the full weights, at the cost of the cut network.

Outputs, and gradients of the full weights, are those of the masked network; gradients of removed slices are zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sartor.errors import CannotCut
from sartor.structure import Graph
from sartor.structure.graph import Resolved
from sartor.structure.model_copy import modules_by_path, named_tensors
from sartor.surgery import apply_edits, edits_for
from sartor.torch_internals import own_parameters
from sartor.types import Plan
from sartor.wrappers import unwrapped

Slices = Mapping[int, Tensor]  # dimension -> kept indices, on the tensor's device


class Subnet(nn.Module):
    """The network that a plan cuts out of `model`, without weights of its own.

    Calling it slices the parameters of `model`, which get the gradients. Buffers that a forward in training mode
    changes (statistics and counters of batch norms) are written back. Modes of modules, and numbers among their
    attributes that a cut does not change (such as the rate of a dropout), are those of `model` at every call.

    A dropout inside draws for the units that are left only, so its random numbers differ from the masked network's.

    Args:
        model: with the full weights; changed only as a forward of its own would change it.
        graph: of the model.
        plan: without fibres.

    Raises:
        NothingToDo: the plan keeps every unit.
        CannotCut: the forward can be cut only by rewriting it, or operators mix the units that go; says which.
    """

    def __init__(self, model: nn.Module, graph: Graph, plan: Plan | Resolved):
        super().__init__()
        full = unwrapped(model).module
        resolved = graph.resolve(plan)
        mixing = next((n for n in resolved.plan.keep if graph.groups[n].mixes and not _whole(graph, resolved, n)), None)
        if mixing is not None:
            raise CannotCut(
                f"sliced execution: an operator mixes the units of {mixing!r} ({graph.groups[mixing].mixes}), so the "
                "sliced network computes something else than the masked one"
            )
        if resolved.orders:
            raise CannotCut("sliced execution: expected a plan without fibres")
        edits = edits_for(full, graph, resolved)
        if edits.programs:
            paths = ", ".join(list(edits.programs)[:3]) or "the model itself"
            raise CannotCut(
                f"sliced execution: the forward of {paths} would be rewritten, which leaves out training code"
            )
        small = apply_edits(full, edits)
        tensors = {name: (owner, key, t) for owner, key, name, t in named_tensors(full)}
        self._slices: dict[str, dict[int, Tensor]] = {}
        for name, by_dimension in edits.slices.items():
            device = tensors[name][2].device
            self._slices[name] = {d: torch.tensor(kept, device=device) for d, kept in by_dimension.items()}  # type: ignore[arg-type]
        self._owners = {name: (owner, key) for name, (owner, key, _) in tensors.items()}
        self._buffers_of_full = {name for name, (owner, key, _) in tensors.items() if key not in own_parameters(owner)}
        self._tied = {name: next(n for n in tensors if tensors[n][2] is tensors[name][2]) for name in tensors}
        here, there = modules_by_path(full), modules_by_path(small)
        pairs = [(vars(here[path]), vars(there[path])) for path in here.keys() & there.keys()]
        self._settings = [(a, b, _common(a, b)) for a, b in pairs]
        self.__dict__["_full"], self.__dict__["_small"] = full, small.to("meta")  # neither is a part of this module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own."""
        for mine, other, names in self._settings:
            for name in names:
                other[name] = mine[name]
        given = self._sliced()
        passed = dict(given)
        small: Any = self._small
        output = functional_call(small, given, args, kwargs, tie_weights=False)
        self._write_back(passed, given)
        return output

    def _sliced(self) -> dict[str, Tensor]:
        """Slices of the present parameters and buffers; what is not sliced is passed as it is."""
        given: dict[str, Tensor] = {}
        for name, (owner, key) in self._owners.items():
            first = self._tied[name]
            if first in given:
                given[name] = given[first]
                continue
            t = getattr(owner, key)
            for d, index in self._slices.get(name, {}).items():
                if index.device != t.device:
                    index = self._slices[name][d] = index.to(t.device)
                t = t.index_select(d, index)
            given[name] = t
        return given

    @torch.no_grad()
    def _write_back(self, passed: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        """Put what the forward left in the buffers back into those of the full network."""
        for name in self._buffers_of_full:
            owner, key = self._owners[name]
            whole: Tensor = getattr(owner, key)
            slices = self._slices.get(name, {})
            if not slices:
                if after[name] is not passed[name]:
                    whole.copy_(after[name])
                continue
            if not owner.training:
                continue
            if len(slices) == 1:
                ((d, index),) = slices.items()
                whole.index_copy_(d, index, after[name].to(whole.dtype))
            else:
                whole[_grid(slices, whole)] = after[name].to(whole.dtype)


def _common(mine: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of the numbers and texts that are equal in both: settings of a module, and no sizes that a cut changes."""
    plain = (bool, int, float, str)
    return [n for n, v in mine.items() if isinstance(v, plain) and type(other.get(n)) is type(v) and other[n] == v]


def _whole(graph: Graph, resolved: Resolved, group: str) -> bool:
    return resolved.masks.is_whole(graph.leaves[group])


def _grid(slices: Slices, whole: Tensor) -> tuple[Tensor, ...]:
    """Indices of a sliced block in the whole tensor."""
    indices = [slices.get(d, torch.arange(whole.shape[d], device=whole.device)) for d in range(whole.dim())]
    return tuple(torch.meshgrid(*indices, indexing="ij"))


__all__ = ["Subnet"]
