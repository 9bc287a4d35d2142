"""Sparse training: masks that are decided while a network trains, for units and for weight patterns."""

from sartor.sparse import (
    decaying_units,
    iterative_weights,
    partition_weights,
    projected_units,
    regrow_units,
    reweighted_weights,
    rewire_weights,
    units,
    weights,
)
from sartor.sparse.mechanism import MECHANISMS, Mechanism, Moment, Training, Units, mechanism_of

__all__ = [
    "MECHANISMS", "Mechanism", "Moment", "Training", "Units", "mechanism_of", "decaying_units", "iterative_weights",
    "partition_weights", "projected_units", "regrow_units", "reweighted_weights", "rewire_weights", "units",
    "weights",
]  # fmt: skip
