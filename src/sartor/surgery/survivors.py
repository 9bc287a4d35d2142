"""The reference for operators that mix units: each is computed over the units that remain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sartor.structure.axes import Axis, find, keep_mask, new_size
from sartor.structure.calls import Op, Value
from sartor.structure.example import Example, call
from sartor.structure.graph import Graph
from sartor.structure.operator_watch import caller, watching
from sartor.structure.reasons import sentence
from sartor.surgery.kept_numbers import keeps_scale
from sartor.surgery.program import Rewritten
from sartor.torch_internals import OpOverload, schema
from sartor.types import Reason

_KINDS = {  # reasons of operators that compute the same formula over fewer units
    "statistics", "reduction", "softmax", "attention", "attention scale", "batch statistics", "weight norm",
}  # fmt: skip
_STATES_MORE = {"native_group_norm"}  # their arguments hold sizes that no axis names


@dataclass(frozen=True)
class Reference:
    """What the zero-masked model gives, and whether every operator that mixes units was computed over the survivors."""

    output: Any
    complete: bool


def irreproducible(graph: Graph, names: Iterable[str]) -> dict[str, str]:
    """Groups whose cut has no reference -> why, as a sentence."""
    callers = _callers(graph)
    found: dict[str, str] = {}
    for name in names:
        for reason in find(graph.leaves[name]).mix:
            ops = callers.get((reason.op, reason.module), [])
            known = reason.kind in _KINDS and ops and not any(op.name in _STATES_MORE for op in ops)
            if not known or (reason.kind == "attention" and any(op.arg("is_causal") for op in ops)):
                found.setdefault(name, sentence(reason))
    return found


def reproducible(graph: Graph, name: str) -> bool:
    """Whether every operator that mixes the units of a group can be computed over the remaining ones."""
    return not irreproducible(graph, [name])


def reference_output(
    silenced: nn.Module, graph: Graph, masks: Mapping[Axis, Tensor], example: Example, rewritten: Sequence[str] = ()
) -> Reference:
    """Forward of the zero-masked model in which operators that mix units use only the remaining units.

    The removed units are zero behind such an operator. The scale of attention that follows from the head dimension is
    that of the remaining one, as in the cut network; in `rewritten` modules (paths) it is the original's. An operator
    is recognised by its module and by how often the module called it before, so that other masks, other branches and
    another batch size do not matter as long as no such operator comes or goes; where one does, the forwards that were
    recorded on other inputs are tried.
    """
    reasons = {reason for leaf in masks for reason in find(leaf).mix}
    if not reasons:
        return Reference(call(silenced, example), complete=True)
    survivors = _Survivors(masks, tuple(rewritten))
    paths = {id(module): path for path, module in silenced.named_modules()}
    found = Reference(None, complete=False)
    for recorded in (_Recorded(g, _callers(g), reasons) for g in (graph, *graph.variants)):

        def instead(func: OpOverload, args: Any, kwargs: Any, recorded: _Recorded = recorded) -> Any:
            op = recorded.next(func, paths)
            return NotImplemented if op is None else survivors.result(op, args, kwargs)

        with watching(silenced, lambda *_: None, meta=False, instead=instead):
            found = Reference(call(silenced, example), recorded.complete)
        if found.complete:
            break
    return found


class _Recorded:
    """The recorded operators that mix units, and how many calls of each kind the running forward has made."""

    def __init__(self, graph: Graph, callers: Mapping[tuple[str, str], list[Op]], reasons: set[Reason]):
        mixing = {op.index for reason in reasons for op in callers.get((reason.op, reason.module), ())}
        self.funcs = {id(graph.ops[i].func) for i in mixing}
        self.calls: dict[tuple[int, str], list[Op | None]] = {}  # None: this call does not mix
        for op in graph.ops:
            if id(op.func) in self.funcs:
                calls = self.calls.setdefault((id(op.func), op.path), [])
                calls.append(op if op.index in mixing else None)
        self.made: dict[tuple[int, str], int] = {}

    def next(self, func: OpOverload, paths: Mapping[int, str]) -> Op | None:
        """The recorded operator that this call is; None if it does not mix."""
        if id(func) not in self.funcs:
            return None
        key = (id(func), caller(paths))
        n = self.made[key] = self.made.get(key, 0) + 1
        calls = self.calls.get(key, [])
        return calls[n - 1] if n <= len(calls) else None

    @property
    def complete(self) -> bool:
        """Whether every module made as many calls as were recorded."""
        return all(self.made.get(key, 0) == len(ops) for key, ops in self.calls.items() if any(ops))


def rewritten_paths(network: nn.Module) -> list[str]:
    """Paths of the modules whose forward was rewritten, or keeps the original's scale of attention."""
    return [path for path, module in network.named_modules() if isinstance(module, Rewritten) or keeps_scale(module)]


