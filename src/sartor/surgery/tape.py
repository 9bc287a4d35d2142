"""The forward of a model recorded at several input sizes, with every call of every module."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sartor.borrow import uncollected
from sartor.errors import SartorError
from sartor.structure.axes import Axis, find, leaves, positions
from sartor.structure.calls import Op, Value, short_name
from sartor.structure.example import Example, batch_of, call, map_tensors, tensors
from sartor.structure.graph import Graph
from sartor.structure.graph_cache import pass_on, per_graph
from sartor.structure.masks import Masks
from sartor.structure.model_copy import modules_by_path
from sartor.structure.operator_watch import watching
from sartor.structure.recording import Recording
from sartor.structure.shadow import Shadow
from sartor.structure.solver import solve
from sartor.structure.value_reads import QUESTIONS, repeated
from sartor.surgery.call_signature import Forward, Signature, bound, in_order, signature_of, tensors_of
from sartor.surgery.input_sizes import settings
from sartor.torch_internals import OpOverload

_REPORTS = {"labels", "return_dict", "output_attentions", "output_hidden_states"}  # they change what is returned


class CannotRewrite(SartorError, ValueError):
    """The forward of a module cannot be repeated from its operators; the message says why."""


@dataclass
class Call:
    """One call of a module inside a recorded forward."""

    start: int  # its operators are those from here up to `stop`
    inputs: list[Value]  # tensors, in the order of the signature
    signature: Signature | None  # None: an argument that JSON cannot hold
    stop: int = -1
    output: Any = None
    unsupported: str = ""  # the type of an output that JSON cannot hold


Calls = Mapping[str, list[Call]]  # by module path


@dataclass(frozen=True, eq=False)
class Take:
    """One recording with the axes of its values, and the calls of every module."""

    graph: Graph
    calls: Calls

    def ops(self, call: Call) -> tuple[Op, ...]:
        """The operators inside a call."""
        return self.graph.ops[call.start : call.stop]

    def funcs(self, call: Call) -> list[OpOverload]:
        """The functions of these operators."""
        return [op.func for op in self.ops(call)]

    def masks(self, original: Mapping[str, Value], masks: Masks) -> Masks:
        """The masks of a cut, on the leaves of this recording.

        Args:
            original: parameters and buffers by name, with the axes that `masks` is about.
            masks: what is removed.

        Raises:
            CannotRewrite: what is removed there cannot be expressed in these axes.
        """
        found: dict[Axis, Tensor] = {}
        removed: list[tuple[str, int, Axis, Tensor]] = []
        for name, v in self.graph.tensors.items():
            for d, a in enumerate(v.axes):
                whole = original[name].axes[d]
                if not masks.is_whole(whole):
                    removed.append((name, d, a, masks.mask(whole)))
        for _, _, a, keep in removed:
            for leaf in dict.fromkeys(leaves(a)):
                if not leaf.frozen and leaf not in found:
                    found[leaf] = keep[positions(a, leaf)].any(1)
        cut = Masks({leaf: keep for leaf, keep in found.items() if not bool(keep.all())})
        for name, d, a, keep in removed:
            if not torch.equal(cut.mask(a), keep):
                raise CannotRewrite(f"with other input sizes, dimension {d} of {name} has other units")
        return cut


@dataclass(frozen=True)
class Family:
    """One example at several sizes; the first take has the sizes of the example itself."""

    takes: Sequence[Take]
    other_paths: Sequence[tuple[Sequence[Op], Calls]]  # at sizes for which the model calls other operators


@dataclass(frozen=True)
class Use:
    """One call of a module in the takes in which the module calls the same operators."""

    takes: Sequence[Take]
    calls: Sequence[Call]  # in each of these takes
    elsewhere: Sequence[tuple[Sequence[Op], Calls]]  # other recordings of the family


@dataclass(frozen=True)
class Tape:
    """Every example of a model, recorded at several sizes."""

    tensors: Mapping[str, Value]  # parameters and buffers of the graph, by name
    families: Sequence[Family]
    forwards: Mapping[str, Forward]  # by module path

    @classmethod
    def of(cls, model: nn.Module, graph: Graph) -> Tape:
        """Record the forward on meta tensors, at several values of every input size that may vary; once for a graph.

        Raises:
            CannotRewrite: the control flow depends on tensor values, or changes from call to call.
        """
        return _recorded(graph, weakref.ref(model))

    def uses(self, path: str) -> Iterator[Use]:
        """Every call of a module, as it is in the takes in which it calls the same operators in the same way.

        Of takes with the same arguments and other operators, those of the example's size count.

        Raises:
            CannotRewrite: an argument is a number that depends on the input sizes.
        """
        for family in self.families:
            groups: list[tuple[Any, list[Take]]] = []
            for take in family.takes:
                look = [(take.funcs(c), c.signature) for c in take.calls.get(path, ())]
                same = next((takes for known, takes in groups if known == look), None)
                if same is None:
                    groups.append((look, [take]))
                else:
                    same.append(take)
            seen: list[list[Any]] = []
            for look, takes in groups:
                signatures = [signature for _, signature in look]
                if signatures in seen:
                    continue
                if any(_differ_in_numbers(a, b) for known in seen for a, b in zip(signatures, known)):
                    raise CannotRewrite(f"module {path!r} is given other numbers at other input sizes")
                seen.append(signatures)
                elsewhere = [(t.graph.ops, t.calls) for t in family.takes if t not in takes]
                for calls in zip(*(take.calls.get(path, ()) for take in takes)):
                    yield Use(takes, calls, (*elsewhere, *family.other_paths))

    def unseen(self, path: str) -> dict[str, Any]:
        """Optional arguments of a module that no example gives another value, with their defaults.

        Left out are those that its code never reads, and those that no argument of the model can reach because every
        argument of the model was given.
        """
        forward = self.forwards[path]
        free = self._never_given("") or set()
        if self.forwards[""].takes_more or not path:
            free = free | {"**"}
        names = self._never_given(path)
        if forward.reads is not None:
            names &= forward.reads
        return {n: forward.defaults[n] for n in sorted(names) if n in free or (free and forward.defaults[n] is None)}

    def _never_given(self, path: str) -> set[str]:
        given = {n for f in self.families for call in f.takes[0].calls.get(path, ()) for n in call.signature or ()}
        return set(self.forwards[path].defaults) - given - _REPORTS


@per_graph
def _recorded(graph: Graph, model: weakref.ref[nn.Module]) -> Tape:
    """The tape of a graph and of the model that it was traced from."""
    alive = model()
    assert alive is not None
    kinds: dict[str, Any] = {path: type(module) for path, module in modules_by_path(alive).items()}
    forwards = {path: Forward.of(kind) for path, kind in kinds.items()}
    recorder = _Recorder(alive, forwards)
    with uncollected():  # garbage collection would walk the recordings again and again
        return Tape(graph.tensors, [recorder.family(g) for g in (graph, *graph.variants)], forwards)


def keep_tape(graph: Graph, same: Graph) -> None:
    """Another graph with the same operators has the same tape."""
    pass_on(_recorded, graph, same)


class _Recorder:
    def __init__(self, model: nn.Module, forwards: Mapping[str, Forward]):
        self.shadow, self.forwards = Shadow(model), forwards

    def family(self, graph: Graph) -> Family:
        """The example of a graph at several sizes."""
        example = graph.example
        if any(t.device.type != "meta" for t in tensors(example)):
            raise CannotRewrite("its control flow depends on tensor values")
        path = [op.func for op in graph.ops]
        accepted: dict[int, tuple[Example, Take]] = {}  # by id of an example
        samples = [v.shape[:1] for v in graph.outputs] == [(batch_of(example),)] * len(graph.outputs)
        half = Masks({find(a): torch.arange(find(a).size) % 2 == 0 for a in graph.leaves.values()})
        other_paths: list[tuple[Sequence[Op], Calls]] = []

        def makes_samples(other: Example, shapes: Sequence[tuple[int, ...]]) -> bool:
            """Whether outputs have the batch size still: a `view(-1, 400)` makes samples of what is none."""
            return not samples or all(shape[:1] == (batch_of(other),) for shape in shapes)

        def accepts(other: Example) -> int:
            try:
                rec, calls = self.recorded(graph, other)
            except Exception:  # the model does not take these sizes
                return 0
            if not makes_samples(other, [v.shape for v in rec.outputs]):
                return 0
            take = Take(solve(rec), calls)
            try:
                take.masks(graph.tensors, half)
            except CannotRewrite:
                other_paths.append((rec.ops, calls))
                return 0
            accepted[id(other)] = other, take
            if [op.func for op in rec.ops] == path:
                return 2
            other_paths.append((rec.ops, calls))
            return 1

        def runs(other: Example) -> int:
            """As `accepts`, without a look at the axes where the same operators are called."""
            try:
                funcs, shapes = self.called(graph, other)
            except Exception:  # the model does not take these sizes
                return 0
            if funcs != path:
                return accepts(other)
            return 2 if makes_samples(other, shapes) else 0

        try:
            first = self.recorded(graph, example)
        except Exception as e:
            raise CannotRewrite(f"its forward cannot be recorded again: {e}") from e
        if [op.func for op in first[0].ops] != path:
            raise CannotRewrite("its forward calls other operators each time")
        others = settings(example, runs)
        if not all(id(e) in accepted or accepts(e) for e in others):
            other_paths.clear()
            others = settings(example, accepts)
        return Family([Take(solve(first[0]), first[1]), *(accepted[id(e)][1] for e in others)], other_paths)

    def called(self, graph: Graph, example: Example) -> tuple[list[OpOverload], list[tuple[int, ...]]]:
        """The operators that the forward calls, and the shapes of its outputs."""
        funcs: list[OpOverload] = []
        with self.shadow.lent() as meta_model, watching(
            None, lambda func, *_: funcs.append(func), meta=True, instead=_answers(graph, example)
        ):  # fmt: skip
            out = call(meta_model, example)
        return funcs, [tuple(t.shape) for t in tensors(out)]

    def recorded(self, graph: Graph, example: Example) -> tuple[Recording, Calls]:
        """The operators of the forward, and the calls of its modules."""
        with self.shadow.lent() as meta_model:
            return self._recorded(graph, example, meta_model)

    def _recorded(self, graph: Graph, example: Example, meta_model: nn.Module) -> tuple[Recording, Calls]:
        rec = Recording.opened(meta_model, example)
        found: dict[str, list[Call]] = {}
        handles = []
        alive: list[Any] = []  # keeps the ids of these tensors from being reused

        def enter(name: str) -> Any:
            positional, defaults = self.forwards[name].positional, self.forwards[name].defaults

            def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
                values = in_order(positional, bound(positional, defaults, args, kwargs))
                inputs = [rec.value(t) for t in tensors_of(values, list(values))]
                alive.append((args, kwargs))
                found.setdefault(name, []).append(Call(len(rec.ops), inputs, signature_of(values)))

            return hook

        def leave(name: str) -> Any:
            def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
                call = next(c for c in reversed(found[name]) if c.stop < 0)
                call.stop, call.output, call.unsupported = len(rec.ops), map_tensors(rec.value, out), _unsupported(out)
                alive.append(out)

            return hook

        for name, module in modules_by_path(meta_model).items():
            handles.append(module.register_forward_pre_hook(enter(name), with_kwargs=True))
            handles.append(module.register_forward_hook(leave(name), with_kwargs=True))
        try:
            with watching(meta_model, rec.see, meta=True, instead=_answers(graph, example), same=rec.same):
                out = call(meta_model, example)
        finally:
            for h in handles:
                h.remove()
        rec.outputs = [rec.value(t, "op") for t in tensors(out)]
        rec._seen.clear()
        return rec, found


def _answers(graph: Graph, other: Example) -> Callable[..., Any]:
    """The values that the forward read when it was traced, for a forward with inputs of other sizes in their order.

    A whole number that was a size of the inputs is that size still: the largest of the lengths of padded samples.
    """
    questions = iter([op for op in graph.ops if op.name in QUESTIONS])
    sizes: dict[int, set[int]] = {}
    for before, after in zip(tensors(graph.example), tensors(other), strict=True):
        for old, new in zip(before.shape, after.shape):
            sizes.setdefault(old, set()).add(new)

    def instead(func: OpOverload, args: Any, kwargs: Any) -> Any:
        if short_name(func) not in QUESTIONS:
            return NotImplemented
        value = repeated(next(questions, graph.ops[0]), func)  # its index may be another one at other sizes
        now = sizes.get(value, set()) if type(value) is int else set()
        return next(iter(now)) if len(now) == 1 else value

    return instead


def _differ_in_numbers(one: Signature | None, other: Signature | None) -> bool:
    """Whether two signatures differ, and only in numbers."""
    if one is None or other is None or one == other or set(one) != set(other):
        return False
    return all(type(one[n]) is type(other[n]) in (int, float) for n in one if one[n] != other[n])


def _unsupported(x: Any) -> str:
    """The first container that is no plain tuple, list or dict."""
    if isinstance(x, Mapping | list | tuple):
        inside = x.values() if isinstance(x, Mapping) else x
        return (
            type(x).__name__
            if type(x) not in (tuple, list, dict)
            else next(filter(None, map(_unsupported, inside)), "")
        )
    return "" if x is None or isinstance(x, Tensor | bool | int | float | str) else type(x).__name__


__all__ = ["Call", "Calls", "CannotRewrite", "Family", "Take", "Tape", "keep_tape"]
