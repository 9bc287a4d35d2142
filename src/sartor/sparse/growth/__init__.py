"""What comes back while a network trains, and with which values."""

from sartor.sparse.growth.scores import LastActivations, gradient_growth, hebbian_growth, random_growth
from sartor.sparse.growth.values import grown_values

__all__ = ["LastActivations", "gradient_growth", "grown_values", "hebbian_growth", "random_growth"]
