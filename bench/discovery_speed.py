"""CPU time from a network to a smaller one, of Sartor and of Torch-Pruning, on one thread.

python bench/discovery_speed.py [--write docs/discovery.md] [--only TEXT] [--repeats 3] [--tiny]

Needs timm, transformers and torch-pruning==1.6.1 (G. Fang et al. 2023, "DepGraph", arXiv:2301.12900). Both
run in turns in one process on the same network; times are medians. Both remove half of every group they find, chosen
at random. What is timed:

    unverified      `trace`, `probe`, a plan, the cut (edits, checked on meta tensors, and a copy with what stays)
    checked         the same and `check_cut`: every tensor bit for bit, every attribute, the shapes of a forward
    proved          the same without that and `prove`: the slices, and the function in float64 and on the user's inputs
    Torch-Pruning   `BasePruner(..., pruning_ratio=0.5)`, then `step()`, on a copy that is made outside of the timing
    trace only      `trace` alone against `build_dependency` and all groups of `Conv2d` and `Linear`

Torch-Pruning changes the network in place and checks nothing. A network that it cannot do, or whose result does not
run or is not smaller, is listed with the reason. A network on the meta device has no values, so its cut is not proved.
`--tiny` adds tiny configurations of transformers. The language model is traced once in a new process.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import gc
import json
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from speed_networks import TOKENS, networks, tiny_networks

TRACE_HEADS = (
    "network", "operators", "groups", "Sartor, trace only, ms", "Torch-Pruning, dependency graph, ms",
    "Torch-Pruning, groups, ms", "Torch-Pruning / Sartor, trace only",
)  # fmt: skip
HEADS = (
    "network", "trace, ms", "probe, ms", "plan and cut, ms", "check, ms", "proof, ms", "Torch-Pruning, build, ms",
    "Torch-Pruning, step, ms", *(f"Torch-Pruning / Sartor, {kind}" for kind in ("unverified", "checked", "proved")),
    "smaller network of Torch-Pruning",
)  # fmt: skip
WHAT = {
    "unverified": "without verification (trace, probe, plan, cut)",
    "checked": "with the check of slices, attributes and shapes (`check_cut`)",
    "proved": "with the complete proof (`prove`)",
}
RUNS = "runs"


@dataclasses.dataclass(frozen=True)
class Ours:
    """CPU milliseconds of each step from a network to a smaller one, and the size of the graph."""

    trace: float
    probe: float
    cut: float
    check: float
    proof: float | None  # None: on the meta device there are no values
    operators: int = 0
    groups: int = 0

    def total(self, kind: str) -> float | None:
        """All steps of a kind: "unverified", "checked" or "proved"; None: there is no such step.

        >>> [Ours(1.0, 2.0, 3.0, 4.0, 5.0).total(kind) for kind in WHAT]
        [6.0, 10.0, 11.0]
        """
        last = {"unverified": 0.0, "checked": self.check, "proved": self.proof}[kind]
        return None if last is None else self.trace + self.probe + self.cut + last


@dataclasses.dataclass(frozen=True)
class Peer:
    """CPU milliseconds of Torch-Pruning, and what became of the network: "runs", or why it cannot be used."""

    outcome: str
    build: float = 0.0
    step: float = 0.0
    dependencies: float = 0.0  # `build_dependency`
    walk: float = 0.0  # all groups

    @property
    def finishes(self) -> bool:
        """Whether both steps came to an end."""
        return self.step > 0


@dataclasses.dataclass(frozen=True)
class Row:
    """One network on both sides."""

    name: str
    ours: Ours
    peer: Peer
    tiny: bool = False

    @property
    def runs(self) -> bool:
        """Whether Torch-Pruning gave a smaller network that runs."""
        return self.peer.outcome == RUNS

    def ratio(self, kind: str) -> float | None:
        """Time of Torch-Pruning over that of Sartor; None if one of the two has no such time.

        >>> row = Row("a", Ours(2.0, 3.0, 4.0, 1.0, None), Peer("runs", 20.0, 7.0))
        >>> row.ratio("unverified"), row.ratio("checked"), row.ratio("proved")
        (3.0, 2.7, None)
        """
        ours = self.ours.total(kind)
        return (self.peer.build + self.peer.step) / ours if self.peer.finishes and ours else None

    @property
    def trace_ratio(self) -> float | None:
        """The same for finding the groups alone: trace only."""
        found = self.peer.dependencies + self.peer.walk
        return found / self.ours.trace if found else None


def cpu_ms(act: Callable[[], Any]) -> tuple[float, Any]:
    """(CPU milliseconds, result) of a function; garbage is collected first."""
    gc.collect()
    start = time.process_time()
    result = act()
    return 1e3 * (time.process_time() - start), result


def on_meta(model: nn.Module) -> bool:
    """Whether the network has no values."""
    return any(p.is_meta for p in model.parameters())


def cut_in_half(model: nn.Module, example: Any) -> Ours:
    """Sartor from the network to a smaller one, step by step."""
    from sartor.cost import count
    from sartor.run.stages import verify
    from sartor.run.subject import Subject
    from sartor.structure import trace
    from sartor.surgery import apply_edits, check_cut, edits_for, probe
    from sartor.testing.plans import halves

    def cut() -> tuple[Any, nn.Module]:
        plan = graph.resolve(halves(graph))
        return plan, apply_edits(model, edits_for(model, graph, plan))

    traced_ms, traced = cpu_ms(lambda: trace(model, example))
    probed_ms, graph = cpu_ms(lambda: probe(model, traced))
    cut_ms, (plan, smaller) = cpu_ms(cut)
    checked_ms, _ = cpu_ms(lambda: check_cut(model, graph, plan, smaller))
    proved_ms = None
    if not on_meta(model):
        subject = Subject(model, example, graph, count(graph))
        proved_ms, _ = cpu_ms(lambda: verify(subject, plan, smaller, inputs=example))
    return Ours(traced_ms, probed_ms, cut_ms, checked_ms, proved_ms, len(graph.ops), len(graph.groups))


def torch_pruning(model: nn.Module, example: Any) -> Peer:
    """Torch-Pruning on a copy: half of every group, at random; the classifier keeps its outputs."""
    import torch_pruning as tp

    smaller = copy.deepcopy(model)
    ignored = [m for m in classifiers(smaller) if isinstance(m, nn.Module)]
    options = {"importance": tp.importance.RandomImportance(), "pruning_ratio": 0.5, "ignored_layers": ignored}
    if not isinstance(example, torch.Tensor):
        options["output_transform"] = list_of_tensors
    try:
        build, pruner = cpu_ms(lambda: tp.pruner.BasePruner(smaller, example, **options))
        step, _ = cpu_ms(pruner.step)
        graph = lambda: tp.DependencyGraph().build_dependency(
            model, example, output_transform=options.get("output_transform")
        )
        dependencies, graph_of_all = cpu_ms(graph)
        walk, _ = cpu_ms(lambda: list(graph_of_all.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear])))
    except Exception as e:  # whatever another library raises is its outcome
        return Peer(f"fails: {type(e).__name__}: {first_line(e)}")
    return Peer(outcome_of(model, smaller, example), build, step, dependencies, walk)


def classifiers(model: nn.Module) -> list[Any]:
    """The last layers of a classifier or language model, whose outputs stay."""
    last = model.get_classifier() if hasattr(model, "get_classifier") else getattr(model, "lm_head", None)
    return list(last) if isinstance(last, tuple) else [last]


def list_of_tensors(output: Any) -> list[torch.Tensor]:
    """Every tensor of an output, as Torch-Pruning wants them."""
    from sartor.structure.example import tensors

    return list(tensors(output))


def outcome_of(model: nn.Module, smaller: nn.Module, example: Any) -> str:
    """Whether a cut network can be used: "runs", or why not."""
    from sartor.structure.example import call

    if all(a.shape == b.shape for a, b in zip(model.parameters(), smaller.parameters())):
        return "is not smaller"
    try:
        with torch.no_grad():
            call(smaller, example)
    except Exception as e:
        return f"does not run: {type(e).__name__}: {first_line(e)}"
    return RUNS


def first_line(error: Exception) -> str:
    """The start of a message, for a cell of a table."""
    return (str(error).strip().splitlines() or [""])[0][:60]


def measured(name: str, build: Callable[[], Any], repeats: int, *, tiny: bool = False) -> Row:
    """Both in turns, with one round of warm-up."""
    torch.manual_seed(0)
    model, example = build()
    turns = [(cut_in_half(model, example), torch_pruning(model, example)) for _ in range(repeats + 1)][1:]
    ours, peer = (medians(side) for side in zip(*turns))
    return Row(name, ours, peer, tiny)


def medians(turns: Sequence[Any]) -> Any:
    """Each number is the median of its values in all turns; the rest is as in the first turn."""
    first = turns[0]
    numbers = {f.name: [getattr(t, f.name) for t in turns] for f in dataclasses.fields(first)}
    middle = {name: median(v) for name, v in numbers.items() if isinstance(v[0], float)}
    return dataclasses.replace(first, **middle)


def language_model() -> dict[str, Any]:
    """A Llama of the default configuration (7B) on the meta device: time of its trace, peak memory of this process."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from sartor.structure import trace

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(use_cache=False)).eval()
    inputs = {"input_ids": torch.zeros(1, TOKENS, dtype=torch.int64)}
    ms, graph = cpu_ms(lambda: trace(model, inputs))
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())  # ru_maxrss includes the parent's
    assert peak is not None
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "operators": len(graph.ops),
        "groups": len(graph.groups),
        "seconds": ms / 1e3,
        "mib": int(peak[1]) / 1024,
    }


