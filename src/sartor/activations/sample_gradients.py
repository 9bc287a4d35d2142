"""Gradients of each sample's own loss, squared: the empirical Fisher diagonal, whatever the size of the batches.

The gradient of a batch's mean loss, squared, is not it: there the gradients of samples cancel. Several samples are
differentiated at once by `torch.func.vmap`. What cannot be vectorised (control flow or a loss that reads values,
operators without a batching rule) is run forwards and backwards once for every sample, which gives the same numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sartor.activations.follow import autocast
from sartor.activations.micro_batches import samples_within, working_memory
from sartor.activations.observers import cross_entropy
from sartor.borrow import borrowed, device_of
from sartor.errors import BadInput
from sartor.structure import Graph
from sartor.structure.example import as_args, map_tensors, tensors, to_device
from sartor.types import Loss, Precision

_MOST = 32  # samples differentiated at once: more are not faster
_SAME = 1e-2  # relative difference between vectorised and plain gradients that rounding explains


class SampleGradients:
    """Sums over samples of the gradients of their own losses, and of the squares of these.

    Args:
        graph: of the model; says how much memory a sample takes.
        model: borrowed, in evaluation mode.
        wanted: names of the parameters, as `named_parameters` has them.
        loss: loss(output, targets) -> scalar; called with one sample at a time. None: cross entropy.
        precision: of the forward.
        memory: bytes that the pass may use beside model and data; None: `working_memory`.
    """

    def __init__(
        self, graph: Graph, model: nn.Module, wanted: Collection[str], loss: Loss | None, precision: Precision,
        memory: int | None = None,
    ):  # fmt: skip
        self.model, self.loss, self.precision = model, loss or cross_entropy, precision
        parameters = {n: p.detach() for n, p in model.named_parameters()}
        self.wanted = {n: parameters[n] for n in wanted}
        self.others = {n: p for n, p in parameters.items() if n not in self.wanted}
        self.sums = {n: torch.zeros_like(p, dtype=_wide(p)) for n, p in self.wanted.items()}
        self.squares = {n: torch.zeros_like(p, dtype=_wide(p)) for n, p in self.wanted.items()}
        self.n = 0
        self.vectorised: bool | None = None  # None: not tried yet
        half = (working_memory() if memory is None else memory) // 2  # for activations; the other half for gradients
        each = 3 * sum(p.numel() * p.itemsize for p in self.wanted.values())
        self.most = max(
            1, min(_MOST, samples_within(graph, device_of(model), half, gradients=True), half // max(1, each))
        )

    def add(self, inputs: Any, targets: Any, n: int) -> None:
        """Add the n samples of a batch.

        Raises:
            BadInput: a sample's loss is not one finite number.
        """
        pair = to_device((inputs, targets), device_of(self.model))
        with borrowed(self.model):
            for low in range(0, n, self.most):
                self._add_some(pair, n, low, min(low + self.most, n))
        self.n += n

    def _add_some(self, pair: Any, n: int, low: int, high: int) -> None:
        if high - low > 1 and self.vectorised is not False:
            together = self._together(pair, n, low, high)
            if together is not None:
                for name, g in together.items():
                    self.sums[name] += g.sum(0, dtype=self.sums[name].dtype)
                    self.squares[name] += g.to(self.squares[name].dtype).square().sum(0)
                return
        for i in range(low, high):
            for name, g in self._alone(pair, n, i).items():
                self.sums[name] += g
                self.squares[name] += g.to(self.squares[name].dtype).square()

    def _together(self, pair: Any, n: int, low: int, high: int) -> dict[str, Tensor] | None:
        """Gradients [samples, ...] by name; None: they cannot be computed together."""
        if _listed(pair, n):  # vmap takes tensors
            self.vectorised = False
            return None
        by_sample = [t[low:high] for t in tensors(pair) if _counts(t, n)]

        def of_one(weights: Mapping[str, Tensor], *values: Tensor) -> Tensor:
            each = iter(values)
            return self._value(weights, map_tensors(lambda t: next(each)[None] if _counts(t, n) else t, pair))

        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="There is a performance drop")
                grads = torch.func.vmap(torch.func.grad(of_one), (None, *(0 for _ in by_sample)))(
                    self.wanted, *by_sample
                )
        except Exception:  # whatever stops vmap; an error of the forward or the loss itself comes back one by one
            self.vectorised = False
            return None
        if self.vectorised is None:
            self.vectorised = _close(self._alone(pair, n, low), {name: g[0] for name, g in grads.items()})
        return grads if self.vectorised else None

    def _alone(self, pair: Any, n: int, i: int) -> dict[str, Tensor]:
        """Gradients of one sample, zeros where its loss does not depend on a parameter."""
        weights = {name: p.clone().requires_grad_(p.is_floating_point()) for name, p in self.wanted.items()}
        with torch.enable_grad():
            value = self._value(weights, _sample(pair, n, i))
        if not torch.isfinite(value):
            raise BadInput(
                f"calibration loss: expected a finite number for every sample; got {value.item()}. "
                "Are inputs and weights finite?"
            )
        if not value.requires_grad:
            return {name: torch.zeros_like(p) for name, p in weights.items()}
        grads = torch.autograd.grad(value, list(weights.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(weights, grads))

    def _value(self, weights: Mapping[str, Tensor], pair: Any) -> Tensor:
        args, kwargs = as_args(pair[0])
        buffers = {n: b.detach().clone() for n, b in self.model.named_buffers()}
        with autocast(self.model, self.precision):
            output = torch.func.functional_call(self.model, {**self.others, **weights, **buffers}, args, kwargs)
        value = self.loss(output, pair[1])
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise BadInput(f"calibration loss: expected one number as a tensor; got {shape}")
        return value.reshape(())


def _counts(t: Tensor, n: int) -> bool:
    """Whether the first dimension counts the samples."""
    return t.dim() > 0 and t.shape[0] == n


def _listed(value: Any, n: int) -> bool:
    """Whether there is a list with one entry a sample, as detectors take their targets."""
    if isinstance(value, Mapping):
        return any(_listed(v, n) for v in value.values())
    if isinstance(value, list | tuple):
        return (isinstance(value, list) and len(value) == n > 1) or any(_listed(v, n) for v in value)
    return False


def _sample(value: Any, n: int, i: int) -> Any:
    """One sample of every tensor, and of every list with one entry a sample."""
    if isinstance(value, list) and len(value) == n:
        return value[i : i + 1]
    if isinstance(value, Mapping):
        return {k: _sample(v, n, i) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_sample(v, n, i) for v in value)
    return map_tensors(lambda t: t[i : i + 1] if _counts(t, n) else t, value)


def _wide(p: Tensor) -> torch.dtype:
    return p.dtype if p.itemsize >= 4 else torch.float32


def _close(plain: Mapping[str, Tensor], vectorised: Mapping[str, Tensor]) -> bool:
    return all(
        float((g - vectorised[n]).abs().max()) <= _SAME * float(g.abs().max()) + torch.finfo(g.dtype).tiny
        for n, g in plain.items()
        if g.numel()
    )
