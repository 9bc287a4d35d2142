"""A recipe from a run file or the command line: a base, and changes to its fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sartor.errors import BadInput

if TYPE_CHECKING:
    from sartor.types import Recipe


def choose_recipe(
    asked: str | Mapping[str, Any] | None, changes: Mapping[str, Any] | None = None, *, data: bool = True
) -> Recipe | None:
    """A recipe by name, or by a table {"base": name, field: value, "allocate": {"floor": 0.2}, ...}; then `changes`.

    Args:
        asked: the name or the table. Fields of choices stand in tables of their own or with dots ("allocate.floor");
            `heal` is a list of steps, or a table of changes to steps ({"fine-tune": {"epochs": 3}}).
            None: no recipe is named.
        changes: field -> value, with dots.
        data: whether there are data: without a base, fields of "reconstruction" are changed, and of "l1" otherwise.

    Returns:
        The recipe; None: none is named and nothing changed, so the run chooses one that suits the data.

    Raises:
        UnknownName: no such recipe or field; says the nearest.
        BadInput: a value of the wrong kind or out of range, or a field of recipes before the five choices.
    """
    from sartor.recipes.registry import changed, find_recipe

    if not asked and not changes:
        return None
    table: dict[str, Any] = {"base": asked} if isinstance(asked, str) else dict(asked or {})
    base = table.pop("base", "reconstruction" if data else "l1")
    if not isinstance(base, str):
        raise BadInput(f"recipe field 'base': expected the name of a recipe; got {base!r}")
    return changed(find_recipe(base), dict(_flat(table)) | dict(changes or {}))


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables as dotted fields.

    >>> dict(_flat({"seed": 1, "heal": {"fine-tune": {"epochs": 2}}}))
    {'seed': 1, 'heal.fine-tune.epochs': 2}
    """
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
