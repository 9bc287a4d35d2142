"""The result of `inspect` as a tree of modules: for the terminal, as Graphviz text and as an HTML page."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.text import Text
from rich.tree import Tree

from sartor.report.fields import plural
from sartor.report.rows import FrozenRow, frozen_rows, short_name
from sartor.report.template import filled, markup_type
from sartor.structure.kinds import counted
from sartor.units import show_percent

_MOST = 3  # modules listed in one line
_COLOURS = (
    "#8fd0c6", "#e9b79c", "#aebfe0", "#dcc98d", "#d0b0cc", "#b5d1a1", "#e0a4b1", "#c3c8ce", "#9ec7dd", "#d9d2b4",
    "#b9b4e0", "#cfd8cf",
)  # fmt: skip


@dataclass(frozen=True)
class GroupRow:
    """One group; costs are text."""

    name: str
    label: str  # the last part of its name
    kind: str
    units: int
    mixes: str
    macs_share: str
    params_share: str
    members: tuple[str, ...]
    writes: tuple[str, ...]  # modules
    reads: tuple[str, ...]

    @property
    def line(self) -> str:
        """Number and kind of units, and the share of the cost."""
        cost = (("MACs", self.macs_share), ("parameters", self.params_share))
        return ", ".join([counted(self.units, self.kind), *(f"{share} of the {what}" for what, share in cost if share)])

    @property
    def places(self) -> str:
        """The modules that write and read the units."""
        modules = [f"{verb} by {_few(m)}" for verb, m in (("written", self.writes), ("read", self.reads)) if m]
        first, *more = self.mixes.split("; ")
        mixed = [f"mixed: {first}" + (f", and {len(more)} more" if more else "")] if first else []
        return "; ".join([plural(len(self.members), "member"), *modules, *mixed])


@dataclass
class Node:
    """A module: the groups named after it, and the modules inside it."""

    name: str
    groups: list[GroupRow] = field(default_factory=list)
    inside: dict[str, Node] = field(default_factory=dict)

    @property
    def look(self) -> Any:
        """Equal for modules whose description is equal."""
        return (
            tuple((g.label, g.kind, g.units, bool(g.mixes)) for g in self.groups),
            tuple((n, m.look) for n, m in self.inside.items()),
        )


def group_rows(description: Mapping[str, Any]) -> list[GroupRow]:
    """The groups of `inspect --json` in network order."""
    return [
        GroupRow(
            name=g["name"],
            label=short_name(g["name"]).rpartition(".")[2],
            kind=g["kind"],
            units=g["units"],
            mixes=g["mixes"] or "",
            macs_share=show_percent(g["macs_share"]),
            params_share=show_percent(g["params_share"]),
            members=tuple(g["members"]),
            writes=tuple(g["writes"]),
            reads=tuple(g["reads"]),
        )
        for g in description["groups"]
    ]


def tree_of(description: Mapping[str, Any]) -> Node:
    """Groups under the modules they are named after."""
    root = Node("")
    for row in group_rows(description):
        node = root
        for part in short_name(row.name).split(".")[:-1]:
            node = node.inside.setdefault(part, Node(part))
        node.groups.append(row)
    return root


def folded(nodes: Sequence[Node]) -> list[tuple[str, Node]]:
    """Neighbouring modules with equal descriptions as one: ("0", node), ("1 to 11, each", node)."""
    runs: list[list[Node]] = []
    for node in nodes:
        if runs and runs[-1][0].look == node.look and node.name.isdigit():
            runs[-1].append(node)
        else:
            runs.append([node])
    return [(r[0].name if len(r) == 1 else f"{r[0].name} to {r[-1].name}, each", r[0]) for r in runs]


def alike(rows: Sequence[FrozenRow]) -> list[FrozenRow]:
    """Reasons that differ only in the numbers of layers as one, with * for the numbers."""
    by: dict[str, list[FrozenRow]] = {}
    for row in rows:
        by.setdefault(re.sub(r"(?<=[. ])\d+(?=[.)]|$)|\b\d+(?=\.[a-z])", "*", row.reason), []).append(row)
    merged = [
        same[0] if len(same) == 1 else FrozenRow(reason, tuple(a for f in same for a in f.axes))
        for reason, same in by.items()
    ]
    return sorted(merged, key=lambda r: -len(r.axes))


def group_tree(description: Mapping[str, Any], name: str = "") -> Tree:
    """The tree for the terminal; equal neighbouring modules are shown once."""
    tree = Tree(Text(name or str(description.get("model") or ""), style="bold"), guide_style="dim")
    _grow(tree, tree_of(description))
    return tree


def _grow(tree: Tree, node: Node) -> None:
    for g in node.groups:
        line = Text.assemble((g.label, "bold"), "  ", g.line)
        line.append(f"\n{g.places}", style="dim")
        tree.add(line)
    for name, inner in folded(list(node.inside.values())):
        _grow(tree.add(Text(name)), inner)


def dot(description: Mapping[str, Any]) -> str:
    """Graphviz text: modules in nested boxes, groups as ellipses between the modules that write and read them."""
    rows = group_rows(description)
    kinds = list(dict.fromkeys(r.kind for r in rows))
    colour = {k: _COLOURS[i % len(_COLOURS)] for i, k in enumerate(kinds)}
    lines = [
        "digraph sartor {", "  rankdir=LR; compound=true;", '  node [shape=box, fontname="Helvetica", fontsize=11];',
        '  edge [color="#6b7076"]; graph [fontname="Helvetica", fontsize=11, color="#9a968c"];',
    ]  # fmt: skip
    lines += _clusters(sorted({m for r in rows for m in (*r.writes, *r.reads)}))
    for r in rows:
        look = f'shape=ellipse, style=filled, fillcolor="{colour[r.kind]}"'
        label = f"{_q(short_name(r.name))}\\n{counted(r.units, r.kind)}"
        lines.append(f'  {_id("g", r.name)} [{look}, label="{label}"];')
        lines += [f"  {_id('m', m)} -> {_id('g', r.name)};" for m in r.writes]
        lines += [f"  {_id('g', r.name)} -> {_id('m', m)};" for m in r.reads]
    for tied in description["ties"]:
        for a, b in itertools.pairwise(tied):
            lines.append(f'  {_id("g", a)} -> {_id("g", b)} [dir=none, style=dashed, label="equally many"];')
    return "\n".join([*lines, "}"]) + "\n"


def _clusters(paths: Sequence[str]) -> list[str]:
    nested: dict[str, Any] = {}
    for path in paths:
        here = nested
        for part in path.split("."):
            here = here.setdefault(part, {})
        here[""] = path
    lines: list[str] = []

    def write(level: dict[str, Any], trail: str, indent: str) -> None:
        for part, below in level.items():
            if part == "":
                lines.append(f'{indent}{_id("m", below)} [label="{_q(below.rpartition(".")[2] or "the model")}"];')
                continue
            inner = f"{trail}.{part}".strip(".")
            if set(below) == {""}:
                write(below, inner, indent)
                continue
            lines.append(f'{indent}subgraph "cluster_{_q(inner)}" {{ label="{_q(part)}";')
            write(below, inner, indent + "  ")
            lines.append(f"{indent}}}")

    write(nested, "", "  ")
    return lines


def _id(kind: str, name: str) -> str:
    return f'"{kind}:{_q(name)}"'


def _q(text: str) -> str:
    return text.replace('"', '\\"')


def _few(names: Sequence[str]) -> str:
    shown = [n or "the model" for n in names[:_MOST]]
    return ", ".join(shown) + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")


def page(description: Mapping[str, Any], why: Mapping[str, Sequence[str]], head: str, coverage: str) -> str:
    """One self-contained page: the tree, what ties each group, what is frozen.

    Args:
        description: the object of `inspect --json`.
        why: group -> the operators that tie its members, as text.
        head: size of the network, in a sentence.
        coverage: the share that can be cut, in a sentence.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    markup_type("the HTML page of inspect")
    frozen = frozen_rows((f["axis"], f["reason"]) for f in description["frozen"])
    return filled(
        "inspection.html.j2",
        {
            "model": str(description.get("model") or "a network"), "head": head, "coverage": coverage,
            "root": tree_of(description), "why": why, "frozen": alike(frozen),
            "kinds": list(description["kinds"].items()),
            "ties": description["ties"],
        },
    )  # fmt: skip


def write_page(
    description: Mapping[str, Any], why: Mapping[str, Sequence[str]], head: str, coverage: str, path: str | Path
) -> None:
    """Write the page to a file, atomically."""
    from sartor.export.files import atomic_write

    atomic_write(Path(path), page(description, why, head, coverage))
