"""Latency limits: NVIDIA ModelOpt's FastNAS and `sartor bench latency` on ResNet-18, without training.

    pip install nvidia-modelopt==0.47.0 torchprofile==0.0.4 requests huggingface_hub \\
        onnxconverter-common onnx-graphsurgeon onnxslim lief      # beside sartor[onnx] and torchvision
    python bench/modelopt_peer.py [--keep FOLDER] [--write docs/latency.md]

`nvidia-modelopt` imports the other packages of that line without declaring them, or declares them only in an extra
that pins another version of ONNX Runtime.

FastNAS accepts `{"latency": "60%"}` if `config["deployment"]` names a runtime; its manual lists FLOPs and parameters
only. One of its runtimes runs on a CPU: ONNX Runtime. There it times the original, then the smallest, the middle and
the largest network, and interpolates between them by FLOPs; the network that it returns is not timed again. By default
its session uses every core; here it uses the threads of `SEARCH_TARGET`, so that it times on the target of its limit.

Its score here is minus the mean absolute distance to the original's outputs on random images, so that no data set is
needed. Batch norms are calibrated on 50 batches of random images, as many as its queue requires. These images are
smaller than the network's input, and only the score uses them. Scores do not depend on the limit, so all searches share
them through its checkpoint, and the time of the first search includes them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

FILE = Path(__file__).parent / "latency.toml"
NETWORK = "ResNet-18"
SEARCH_TARGET = "onnxruntime-cpu:threads=1"  # of the limits of FastNAS
TARGETS = (SEARCH_TARGET, "eager-cpu:threads=1")
TOOLS = ("Sartor", "ModelOpt")
IMAGES = {"batches": 50, "shape": (1, 3, 64, 64)}
SESSIONS = 5
HEADS = (
    "measured on", "latency limit", "tool", "target of the search", "measured latency", "95 % interval",
    "measured / limit", "MACs kept", "latency according to the tool", "seconds",
)  # fmt: skip


def network(seed: int) -> tuple[Any, Any]:
    """ResNet-18 of bench/latency.toml with the weights of a seed, and its input."""
    from sartor.studies.latency_study import read_cases

    (chosen,) = (n for n in read_cases(FILE)[2] if n.name == NETWORK)
    return chosen.build(seed)


def fitted(target: str, limit: float, seed: int) -> dict[str, Any]:
    """Sartor's plan as `sartor bench latency` makes it: {"plan", "says" (ratio in the search), "seconds"}."""
    from sartor.recipes import find_recipe
    from sartor.run.context import Context
    from sartor.studies.latency_study import fit_to_latency
    from sartor.types import Limit

    bound = Limit("latency", limit, True, target)
    row = fit_to_latency(*network(seed), bound, find_recipe("l1"), Context(seed=seed))
    if row["plan"] is None:
        raise RuntimeError(row["floor"])
    return {"plan": row["plan"].to_json(), "says": row["ratio"], "seconds": row["seconds"]}


def searched(limit: float, seed: int, file: str, scores: str) -> dict[str, Any]:
    """FastNAS under its latency constraint; the network goes to a file of `modelopt.torch.opt.save`.

    Args:
        scores: its checkpoint; scores that it holds from the search for another limit are used.

    Returns:
        {"says" (its estimate, share of the original), "seconds", "timed_ms" (latencies that it measured, in this order:
        original, smallest, middle, largest)}.
    """
    import modelopt.torch.opt as mto
    import modelopt.torch.prune as mtp
    import torch

    torch.set_num_threads(1)
    start = time.perf_counter()
    model, example = network(seed)
    timed = _client()
    torch.manual_seed(seed)
    batches = [(torch.randn(IMAGES["shape"]),) for _ in range(int(IMAGES["batches"]))]
    _calibrate(model, batches)
    with torch.no_grad():
        expected = [model(x) for (x,) in batches[:4]]

    def score(other: Any) -> float:
        other.eval()
        with torch.no_grad():
            return -sum(float((other(x) - y).abs().mean()) for (x,), y in zip(batches, expected)) / len(expected)

    smaller, state = mtp.prune(
        model,
        mode="fastnas",
        constraints={"latency": f"{100 * limit:g}%"},
        dummy_input=example,
        config={
            "data_loader": batches, "score_func": score, "verbose": False, "checkpoint": scores,
            "deployment": {"runtime": "ORT", "accelerator": "CPU", "precision": "fp32", "onnx_opset": "13"},
        },
    )  # fmt: skip
    mto.save(smaller, file)
    best = state["best"]
    if not best["is_satisfied"]:
        raise RuntimeError(f"no network that it estimates at {limit:.0%} of the latency")
    return {
        "says": best["constraints"]["latency"] / timed[0],
        "seconds": time.perf_counter() - start,
        "timed_ms": timed,
    }


