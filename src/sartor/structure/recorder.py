"""Run a model once and record its operator calls.

The forward runs on meta tensors, on a copy of the model that shares nothing with it: nothing is computed, no weight is
read, the model itself is not touched. A model whose control flow depends on values computed from weights is run on a
copy with real tensors instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from sartor.errors import CannotTrace
from sartor.structure.example import Example, as_args, batch_of, map_tensors, tensors, with_batch
from sartor.structure.model_copy import clone, empty_like_on_meta, evaluating, named_tensors
from sartor.structure.operator_watch import watching
from sartor.structure.recording import Recording
from sartor.structure.rules.shapes import META
from sartor.structure.value_reads import Answers, Opposite, decisions

_BRANCHES = 8  # decisions of one forward whose other branch is recorded, at most


def record(model: nn.Module, example: Example) -> Recording:
    """The operator calls of model(example) in evaluation mode: on meta tensors or, if that fails, on real copies.

    Raises:
        CannotTrace: the forward fails on real tensors as well; its own error is chained.
    """
    meta_model = evaluating(clone(model, empty_like_on_meta))
    inputs = map_tensors(lambda t: t.detach().to(META) if t.device.type != "meta" else t, example)
    try:
        return _record(meta_model, inputs, real=list(tensors(example)))
    except Exception as first:
        if any(t.device.type == "meta" for *_, t in named_tensors(model)):
            raise CannotTrace(f"the forward failed on meta tensors, and the model holds no others: {first}") from first
    real = clone(model, lambda t: t.detach().clone()).eval()
    try:
        return _record(real, map_tensors(lambda t: t.detach().clone(), example))
    except Exception as e:
        raise CannotTrace(f"the model's forward raised {type(e).__name__} on the example inputs: {e}") from e


def record_training(model: nn.Module, example: Example) -> Recording | None:
    """The operator calls in training mode on meta tensors, with twice the batch; None if it fails or is random.

    The batch is doubled because batch norm in training mode needs more than one value. The forward is recorded twice:
    if the calls differ, chance decides its path.
    """
    try:
        doubled = with_batch(example, 2 * batch_of(example))
        inputs = map_tensors(lambda t: t.detach().to(META), doubled)
        copies = [clone(model, empty_like_on_meta).train() for _ in range(2)]
        rec, again = (_record(copy, inputs, real=list(tensors(doubled))) for copy in copies)
    except Exception:
        return None
    return rec if [op.func for op in rec.ops] == [op.func for op in again.ops] else None


def record_variant(model: nn.Module, example: Example) -> Recording | None:
    """The operator calls of model(example) in evaluation mode on meta tensors; None if the forward fails there."""
    inputs = map_tensors(lambda t: t.detach().to(META) if t.device.type != "meta" else t, example)
    try:
        return _record(evaluating(clone(model, empty_like_on_meta)), inputs, real=list(tensors(example)))
    except Exception:
        return None


def record_branches(model: nn.Module, example: Example, rec: Recording) -> Iterator[Recording]:
    """The same forward with one decision turned round, for each of the first decisions that `rec` holds.

    A decision is a value that Python reads as true or false (`if confidence.min() > 0.9: return early`). A branch that
    fails, such as an assertion, or that calls the same operators is left out.
    """
    on_meta = all(t.device.type == "meta" for t in tensors(rec.example))
    for place in decisions(rec)[:_BRANCHES]:
        try:
            if on_meta:
                copy = evaluating(clone(model, empty_like_on_meta))
                other = _record(copy, rec.example, real=list(tensors(example)), opposite=place)
            else:
                copy = clone(model, lambda t: t.detach().clone()).eval()
                other = _record(copy, map_tensors(lambda t: t.detach().clone(), example), opposite=place)
        except Exception:
            continue
        if [op.func for op in other.ops] != [op.func for op in rec.ops]:
            yield other


def _record(
    model: nn.Module, example: Example, *, real: list[Tensor] | None = None, opposite: int | None = None
) -> Recording:
    """Record one forward.

    Args:
        real: the inputs with their values, where model and example are on meta.
        opposite: number of the value that is read as the opposite of what it is; None: of no value.
    """
    rec = Recording.opened(model, example)
    args, kwargs = as_args(example)
    instead: Callable[..., Any] | None = None if real is None else Answers(rec, real)
    if opposite is not None:
        instead = Opposite(opposite, instead)
    with watching(model, rec.see, meta=real is not None, instead=instead, same=rec.same):
        out = model(*args, **kwargs)
    rec.outputs = [rec.value(t, "op") for t in tensors(out)]
    for v in rec.inputs + rec.outputs:  # the caller holds them, so they outlive the forward
        v.died = None
    rec._seen.clear()
    return rec


__all__ = ["record", "record_branches", "record_training", "record_variant"]
