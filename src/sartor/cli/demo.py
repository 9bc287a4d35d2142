"""`sartor demo`: a complete run on images that come with scikit-learn; less than two minutes on two cores."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sartor.cli.command_result import CommandResult
from sartor.cli.failures import Interrupted
from sartor.cli.fit import code_of, make_room
from sartor.cli.options import AsJson, Force, Quiet, Seed
from sartor.cli.progress import Steps, steps
from sartor.cli.recipe import choose_recipe
from sartor.cli.request import Request, write_request
from sartor.cli.write_artefacts import write_artefacts

if TYPE_CHECKING:
    from sartor.run.record import Record

BUDGET = "latency<=60% @ onnxruntime-cpu, macs<=50%"
DATA = "digits:"
VAL = 0.2  # share of the images for validation: 360, so that one point of accuracy is more than three images
BATCH = 32
ROUND_TO = 16  # ONNX Runtime's convolutions compute blocks of channels: 45 of 64 channels take as long as 64


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The run folder.")] = Path("sartor-demo"),
    seed: Seed = 0,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> CommandResult:
    """Train a small residual network on digits, fit it to 60 % of its latency and half its MACs, and prove the cut."""
    start = time.monotonic()
    make_room(out, force=force)
    with steps(quiet=quiet) as listener, _one_thread():
        try:
            record = perform(out, seed, listener)
        except KeyboardInterrupt as e:
            raise Interrupted(f"interrupted; {out} holds the finished steps. `sartor demo --force` starts again") from e
    spent = time.monotonic() - start
    return CommandResult({**record.result(), "wall_seconds": spent}, _view(record, out, spent), code_of(record))


def perform(folder: Path, seed: int, listener: Steps, *, epochs: int = 8, recovery: int = 6) -> Record:
    """Train the original, fit it, and evaluate both on test images that no decision used.

    Args:
        folder: the run folder.
        seed: of every random choice.
        listener: receives progress.
        epochs: of training the original.
        recovery: epochs of fine-tuning the fitted network.

    Returns:
        The record of the run.
    """
    import sartor
    from sartor.cli.demo_net import net
    from sartor.seed import seeded
    from sartor.sources import load_data
    from sartor.train import TrainingSetup, fine_tune
    from sartor.types import FineTune

    listener.begin("data", "handwritten digits of scikit-learn")
    data = load_data(DATA, batch=BATCH, seed=seed, val=VAL)
    with seeded(seed):
        network = net()
    setup = TrainingSetup(FineTune(epochs=epochs, lr=0.05, distill=0.0, warmup=0.1), seed=seed)
    listener.begin("train the original")
    fine_tune(network, data, setup, listener=listener)
    network.eval()
    request = Request(
        model="sartor.cli.demo_net:net", data=DATA, val=VAL, batch=BATCH, budget=BUDGET, out=str(folder), seed=seed,
        recipe={
            "base": "taylor", "allocate.round_to": ROUND_TO,
            "heal": {"fine-tune": {"epochs": recovery, "lr": 0.02, "distill": 0.7}},
        },
    )  # fmt: skip
    write_request(request, folder)
    fitted = sartor.fit(
        network, data.train, data.val, budget=BUDGET, recipe=choose_recipe(request.recipe), example=data.example,
        calibration=data.calibration, test=data.test, out=folder, seed=seed, progress=listener,
        model_name="a small residual network for digits",
    )  # fmt: skip
    return write_artefacts(fitted, folder, listener)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread inside the block: a second one gains little here, and costs much if its core is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _view(record: Record, folder: Path, spent: float) -> Any:
    from rich.console import Group as Stack
    from rich.text import Text

    from sartor.report import summary

    return Stack(
        summary(record),
        Text(f"{spent:.0f} s in total; run folder: {folder}"),
        Text(f"report: {(folder / 'report.html').resolve()}", style="bold"),
    )
