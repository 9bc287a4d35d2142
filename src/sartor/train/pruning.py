"""What a training loop needs of a session that prunes while it trains; the session itself is built above."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer


class Pruning(Protocol):
    """A session, see `sartor.Session`."""

    @property
    def network(self) -> nn.Module:
        """What is called in place of the model: the same outputs, at the cost of what is live."""

    def step(self) -> None:
        """One update of the optimizer was made."""

    def state_dict(self) -> Mapping[str, Any]:
        """For a checkpoint."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint, after model and optimizer were loaded."""


MakePruning = Callable[[nn.Module, Optimizer, int], Pruning]  # (model, optimizer, updates of the whole run) -> session

__all__ = ["MakePruning", "Pruning"]
