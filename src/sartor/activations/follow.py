"""Show the recorded operators in a running forward: what every operator reads and gives, and what may be changed.

A forward is run with tensors of its own (other values, another batch size, other widths, real or on meta). `recognise`
finds the recorded operators among its calls, for passes over data; `follow` compares each call with the operator that
was recorded at that place, for checks.

Where a forward is only looked at, it runs in inference mode, because there composite operators (linear, attention,
LSTM) stay whole. With gradients or in lower precision they stay whole too: autograd and autocast are kept away from the
outside of an operator, so that nothing is taken apart before it is seen, and let in on its inside.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sartor.activations.recognition import Recogniser, recorded
from sartor.borrow import device_of
from sartor.errors import CannotTrace
from sartor.structure.calls import Op
from sartor.structure.example import Example, call
from sartor.structure.graph import Graph
from sartor.structure.model_copy import modules_of, named_tensors
from sartor.structure.operator_watch import caller, watching
from sartor.torch_internals import OpOverload, dispatch_keys, is_excluded, set_excluded
from sartor.types import Precision, check_precision

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Visit = Callable[[Op, Args, Kwargs, Any], None]
_OUTSIDE = ("ADInplaceOrView", "AutocastCPU", "AutocastCUDA", "AutocastXPU", "AutocastMPS")


class OffPath(CannotTrace):
    """The forward calls another operator than the one that was recorded at this place."""

    def __init__(self, func: OpOverload, path: str, expected: str):
        super().__init__(f"the forward took another path than when traced: {func} in {path}, expected {expected}")
        self.func = func


@dataclass(frozen=True)
class Interventions:
    """What is changed in a forward while it is followed; None: nothing of the kind.

    They see the operators that are recognised. `after` needs a forward on real tensors.
    """

    before: Callable[[Op, Args], Args] | None = None  # gives the arguments that an operator is called with
    instead: Callable[[Op, Args, Kwargs], Any] | None = None  # gives the result itself, or NotImplemented
    after: Callable[[Op, Any], Any] | None = None  # gives what the forward goes on with in place of the result


@dataclass(frozen=True)
class Numerics:
    """What a followed forward computes with."""

    gradients: bool = False  # whether the forward is recorded for autograd
    precision: Precision = "float32"  # "float32" is the model's own; "bfloat16" is autocast
    meta: bool = False  # whether the tensors are on meta: shapes without values


@dataclass(frozen=True)
class Match:
    """When a call is the recorded one, and what happens where it is not."""

    same: Callable[[OpOverload, OpOverload], bool] = operator.is_  # same(recorded, called)
    may_leave: Callable[[int], bool] = lambda place: False
    # may_leave(index of the operator expected): whether the forward may go its own way from here on, unvisited
    ahead: Callable[[int, OpOverload, Args], int | None] = lambda place, func, args: None
    # ahead(index of the operator expected, func, args): the index of a later operator that the call is, if the forward
    # may leave out those before it


class Walk:
    """How far a followed forward has come."""

    def __init__(self, ops: Sequence[Op], match: Match = Match()):
        self.ops, self.match = ops, match
        self.place = 0  # index of the operator expected next; len(ops) at the end
        self.left = False  # whether the forward has left the recorded path, as `Match.may_leave` allowed it

    @property
    def next(self) -> Op | None:
        """The operator expected next; None at the end, and off the path."""
        return self.ops[self.place] if self.place < len(self.ops) and not self.left else None

    def expected(self, func: OpOverload, args: Args, kwargs: Kwargs) -> Op | None:
        """The operator that a call is about to be; None: another one than is expected."""
        op = self.next
        return op if op is not None and self.match.same(op.func, func) else None

    def called(self, func: OpOverload, args: Args, kwargs: Kwargs, path: str) -> Op | None:
        """The operator that a call was; None: off the path, where that is allowed."""
        if self.left:
            return None
        op = self.next
        if op is None or not self.match.same(op.func, func):
            later = self.match.ahead(self.place, func, args)
            if later is not None:
                self.place = later
                return self.ops[later]
            if self.match.may_leave(self.place):
                self.left = True
                return None
            raise OffPath(func, path, "the end" if op is None else op.where)
        return op

    def passed(self, op: Op | None, func: OpOverload, args: Args, kwargs: Kwargs, out: Any) -> None:
        """The call was shown."""
        self.place += op is not None


class Recognised:
    """Which operators a recognised forward has called so far."""

    def __init__(self, recogniser: Recogniser):
        self.recogniser = recogniser
        self._ahead: tuple[OpOverload, Op | None] | None = None  # what was found before the call was computed

    @property
    def calls(self) -> Sequence[int]:
        """How often each recorded operator was called; 0: it was not seen."""
        return self.recogniser.calls

    def expected(self, func: OpOverload, args: Args, kwargs: Kwargs) -> Op | None:
        """The operator that a call is about to be; None: none of the recorded ones."""
        op = self.recogniser.find(func, args, kwargs)
        self._ahead = (func, op)
        return op

    def called(self, func: OpOverload, args: Args, kwargs: Kwargs, path: str) -> Op | None:
        """The operator that a call was; None: none of the recorded ones."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] is func:
            return ahead[1]
        return self.recogniser.find(func, args, kwargs)

    def passed(self, op: Op | None, func: OpOverload, args: Args, kwargs: Kwargs, out: Any) -> None:
        """The call was shown."""
        self.recogniser.enter(op, func, args, kwargs, out)


