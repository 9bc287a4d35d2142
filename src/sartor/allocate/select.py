"""Selection of the groups that may be cut, by patterns of their kind, name or module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from sartor.errors import BadInput, UnknownName
from sartor.structure.kinds import KINDS
from sartor.types import Axes, Group, Recipe, Rewrite

WAYS = ("kind:", "name:", "module:")
_SHOWN = 4  # names spelled out in an error


def select(groups: Mapping[str, Group], only: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[str]:
    """Names of the groups that match any pattern of `only` (empty: all groups) and none of `exclude`, in order.

    A pattern that is a kind ("heads", "head-dimension") matches groups of this kind. Any other pattern is compared with
    the group's name and with the paths of the modules that write its units, by the rules of fnmatch. The prefixes
    "kind:", "name:" and "module:" restrict a pattern to one of these.

    Raises:
        UnknownName: a pattern matches no group; the message lists kinds and names.
        BadInput: no group is left.
    """
    chosen = [g for g in groups.values() if not only or any(matches(g, p) for p in only)]
    for pattern in (*only, *exclude):
        if not any(matches(g, pattern) for g in groups.values()):
            raise _nothing(pattern, groups)
    left = [g.name for g in chosen if not any(matches(g, p) for p in exclude)]
    if groups and not left:
        clauses = [f"cut {', '.join(only)}"] if only else []
        clauses += [f"keep {', '.join(exclude)}"] if exclude else []
        raise BadInput(f"{' and '.join(clauses)}: no group is left to cut, of {_census(groups)}; relax the patterns")
    return left


def matches(group: Group, pattern: str) -> bool:
    """Whether a pattern matches a group.

    >>> from sartor.types import Member
    >>> g = Group("layer4.0.qkv", "head dimension", 8, (Member("layer4.0.qkv.weight", 0, "out"),))
    >>> [matches(g, p) for p in ("head-dimension", "layer4*", "layer4.0", "module:layer4", "name:layer4", "kind:head*")]
    [True, True, True, True, False, True]
    """
    way = next((w for w in WAYS if pattern.startswith(w)), "")
    pattern = pattern.removeprefix(way)
    kind = _as_kind(pattern)
    if way == "kind:" or (not way and kind in KINDS):
        return fnmatchcase(group.kind, kind)
    if way in ("", "name:") and fnmatchcase(group.name, pattern):
        return True
    return way != "name:" and any(fnmatchcase(p, pattern) for p in _homes(group))


def patterns(text: str | Sequence[str] | None) -> tuple[str, ...]:
    """Patterns from one comma-separated text, or from several.

    >>> patterns("heads, layer4*"), patterns(["a", "b,c"]), patterns(None)
    (('heads', 'layer4*'), ('a', 'b', 'c'), ())
    """
    texts = [text] if isinstance(text, str) else list(text or ())
    if not all(isinstance(t, str) for t in texts):
        raise BadInput(f"cut and keep: expected patterns as text, such as 'heads' or 'layer4*'; got {text!r}")
    return tuple(p.strip() for t in texts for p in t.split(",") if p.strip())


def narrowed(
    recipe: Recipe,
    cut: str | Sequence[str] | None = None,
    keep: str | Sequence[str] | None = None,
    rewrite: Rewrite | None = None,
) -> Recipe:
    """The recipe with the patterns of `cut` in place of its own (None: its own), and with those of `keep` excluded.

    `rewrite`, unless None, replaces the recipe's `cut.rewrite`.
    """
    only, whole = patterns(cut), patterns(keep)
    if not (only or whole or rewrite):
        return recipe
    narrower = replace(recipe.cut, only=only or recipe.cut.only, exclude=(*recipe.cut.exclude, *whole))
    if rewrite:
        if not isinstance(narrower, Axes):
            raise BadInput(f"rewrite={rewrite!r}: recipe {recipe.name!r} masks weights, and rewrites no forward")
        narrower = replace(narrower, rewrite=rewrite)
    return replace(recipe, cut=narrower)


def _as_kind(pattern: str) -> str:
    return pattern.lower().replace("-", " ").replace("_", " ")


def _homes(group: Group) -> set[str]:
    """Paths of the modules that write the units, and of the modules that contain them."""
    tensors = [m.tensor for m in group.members if m.role != "in"] or [m.tensor for m in group.members]
    paths: set[str] = set()
    for tensor in tensors:
        parts = tensor.split(".")[:-1]
        paths |= {".".join(parts[:i]) for i in range(1, len(parts) + 1)}
    return paths


def _census(groups: Mapping[str, Group]) -> str:
    """How many groups there are of each kind."""
    return ", ".join(f"{n} of {kind}" for kind, n in Counter(g.kind for g in groups.values()).most_common())


def _nothing(pattern: str, groups: Mapping[str, Group]) -> UnknownName:
    bare = pattern.removeprefix(next((w for w in WAYS if pattern.startswith(w)), ""))
    kinds = {g.kind for g in groups.values()}
    what = "group of the kind" if _as_kind(bare) in KINDS else "group matching the pattern"
    known = [*kinds, *groups, *(h for g in groups.values() for h in _homes(g))]
    names = ", ".join(list(groups)[:_SHOWN]) + (", ..." if len(groups) > _SHOWN else "")
    return UnknownName(what, pattern, known, f"This network has {_census(groups)}; names are such as {names}.")
