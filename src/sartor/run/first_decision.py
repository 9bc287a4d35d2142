"""What the first decision of a session changed, so that a resumed run can take it back."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class FirstDecision:
    """A session decides when it is made. Weights that were loaded before are those of a later step, and must survive.

    Args:
        model, optimizer: before the decision.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer):
        self._before = [(t, t.detach().clone()) for t in _tensors(model, optimizer)]
        self._changed: list[tuple[Tensor, Tensor, Tensor]] = []  # tensor, value before, value after

    def made(self) -> None:
        """The decision has been carried out."""
        self._changed = [(t, old, t.detach().clone()) for t, old in self._before if not torch.equal(t, old)]
        self._before = []

    def undo(self) -> None:
        """Put back every tensor that nobody has changed since, such as by loading."""
        with torch.no_grad():
            for t, old, new in self._changed:
                if torch.equal(t, new):
                    t.copy_(old)


def _tensors(model: nn.Module, optimizer: Optimizer) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


__all__ = ["FirstDecision"]
