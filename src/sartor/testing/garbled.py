"""Texts that are nearly right: what a parser meets when a file is damaged, old, or written by an enemy.

Each kind has a few right texts and a vocabulary. A garbled text is a right one in which pieces were removed, doubled,
swapped, or replaced by words of the vocabulary and by values that have broken parsers before. `texts` gives them to
hypothesis, `garbled` to a loop.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sartor.errors import MissingExtra

_PIECE = re.compile(r"\w+|\s+|[^\w\s]")
_NASTY = (
    "", " ", "\0", "\n", "-1", "0", "1e999", "nan", "NaN", "Infinity", "-Infinity", "null", "true", "1" * 400,
    "9" * 5000, "2147483648", "18446744073709551616", "0x10", "1_000", "١٢٣", "é", "\ud7ff", "\U0001f600", "a" * 300,
    "../..", "/dev/zero", "__class__", "__import__", "os:system", "{}", "[]", "[[", "]]", "{" * 200, "[" * 3000,
    '"', "'", "\\", "%", "<=", ">=", "@", ",", ":", "=", "\u202e", "1e-400", "0.1e", "--", "+5", "inf", "None",
)  # fmt: skip


@dataclass(frozen=True)
class Grammar:
    """What one parser reads."""

    right: Sequence[str]  # texts that it accepts
    words: Sequence[str] = ()  # pieces that mean something to it


def garbled(grammar: Grammar, draw: random.Random) -> str:
    """A text that is nearly right; sometimes a right one, sometimes only words.

    Args:
        grammar: of the parser.
        draw: where chance comes from.
    """
    if draw.random() < 0.05:
        return "".join(draw.choice([*grammar.words, *_NASTY]) for _ in range(draw.randrange(0, 12)))
    pieces = _PIECE.findall(draw.choice(list(grammar.right)))
    for _ in range(draw.choice((0, 1, 1, 1, 2, 3, 8))):
        _change(pieces, grammar, draw)
    return "".join(pieces)


def _change(pieces: list[str], grammar: Grammar, draw: random.Random) -> None:
    if not pieces:
        pieces.append(draw.choice(_NASTY))
        return
    i, j = draw.randrange(len(pieces)), draw.randrange(len(pieces))
    match draw.randrange(7):
        case 0:
            del pieces[i]
        case 1:
            pieces.insert(i, pieces[j])
        case 2:
            pieces[i], pieces[j] = pieces[j], pieces[i]
        case 3:
            pieces[i] = draw.choice(_NASTY)
        case 4 if grammar.words:
            pieces[i] = draw.choice(list(grammar.words))
        case 5:
            low, high = min(i, j), max(i, j)
            pieces[low:high] = pieces[low:high] * draw.choice((0, 2, 3))
        case _:
            pieces.insert(i, draw.choice(_NASTY))


def many(grammar: Grammar, count: int, seed: int = 0) -> Iterator[str]:
    """So many garbled texts; the same seed gives the same ones."""
    draw = random.Random(seed)
    for _ in range(count):
        yield garbled(grammar, draw)


def texts(grammar: Grammar) -> Any:
    """A strategy of hypothesis that gives garbled texts.

    Raises:
        MissingExtra: hypothesis is not installed.
    """
    try:
        from hypothesis import strategies
    except ImportError as e:
        raise MissingExtra("hypothesis", "test", "a strategy of texts") from e
    return strategies.randoms(use_true_random=False).map(lambda draw: garbled(grammar, draw))


__all__ = ["Grammar", "garbled", "many", "texts"]
