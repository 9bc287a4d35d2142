"""`sartor resume`: an interrupted run is taken up again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sartor.cli.command_result import Reply
from sartor.cli.fit import answer, check_asked, perform
from sartor.cli.options import AsJson, Quiet
from sartor.cli.progress import steps
from sartor.cli.recipe import choose_recipe
from sartor.cli.request import FILE, read_asked
from sartor.errors import BadInput, NothingToDo


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of an interrupted `sartor fit`.")],
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> Reply:
    """Take up an interrupted run: the same network, data, recipe and seed as it was asked for."""
    asked = read_asked(run)
    if asked is None:
        raise BadInput(f"{run}: expected the folder of a run that `sartor fit` began; it holds no {FILE}")
    recipe = choose_recipe(asked.recipe)
    check_asked(asked, recipe)
    if (run / "result.json").is_file():
        raise NothingToDo(f"{run} holds a finished run; `sartor report {run}` shows it")
    with steps(quiet=quiet) as progress:
        result = perform(replace(asked, out=str(run)), recipe, run, progress)
    return answer(result, run)
