"""One criterion, one file. Importing this package registers them all; a new file needs one line here."""

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

__all__ = [
    "ablation", "activation", "apoz", "bn_scale", "chex_leverage", "chex_residual", "chip", "fisher", "flap",
    "fpgm", "group_fisher", "hesso", "hrank", "hrel", "l1", "l2", "lamp", "median", "movement", "oto", "random",
    "reconstruction", "taylor", "taylor2", "wanda",
]  # fmt: skip
