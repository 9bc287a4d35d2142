"""`sartor resume`: continues an interrupted run from what its folder holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sartor.cli.command_result import CommandResult
from sartor.cli.fit import check_request, perform, result_of
from sartor.cli.options import AsJson, Quiet, RunFactory, Trust
from sartor.cli.output_folder import writing_to
from sartor.cli.progress import steps
from sartor.cli.recipe import choose_recipe
from sartor.cli.request import REQUEST_FILE, read_request
from sartor.cli.trust import check_trust, run_uses
from sartor.errors import BadInput, NothingToDo


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of an interrupted `sartor fit`.")],
    factory: RunFactory = None,
    trust: Trust = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> CommandResult:
    """Continue an interrupted run in its folder from the stages and the training that it finished."""
    from sartor.run.kept_stages import is_unfinished

    request = read_request(run)
    if request is None and is_unfinished(run):
        raise BadInput(
            f"{run}: `sartor.fit(..., out={str(run)!r})` began this run in Python; the same call continues it. It "
            f"holds no {REQUEST_FILE}"
        )
    if request is None:
        raise BadInput(f"{run}: expected the folder of a run that `sartor fit` began; it holds no {REQUEST_FILE}")
    if (run / "result.json").is_file() and not is_unfinished(run):
        raise NothingToDo(f"{run} holds a finished run; `sartor report {run}` shows it")
    if factory is not None:
        request = replace(request, model=factory, model_options={})
    uses = run_uses(request)
    if factory is not None:
        uses.pop("model", None)
    check_trust(run, uses, trust=trust)
    recipe = choose_recipe(request.recipe, data=request.data is not None)
    check_request(request, recipe)
    with steps(quiet=quiet) as listener, writing_to(run):
        record = perform(replace(request, out=str(run)), recipe, run, listener)
    return result_of(record, run)
