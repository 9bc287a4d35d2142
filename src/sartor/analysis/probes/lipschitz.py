"""Bounds of the Lipschitz constant of a network, from its weights and from gradients at its inputs."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sartor.analysis.layers import RECTIFIERS
from sartor.analysis.probes.conditioning import norm_bound
from sartor.analysis.registry import probe
from sartor.analysis.rows import Reading
from sartor.analysis.subject import ProbeSubject, image_of, with_first
from sartor.structure import Graph
from sartor.structure.calls import Op, Value, dims, values
from sartor.structure.model_copy import named_tensors

SLOPES = {  # largest slope of a function of one number, rounded up
    "sigmoid": 0.25, "tanh": 1.0, "gelu": 1.13, "silu": 1.1, "mish": 1.09, "hardswish": 1.5, "hardsigmoid": 1 / 6,
    "softplus": 1.0, "softmax": 1.0, "_softmax": 1.0, "abs": 1.0, "neg": 1.0, "clamp": 1.0, "sin": 1.0, "cos": 1.0,
}  # fmt: skip
_SAME = {
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "squeeze", "unsqueeze",
    "slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind", "contiguous", "clone", "detach",
    "alias", "dropout", "feature_dropout", "_to_copy", "to", "pixel_shuffle", "channel_shuffle", "roll", "flip",
    "movedim", "pad", "constant_pad_nd",
}  # fmt: skip


@probe(
    "lipschitz",
    source="Szegedy et al. 2014, arXiv:1312.6199, section 4.3 (upper bound); the lower bound is a gradient at a sample",
    bias="the upper bound is loose, by orders of magnitude in deep networks; the lower bound is the steepest sample "
    "that was looked at",
)
def lipschitz(subject: ProbeSubject) -> Iterator[Reading]:
    """Bounds of how far logits move for an input that moves by one, both in the Euclidean norm.

    From above: the bounds of the operators, multiplied along paths and added where paths meet. It is missing where an
    operator has no bound of its own (a product of activations, attention, layer norm); the note names it. From below:
    the largest gradient of (first minus second logit) / sqrt(2) at a sample.
    """
    tensors = {name: t.detach() for *_, name, t in named_tensors(subject.model)}
    upper, unbounded = upper_bound(subject.graph, tensors)
    lower = lower_bound(subject)
    note = "" if upper is not None else f"no bound is known for {unbounded}"
    yield Reading("lipschitz constant, from above", upper, note=note)
    yield Reading("lipschitz constant, from below", lower)


def lower_bound(subject: ProbeSubject) -> float:
    """The steepest change of the difference of the two largest logits at any sample, per sqrt(2)."""
    steepest = 0.0
    for inputs, _ in subject.parts(gradients=True):
        x = image_of(inputs).detach().clone().requires_grad_()
        with torch.enable_grad():
            top = subject.run(with_first(inputs, x)).topk(2, 1).values
            (slope,) = torch.autograd.grad((top[:, 0] - top[:, 1]).sum(), x)
        steepest = max(steepest, float(slope.flatten(1).norm(dim=1).max()))
    return steepest / math.sqrt(2)


def upper_bound(graph: Graph, tensors: Mapping[str, Tensor], start: Value | None = None) -> tuple[float | None, str]:
    """(bound of the first output in its first input, ""), or (None, the operator without a bound).

    Args:
        graph: of the network.
        tensors: parameters and buffers by name.
        start: in place of the first input, the result of an operator, with all that is computed beside it fixed.
    """
    bounds: dict[int, float | None] = {id(v): 0.0 for v in graph.inputs}
    bounds[id(graph.inputs[0] if start is None else start)] = 1.0
    blame: dict[int, str] = {}
    for op in graph.ops:
        if any(v is start for v in op.outputs):
            continue
        given = [bounds.get(id(v), 0.0) for v in op.inputs]
        known = [g for g in given if g is not None]
        culprit = next((blame[id(v)] for v in op.inputs if bounds.get(id(v), 0.0) is None), "")
        if len(known) < len(given):
            bound = None
        elif not any(known):
            bound = 0.0  # it does not depend on the input
        else:
            bound = _of_operator(op, lambda v: bounds.get(id(v)) or 0.0, tensors)
            culprit = "" if bound is not None else op.where
        for v in op.outputs:
            bounds[id(v)] = bound
            blame[id(v)] = culprit
    out = graph.outputs[0]
    return bounds.get(id(out), 0.0), blame.get(id(out), "")


def _of_operator(op: Op, bound: Callable[[Value], float], tensors: Mapping[str, Tensor]) -> float | None:
    """The bound of an operator's result, from those of its inputs; None: none is known."""
    name, x = op.name, op.inputs[0]
    if op.kind in ("conv", "linear") and len(op.inputs) > 1 and op.args[1] is not x:
        weight = op.args[1]
        return None if weight.name is None else bound(x) * norm_bound(op, tensors[weight.name])
    if op.kind == "batch_norm":
        return _batch_norm(op, bound(x), tensors)
    if name in RECTIFIERS or name in _SAME:
        return bound(x)
    if name in SLOPES:
        return bound(x) * SLOPES[name]
    if name in ("leaky_relu", "elu", "celu"):
        slope = op.args[1] if len(op.args) > 1 else 0.01 if name == "leaky_relu" else 1.0
        return bound(x) * max(1.0, abs(float(slope)))
    if name in ("add", "sub", "rsub"):
        alpha = abs(float(op.arg("alpha", 1) or 1))
        return bound(op.inputs[0]) + alpha * sum(bound(v) for v in op.inputs[1:])
    if name in ("mul", "div", "multiply", "divide", "true_divide"):
        return _scaled(op, bound, tensors)
    if name in ("cat", "concat", "stack"):
        return math.sqrt(sum(bound(v) ** 2 for v in op.inputs))
    if name in ("mean", "sum"):
        n = math.prod(x.shape[d] for d in dims(op.arg("dim"), x.ndim))
        return bound(x) * (1 / math.sqrt(n) if name == "mean" else math.sqrt(n))
    return _pooled(op, bound(x))


