"""Accuracy of a classifier on labelled batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sartor.borrow import borrowed, device_of
from sartor.errors import BadInput
from sartor.structure.example import Example, call, first_tensor
from sartor.train.batch import move, split
from sartor.train.targets import check_classes, is_distribution
from sartor.types import Data, Judge

_PICTURES = 2 << 20  # bytes of pictures that go through a network at once; its activations are larger


def accuracy(model: nn.Module, loader: Iterable[Any], device: torch.device | str | None = None) -> float:
    """Top-1 accuracy, in evaluation mode and full precision.

    A sample with a NaN among its logits counts as wrong, so that a damaged network does not score high by accident.

    Args:
        model: returns logits [n, classes] or [n, classes, ...]; training modes of its modules are restored. If it is
            not on `device`, a copy is evaluated there.
        loader: batches as `sartor.train.split` reads them; targets are class numbers [n] or [n, ...], or
            scores of all classes in the shape of the logits.
        device: to compute on; None: the device of the model.

    Returns:
        Percentage of correct predictions, in [0, 100].

    Raises:
        BadInput: there are no batches, or the shapes of logits and targets do not fit.
    """
    home = device_of(model)
    where = torch.device(device) if device is not None else home
    if where.type != home.type or (where.index is not None and where.index != home.index):
        model = copy.deepcopy(model).to(where)
    right = torch.zeros((), dtype=torch.int64, device=where)
    total = 0
    with borrowed(model), torch.no_grad():
        for batch in loader:
            inputs, targets = split(batch)
            targets = torch.as_tensor(targets)
            for few, wanted in _in_parts(inputs, targets, where):
                logits = first_tensor(call(model, move(few, where)))
                hits = _hits(logits, wanted.to(where))
                right += hits.sum()
                total += hits.numel()
    if not total:
        raise BadInput("accuracy: expected at least one batch; the loader gave none")
    return 100.0 * int(right) / total


def _in_parts(inputs: Example, targets: Tensor, device: torch.device) -> Iterator[tuple[Example, Tensor]]:
    """On a CPU, a batch of pictures in parts: forwards whose activations reuse memory take half the time a picture."""
    if device.type == "cpu" and isinstance(inputs, Tensor) and inputs.dim() == 4 and targets.dim():
        n = len(inputs)
        most = max(1, _PICTURES * n // max(1, inputs.numel() * inputs.element_size()))
        if n == len(targets) and most < n:
            yield from zip(inputs.split(most), targets.split(most))
            return
    yield inputs, targets


def evaluator(data: Data, judge: Judge, device: torch.device) -> Callable[[nn.Module], float] | None:
    """The user's own evaluation, else the judge's measure on the validation part; None: there is neither."""
    evaluate, val, measure = judge.evaluate, data.val, judge.measure
    if evaluate is not None:
        return lambda model: quality_number(evaluate(model), "evaluate")
    if val is None:
        return None
    return lambda model: (
        accuracy(model, val, device) if measure is None else quality_number(measure(model, val), "metric")
    )


def quality_number(value: Any, what: str) -> float:
    """What a user's function says about a network.

    Raises:
        BadInput: it is not one number.

    >>> quality_number(torch.tensor(0.5), "metric")
    0.5
    """
    try:
        if value is None or isinstance(value, str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as e:
        raise BadInput(
            f"{what}: expected a function that returns one number, larger is better; it returned {_short(value)}"
        ) from e


def _short(value: Any) -> str:
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"{repr(value)[:80]}"


def _hits(logits: Tensor, targets: Tensor) -> Tensor:
    """Whether the largest logit is the target, for every position."""
    if logits.dim() < 2 or logits.shape[1] < 2:
        raise BadInput(
            f"accuracy: expected logits [n, classes] with at least two classes; got {list(logits.shape)}. "
            "For other outputs pass metric= or your own evaluate(model)"
        )
    if targets.shape == logits.shape:
        if not is_distribution(targets):
            raise BadInput(
                "accuracy: expected one class for every sample, or shares of classes that add up to 1; got rows with "
                "several or no classes (multi-label). Pass metric='f1', or your own evaluate(model)"
            )
        targets = targets.argmax(1)
    else:
        check_classes(logits, targets, "accuracy")
    answers = logits.argmax(1)
    if targets.shape != answers.shape:
        raise BadInput(
            f"accuracy: expected targets {list(answers.shape)} for logits {list(logits.shape)}; "
            f"got {list(targets.shape)}"
        )
    return (answers == targets) & ~logits.isnan().any(1)
