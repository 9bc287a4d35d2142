"""A zoo of small networks that cover every operator family; each runs in milliseconds.

    for case in cases():
        model, example = case.build(), case.example()

For each bug that was found, the smallest network that shows it is added here.
"""

from __future__ import annotations

from sartor.testing.zoo import (
    attention,
    branches,
    concat,
    interfaces,
    mobile,
    norms,
    operators,
    parametrised,
    plain,
    residual,
    scales,
    sequences,
    tensors,
)
from sartor.testing.zoo.case import MARKS, ZOO, Case, case, images, randomise_, rows, tokens

CNN_CLASSES = {  # of the survey of Khan et al. 2020, arXiv:1901.06032 -> networks of the zoo
    "spatial exploitation": ("lenet", "plain-conv", "inception"),
    "depth": ("resnet", "bottleneck"),
    "multi-path": ("densenet", "long-skips"),
    "width": ("resnext", "grouped"),
    "feature-map exploitation": ("squeeze-excite",),
    "channel boosting": ("channel-boosting",),
    "attention": ("cbam", "selective-kernel"),
}


def cases(*, without: tuple[str, ...] = (), exact: bool | None = None) -> list[Case]:
    """The networks of the zoo by name.

    Args:
        without: leave out the cases that have any of these marks (keys of `MARKS`).
        exact: True: only cases where every cut equals the zero-masked original; False: only the others; None: all.

    >>> [c.name for c in cases(without=("later", "hard")) if "shuffle" in c.name][:2]
    ['channel-shuffle-module', 'pixel-shuffle']
    """
    entries = [e.value for e in ZOO.entries()]
    return [c for c in entries if not c.marks & set(without) and exact in (None, c.exact)]


__all__ = [
    "CNN_CLASSES", "MARKS", "ZOO", "Case", "attention", "branches", "case", "cases", "concat", "images", "interfaces",
    "mobile", "norms", "operators", "parametrised", "plain", "randomise_", "residual", "rows", "scales", "sequences",
    "tensors", "tokens",
]  # fmt: skip
