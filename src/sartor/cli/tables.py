"""`sartor tables`: latency tables, in which operators are timed by width on this machine's targets."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sartor.cli.command_result import CommandResult
from sartor.cli.inputs import example_for, parse_pairs
from sartor.cli.options import AsJson, Data, Factory, Input, Quiet, Subject, Weights
from sartor.cli.progress import steps
from sartor.errors import BadInput, UnknownName
from sartor.types.rows import stamped

if TYPE_CHECKING:
    from sartor.measure.tables import Kind, Store

File = Annotated[
    Path | None, typer.Option("--file", help="Database of the tables; by default in the folder SARTOR_CACHE.")
]
Place = Annotated[str, typer.Option(help="Target the operators are timed on, such as onnxruntime-cpu:threads=1.")]


def list_(file: File = None, as_json: AsJson = False) -> CommandResult:
    """List the tables: target, runtime and machine of each."""
    from sartor.report.text import grid

    store = _store(file)
    rows = store.wheres()
    table = grid("target", "runtime", "machine and CPU", "operators", "timings", left=3)
    for r in rows:
        machine = f"{r['machine']} {r['cpu']}"
        table.add_row(str(r["target"]), str(r["runtime"]), machine, str(r["kinds"]), str(r["timings"]))
    return CommandResult({"file": store.path, "tables": rows}, table)


def show(
    operator: Annotated[str | None, typer.Argument(help="Name of an operator; without one, all are listed.")] = None,
    target: Place = "onnxruntime-cpu",
    letter: Annotated[str, typer.Option(help="The width that varies.")] = "a",
    at: Annotated[str | None, typer.Option(help="The other widths, such as b=64,c=3; full width by default.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the plot to this SVG file.")] = None,
    file: File = None,
    as_json: AsJson = False,
) -> CommandResult:
    """List the operators of a target, or show the latency of one by width."""
    from sartor.measure.tables import Table

    table = Table(target, store=_store(file))
    known = table.store.kinds(table.where)
    if operator is None:
        return _operators(target, known)
    kind = _kind_named(operator, known)
    table.load([kind])
    stairs = table.staircases.get(kind.key)
    if stairs is None:
        raise BadInput(
            f"operator {operator!r} was timed at single widths only; `sartor tables build` times it at all widths"
        )
    letters = "abcdefghijklmnopqrstuvwxyz"[: kind.letters]
    if letter not in letters or not letter:
        raise UnknownName(f"width of {kind.label!r}", letter, letters)
    base = {n: u for n, u in zip(letters, stairs.upto)} | _numbers(at, letters)
    which = letters.index(letter)

    def point(n: int) -> tuple[int, ...]:
        return tuple(n if i == which else int(base[name]) for i, name in enumerate(letters))

    line = [(n, 1e6 * table.timing(kind, point(n)).seconds) for n in range(1, stairs.upto[which] + 1)]
    timed = [(n, us) for n, us in line if table.source(kind, point(n)) == "timed"]
    picture = None
    if plot is not None:
        from sartor.export.files import atomic_write
        from sartor.report.staircase import staircase

        others = ", ".join(f"{n} = {v}" for n, v in base.items() if n != letter)
        title = f"{kind.label} on {target}" + (f", {others}" if others else "")
        atomic_write(plot, staircase(title, line, timed, axis=f"width {letter}"))
        picture = str(plot)
    answer = {
        "operator": kind.key, "label": kind.label, "target": target, "letter": letter, "at": base,
        "combs": [{"multiple": c.multiple, "block": c.block} for c in stairs.combs],
        "line": [{"width": n, "us": us} for n, us in line], "timed": [n for n, _ in timed], "plot": picture,
    }  # fmt: skip
    return CommandResult(answer, _stairs_view(answer))


def build(
    model: Subject,
    target: Place = "onnxruntime-cpu",
    correct: Annotated[
        bool, typer.Option(help="Also time ten complete networks, and correct the tables by them.")
    ] = True,
    weights: Weights = None,
    option: Factory = None,
    shape: Input = None,
    data: Data = None,
    file: File = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> CommandResult:
    """Time the operators of a network at every width a cut may leave; timings in the tables are not repeated."""
    from rich.text import Text

    from sartor.measure.tables import Table
    from sartor.run.table_latency import predictor_for, uncorrected_predictor
    from sartor.sources import load_model
    from sartor.structure import trace
    from sartor.surgery import probe

    network = load_model(model, weights, parse_pairs(option, "--option")).eval()
    example = example_for(model, network, shape=shape, data=data)
    graph = probe(network, trace(network, example))
    store = _store(file)
    start, before = time.perf_counter(), sum(int(r["timings"]) for r in store.wheres())
    with steps(quiet=quiet) as listener:
        listener.begin("tables")
        table = Table(target, store=store)
        predictor = (
            predictor_for(network, graph, example, table, listener=listener)
            if correct
            else uncorrected_predictor(network, example, table, listener)
        )
    taken = sum(int(r["timings"]) for r in store.wheres()) - before
    answer: dict[str, Any] = {
        "model": model, "target": target, "file": store.path, "operators": len(predictor.kinds), "timings": taken,
        "seconds": time.perf_counter() - start, "sources": predictor.sources({}),
        "correction": {
            "plans": predictor.correction.plans, "weights": list(predictor.correction.weights),
            "error": predictor.correction.error,
        },
    }  # fmt: skip
    error = predictor.correction.error
    text = f"{model} on {target}: {taken} new timings of {len(predictor.kinds)} operators in {answer['seconds']:.1f} s."
    if error is not None:
        text += f" Median prediction error on networks not used for the correction: {100 * error:.1f} %."
    return CommandResult(answer, Text(text))


def merge(
    other: Annotated[Path, typer.Argument(help="Another file of tables.")], file: File = None, as_json: AsJson = False
) -> CommandResult:
    """Add the timings of another file."""
    from rich.text import Text

    store = _store(file)
    new = store.merge(other)
    return CommandResult({"file": store.path, "from": other, "new": new}, Text(f"{new} new timings from {other}"))


def export(
    out: Annotated[Path, typer.Argument(help="File to write, one JSON object per line.")],
    file: File = None,
    as_json: AsJson = False,
) -> CommandResult:
    """Write every timing as JSON lines."""
    from rich.text import Text

    from sartor.export.files import atomic_write

    rows = list(_store(file).rows())
    atomic_write(out, "".join(json.dumps(stamped(r)) + "\n" for r in rows))
    return CommandResult({"out": out, "timings": len(rows)}, Text(f"{len(rows)} timings in {out}"))


def _store(file: Path | None) -> Store:
    from sartor.measure.tables import Store

    return Store(file)


def _operators(target: str, known: list[tuple[Kind, int]]) -> CommandResult:
    from sartor.report.text import grid

    rows = [{"operator": k.key, "label": k.label, "letters": k.letters, "timings": n} for k, n in known]
    table = grid("operator", "description", "number of widths", "timings", left=2)
    for r in rows:
        table.add_row(str(r["operator"]), str(r["label"]), str(r["letters"]), str(r["timings"]))
    return CommandResult({"target": target, "operators": rows}, table)


def _kind_named(name: str, known: list[tuple[Kind, int]]) -> Kind:
    """The one operator whose key begins with `name`."""
    matching = [k for k, _ in known if k.key.startswith(name)]
    if len(matching) != 1:
        raise UnknownName("operator of this target", name, [k.key for k, _ in known])
    return matching[0]


def _numbers(text: str | None, letters: str) -> dict[str, int]:
    """The widths given by --at: letter -> width."""
    widths = {}
    for name, value in parse_pairs(text.split(",") if text else None, "--at").items():
        if name not in letters:
            raise UnknownName("width", name, letters)
        if not isinstance(value, int) or value < 1:
            raise BadInput(f"--at {name}: expected a whole number of at least 1; got {value!r}")
        widths[name] = value
    return widths


def _stairs_view(answer: dict[str, Any]) -> Any:
    from sartor.report.text import grid

    table = grid(f"width {answer['letter']}", "latency (microseconds)", "timed or interpolated", left=0)
    rows = answer["line"]
    step = max(1, len(rows) // 32)
    timed = set(answer["timed"])
    for row in rows[step - 1 :: step]:
        table.add_row(str(row["width"]), f"{row['us']:.1f}", "timed" if row["width"] in timed else "interpolated")
    return table
