"""`sartor bench faults`: runs that are killed, disks that are full, bytes that change; what is lost."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from sartor.budget import parse_budget
from sartor.errors import SartorError
from sartor.export import export_pt2
from sartor.export.manifest import replacing_file
from sartor.measure.tables.store import Store, Where
from sartor.recipes import find_recipe
from sartor.run import Options, load
from sartor.run import run as run_fit
from sartor.run.folder import problems_of
from sartor.run.kept_stages import unfinished
from sartor.studies.grid import Grid, Part, bullets
from sartor.studies.parsers import parsers
from sartor.studies.registry import Option, Row, Study, study
from sartor.studies.study_run import Case, StudyRun
from sartor.testing.faults import comparable_record, flipped, random_flips
from sartor.testing.garbled import many
from sartor.testing.process_faults import Course, Place, full_disk, in_process
from sartor.train import checkpoint
from sartor.types import Data, FineTune, Judge, Listener

HEADS = ("fault", "promised", "tried", "held", "did not hold")
latency: Any = import_module("sartor.measure.latency")  # the package has a function of this name
steps: Any = import_module("sartor.run.run_steps")
UNDISTURBED = Place(0, "file operation")  # counts nothing but file operations: calls take time to count
_EXACT = ("plan.json", "edits.json", "model.safetensors")  # equal bit for bit
_MOST_PROBLEMS = 10
WRITERS = 8  # processes that write to one table
LONGEST_S = 2.0  # CPU time of one text


@study("faults", marker="faults", key=("fault", "tried"), source="sartor")
@dataclass(frozen=True, kw_only=True)
class Faults(Study):
    """Kill runs anywhere and continue them, fill the disk, change bytes: what is lost, and what is not noticed."""

    kills: Annotated[int, Option("Runs that are killed at a random place.", minimum=1)] = 200
    flips: Annotated[int, Option("Bytes of a finished run folder that are changed.", minimum=1)] = 300
    inputs: Annotated[int, Option("Garbled texts for all parsers together.", minimum=1)] = 100_000
    seconds: Annotated[int, Option("How long processes write to one latency table.", minimum=1)] = 60
    writes: Annotated[int, Option("First file operations after which the disk is full.", minimum=1)] = 40

    def rows(self, run: StudyRun) -> Iterator[Row]:
        """One row a kind of fault."""
        again, files = max(1, self.kills // 10), self.kills // 4
        exports = max(1, self.kills // 20)
        calls = max(0, self.kills - files - again - exports)
        cases = [
            ("killed at a call within a stage", calls, partial(_kills, _Kills("call"))),
            ("killed before a file operation", files, partial(_kills, _Kills("file operation"))),
            ("killed while an ONNX file is measured or a .pt2 file made", exports, partial(_kills, _Kills("export"))),
            ("killed, and the continued run killed too", again, partial(_kills, _Kills("call", 2))),
            ("the disk is full after n file operations", self.writes, _full_disks),
            ("one byte of a finished run changed", self.flips, _flips),
            ("a parser reads a garbled text", self.inputs, _garbled_texts),
            (
                "a process writes to a latency table beside others, two of which are killed",
                WRITERS,
                partial(_writers, self.seconds),
            ),
        ]
        yield from run.rows_of(
            Case({"fault": name, "tried": count}, partial(_in_folder, act, count, run.seed, run.listener), name)
            for name, count, act in cases
            if count
        )

    def parts(self, answer: Mapping[str, Any]) -> Sequence[Part]:
        """A table, where the kills fell, and everything that did not hold."""
        lines = [[r["fault"], r["promised"], str(r["tried"]), str(r["held"]), str(r["tried"] - r["held"])]
                 for r in answer["rows"]]  # fmt: skip
        stages: Counter[str] = Counter()
        for row in answer["rows"]:
            stages.update(row.get("stages", {}))
        where = ", ".join(f"{name} {n}" for name, n in stages.most_common())
        problems = [f"{r['fault']}: {p}" for r in answer["rows"] for p in r["problems"]]
        return [Grid(HEADS, lines, left=2), f"Kills by stage: {where}." if where else "", bullets(problems)]

    def failures(self, answer: Mapping[str, Any]) -> Sequence[str]:
        """What did not hold."""
        return [f"{r['fault']}: {r['tried'] - r['held']} of {r['tried']} did not hold"
                for r in answer["rows"] if r["held"] < r["tried"]]  # fmt: skip


def _in_folder(act: Any, count: int, seed: int, listener: Listener) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="sartor-faults-") as folder, _quick():
        answer: dict[str, Any] = act(Path(folder), count, seed, listener)
    answer["problems"] = answer["problems"][:_MOST_PROBLEMS]
    return answer


@contextmanager
def _quick() -> Iterator[None]:
    """Checkpoints after every step, few samples of every timing, and one thread, so that processes can be forked."""
    before = checkpoint.EVERY_S, latency.MOST, torch.get_num_threads()
    checkpoint.EVERY_S, latency.MOST = 0.0, 2
    torch.set_num_threads(1)
    try:
        yield
    finally:
        checkpoint.EVERY_S, latency.MOST = before[:2]
        torch.set_num_threads(before[2])


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.1),
        nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 3),
    )  # fmt: skip


def _data() -> Data:
    def loader(n: int) -> Any:
        g = torch.Generator().manual_seed(n)
        samples: Any = [(torch.randn(1, 8, 8, generator=g), i % 3) for i in range(n)]
        own = torch.Generator().manual_seed(3)
        return torch.utils.data.DataLoader(samples, batch_size=16, shuffle=True, generator=own)

    return Data(loader(64), loader(32), loader(16))


def _loss(output: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, targets)


def _fit(folder: Path, begin: Any = lambda stage: None, *, exported: bool = False) -> None:
    """One small run with all stages; `exported`: files are made, and the ONNX file is measured."""
    recipe = find_recipe("reconstruction")
    recipe = recipe.with_training(FineTune(epochs=2, ema=0.9, optimizer="adamw", lr=0.003))
    limits = parse_budget("macs<=50%")
    listener = Listener(lambda step, done, text: begin(step) if done == 0.0 else None)
    options = Options(out=folder, seed=1, listener=listener)
    usual = steps.default_target
    with unfinished(folder):
        try:
            steps.default_target = usual if exported else lambda: "eager-cpu:threads=1"
            outcome = run_fit(_network(), _data(), limits, recipe, Judge(_loss), options)
        finally:
            steps.default_target = usual
        if exported:
            begin("export")
            with replacing_file(folder / "model.pt2") as place:
                export_pt2(outcome.model, outcome.example, place)


def _whole(folder: Path, *, exported: bool = False) -> Course:
    """An undisturbed run; what happened in it. The first one, in this process, imports everything."""
    _fit(folder.with_name("first"), exported=exported)
    shutil.rmtree(folder.with_name("first"))
    course = in_process(partial(_fit, folder, exported=exported), folder)
    if course.code:
        raise SartorError(f"the undisturbed run ended with exit code {course.code}")
    return course


@dataclass(frozen=True)
class _Kills:
    """Where runs are killed, and how often each before it may end."""

    of: str  # "call", "file operation", or "export": a call while files are made or measured
    times: int = 1

    def place(self, course: Course, draw: random.Random) -> Place:
        """A place at random: each stage is as likely as any other, whatever it takes."""
        if self.of == "file operation":
            return Place(draw.randint(1, sum(course.operations.values())), self.of)
        names = [n for n in course.calls if n and (self.of != "export" or n == "export" or n.startswith("measure"))]
        stage = draw.choice(names)
        return Place(draw.randint(1, course.calls[stage]), "call", stage)


def _kills(kind: _Kills, folder: Path, count: int, seed: int, listener: Listener) -> dict[str, Any]:
    """Runs that are killed and then continued."""
    whole, run_folder, draw = folder / "whole", folder / "run", random.Random(seed)
    fit = partial(_fit, exported=kind.of == "export")
    course = _whole(whole, exported=kind.of == "export")
    held, problems = 0, []
    stages: Counter[str] = Counter()
    for i in range(count):
        listener.tell(f"kill {i + 1} of {count}", i / count)
        places: list[Place] = []
        while len(places) < kind.times:  # counts vary a little from run to run: a place behind the end kills nothing
            place = kind.place(course, draw)
            if in_process(partial(fit, run_folder), run_folder, place).killed:
                places.append(place)
            else:
                shutil.rmtree(run_folder, ignore_errors=True)
                places = []
        stages.update(p.stage or p.of for p in places)
        difference = _continued(partial(fit, run_folder), run_folder, whole)
        held += not difference
        problems += [f"{places}: {difference}"] if difference else []
        shutil.rmtree(run_folder, ignore_errors=True)
    promised = "continued, it ends with the same bits and leaves nothing behind"
    return {"promised": promised, "held": held, "problems": problems, "stages": dict(stages)}


def _continued(fit: Any, folder: Path, whole: Path) -> str:
    """Continue a run; what differs from an undisturbed one, or ""."""
    code = in_process(fit, folder, UNDISTURBED).code
    if code != 0:
        return f"the continued run ended with exit code {code}"
    for name in _EXACT:
        if (folder / name).read_bytes() != (whole / name).read_bytes():
            return f"{name} differs"
    if comparable_record(folder) != comparable_record(whole):
        return "the record differs"
    if problems_of(folder):
        return f"damaged: {problems_of(folder)}"
    left = {p.name for p in folder.iterdir()} ^ {p.name for p in whole.iterdir()}
    return f"files differ: {sorted(left)}" if left else ""


def _full_disks(folder: Path, count: int, seed: int, listener: Listener) -> dict[str, Any]:
    """Runs on a disk that is full after so many file operations, continued when there is room."""
    whole = folder / "whole"
    _whole(whole)
    held, problems = 0, []
    for n in range(count):
        listener.tell(f"full after {n} operations", n / count)
        place = folder / "run"

        def act(begin: Any, n: int = n, place: Path = place) -> None:
            with full_disk(place, n):
                try:
                    _fit(place)
                except SartorError as e:
                    if "disk is full" not in str(e) and "No space left" not in str(e):
                        raise
                except BaseException as e:
                    print(f"{type(e).__name__}: {e}", file=sys.stderr)
                    os._exit(4)

        code = in_process(act, place).code
        found = (
            f"exit code {code}"
            if code
            else _continued(partial(_fit, place), place, whole)
            if _unfinished(place)
            else ""
        )
        held += not found
        problems += [f"after {n} operations: {found}"] if found else []
        shutil.rmtree(place, ignore_errors=True)
    promised = "a sentence, or a note and the same network; continued when there is room, it ends with the same bits"
    return {"promised": promised, "held": held, "problems": problems}


def _unfinished(folder: Path) -> bool:
    return not (folder / "result.json").is_file() or (folder / "checkpoint").is_dir()


def _garbled_texts(folder: Path, count: int, seed: int, listener: Listener) -> dict[str, Any]:
    """Texts that are nearly right, the same number for each parser."""
    by_name = parsers(folder)
    held, problems = 0, []
    accepted: Counter[str] = Counter()
    for i, (name, parser) in enumerate(by_name.items()):
        listener.tell(name, i / len(by_name))
        share = count // len(by_name) + (i < count % len(by_name))
        for text in many(parser.grammar, share, seed):
            began = time.process_time()
            try:
                parser.parse(text)
                accepted[name] += 1
            except SartorError:
                pass
            except Exception as e:
                problems.append(f"{name}: {text[:80]!r}: {type(e).__name__}: {e!s:.80}")
                continue
            if time.process_time() - began > LONGEST_S:
                problems.append(f"{name}: {text[:80]!r}: took {time.process_time() - began:.1f} s")
                continue
            held += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    promised = f"accepted, or refused with an error of Sartor, within {LONGEST_S:g} s of CPU time"
    return {"promised": promised, "held": held, "problems": problems, "accepted": dict(accepted), "peak_mib": peak}


def _writers(seconds: int, folder: Path, count: int, seed: int, listener: Listener) -> dict[str, Any]:
    """Processes that write to one latency table; two of them are killed half-way."""
    path, where = folder / "latency.sqlite", Where("machine", "runtime", "target")
    Store(path)

    def write(i: int) -> None:
        table, end, n = Store(path), time.monotonic() + seconds, 0
        done = os.open(folder / f"done-{i}", os.O_WRONLY | os.O_CREAT)
        while time.monotonic() < end:
            name = f"{i}-{n}"
            table.note(where, "fault", name, n)
            os.write(done, f"{name}\n".encode())
            n += 1

    children = [_forked(partial(write, i)) for i in range(count)]
    time.sleep(seconds / 2)
    for child in children[:2]:
        os.kill(child, signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    written = Store(path).noted(where, "fault")
    held, rows, problems = 0, 0, []
    for i, code in enumerate(codes):
        names = (folder / f"done-{i}").read_text().splitlines()
        lost = [name for name in names if name not in written]
        expected = -signal.SIGKILL if i < 2 else 0
        if lost or code != expected:
            problems.append(f"process {i}: exit code {code}, {len(lost)} of {len(names)} rows lost")
        held += not lost and code == expected
        rows += len(names)
    promised = "every row that was written is in the table; the others go on"
    return {"promised": promised, "held": held, "problems": problems, "rows": rows}


def _forked(act: Any) -> int:
    """The number of a new process that does this."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return child


def _flips(folder: Path, count: int, seed: int, listener: Listener) -> dict[str, Any]:
    """Changed bytes in any file of a finished run."""
    whole = folder / "whole"
    _whole(whole, exported=True)
    model = _network()
    held, problems = 0, []
    for i, flip in enumerate(random_flips(whole, count, seed)):
        listener.tell(f"byte {i + 1} of {count}", i / count)
        with flipped(flip):
            try:
                load(whole, model)
                problems.append(f"{flip}: loaded")
            except SartorError as e:
                named = flip.file.name in str(e)
                held += named
                problems += [] if named else [f"{flip}: {e}"]
            except Exception as e:
                problems.append(f"{flip}: {type(e).__name__}: {e}")
    return {"promised": "refused with the name of the file", "held": held, "problems": problems}
