"""What quality means for a data set: from the targets and outputs of its first batch, and from what the user passed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from sartor.errors import BadInput
from sartor.structure.example import first_tensor
from sartor.train.metrics import METRICS, Metric, mean_loss, squared_error
from sartor.train.targets import is_distribution
from sartor.types import Judge

Task = Literal["classes", "multi-hot", "continuous", "unknown"]


def task_of(output: Any, targets: Any) -> Task:
    """What targets say, beside the output of the network on their inputs.

    >>> import torch
    >>> logits = torch.zeros(2, 3)
    >>> task_of(logits, torch.tensor([0, 2])), task_of(logits, torch.tensor([[1.0, 0, 1], [0, 0, 0]]))
    ('classes', 'multi-hot')
    >>> task_of(torch.zeros(2, 1), torch.tensor([0.3, 1.7]))
    'continuous'
    """
    if not isinstance(targets, Tensor):
        return "unknown"
    logits = first_tensor(output)
    enough = logits.dim() >= 2 and logits.shape[1] >= 2
    if not targets.is_floating_point() and enough and targets.shape == logits.shape[:1] + logits.shape[2:]:
        return "classes"
    if targets.shape == logits.shape and enough and is_distribution(targets):
        return "classes"
    if targets.shape == logits.shape and enough and bool(((targets == 0) | (targets == 1)).all()):
        return "multi-hot"
    return "continuous" if targets.is_floating_point() else "unknown"


def judge_for(
    task: Task, judge: Judge, metric: str | Metric | None, note: Callable[[str], None], *, judged: bool
) -> Judge:
    """The judge with everything decided that the user left open.

    Args:
        task: of the data.
        judge: loss and evaluate of the user.
        metric: name in METRICS, or a function (model, batches) -> float, larger is better; with `evaluate`, its name.
        note: receives what was decided.
        judged: whether there is validation data.

    Raises:
        BadInput: nothing says how to judge; the message says what to pass.
        UnknownName: no such metric.
    """
    if task == "continuous" and judge.loss is None:
        note("targets are continuous numbers: mean squared error is the loss; pass loss= for another")
        judge = replace(judge, loss=squared_error)
    if judge.evaluate is not None:
        return replace(judge, metric=metric if isinstance(metric, str) else _name(judge.evaluate))
    if metric is not None:
        if callable(metric):
            return replace(judge, measure=metric, metric=_name(metric))
        return replace(judge, measure=METRICS[metric].value, metric=metric)
    if not judged or task == "classes":
        return judge
    if task == "multi-hot":
        raise BadInput(
            "targets have several classes in one row (multi-label), so top-1 accuracy means nothing: pass metric='f1', "
            "or evaluate=, a function of the model whose larger values are better, and loss= such as "
            "torch.nn.functional.binary_cross_entropy_with_logits"
        )
    if judge.loss is None:
        raise BadInput(
            "targets fit neither classes of the network's output nor continuous numbers: pass evaluate=, a function of "
            "the model whose larger values are better, and loss=, a function of outputs and targets"
        )
    note("quality is minus the mean loss on val: targets are no class numbers; pass metric= or evaluate= for another")
    return replace(judge, measure=mean_loss(judge.loss), metric="-loss")


def _name(function: Any) -> str:
    name = str(getattr(function, "__name__", ""))
    return name if name.isidentifier() else "quality"


def own_loss(output: Any) -> Tensor | None:
    """The loss that a network computed itself, as Hugging Face models do from labels; None: it did not."""
    loss = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
    return loss if isinstance(loss, Tensor) and loss.numel() == 1 else None


def networks_own_loss(output: Any, targets: Any) -> Tensor:
    """`own_loss` as a loss function; the targets are among the inputs already.

    Raises:
        BadInput: the network computed none.
    """
    loss = own_loss(output)
    if loss is None:
        raise BadInput("loss: expected the network to compute its own from the labels among its inputs; it did not")
    return loss.reshape(())
