"""Limits on the source itself: the pipeline is composed in one place, functions are narrow, files are short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "sartor"
STAGES = "run/stages.py"
MOST_PARAMETERS, MOST_WIDE_FUNCTIONS, MOST_LINES = 6, 12, 450
HOMES = {  # what only the stages call -> the room that defines it; `testing` proves cuts for tests of others
    "sartor.surgery.prove": ("surgery", "testing"),
    "sartor.surgery.proof.prove": ("surgery", "testing"),
    "sartor.repair.repair_step.heal": ("repair",),
    "sartor.repair.heal": ("repair",),
    "sartor.allocate.ALLOCATORS": ("allocate", "cli"),  # the command line lists them
    "sartor.allocate.registry.ALLOCATORS": ("allocate",),
    "sartor.allocate.allocator_of": ("allocate",),
}


def sources() -> list[Path]:
    """Every Python file that is shipped or that makes a table."""
    return sorted([*SOURCE.rglob("*.py"), *(ROOT / "bench").rglob("*.py")])


def name(path: Path) -> str:
    return str(path.relative_to(SOURCE) if path.is_relative_to(SOURCE) else path.relative_to(ROOT))


def imported(tree: ast.AST) -> Iterator[str]:
    """Absolute names of everything that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def trespasses(path: Path) -> list[str]:
    """What a file imports although only the stages may call it."""
    allowed = {what for what, rooms in HOMES.items() if name(path).split("/")[0] in rooms}
    return [n for n in imported(ast.parse(path.read_text())) if n in HOMES and n not in allowed]


@pytest.mark.parametrize("path", [p for p in sources() if name(p) not in (STAGES, "__init__.py")], ids=name)
def test_prove_allocate_and_heal_are_called_in_the_stages_only(path: Path) -> None:
    found = trespasses(path)
    if name(path) == "run/latency_search.py":  # it asks the registry whether an allocator reads tables
        found = [n for n in found if not n.endswith("allocator_of")]
    assert not found, f"{name(path)} imports {found}; compose sartor.run.stages instead"


def test_the_stages_call_all_three() -> None:
    names = set(imported(ast.parse((SOURCE / STAGES).read_text())))
    assert {"sartor.surgery.prove", "sartor.repair.repair_step.heal", "sartor.allocate.allocator_of"} <= names


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    a = function.args
    return len([x for x in (*a.posonlyargs, *a.args, *a.kwonlyargs) if x.arg not in ("self", "cls")])


def test_few_functions_take_many_parameters() -> None:
    wide = [
        f"{name(path)}:{node.lineno} {node.name} ({parameters(node)})"
        for path in [*sources(), *sorted((ROOT / "tests").rglob("*.py"))]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and parameters(node) > MOST_PARAMETERS
    ]
    assert len(wide) <= MOST_WIDE_FUNCTIONS, "\n".join(wide)


@pytest.mark.parametrize("path", [*sources(), *sorted((ROOT / "tests").rglob("*.py"))], ids=name)
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES
