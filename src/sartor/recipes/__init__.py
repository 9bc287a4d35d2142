"""One published method, one file: which criterion, how it is compared, how much goes where, how it heals."""

from sartor.recipes import activation, bn_scale, eagleeye, flap, flap_fpgm, fpgm, l1, l2, random, taylor, uniform_l1
from sartor.recipes.registry import RECIPES, enter, find_recipe

__all__ = [
    "RECIPES", "activation", "bn_scale", "eagleeye", "enter", "find_recipe", "flap", "flap_fpgm", "fpgm", "l1", "l2",
    "random", "taylor", "uniform_l1",
]  # fmt: skip