def _client() -> list[float]:
    """Its ONNX Runtime client with the threads of SEARCH_TARGET; returns a list that receives its latencies, in ms."""
    import onnxruntime
    from modelopt.torch._deploy._runtime import RuntimeRegistry
    from modelopt.torch._deploy._runtime.ort_client import ORTLocalClient as Theirs

    from sartor.measure import parse_target

    timed: list[float] = []

    class ORTLocalClient(Theirs):  # `compile` looks for this name
        def _init_session(self, compiled_model: bytes, session_options: Any = None) -> Any:
            session_options = session_options or onnxruntime.SessionOptions()
            session_options.intra_op_num_threads = parse_target(SEARCH_TARGET).threads
            return super()._init_session(compiled_model, session_options)

        def _profile(self, *args: Any, **named: Any) -> Any:
            milliseconds, detail = super()._profile(*args, **named)
            timed.append(float(milliseconds))
            return milliseconds, detail

    RuntimeRegistry.register("ORT")(ORTLocalClient)
    return timed


def _calibrate(model: Any, batches: Sequence[Any]) -> None:
    """Batch-norm statistics of these batches, in place, as FastNAS takes them of every network it scores."""
    import torch

    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None
    with torch.no_grad():
        model.train()
        for (x,) in batches:
            model(x)
    model.eval()
    for m, momentum in zip(norms, before):
        m.momentum = momentum


def measured(target: str, plan: str, file: str, seed: int) -> dict[str, Any]:
    """Tool -> {"measured" (share of the original's latency), "interval", "macs" (share)}; sessions of both in turns."""
    import modelopt.torch.opt as mto

    from sartor.cost import count
    from sartor.measure import compare_afresh, prepare
    from sartor.structure import trace
    from sartor.surgery import cut, probe
    from sartor.types import Effort, Plan, wide_interval

    model, example = network(seed)
    graph = probe(model, trace(model, example))
    theirs = mto.restore(network(seed)[0], file).eval()
    nets = {"Sartor": cut(model, graph, Plan.from_json(plan)), "ModelOpt": theirs}
    ratios: dict[str, list[Sequence[float]]] = {tool: [] for tool in TOOLS}
    for i in range(SESSIONS):
        for tool in TOOLS if i % 2 == 0 else reversed(TOOLS):
            comparison = compare_afresh(
                lambda: prepare(model, example, target),
                lambda tool=tool: prepare(nets[tool], example, target),  # type: ignore[misc]
                Effort(sessions=1, precision=0.01, min_seconds=1.0, max_seconds=3.0),
            )  # fmt: skip
            ratios[tool].append(comparison.ratios)
    least = min(len(r) for one in ratios.values() for r in one)
    pooled = {tool: [x for r in one for x in r[:least]] for tool, one in ratios.items()}
    macs = count(graph).macs
    return {
        tool: {
            "measured": median(pooled[tool]),
            "interval": list(wide_interval(pooled[tool], SESSIONS)),
            "macs": count(trace(net, example)).macs / macs,
        }
        for tool, net in nets.items()
    }


