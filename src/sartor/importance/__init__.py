"""What matters: published criteria as plain functions, and the way from them to one score a unit."""

from sartor.importance.criteria import (
    ablation,
    activation,
    apoz,
    bn_scale,
    chex_leverage,
    chex_residual,
    chip,
    fisher,
    flap,
    fpgm,
    group_fisher,
    hesso,
    hrank,
    hrel,
    l1,
    l2,
    lamp,
    median,
    movement,
    oto,
    random,
    reconstruction,
    taylor,
    taylor2,
    wanda,
)
from sartor.importance.mixture import parse_mixture
from sartor.importance.registry import CRITERIA, Criterion, criterion, find_criterion
from sartor.importance.score import score, scores

__all__ = [
    "CRITERIA", "Criterion", "ablation", "activation", "apoz", "bn_scale", "chex_leverage", "chex_residual", "chip",
    "criterion", "find_criterion", "fisher", "flap", "fpgm", "group_fisher", "hesso", "hrank", "hrel", "l1", "l2",
    "lamp", "median", "movement", "oto", "parse_mixture", "random", "reconstruction", "score", "scores", "taylor",
    "taylor2", "wanda",
]  # fmt: skip
