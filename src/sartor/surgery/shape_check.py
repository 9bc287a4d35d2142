"""Check on meta tensors, operator by operator, whether a cut network would run with the predicted shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from sartor.activations.follow import Interventions, Match, Numerics, OffPath, Walk, follow
from sartor.borrow import uncollected
from sartor.structure.axes import Axis, find
from sartor.structure.calls import Op, Value, short_name
from sartor.structure.example import as_args, tensors
from sartor.structure.graph import Graph
from sartor.structure.masks import Masks
from sartor.structure.model_copy import clone, empty_like_on_meta, evaluating, named_tensors
from sartor.structure.value_reads import repeated
from sartor.surgery.attributes import Attributes
from sartor.surgery.edits import set_attributes_
from sartor.surgery.kept_numbers import Difference, Numbers, differences, keep_numbers_, to_keep
from sartor.surgery.program import SPLITS, Program, rewrite_
from sartor.torch_internals import OpOverload

_BY_VALUE = {"nonzero", "nms", "unique", "_unique2", "masked_select", "item", "_local_scalar_dense", "where", "index"}
_MOST_LEFT_OUT = 16  # operators in a row


@dataclass(frozen=True)
class Mismatch:
    """The first operator whose result differs from the prediction."""

    op: int  # index in graph.every_op
    message: str
    sizes: tuple[int, ...] = ()  # the shape that it gave, if it ran


def _tensors(args: Any) -> list[Value]:
    return [v for v in args if isinstance(v, Value)]


def _shapes(args: Any) -> list[tuple[int, ...]]:
    return [tuple(t.shape) for t in args if isinstance(t, Tensor)]


class _Stop(Exception):
    pass


def _same(traced: OpOverload, called: OpOverload) -> bool:
    """Equal, or two operators that split: a rewritten forward always uses `split_with_sizes`."""
    return traced is called or {short_name(traced), short_name(called)} <= SPLITS


class Checked(NamedTuple):
    """What a cut network would do."""

    problem: Mismatch | None
    numbers: Numbers  # to keep at the original's value


def check(
    model: nn.Module,
    graph: Graph,
    masks: Mapping[Axis, Tensor],
    attributes: Attributes,
    programs: Mapping[str, Program] | None = None,
) -> Mismatch | None:
    """Run the forward with tensors of the new shapes; returns the first operator whose output is not as predicted.

    `programs` replace the forwards of some modules, by path. They hold the operators of evaluation mode; if there are
    any, the forward in training mode and the branches are not checked.
    """
    return checked(model, graph, masks, attributes, programs).problem


def checked(
    model: nn.Module,
    graph: Graph,
    masks: Mapping[Axis, Tensor],
    attributes: Attributes,
    programs: Mapping[str, Program] | None = None,
) -> Checked:
    """`check`, with the numbers that would follow from the new widths and have to be kept; these are tried as well."""
    cut = Masks.of(masks)
    with uncollected():  # garbage collection would walk the graph again and again
        found: list[Difference] = []
        changes = _Changes(cut, attributes, programs or {})
        problem = _check_all(model, graph, changes, found)
        if problem is not None or not found:
            return Checked(problem, {})
        numbers, left = to_keep(found), list[Difference]()
        problem = _check_all(model, graph, replace(changes, numbers=numbers), left)
        # the scale of attention may follow the width where it cannot be kept: the axis says so
        other = next((d for d in left if d.number.kind != "attention"), None)
        if problem is None and other is not None:
            problem = Mismatch(graph.every_op.index(other.op), str(other))
        if problem is None and left:
            numbers = to_keep(d for d in found if all(d.op is not x.op for x in left))
        return Checked(problem, numbers)


@dataclass(frozen=True)
class _Changes:
    """What a cut changes in a network."""

    cut: Masks
    attributes: Attributes
    programs: Mapping[str, Program]
    numbers: Numbers = field(default_factory=dict)


def _check_all(model: nn.Module, graph: Graph, changes: _Changes, found: list[Difference]) -> Mismatch | None:
    """Check every recorded forward; differing numbers are added to `found`."""
    problem = _check(model, graph, changes, found)
    if problem is not None:
        return problem
    before = len(graph.ops)
    for other in graph.others:
        if changes.programs and all(other is not v for v in graph.variants):
            before += len(other.ops)
            continue
        training = other is graph.training
        problem = _check(model, other, changes, found, training=training)
        if problem is not None:
            when = "in training mode" if training else "in the other branch of a decision"
            if any(other is v for v in graph.variants):
                when = f"on inputs of shape {', '.join(str(list(t.shape)) for t in tensors(other.example))}"
            return Mismatch(before + problem.op, f"{when}: {problem.message}", problem.sizes)
        before += len(other.ops)
    return None


def _check(
    model: nn.Module, graph: Graph, changed: _Changes, found: list[Difference], *, training: bool = False
) -> Mismatch | None:
    cut = changed.cut
    on_meta = all(t.device.type == "meta" for t in tensors(graph.example))
    by_id = {id(t): tuple(map(cut.size, graph.tensors[name].axes)) for *_, name, t in named_tensors(model)}

    def resized(t: Tensor) -> Tensor:
        if on_meta:
            return empty_like_on_meta(t, by_id[id(t)])
        new = t.detach()[
            tuple(slice(n) for n in by_id[id(t)])
        ]  # not the kept slice, but of its shape and with similar values
        return new.clone()

    shadow = clone(model, resized)
    shadow = shadow.train() if training else evaluating(shadow)
    set_attributes_(shadow, tuple((p, a, v) for (p, a), v in changed.attributes.items()))
    for path, program in changed.programs.items():
        shadow = rewrite_(shadow, path, program)
    shadow = keep_numbers_(shadow, changed.numbers)
    on_path: Walk | None = None
    problem: Mismatch | None = None

    def compare(op: Op, args: Any, kwargs: Any, out: Any) -> None:
        nonlocal problem
        if not op.live:
            return
        found.extend(differences(op, args, kwargs))
        got = list(out) if isinstance(out, list | tuple) else [out]
        want = list(op.out) if isinstance(op.out, list | tuple) else [op.out]
        for t, v in zip(got, want):
            if isinstance(t, Tensor) and isinstance(v, Value) and v.axes:
                shape = tuple(map(cut.size, v.axes))
                if not on_meta and len(shape) == t.dim():  # sizes of frozen axes may depend on tensor values
                    shape = tuple(t.shape[d] if find(a).frozen else shape[d] for d, a in enumerate(v.axes))
                if tuple(t.shape) != shape:
                    assert on_path is not None
                    problem = Mismatch(
                        on_path.place, f"{op.where} would give {tuple(t.shape)}, expected {shape}", tuple(t.shape)
                    )
                    raise _Stop

    def may_leave(place: int) -> bool:
        """Behind an operator whose result depends on tensor values the path may differ: the rest only has to run."""
        return not on_meta and any(op.name in _BY_VALUE for op in graph.ops[:place])

    def decided(op: Op, *_: Any) -> Any:
        """The value read when the graph was recorded; of real tensors, only if it is a decision."""
        value = repeated(op, op.func)
        return value if on_meta or type(value) is bool else NotImplemented

    def ahead(place: int, func: OpOverload, args: Any) -> int | None:
        """The next operator of this module that fits a call: where a size becomes 1, a module may leave some out.

        `if repeats == 1: return x` is an example. A call fits if it has the predicted input shapes.
        """
        for i in range(place + 1, min(place + _MOST_LEFT_OUT, len(graph.ops))):
            op, before = graph.ops[i], graph.ops[i - 1]
            if before.mutates or before.path != graph.ops[place].path:
                return None
            if _same(op.func, func):
                return i if _shapes(args) == [tuple(map(cut.size, v.axes)) for v in _tensors(op.args)] else None
        return None

    changes = Interventions(instead=decided)
    args, kwargs = as_args(graph.example)
    last = len(graph.ops) - 1
    match = Match(_same, may_leave, ahead)
    try:
        with follow(
            graph.ops, shadow, compare, changes=changes, numerics=Numerics(meta=on_meta), match=match
        ) as on_path:
            shadow(*args, **kwargs)
    except _Stop:
        return problem
    except OffPath as e:
        assert on_path is not None
        return Mismatch(min(on_path.place, last), f"{e.func} is called where another operator was traced")
    except Exception as e:
        op = graph.ops[min(on_path.place if on_path else 0, last)]
        return Mismatch(op.index, f"{op.where}: {type(e).__name__}: {e}")
    if on_path.place != len(graph.ops) and not on_path.left:
        return Mismatch(on_path.place, f"the forward ends before {graph.ops[on_path.place].where}")
    return None
