"""`sartor bench discovery`: how much of every network family is understood, each in a process of its own."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from sartor.cli.command_result import CommandResult
from sartor.cli.markdown_block import MarkdownBlock
from sartor.cli.options import AsJson, Quiet, Seed
from sartor.cli.progress import steps
from sartor.errors import BadInput, UnknownName

SETS = ("small", "timm", "torchvision", "transformers", "graph")


def discovery(
    which: Annotated[list[str] | None, typer.Option("--set", help=f"Of {', '.join(SETS)}; repeatable (small).")] = None,
    only: Annotated[str | None, typer.Option(help="Networks whose name contains this.")] = None,
    export: Annotated[
        bool, typer.Option("--export", help="Also export every cut network to .pt2 and check it.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=1.0, help="For one network, at most.")] = 300.0,
    memory: Annotated[float, typer.Option(min=0.5, help="GiB for one network, at most.")] = 16.0,
    keep: Annotated[
        Path | None, typer.Option(help="JSON lines, one a network; those it holds are not examined again.")
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(help="Put the tables between <!-- discovery --> and <!-- /discovery --> of this page."),
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> CommandResult:
    """Find every axis of one small variant of each family, cut half of all, run, prove, train one step, export."""
    from sartor.measure import environment
    from sartor.report.discovery import discovery_markdown, discovery_table
    from sartor.testing.families import family_sets
    from sartor.testing.isolation import isolated

    known = family_sets()
    wanted: list[tuple[str, str, Callable[[], Any]]] = []
    for name in which or ["small"]:
        if name not in known:
            raise UnknownName("set of networks", name, known)
        wanted += [(name, n, b) for n, b in known[name]().items() if only is None or only in n]
    if not wanted:
        raise BadInput(f"no network of these sets has {only!r} in its name")
    page = None if write is None else MarkdownBlock(write, "discovery")
    rows = _kept(keep)
    with steps(quiet=quiet) as progress:
        for i, (group, name, build) in enumerate(wanted):
            old = rows.get((group, name))
            late = old is not None and export and bool(old.get("realised")) and old.get("exports") is None
            if old is not None and not late:
                continue
            progress("discovery", i / len(wanted), f"{group} {name}")
            act = partial(_exported_alone, build, seed) if late else partial(_examined, build, export, seed)
            found, why = isolated(act, seconds=seconds, memory=int(memory * 2**30))
            row: dict[str, Any] = {"set": group, "name": name}
            if old is not None:
                now: dict[str, Any] = found or {"exports": False, "why": {"export": why}}
                row = {**old, **now, "why": {**old.get("why", {}), **now["why"]}}
            else:
                row.update(found or {"discovered": False, "why": {"process": why}})
            rows[group, name] = row
            if keep is not None:
                with keep.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row) + "\n")
        progress("discovery", 1.0, f"{len(wanted)} networks")
    answer = {
        "rows": [rows[group, name] for group, name, _ in wanted],
        "libraries": _libraries({group for group, *_ in wanted}),
        "environment": environment(),
    }
    if page is not None:
        page.fill(discovery_markdown(answer))
    return CommandResult(answer, discovery_table(answer))


def _libraries(groups: set[str]) -> dict[str, str]:
    """Version by package, of the sets that are packages."""
    from importlib import metadata

    packages = {
        "timm": "timm",
        "torchvision": "torchvision",
        "transformers": "transformers",
        "graph": "torch_geometric",
    }
    return {p: metadata.version(p) for group, p in packages.items() if group in groups}


def _kept(path: Path | None) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows by set and name; of several for one network the last."""
    if path is None or not path.is_file():
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {(r["set"], r["name"]): r for r in rows}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as e:
        raise BadInput(f"--keep {path}: expected JSON lines of an earlier sweep; {e}") from e


def _examined(build: Callable[[], Any], export: bool, seed: int) -> dict[str, Any]:
    """In the process of its own."""
    from sartor.studies.discovery import examine

    return examine(*_built(build, seed), exporter=_exported if export else None, seed=seed)


def _exported_alone(build: Callable[[], Any], seed: int) -> dict[str, Any]:
    """In the process of its own: what a sweep without --export left out."""
    from sartor.studies.discovery import exported

    return exported(*_built(build, seed), _exported, seed=seed)


def _built(build: Callable[[], Any], seed: int) -> tuple[Any, Any]:
    import torch

    from sartor.testing.families import settled_

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model, example = build()
    return settled_(model.eval(), seed), example


def _exported(model: Any, example: Any) -> None:
    import tempfile

    from sartor.export import export_pt2

    with tempfile.TemporaryDirectory() as folder:
        export_pt2(model, example, Path(folder) / "cut.pt2", check=(1, 3))
