"""How the batches of a loader become (inputs, targets) for a network: which key is the target, which are inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sartor.borrow import borrowed, device_of
from sartor.errors import BadInput
from sartor.structure.example import Example, call, tensors, to_device
from sartor.train.batch import TARGET_KEYS


@dataclass(frozen=True)
class Layout:
    """What the entries of a batch that is a mapping are for.

    >>> Layout("mask", inputs=("image",), positional=True)({"image": 1, "mask": 2, "id": "a"})
    (1, 2)
    """

    target: str | None  # key of the targets; None: there are none
    inputs: tuple[str, ...]  # keys that the network is called with
    positional: bool = False  # the one input is given by position

    def __call__(self, batch: Mapping[str, Any]) -> tuple[Example, Any]:
        """(inputs, targets) of one batch."""
        for key in (*self.inputs, self.target):
            if key is not None and key not in batch:
                raise BadInput(
                    f"batch: expected the key {key!r}, as in the first batch; got {', '.join(map(str, batch))}"
                )
        targets = None if self.target is None else batch[self.target]
        if self.positional:
            return batch[self.inputs[0]], targets
        return {k: batch[k] for k in self.inputs}, targets


class Pairs:
    """A loader seen as pairs (inputs, targets); everything else, such as `sampler`, is the loader's own.

    Args:
        batches: the loader.
        pair: makes a pair of one of its batches.
    """

    def __init__(self, batches: Iterable[Any], pair: Callable[[Any], tuple[Example, Any]]):
        self.batches, self.pair = batches, pair

    def __iter__(self) -> Iterator[tuple[Example, Any]]:
        return map(self.pair, iter(self.batches))

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]  # TypeError where the loader has no length

    def __getattr__(self, name: str) -> Any:
        if name in ("batches", "pair"):  # not set yet: this object is being unpickled or copied
            raise AttributeError(name)
        return getattr(self.batches, name)


def unlabelled(batch: Any) -> bool:
    """Whether a batch holds inputs only: a tensor, or a sequence of one, as a `TensorDataset` of one tensor gives."""
    return isinstance(batch, Tensor) or (isinstance(batch, list | tuple) and len(batch) == 1)


def inputs_only(batch: Any) -> tuple[Example, None]:
    """(inputs, None) of an unlabelled batch."""
    return (batch if isinstance(batch, Tensor) else batch[0]), None


def layout_of(
    batch: Mapping[str, Any],
    model: nn.Module,
    target: str | None,
    note: Callable[[str], None],
    *,
    required: bool = True,
) -> Layout:
    """How to read batches that are mappings, from the first one.

    Keys that the forward does not take are left out, and a note says so. If it takes none of them and one tensor is
    left, that tensor is given by position. Targets stay among the inputs too where the network does not run without
    them, as sequence-to-sequence models that make their decoder's inputs from `labels`.

    Args:
        batch: the first one.
        model: borrowed.
        target: key of the targets; None: "labels" or "label".
        note: receives what a user has to know.
        required: False: batches without targets are fine.

    Raises:
        BadInput: no such key, or nothing says which keys are inputs; the message says how to name them.
    """
    keys = [str(k) for k in batch]
    chosen = target if target is not None else next((k for k in TARGET_KEYS if k in batch), None)
    if chosen is not None and chosen not in batch:
        raise BadInput(f"target={target!r}: expected a key of the batches; they have {', '.join(keys)}")
    if chosen is None and required:
        raise BadInput(
            f"batch: expected targets under 'labels' or 'label'; got the keys {', '.join(keys)}. "
            f"Name the key, such as target={_likely(batch)!r}, or give pairs (inputs, targets)"
        )
    names, takes_any = _parameters(model)
    rest = [k for k in keys if k != chosen]
    fitting = [k for k in rest if (takes_any and next(tensors(batch[k]), None) is not None) or k in names]
    left_out = [k for k in rest if k not in fitting]
    if fitting:
        if left_out:
            note(f"batches: the forward is called with {', '.join(fitting)}; left out: {', '.join(left_out)}")
        return _with_targets_if_needed(Layout(chosen, tuple(fitting)), batch, model, note)
    only = [k for k in rest if isinstance(batch[k], Tensor)]
    if len(only) != 1:
        raise BadInput(
            f"batch: the forward takes {', '.join(names) or 'no arguments'}; the batches have "
            f"{', '.join(rest) or 'nothing'} beside the target. Give pairs (inputs, targets), with a tuple or a dict "
            "of the forward's arguments as inputs"
        )
    others = f"; left out: {', '.join(k for k in rest if k not in only)}" if len(rest) > 1 else ""
    note(f"batches: the forward is called with {only[0]!r} by position{others}")
    return Layout(chosen, tuple(only), positional=True)


def _likely(batch: Mapping[str, Any]) -> str:
    """A key that may well be the target: the last one with numbers."""
    return next((str(k) for k in reversed(list(batch)) if isinstance(batch[k], Tensor)), str(next(iter(batch), "mask")))


def _parameters(model: nn.Module) -> tuple[list[str], bool]:
    """Names of the forward's parameters, and whether it takes any keyword."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return [], True
    named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


def as_one_argument(batch: Any) -> tuple[Example, Any]:
    """(inputs, targets) of a pair whose inputs are one argument of the forward, such as a list of views."""
    inputs, targets = batch
    return (inputs,), targets


def _with_targets_if_needed(
    layout: Layout, batch: Mapping[str, Any], model: nn.Module, note: Callable[[str], None]
) -> Layout:
    target = layout.target
    if target is None or target not in _parameters(model)[0] or runs(model, layout(batch)[0]):
        return layout
    both = Layout(target, (*layout.inputs, target))
    if not runs(model, both(batch)[0]):
        return layout  # the forward's own error reaches the user
    note(f"batches: the network does not run without {target!r}, so it is called with it, and is traced and timed so")
    return both


def with_targets(layout: Layout) -> Layout:
    """The same with the targets among the inputs."""
    assert layout.target is not None
    return Layout(layout.target, (*layout.inputs, layout.target))


def runs(model: nn.Module, inputs: Example) -> bool:
    """Whether the network takes these inputs."""
    try:
        output_of(model, inputs)
    except Exception:
        return False
    return True


def output_of(model: nn.Module, inputs: Example) -> Any:
    """The output in evaluation mode."""
    with borrowed(model), torch.no_grad():
        return call(model, to_device(inputs, device_of(model)))


def as_pairs(batches: Iterable[Any] | None, first: Any, layout: Layout | None) -> Iterable[Any] | None:
    """The loader itself, or a view of it that gives pairs where it gives mappings or unlabelled inputs.

    Args:
        batches: the loader; None stays None.
        first: its first batch.
        layout: of mappings.
    """
    if batches is None or (layout is None and not unlabelled(first)):
        return batches
    return Pairs(batches, layout if layout is not None else inputs_only)