def table(rows: Sequence[Row]) -> str:
    """Markdown: from network to smaller network, one line a network; the medians below."""
    from sartor.studies import Grid, markdown

    lines: list[Sequence[str]] = []
    for r in rows:
        ours = [r.ours.trace, r.ours.probe, r.ours.cut, r.ours.check, r.ours.proof]
        peer = [r.peer.build or None, r.peer.step or None, *map(r.ratio, WHAT)]
        lines.append([named(r), *map(cell, [*ours, *peer]), r.peer.outcome])
    return markdown([Grid(HEADS, lines, left=1), summary(rows)])


def named(row: Row) -> str:
    """The name of a network, with a mark where its configuration is tiny."""
    return f"{row.name} (tiny)" if row.tiny else row.name


def trace_table(rows: Sequence[Row]) -> str:
    """Markdown: finding the groups alone."""
    from sartor.studies import Grid, markdown

    lines: list[Sequence[str]] = []
    for r in rows:
        times = [r.ours.trace, r.peer.dependencies or None, r.peer.walk or None, r.trace_ratio]
        lines.append([named(r), str(r.ours.operators), str(r.ours.groups), *map(cell, times)])
    middle = cell(middle_of([r.trace_ratio for r in rows if not r.tiny]))
    lines.append(["**median**", "", "", "", "", "", f"**{middle}**"])
    return markdown([Grid(TRACE_HEADS, lines, left=1)])


