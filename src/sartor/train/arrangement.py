"""Loaders and judge as a run takes them, from what a user passed: decided once, on the first batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from sartor.errors import BadInput
from sartor.structure.example import Example, first_tensor, tensors, with_batch
from sartor.train.batch import first_samples
from sartor.train.batch_layout import (
    Layout,
    Pairs,
    as_one_argument,
    as_pairs,
    layout_of,
    output_of,
    runs,
    unlabelled,
    with_targets,
)
from sartor.train.judging import Task, judge_for, networks_own_loss, own_loss, task_of
from sartor.train.metrics import Metric, mean_loss
from sartor.train.targets import check_classes
from sartor.types import Data, Judge

_SAMPLES = 16  # of the first batch that the network is called with, to see what its targets are
_EXAMPLES = 3  # first batches whose inputs are examples, if the shapes of their samples differ
_PARTS = ("train", "val", "test", "calibration")


@dataclass(frozen=True)
class Arrangement:
    """Batches as pairs, what quality means, and what was decided on the way."""

    data: Data
    judge: Judge
    task: Task  # of the targets
    labelled: bool  # whether the training part has targets and there is a loss for them
    example: Example | None
    # inputs of the first batch, without targets where the network runs without; a list if those of the next ones differ
    # in shape
    notes: tuple[str, ...]


def arranged(
    model: nn.Module, data: Data, judge: Judge, *, target: str | None = None, metric: str | Metric | None = None
) -> Arrangement:
    """Everything that follows from the first batch of every part.

    Args:
        model: borrowed.
        data: as the user passed it; a part that can be read only once is left as it is.
        judge: loss and evaluate of the user.
        target: key of the targets in batches that are mappings; None: "labels" or "label".
        metric: see `judge_for`.

    Raises:
        BadInput: a batch cannot be read, or nothing says how to judge.
        UnknownName: no such metric.
    """
    notes: list[str] = []
    note = lambda sentence: notes.append(sentence) if sentence not in notes else None
    with torch.random.fork_rng(devices=[]):  # a loader draws a seed whenever it is iterated
        for name in _PARTS:
            _check_batches(name, getattr(data, name))
        heads: dict[str, list[Any]] = {}
        for name in _PARTS:  # examples are taken from the first part that can be read
            heads[name] = _head(getattr(data, name), 1 if any(heads.values()) else _EXAMPLES)
        taking = [name for name, head in heads.items() if head and _takes_the_list(model, head[0])]
        if taking:
            note("the inputs of a batch are one list, passed to the forward as one argument")
            heads |= {name: [as_one_argument(b) for b in heads[name]] for name in taking}
            data = replace(data, **{name: Pairs(getattr(data, name), as_one_argument) for name in taking})
        firsts = {name: head[0] if head else None for name, head in heads.items()}
        needed = {"train", "val", "test"} - ({"val"} if judge.evaluate is not None else set())
        layouts = {
            name: layout_of(batch, model, target, note, required=name in needed)
            for name, batch in firsts.items() if isinstance(batch, Mapping)
        }  # fmt: skip
        if target is not None and any(b is not None for b in firsts.values()) and not layouts:
            raise BadInput(f"target={target!r}: expected batches that are dicts; got pairs (inputs, targets)")
        source = next((name for name in _PARTS if heads[name]), None)
        example = None if source is None else _example(model, [_pair(b, layouts.get(source))[0] for b in heads[source]])
        task, output, labelled = _look(model, firsts, layouts)
        if judge.loss is None and task == "unknown":
            layouts, judge = _with_own_loss(model, firsts, layouts, output, judge, note)
    data = Data(*(as_pairs(getattr(data, n), firsts[n], layouts.get(n)) for n in _PARTS))
    if judge.loss is networks_own_loss and judge.evaluate is None and metric is None:
        note("quality is minus the mean of the network's own loss on val; pass metric= or evaluate= for another")
        judge = replace(judge, measure=mean_loss(networks_own_loss), metric="-loss")
    elif task is not None:
        judge = judge_for(task, judge, metric, note, judged=data.val is not None)
    elif metric is not None or judge.evaluate is not None:
        judge = judge_for("unknown", judge, metric, note, judged=data.val is not None)
    trainable = labelled and (task in ("classes", "continuous") or judge.loss is not None)
    return Arrangement(data, judge, task or "unknown", trainable, example, tuple(notes))


def _check_batches(name: str, batches: Any) -> None:
    if batches is not None and not hasattr(batches, "__iter__") and not hasattr(batches, "__getitem__"):
        raise BadInput(f"{name}: expected batches, such as a DataLoader or a list; got {type(batches).__name__}")


def _head(batches: Iterable[Any] | None, count: int) -> list[Any]:
    """The first batches of the same kind as the first; none where they cannot be read, or only once."""
    if batches is None or hasattr(batches, "__next__") or not hasattr(batches, "__iter__"):
        return []
    head: list[Any] = []
    for batch in itertools.islice(batches, count):
        if not _readable(batch):
            break  # where it is read, `sartor.train.split` says what was expected
        if not head or (
            type(batch) is type(head[0]) and (not isinstance(batch, Mapping) or set(batch) == set(head[0]))
        ):
            head.append(batch)
    return head


def _readable(batch: Any) -> bool:
    return isinstance(batch, Mapping) or unlabelled(batch) or (isinstance(batch, list | tuple) and len(batch) == 2)


def _takes_the_list(model: nn.Module, batch: Any) -> bool:
    """Whether the inputs of a batch are a list that the forward takes as one argument, and not element by element."""
    if isinstance(batch, Mapping) or unlabelled(batch) or type(batch[0]) is not list:
        return False
    return not runs(model, batch[0]) and runs(model, (batch[0],))


def _example(model: nn.Module, inputs: Sequence[Example]) -> Example:
    """The inputs of the first batch; a list of those of several batches if the shapes of their samples differ."""
    different: dict[Any, Example] = {}
    for one in inputs:
        different.setdefault(tuple(t.shape[1:] for t in tensors(one)), one)
    if len(different) > 1 and all(isinstance(one, torch.Tensor | tuple | Mapping) for one in inputs):
        taken = [one for one in different.values() if one is inputs[0] or runs(model, with_batch(one, 1))]
        if len(taken) > 1:
            return taken
    return inputs[0]


def _pair(batch: Any, layout: Layout | None) -> tuple[Example, Any]:
    if layout is not None:
        return layout(batch)
    if unlabelled(batch):
        return (batch if isinstance(batch, torch.Tensor) else batch[0]), None
    return batch[0], batch[1]


def _look(model: nn.Module, firsts: dict[str, Any], layouts: dict[str, Layout]) -> tuple[Task | None, Any, bool]:
    """(what targets are, the output for them, whether the training part has targets); None: the network did not run."""
    labelled = firsts["train"] is not None and _pair(firsts["train"], layouts.get("train"))[1] is not None
    for name in ("val", "train", "calibration", "test"):
        if firsts[name] is None:
            continue
        pair = _pair(firsts[name], layouts.get(name))
        if pair[1] is None:
            continue
        inputs, targets = next(first_samples([pair], _SAMPLES))
        if not runs(model, inputs):
            return None, None, labelled  # the run meets the error of the forward itself
        output = output_of(model, inputs)
        task = task_of(output, targets)
        if task == "classes" and not pair[1].is_floating_point():
            check_classes(first_tensor(output), pair[1], f"targets of {name}")
        return task, output, labelled
    return None, None, labelled


def _with_own_loss(
    model: nn.Module, firsts: dict[str, Any], layouts: dict[str, Layout], output: Any, judge: Judge,
    note: Callable[[str], None],
) -> tuple[dict[str, Layout], Judge]:  # fmt: skip
    """Layouts and judge where the network computes its own loss from labels, as Hugging Face models do."""
    if not layouts:
        return layouts, judge
    if own_loss(output) is None:
        given = {n: with_targets(x) if x.target not in (None, *x.inputs) else x for n, x in layouts.items()}
        name = next(n for n in ("val", "train", "calibration", "test") if n in layouts)
        inputs, _ = next(first_samples([given[name](firsts[name])], _SAMPLES))
        if not runs(model, inputs) or own_loss(output_of(model, inputs)) is None:
            return layouts, judge
        layouts = given
    note("the loss is the one that the network computes from its labels; pass loss= for another")
    return layouts, replace(judge, loss=networks_own_loss)
