"""The request of `sartor fit`: its flags and run file as one value, kept in the run folder for `sartor resume`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sartor.errors import BadInput, CorruptFile, UnknownName
from sartor.toml_file import known_fields, read_toml

REQUEST_FILE = "command.json"


@dataclass(frozen=True, kw_only=True)
class Request:
    """The fields of a run file. `fit` requires `model`, `budget` and `out`."""

    model: str | None = None  # model spec, see `sartor.sources.load_model`
    weights: str | None = None
    model_options: dict[str, Any] = field(default_factory=dict)
    data: str | None = None  # data spec, see `sartor.sources.load_data`
    input: str | None = None  # shapes of the example input
    batch: int = 128
    val: float | None = None  # share of the training data for validation, if the data set has no validation part
    budget: str | None = None
    recipe: str | dict[str, Any] = "taylor"  # a recipe's name, or {"base": name, field: value, ...}
    cut: list[str] = field(default_factory=list)  # kinds, names or modules of groups; empty: as the recipe says
    keep: list[str] = field(default_factory=list)  # groups that stay whole
    out: str | None = None
    seed: int = 0
    device: str | None = None
    test: bool = False  # also evaluate on the test part

    def __post_init__(self) -> None:
        for f in fields(self):
            value, kinds = getattr(self, f.name), _KINDS[f.name]
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                expected = " or ".join(_KIND_NAMES[k] for k in kinds if k is not type(None))
                raise BadInput(f"run field {f.name!r}: expected {expected}; got {value!r}")


_TEXT = (str, type(None))
_KINDS: dict[str, tuple[type, ...]] = {
    "model": _TEXT, "weights": _TEXT, "model_options": (dict,), "data": _TEXT, "input": _TEXT, "batch": (int,),
    "val": (float, type(None)), "budget": _TEXT, "recipe": (str, dict), "out": _TEXT, "seed": (int,),
    "device": _TEXT, "test": (bool,), "cut": (list,), "keep": (list,),
}  # fmt: skip
_KIND_NAMES: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a table",
    list: "a list",
}


def request_from(values: Mapping[str, Any], where: str) -> Request:
    """A checked request.

    Args:
        values: field -> value.
        where: what the values come from, for messages.

    Raises:
        UnknownName: a field that does not exist.
        BadInput: a value of the wrong kind.
    """
    known_fields(values, Request, where)
    return Request(**values)


def read_run_file(path: Path) -> dict[str, Any]:
    """The fields of a run file in TOML, checked; errors as those of `read_toml` and `request_from`."""
    values = read_toml(path, f"no run file {str(path)!r}")
    request_from(values, f"the run file {path}")
    return values


def write_request(request: Request, folder: Path) -> None:
    """Write the request into the run folder."""
    from sartor.export.files import atomic_write

    atomic_write(folder / REQUEST_FILE, json.dumps(asdict(request), indent=2, ensure_ascii=False) + "\n")


def read_request(folder: str | Path) -> Request | None:
    """The request of the run in this folder; None if the command line did not start it.

    Raises:
        CorruptFile: the file is damaged or of another format.
    """
    path = Path(folder) / REQUEST_FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return request_from(values, str(path))
    except (json.JSONDecodeError, UnicodeDecodeError, BadInput, UnknownName, TypeError, AttributeError) as e:
        raise CorruptFile(f"{path}: expected what `sartor fit` wrote; {e}") from e
