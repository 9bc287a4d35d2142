"""A recipe from words: a name, and changes to its fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from sartor.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from sartor.types import Recipe

TABLES = ("training", "gates")  # fields of a recipe that have fields themselves


def part_of(name: str) -> str | None:
    """The table a field belongs to.

    >>> part_of("training.lr"), part_of("floor")
    ('training', None)
    """
    front, dot, _ = name.partition(".")
    return front if dot and front in TABLES else None


def choose_recipe(asked: str | Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe by name, or by a table {"base": name, field: value, "training": {...}, "gates": {...}}; then `changes`.

    Args:
        asked: the name or the table.
        changes: field -> value; fields of tables are spelled "training.epochs".

    Raises:
        UnknownName: no such recipe or field; says the nearest.
        BadInput: a value of the wrong kind or out of range.
    """
    from sartor.recipes.registry import find_recipe

    table: dict[str, Any] = {"base": asked} if isinstance(asked, str) else dict(asked)
    base = table.pop("base", "taylor")
    if not isinstance(base, str):
        raise BadInput(f"recipe field 'base': expected the name of a recipe; got {base!r}")
    recipe = find_recipe(base)
    wanted = dict(table)
    for part in TABLES:
        nested: Any = wanted.pop(part, {})
        if not isinstance(nested, Mapping):
            raise BadInput(f"recipe field {part!r}: expected a table; got {nested!r}")
        wanted |= {f"{part}.{k}": v for k, v in nested.items()}
    wanted |= changes or {}
    own = {k: v for k, v in wanted.items() if part_of(k) is None}
    for part in TABLES:
        mine = {k.removeprefix(f"{part}."): v for k, v in wanted.items() if part_of(k) == part}
        if mine:
            own[part] = _changed(getattr(recipe, part), mine, f"{part}.")
    return _changed(recipe, own, "")


def _changed(value: Any, wanted: Mapping[str, Any], prefix: str) -> Any:
    known = {f.name: getattr(value, f.name) for f in fields(value)}
    clean = {}
    for name, new in wanted.items():
        if name not in known:
            raise UnknownName("recipe field", prefix + name, [prefix + k for k in known])
        clean[name] = _like(known[name], new, prefix + name)
    return replace(value, **clean) if clean else value


def _like(old: Any, new: Any, name: str) -> Any:
    """The new value as the old one's kind; nothing is guessed."""
    if isinstance(old, bool):
        kind, fine = "true or false", isinstance(new, bool)
    elif isinstance(old, int):
        kind, fine = "a whole number", isinstance(new, int) and not isinstance(new, bool)
    elif isinstance(old, float):
        kind, fine = "a number", isinstance(new, int | float) and not isinstance(new, bool)
        new = float(new) if fine else new
    elif isinstance(old, tuple):
        new = [new] if isinstance(new, str) else new
        kind, fine = "a list of text", isinstance(new, list | tuple) and all(isinstance(v, str) for v in new)
        new = tuple(new) if fine else new
    elif isinstance(old, str):
        kind, fine = "text", isinstance(new, str)
    else:  # values that words cannot say: functions, nested tables already made
        kind, fine = type(old).__name__, isinstance(new, type(old) | str)
    if not fine:
        raise BadInput(f"recipe field {name!r}: expected {kind}; got {new!r}")
    return new
