"""`sartor measure`: counted costs and latency of one network, or of two in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sartor.cli.command_result import Reply
from sartor.cli.inputs import is_onnx, is_run
from sartor.cli.open_model import Loaded, load_subject
from sartor.cli.options import AsJson, Data, Factory, Input, Quiet, SubjectOrRun, Weights
from sartor.cli.progress import steps
from sartor.errors import BadInput

if TYPE_CHECKING:
    from sartor.measure import Runnable
    from sartor.measure.energy import Meter
    from sartor.types import Comparison, Latency, Target

COUNTS = ("macs", "params", "bytes", "memory")


def measure(
    model: SubjectOrRun,
    against: Annotated[
        str | None,
        typer.Option(metavar="OTHER", help="The original to compare with: timed in turns, ratio = MODEL / OTHER."),
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Where to time, such as onnxruntime-cpu:threads=1,batch=8; repeatable.")
    ] = None,
    weights: Weights = None,
    option: Factory = None,
    shape: Input = None,
    data: Data = None,
    samples: Annotated[int, typer.Option(min=5, help="Timed runs of a session, at least.")] = 40,
    seconds: Annotated[float, typer.Option(min=0.0, help="Time of a session, at least.")] = 1.0,
    sessions: Annotated[
        int, typer.Option(min=1, help="With --against: how often both are put on the target anew.")
    ] = 5,
    energy: Annotated[
        bool, typer.Option("--energy", help="Joules per inference too, where the machine has a meter (RAPL, NVML).")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> Reply:
    """Count MACs, parameters, bytes and peak memory, and time a network on its targets (eager-cpu unless told)."""
    from sartor.measure import compare_afresh, environment, latency, parse_target, show_target
    from sartor.measure.energy import meter_for
    from sartor.types import Effort

    targets = [parse_target(t) for t in target or ["eager-cpu"]]
    subject = _Subject(model, dict(weights=weights, option=option, shape=shape, data=data))
    other = None if against is None else _Subject(against, dict(shape=shape, data=data, beside=model))
    # of two: run-to-run variance exceeds within-run variance, so sessions are short and several
    longest = max(20.0 if against is None else 3.0, 4 * seconds)
    effort = Effort(
        sessions=sessions, precision=0.02, min_seconds=seconds, max_seconds=longest, samples=samples
    )  # fmt: skip
    meters = {place: meter_for(place) for place in targets} if energy else {}
    rows: list[dict[str, Any]] = []
    metered: list[dict[str, Any]] = []
    with steps(quiet=quiet) as progress:
        progress("count", None, model)
        counted = _pair(subject.counted(), other.counted() if other else None, two=other is not None)
        for place in targets:
            name = show_target(place)
            progress(f"time on {name}", None, "preparing")
            if other is None:
                with subject.runnable(place) as fitted:
                    progress(f"time on {name}", None, "timing")
                    rows.append(_alone(name, latency(fitted, effort)))
            else:
                progress(f"time on {name}", None, "timing both in turns")
                measured = compare_afresh(
                    lambda place=place: other.runnable(place),  # type: ignore[misc]
                    lambda place=place: subject.runnable(place),  # type: ignore[misc]
                    effort,
                )  # fmt: skip
                rows.append(_together(name, measured))
            if energy:
                progress(f"meter on {name}", None, "joules")
                metered.append(_metered(name, subject, other, place, meters[place]))
    answer = {"model": model, "against": against, "counted": counted, "latency": rows, "environment": environment()}
    if energy:
        answer["energy"] = metered
    return Reply(answer, _view(answer))


def _metered(name: str, subject: _Subject, other: _Subject | None, place: Target, meter: Meter) -> dict[str, Any]:
    """Joules per inference, idle power included; of two, in turns."""
    from sartor.measure.energy import energy

    with ExitStack() as held:
        them = [held.enter_context(s.runnable(place)) for s in (other, subject) if s is not None]
        found = energy(them, meter)
    row: dict[str, Any] = {"target": name, "meter": meter.name, "idle_w": found[0].idle_w}
    if other is None:
        return {**row, "joules": found[0].median_j}
    first, second = (e.median_j for e in found)
    return {**row, "original_j": first, "fitted_j": second, "ratio": second / first}


class _Subject:
    """A model spec, a run folder or an ONNX file; opened when first needed, once."""

    def __init__(self, words: str, how: Mapping[str, Any]):
        if is_onnx(words) and not Path(words).is_file():
            raise BadInput(f"no file {words!r}")
        self.words, self.how = words, how
        self._loaded: Loaded | None = None

    def loaded(self) -> Loaded:
        if self._loaded is None:
            self._loaded = load_subject(self.words, **self.how)
        return self._loaded

    def runnable(self, target: Target) -> Runnable:
        from sartor.measure import prepare, prepare_file
        from sartor.measure.targets import runs_files

        if is_onnx(self.words):
            return prepare_file(self.words, target)
        artefact = Path(self.words) / "model.onnx"
        if is_run(self.words) and runs_files(target) and artefact.is_file():
            return prepare_file(artefact, target)
        subject = self.loaded()
        return prepare(subject.module, subject.example, target)

    def counted(self) -> dict[str, int] | None:
        """Costs of one forward of the example batch; a run folder remembers them, an ONNX file cannot say."""
        if is_onnx(self.words):
            return None
        if is_run(self.words):
            from sartor.report import read_result

            remembered = read_result(self.words).get("counted") or {}
            return {m: remembered[m]["fitted"] for m in COUNTS if m in remembered} or None
        from sartor.cost import count
        from sartor.structure import trace

        subject = self.loaded()
        costs = count(trace(subject.module, subject.example))
        return {m: getattr(costs, m) for m in COUNTS}


def _pair(fitted: dict[str, int] | None, original: dict[str, int] | None, *, two: bool) -> dict[str, Any] | None:
    """One network: metric -> value. Two: metric -> {"original", "fitted"}, of what both know."""
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


def _view(answer: Mapping[str, Any]) -> Any:
    from rich.console import Group as Stack
    from rich.text import Text

    from sartor.report.text import changes, grid
    from sartor.units import show_bytes, show_count, show_seconds

    busy = [
        Text(f"{row['target']}: the machine was busy: {row['noisy']}; the spread is wide", style="yellow")
        for row in answer["latency"] if row["noisy"]
    ]  # fmt: skip
    for row in answer.get("energy", ()):
        joules = " and ".join(f"{row[k]:.3g} J" for k in ("original_j", "fitted_j", "joules") if k in row)
        busy.append(
            Text(f"{row['target']}: {joules} an inference by {row['meter']}, idle {row['idle_w']:.1f} W included")
        )
    if answer["against"] is not None:
        intervals = grid("latency ratio", "median", "95 % interval")
        for row in answer["latency"]:
            low, high = row["interval"]
            intervals.add_row(row["target"], f"{row['ratio']:.3f}", f"{low:.3f} to {high:.3f}")
        return Stack(changes(answer), intervals, *busy)
    table = grid(answer["model"], "value", "spread")
    shows: dict[str, Callable[[float], str]] = {"macs": show_count, "params": show_count}
    for metric, value in (answer["counted"] or {}).items():
        table.add_row(metric, shows.get(metric, show_bytes)(value), "")
    for row in answer["latency"]:
        spread = f"± {show_seconds(row['iqr_ms'] / 2e3)}"
        table.add_row(f"latency, {row['target']}", show_seconds(row["median_ms"] / 1e3), spread)
    return Stack(table, *busy)
