"""The registry of recipes, and the ways to name one and to change its fields."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, cast, get_args

from pydantic import TypeAdapter
from torch import Tensor

from sartor.errors import BadInput, UnknownName
from sartor.importance import CRITERIA, ScoreFunction
from sartor.registry import Registry
from sartor.types import Criterion, FineTune, Recipe
from sartor.types.heal import HealStep
from sartor.types.recipe import Allocate, Cut, Score, When

RECIPES: Registry[Recipe] = Registry("recipe")
CHOICES: dict[str, Any] = {"score": Score, "cut": Cut, "allocate": Allocate, "when": When}
MOVED = {
    "criterion": "score.criterion", "reduce": "score.reduce", "normalise": "score.normalise",
    "per_cost": "score.per_cost", "learn": "score.kind", "gates": "score", "allocation": "allocate.kind",
    "search": "allocate.tries", "floor": "allocate.floor", "round_to": "allocate.round_to", "only": "cut.only",
    "exclude": "cut.exclude", "streams": "cut.streams", "fibres": "cut.fibres", "refit": "heal", "fold_mean": "heal",
    "refresh_norm": "heal", "training": "heal.fine-tune",
}  # fmt: skip
# fields of the flat recipes that came before the five choices -> where they are now


def enter(recipe: Recipe, *, summary: str) -> Recipe:
    """Register a recipe under its own name and source."""
    return RECIPES.add(recipe.name, recipe, source=recipe.source, summary=summary)


def one_shot_recipes() -> list[str]:
    """Names of the recipes that cut once: those that studies can compare on one trained network."""
    return [e.name for e in RECIPES.entries() if e.value.when.kind == "one-shot"]


def find_recipe(recipe: str | Recipe | Callable[..., Tensor], **changes: object) -> Recipe:
    """A recipe by name, one made by hand, or a criterion (a name or a function) with everything else as usual.

    Args:
        recipe: what is wanted.
        changes: fields to replace.

    Raises:
        UnknownName: neither a recipe nor a criterion is called so.
        BadInput: something else was given, or a field does not exist or is out of range.

    >>> find_recipe("taylor", calibration=500).calibration, find_recipe("l1*fpgm").score.criterion
    (500, 'l1*fpgm')
    >>> find_recipe(lambda w: w.amax(1)).name
    'custom'
    """
    if isinstance(recipe, str):
        criteria = all(part.strip() in CRITERIA for part in recipe.split("*"))
        chosen = _of(recipe) if criteria and recipe not in RECIPES else RECIPES[recipe].value
    elif isinstance(recipe, Recipe):
        chosen = recipe
    elif isinstance(recipe, ScoreFunction):
        chosen = Recipe(score=Criterion(recipe.name if recipe.name in CRITERIA else recipe.function))
    elif callable(recipe):
        chosen = Recipe(score=Criterion(recipe))
    else:
        raise BadInput(f"recipe: expected a name, a Recipe or a function of weights; got {type(recipe).__name__}")
    return changed(chosen, changes)


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A recipe with some fields replaced.

    Args:
        recipe: as it is.
        changes: field -> value. A field of a choice is spelled "allocate.floor"; "score.kind" puts another choice with
            its defaults in the place of the old one, and keeps the fields that both have. A field of a step is spelled
            "heal.fine-tune.epochs"; a step that is missing is added. A choice may also be given whole, as a value or as
            a table with "kind", and `heal` as a list of these or of kinds.

    Raises:
        UnknownName: no such field; says the nearest.
        BadInput: a value of the wrong kind or out of range.

    >>> changed(Recipe(), {"allocate.floor": 0.2, "heal.fine-tune.epochs": 3}).training.epochs
    3
    """
    known = _names(recipe)
    whole: Any = {}
    parts: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        head, dot, rest = path.partition(".")
        if head in MOVED:
            raise BadInput(f"recipe field {path!r}: recipes are five choices now; write {MOVED[head]!r}")
        near = difflib.get_close_matches(head, MOVED, n=1, cutoff=0.75) if head not in known else []
        if near:
            raise UnknownName("recipe field", path, known, f"Did you mean {MOVED[near[0]]!r}?")
        if head not in known or (dot and head not in (*CHOICES, "heal")):
            raise UnknownName("recipe field", path, known)
        if dot:
            parts.setdefault(head, {})[rest] = value
        else:
            whole[head] = _from_words(head, value)
    base = cast(Any, replace)(recipe, **whole) if whole else recipe
    made = {n: _steps(base, p) if n == "heal" else _choice(n, getattr(base, n), p) for n, p in parts.items()}
    return replace(base, **made) if made else base


