"""Every parser of Sartor as a function of one text, with texts that it accepts: for tests with garbled ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sartor.budget import parse_budget
from sartor.export.manifest import FileRow, Manifest
from sartor.importance.mixture import parse_mixture
from sartor.measure import parse_target
from sartor.recipes.registry import changed, find_recipe
from sartor.run.record import Record
from sartor.sources.spec import parse_spec
from sartor.structure import trace
from sartor.surgery import Edits, apply_edits, edits_for, probe
from sartor.testing.garbled import Grammar
from sartor.testing.plans import halves
from sartor.toml_file import read_toml
from sartor.types import Plan


@dataclass(frozen=True)
class Parser:
    """Reads one kind of text; raises an error of Sartor for every text that it does not accept."""

    parse: Callable[[str], Any]
    grammar: Grammar


class Stated(nn.Module):
    """A network that states a size, so its forward is rewritten as a program."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mid, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4 * 16, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of [n, 1, 6, 6]."""
        return self.head(self.mid(self.conv(x).relu().view(-1, 64)).relu())


def parsers(folder: Path) -> Mapping[str, Parser]:
    """Parser by what it reads.

    Args:
        folder: where files may be written that parsers read.
    """
    torch.manual_seed(0)
    model, example = Stated(), torch.randn(2, 1, 6, 6)
    graph = probe(model, trace(model, example))
    plan = halves(graph)
    edits = edits_for(model, graph, plan)
    files = {"plan.json": FileRow(bytes=3, sha256="0" * 64), "model.onnx": FileRow(bytes=5, sha256="1" * 64)}
    manifest = Manifest(graph="ab", plan="0" * 64, files=files).to_text()

    def in_file(read: Callable[[Path], Any], name: str) -> Callable[[str], Any]:
        def parse(text: str) -> Any:
            path = folder / name
            path.write_bytes(text.encode("utf-8", "surrogatepass"))
            return read(path)

        return parse

    def recipe(path: Path) -> Any:
        table = read_toml(path, "no recipe")
        base = table.pop("base", "l2")
        return changed(find_recipe(base if isinstance(base, str) else "l2"), table)

    def cut(text: str) -> nn.Module:
        return apply_edits(model, Edits.from_json(text))

    schemes = ("cifar10", "imagefolder", "npz", "digits", "timm", "torchvision")
    specs = ("timm:resnet18", "models/net.py:build", "my.package:factory?width=8&deep=true", "npz:a/b.npz?mean=0.5,0.4")
    targets = ("onnxruntime-cpu", "onnxruntime-cpu:threads=1,batch=8,dtype=int8", "eager-cpu:threads=2", "compile-cpu")
    recipes = (
        'base = "taylor"\n"allocate.floor" = 0.1\n"heal.fine-tune.epochs" = 3\n',
        '[score]\nkind = "criterion"\ncriterion = "lamp"\n[allocate]\nkind = "uniform"\nround_to = 8\n',
    )
    return {
        "budget": Parser(parse_budget, Grammar(
            ("macs<=50%, latency<=30% @ onnxruntime-cpu, drop<=0.5", "params<=2M", "latency<=5ms @ eager-cpu:threads=1",
             "bytes<=4MB,memory<=1GiB"),
            ("macs", "params", "latency", "drop", "k", "M", "GiB", "ms", "us", "s"))),
        "reference of a model or of data": Parser(
            lambda text: parse_spec(text, schemes, "timm:resnet18"), Grammar(specs, ("?", "&", "=", *schemes))),
        "target": Parser(parse_target, Grammar(targets, ("threads", "batch", "dtype", "float16", "onnx", "cuda"))),
        "mixture of criteria": Parser(
            parse_mixture, Grammar(("0.5*taylor + 0.5*fpgm", "flap*fpgm", "l2"), ("taylor", "+", "*", "l1"))),
        "recipe": Parser(in_file(recipe, "recipe.toml"), Grammar(recipes, (
            "score", "cut", "allocate", "heal", "kind", "gates", "search", "fine-tune", "ridge", "within", "when"))),
        "plan": Parser(Plan.from_json, Grammar((plan.to_json(),), ("keep", "fibres", "ranking", "removed_blocks"))),
        "edits and programs": Parser(cut, Grammar((edits.to_json(), edits.to_json()), (
            "aten.view.default", "aten.load_library", "aten::from_file", "size", "of", "times", "by", "inf", "forward",
            "__class__", "state_dict", "torch.ops", "aten.full.default", "aten.empty.memory_format"))),
        "manifest": Parser(in_file(Manifest.read, "manifest.json"), Grammar((manifest,), ("files", "sha256", "bytes"))),
        "result": Parser(_result, Grammar((_RESULT,), ("budget", "status", "met", "groups", "trail", "latency"))),
    }  # fmt: skip


def _result(text: str) -> Record:
    from sartor.json_file import parse_json

    raw = parse_json(text, "result")
    return Record.from_result(raw if isinstance(raw, dict) else {})


_RESULT = json.dumps({
    "format": 2, "sartor": "0", "run": None, "model": "Net", "recipe": "l2", "status": "met",
    "budget": [{"metric": "macs", "target": None, "limit": 0.5, "relative": True, "original": 10.0, "value": 5.0,
                "status": "met"}],
    "quality": {"original": 90.0, "metric": "accuracy"},
    "proof": {"passed": True, "max_relative_error": 0.0, "groups": 1, "mixing_groups": 0, "tolerance": 1e-4},
    "counted": {"macs": {"original": 10, "fitted": 5}}, "latency": [], "asked": {"budget": "macs<=50%", "recipe": {}},
    "groups": [], "frozen": [], "training": [], "trail": [{"macs_share": 0.5, "ratio": 0.7}], "notes": ["a note"],
})  # fmt: skip
__all__ = ["Parser", "Stated", "parsers"]
