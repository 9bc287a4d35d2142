"""What `sartor fit` was asked, as one value: from flags and a run file, into the run folder, and back for `resume`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sartor.errors import BadInput, CorruptFile, UnknownName

FILE = "command.json"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The fields of a run file; `recipe` is a name or a table with changes to one."""

    model: str | None = None
    weights: str | None = None
    model_options: dict[str, Any] = field(default_factory=dict)
    data: str | None = None
    input: str | None = None
    batch: int = 128
    val: float | None = None  # share of the training data kept for validation where there is no part of its own
    budget: str | None = None
    recipe: str | dict[str, Any] = "taylor"
    cut: list[str] = field(default_factory=list)  # kinds, names or modules of groups; none: as the recipe says
    keep: list[str] = field(default_factory=list)
    out: str | None = None
    seed: int = 0
    device: str | None = None
    test: bool = False

    def __post_init__(self) -> None:
        for f in fields(self):
            value, kinds = getattr(self, f.name), _KINDS[f.name]
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                expected = " or ".join(_WORDS[k] for k in kinds if k is not type(None))
                raise BadInput(f"run field {f.name!r}: expected {expected}; got {value!r}")


_TEXT = (str, type(None))
_KINDS: dict[str, tuple[type, ...]] = {
    "model": _TEXT, "weights": _TEXT, "model_options": (dict,), "data": _TEXT, "input": _TEXT, "batch": (int,),
    "val": (float, type(None)), "budget": _TEXT, "recipe": (str, dict), "out": _TEXT, "seed": (int,),
    "device": _TEXT, "test": (bool,), "cut": (list,), "keep": (list,),
}  # fmt: skip
_WORDS: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a table",
    list: "a list",
}


def from_mapping(values: Mapping[str, Any], where: str) -> Asked:
    """A checked value from a file's fields."""
    known_fields(values, Asked, where)
    return Asked(**values)


def known_fields(values: Mapping[str, Any], kind: Any, where: str) -> None:
    """Refuse a name that is no field of the dataclass `kind`; says the nearest."""
    known = [f.name for f in fields(kind)]
    for name in values:
        if name not in known:
            raise UnknownName(f"field of {where}", str(name), known)


def read_toml(path: Path, missing: str) -> dict[str, Any]:
    """The values of a TOML file; `missing` is what to say where there is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(missing) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise BadInput(f"{path}: expected TOML; {e}") from e


def read_run_file(path: Path) -> dict[str, Any]:
    """The fields of a run file in TOML; unknown ones are errors."""
    values = read_toml(path, f"no run file {str(path)!r}")
    from_mapping(values, f"the run file {path}")
    return values


def write_asked(asked: Asked, folder: Path) -> None:
    """Leave it in the run folder."""
    from sartor.export.files import atomic_write

    atomic_write(folder / FILE, json.dumps(asdict(asked), indent=2, ensure_ascii=False) + "\n")


def read_asked(folder: str | Path) -> Asked | None:
    """What the run in this folder was asked; None where it was not started by the command line."""
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return from_mapping(values, str(path))
    except (json.JSONDecodeError, UnicodeDecodeError, BadInput, UnknownName, TypeError, AttributeError) as e:
        raise CorruptFile(f"{path}: expected what `sartor fit` wrote; {e}") from e
