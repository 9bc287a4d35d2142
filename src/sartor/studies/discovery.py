"""`sartor bench discovery`: which axes of every network family are understood, each network in a process of its own."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import torch

from sartor.errors import BadInput, UnknownName
from sartor.export import export_pt2
from sartor.measure import environment
from sartor.studies.examination import examine, exported
from sartor.studies.grid import Grid, Part, bullets
from sartor.studies.registry import Option, Row, Study, study
from sartor.studies.study_run import StudyRun
from sartor.testing import families
from sartor.testing.isolation import isolated

SETS = ("small", "timm", "torchvision", "transformers", "graph", "field")
PACKAGES = {
    "timm": "timm",
    "torchvision": "torchvision",
    "transformers": "transformers",
    "graph": "torch_geometric",
    "field": "transformers",
}
HEADS = (
    "network", "parameters", "axes found (8 or more units)", "axes that can be cut",
    "share of parameters on a found axis", "cut network runs", "equals the zero-masked original",
    "as general", "trains one step", "exports", "discovery, CPU seconds",
)  # fmt: skip
Build = Callable[[], Any]


@study("discovery", marker="discovery", key=("set", "name"), source="sartor")
@dataclass(frozen=True, kw_only=True)
class Discovery(Study):
    """Find every axis of one small variant of each family, cut shares of all, run, prove, train, export."""

    sets: Annotated[list[str] | None, Option(f"Of {', '.join(SETS)}; repeatable (small).", name="--set")] = None
    export: Annotated[bool, Option("Also export every cut network to .pt2 and check it.", name="--export")] = False
    seconds: Annotated[float, Option("For one network, at most.", minimum=1.0)] = 300.0
    memory: Annotated[float, Option("GiB for one network, at most.", minimum=0.5)] = 16.0

    def rows(self, run: StudyRun) -> Iterator[Row]:
        """One row a network. A kept row is completed if an export is asked for and it has none."""
        networks = list(self._networks(run))
        if not networks:
            raise BadInput(f"--only: no network of these sets has {run.only!r} in its name")
        for i, (group, name, build) in enumerate(networks):
            row = run.store.get({"set": group, "name": name})
            if row is None or self._lacks_export(row):
                run.listener.tell(f"{group} {name}", i / len(networks))
                row = run.store.add({"set": group, "name": name, **self._fields(build, row, run.seed)})
            yield row
        run.listener.tell(f"{len(networks)} networks", 1.0)

    def _networks(self, run: StudyRun) -> Iterator[tuple[str, str, Build]]:
        known = families.family_sets()
        for name in self.sets or ["small"]:
            if name not in known:
                raise UnknownName("set of networks", name, known)
            yield from ((name, n, build) for n, build in known[name]().items() if run.selects(n))

    def _lacks_export(self, row: Mapping[str, Any]) -> bool:
        return self.export and bool(row.get("realised")) and row.get("exports") is None

    def _fields(self, build: Build, old: Mapping[str, Any] | None, seed: int) -> Mapping[str, Any]:
        """The fields of a row, made in another process; of an old row only its export is made."""
        make = partial(_examined, build, self.export, seed) if old is None else partial(_exported_alone, build, seed)
        fields, reason = isolated(make, seconds=self.seconds, memory=int(self.memory * 2**30))
        if old is None:
            return fields or {"discovered": False, "why": {"process": reason}}
        new = fields or {"exports": False, "why": {"export": reason}}
        return {**old, **new, "why": {**old.get("why", {}), **new["why"]}}

    def answer(self, rows: Sequence[Row], run: StudyRun) -> dict[str, Any]:
        """Rows, and the versions of the packages that the networks come from."""
        sets = {r["set"] for r in rows}
        libraries = {package: metadata.version(package) for s, package in PACKAGES.items() if s in sets}
        return {"rows": list(rows), "libraries": libraries, "environment": environment()}

    def parts(self, answer: Mapping[str, Any]) -> Sequence[Part]:
        """A summary by set, a table of every network, and the message of every failure."""
        rows: Sequence[Row] = answer["rows"]
        facts = answer.get("environment") or {}
        torch_version = (facts.get("versions") or {}).get("torch")
        versions = [f"{p} {v}" for p, v in {"torch": torch_version, **(answer.get("libraries") or {})}.items() if v]
        parts: list[Part] = [
            f"Measured with {', '.join(versions)} on {facts.get('cpu', 'a CPU')}, one thread." if versions else "",
            _summary(rows),
        ]
        for name, of_set in by_set(rows).items():
            parts += [f"## {name}", Grid(HEADS, [cells(r) for r in of_set])]
            failed = [f"`{r['name']}`, {stage}: {why}" for r in of_set for stage, why in r.get("why", {}).items()]
            failed += [
                f"`{r['name']}`, as general, {situation}: {why}"
                for r in of_set
                for situation, why in ((r.get("general") or {}).get("failed") or {}).items()
            ]
            parts += ["What failed or was not cut, and why:", bullets(failed)] if failed else []
        return parts


def totals(rows: Sequence[Row]) -> dict[str, Any]:
    """Counts over the networks of a set.

    Returns:
        {"models", "discovered", "groups", "realised", "cut" (models with an axis that can be cut), "run", "proved"
        (models with a group that can be compared exactly), "exact", "trained", "exports" (models whose export was
        tried), "exported", "generality" (models that were tried at other sizes), "general" (those as general as
        the original), "named" (those, and those where what is fixed was named before the cut), "covered" (models with
        more than 99 % of their parameters on a found axis)}.
    """
    cut = [r for r in rows if r.get("realised")]
    return {
        "models": len(rows),
        "discovered": sum(bool(r.get("discovered")) for r in rows),
        "groups": sum(r.get("groups") or 0 for r in rows),
        "realised": sum(r.get("realised") or 0 for r in rows),
        "cut": len(cut),
        "run": sum(bool(r.get("runs") and r.get("shapes")) for r in cut),
        "proved": sum(r.get("exact") is not None for r in cut),
        "exact": sum(r.get("exact") is True for r in cut),
        "trained": sum(bool(r.get("trains")) for r in cut),
        "exports": sum(r.get("exports") is not None for r in cut),
        "exported": sum(r.get("exports") is True for r in cut),
        "generality": sum(bool(r.get("general")) for r in cut),
        "general": sum(is_general(r) for r in cut),
        "named": sum(is_general(r) or bool((r.get("general") or {}).get("fixed")) for r in cut),
        "covered": sum((r.get("coverage") or 0) > 0.99 for r in rows),
    }


def by_set(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of every set, in order."""
    sets: dict[str, list[Row]] = {}
    for r in rows:
        sets.setdefault(r["set"], []).append(r)
    return sets


