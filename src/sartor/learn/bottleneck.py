"""AutoBot: one gate a unit is trained on a frozen network under a budget; the gates are the scores.

Source: Castells and Yeom 2023, "Automatic Neural Network Pruning that Efficiently Preserves the Model Accuracy",
arXiv:2111.09635, section 3, and the authors' code: the constants are those of its CIFAR-10 runs. There every
convolution has gates of its own and residual branches are wired by hand; here every group of the graph has one gate a
unit, wherever it occurs (see `sartor.learn.gates`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sartor.activations.observers import cross_entropy
from sartor.cost import SoftCost, soft_macs
from sartor.errors import BadInput
from sartor.learn.gates import Gated
from sartor.learn.losses import divergence, relative_gap
from sartor.seed import seeded
from sartor.structure import Graph
from sartor.structure.example import Example, batch_of, first_tensor, map_tensors, to_device
from sartor.types import SILENT, Calibration, Gates, Listener, Loss


@dataclass(frozen=True)
class SoftBudget:
    """A share of a differentiable cost that may stay."""

    keep: float  # strictly between 0 and 1
    cost: SoftCost | None = None
    # widths -> scalar, differentiable, as `sartor.cost.soft_macs` makes (None), or a model of latency; `widths` are the
    # sums of the gates by group. Groups without gates are not among them

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise BadInput(f"gates, keep: expected a share of the cost strictly between 0 and 1; got {self.keep}")


def learn_gates(
    graph: Graph,
    model: nn.Module,
    calibration: Calibration,
    budget: SoftBudget,
    *,
    options: Gates | None = None,
    listener: Listener = SILENT,
) -> dict[str, Tensor]:
    """Train one gate lambda = sigmoid(psi) a unit; the network itself is frozen, in evaluation mode.

    Minimised with Adam over psi: task + beta * P + gamma * H. With F the cost of the widths sum(lambda), T = keep of
    the whole cost, and F_max the whole cost:

        P = (F - T) / (F_max - T) if F > T, else 1 - F / T
        H = mean over groups of mean |lambda - round(lambda)|

    Of the last steps (`options.tail`) the one with the lowest loss gives the gates.

    Args:
        graph: of the model. Every group gets gates; with `graph.only(names)` the other groups stay whole.
        model: borrowed; nothing of it changes.
        calibration: `batches`, `loss` (of the task "labels"; None: cross entropy) and `seed` are read. Targets are not
            read for the tasks "distill" and "gap". Batches longer than `options.batch` are split. They are gone through
            again and again until all steps are done: a list in an order drawn from the seed, anything else in its own
            order.
        budget: the share of the cost that may stay.
        options: see `sartor.types.Gates`; None: the defaults.
        listener: progress after every tenth of the steps.

    Returns:
        group -> lambda [units], float64 on the CPU, in [0, 1]: scores for the allocator "global", with floor 0, which
        cuts at the one threshold that meets the budget exactly and leaves every group at least its largest.

    Raises:
        BadInput: an argument out of range, no groups, no batches, or a loss that is not a finite number >= 0.
        UnknownName: no such group.
    """
    options = options or Gates()
    gated = Gated(graph, model)
    if not gated.units:
        raise BadInput("gates: expected at least one group to put gates on; got none")
    batches = calibration.batches if calibration.batches is not None else ()
    cost = budget.cost or soft_macs(graph)
    whole = _number(cost({n: torch.tensor(float(u)) for n, u in gated.units.items()}), "the cost of the whole network")
    psi = {
        n: torch.full((u,), math.log(options.start / (1 - options.start)), device=gated.device).requires_grad_()
        for n, u in gated.units.items()
    }
    adam = torch.optim.Adam(list(psi.values()), lr=options.lr)
    first_kept = options.steps - max(1, round(options.tail * options.steps))
    least, best = math.inf, {n: p.detach().clone() for n, p in psi.items()}
    with seeded(calibration.seed), torch.enable_grad():
        for step, (inputs, targets) in enumerate(_minibatches(batches, options.batch, options.steps)):
            gates = {n: p.sigmoid() for n, p in psi.items()}
            task = _task(gated, gates, inputs, targets, options.task, calibration.loss)
            size = cost({n: g.sum() for n, g in gates.items()})
            total = (
                task + options.beta * budget_term(size, budget.keep * whole, whole) + options.gamma * binary_term(gates)
            )
            value = _number(total, f"the loss at step {step + 1}")
            if step >= first_kept and value < least:
                least, best = value, {n: p.detach().clone() for n, p in psi.items()}
            adam.zero_grad()
            total.backward()
            adam.step()
            if (step + 1) % max(1, options.steps // 10) == 0:
                share = float(size.detach()) / whole
                listener.tell(f"step {step + 1} of {options.steps}: loss {value:.4f}, cost {share:.1%}")
    return {n: p.cpu().double().sigmoid() for n, p in best.items()}


def budget_term(cost: Tensor, target: float, whole: float) -> Tensor:
    """P: 0 at the target, 1 at the whole network, 1 at nothing; linear on both sides.

    >>> [budget_term(torch.tensor(c), 40.0, 100.0).item() for c in (100.0, 70.0, 40.0, 10.0)]
    [1.0, 0.5, 0.0, 0.75]
    """
    return (cost - target) / (whole - target) if cost > target else 1 - cost / target


def binary_term(gates: Mapping[str, Tensor]) -> Tensor:
    """H: mean over groups of the mean distance of a gate from the nearer of 0 and 1.

    >>> binary_term({"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([0.5, 0.75, 1.0, 0.75])}).item()
    0.125
    """
    return torch.stack([(g - g.round()).abs().mean() for g in gates.values()]).mean()


def _task(
    gated: Gated, gates: Mapping[str, Tensor], inputs: Example, targets: Any, task: str, loss: Loss | None
) -> Tensor:
    if task == "labels":
        value = (loss or cross_entropy)(gated(inputs, gates), to_device(targets, gated.device))
    else:
        with torch.no_grad():
            target = first_tensor(gated(inputs, {}))
        value = (divergence if task == "distill" else relative_gap)(first_tensor(gated(inputs, gates)), target)
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise BadInput(f"gates, task loss: expected one number as a tensor; got {shape}")
    if value < -1e-4:  # a divergence of equals may round below zero
        raise BadInput(
            f"gates, task loss: expected a number >= 0; got {value.item():g}. The weights beta and gamma are made for "
            "losses such as cross entropy; shift the loss, or use the task 'distill' or 'gap'"
        )
    return value.reshape(())


def _number(value: Tensor, what: str) -> float:
    number = float(value.detach())
    if not math.isfinite(number):
        raise BadInput(f"gates: expected {what} to be a finite number; got {number}. Are inputs and weights finite?")
    return number


def _minibatches(batches: Iterable[Any], size: int, steps: int) -> Iterator[tuple[Example, Any]]:
    """`steps` pairs of at most `size` samples, over and over; a sequence of batches in an order drawn."""
    done = 0
    while done < steps:
        before = done
        for batch in _ordered(batches):
            for piece in _pieces(batch, size):
                yield piece
                done += 1
                if done == steps:
                    return
        if done == before:
            raise BadInput(
                f"gates: expected batches for {steps} steps; they ended after {done}. "
                "Pass a list or a loader that can be gone through again"
            )


def _ordered(batches: Iterable[Any]) -> Iterator[Any]:
    if not isinstance(batches, Sequence):
        return iter(batches)
    return (batches[i] for i in torch.randperm(len(batches)).tolist())


def _pieces(batch: Any, size: int) -> Iterator[tuple[Example, Any]]:
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise BadInput(f"gates, batch: expected a pair (inputs, targets); got {type(batch).__name__}")
    n = batch_of(batch[0])
    for first in range(0, n, size):

        def part(t: Tensor, here: slice = slice(first, first + size)) -> Tensor:
            return t[here] if t.dim() and t.shape[0] == n else t

        inputs, targets = map_tensors(part, tuple(batch))
        yield inputs, targets
