"""The run folder: plan, edits and weights that load without pickle and without tracing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from torch import nn

from sartor.errors import BadInput, CorruptFile
from sartor.export.files import atomic_write
from sartor.export.weights import load_weights_, save_weights
from sartor.run.record import Record
from sartor.surgery import Edits, apply_edits
from sartor.types import Plan
from sartor.wrappers import wrapped_like

PLAN, EDITS, WEIGHTS, RESULT, RECORD = "plan.json", "edits.json", "model.safetensors", "result.json", "record.jsonl"


def write_model(folder: Path, model: nn.Module, plan: Plan, edits: Edits) -> dict[str, str]:
    """Write what `load` needs; each file appears whole or not at all."""
    atomic_write(folder / PLAN, plan.to_json())
    atomic_write(folder / EDITS, edits.to_json())
    save_weights(model, folder / WEIGHTS)
    return {"plan": PLAN, "edits": EDITS, "weights": WEIGHTS}


def write_result(folder: Path, record: Record) -> None:
    """The last file of a finished run."""
    atomic_write(folder / RESULT, json.dumps(record.result(), indent=1) + "\n")


def load(folder: str | Path, factory: Callable[[], nn.Module] | nn.Module) -> nn.Module:
    """The fitted network, bit for bit as it was saved.

    Args:
        folder: a run folder, or what `Fitted.save` wrote.
        factory: builds the original network (its weights do not matter), or one already built, which stays untouched.

    Returns:
        A smaller network of the same class, in evaluation mode.

    Raises:
        BadInput: a file is missing, or the network is not the one that was cut.
        CorruptFile: a file is damaged.
    """
    folder = Path(folder)
    for name in (EDITS, WEIGHTS):
        if not (folder / name).is_file():
            raise BadInput(f"{folder}: expected a run folder with {EDITS} and {WEIGHTS}; {name} is missing")
    try:
        edits = Edits.from_json((folder / EDITS).read_text())
    except (UnicodeDecodeError, CorruptFile) as e:
        raise CorruptFile(f"{folder / EDITS}: {e}") from e
    original = factory if isinstance(factory, nn.Module) else factory()
    if not isinstance(original, nn.Module):
        raise BadInput(f"load: expected a factory that returns a module; got {type(original).__name__}")
    model = apply_edits(original, edits)
    load_weights_(model, folder / WEIGHTS)
    return wrapped_like(model, original).eval()
