"""The run folder: plan, edits and weights that load without pickle and without tracing, bound by a manifest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from torch import nn

from sartor.errors import BadInput, CorruptFile, SartorError
from sartor.export.files import atomic_write
from sartor.export.manifest import MANIFEST, Contents, adopt_files, replacing_files
from sartor.export.weights import load_weights_, save_weights
from sartor.json_file import MOST_BYTES, read_text
from sartor.run.kept_stages import is_unfinished
from sartor.run.record import Record
from sartor.structure.model_copy import named_tensors
from sartor.surgery import Edits, apply_edits
from sartor.types import Plan
from sartor.wrappers import unwrapped, wrapped_like

PLAN, EDITS, WEIGHTS, RESULT, RECORD = "plan.json", "edits.json", "model.safetensors", "result.json", "record.jsonl"
REQUEST = "command.json"  # of runs that the command line started
NETWORK = (PLAN, EDITS, WEIGHTS)  # what `load` needs


def check_unfinished(folder: Path) -> None:
    """Refuse a folder that holds a finished run.

    Raises:
        BadInput: it does.
    """
    if (folder / RESULT).exists() and not is_unfinished(folder):
        raise BadInput(f"{folder} holds a finished run; choose another folder or remove it")


def new_folder(out: str | Path | None) -> Path | None:
    """The folder of a run, without the record of one that did not finish; None stays None.

    Raises:
        SartorError: it cannot be written.
    """
    if out is None:
        return None
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD).unlink(missing_ok=True)
    except OSError as e:
        raise SartorError(f"{folder}: cannot be written ({e.strerror or e})") from e
    return folder


def write_model(folder: Path, model: nn.Module, plan: Plan, edits: Edits) -> dict[str, str]:
    """Write what `load` needs, all of it or nothing, with a manifest that lists these files only."""
    with replacing_files(folder) as stage:
        write_network(stage, model, plan, edits)
    return {"plan": PLAN, "edits": EDITS, "weights": WEIGHTS}


def write_network(folder: Path, model: nn.Module, plan: Plan, edits: Edits) -> None:
    """Plan, edits and weights as files."""
    atomic_write(folder / PLAN, plan.to_json())
    atomic_write(folder / EDITS, edits.of(model).to_json())
    save_weights(model, folder / WEIGHTS)


def write_result(folder: Path, record: Record, stage: Path | None = None) -> None:
    """The last file of a finished run. From now on the manifest lists every file that the record names.

    Args:
        folder: the run folder.
        record: of the run.
        stage: where the files lie that are being replaced; None: nothing else is.
    """
    if stage is not None:
        atomic_write(stage / RESULT, json.dumps(record.result(), indent=1) + "\n")
        return
    with replacing_files(folder, keep=True, adopt=run_files(record)) as stage:
        write_result(folder, record, stage)


def run_files(record: Record) -> list[str]:
    """The files of a run that its record names, and those beside them."""
    return [RECORD, REQUEST, *record.files.values()]


def load(folder: str | Path, factory: Callable[[], nn.Module] | nn.Module, *, trust: bool = False) -> nn.Module:
    """The fitted network, bit for bit as it was saved.

    Every file that the manifest of the folder lists is compared with its SHA-256 first. Nothing in the folder can run
    code: rewritten forwards may call PyTorch's operators on tensors and nothing else (see SECURITY.md).

    Args:
        folder: a run folder, or what `Fitted.save` wrote.
        factory: builds the original network (its weights do not matter), or one already built, which stays untouched.
        trust: whether rewritten forwards may also call operators of other libraries, and take any amount of memory.

    Returns:
        A smaller network of the same class, in evaluation mode.

    Raises:
        BadInput: a file or the manifest is missing, or the network is not the one that was cut.
        CorruptFile: a file is damaged, or was changed after it was written; names the file.
    """
    folder = Path(folder)
    contents = checked_contents(folder)
    original = factory if isinstance(factory, nn.Module) else factory()
    if not isinstance(original, nn.Module):
        raise BadInput(f"load: expected a factory that returns a module; got {type(original).__name__}")
    shapes = [t.shape for *_, t in named_tensors(unwrapped(original).module)]
    most = MOST_BYTES + 16 * sum(n for shape in shapes for n in shape)  # each index of each dimension once
    try:
        edits = Edits.from_json(read_text(contents.path(EDITS), most), trust=trust)
    except CorruptFile as e:
        raise CorruptFile(f"{folder / EDITS}: {e}") from e
    model = apply_edits(original, edits)
    load_weights_(model, contents.path(WEIGHTS))
    return wrapped_like(model, original).eval()


def checked_contents(folder: Path) -> Contents:
    """The contents of a folder that holds a network, after every file in it was compared with the manifest.

    Files that `load` does not need may have been removed.

    Raises:
        BadInput: a file that is needed, or the manifest, is missing.
        CorruptFile: a file is damaged, changed, or belongs to another network.
    """
    contents = Contents.of(folder)
    for name in NETWORK[1:]:
        if not contents.path(name).is_file():
            raise BadInput(f"{folder}: expected a run folder with {EDITS} and {WEIGHTS}; {name} is missing")
    manifest = contents.manifest
    if manifest is None:
        raise BadInput(
            f"{folder}: {MANIFEST} is missing, so nothing says whether its files belong together. An earlier version "
            f"of Sartor wrote the folder, or it was copied in part; `sartor runs verify --adopt {folder}` checks that "
            "the files fit together and writes one"
        )
    for name in manifest.files:
        if name in NETWORK or contents.path(name).exists():
            contents.checked(name)
    for name in NETWORK:
        if name not in manifest.files:
            raise CorruptFile(f"{folder}: {MANIFEST} does not list {name}")
    plan = read_plan(contents)
    if manifest.graph != plan.fingerprint:
        raise CorruptFile(
            f"{contents.path(PLAN)}: made for the graph {plan.fingerprint[:12]}; the network in this folder was cut "
            f"from the graph {(manifest.graph or 'unknown')[:12]}"
        )
    return contents


def read_plan(contents: Contents) -> Plan:
    """The plan of a folder.

    Raises:
        CorruptFile, BadInput: as of `Plan.from_json`.
    """
    return Plan.from_json(read_text(contents.path(PLAN), 8 * MOST_BYTES))


def problems_of(folder: Path) -> dict[str, str]:
    """File name -> what is wrong with it; {} if the folder is as it was written."""
    try:
        contents = Contents.of(folder)
    except CorruptFile as e:
        return {MANIFEST: str(e)}
    if contents.manifest is None:
        return {MANIFEST: "missing"}
    found = contents.problems()
    if not found and EDITS in contents.manifest.files:
        try:
            checked_contents(folder)
        except (BadInput, CorruptFile) as e:
            return {MANIFEST: str(e)}
    return found


def adopt(folder: Path) -> None:
    """Write a manifest for a folder that has none, from the files as they are.

    Raises:
        BadInput: it has one already, or a file of the network is missing.
        CorruptFile: a file cannot be read.
    """
    contents = Contents.of(folder)
    if contents.manifest is not None:
        raise BadInput(f"{folder}: has a {MANIFEST} already; `sartor runs verify {folder}` compares its files with it")
    for name in NETWORK:
        if not (folder / name).is_file():
            raise BadInput(f"{folder}: expected a run folder; {name} is missing")
    read_plan(contents)
    Edits.from_json(read_text(folder / EDITS, 8 * MOST_BYTES), trust=True)
    names = [p.name for p in sorted(folder.iterdir()) if p.is_file() and p.suffix in _OF_A_RUN and p.name[0] != "."]
    adopt_files(folder, names)


_OF_A_RUN = {".json", ".jsonl", ".safetensors", ".onnx", ".pt2", ".html"}
