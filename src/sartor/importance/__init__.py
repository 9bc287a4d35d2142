"""What matters: published criteria as plain functions, and the way from them to one score a unit."""

from sartor.importance import activation, bn_scale, flap, fpgm, l1, l2, random, taylor
from sartor.importance.registry import CRITERIA, Criterion, criterion, find_criterion
from sartor.importance.score import score

__all__ = [
    "CRITERIA", "Criterion", "activation", "bn_scale", "criterion", "find_criterion", "flap", "fpgm", "l1", "l2",
    "random", "score", "taylor",
]  # fmt: skip
