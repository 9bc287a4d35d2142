"""`sartor fit`: a network cut to a budget, from flags or a run file."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sartor.cli.command_result import Reply
from sartor.cli.failures import BUDGET_NOT_MET, DONE, Interrupted
from sartor.cli.inputs import example_for, parse_pairs
from sartor.cli.options import AsJson, Data, Factory, Force, Input, Quiet, Weights
from sartor.cli.output_folder import taken
from sartor.cli.progress import Steps, steps
from sartor.cli.recipe import choose_recipe
from sartor.cli.request import FILE, Asked, from_mapping, read_run_file, write_asked
from sartor.cli.write_artefacts import deliver
from sartor.errors import BadInput

if TYPE_CHECKING:
    from sartor.types import Recipe

RUN_FILES = (FILE, "result.json", "record.jsonl", "plan.json")  # a folder with one of them was written by a run


def fit(
    run_file: Annotated[Path | None, typer.Argument(metavar="[RUN.toml]", help="Fields of the run; flags win.")] = None,
    model: Annotated[
        str | None, typer.Option(help="timm:NAME, torchvision:NAME, file.py:factory or package.module:factory.")
    ] = None,
    weights: Weights = None,
    option: Factory = None,
    data: Data = None,
    shape: Input = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples a batch (128).")] = None,
    val: Annotated[float | None, typer.Option(help="Share of the training data kept for validation (0.1).")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Such as 'latency<=60% @ onnxruntime-cpu, macs<=50%, drop<=0.5'.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="A name of `sartor list recipes` (taylor).")] = None,
    cut: Annotated[
        list[str] | None, typer.Option(help="Cut these alone: kinds (heads), names or modules (layer4*); repeatable.")
    ] = None,
    keep: Annotated[list[str] | None, typer.Option(help="Keep these whole: as for --cut; repeatable.")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=VALUE of the recipe: allocate.floor=0.05; repeatable."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=0, help="Of fine-tuning; short for --set heal.fine-tune.epochs=N.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run folder.")] = None,
    seed: Annotated[int | None, typer.Option(help="Everything random follows from it (0).")] = None,
    device: Annotated[str | None, typer.Option(help="Where to score and train, such as cuda.")] = None,
    test: Annotated[bool, typer.Option("--test", help="Also evaluate both networks on the data's test part.")] = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> Reply:
    """Fit a network to a budget: score, cut, prove, repair, train, measure; writes a run folder and its report."""
    values = read_run_file(run_file) if run_file is not None else {}
    flags: dict[str, Any] = {
        "model": model, "weights": None if weights is None else str(weights), "data": data, "input": shape,
        "batch": batch, "val": val, "budget": budget, "recipe": recipe, "out": None if out is None else str(out),
        "seed": seed, "device": device, "test": test or None, "cut": cut or None, "keep": keep or None,
        "model_options": parse_pairs(option, "--option") or None,
    }  # fmt: skip
    values |= {name: value for name, value in flags.items() if value is not None}
    changes = parse_pairs(change, "--set")
    if epochs is not None:
        changes["heal.fine-tune.epochs"] = epochs
    asked = from_mapping(values, "the run")
    chosen = choose_recipe(asked.recipe, changes)
    asked = replace(asked, recipe=_with_changes(asked.recipe, changes))
    folder = check_asked(asked, chosen)
    make_room(folder, force=force)
    with steps(quiet=quiet) as progress:
        result = perform(asked, chosen, folder, progress)
    return answer(result, folder)


def _with_changes(recipe: str | dict[str, Any], changes: dict[str, Any]) -> str | dict[str, Any]:
    """The table that says a recipe together with its changes."""
    table: dict[str, Any] = {"base": recipe} if isinstance(recipe, str) else dict(recipe)
    return {**table, **changes} if changes else recipe


def check_asked(asked: Asked, recipe: Recipe) -> Path:
    """Find what is missing or wrong before anything is loaded; returns the run folder."""
    from sartor.budget import parse_budget
    from sartor.measure import parse_target

    for name, example in (("model", "timm:resnet18"), ("budget", "'macs<=50%'"), ("out", "runs/a")):
        if getattr(asked, name) is None:
            raise BadInput(f"say the {name}: --{name} {example}, or {name} = in a run file")
    budget = parse_budget(asked.budget or "")
    for limit in budget.limits:
        if limit.target is not None:
            parse_target(limit.target)
    if asked.data is None and recipe.training.epochs:
        raise BadInput("fine-tuning needs data: add --data, or leave it out with --epochs 0")
    if asked.data is None and budget.max_drop is not None:
        raise BadInput("a limit on the drop needs data to judge by: add --data, or leave drop<=... out")
    if asked.test and asked.data is None:
        raise BadInput("--test needs data: add --data")
    return Path(str(asked.out))


def make_room(folder: Path, *, force: bool) -> None:
    """Refuse to write over what is there; with force, remove an earlier run, and nothing else.

    Raises:
        BadInput: something is there that may not be replaced.
    """
    if not taken(folder, force=force):
        return
    if not any((folder / name).is_file() for name in RUN_FILES):
        raise BadInput(f"--out {folder} does not look like a run folder; --force removes earlier runs only")
    shutil.rmtree(folder)


def perform(asked: Asked, recipe: Recipe, folder: Path, progress: Steps) -> dict[str, Any]:
    """The run itself: load, fit, write the folder; returns the result."""
    import sartor
    from sartor.sources import load_data, load_model

    progress("load", None, str(asked.model))
    network = load_model(str(asked.model), asked.weights, asked.model_options)
    data = None if asked.data is None else load_data(asked.data, batch=asked.batch, seed=asked.seed, val=asked.val)
    example = (
        data.example if data and asked.input is None else example_for(str(asked.model), network, shape=asked.input)
    )
    arguments: dict[str, Any] = {
        "train": data and data.train, "val": data and data.val, "test": _test_part(asked, data),
        "budget": asked.budget, "recipe": recipe, "cut": asked.cut, "keep": asked.keep,
        "example": example, "calibration": data and data.calibration,
        "out": folder, "seed": asked.seed, "progress": progress, "device": asked.device, "model_name": asked.model,
    }  # fmt: skip
    write_asked(asked, folder)
    try:
        return deliver(sartor.fit(network, **arguments), folder, progress)
    except KeyboardInterrupt as e:
        raise Interrupted(f"interrupted; `sartor resume {folder}` takes the run up again") from e


def _test_part(asked: Asked, data: Any) -> Any:
    """The batches that only judge, where they were asked for."""
    if not asked.test:
        return None
    if data.test is None:
        raise BadInput(f"--test: {data.describe} has no test part")
    return data.test


def answer(result: dict[str, Any], folder: Path) -> Reply:
    """The result as a reply; a budget that was missed exits 3."""
    from rich.console import Group as Stack
    from rich.text import Text

    from sartor.report import summary

    code = DONE if result.get("status", "met") == "met" else BUDGET_NOT_MET
    parts: list[Any] = [summary(result)]
    parts.append(Text(f"run folder: {folder}\nreport:     {(folder / 'report.html').resolve()}"))
    return Reply(result, Stack(*parts), code)
