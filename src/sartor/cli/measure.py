"""`sartor measure`: counted costs and latency of one network, or of two networks timed in turns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sartor.cli.command_result import CommandResult
from sartor.cli.inputs import is_onnx, is_run
from sartor.cli.open_model import ModelOptions, OpenModel, open_model
from sartor.cli.options import AsJson, Data, Factory, Input, Quiet, RunFactory, SubjectOrRun, Trust, Weights
from sartor.cli.progress import steps
from sartor.errors import BadInput

if TYPE_CHECKING:
    from sartor.cli.measurement_rows import Measurement, PairMeasurement
    from sartor.measure import Runnable
    from sartor.measure.energy import Meter
    from sartor.types import Comparison, Latency, Target

COUNTS = ("macs", "params", "bytes", "memory")


def measure(
    model: SubjectOrRun,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="OTHER", help="The original to compare with: both are timed in turns, ratio = MODEL / OTHER."
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Target to time on, such as onnxruntime-cpu:threads=1,batch=8; repeatable (eager-cpu)."),
    ] = None,
    weights: Weights = None,
    option: Factory = None,
    shape: Input = None,
    data: Data = None,
    factory: RunFactory = None,
    trust: Trust = False,
    samples: Annotated[int, typer.Option(min=5, help="Least number of timed runs in a session.")] = 40,
    seconds: Annotated[float, typer.Option(min=0.0, help="Least duration of a session, in seconds.")] = 1.0,
    sessions: Annotated[
        int,
        typer.Option(min=1, help="With --against: number of sessions. Each loads both networks on the target anew."),
    ] = 5,
    energy: Annotated[
        bool,
        typer.Option("--energy", help="Also measure joules per inference, if the machine has a meter (RAPL, NVML)."),
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> CommandResult:
    """Count MACs, parameters, bytes and peak memory of a network, and time it on its targets."""
    from sartor.cli.measurement_rows import Measurement, PairMeasurement
    from sartor.measure import compare_afresh, environment, latency, parse_target, show_target
    from sartor.measure.energy import meter_for
    from sartor.types import Effort, to_plain

    targets = [parse_target(t) for t in target or ["eager-cpu"]]
    of_model = ModelOptions(weights=weights, option=option, shape=shape, data=data, factory=factory, trust=trust)
    of_other = ModelOptions(shape=shape, data=data, trust=trust)
    subject, other = _Subject(model, of_model), None if against is None else _Subject(against, of_other, beside=model)
    # of two: run-to-run variance exceeds within-run variance, so sessions are short and several
    longest = max(20.0 if against is None else 3.0, 4 * seconds)
    effort = Effort(
        sessions=sessions, precision=0.02, min_seconds=seconds, max_seconds=longest, samples=samples
    )  # fmt: skip
    meters = {place: meter_for(place) for place in targets} if energy else {}
    rows: list[dict[str, Any]] = []
    metered: list[dict[str, Any]] = []
    with steps(quiet=quiet) as listener:
        listener.begin("count", model)
        counted = _pair(subject.counted(), other.counted() if other else None, two=other is not None)
        for place in targets:
            name = show_target(place)
            listener.begin(f"time on {name}", "preparing")
            if other is None:
                with subject.runnable(place) as fitted:
                    listener.tell("timing")
                    rows.append(_alone(name, latency(fitted, effort)))
            else:
                listener.tell("timing both in turns")
                measured = compare_afresh(
                    lambda place=place: other.runnable(place),  # type: ignore[misc]
                    lambda place=place: subject.runnable(place),  # type: ignore[misc]
                    effort,
                )  # fmt: skip
                rows.append(_together(name, measured))
            if energy:
                listener.begin(f"meter on {name}", "joules")
                metered.append(_metered(name, subject, other, place, meters[place]))
    kind = Measurement if against is None else PairMeasurement
    parts = {"counted": counted, "latency": rows, "environment": to_plain(environment())}
    energies = metered if energy else None
    answer = kind.model_validate({"model": model, "against": against, **parts, "energy": energies})
    return CommandResult(answer.to_plain(), _view(answer))


def _metered(name: str, subject: _Subject, other: _Subject | None, place: Target, meter: Meter) -> dict[str, Any]:
    """Joules per inference, idle power included; two networks are measured in turns."""
    from sartor.measure.energy import energy

    with ExitStack() as stack:
        runnables = [stack.enter_context(s.runnable(place)) for s in (other, subject) if s is not None]
        energies = energy(runnables, meter)
    row: dict[str, Any] = {"target": name, "meter": meter.name, "idle_w": energies[0].idle_w}
    if other is None:
        return {**row, "joules": energies[0].median_j}
    original, fitted = (e.median_j for e in energies)
    return {**row, "original_j": original, "fitted_j": fitted, "ratio": fitted / original}


class _Subject:
    """A model spec, a run folder or an ONNX file. A model is opened once, when it is first needed."""

    def __init__(self, name: str, options: ModelOptions, beside: str | None = None):
        if is_onnx(name) and not Path(name).is_file():
            raise BadInput(f"no file {name!r}")
        self.name, self.options, self.beside = name, options, beside
        self._opened: OpenModel | None = None

    def opened(self) -> OpenModel:
        if self._opened is None:
            self._opened = open_model(self.name, self.options, beside=self.beside)
        return self._opened

    def runnable(self, target: Target) -> Runnable:
        from sartor.export.manifest import Contents
        from sartor.measure import prepare, prepare_file
        from sartor.measure.targets import runs_files

        if is_onnx(self.name):
            return prepare_file(self.name, target)
        if is_run(self.name) and runs_files(target):
            contents = Contents.of(self.name)
            if contents.lists("model.onnx") and contents.path("model.onnx").is_file():
                return prepare_file(contents.checked("model.onnx"), target)
        network = self.opened()
        return prepare(network.module, network.example, target)

    def counted(self) -> dict[str, int] | None:
        """Costs of one forward of the example batch: a run folder records them; None for an ONNX file."""
        if is_onnx(self.name):
            return None
        if is_run(self.name):
            from sartor.report import read_result

            recorded = read_result(self.name).counted
            return {m: recorded[m].fitted for m in COUNTS if m in recorded} or None
        from sartor.cost import count
        from sartor.structure import trace

        network = self.opened()
        costs = count(trace(network.module, network.example))
        return {m: getattr(costs, m) for m in COUNTS}


def _pair(fitted: dict[str, int] | None, original: dict[str, int] | None, *, two: bool) -> dict[str, Any] | None:
    """One network: metric -> value. Two: metric -> {"original", "fitted"}, for the metrics known of both."""
    if original is None:
        return None if two else fitted
    if fitted is None:
        return None
    return {m: {"original": original[m], "fitted": fitted[m]} for m in COUNTS if m in fitted and m in original}


def _alone(name: str, measured: Latency) -> dict[str, Any]:
    return {
        "target": name,
        "median_ms": 1e3 * measured.median_s,
        "iqr_ms": 1e3 * measured.iqr_s,
        "samples": len(measured.seconds),
        "warmup": measured.warmup,
        "noisy": measured.noisy,
    }


def _together(name: str, measured: Comparison) -> dict[str, Any]:
    return {
        "target": name,
        "original_ms": 1e3 * measured.original.median_s,
        "fitted_ms": 1e3 * measured.fitted.median_s,
        "ratio": measured.ratio,
        "interval": list(measured.interval),
        "noisy": measured.noisy,
        "samples": {
            "original_ms": [1e3 * s for s in measured.original.times],
            "fitted_ms": [1e3 * s for s in measured.fitted.times],
        },
    }


def _view(answer: Measurement | PairMeasurement) -> Any:
    from rich.console import Group as Stack
    from rich.text import Text

    from sartor.cli.measurement_rows import EnergyPair, PairMeasurement
    from sartor.report.fields import COUNTED
    from sartor.report.text import changes, grid
    from sartor.units import show_bytes, show_count, show_seconds

    remarks = [
        Text(f"{row.target}: the machine was busy: {row.noisy}; the spread is wide", style="yellow")
        for row in answer.latency if row.noisy
    ]  # fmt: skip
    for e in answer.energy or ():
        values = (e.original_j, e.fitted_j) if isinstance(e, EnergyPair) else (e.joules,)
        joules = " and ".join(f"{value:.3g} J" for value in values)
        remarks.append(
            Text(f"{e.target}: {joules} per inference, measured by {e.meter}; includes {e.idle_w:.1f} W of idle power")
        )
    if isinstance(answer, PairMeasurement):
        intervals = grid("latency ratio, fitted / original", "median", "95 % confidence interval")
        for pair in answer.latency:
            low, high = pair.interval
            intervals.add_row(pair.target, f"{pair.ratio:.3f}", f"{low:.3f} to {high:.3f}")
        return Stack(changes(answer.latency, answer.counted or {}), intervals, *remarks)
    table = grid(answer.model, "value", "half interquartile range")
    formats: dict[str, Callable[[float], str]] = {"macs": show_count, "params": show_count}
    for metric, value in (answer.counted or {}).items():
        table.add_row(COUNTED[metric], formats.get(metric, show_bytes)(value), "")
    for row in answer.latency:
        table.add_row(
            f"latency, {row.target}", show_seconds(row.median_ms / 1e3), f"± {show_seconds(row.iqr_ms / 2e3)}"
        )
    return Stack(table, *remarks)