def _callers(graph: Graph) -> dict[tuple[str, str], list[Op]]:
    """Live operators by name and module, as reasons name them."""
    found: dict[tuple[str, str], list[Op]] = {}
    for op in graph.ops:
        if op.live:
            found.setdefault((op.name, op.path), []).append(op)
    return found


@dataclass(frozen=True)
class _Survivors:
    """Computes an operator on the remaining units of its arguments, and puts the result back between zeros."""

    masks: Mapping[Axis, Tensor]
    rewritten: tuple[str, ...]

    def result(self, op: Op, args: Any, kwargs: Any) -> Any:
        """NotImplemented: no argument carries a removed unit, so the operator computes what it always does."""
        small_args, small_kwargs = self._small(args, op.args), self._small(kwargs, op.kwargs)
        if small_args is args and small_kwargs is kwargs:
            return NotImplemented
        small_args, small_kwargs = self._resized(op, list(small_args), dict(small_kwargs))
        if op.name == "scaled_dot_product_attention" and kwargs.get("scale") is None and self._is_rewritten(op.path):
            small_kwargs["scale"] = args[0].shape[-1] ** -0.5
        out = self._whole(op.func(*small_args, **small_kwargs), op.out)
        return args[0].copy_(out) if op.mutates else out

    def _is_rewritten(self, path: str) -> bool:
        return any(not p or path == p or path.startswith(f"{p}.") for p in self.rewritten)

    def _alive(self, value: Value) -> dict[int, Tensor]:
        """Dimension -> remaining indices, of the dimensions that lose some."""
        kept = {d: keep_mask(a, self.masks) for d, a in enumerate(value.axes)}
        return {d: mask.nonzero()[:, 0] for d, mask in kept.items() if not bool(mask.all())}

    def _small(self, given: Any, recorded: Any) -> Any:
        """An argument without its removed units; the same object if it loses none."""
        if isinstance(given, Tensor) and isinstance(recorded, Value):
            for d, index in self._alive(recorded).items():
                given = given.index_select(d, index.to(given.device))
            return given
        if isinstance(given, list | tuple) and isinstance(recorded, list | tuple) and len(given) == len(recorded):
            several = [self._small(x, y) for x, y in zip(given, recorded)]
            return given if all(x is y for x, y in zip(several, given)) else type(given)(several)
        if isinstance(given, dict) and isinstance(recorded, dict):
            named = {k: self._small(x, recorded.get(k)) for k, x in given.items()}
            return given if all(named[k] is given[k] for k in given) else named
        return given

    def _resized(self, op: Op, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments that state sizes, with the remaining sizes."""
        kept = {a: int(m.sum()) for a, m in self.masks.items()}
        for i, spec in enumerate(schema(op.func).arguments):
            axes = op.sizes.get(spec.name)
            if axes is None or not (i < len(args) or spec.name in kwargs):
                continue
            size = [new_size(a, kept) for a in axes] if isinstance(axes, list) else new_size(axes, kept)
            if i < len(args):
                args[i] = size
            else:
                kwargs[spec.name] = size
        return args, kwargs

    def _whole(self, small: Any, recorded: Any) -> Any:
        """A result with zeros in the places of the removed units."""
        if isinstance(small, Tensor) and isinstance(recorded, Value):
            for d, index in self._alive(recorded).items():
                shape = list(small.shape)
                shape[d] = find(recorded.axes[d]).size
                small = small.new_zeros(shape).index_copy_(d, index.to(small.device), small)
            return small
        if isinstance(small, list | tuple) and isinstance(recorded, list | tuple):
            return type(small)(self._whole(x, y) for x, y in zip(small, recorded))
        return small


__all__ = ["Reference", "irreproducible", "reference_output", "reproducible", "rewritten_paths"]
