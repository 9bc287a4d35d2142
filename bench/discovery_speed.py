"""CPU time to find every group, of Sartor and of Torch-Pruning, on one thread.

python bench/discovery_speed.py [--write docs/discovery.md] [--only TEXT] [--repeats 7]

Needs timm, transformers and torch-pruning==1.6.1 (G. Fang et al. 2023, "DepGraph", arXiv:2301.12900). Both
run in turns in one process on the same network; times are medians. Torch-Pruning is called as in its README:
`build_dependency`, then all groups of `Conv2d` and `Linear`. The language model is traced once in a new process.
"""

from __future__ import annotations

import argparse
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

MODELS = (
    "resnet50", "densenet121", "efficientnet_b0", "vit_base_patch16_224", "swin_tiny_patch4_window7_224",
    "convnext_tiny", "resnet18", "mobilenetv3_large_100", "regnetx_004", "hrnet_w18_small", "inception_v3", "vgg16_bn",
    "ghostnet_100", "mixer_s32_224", "deit_tiny_patch16_224", "dla34", "cspdarknet53", "maxvit_rmlp_pico_rw_256",
)  # fmt: skip
HEADS = (
    "network", "operators", "groups", "Sartor, ms", "Torch-Pruning, dependency graph, ms", "Torch-Pruning, groups, ms",
    "Torch-Pruning / Sartor",
)  # fmt: skip
TOKENS = 128


@dataclasses.dataclass(frozen=True)
class Row:
    """One network: operators and groups of Sartor's graph, and CPU milliseconds."""

    name: str
    operators: int
    groups: int
    ours: float
    build: float
    walk: float

    @property
    def ratio(self) -> float:
        """Time of Torch-Pruning over that of Sartor.

        >>> Row("a", 1, 1, 10.0, 50.0, 30.0).ratio
        8.0
        """
        return (self.build + self.walk) / self.ours


def cpu_ms(act: Callable[[], Any]) -> tuple[float, Any]:
    """(CPU milliseconds, result) of a function; garbage is collected first."""
    gc.collect()
    start = time.process_time()
    result = act()
    return 1e3 * (time.process_time() - start), result


def measured(name: str, repeats: int) -> Row:
    """Both in turns, with one round of warm-up."""
    import timm
    import torch
    import torch_pruning as tp
    from torch import nn

    from sartor.structure import trace

    model = timm.create_model(name).eval()
    x = torch.randn(1, *model.default_cfg["input_size"])

    def walk(graph: Any) -> int:
        return sum(1 for _ in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]))

    times: list[tuple[float, float, float]] = []
    for _ in range(repeats + 1):
        ours, graph = cpu_ms(lambda: trace(model, x))
        build, dependencies = cpu_ms(lambda: tp.DependencyGraph().build_dependency(model, x))
        times.append((ours, build, cpu_ms(lambda: walk(dependencies))[0]))  # noqa: B023
    return Row(name, len(graph.ops), len(graph.groups), *(median(t) for t in zip(*times[1:])))


def language_model() -> dict[str, Any]:
    """A Llama of the default configuration (7B) on the meta device: time of its trace, peak memory of this process."""
    import torch
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
    """Markdown: one line a network, and the median of the ratios."""
    from sartor.studies import Grid, markdown

    lines: list[Sequence[str]] = []
    for r in rows:
        numbers = (f"{r.ours:.1f}", f"{r.build:.1f}", f"{r.walk:.1f}", f"{r.ratio:.1f}")
        lines.append([r.name, str(r.operators), str(r.groups), *numbers])
    lines.append(["**median**", "", "", "", "", "", f"**{median(r.ratio for r in rows):.1f}**"])
    return markdown([Grid(HEADS, lines, left=1)])


def sentence(facts: Mapping[str, Any]) -> str:
    """The row of the language model as a sentence."""
    return (
        f"A Llama with {facts['parameters'] / 1e9:.1f} billion parameters on the meta device: {facts['operators']:,} "
        f"operators, {facts['groups']:,} groups in {facts['seconds']:.2f} CPU seconds, first trace of a new process; "
        f"the whole process, its libraries included, never holds more than {facts['mib']:.0f} MiB."
    )


def caption(environment: Mapping[str, Any]) -> str:
    """The machine and the versions."""
    versions = [f"{p} {environment['versions'][p]}" for p in ("torch", "timm") if environment["versions"].get(p)]
    where = ", ".join([environment["cpu"], *versions])
    return f"CPU milliseconds of one thread, medians, batch of one, torch-pruning 1.6.1. Machine: {where}."


def main() -> None:
    """Measure, print the table, and write it to the page of `--write`."""
    import torch

    from sartor.cli.markdown_block import MarkdownBlock
    from sartor.measure import environment

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="page with <!-- discovery-speed --> and <!-- /discovery-speed -->")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--repeats", type=int, default=7, help="turns of both sides on each network")
    parser.add_argument("--language-model", action="store_true", help="this alone, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.language_model:
        print(json.dumps(language_model()))
        return
    names = [name for name in MODELS if options.only in name]
    if not names or options.repeats < 1:
        parser.error(f"no network contains {options.only!r}" if not names else "--repeats: expected at least 1")
    page = None if options.write is None else MarkdownBlock(options.write, "discovery-speed")
    rows: list[Row] = []
    for name in names:
        rows.append(measured(name, options.repeats))
        print(f"{name}: {rows[-1].ours:.1f} ms, {rows[-1].ratio:.1f} times", file=sys.stderr, flush=True)
    alone = subprocess.run([sys.executable, __file__, "--language-model"], capture_output=True, text=True, check=True)
    body = f"{caption(environment())}\n\n{table(rows)}\n\n{sentence(json.loads(alone.stdout.splitlines()[-1]))}"
    print(body)
    if page is not None:
        page.fill(body)


if __name__ == "__main__":
    main()
