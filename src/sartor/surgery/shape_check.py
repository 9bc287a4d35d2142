"""Check on meta tensors, operator by operator, whether a cut network would run with the predicted shapes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
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
from sartor.structure.model_copy import clone, evaluating, modules_of, named_tensors
from sartor.structure.shadow import Shadow
from sartor.structure.stated_sizes import misplaced
from sartor.structure.value_reads import repeated
from sartor.surgery.attributes import Attributes
from sartor.surgery.edits import set_attributes_
from sartor.surgery.kept_numbers import Difference, Numbers, differences, keep_numbers_, to_keep
from sartor.surgery.program import SPLITS, Program, Rewritten, rewrite_
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
    return ShapeCheck(model).problem(graph, masks, attributes, programs)


class Checked(NamedTuple):
    """What a cut network would do."""

    problem: Mismatch | None
    numbers: Numbers  # to keep at the original's value


class ShapeCheck:
    """Checks of several cuts of one model, which must not change meanwhile."""

    def __init__(self, model: nn.Module):
        self.model = model
        self._shadow = Shadow(model)

    def problem(
        self,
        graph: Graph,
        masks: Mapping[Axis, Tensor],
        attributes: Attributes,
        programs: Mapping[str, Program] | None = None,
    ) -> Mismatch | None:
        """See `check`."""
        return self.checked(graph, masks, attributes, programs).problem

    def checked(
        self,
        graph: Graph,
        masks: Mapping[Axis, Tensor],
        attributes: Attributes,
        programs: Mapping[str, Program] | None = None,
    ) -> Checked:
        """`check`, with the numbers to keep that would follow from the new widths; keeping them is tried."""
        change = _Change(Masks.of(masks), attributes, programs or {})
        with uncollected():  # garbage collection would walk the graph again and again
            found: list[Difference] = []
            problem = self._problem(graph, change, found)
            if problem is not None or not found:
                return Checked(problem, {})
            left: list[Difference] = []
            problem = self._problem(graph, replace(change, numbers=to_keep(found)), left)
        # the scale of attention follows the width where it cannot be kept: the axis says so
        other = next((d for d in left if d.number.kind != "attention"), None)
        if problem is None and other is not None:
            problem = Mismatch(graph.every_op.index(other.op), str(other))
        return Checked(problem, to_keep(d for d in found if all(d.op is not x.op for x in left)))

    def _problem(self, graph: Graph, change: _Change, found: list[Difference]) -> Mismatch | None:
        """The first problem of all recorded forwards; differing numbers are added to `found`."""
        rewritten = bool(change.programs) or any(isinstance(m, Rewritten) for m in modules_of(self.model))
        problem = self._problem_in(graph, change, found)
        if problem is not None:
            return problem
        before = len(graph.ops)
        for other in graph.others:
            if rewritten and all(other is not v for v in graph.variants):
                before += len(other.ops)
                continue
            training = other is graph.training
            problem = self._problem_in(other, change, found, training=training)
            if problem is not None:
                when = "in training mode" if training else "in the other branch of a decision"
                if any(other is v for v in graph.variants):
                    when = f"on inputs of shape {', '.join(str(list(t.shape)) for t in tensors(other.example))}"
                return Mismatch(before + problem.op, f"{when}: {problem.message}", problem.sizes)
            before += len(other.ops)
        return None

    def _problem_in(
        self, graph: Graph, change: _Change, found: list[Difference], *, training: bool = False
    ) -> Mismatch | None:
        shapes = {name: tuple(map(change.cut.size, v.axes)) for name, v in graph.tensors.items()}
        on_meta = all(t.device.type == "meta" for t in tensors(graph.example))
        with self._shadow.lent(shapes) if on_meta else nullcontext(self._with_values(shapes)) as shadow:
            set_attributes_(shadow, tuple((p, a, v) for (p, a), v in change.attributes.items()))
            for path, program in change.programs.items():
                shadow = rewrite_(shadow, path, program)
            shadow = keep_numbers_(shadow, change.numbers)
            return followed(shadow.train() if training else evaluating(shadow), graph, change.cut, found)

    def _with_values(self, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
        """A copy with tensors that are not the kept slices, but of their shapes and with similar values."""
        by_id = {id(t): shapes[name] for *_, name, t in named_tensors(self.model)}
        return clone(self.model, lambda t: t.detach()[tuple(map(slice, by_id[id(t)]))].clone())


@dataclass(frozen=True)
class _Change:
    """What a cut changes of a model, besides its tensors' values."""

    cut: Masks
    attributes: Attributes
    programs: Mapping[str, Program]
    numbers: Numbers = field(default_factory=dict)


def followed(shadow: nn.Module, graph: Graph, cut: Masks, found: list[Difference]) -> Mismatch | None:
    """Run a cut network on the example of a graph and compare every operator's output with the predicted shape.

    Args:
        shadow: the cut network; on meta where the example is on meta.
        graph: of the original.
        cut: what is removed from it.
        found: numbers that differ from those of the original are added.
    """
    on_meta = all(t.device.type == "meta" for t in tensors(graph.example))
    on_path: Walk | None = None
    problem: Mismatch | None = None

    def compare(op: Op, args: Any, kwargs: Any, out: Any) -> None:
        nonlocal problem
        if not op.live:
            return
        if on_meta:  # otherwise numbers may follow from values
            found.extend(differences(op, args, kwargs))
        elsewhere = misplaced(op, args, kwargs, cut) if op.followed else None
        if elsewhere is not None:
            assert on_path is not None
            problem = Mismatch(on_path.place, f"{op.where} {elsewhere}")
            raise _Stop
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
            if _same(op.func, func) and _shapes(args) == [tuple(map(cut.size, v.axes)) for v in _tensors(op.args)]:
                return i
        return None

    changes = Interventions(instead=decided)
    args, kwargs = as_args(graph.example)
    last = len(graph.ops) - 1
    try:
        with follow(
            graph.ops,
            shadow,
            compare,
            changes=changes,
            numerics=Numerics(meta=on_meta),
            match=Match(_same, may_leave, ahead),
        ) as on_path:
            shadow(*args, **kwargs)
    except _Stop:
        return problem
    except OffPath as e:
        assert on_path is not None
        return Mismatch(
            min(on_path.place, last),
            f"{e.func} is called where another operator was traced (if the network keeps what it computed, and was "
            "called or changed since, trace it again)",
        )
    except Exception as e:
        op = graph.ops[min(on_path.place if on_path else 0, last)]
        return Mismatch(op.index, f"{op.where}: {type(e).__name__}: {e}")
    if on_path.place != len(graph.ops) and not on_path.left:
        return Mismatch(on_path.place, f"the forward ends before {graph.ops[on_path.place].where}")
    return None
