"""The proof of a cut, taken on every run before any repair. It has two parts, both on the network that is delivered.

Slices (`delivered.py`): every tensor holds the kept units of the original, bit for bit, and every attribute is the
original's, except sizes that the cut changes.

Function: the cut network equals the zero-masked original. The zero-masked original keeps its shapes; every parameter
slice of a removed unit is zero. Operators that mix units are computed over the remaining ones (`survivors.py`). The two
are compared with redrawn weights, because a dead path would hide a difference (`redraw.py`), in float64, on two inputs
of different batch sizes, shortened where the network takes that (`short_inputs.py`); and with the user's weights on the
user's inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from sartor.borrow import borrowed, uncollected
from sartor.errors import BadInput, NothingToDo, ProofFailed
from sartor.structure.axes import Axis, find
from sartor.structure.example import Example, batch_of, call, tensors, with_batch
from sartor.structure.graph import Graph, Resolved
from sartor.structure.model_copy import clone, named_tensors
from sartor.structure.unfibre import straight
from sartor.surgery.cut import cut
from sartor.surgery.delivered import check_delivered, intended
from sartor.surgery.double import DoubleThroughout, example_in_double, in_double, to_double_
from sartor.surgery.outputs import gap
from sartor.surgery.redraw import other_values, redrawn
from sartor.surgery.short_inputs import shortened
from sartor.surgery.silence import silence, silence_
from sartor.surgery.survivors import irreproducible, reference_output, rewritten_paths
from sartor.types import Plan, Verdict
from sartor.types.verdict import Gap
from sartor.wrappers import unwrapped

_PICKS = {"topk", "sort", "argsort", "nms", "nonzero", "argmax", "max", "unique", "_unique2"}
_HALF = {torch.float16, torch.bfloat16}
_TOLERANCE_DOUBLE, _TOLERANCE_FLOAT = 1e-7, 1e-4  # with redrawn weights
_MOST_ROUNDING = 1e-2  # relative error in the model's own precision that rounding alone may explain
_LARGEST_DOUBLE = 200_000_000  # elements of a network that is copied in float64, at most
_MOST_OTHERS = 4  # inputs of other kinds that are compared, at most
_MOST_ALONE = 64  # groups that are tried one by one to name the worst


@dataclass(frozen=True)
class ProofInputs:
    """What the networks of a proof are called with."""

    example: Example  # real inputs, a few samples
    others: Sequence[Example] = ()  # inputs of other kinds that the original takes: other sizes, with and without masks


@uncollected()  # garbage collection would walk the graph at every copy
def prove(
    model: nn.Module,
    graph: Graph,
    plan: Plan | Resolved,
    example: Example | ProofInputs,
    *,
    tolerance: float = 1e-4,
    smaller: nn.Module | None = None,
) -> Verdict:
    """Compare a cut network with the kept slices of the original, and with the zero-masked original.

    Args:
        example: real inputs, a few samples; inputs of other kinds besides are compared with redrawn weights.
        tolerance: largest difference allowed with the user's weights, relative to the largest value of each output.
            With redrawn weights it is 1e-7, or 1e-4 where the forward does not run in float64.
        smaller: the cut network, if it was made already; it is compared as it is.

    Raises:
        ProofFailed: a tensor, an attribute or an output differs; names the first, or the worst group.
        NothingToDo: the plan keeps every unit.
        BadInput: the plan is not for this graph.
    """
    model = unwrapped(model).module
    smaller = None if smaller is None else unwrapped(smaller).module
    inputs = example if isinstance(example, ProofInputs) else ProofInputs(example)
    resolved = graph.resolve(plan)
    if not resolved.masks:
        raise NothingToDo("the plan keeps every unit of every group")
    network = cut(model, graph, resolved) if smaller is None else smaller
    held = check_delivered(model, graph, resolved, network)
    cut_groups = [n for n in resolved.plan.keep if find(graph.leaves[n]) in resolved.masks]
    left_out = _left_out(graph, cut_groups)
    if any(t.is_meta for *_, t in named_tensors(model)) or any(t.is_meta for t in tensors(inputs.example)):
        why = dict.fromkeys(cut_groups, "the network is on meta: shapes were compared, there are no values")
        return Verdict(0.0, 0, len(why), tolerance, tuple(why.items()), held)
    try:
        found = _function(model, resolved, network, inputs, (tolerance, left_out))
    except _Incomplete as e:
        left_out = _left_out(graph, cut_groups, {n: str(e) for n in cut_groups if graph.groups[n].mixes})
        found = _function(model, resolved, network, inputs, (tolerance, left_out))
    compared = [n for n in cut_groups if n not in left_out]
    if found is None:
        return Verdict(0.0, 0, len(left_out), tolerance, tuple(left_out.items()), held)
    pair, redraw, own = found
    for result, weights in ((redraw, "redrawn weights"), (own, "its own weights")):
        if not result.error <= result.tolerance:
            raise ProofFailed(_failure(pair, result, weights, compared))
    note = "the function was compared in a cut that keeps the groups left out whole" if left_out else ""
    if not redraw.outputs and not own.outputs:
        why = dict.fromkeys(cut_groups, redraw.note or "no output holds a finite value")
        return Verdict(0.0, 0, len(cut_groups), tolerance, tuple(why.items()), held)
    return Verdict(
        own.error, len(compared), len(left_out), tolerance, tuple(left_out.items()), held,
        outputs=redraw.outputs + own.outputs, examples=redraw.examples + own.examples,
        redrawn_error=redraw.error if redraw.outputs else None, redrawn_tolerance=redraw.tolerance,
        redrawn_precision=redraw.precision, note="; ".join(filter(None, (note, redraw.note, own.note))),
    )  # fmt: skip


def _left_out(graph: Graph, cut_groups: Sequence[str], also: Mapping[str, str] | None = None) -> dict[str, str]:
    """Cut groups without a reference -> why; groups tied to them only go together with them."""
    why = {**(also or {}), **irreproducible(graph, cut_groups)}
    for tied in graph.ties:
        first = next((n for n in tied if n in why), None)
        if first is not None:
            why.update({n: f"tied to {first!r}: {why[first]}" for n in tied if n in cut_groups and n not in why})
    return why


def _function(
    model: nn.Module, resolved: Resolved, network: nn.Module, inputs: ProofInputs, how: tuple[float, Mapping[str, str]]
) -> tuple[_Pair, _Result, _Result] | None:
    """(what was compared, with redrawn weights, with the user's); None: every cut group is left out.

    Where groups are left out, the others are compared in a network that keeps those whole: the slices of the delivered
    network were compared already.

    Args:
        how: (tolerance with the user's weights, groups that are left out).
    """
    tolerance, left_out = how
    if left_out:
        plan = resolved.plan
        keep = {n: k for n, k in plan.keep.items() if n not in left_out}
        fibres = {n: rows for n, rows in plan.fibres.items() if n in keep}
        resolved = resolved.graph.resolve(replace(plan, keep=keep, fibres=fibres))
        if not resolved.masks:
            return None
        network = cut(model, resolved.graph, resolved)
    pair = _Pair(resolved.graph, resolved, network)
    return pair, pair.redrawn(model, inputs), pair.on_own_weights(model, inputs.example, tolerance)


@dataclass
class _Result:
    """Comparisons of one kind, taken together."""

    original: Callable[[], nn.Module]  # gives the original that was compared with
    error: float = 0.0
    outputs: int = 0
    examples: int = 0
    where: str = ""
    tolerance: float = _TOLERANCE_FLOAT
    precision: str = ""
    note: str = ""
    failed_on: list[Example] = field(default_factory=list)
    silenced: nn.Module | None = None  # the zero-masked original, made for the first comparison

    def add(self, found: Gap, example: Example) -> None:
        """One more pair of forwards."""
        self.outputs, self.examples = self.outputs + found.outputs, self.examples + 1
        if not found.error <= self.error:
            self.error, self.where = found.error, found.where
            self.failed_on = [example]


@dataclass(frozen=True)
class _Pair:
    """A plan and the network that was cut by it."""

    graph: Graph
    resolved: Resolved
    network: nn.Module

    def redrawn(self, model: nn.Module, inputs: ProofInputs) -> _Result:
        """Compared with redrawn weights on two inputs and the first ones of other kinds.

        In float64, or in the model's own precision where that does not run.
        """
        size = sum(t.numel() for *_, t in named_tensors(model))
        # a rewritten forward takes the sizes that it was recorded with, and no others
        example = inputs.example
        short = example if rewritten_paths(self.network) else shortened(model, self.graph, example)
        notes = []
        for double in (True, False):
            if double and size > _LARGEST_DOUBLE:
                notes.append(
                    "redrawn weights were compared in the model's precision: float64 copies would be too large"
                )
                continue
            try:
                return self._redrawn(model, inputs, short, double=double, note="; ".join(notes))
            except _OriginalFailed as e:
                notes.append(f"redrawn weights in {'float64' if double else 'own precision'}: {e}"[:200])
        return _Result(lambda: model, note="; ".join(notes))

    def _redrawn(self, model: nn.Module, given: ProofInputs, short: Example, *, double: bool, note: str) -> _Result:
        half = any(t.dtype in _HALF for *_, t in named_tensors(model))
        example = given.example
        if double and half:
            model, example, short = in_double(model), example_in_double(example), example_in_double(short)
        original, inputs = self._drawn(model, example, short, double=double and half)
        inputs += list(given.others[:_MOST_OTHERS])
        if double:
            original, inputs = to_double_(original), [example_in_double(one) for one in inputs]
        values = {name: t for *_, name, t in named_tensors(original)}
        network = _with_values(self.network, values, self.resolved)
        result = _Result(lambda: original, precision="float64" if double else "own")
        if not self.resolved.orders:  # copies of large networks in float64 take time
            result.silenced = silence_(original, self.resolved)
            result.original = partial(self._drawn_again, model, (example, short), double=double, half=half)
        result.tolerance = _TOLERANCE_DOUBLE if double else _TOLERANCE_FLOAT
        notes = [note] if note else []
        for i, one in enumerate(inputs):
            try:
                self._compare(result, network, one)
            except _OriginalFailed as e:
                notes.append(f"not compared with redrawn weights and {_batch_size(one)} samples: {e}"[:200])
            except _Refused as e:
                if i < len(inputs) - len(given.others[:_MOST_OTHERS]):
                    raise
                notes.append(f"the cut network refuses an input that the original takes: {e}"[:300])
        if not result.examples:
            raise _OriginalFailed("; ".join(notes))
        result.note = "; ".join(notes)
        return result

    def _drawn(
        self, model: nn.Module, example: Example, short: Example, *, double: bool
    ) -> tuple[nn.Module, list[Example]]:
        """The original with redrawn weights, and two inputs.

        Raises:
            _OriginalFailed: it does not run on them.
        """
        inputs = _two_inputs(short)
        for one, both in ((inputs[0], inputs), (example, [example, other_values(example)])):
            try:
                with _forward(double):
                    return redrawn(model, self.graph, one), both
            except Exception as e:  # the batch size of the example may be the only one, as in a graph network
                failure = e
        raise _OriginalFailed(f"{type(failure).__name__}: {failure}") from failure

    def _drawn_again(
        self, model: nn.Module, examples: tuple[Example, Example], *, double: bool, half: bool
    ) -> nn.Module:
        """The original with the same redrawn weights as before."""
        original, _ = self._drawn(model, *examples, double=double and half)
        return to_double_(original) if double else original

    def on_own_weights(self, model: nn.Module, example: Example, tolerance: float) -> _Result:
        """Compared with the weights and on the inputs of the user, in float64 where rounding could decide.

        Rounding decides where operators pick units, in half precision, and where an output is the small difference of
        large numbers: what differs in the network's own precision is compared once more in float64.
        """
        result = _Result(lambda: model, tolerance=tolerance, precision="own")
        picks = any(op.name in _PICKS and op.live for op in self.graph.ops)
        if picks or any(t.dtype in _HALF for *_, t in named_tensors(model)):
            try:
                return self._in_double(model, example, tolerance)
            except _OriginalFailed:
                pass
        try:
            self._compare(result, self.network, example)
        except _OriginalFailed as e:
            raise e.__cause__ or e from None  # a user's own error reaches the user
        if not picks and tolerance < result.error < _MOST_ROUNDING:
            try:
                return self._in_double(model, example, tolerance)
            except _OriginalFailed:
                pass
        return result

    def _in_double(self, model: nn.Module, example: Example, tolerance: float) -> _Result:
        doubled = in_double(model)
        result = _Result(lambda: doubled, tolerance=tolerance, precision="float64")
        self._compare(result, in_double(self.network), example_in_double(example))
        return result

    def _compare(self, result: _Result, network: nn.Module, example: Example) -> None:
        """Add the difference of the networks on one input.

        A plan with fibres is compared in two steps. First the original is renumbered so that all rows keep the same
        places; the renumbered network must compute what the original does. Then it is cut in the ordinary way.

        Raises:
            _OriginalFailed: the original does not run on this input.
            ProofFailed: the cut network does not, or renumbering changes the function.
        """
        resolved, double = self.resolved, result.precision == "float64"
        renumbering = Gap(0.0, 0)
        try:
            if resolved.orders:
                original, resolved = straight(result.original(), self.graph, resolved)
                outputs = [_output(m, example, double=double) for m in (result.original(), original)]
                renumbering = gap(*outputs)
            else:
                original = result.original() if result.silenced is None else result.silenced
            if result.silenced is None:
                result.silenced = silence(original, self.graph, resolved)
            expected = _reference(result.silenced, resolved, self.network, example, double=double)
        except Exception as e:
            raise _OriginalFailed(f"{type(e).__name__}: {e}") from e
        if not renumbering.error <= result.tolerance:
            raise ProofFailed(
                f"renumbering the units row by row changes the function: relative error {renumbering.error:.2e} > "
                f"{result.tolerance:.0e} without any cut; leave the fibres out (of {', '.join(self.resolved.orders)}) "
                "and report the model"
            )
        try:
            actual = _output(network, example, double=double)
        except Exception as e:
            kind = _Refused if isinstance(e, BadInput) else ProofFailed
            raise kind(
                f"the cut network fails where the original runs: {type(e).__name__}: {e} (batch size "
                f"{_batch_size(example)}); report the model"
            ) from e
        result.add(gap(expected, actual), example)


class _OriginalFailed(Exception):
    """The original does not run on an input, or in a precision."""


class _Refused(ProofFailed):
    """The cut network has a rewritten forward that refuses an input by name; it does not compute a wrong result."""


class _Incomplete(Exception):
    """The forward calls an operator that mixes units more often, or less often, than when it was traced."""


def _batch_size(example: Example) -> int:
    try:
        return batch_of(example)
    except BadInput:
        return 1


def _two_inputs(example: Example) -> list[Example]:
    """One sample of the example, and two samples with other values."""
    try:
        return [with_batch(example, 1), other_values(with_batch(example, 2))]
    except BadInput:
        return [example, other_values(example)]


def _with_values(network: nn.Module, values: dict[str, torch.Tensor], resolved: Resolved) -> nn.Module:
    """A copy of the cut network that holds the same slices of other values."""
    known: dict[Axis, torch.Tensor] = {}
    names = {id(t): name for *_, name, t in reversed(list(named_tensors(network)))}

    def slice_of(t: torch.Tensor) -> torch.Tensor:
        whole = values[names[id(t)]]
        part = intended(whole, names[id(t)], resolved, known)
        return part.clone() if part.shape == whole.shape else part  # nothing was removed: it may be the tensor itself

    return clone(network, slice_of)


def difference(model: nn.Module, graph: Graph, plan: Plan | Resolved, smaller: nn.Module, example: Example) -> float:
    """Largest difference between the cut model and the zero-masked original, relative to the largest output.

    Where a forward selects by value (top-k, non-maximum suppression), rounding could decide between nearly equal
    candidates: both models are then computed in float64.
    """
    resolved = graph.resolve(plan)
    if any(graph.groups[n].mixes for n in resolved.orders):
        raise BadInput("difference: norms over fibred units have no reference; take the plan through `straight` first")
    double = any(op.name in _PICKS and op.live for op in graph.ops)
    if double:
        model, smaller, example = in_double(model), in_double(smaller), example_in_double(example)
    silenced = silence(model, graph, resolved)
    expected = _reference(silenced, resolved, smaller, example, double=double)
    return gap(expected, _output(smaller, example, double=double)).error


def _reference(silenced: nn.Module, resolved: Resolved, network: nn.Module, example: Example, *, double: bool) -> Any:
    """What the cut network must give."""
    with borrowed(silenced), _forward(double), torch.no_grad():
        found = reference_output(silenced, resolved.graph, resolved.masks, example, rewritten_paths(network))
    if not found.complete:
        raise _Incomplete("on these inputs its operator is called another number of times than when it was traced")
    return found.output


def _output(model: nn.Module, example: Example, *, double: bool = False) -> Any:
    with borrowed(model), _forward(double), torch.no_grad():
        return call(model, example)


class _forward:
    """A forward with its own random numbers, in float64 throughout if asked for."""

    def __init__(self, double: bool):
        self.inside = [torch.random.fork_rng(), DoubleThroughout() if double else nullcontext()]

    def __enter__(self) -> None:
        self.inside[0].__enter__()
        torch.manual_seed(0)
        self.inside[1].__enter__()

    def __exit__(self, *error: Any) -> None:
        self.inside[1].__exit__(*error)
        self.inside[0].__exit__(*error)


def _failure(pair: _Pair, result: _Result, weights: str, compared: Sequence[str]) -> str:
    """The message, with the group that differs most when it is cut alone."""
    alone: dict[str, float] = {}
    original = result.original()
    for name in compared[:_MOST_ALONE]:
        try:
            alone[name] = _alone(result, original, pair, name)
        except Exception:  # another failure than the one that is reported
            continue
    text = f"the cut model differs from the zero-masked original with {weights}: relative error {result.error:.2e} > "
    text += f"{result.tolerance:.0e} at {result.where}"
    worst = max(alone, key=alone.__getitem__, default="")
    if not alone or not alone[worst] > result.tolerance:
        return f"{text}; no group differs when it is cut alone. Report the model"
    text += f"; group {worst!r} alone differs by {alone[worst]:.2e}"
    return f"{text}. Exclude it (exclude=[{worst!r}]) and report the model"


def _alone(result: _Result, original: nn.Module, pair: _Pair, name: str) -> float:
    graph, plan = pair.graph, pair.resolved.plan
    tied = next((t for t in graph.ties if name in t), (name,))
    keep = {n: plan.keep[n] for n in tied if n in plan.keep}
    one = graph.resolve(replace(plan, keep=keep, fibres={n: r for n, r in plan.fibres.items() if n in keep}))
    again = _Result(lambda: original, tolerance=result.tolerance, precision=result.precision)
    network = cut(original, graph, one)
    _Pair(graph, one, network)._compare(again, network, result.failed_on[0])
    return again.error


__all__ = ["ProofInputs", "difference", "prove"]
