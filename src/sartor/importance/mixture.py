"""Mixtures of criteria, written as text: "0.5*taylor + 0.5*fpgm", "flap*fpgm"."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sartor.errors import BadInput

_NUMBER = re.compile(r"(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_PLUS = re.compile(r"(?<!\d[eE])\+")  # not that of 1e+3


@dataclass(frozen=True)
class Term:
    """A weight times a product of criteria."""

    weight: float
    names: tuple[str, ...]


def parse_mixture(text: str) -> tuple[Term, ...]:
    """The terms of a weighted sum of products; a single name is a mixture of one.

    Raises:
        BadInput: an empty term, one without a criterion, or a weight that is zero.

    >>> parse_mixture("0.5*taylor + flap*fpgm")
    (Term(weight=0.5, names=('taylor',)), Term(weight=1.0, names=('flap', 'fpgm')))
    """
    terms = []
    for part in _PLUS.split(text):
        factors = [f.strip() for f in part.split("*")]
        numbers = [float(f) for f in factors if _NUMBER.fullmatch(f)]
        names = tuple(f for f in factors if not _NUMBER.fullmatch(f))
        weight = math.prod(numbers, start=1.0)
        if not names or not all(names) or not (math.isfinite(weight) and weight > 0):
            raise BadInput(
                f"criterion {text!r}: expected names joined by '*' and '+', with weights above zero, such as "
                f"'0.5*taylor + 0.5*fpgm'; got the term {part.strip()!r}"
            )
        terms.append(Term(weight, names))
    return tuple(terms)


def mixed(terms: tuple[Term, ...], scores: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Scores of a mixture, group by group, from those of its criteria: {criterion: {group: [units]}}.

    >>> mixed(parse_mixture("2*a + a*b"), {"a": {"g": torch.tensor([1.0])}, "b": {"g": torch.tensor([5.0])}})
    {'g': tensor([7.])}
    """
    groups = scores[terms[0].names[0]]
    return {
        g: torch.stack([t.weight * torch.stack([scores[n][g] for n in t.names]).prod(0) for t in terms]).sum(0)
        for g in groups
    }
