"""Sparse training: masks that are decided while a network trains, for units and for weight patterns."""

from sartor.sparse import projected_units, regrow_units, units
from sartor.sparse.mechanism import MECHANISMS, Mechanism, Moment, Training, Units, mechanism_of

__all__ = [
    "MECHANISMS",
    "Mechanism",
    "Moment",
    "Training",
    "Units",
    "mechanism_of",
    "projected_units",
    "regrow_units",
    "units",
]
