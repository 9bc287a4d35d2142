"""Sparse training: masks that are decided while a network trains, for units and for weight patterns."""

from sartor.sparse import (
    decaying_units,
    partition_weights,
    projected_units,
    regrow_units,
    regularised_weights,
    rewire_weights,
    units,
    weights,
)
from sartor.sparse.mechanism import MECHANISMS, Mechanism, Moment, Training, Units, mechanism_of

__all__ = [
    "MECHANISMS", "Mechanism", "Moment", "Training", "Units", "decaying_units", "mechanism_of", "partition_weights",
    "projected_units", "regrow_units", "regularised_weights", "rewire_weights", "units", "weights",
]  # fmt: skip
