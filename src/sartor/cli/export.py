"""`sartor export`: ONNX and torch.export files, checked against the network."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sartor.cli.command_result import CommandResult
from sartor.cli.inputs import is_run
from sartor.cli.open_model import ModelOptions, open_model
from sartor.cli.options import AsJson, Data, Factory, Input, Out, RunFactory, SubjectOrRun, Trust, Weights
from sartor.errors import BadInput


class Format(StrEnum):
    """Kinds of exported files."""

    onnx = "onnx"
    pt2 = "pt2"


def export(
    model: SubjectOrRun,
    to: Annotated[list[Format] | None, typer.Option("--to", help="Kind of file; repeatable (onnx).")] = None,
    out: Out = None,
    weights: Weights = None,
    option: Factory = None,
    shape: Input = None,
    data: Data = None,
    factory: RunFactory = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> CommandResult:
    """Export a network, or the fitted network of a run folder, to ONNX or torch.export."""
    from rich.text import Text

    from sartor.report.text import grid
    from sartor.units import show_bytes

    formats = list(dict.fromkeys(to or [Format.onnx]))
    paths = {f: _path(model, f, out, len(formats)) for f in formats}
    options = ModelOptions(weights=weights, option=option, shape=shape, data=data, factory=factory, trust=trust)
    network = open_model(model, options)
    written = {f.value: _write(f, network.module, network.example, paths[f]) for f in formats}
    table = grid("file", "size", "batch size", "checked at batch sizes", "max. relative error against PyTorch")
    for facts in written.values():
        free = "free" if facts.get("dynamic") else "fixed"
        checked = ", ".join(map(str, facts.get("batches") or ()))
        error = f"{facts['max_relative_error']:.1e}"
        table.add_row(Text(str(facts["path"])), show_bytes(facts["bytes"]), free, checked, error)
    return CommandResult({"model": model, "files": written}, table)


def _path(model: str, to: Format, out: Path | None, formats: int) -> Path:
    if out is None:
        return Path(model) / f"model.{to.value}" if is_run(model) else Path(f"{slug(model)}.{to.value}")
    if out.is_dir():
        return out / f"model.{to.value}"
    if formats > 1:
        raise BadInput(f"--out {out}: expected an existing folder, because --to names several kinds of files")
    if out.suffix != f".{to.value}":
        raise BadInput(f"--out {out}: expected a name that ends in .{to.value}")
    return out


def slug(model: str) -> str:
    """A file name made of a model spec.

    >>> slug("timm:resnet18"), slug("bench/net.py:make?depth=20")
    ('timm-resnet18', 'bench-net-make-depth-20')
    """
    return re.sub(r"[^A-Za-z0-9_]+", "-", model.replace(".py", "")).strip("-")


def _write(to: Format, module: Any, example: Any, path: Path) -> dict[str, Any]:
    from sartor.export import export_onnx, export_pt2
    from sartor.export.manifest import replacing_file

    writer = export_onnx if to is Format.onnx else export_pt2
    with replacing_file(path) as place:
        facts = writer(module, example, place)
    return {**facts, "path": str(path)}
