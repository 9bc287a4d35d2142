"""Check on meta tensors, operator by operator, whether a cut network would run with the predicted shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sartor.structure.axes import Axis, find, new_size
from sartor.structure.calls import Value, short_name
from sartor.structure.example import as_args, tensors
from sartor.structure.graph import Graph
from sartor.structure.model_copy import clone, empty_like_on_meta, named_tensors
from sartor.structure.operator_watch import watching
from sartor.structure.value_reads import repeated
from sartor.surgery.attributes import Attributes
from sartor.surgery.edits import set_attributes_
from sartor.surgery.program import SPLITS, Program, rewrite_
from sartor.torch_internals import OpOverload

_BY_VALUE = {"nonzero", "nms", "unique", "_unique2", "masked_select", "item", "_local_scalar_dense", "where", "index"}


@dataclass(frozen=True)
class Mismatch:
    """The first operator whose result differs from the prediction."""

    op: int  # index in graph.every_op
    message: str


class _Stop(Exception):
    pass


def _same(traced: OpOverload, called: OpOverload) -> bool:
    """Equal, or two operators that split: a rewritten forward always uses `split_with_sizes`."""
    return traced is called or {short_name(traced), short_name(called)} <= SPLITS


def check(
    model: nn.Module,
    graph: Graph,
    masks: Mapping[Axis, Tensor],
    attributes: Attributes,
    programs: Mapping[str, Program] | None = None,
) -> Mismatch | None:
    """Run the forward with tensors of the new shapes; returns the first operator whose output is not as predicted.

    `programs` replace the forwards of some modules, by path. They hold the operators of evaluation mode; if there are
    any, the forward in training mode is not checked.
    """
    problem = _check(model, graph, masks, attributes, programs or {}, training=False)
    if problem is not None or graph.training is None or programs:
        return problem
    problem = _check(model, graph.training, masks, attributes, {}, training=True)
    return None if problem is None else Mismatch(len(graph.ops) + problem.op, f"in training mode: {problem.message}")


def _check(
    model: nn.Module,
    graph: Graph,
    masks: Mapping[Axis, Tensor],
    attributes: Attributes,
    programs: Mapping[str, Program],
    *,
    training: bool,
) -> Mismatch | None:
    kept = {a: int(m.sum()) for a, m in masks.items()}
    on_meta = all(t.device.type == "meta" for t in tensors(graph.example))
    shapes = {name: tuple(new_size(a, kept) for a in v.axes) for name, v in graph.tensors.items()}
    by_id = {id(t): shapes[name] for *_, name, t in named_tensors(model)}

    def resized(t: Tensor) -> Tensor:
        if on_meta:
            return empty_like_on_meta(t, by_id[id(t)])
        new = t.detach()[
            tuple(slice(n) for n in by_id[id(t)])
        ]  # not the kept slice, but of its shape and with similar values
        return new.clone()

    shadow = clone(model, resized).train(training)
    set_attributes_(shadow, tuple((p, a, v) for (p, a), v in attributes.items()))
    for path, program in programs.items():
        shadow = rewrite_(shadow, path, program)
    place = 0
    problem: Mismatch | None = None
    free = False  # after an operator whose result depends on values, the calls may differ: the rest only has to run

    def see(func: OpOverload, args: Any, kwargs: Any, out: Any, path: str) -> None:
        nonlocal place, problem, free
        if free:
            return
        if place >= len(graph.ops) or not _same(graph.ops[place].func, func):
            if not on_meta and any(op.name in _BY_VALUE for op in graph.ops[:place]):
                free = True
                return
            problem = Mismatch(min(place, len(graph.ops) - 1), f"{func} is called where another operator was traced")
            raise _Stop
        op = graph.ops[place]
        if op.live:
            got = list(out) if isinstance(out, list | tuple) else [out]
            want = list(op.out) if isinstance(op.out, list | tuple) else [op.out]
            for t, v in zip(got, want):
                if isinstance(t, Tensor) and isinstance(v, Value) and v.axes:
                    shape = tuple(new_size(a, kept) for a in v.axes)
                    if not on_meta and len(shape) == t.dim():  # frozen sizes may depend on values
                        shape = tuple(t.shape[d] if find(a).frozen else shape[d] for d, a in enumerate(v.axes))
                    if tuple(t.shape) != shape:
                        problem = Mismatch(place, f"{op.where} would give {tuple(t.shape)}, expected {shape}")
                        raise _Stop
        place += 1

    def instead(func: OpOverload, args: Any, kwargs: Any) -> Any:
        return repeated(graph.ops[min(place, len(graph.ops) - 1)], func)

    args, kwargs = as_args(graph.example)
    try:
        with watching(shadow, see, meta=on_meta, instead=instead if on_meta else None):
            shadow(*args, **kwargs)
    except _Stop:
        return problem
    except Exception as e:
        op = graph.ops[min(place, len(graph.ops) - 1)]
        return Mismatch(op.index, f"{op.where}: {type(e).__name__}: {e}")
    if place != len(graph.ops) and not free:
        return Mismatch(place, f"the forward ends before {graph.ops[place].where}")
    return None
