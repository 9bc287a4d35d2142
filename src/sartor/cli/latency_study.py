"""`sartor bench latency`: limits in milliseconds' terms, networks fitted to them, and another process that measures."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from sartor.cli.command_result import CommandResult
from sartor.cli.frontier import parse_shares
from sartor.cli.markdown_block import MarkdownBlock
from sartor.cli.options import AsJson, Quiet, Seed
from sartor.cli.progress import steps
from sartor.cli.request import known_fields, read_toml
from sartor.errors import BadInput, CorruptFile, UnknownName

FILE = Path("bench/latency.toml")


@dataclass(frozen=True, kw_only=True)
class Network:
    """A [[network]] of the bench file."""

    name: str
    model: str
    input: str  # shapes, as --input takes them
    options: dict[str, Any] = field(default_factory=dict)


def latency(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="Networks, targets, limits.")] = FILE,
    only: Annotated[str | None, typer.Option(help="Networks whose name contains this.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Instead of the file's; repeatable.")] = None,
    limit: Annotated[str | None, typer.Option("--limits", help="Percent with commas, instead of the file's.")] = None,
    recipe: Annotated[str, typer.Option(help="Its criterion must do without data.")] = "l1",
    allocation: Annotated[str | None, typer.Option(help="Instead of the recipe's, such as knapsack.")] = None,
    seconds: Annotated[float, typer.Option(min=1.0, help="For one case, at most.")] = 1800.0,
    keep: Annotated[
        Path | None, typer.Option(help="JSON lines, one a case; those it holds are not made again.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option(help="Put the table between <!-- promise --> and <!-- /promise --> of this page.")
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> CommandResult:
    """Fit networks to shares of their latency; a fresh process measures each against its original once more."""
    from sartor.measure import environment, parse_target
    from sartor.report.latency_study import latency_markdown, latency_table
    from sartor.testing.isolation import isolated

    targets, limits, networks = read_cases(file)
    targets = target or targets
    for t in targets:
        parse_target(t)
    limits = parse_shares(limit) if limit else limits
    networks = [n for n in networks if only is None or only.lower() in n.name.lower()]
    if not networks:
        raise BadInput(f"{file}: no network's name contains {only!r}")
    page = None if write is None else MarkdownBlock(write, "promise")
    name = recipe if allocation is None else f"{recipe}, {allocation}"
    cases = [(n, t, x) for n in networks for t in targets for x in limits]
    rows = _kept(keep)
    with steps(quiet=quiet) as progress:
        for i, (n, t, x) in enumerate(cases):
            key = _key(n.name, t, x, name, seed)
            if key in rows:
                continue
            progress("latency", i / len(cases), f"{n.name}, {t}, {100 * x:g} %")
            asked = partial(_fitted, n, t, x, recipe, allocation, seed)
            row, why = isolated(asked, seconds=seconds, fresh=True)
            row = {"network": n.name, "target": t, "limit": x, "recipe": name, "seed": seed, **(row or _lost(why))}
            if row["plan"] is not None:
                again, why = isolated(partial(_again, n, t, row["plan"], seed), seconds=seconds, fresh=True)
                row |= again or {"why": why}
            rows[key] = row
            if keep is not None:
                with keep.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row) + "\n")
        progress("latency", 1.0, f"{len(cases)} cases")
    found = [{k: v for k, v in rows[_key(n.name, t, x, name, seed)].items() if k != "plan"} for n, t, x in cases]
    answer = {"recipe": name, "rows": found, "environment": environment()}
    if page is not None:
        page.fill(latency_markdown(answer))
    return CommandResult(answer, latency_table(answer))


def read_cases(path: Path) -> tuple[list[str], list[float], list[Network]]:
    """Targets, limits and networks of a bench file.

    Raises:
        BadInput: no such file, not TOML, or a field of the wrong kind.
        UnknownName: a field that does not exist.
    """
    values = read_toml(path, f"no bench file {str(path)!r}; name one, or run it where {FILE} is")
    for name in values:
        if name not in ("targets", "limits", "network"):
            raise UnknownName(f"field of {path}", name, ("targets", "limits", "network"))
    targets, tables = values.get("targets"), values.get("network")
    if not isinstance(targets, list) or not targets or not all(isinstance(t, str) for t in targets):
        raise BadInput(f'{path}: expected targets = ["onnxruntime-cpu", ...]; got {targets!r}')
    if not isinstance(tables, list) or not tables:
        raise BadInput(f"{path}: expected at least one [[network]]")
    networks = []
    for table in tables:
        known_fields(table, Network, f"a network of {path}")
        for field_name in ("name", "model", "input"):
            if not isinstance(table.get(field_name), str):
                raise BadInput(f'{path}: every network needs {field_name} = "..."; got {table.get(field_name)!r}')
        networks.append(Network(**table))
    return targets, parse_shares(",".join(map(str, values.get("limits", [])))), networks


def _key(network: str, target: str, limit: float, recipe: str, seed: int) -> tuple[Any, ...]:
    return network, target, limit, recipe, seed


def _lost(why: str) -> dict[str, Any]:
    return {"plan": None, "macs": None, "ratio": None, "predicted": None, "rounds": 0, "seconds": 0.0, "why": why}


def _kept(path: Path | None) -> dict[tuple[Any, ...], dict[str, Any]]:
    if path is None or not path.is_file():
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {_key(r["network"], r["target"], r["limit"], r["recipe"], r["seed"]): r for r in rows}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as e:
        raise CorruptFile(f"--keep {path}: expected JSON lines of an earlier bench; {e}") from e


def _built(network: Network, seed: int) -> tuple[Any, Any]:
    from sartor.cli.inputs import parse_input
    from sartor.seed import seeded
    from sartor.sources import load_model

    with seeded(seed):
        return load_model(network.model, None, network.options).eval(), parse_input(network.input)


def _fitted(
    network: Network, target: str, limit: float, recipe: str, allocation: str | None, seed: int
) -> dict[str, Any]:
    """In a process of its own."""
    from sartor.recipes import changed, find_recipe
    from sartor.run.context import Context
    from sartor.studies.latency_study import fit_to_latency
    from sartor.types import Limit

    chosen = find_recipe(recipe)
    if allocation is not None:
        chosen = changed(chosen, {"allocate.kind": allocation, "score.per_cost": 0.0})
    bound = Limit("latency", limit, True, target)
    row = fit_to_latency(*_built(network, seed), bound, chosen, Context(seed=seed))
    floor = row.pop("floor")
    return {**row, "plan": row["plan"] and row["plan"].to_json(), **({"why": floor} if floor else {})}


def _again(network: Network, target: str, plan: str, seed: int) -> dict[str, Any]:
    """In another one."""
    from sartor.studies.latency_study import measured_again
    from sartor.types import Plan

    found = measured_again(*_built(network, seed), target, Plan.from_json(plan))
    return {"again": found.ratio, "interval": list(found.interval), "noisy": found.noisy}