def _batch_norm(op: Op, bound: float, tensors: Mapping[str, Tensor]) -> float | None:
    variance, gain = op.arg("running_var"), op.arg("weight")
    if not isinstance(variance, Value) or variance.name is None:
        return None
    scale = (tensors[variance.name].double() + float(op.arg("eps", 1e-5))).rsqrt()
    if isinstance(gain, Value) and gain.name is not None:
        scale = scale * tensors[gain.name].double().abs()
    return bound * float(scale.max())


def _scaled(op: Op, bound: Callable[[Value], float], tensors: Mapping[str, Tensor]) -> float | None:
    """A product or quotient with a number or a parameter; None: both factors depend on the input."""
    moving = [v for v in op.inputs if bound(v)]
    if len(moving) != 1 or (op.name not in ("mul", "multiply") and moving[0] is not op.args[0]):
        return None
    other = next((a for a in op.args if a is not moving[0]), 1.0)
    if isinstance(other, Value):
        if other.name is None:
            return None
        numbers = tensors[other.name].double().abs()
        size = float(numbers.max()) if op.name in ("mul", "multiply") else 1 / float(numbers.min())
    else:
        size = abs(float(other)) if op.name in ("mul", "multiply") else 1 / abs(float(other))
    return bound(moving[0]) * size


def _pooled(op: Op, bound: float) -> float | None:
    x = op.inputs[0]
    if op.name.startswith("adaptive_avg_pool"):
        out = next(values(op.out))
        ratios = [(a, b) for a, b in zip(x.shape[2:], out.shape[2:])]
        return bound / math.sqrt(math.prod(a // b for a, b in ratios)) if all(a % b == 0 for a, b in ratios) else None
    kind = next((k for k in ("max_pool", "avg_pool") if op.name.startswith(k)), None)
    if kind is None:
        return None
    spatial = int(op.name[len(kind)])
    kernel = _each(op.arg("kernel_size"), spatial)
    stride = _each(op.arg("stride") or kernel, spatial)
    overlap = math.prod(math.ceil(k / s) for k, s in zip(kernel, stride))
    return bound * math.sqrt(overlap / (math.prod(kernel) if kind == "avg_pool" else 1))


def _each(value: Any, n: int) -> Sequence[int]:
    given = [value] if isinstance(value, int) else list(value)
    return given * n if len(given) == 1 else given