def cell(number: float | None) -> str:
    """One decimal, two below ten; a dash for None.

    >>> cell(1.234), cell(12.34), cell(None)
    ('1.23', '12.3', '–')
    """
    return "–" if number is None else f"{number:.2f}" if number < 10 else f"{number:.1f}"


def middle_of(ratios: Sequence[float | None]) -> float | None:
    """The median of the ratios that exist; None if none does."""
    known = [r for r in ratios if r is not None]
    return median(known) if known else None


def summary(rows: Sequence[Row]) -> str:
    """Medians and smallest ratios of each kind, over the networks that Torch-Pruning finishes."""
    sentences: list[str] = []
    finished = [r for r in rows if r.peer.finishes]
    for what, some in (
        ("networks that Torch-Pruning cuts to a smaller one that runs", [r for r in finished if r.runs and not r.tiny]),
        ("networks on which it finishes", [r for r in finished if not r.tiny]),
        ("tiny configurations on which it finishes", [r for r in finished if r.tiny]),
    ):
        ratios = {kind: [(r.name, x) for r in some if (x := r.ratio(kind)) is not None] for kind in WHAT}
        parts = [f"{WHAT[kind]} {extremes(found)}" for kind, found in ratios.items() if found]
        if parts:
            sentences.append(f"Over {len(some)} {what}, times faster: {'; '.join(parts)}.")
    failing = [r.name for r in rows if not r.peer.finishes]
    if failing:
        sentences.append(f"Torch-Pruning fails on {', '.join(failing)}.")
    return "\n\n".join(sentences)


