"""Exponential moving average of weights over training steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sartor.errors import BadInput


class Average:
    """Exponential moving average of a model's floating parameters and buffers.

    After step t: mean = d_t * mean + (1 - d_t) * weights, with d_t = min(decay, (1 + t) / (10 + t)). Early decays are
    small, so that the initial weights have little influence even in a short training. Integer buffers are copied.

    Args:
        model: the network being trained. Only `applied` and `keep_` change it.
        decay: in (0, 1); a larger decay averages over more steps.

    Source: Polyak and Juditsky 1992; the growing decay as in TensorFlow's ExponentialMovingAverage(num_updates).
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise BadInput(f"averaged weights: expected a decay strictly between 0 and 1; got {decay}")
        self._model = model
        self._decay = decay
        self._mean = [t.clone() for t in self._live()]
        self._steps = 0

    def _live(self) -> list[Tensor]:
        return [t.detach() for t in (*self._model.parameters(), *self._model.buffers())]

    @torch.no_grad()
    def update(self) -> None:
        """Include the current weights in the average."""
        self._steps += 1
        d = min(self._decay, (1 + self._steps) / (10 + self._steps))
        for mean, live in zip(self._mean, self._live()):
            if live.is_floating_point():
                mean.lerp_(live, 1 - d)
            else:
                mean.copy_(live)

    def state_dict(self) -> dict[str, Any]:
        """The average and the steps behind it."""
        return {"mean": list(self._mean), "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`.

        Raises:
            ValueError: of another number of tensors, or of other shapes.
        """
        values = state["mean"]
        if [v.shape for v in values] != [m.shape for m in self._mean]:
            raise ValueError("averaged weights: expected the shapes of this network")
        for mean, value in zip(self._mean, values):
            mean.copy_(value)
        self._steps = int(state["steps"])

    def keep_(self) -> None:
        """Replace the weights of the model by the average."""
        for mean, live in zip(self._mean, self._live()):
            live.copy_(mean)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block, the model has the averaged weights; afterwards its own."""
        own = [t.clone() for t in self._live()]
        self.keep_()
        try:
            yield
        finally:
            for saved, live in zip(own, self._live()):
                live.copy_(saved)