@contextmanager
def follow(
    ops: Sequence[Op],
    model: nn.Module,
    visit: Visit,
    *,
    changes: Interventions = Interventions(),
    numerics: Numerics = Numerics(),
    match: Match = Match(),
) -> Iterator[Walk]:
    """Follow every operator call of the forward that is run inside the `with` block, one after the other as recorded.

    For checks that must not tolerate another path; passes over data use `recognise`.

    Args:
        ops: recorded from this model, at any batch size, or from the one that this was cut from.
        model: whose modules are called.
        visit: called as visit(op, args, kwargs, out) behind each operator, with what the forward called it with.
        changes: other arguments for an operator, or another result.
        numerics: gradients, precision, or shapes alone.
        match: when a call is the recorded one.

    Yields:
        How far the forward has come.

    Raises:
        OffPath (a CannotTrace): the forward calls another operator than the recorded one.
        BadInput: an unknown precision.
    """
    walk = Walk(ops, match)
    with _watched(model, walk, visit, changes, numerics):
        yield walk


@contextmanager
def recognise(
    graph: Graph,
    model: nn.Module,
    visit: Visit,
    *,
    changes: Interventions = Interventions(),
    numerics: Numerics = Numerics(),
    tensors: Mapping[str, Tensor] | None = None,
) -> Iterator[Recognised]:
    """Recognise the operators of a graph in the forward that is run inside the `with` block; see `recognition`.

    The forward may take another path than the recorded one: with a mask or a cache, at other lengths and batch sizes,
    with an early exit, or with more rounds of a loop. Calls that are not recognised run unvisited and unchanged; an
    operator that is called more often than it was recorded is visited as often as it is called.

    Args:
        graph: traced from this model.
        model: whose modules are called.
        visit: called as visit(op, args, kwargs, out) behind each recognised operator.
        changes: other arguments for a recognised operator, or another result.
        numerics: gradients and precision.
        tensors: the parameters and buffers that the forward reads, by name; None: the model's own.

    Yields:
        Which operators were called. Whoever needs one that was not has to say what that means: it was not changed
        either.

    Raises:
        BadInput: an unknown precision.
    """
    paths: dict[int, str] = {}

    def path() -> str:
        if not paths:
            paths.update({id(module): name for module, name in modules_of(model).items()})
        return caller(paths)

    if tensors is None:
        tensors = {name: t for *_, name, t in named_tensors(model)}
    recogniser = Recogniser(recorded(graph), tensors, path)
    seen = Recognised(recogniser)
    with _watched(model, seen, visit, changes, numerics, recogniser.same):
        yield seen


