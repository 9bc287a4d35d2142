"""Which groups may be cut: by kind, by name and by module, as a recipe or a user says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from sartor.errors import BadInput, UnknownName
from sartor.structure.kinds import KINDS
from sartor.types import Group, Recipe

WAYS = ("kind:", "name:", "module:")
_SHOWN = 4  # names spelled out in an error


def select(groups: Mapping[str, Group], only: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[str]:
    """Names of the groups that match any pattern of `only` (all if it is empty) and none of `exclude`, in order.

    A pattern is a kind ("heads", "head-dimension"), or else is compared with the group's name and with the paths of
    the modules that write its units, by the rules of fnmatch. "kind:", "name:" and "module:" before it say which.

    Raises:
        UnknownName: a pattern matches nothing, which is a misspelling more often than not; says what there is.
        BadInput: nothing is left.
    """
    chosen = [g for g in groups.values() if not only or any(matches(g, p) for p in only)]
    for pattern in (*only, *exclude):
        if not any(matches(g, pattern) for g in groups.values()):
            raise _nothing(pattern, groups)
    left = [g.name for g in chosen if not any(matches(g, p) for p in exclude)]
    if groups and not left:
        said = [f"cut {', '.join(only)}"] if only else []
        said += [f"keep {', '.join(exclude)}"] if exclude else []
        raise BadInput(f"{' and '.join(said)}: no group is left to cut, of {_census(groups)}; loosen them")
    return left


def matches(group: Group, pattern: str) -> bool:
    """Whether one pattern speaks of a group.

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


def patterns(said: str | Sequence[str] | None) -> tuple[str, ...]:
    """Patterns from one text with commas, or from several texts.

    >>> patterns("heads, layer4*"), patterns(["a", "b,c"]), patterns(None)
    (('heads', 'layer4*'), ('a', 'b', 'c'), ())
    """
    texts = [said] if isinstance(said, str) else list(said or ())
    if not all(isinstance(t, str) for t in texts):
        raise BadInput(f"cut and keep: expected patterns as text, such as 'heads' or 'layer4*'; got {said!r}")
    return tuple(p.strip() for t in texts for p in t.split(",") if p.strip())


def narrowed(recipe: Recipe, cut: str | Sequence[str] | None = None, keep: str | Sequence[str] | None = None) -> Recipe:
    """The recipe that cuts only what `cut` names, in place of what it cuts itself, and keeps `keep` whole as well."""
    only, whole = patterns(cut), patterns(keep)
    if not (only or whole):
        return recipe
    axes = replace(recipe.cut, only=only or recipe.cut.only, exclude=(*recipe.cut.exclude, *whole))
    return replace(recipe, cut=axes)


def _as_kind(pattern: str) -> str:
    return pattern.lower().replace("-", " ").replace("_", " ")


def _homes(group: Group) -> set[str]:
    """Paths of the modules that write the units, and of those these lie in."""
    tensors = [m.tensor for m in group.members if m.role != "in"] or [m.tensor for m in group.members]
    found = set()
    for tensor in tensors:
        parts = tensor.split(".")[:-1]
        found |= {".".join(parts[:i]) for i in range(1, len(parts) + 1)}
    return found


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
