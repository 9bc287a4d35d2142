"""The values of what comes back."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from sartor.errors import BadInput
from sartor.types.when import Values


def grown_values(
    values: Values, weight: Tensor, live: Tensor, stored: Tensor | None, generator: Generator | None
) -> Tensor:
    """What the elements of a weight are when they come back; only those that come back are used.

    Args:
        values: "zero"; "recent" or "rewind": what is stored; "reinitialise": normal numbers with the mean and standard
            deviation of what is live.
        weight: as it is now.
        live: bool, the shape of `weight`: what stays live.
        stored: the values that come back; None: none were stored, which "recent" takes as zeros (nothing died yet).
        generator: for "reinitialise".

    Raises:
        BadInput: "rewind" without stored values, or "reinitialise" without a generator.
    """
    if values == "zero" or (values == "recent" and stored is None):
        return torch.zeros_like(weight)
    if values == "reinitialise":
        if generator is None:
            raise BadInput("regrown values 'reinitialise': expected a random generator; got none")
        known = weight[live].float()
        mean, spread = (float(known.mean()), float(known.std(correction=0))) if known.numel() else (0.0, 0.0)
        drawn = torch.randn(weight.shape, generator=generator, device=generator.device).to(weight)
        return drawn * (spread if math.isfinite(spread) else 0.0) + mean
    if stored is None:
        raise BadInput(f"regrown values {values!r}: expected stored values; got none")
    return stored.to(weight)


__all__ = ["grown_values"]