def _names(value: Any) -> list[str]:
    return [f.name for f in fields(value)]


def _from_words(name: str, value: Any) -> Any:
    """A list, as TOML and JSON have it, where a tuple is wanted; a kind where a choice is wanted."""
    if name == "heal" and isinstance(value, list | tuple):
        return tuple({"kind": v} if isinstance(v, str) else v for v in value)
    if name in CHOICES and isinstance(value, str):
        return {"kind": value}
    return value


def _choice(name: str, value: Any, changes: Mapping[str, Any]) -> Any:
    """One of the choices with fields replaced. Fields of an allocation within a search need no prefix."""
    kind = changes.get("kind", value.kind)
    kinds = _kinds(CHOICES[name])
    if kind not in kinds:
        raise UnknownName(f"kind of {name}", str(kind), kinds)
    target, new = kinds[kind], {n.removeprefix("within."): v for n, v in changes.items() if n != "kind"}
    known = [n for n in _names(target) if n not in ("kind", "within")]
    old = {n: getattr(value, n) for n in _names(value) if n in known}
    inner = getattr(value, "within", None) if kind == "search" else None
    below = {} if inner is None else {n: new.pop(n) for n in list(new) if n not in known}
    for field in new:
        if field not in known:
            raise UnknownName("recipe field", f"{name}.{field}", [f"{name}.{n}" for n in known])
    if below:
        new["within"] = _choice(name, inner, below)
    elif inner is not None:
        new["within"] = inner
    return target(**(old | {n: _tuple(v, old.get(n)) for n, v in new.items()}))


def _steps(recipe: Recipe, changes: Mapping[str, Any]) -> tuple[Any, ...]:
    """The steps of `heal` with fields replaced, those that are missing added; training is the last one."""
    kinds = _kinds(HealStep)
    steps: dict[str, Any] = {s.kind: s for s in recipe.heal}
    for path, value in changes.items():
        kind, _, field = path.partition(".")
        if kind not in kinds:
            raise UnknownName("step of heal", kind, kinds)
        step = steps.get(kind) or kinds[kind]()
        if field not in _names(step):
            raise UnknownName("recipe field", f"heal.{path}", [f"heal.{kind}.{n}" for n in _names(step)])
        steps[kind] = replace(step, **{field: value})
    return tuple(sorted(steps.values(), key=lambda s: isinstance(s, FineTune)))


def _kinds(union: Any) -> dict[str, Any]:
    """Kind -> class, of a discriminated union or of one class."""
    inner = get_args(union)
    classes = (get_args(inner[0]) or (inner[0],)) if inner else (union,)
    return {c.__dataclass_fields__["kind"].default: c for c in classes}


def _tuple(value: Any, before: Any) -> Any:
    """A list, or one text, as TOML and the command line give them, where a tuple stood before."""
    if not isinstance(before, tuple):
        return value
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _of(criterion: str) -> Recipe:
    source = ", with ".join(CRITERIA[part.strip()].source for part in criterion.split("*"))
    return Recipe(name=criterion, source=source, score=Criterion(criterion))


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe."""
    return TypeAdapter(Recipe).json_schema()
