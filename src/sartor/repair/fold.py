"""The mean contribution of removed units, folded into the biases of the layers that read them.

A layer that lost input j lost W[:, j] * x_j. On average over calibration data that is W[:, j] * mean(x_j), which its
bias can carry; without a bias, the running mean of the batch norm behind it can. Kernels wider than one read padding at
the borders, so there the mean is preserved only approximately. Closed form, no labels; the means are those of the
original network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sartor.activations.follow import replay
from sartor.borrow import borrowed
from sartor.errors import BadInput
from sartor.repair.original import Original
from sartor.structure.axes import Axis, keep_mask
from sartor.structure.calls import Op, Value
from sartor.structure.example import Example, batch_of
from sartor.structure.graph import Graph
from sartor.structure.model_copy import named_tensors


@dataclass(frozen=True)
class _Consumer:
    op: int
    channel: int  # dimension of the input that lost units
    weight: str
    lost: Tensor  # indices along that dimension
    kept_out: Tensor  # outputs that stay
    goes_to: str  # tensor of the cut model that takes the constant
    sign: float  # -1 for a running mean


def fold_means_(smaller: nn.Module, original: Original, batches: Iterable[Example], *, samples: int) -> int:
    """Fold in place; returns how many consumers were folded: those that the batches reach.

    Args:
        smaller: cut from the original; its biases and running means change.
        original: the network before the cut, and the cut.
        batches: calibration inputs only.
        samples: how many samples are used at most.

    Raises:
        BadInput: no calibration inputs.
    """
    original = original.renumbered()
    model, graph = original.model, original.graph
    consumers = _consumers(graph, original.masks)
    if not consumers:
        return 0
    means = _means(graph, model, {c.op: c for c in consumers}, batches, samples)
    tensors = {name: t for *_, name, t in named_tensors(smaller)}
    originals = {name: t for *_, name, t in named_tensors(model)}
    with torch.no_grad():
        reached = [c for c in consumers if c.op in means]
        for c in reached:
            constant = _contribution(graph.ops[c.op], originals[c.weight].detach(), means[c.op], c)
            target = tensors[c.goes_to]
            target.add_((c.sign * constant[c.kept_out.to(constant.device)]).to(target))
    return len(reached)


def _consumers(graph: Graph, masks: Mapping[Axis, Tensor]) -> list[_Consumer]:
    uses: dict[int, int] = {}
    for op in graph.ops:
        for v in op.inputs:
            if v.name is not None:
                uses[id(v)] = uses.get(id(v), 0) + 1
    consumers = []
    for op in graph.ops:
        if not op.live or op.kind not in ("conv", "linear") or op.arg("transposed", "transpose" in op.name):
            continue
        x, w = op.args[0], op.args[1]
        if w.name is None or uses[id(w)] > 1:
            continue
        channel = x.ndim - w.ndim + 1 if op.kind == "conv" else x.ndim - 1
        stays = keep_mask(x.axes[channel], masks)
        if bool(stays.all()) or w.roles.get(1) != "in":
            continue
        place = _place_for_constant(graph, op)
        if place is not None:
            out = keep_mask(w.axes[0], masks).nonzero()[:, 0]
            consumers.append(_Consumer(op.index, channel, w.name, (~stays).nonzero()[:, 0], out, *place))
    return consumers


def _place_for_constant(graph: Graph, op: Op) -> tuple[str, float] | None:
    """Its bias, or the running mean of the batch norm that alone reads its output."""
    bias = op.arg("bias")
    if isinstance(bias, Value):
        return (bias.name, 1.0) if bias.name else None
    readers = [o for o in graph.ops if o.live and any(v is op.out for v in o.inputs)]
    if len(readers) == 1 and readers[0].kind == "batch_norm" and readers[0].args[0] is op.out:
        mean = readers[0].arg("running_mean")
        if isinstance(mean, Value) and mean.name:
            return mean.name, -1.0
    return None


def _means(
    graph: Graph, model: nn.Module, consumers: dict[int, _Consumer], batches: Iterable[Example], samples: int
) -> dict[int, Tensor]:
    """Mean of the input of every consumer that the batches reach over samples and positions, float64 [channels]."""
    sums: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    seen = 0
    with borrowed(model):
        for inputs in batches:
            if seen >= samples:
                break
            n = batch_of(inputs)

            def visit(op: Op, args: tuple[Tensor, ...], kwargs: object, out: object, n: int = n) -> None:
                c = consumers.get(op.index)
                if c is not None:
                    x = args[0].transpose(0, c.channel).reshape(args[0].shape[c.channel], -1)
                    mean = x.mean(1, dtype=torch.float64) * n
                    sums[op.index] = sums[op.index] + mean if op.index in sums else mean
                    counts[op.index] = counts.get(op.index, 0) + n

            replay(graph, model, inputs, visit)
            seen += n
    if not seen:
        raise BadInput("mean folding: expected calibration inputs; got none")
    return {i: s / counts[i] for i, s in sums.items()}


def _contribution(op: Op, weight: Tensor, mean: Tensor, c: _Consumer) -> Tensor:
    """What the lost inputs add to every output on average, float64 [outputs]."""
    lost = torch.zeros_like(mean)
    lost[c.lost.to(mean.device)] = mean[c.lost.to(mean.device)]
    per_input = weight.double().reshape(*weight.shape[:2], -1).sum(-1)  # [outputs, inputs of a group]
    groups = int(op.arg("groups", 1)) if op.kind == "conv" else 1
    w = per_input.reshape(groups, -1, per_input.shape[1])
    return torch.einsum("goi,gi->go", w, lost.reshape(groups, -1)).reshape(-1)
