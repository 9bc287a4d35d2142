"""What matters: published criteria as plain functions, and the way from them to one score a unit."""

from sartor.importance import criteria
from sartor.importance.mixture import parse_mixture
from sartor.importance.registry import CRITERIA, Sampling, ScoreFunction, criterion, find_criterion
from sartor.importance.score import AppliesToNoGroup, score, scores

__all__ = [
    "CRITERIA", "AppliesToNoGroup", "Sampling", "ScoreFunction", "criteria", "criterion", "find_criterion",
    "parse_mixture", "score", "scores",
]  # fmt: skip