def cells(row: Row) -> list[str]:
    """The cells of one network, as many as HEADS."""
    if not row.get("discovered"):
        return [row["name"], *[""] * (len(HEADS) - 1)]
    cut = bool(row.get("realised"))
    return [
        row["name"], f"{row['params']:,}", str(row["groups"]), str(row["realised"]), f"{100 * row['coverage']:.1f} %",
        _yes_no(row["runs"] and row["shapes"]) if cut else "", _yes_no(row["exact"]) if cut else "",
        general_cell(row), _yes_no(row["trains"]) if cut else "", _yes_no(row["exports"]) if cut else "",
        f"{row['seconds']:.2f}",
    ]  # fmt: skip


def is_general(row: Mapping[str, Any]) -> bool:
    """Whether the cut network took everything that the original takes, with equal results wherever there are some."""
    general = row.get("general")
    return general is not None and bool(general) and not general["failed"]


def general_cell(row: Mapping[str, Any]) -> str:
    """Situations that the cut network takes of those that the original takes, and what is fixed."""
    general = row.get("general")
    if not general:
        return ""
    good = general["equal"] + general["not_compared"]
    only = f" ({general['not_compared']} without a reference)" if general["not_compared"] else ""
    fixed = f"; fixed: {'; '.join(general['fixed'][:2])}" if general["fixed"] else ""
    return f"{good} of {general['taken']}{only}{fixed}"


def _summary(rows: Sequence[Row]) -> Grid:
    with_exports = any(r.get("exports") is not None for r in rows)
    lines = []
    for name, of_set in by_set(rows).items():
        t = totals(of_set)
        lines.append([
            name, str(t["models"]), str(t["discovered"]), str(t["groups"]), str(t["realised"]),
            f"{t['run']} of {t['cut']}", f"{t['exact']} of {t['proved']}",
            f"{t['general']} of {t['generality']}", f"{t['trained']} of {t['cut']}",
            *([f"{t['exported']} of {t['exports']}"] if with_exports else []), f"{t['covered']} of {t['models']}",
        ])  # fmt: skip
    heads = [
        "set", "models", "models traced", "axes found (8 or more units)", "axes that can be cut", "cut models that run",
        "cut models equal to the zero-masked original", "cut models as general as the original",
        "cut models that train",
        *(["cut models that export"] if with_exports else []),
        "models with over 99 % of their parameters on a found axis",
    ]  # fmt: skip
    return Grid(heads, lines)


def _yes_no(value: bool | None) -> str:
    return "–" if value is None else "yes" if value else "NO"


def _examined(build: Build, export: bool, seed: int) -> dict[str, Any]:
    """Runs in another process."""
    return examine(*_built(build, seed), exporter=_checked_export if export else None, seed=seed)


def _exported_alone(build: Build, seed: int) -> dict[str, Any]:
    """Runs in another process."""
    return exported(*_built(build, seed), _checked_export, seed=seed)


def _built(build: Build, seed: int) -> tuple[Any, Any]:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model, example = build()
    return families.settled_(model.eval(), seed), example


def _checked_export(model: Any, example: Any) -> None:
    """Export to .pt2 and compare with the module at two batch sizes."""
    with tempfile.TemporaryDirectory() as folder:
        export_pt2(model, example, Path(folder) / "cut.pt2", check=(1, 3))
