"""What a run folder asks for that can run code or read other files, and the user's word that it may."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from sartor.cli.request import Request
from sartor.errors import BadInput

_BUILT_IN_MODEL = re.compile(r"(timm|torchvision):\w+(\.\w+)*", re.ASCII)  # a name in an installed library
_BUILT_IN_DATA = re.compile(r"digits:?")
_NAME = re.compile(r"\w+", re.ASCII)  # of a loss or metric
_TARGET_FILE = re.compile(r"\.py\b|\.toml\b|[/\\]")


def model_uses(request: Request) -> dict[str, str]:
    """What building the model of a request imports; {} for a model by name of timm or torchvision."""
    if request.model is None or (_BUILT_IN_MODEL.fullmatch(request.model) and not request.model_options):
        return {}
    options = f" with {json.dumps(request.model_options)}" if request.model_options else ""
    return {"model": f"{request.model}{options}"}


def data_uses(request: Request) -> dict[str, str]:
    """What loading the data of a request imports or reads; {} for data that come with a library."""
    if request.data is None or _BUILT_IN_DATA.fullmatch(request.data):
        return {}
    return {"data": request.data}


def run_uses(request: Request) -> dict[str, str]:
    """All that repeating a run imports or reads."""
    named = {"loss": request.loss, "metric": request.metric}
    uses = {field: text for field, text in named.items() if text is not None and not _NAME.fullmatch(text)}
    if request.weights is not None:
        uses["weights"] = request.weights
    if request.budget is not None and _TARGET_FILE.search(request.budget):
        uses["budget"] = request.budget
    return {**model_uses(request), **data_uses(request), **uses}


def check_trust(folder: str | Path, uses: Mapping[str, str], *, trust: bool, instead: str = "") -> None:
    """Go on only if nothing is imported, or if the user trusts the folder; what is imported is shown either way.

    Args:
        folder: that asks for it.
        uses: what it asks for, by field of command.json.
        trust: whether --trust was given.
        instead: what can be given on the command line in its place, as a half sentence.

    Raises:
        BadInput: there is something to import, and --trust was not given.
    """
    if not uses:
        return
    shown = "; ".join(f"{field} {text!r}" for field, text in uses.items())
    if trust:
        print(f"sartor: {folder} imports or reads {shown}", file=sys.stderr)
        return
    raise BadInput(
        f"{folder}: its command.json asks for {shown}. It imports code and runs it, or reads files, with your rights. "
        f"If the folder is yours or you trust its author, add --trust{instead}"
    )