def kept(file: Path, make: Callable[[], dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The content of a JSON file; a missing file is made by a new process, {"why"} if that fails."""
    from sartor.testing.isolation import isolated

    if not file.is_file():
        print(file.stem, file=sys.stderr, flush=True)
        row, why = isolated(make, seconds=seconds, fresh=True)
        file.write_text(json.dumps(row or {"why": why}) + "\n", encoding="utf-8")
    return dict(json.loads(file.read_text(encoding="utf-8")))


def case(target: str, limit: float, seed: int, folder: Path, seconds: float) -> list[dict[str, Any]]:
    """Both tools at one limit: two rows of the table."""
    name, where = f"{100 * limit:g}", target.split(":")[0]
    weights, scores = (str(folder / file) for file in (f"modelopt-{name}.pth", "scores.pth"))
    search, fit = partial(searched, limit, seed, weights, scores), partial(fitted, target, limit, seed)
    by_tool = {
        "Sartor": kept(folder / f"sartor-{where}-{name}.json", fit, seconds),
        "ModelOpt": kept(folder / f"modelopt-{name}.json", search, seconds),
    }
    rows = [
        {
            "target": target,
            "limit": limit,
            "tool": t,
            "asked": SEARCH_TARGET if t == "ModelOpt" else target,
            **by_tool[t],
        }
        for t in TOOLS
    ]
    if not any("why" in row for row in rows):
        make = partial(measured, target, by_tool["Sartor"]["plan"], weights, seed)
        again = kept(folder / f"measured-{where}-{name}.json", make, seconds)
        rows = [{**row, **again.get(row["tool"], again)} for row in rows]
    return rows


def cells(row: Mapping[str, Any]) -> list[str]:
    """One line of the table."""
    start = [row["target"], f"{100 * row['limit']:g} %", row["tool"], row["asked"]]
    if row.get("measured") is None:
        return [*start, "not reached", "", "", "", "", ""]
    low, high = row["interval"]
    return [
        *start, f"{100 * row['measured']:.1f} %", f"{100 * low:.1f}–{100 * high:.1f} %",
        f"{row['measured'] / row['limit']:.3f}", f"{100 * row['macs']:.1f} %", f"{100 * row['says']:.1f} %",
        f"{row['seconds']:.0f}",
    ]  # fmt: skip


def body(rows: Sequence[Mapping[str, Any]], environment: Mapping[str, Any], version: str) -> str:
    """Markdown: the machine, the table, a summary by tool and target, and the message of each failure."""
    from sartor.studies import Grid, markdown
    from sartor.studies.latency_study import WINDOW

    versions = ", ".join(f"{k} {v}" for k, v in environment["versions"].items() if k in ("torch", "onnxruntime"))
    sums = []
    for target, tool in dict.fromkeys((r["target"], r["tool"]) for r in rows):
        quotients = [
            r["measured"] / r["limit"] for r in rows if (r["target"], r["tool"]) == (target, tool) and r.get("measured")
        ]
        if quotients:
            within = sum(WINDOW[0] <= q <= WINDOW[1] for q in quotients)
            sums.append(
                f"- {tool} on {target}: {within} of {len(quotients)} within {WINDOW[0]}–{WINDOW[1]} of the limit; "
                f"from {min(quotients):.3f} to {max(quotients):.3f}."
            )
    timed = {r["limit"]: r["timed_ms"] for r in rows if r.get("timed_ms")}
    pairs = "; ".join(f"{t[0]:.1f} and {t[3]:.1f} ms" for t in timed.values() if len(t) > 3)
    failed = dict.fromkeys(
        f"- {r['tool']}, {r['target']}, {100 * r['limit']:g} %: {r['why']}" for r in rows if "why" in r
    )
    parts = [
        f"Measured with nvidia-modelopt {version}, {versions} on {environment['cpu']}.",
        markdown([Grid(HEADS, [cells(r) for r in rows])]),
        "\n".join(sums),
        f"ModelOpt times the original twice in a search, once for the limit and once for its estimate: {pairs}."
        if pairs
        else "",
        "\n".join(failed),
    ]
    return "\n\n".join(p for p in parts if p)


def version() -> str:
    """The version of ModelOpt.

    Raises:
        SartorError: it or a package that it needs is not installed.
    """
    from sartor.errors import SartorError

    try:
        import modelopt.torch._deploy  # noqa: F401  # its ONNX Runtime client
        import torchprofile  # noqa: F401
    except ImportError as e:
        raise SartorError(f"this comparison needs another tool; install it as {Path(__file__).name} says ({e})") from e
    return importlib.metadata.version("nvidia-modelopt")


def main() -> None:
    """Search, fit, measure, print the table, and write it to the page of `--write`."""
    from sartor.cli.markdown_block import MarkdownBlock
    from sartor.measure import environment, parse_target
    from sartor.units import parse_shares

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="page with <!-- modelopt --> and <!-- /modelopt -->")
    parser.add_argument("--keep", type=Path, help="folder; files that it holds are not made again")
    parser.add_argument("--target", action="append", help="where both are measured; repeatable")
    parser.add_argument("--limits", default="80,60,40", help="percent of the original's latency")
    parser.add_argument("--seconds", type=float, default=3600.0, help="for one search, fit or measurement, at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    targets, limits = options.target or TARGETS, parse_shares(options.limits)
    for target in targets:
        parse_target(target)
    page, theirs = None if options.write is None else MarkdownBlock(options.write, "modelopt"), version()
    with tempfile.TemporaryDirectory() as made:
        folder = options.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [r for t in targets for x in limits for r in case(t, x, options.seed, folder, options.seconds)]
    text = body(rows, environment(), theirs)
    print(text)
    if page is not None:
        page.fill(text)


if __name__ == "__main__":
    main()
