"""Places inside a network where a cut network can be compared with the original: ends of blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sartor.activations.follow import recognise
from sartor.borrow import borrowed
from sartor.repair.original import Original
from sartor.structure.axes import keep_mask
from sartor.structure.calls import Op, Value
from sartor.structure.example import Example, call, tensors, with_batch


@dataclass(frozen=True)
class Tap:
    """The output of a module, and which of its channels the cut network has."""

    module: str
    kept: tuple[tuple[int, Tensor], ...]  # (dimension, positions that stay), of dimensions that are cut

    def of_original(self, tensor: Tensor) -> Tensor:
        """The original's tensor as the cut network has it."""
        for dim, positions in self.kept:
            tensor = tensor.index_select(dim, positions.to(tensor.device))
        return tensor


def block_ends(original: Original, example: Example) -> list[Tap]:
    """The outputs of modules that consist of others, in the order of the forward, each tensor once.

    Outputs that only a sum reads are left out: a refit lets a branch compensate the error of the stream it adds to, so
    branches need not agree where their sums do. So are modules that the forward calls several times.

    Args:
        original: the network before the cut, and the cut.
        example: inputs; one sample is taken.
    """
    graph, model = original.graph, original.model
    found: dict[int, Value] = {}
    held: list[Any] = []  # results of operators: an id is unique while its object is alive
    calls: dict[str, list[Value | None]] = {}

    def visit(op: Op, args: Any, kwargs: Any, out: Any) -> None:
        held.append(out)
        for value, tensor in zip(op.outputs, tensors(out)):
            found[id(tensor)] = value

    with borrowed(model) as hooks, torch.no_grad():
        for name, module in model.named_modules():
            if name and next(module.children(), None) is not None:

                def note(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
                    calls.setdefault(name, []).append(found.get(id(next(tensors(output), None))))

                hooks.append(module.register_forward_hook(note))
        with recognise(graph, model, visit):
            call(model, with_batch(example, 1))
    masks = original.masks
    seen = {id(v) for v in graph.outputs}
    taps = []
    for name, values in reversed(calls.items()):  # the outermost module of those that give one tensor
        value = values[0]
        if len(values) > 1 or value is None or id(value) in seen or not value.dtype.is_floating_point:
            continue
        seen.add(id(value))
        readers = [op for op in graph.ops if op.live and any(v is value for v in op.inputs)]
        if value.ndim > 1 and readers and not all(op.name == "add" for op in readers):
            taps.append(Tap(name, _kept(value, masks)))
    return taps[::-1]


def _kept(value: Value, masks: Mapping[Any, Tensor]) -> tuple[tuple[int, Tensor], ...]:
    stays = [keep_mask(axis, masks) for axis in value.axes]
    return tuple((dim, mask.nonzero()[:, 0]) for dim, mask in enumerate(stays) if not bool(mask.all()))


@contextmanager
def tapped(model: nn.Module, taps: list[Tap]) -> Iterator[dict[str, Tensor]]:
    """Inside the block, every forward leaves the tensors of the taps in the dict, by module."""
    results: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    hooks = []
    for tap in taps:

        def keep(_: nn.Module, __: Any, output: Any, name: str = tap.module) -> None:
            results[name] = next(tensors(output))

        hooks.append(modules[tap.module].register_forward_hook(keep))
    try:
        yield results
    finally:
        for hook in hooks:
            hook.remove()


__all__ = ["Tap", "block_ends", "tapped"]
