"""What data-driven criteria look at: gradients and activations over calibration batches. The model is only borrowed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.borrow import borrowed, device_of
from sartor.errors import BadInput
from sartor.structure import Graph, Site, replay
from sartor.structure.calls import Op
from sartor.structure.example import as_args, batch_of, first_tensor, tensors, to_device, with_batch

Loss = Callable[[Any, Any], Tensor]


def cross_entropy(output: Any, targets: Any) -> Tensor:
    """Mean cross entropy of the model's first output against class indices: the loss unless another is given."""
    return F.cross_entropy(first_tensor(output), targets)


def limited(batches: Iterable[Any] | None, samples: int, *, needed_for: str) -> Iterator[tuple[Any, Any, int]]:
    """(inputs, targets, n) until `samples` samples have come; the last batch is cut to fit.

    Args:
        batches: (inputs, targets) pairs; inputs as the model takes them: a tensor, a tuple or a dict.
        samples: at most this many in total.
        needed_for: who asks, for the message.

    Raises:
        BadInput: no batches, or something else than pairs.
    """
    if batches is None:
        raise BadInput(f"{needed_for} needs calibration data: pass batches of (inputs, targets); got none")
    left = samples
    for batch in batches:
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            got = f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else type(batch).__name__
            raise BadInput(f"{needed_for}, calibration batch: expected a pair (inputs, targets); got {got}")
        inputs, targets = batch
        n = batch_of(inputs)
        if n > left:
            # targets go along when their first dimension is the batch; with_batch leaves other tensors alone
            pair = with_batch({"inputs": inputs, "targets": targets}, left)
            inputs, targets, n = pair["inputs"], pair["targets"], left
        if n:
            yield inputs, targets, n
        left -= n
        if left <= 0:
            return
    if left == samples:
        raise BadInput(f"{needed_for} needs calibration data; the batches given are empty")


def gradients(model: nn.Module, inputs: Any, targets: Any, loss: Loss | None = None) -> dict[str, Tensor]:
    """Gradient of one batch's loss at every floating-point parameter, in evaluation mode.

    Args:
        model: untouched: its weights, buffers, `.grad`s, `requires_grad`s and modes are as before afterwards.
        inputs: as the model takes them.
        targets: what `loss` takes.
        loss: `loss(output, targets)` -> scalar tensor; None: cross entropy of the first output.

    Returns:
        parameter name -> gradient, float32 or wider; zeros where the loss does not depend on the parameter.

    Raises:
        BadInput: the loss is not one finite number.
    """
    device = device_of(model)
    args, kwargs = as_args(to_device(inputs, device))
    weights = {n: p.detach().requires_grad_(p.is_floating_point()) for n, p in model.named_parameters()}
    buffers = {n: b.detach().clone() for n, b in model.named_buffers()}
    with borrowed(model), torch.enable_grad():
        output = torch.func.functional_call(model, {**weights, **buffers}, args, kwargs)
        value = (loss or cross_entropy)(output, to_device(targets, device))
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise BadInput(f"calibration loss: expected one number as a tensor; got {shape}")
        if not torch.isfinite(value):
            raise BadInput(
                f"calibration loss: expected a finite number; got {value.item()}. Are inputs and weights finite?"
            )
        floating = {n: w for n, w in weights.items() if w.requires_grad}
        found = torch.autograd.grad(
            value.reshape(()), list(floating.values()), allow_unused=True, materialize_grads=True
        )
    return {n: g.float() if g.itemsize < 4 else g for n, g in zip(floating, found)}


def activations(
    graph: Graph, model: nn.Module, inputs: Any, groups: Iterable[str], visit: Callable[[str, int, Tensor], None]
) -> None:
    """Run the model once and hand over what the units of each group carry.

    Args:
        graph: of the model.
        model: borrowed, run in evaluation mode without gradients.
        inputs: as the model takes them.
        groups: names.
        visit: called as visit(group, place, values), values [units, samples, rest]; place numbers the group's sites.
            Samples are the rows of the tensor's dimension 0 (one sample if the units lie along that dimension).
    """
    wanted: dict[int, list[tuple[str, int, Site]]] = {}
    for name in groups:
        for place, site in enumerate(graph.sites(name)):
            wanted.setdefault(site.op, []).append((name, place, site))

    def look(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        for name, place, site in wanted.get(op.index, ()):
            value = next(tensors(out if site.slot == "out" else args))
            visit(name, place, per_sample(value, site.dim, site.positions))

    with borrowed(model):
        replay(graph, model, to_device(inputs, device_of(model)), look)


def per_sample(value: Tensor, dim: int, positions: Tensor) -> Tensor:
    """[units, samples, rest] of one tensor whose dimension `dim` carries the units at `positions` [units, k].

    >>> per_sample(torch.zeros(5, 6, 2, 2), 1, torch.arange(6).reshape(3, 2)).shape
    torch.Size([3, 5, 8])
    """
    units = len(positions)
    rows = value.movedim(dim, 0)[positions.to(value.device)]  # [units, k, *others]
    if dim == 0 or value.dim() == 1:
        return rows.reshape(units, 1, -1)
    return rows.movedim(2, 1).reshape(units, value.shape[0], -1)
