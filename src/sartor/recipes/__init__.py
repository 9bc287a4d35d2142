"""One published method, one file: which criterion, how it is compared, how much goes where, how it heals."""

from sartor.recipes import (
    ablation,
    activation,
    apoz,
    autobot,
    bn_scale,
    chex_leverage,
    chex_residual,
    chip,
    eagleeye,
    fisher,
    flap,
    flap_fpgm,
    fpgm,
    group_fisher,
    halp,
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
    sensitivity,
    taylor,
    taylor2,
    uniform_l1,
    wanda,
)
from sartor.recipes.registry import RECIPES, changed, enter, find_recipe

__all__ = [
    "RECIPES", "ablation", "activation", "apoz", "autobot", "bn_scale", "changed", "chex_leverage", "chex_residual",
    "chip", "eagleeye", "enter", "find_recipe", "fisher", "flap", "flap_fpgm", "fpgm", "group_fisher", "halp",
    "hesso", "hrank", "hrel", "l1", "l2", "lamp", "median", "movement", "oto", "random", "reconstruction",
    "sensitivity", "taylor", "taylor2", "uniform_l1", "wanda",
]  # fmt: skip
