"""`sartor demo`: the whole job on real images that come with scikit-learn, on two cores within two minutes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from sartor.cli.command_result import Reply
from sartor.cli.failures import BUDGET_NOT_MET, DONE, Interrupted
from sartor.cli.fit import make_room
from sartor.cli.options import AsJson, Force, Quiet, Seed
from sartor.cli.progress import Steps, steps
from sartor.cli.recipe import choose_recipe
from sartor.cli.request import Asked, write_asked
from sartor.cli.write_artefacts import deliver

BUDGET = "latency<=60% @ onnxruntime-cpu, macs<=50%"
DATA = "digits:"
VAL = 0.2  # share of the images kept for validation: 360 of them, so that a point is more than three images
BATCH = 32
ROUND_TO = 16  # ONNX Runtime's convolutions work on blocks of channels: 45 of 64 channels take as long as all of them


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The run folder.")] = Path("sartor-demo"),
    seed: Seed = 0,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> Reply:
    """Train a small residual network on digits, fit it to 60 % of its latency and half its MACs, prove it."""
    start = time.monotonic()
    make_room(out, force=force)
    with steps(quiet=quiet) as progress, _one_thread():
        try:
            result = perform(out, seed, progress)
        except KeyboardInterrupt as e:
            raise Interrupted(f"interrupted; {out} holds what was finished, --force starts afresh") from e
    result["wall_seconds"] = time.monotonic() - start
    code = DONE if result.get("status", "met") == "met" else BUDGET_NOT_MET
    return Reply(result, _view(result, out), code)


def perform(folder: Path, seed: int, progress: Steps, *, epochs: int = 8, recovery: int = 6) -> dict[str, Any]:
    """The job: train the original, fit it, judge both on images nobody decided by; returns the result."""
    import sartor
    from sartor.cli.demo_net import net
    from sartor.seed import seeded
    from sartor.sources import load_data
    from sartor.train import fine_tune
    from sartor.types import FineTune

    progress("data", None, "handwritten digits of scikit-learn")
    data = load_data(DATA, batch=BATCH, seed=seed, val=VAL)
    with seeded(seed):
        network = net()
    lesson = FineTune(epochs=epochs, lr=0.05, distill=0.0, warmup=0.1)

    def training(event: str, done: float | None = None, detail: str = "") -> None:
        progress("train the original", done, detail)

    fine_tune(network, data.train, options=lesson, val=data.val, seed=seed, progress=training)
    network.eval()
    asked = Asked(
        model="sartor.cli.demo_net:net", data=DATA, val=VAL, batch=BATCH, budget=BUDGET, out=str(folder), seed=seed,
        recipe={
            "base": "taylor", "allocate.round_to": ROUND_TO,
            "heal": {"fine-tune": {"epochs": recovery, "lr": 0.02, "distill": 0.7}},
        },
    )  # fmt: skip
    write_asked(asked, folder)
    fitted = sartor.fit(
        network, data.train, data.val, budget=BUDGET, recipe=choose_recipe(asked.recipe), example=data.example,
        calibration=data.calibration, test=data.test, out=folder, seed=seed, progress=progress,
        model_name="a small residual network for digits",
    )  # fmt: skip
    return deliver(fitted, folder, progress)


@contextmanager
def _one_thread() -> Iterator[None]:
    """A network this small gains little from a second thread of torch, and loses much when another program has it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _view(result: dict[str, Any], folder: Path) -> Any:
    from rich.console import Group as Stack
    from rich.text import Text

    from sartor.report import summary

    return Stack(
        summary(result),
        Text(f"{result['wall_seconds']:.0f} s in all; run folder: {folder}"),
        Text(f"report: {(folder / 'report.html').resolve()}", style="bold"),
    )
