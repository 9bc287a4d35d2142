"""Imports point down only: the source is read, lazy imports included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "sartor"
ROWS = (
    ("cli", "api", "report"),
    ("studies",),
    ("recipes", "run"),
    ("train", "sources", "analysis"),
    ("sparse",),
    ("surgery", "repair", "export"),
    ("learn",),
    ("allocate", "schedule"),
    ("importance", "cost", "measure"),
    ("activations",),
    ("structure",),
    (
        "types", "budget", "errors", "registry", "units", "seed", "borrow", "version", "lazy_names", "torch_internals",
        "toml_file", "example_input", "wrappers", "json_file", "folder_lock",
    ),
)  # fmt: skip
ROW = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
TOP = "sartor"  # sartor/__init__.py and sartor/__main__.py
TESTING = ROW["surgery"]  # what others test their own methods with cuts and proves


def imported(source: str, module: str, *, package: bool) -> Iterator[str]:
    """Absolute names of everything a module imports, wherever the statement stands."""
    home = module.split(".") if package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(
                [*home[: len(home) - node.level + 1], *filter(None, [node.module])]
                if node.level
                else [node.module or ""]
            )
            yield from (f"{base}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func) and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def room_of(name: str) -> str | None:
    """The room of an absolute name; None outside of the package."""
    parts = name.split(".")
    if parts[0] != TOP:
        return None
    return parts[1] if len(parts) > 1 and (parts[1] in ROW or parts[1] == "testing") else TOP


def refusal(importer: str, imported_room: str) -> str | None:
    """Why one room may not import another, or None."""
    if importer == imported_room:
        return None
    if imported_room == "testing":
        return None if importer == "studies" else "only tests and studies import testing"
    if importer == TOP:
        return None
    if imported_room == TOP:
        return None if importer == "cli" else "the package itself stands above every room but cli"
    row = TESTING if importer == "testing" else ROW[importer]
    if ROW[imported_room] < row:
        return "the arrow points up"
    return None


def files() -> list[tuple[str, Path]]:
    """(module, file) of the whole package."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = (TOP, *path.relative_to(SOURCE).with_suffix("").parts)
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def arrows() -> Iterator[tuple[str, str, str]]:
    """(file, room, imported room) for every import from one room into another."""
    for module, path in files():
        here = room_of(module) or TOP
        for name in imported(path.read_text(), module, package=path.name == "__init__.py"):
            there = room_of(name)
            if there is not None and there != here:
                yield str(path.relative_to(SOURCE)), here, there


def test_arrows_point_down() -> None:
    wrong = [f"{file}: {a} -> {b}: {why}" for file, a, b in arrows() if (why := refusal(a, b))]
    assert not wrong, "\n".join(wrong)


def test_rooms_do_not_run_in_circles() -> None:
    """Rooms of one row may know each other, in one direction."""
    graph: dict[str, set[str]] = {}
    for _, a, b in arrows():
        if b != TOP:
            graph.setdefault(a, set()).add(b)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as e:
        pytest.fail(f"rooms import one another in a circle: {' -> '.join(e.args[1])}")


def test_every_room_has_its_row() -> None:
    rooms = {
        p.stem for p in SOURCE.iterdir() if (p.suffix == ".py" or any(p.glob("*.py"))) and not p.name.startswith("__")
    }
    assert rooms <= {*ROW, "testing"}, "a new room needs a row in ROWS"


def test_the_reader_sees_known_arrows() -> None:
    assert ("budget.py", "budget", "types") in set(arrows())
    assert ("structure/example.py", "structure", "errors") in set(arrows())


@pytest.mark.parametrize(
    ("source", "package", "room"),
    [
        ("import sartor.run", False, "run"),
        ("from sartor.run.loop import fit", False, "run"),
        ("from sartor import run", False, "run"),
        ("from sartor import fit", False, TOP),
        ("from ..run import loop", False, "run"),
        ("from .. import run", False, "run"),
        ("from ..run import loop", True, "run"),
        ("def f():\n    if True:\n        from sartor.cli import main", False, "cli"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import sartor.report.html", False, "report"),
        ("import importlib\nimportlib.import_module('sartor.cli.demo')", False, "cli"),
    ],
)
def test_the_reader_sees_every_way_to_import(source: str, package: bool, room: str) -> None:
    module = "sartor.cost" if package else "sartor.cost.count"
    assert room in {room_of(n) for n in imported(source, module, package=package)}
    assert refusal("cost", room)


def test_what_is_allowed_and_what_is_not() -> None:
    allowed = [
        ("cli", "report"), ("run", "train"), ("cost", "structure"), ("testing", "surgery"), ("studies", "testing"),
    ]  # fmt: skip
    refused = [
        ("report", "testing"),
        ("cli", "testing"),
        ("structure", "cost"),
        ("testing", "run"),
        ("types", "structure"),
        ("run", TOP),
    ]
    assert [refusal(*pair) for pair in allowed] == [None] * len(allowed)
    assert all(refusal(*pair) for pair in refused)
