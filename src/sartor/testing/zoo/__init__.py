"""A zoo of small networks: every operator family that CNNs and MLPs need, each in milliseconds.

    for case in cases():
        model, example = case.build(), case.example()

A bug arrives here as the smallest network that shows it.
"""

from __future__ import annotations

from sartor.testing.zoo import (
    attention,
    concat,
    interfaces,
    mobile,
    norms,
    operators,
    plain,
    residual,
    scales,
    sequences,
    tensors,
)
from sartor.testing.zoo.case import MARKS, ZOO, Case, case, images, randomise_, rows, tokens


def cases(*, without: tuple[str, ...] = (), exact: bool | None = None) -> list[Case]:
    """The networks of the zoo by name.

    Args:
        without: leave out the cases that bear any of these marks (keys of `MARKS`).
        exact: only those where every cut equals silencing (True), only the others (False), or all (None).

    >>> [c.name for c in cases(without=("later", "hard")) if "shuffle" in c.name][:2]
    ['channel-shuffle-module', 'pixel-shuffle']
    """
    entries = [e.value for e in ZOO.entries()]
    return [c for c in entries if not c.marks & set(without) and exact in (None, c.exact)]


__all__ = [
    "MARKS", "ZOO", "Case", "attention", "case", "cases", "concat", "images", "interfaces", "mobile", "norms",
    "operators", "plain", "randomise_", "residual", "rows", "scales", "sequences", "tensors", "tokens",
]  # fmt: skip