@contextmanager
def _watched(
    model: nn.Module,
    matcher: Walk | Recognised,
    visit: Visit,
    changes: Interventions,
    numerics: Numerics,
    same: Callable[[Tensor, Tensor], None] | None = None,
) -> Iterator[None]:
    """Show and change the calls that a matcher knows."""

    def see(func: OpOverload, args: Args, kwargs: Kwargs, out: Any, path: str) -> None:
        op = matcher.called(func, args, kwargs, path)
        if op is not None:
            visit(op, args, kwargs, out)
        matcher.passed(op, func, args, kwargs, out)

    def compute(func: OpOverload, args: Args, kwargs: Kwargs) -> Any:
        """The result of one operator with the changes asked for; NotImplemented: whoever watches computes it."""
        op = matcher.expected(func, args, kwargs)
        if op is None:
            return NotImplemented
        given = args if changes.before is None else changes.before(op, args)
        out = NotImplemented if changes.instead is None else changes.instead(op, given, kwargs)
        if out is NotImplemented:
            if changes.after is None and given is args:
                return NotImplemented
            out = func(*given, **kwargs)
        return out if changes.after is None else changes.after(op, out)

    with autocast(model, numerics.precision):
        keys = _Keys()
        changed = any((changes.before, changes.instead, changes.after))

        def compute_inside(func: OpOverload, args: Args, kwargs: Kwargs) -> Any:
            """The same, with autograd and autocast let in."""
            gradients = numerics.gradients
            with keys.let_in(), torch.inference_mode(not gradients), torch.set_grad_enabled(gradients):
                out = compute(func, args, kwargs) if changed else NotImplemented
                return func(*args, **kwargs) if out is NotImplemented else out

        special = numerics.gradients or numerics.precision != "float32"
        instead = compute_inside if special else compute if changed else None
        with (
            watching(model if isinstance(matcher, Walk) else None, see, meta=numerics.meta, instead=instead, same=same),
            keys.kept_out() if special else nullcontext(),
        ):
            yield


def replay(graph: Graph, model: nn.Module, example: Example, visit: Visit) -> Any:
    """Run model(example) without gradients and show every call of a recorded operator with its real tensors.

    Args:
        graph: traced from this model, with any inputs it takes.
        visit: called as visit(op, args, kwargs, out) for every operator that is recognised; see `recognise`.

    Returns:
        What the model returns.
    """
    with recognise(graph, model, visit):
        return call(model, example)


def autocast(model: nn.Module, precision: str) -> torch.autocast | nullcontext[None]:
    """The context of a forward in this precision on the model's device; "float32" leaves everything as it is."""
    check_precision(precision)
    return nullcontext() if precision == "float32" else torch.autocast(device_of(model).type, torch.bfloat16)


class _Keys:
    """The dispatch keys of autograd's views and of autocast, kept out of a thread's dispatch or let in again."""

    def __init__(self) -> None:
        self._keys = dispatch_keys(_OUTSIDE)
        self._usual = self._excluded()

    def _excluded(self) -> list[bool]:
        return [is_excluded(k) for k in self._keys]

    def _exclude(self, excluded: Sequence[bool]) -> None:
        for key, value in zip(self._keys, excluded):
            set_excluded(key, value)

    @contextmanager
    def kept_out(self) -> Iterator[None]:
        """Inside, no operator goes through these keys; afterwards they are as when this object was made."""
        try:
            self._exclude([True] * len(self._keys))
            yield
        finally:
            self._exclude(self._usual)

    @contextmanager
    def let_in(self) -> Iterator[None]:
        """Inside, the keys are as when this object was made; afterwards as before."""
        before = self._excluded()
        self._exclude(self._usual)
        try:
            yield
        finally:
            self._exclude(before)
