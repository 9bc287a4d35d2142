"""`sartor fit`: a network cut to a budget, from flags or a run file."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sartor.cli.command_result import CommandResult
from sartor.cli.failures import BUDGET_NOT_MET, DONE, Interrupted, Terminated
from sartor.cli.inputs import example_for, parse_pairs
from sartor.cli.options import AsJson, Data, Factory, Force, Input, Quiet, Weights
from sartor.cli.output_folder import is_leftover, must_be_replaced, writing_to
from sartor.cli.progress import Steps, steps
from sartor.cli.quality import named_loss, named_metric
from sartor.cli.recipe import choose_recipe
from sartor.cli.request import REQUEST_FILE, Request, read_run_file, request_from, write_request
from sartor.cli.trust import run_uses
from sartor.cli.write_artefacts import write_artefacts
from sartor.errors import BadInput, SartorError
from sartor.folder_lock import LOCK

if TYPE_CHECKING:
    from sartor.run.record import Record
    from sartor.types import Recipe

RUN_FILES = (REQUEST_FILE, "result.json", "record.jsonl", "plan.json")  # a folder with one of them was written by a run
_NETWORK_FILE = re.compile(r"model(\.[\w]+)*\.(safetensors|onnx|onnx\.data|pt2)")


def fit(
    run_file: Annotated[
        Path | None, typer.Argument(metavar="[RUN.toml]", help="TOML file with fields of the run; flags override it.")
    ] = None,
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
    recipe: Annotated[
        str | None, typer.Option(help="A recipe of `sartor list recipes` (default: what suits the data).")
    ] = None,
    cut: Annotated[
        list[str] | None,
        typer.Option(help="Cut only these groups: kinds (heads), names or modules (layer4*); repeatable."),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Keep these groups whole: patterns as for --cut; repeatable.")
    ] = None,
    rewrite: Annotated[
        str | None,
        typer.Option(help="Which forwards may be rewritten: free (stay as general), allow (all), never."),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=VALUE changes the recipe, such as allocate.floor=0.05; repeatable."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=0, help="Epochs of fine-tuning; 0: none (as the recipe says).")
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="A loss of torch.nn.functional, such as mse, or file.py:function.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="accuracy, f1, iou, mae, mse, r2, or file.py:function(model, batches).")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Key of the targets in batches that are dicts.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run folder.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random choice (0).")] = None,
    device: Annotated[str | None, typer.Option(help="Device to score and train on, such as cuda.")] = None,
    test: Annotated[bool, typer.Option("--test", help="Also evaluate both networks on the data's test part.")] = False,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> CommandResult:
    """Fit a network to a budget: score, cut, prove, repair, train and measure; write a run folder with a report.

    Exit code 0: the budget is met, exactly or within the noise of the measurement; 3: it is not, or a latency could not
    be measured.
    """
    values = read_run_file(run_file) if run_file is not None else {}
    flags: dict[str, Any] = {
        "model": model, "weights": None if weights is None else str(weights), "data": data, "input": shape,
        "batch": batch, "val": val, "budget": budget, "recipe": recipe, "out": None if out is None else str(out),
        "seed": seed, "device": device, "test": test or None, "cut": cut or None, "keep": keep or None,
        "rewrite": rewrite,
        "epochs": epochs, "loss": loss, "metric": metric, "target": target,
        "model_options": parse_pairs(option, "--option") or None,
    }  # fmt: skip
    values |= {name: value for name, value in flags.items() if value is not None}
    changes = parse_pairs(change, "--set")
    request = request_from(values, "the run")
    chosen = choose_recipe(request.recipe, changes, data=request.data is not None)
    request = replace(request, recipe=_with_changes(request.recipe, changes))
    folder = check_request(request, chosen)
    with steps(quiet=quiet) as listener, writing_to(folder):
        make_room(folder, force=force)
        record = perform(request, chosen, folder, listener)
    return result_of(record, folder)


def _with_changes(recipe: str | dict[str, Any] | None, changes: dict[str, Any]) -> str | dict[str, Any] | None:
    """The recipe field of a request with the changes of --set in it: a table, unless there are no changes."""
    table: dict[str, Any] = {"base": recipe} if isinstance(recipe, str) else dict(recipe or {})
    return {**table, **changes} if changes else recipe


def check_request(request: Request, recipe: Recipe | None) -> Path:
    """Check the request before anything is loaded.

    Returns:
        The run folder.

    Raises:
        BadInput: a field is missing or wrong, or fields contradict each other.
        UnknownName: a budget metric or target that does not exist.
    """
    from sartor.budget import parse_budget
    from sartor.run.fit import check_limits

    for name, example in (("model", "timm:resnet18"), ("budget", "'macs<=50%'"), ("out", "runs/a")):
        if getattr(request, name) is None:
            raise BadInput(f"missing {name}: pass --{name} {example}, or set {name} in a run file")
    budget = parse_budget(request.budget or "")
    check_limits(budget)
    trained = request.epochs if request.epochs is not None else recipe.training.epochs if recipe is not None else 0
    if request.data is None and trained:
        raise BadInput("fine-tuning needs data: add --data, or turn it off with --epochs 0")
    if request.data is None and budget.max_drop is not None:
        raise BadInput("the limit drop<=... needs data to measure quality on: add --data, or remove the limit")
    if request.test and request.data is None:
        raise BadInput("--test needs data: add --data")
    return Path(str(request.out))


def make_room(folder: Path, *, force: bool) -> None:
    """Make sure that the run folder is empty or missing; with `force`, remove an earlier run.

    What a process left behind that was killed before it had written a file of the run does not count.

    Raises:
        BadInput: the folder is not empty and `force` is False, or it holds something that no run wrote; names it.
    """
    from sartor.run.kept_stages import STAGES

    if not folder.is_dir():
        must_be_replaced(folder, force=force)
        return
    entries = [entry for entry in sorted(folder.iterdir()) if entry.name != LOCK]  # of this process
    left = [entry for entry in entries if is_leftover(entry)]
    if len(left) < len(entries):
        if not force and (folder / STAGES).is_dir() and (folder / REQUEST_FILE).is_file():
            raise BadInput(
                f"--out {folder} holds a run that was interrupted: `sartor resume {folder}` continues it; choose "
                "another folder, or replace it with --force"
            )
        must_be_replaced(folder, force=force)
        if not any((folder / name).is_file() for name in RUN_FILES) and not (folder / STAGES).is_dir():
            raise BadInput(f"--out {folder} does not look like a run folder; --force removes earlier runs only")
        strangers = [entry.name for entry in entries if entry not in left and not _of_a_run(entry)]
        if strangers:
            raise BadInput(
                f"--out {folder} holds {', '.join(strangers[:4])}, which no run wrote; --force removes files of "
                "earlier runs only. Move it, or choose another folder"
            )
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _of_a_run(entry: Path) -> bool:
    """Whether a run writes something of this name."""
    from sartor.export.manifest import MANIFEST, STAGE
    from sartor.run.kept_stages import STAGES

    if entry.is_dir() and not entry.is_symlink():
        return entry.name in (STAGES, STAGE)
    return entry.name in (*RUN_FILES, MANIFEST, "edits.json", "plan.best.json", "report.html", STAGES, STAGE) or bool(
        _NETWORK_FILE.fullmatch(entry.name)
    )


def perform(request: Request, recipe: Recipe | None, folder: Path, listener: Steps) -> Record:
    """Load model and data, fit, and write the run folder.

    Returns:
        The record of the run.

    Raises:
        Interrupted: Ctrl-C.
        Terminated: SIGTERM.
    """
    import sartor
    from sartor.run.kept_stages import mark_incomplete, unfinished
    from sartor.run.record import NOT_WRITTEN
    from sartor.sources import load_data, load_model

    listener.begin("load", str(request.model))
    network = load_model(str(request.model), request.weights, request.model_options)
    data = (
        None
        if request.data is None
        else load_data(request.data, batch=request.batch, seed=request.seed, val=request.val)
    )
    if data is None or request.input is not None:
        example = example_for(str(request.model), network, shape=request.input)
    else:  # of batches that are dicts, the run finds out which entries are inputs
        example = None if isinstance(data.example, Mapping) else data.example
    arguments: dict[str, Any] = {
        "train": data and data.train, "val": data and data.val, "test": _test_part(request, data),
        "budget": request.budget, "recipe": recipe, "cut": request.cut, "keep": request.keep,
        "rewrite": request.rewrite,
        "epochs": request.epochs, "target": request.target, "loss": named_loss(request.loss),
        "metric": named_metric(request.metric),
        "example": example, "calibration": data and data.calibration,
        "out": folder, "seed": request.seed, "progress": listener, "device": request.device,
        "model_name": request.model,
    }  # fmt: skip
    write_request(request, folder)
    trust = " --trust" if run_uses(request) else ""
    again = f"what was finished is kept; `sartor resume {folder}{trust}` continues"
    try:
        with unfinished(folder):
            record = write_artefacts(sartor.fit(network, **arguments), folder, listener)
            if any(note.startswith(NOT_WRITTEN) for note in record.notes):
                mark_incomplete(folder)
            return record
    except KeyboardInterrupt as e:
        raise Interrupted(f"interrupted; {again}") from e
    except Terminated as e:
        raise Terminated(f"terminated; {again}") from e


def _test_part(request: Request, data: Any) -> Any:
    """The test batches if the request wants them, else None."""
    if not request.test:
        return None
    if data.test is None:
        raise BadInput(f"--test: {data.describe} has no test part")
    return data.test


def result_of(record: Record, folder: Path) -> CommandResult:
    """The record of a run as the result of its command; exit code 3 if the budget was not met."""
    from rich.console import Group as Stack
    from rich.text import Text

    from sartor.report import summary

    parts: list[Any] = [summary(record)]
    parts.append(Text(f"run folder: {folder}\nreport:     {(folder / 'report.html').resolve()}"))
    return CommandResult(record.result(), Stack(*parts), code_of(record))


def code_of(record: Record) -> int:
    """The exit code of a finished run: within the noise of the measurement counts as met.

    Raises:
        SartorError: the fitted network could not be written.
    """
    from sartor.run.record import HOLDS, NOT_WRITTEN

    unwritten = [note for note in record.notes if note.startswith(NOT_WRITTEN)]
    if unwritten:
        raise SartorError("; ".join(unwritten))
    return DONE if record.status in HOLDS else BUDGET_NOT_MET
