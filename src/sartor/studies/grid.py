"""Tables as values, rendered as Markdown here and for the terminal by the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Grid:
    """A table. Cells may be bold (`**1.0**`) or code (`` `l1` ``)."""

    heads: Sequence[str]
    lines: Sequence[Sequence[str]]
    left: int | None = None  # left-aligned columns, the others are right-aligned; None: no alignment is given


Part: TypeAlias = str | Grid  # a paragraph, heading or list as Markdown; or a table


def markdown(parts: Sequence[Part]) -> str:
    """Parts as Markdown, separated by empty lines; empty paragraphs are left out.

    >>> print(markdown(["Two rows.", Grid(("name", "n"), [("a", "1"), ("b|c", "2")], left=1)]))
    Two rows.
    <BLANKLINE>
    | name | n |
    | --- | ---: |
    | a | 1 |
    | b\\|c | 2 |
    """
    return "\n\n".join(part if isinstance(part, str) else _table(part) for part in parts if part)


def _table(grid: Grid) -> str:
    left = len(grid.heads) if grid.left is None else grid.left
    rule = ["---" if i < left else "---:" for i in range(len(grid.heads))]
    return "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in (grid.heads, rule, *grid.lines))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def bullets(sentences: Sequence[str]) -> str:
    """A Markdown list; empty if there are no sentences.

    >>> bullets(["a", "b"])
    '- a\\n- b'
    """
    return "\n".join(f"- {s}" for s in sentences)


def machine(environment: Mapping[str, Any] | None, packages: Sequence[str] = ("torch",)) -> str:
    """The processor and the versions of some packages, for the caption of a table.

    >>> machine({"cpu": "A", "versions": {"torch": "2.9", "numpy": None}}, ("torch", "numpy"))
    'A, torch 2.9'
    """
    facts = environment or {}
    versions = facts.get("versions") or {}
    return ", ".join([str(facts.get("cpu", "a CPU")), *(f"{p} {versions[p]}" for p in packages if versions.get(p))])
