"""Would this cut run? Decided on meta tensors, operator by operator, before a weight is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from sartor.structure.answers import repeated
from sartor.structure.axes import Axis, new_size
from sartor.structure.calls import Value, short_name
from sartor.structure.example import as_args, tensors
from sartor.structure.graph import Graph
from sartor.structure.record import clone, empty_like_on_meta, named_tensors, watching
from sartor.surgery.attributes import Attributes
from sartor.surgery.edits import set_attributes_
from sartor.surgery.program import SPLITS, Program, rewrite_


@dataclass(frozen=True)
class Mismatch:
    """The first operator that would not do what was predicted."""

    op: int  # index in graph.ops
    message: str


class _Stop(Exception):
    pass


def _same(traced: OpOverload, called: OpOverload) -> bool:
    """Equal, or two ways to split: a rewritten forward says the sizes."""
    return traced is called or {short_name(traced), short_name(called)} <= SPLITS


def check(
    model: nn.Module,
    graph: Graph,
    masks: Mapping[Axis, Tensor],
    attributes: Attributes,
    programs: Mapping[str, Program] | None = None,
) -> Mismatch | None:
    """Run the forward with tensors of the new shapes; the first operator whose output is not as predicted.

    `programs` take the place of the forwards of some modules, by path.
    """
    kept = {a: int(m.sum()) for a, m in masks.items()}
    on_meta = all(t.device.type == "meta" for t in tensors(graph.example))
    shapes = {name: tuple(new_size(a, kept) for a in v.axes) for name, v in graph.tensors.items()}
    by_id = {id(t): shapes[name] for *_, name, t in named_tensors(model)}

    def resized(t: Tensor) -> Tensor:
        if on_meta:
            return empty_like_on_meta(t, by_id[id(t)])
        return (
            torch.zeros(by_id[id(t)], dtype=t.dtype, device=t.device) if by_id[id(t)] != t.shape else t.detach().clone()
        )

    shadow = clone(model, resized).eval()
    set_attributes_(shadow, tuple((p, a, v) for (p, a), v in attributes.items()))
    for path, program in (programs or {}).items():
        shadow = rewrite_(shadow, path, program)
    place = 0
    problem: Mismatch | None = None

    def see(func: OpOverload, args: Any, kwargs: Any, out: Any, path: str) -> None:
        nonlocal place, problem
        if place >= len(graph.ops) or not _same(graph.ops[place].func, func):
            problem = Mismatch(min(place, len(graph.ops) - 1), f"{func} is called where another operator was traced")
            raise _Stop
        op = graph.ops[place]
        if op.live:
            got = list(out) if isinstance(out, list | tuple) else [out]
            want = list(op.out) if isinstance(op.out, list | tuple) else [op.out]
            for t, v in zip(got, want):
                if isinstance(t, Tensor) and isinstance(v, Value) and v.axes:
                    shape = tuple(new_size(a, kept) for a in v.axes)
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
    if place != len(graph.ops):
        return Mismatch(place, f"the forward ends before {graph.ops[place].where}")
    return None
