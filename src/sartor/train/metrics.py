"""Measures of quality on labelled batches, by name: larger is better, so errors are negative."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sartor.borrow import borrowed, device_of
from sartor.errors import BadInput
from sartor.registry import Registry
from sartor.structure.example import batch_of, call, first_tensor
from sartor.train.batch import move, split
from sartor.train.evaluate import accuracy

Metric = Callable[[nn.Module, Iterable[Any]], float]  # (model, batches) -> quality; larger is better
METRICS: Registry[Metric] = Registry("metric")


def mean_loss(loss: Callable[[Any, Any], Tensor]) -> Metric:
    """Minus the mean of a loss over all samples.

    Args:
        loss: loss(output, targets) -> scalar, a mean over samples.
    """

    def minus_loss(model: nn.Module, batches: Iterable[Any]) -> float:
        total, count = 0.0, 0
        for output, targets, samples in _outputs(model, batches):
            total, count = total + float(loss(output, targets)) * samples, count + samples
        return -total / count

    return minus_loss


def matched(output: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The main tensor of an output, and the targets in its shape: [n] and [n, 1] are the same numbers.

    Raises:
        BadInput: they have different numbers of entries.
    """
    value = first_tensor(output)
    if value.numel() != targets.numel():
        raise BadInput(f"targets: expected {list(value.shape)} as the output; got {list(targets.shape)}")
    return value, targets.reshape(value.shape).to(value.dtype)


def squared_error(output: Any, targets: Tensor) -> Tensor:
    """Mean squared error; targets [n] fit an output [n, 1].

    >>> squared_error(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0]))
    tensor(2.)
    """
    return torch.nn.functional.mse_loss(*matched(output, targets))


def _mae(model: nn.Module, batches: Iterable[Any]) -> float:
    return mean_loss(lambda output, targets: torch.nn.functional.l1_loss(*matched(output, targets)))(model, batches)


def _mse(model: nn.Module, batches: Iterable[Any]) -> float:
    return mean_loss(squared_error)(model, batches)


def _r2(model: nn.Module, batches: Iterable[Any]) -> float:
    """1 - residual variance / variance of the targets, over all entries."""
    residual = total = squares = 0.0
    count = 0
    for output, targets, _ in _outputs(model, batches):
        value, wanted = (t.double() for t in matched(output, targets))
        residual += float((value - wanted).square().sum())
        total, squares, count = (
            total + float(wanted.sum()),
            squares + float(wanted.square().sum()),
            count + wanted.numel(),
        )
    spread = squares - total * total / count
    return 1 - residual / spread if spread > 0 else float("nan")


def _iou(model: nn.Module, batches: Iterable[Any]) -> float:
    """Mean over classes of intersection / union, in percent; classes that occur nowhere are left out.

    Logits [n, classes, ...] with class numbers [n, ...], or logits [n, 1, ...] with masks of 0 and 1.
    """
    both: Tensor | float = 0.0
    either: Tensor | float = 0.0
    for output, targets, _ in _outputs(model, batches):
        logits = first_tensor(output)
        if logits.shape[1] == 1:
            answers, wanted, classes = (logits > 0).flatten().long(), targets.flatten().long(), 2
        else:
            answers, wanted, classes = logits.argmax(1).flatten(), targets.flatten().long(), logits.shape[1]
        if answers.shape != wanted.shape:
            raise BadInput(f"metric 'iou': got logits {list(logits.shape)} and targets {list(targets.shape)}")
        known = (wanted >= 0) & (wanted < classes)
        count = torch.bincount(wanted[known] * classes + answers[known], minlength=classes**2).reshape(classes, classes)
        both = both + count.diag().double()
        either = either + (count.sum(0) + count.sum(1) - count.diag()).double()
    assert isinstance(both, Tensor) and isinstance(either, Tensor)
    present = either > 0
    return 100.0 * float((both[present] / either[present]).mean())


def _f1(model: nn.Module, batches: Iterable[Any]) -> float:
    """Micro-averaged F1 of multi-label logits at threshold 0, in percent."""
    hits = guesses = 0.0
    for output, targets, _ in _outputs(model, batches):
        value, wanted = matched(output, targets)
        yes, true = value > 0, wanted > 0.5
        hits, guesses = hits + 2 * float((yes & true).sum()), guesses + float(yes.sum() + true.sum())
    return 100.0 * hits / guesses if guesses else 100.0


def _outputs(model: nn.Module, batches: Iterable[Any]) -> Iterable[tuple[Any, Any, int]]:
    """(output, targets, samples) of every batch, in evaluation mode."""
    home, empty = device_of(model), True
    with borrowed(model), torch.no_grad():
        for batch in batches:
            inputs, targets = split(batch)
            empty = False
            yield call(model, move(inputs, home)), move(targets, home), batch_of(inputs)
    if empty:
        raise BadInput("metric: expected at least one batch; the loader gave none")


_SKLEARN = "https://scikit-learn.org/stable/modules/model_evaluation.html"
METRICS.add("accuracy", accuracy, source=_SKLEARN, summary="top-1, in percent")
METRICS.add("f1", _f1, source=_SKLEARN, summary="multi-label, averaged over all labels, in percent")
METRICS.add(
    "iou", _iou, source="Everingham et al. 2010, doi:10.1007/s11263-009-0275-4", summary="of segmentation, in %"
)
METRICS.add("mae", _mae, source=_SKLEARN, summary="minus the mean absolute error")
METRICS.add("mse", _mse, source=_SKLEARN, summary="minus the mean squared error")
METRICS.add("r2", _r2, source=_SKLEARN, summary="share of the targets' variance that is explained")
