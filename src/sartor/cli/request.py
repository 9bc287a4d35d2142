"""The request of `sartor fit`: its flags and run file as one value, kept in the run folder for `sartor resume`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from sartor.errors import BadInput, CorruptFile, UnknownName
from sartor.json_file import read_object
from sartor.toml_file import known_fields, read_toml
from sartor.types import Rewrite
from sartor.types.checked import Count, Flag, Positive, checked, refusal
from sartor.types.rows import stamped, unstamped

REQUEST_FILE = "command.json"


Text = Annotated[str, Field(strict=True)]


@checked
class Request:
    """The fields of a run file. `fit` requires `model`, `budget` and `out`."""

    model: Text | None = None  # model spec, see `sartor.sources.load_model`
    weights: Text | None = None
    model_options: dict[str, Any] = field(default_factory=dict)
    data: Text | None = None  # data spec, see `sartor.sources.load_data`
    input: Text | None = None  # shapes of the example input
    batch: Positive = 128
    val: Annotated[float, Field(strict=True)] | None = None
    # share of the training data for validation, if the data set has no validation part
    budget: Text | None = None
    recipe: Text | dict[str, Any] | None = None
    # a recipe's name, or {"base": name, field: value, ...}; None: what suits the data
    epochs: Count | None = None  # of fine-tuning; None: as the recipe says
    loss: Text | None = None  # see `sartor.cli.quality.named_loss`
    metric: Text | None = None  # see `sartor.cli.quality.named_metric`
    target: Text | None = None  # key of the targets in batches that are dicts
    cut: list[Text] = field(default_factory=list)  # kinds, names or modules of groups; empty: as the recipe says
    keep: list[Text] = field(default_factory=list)  # groups that stay whole
    rewrite: Rewrite | None = None  # which forwards may be rewritten; None: as the recipe says
    out: Text | None = None
    seed: Annotated[int, Field(strict=True)] = 0
    device: Text | None = None
    test: Flag = False  # also evaluate on the test part


def request_from(values: Mapping[str, Any], where: str) -> Request:
    """A checked request.

    Args:
        values: field -> value.
        where: what the values come from, for messages.

    Raises:
        UnknownName: a field that does not exist.
        BadInput: a value of the wrong kind; names the field.
    """
    known_fields(values, Request, where)
    try:
        request: Request = TypeAdapter(Request).validate_python(dict(values))
    except ValidationError as e:
        raise refusal(e, "run") from None
    return request


def read_run_file(path: Path) -> dict[str, Any]:
    """The fields of a run file in TOML, checked; errors as those of `read_toml` and `request_from`."""
    values = read_toml(path, f"no run file {str(path)!r}")
    request_from(values, f"the run file {path}")
    return values


def write_request(request: Request, folder: Path) -> None:
    """Write the request into the run folder."""
    from sartor.export.files import atomic_write

    text = json.dumps(stamped(asdict(request)), indent=2, ensure_ascii=False)
    atomic_write(folder / REQUEST_FILE, text + "\n")


def read_request(folder: str | Path) -> Request | None:
    """The request of the run in this folder; None if the command line did not start it.

    Raises:
        CorruptFile: the file is damaged or of a later format; names the file and the field.
    """
    from sartor.export.manifest import Contents

    contents = Contents.of(folder)
    if not (Path(folder) / REQUEST_FILE).is_file():
        return None
    path = contents.checked(REQUEST_FILE)
    try:
        return request_from(unstamped(read_object(path), "request"), str(path))
    except (BadInput, UnknownName) as e:
        raise CorruptFile(f"{path}: expected what `sartor fit` wrote; {e}") from e