def extremes(ratios: Sequence[tuple[str, float]]) -> str:
    """The median and the smallest of some ratios, as text.

    >>> extremes([("a", 3.0), ("b", 1.0), ("c", 4.0)])
    'median **3.00** times, smallest 1.00 (b)'
    """
    name, least = min(ratios, key=lambda r: r[1])
    return f"median **{cell(median(r for _, r in ratios))}** times, smallest {cell(least)} ({name})"


def sentence(facts: Mapping[str, Any]) -> str:
    """The row of the language model as a sentence."""
    return (
        f"A Llama with {facts['parameters'] / 1e9:.1f} billion parameters on the meta device: {facts['operators']:,} "
        f"operators, {facts['groups']:,} groups in {facts['seconds']:.2f} CPU seconds, first trace of a new process; "
        f"the whole process, its libraries included, never holds more than {facts['mib']:.0f} MiB."
    )


def caption(environment: Mapping[str, Any]) -> str:
    """The machine and the versions."""
    packages = ("torch", "timm", "transformers")
    versions = [f"{p} {environment['versions'][p]}" for p in packages if environment["versions"].get(p)]
    where = ", ".join([environment["cpu"], *versions])
    return f"CPU milliseconds of one thread, medians, batch of one, torch-pruning 1.6.1. Machine: {where}."


def main() -> None:
    """Measure, print the tables, and write them to the page of `--write`."""
    from sartor.cli.markdown_block import MarkdownBlock
    from sartor.measure import environment

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="page with <!-- discovery-speed --> and <!-- /discovery-speed -->")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--repeats", type=int, default=3, help="turns of both sides on each network")
    parser.add_argument("--tiny", action="store_true", help="tiny configurations of transformers too")
    parser.add_argument("--language-model", action="store_true", help="this alone, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.language_model:
        print(json.dumps(language_model()))
        return
    sets = [(networks(), False), *([(tiny_networks(), True)] if options.tiny else [])]
    chosen = [(n, build, tiny) for some, tiny in sets for n, build in some.items() if options.only in n]
    if not chosen or options.repeats < 1:
        parser.error(f"no network contains {options.only!r}" if not chosen else "--repeats: expected at least 1")
    page = None if options.write is None else MarkdownBlock(options.write, "discovery-speed")
    rows: list[Row] = []
    for name, build, tiny in chosen:
        rows.append(measured(name, build, options.repeats, tiny=tiny))
        ratios = ", ".join(f"{kind} {cell(rows[-1].ratio(kind))}" for kind in WHAT)
        print(f"{named(rows[-1])}: {ratios}", file=sys.stderr, flush=True)
    alone = subprocess.run([sys.executable, __file__, "--language-model"], capture_output=True, text=True, check=True)
    facts = sentence(json.loads(alone.stdout.splitlines()[-1]))
    body = "\n\n".join([caption(environment()), table(rows), "Trace only:", trace_table(rows), facts])
    print(body)
    if page is not None:
        page.fill(body)


if __name__ == "__main__":
    main()
