"""pyproject.toml declares what the package imports, and nothing else; its lower bounds can be installed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "sartor"
MODULE_NAMES = {
    "nvidia-ml-py": "pynvml",
    "pillow": "PIL",
    "pytest-xdist": "xdist",
    "scikit-learn": "sklearn",
    "segmentation-models-pytorch": "segmentation_models_pytorch",
}  # import name of a distribution, where it differs
TOOLS = {
    "jsonschema": "tests compare printed JSON with its schema",
    "mypy": "checks types",
    "pytest": "runs the tests",
    "pytest-xdist": "runs the tests on every core",
    "ruff": "lints and formats",
    "zensical": "builds the pages",
}
INDIRECT = {"onnxscript": "torch.onnx.export imports it"}


@cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirement(text: str) -> tuple[str, str, str]:
    """(distribution, extras, version specifier) of one requirement.

    >>> requirement("sartor[onnx,report]"), requirement("torch>=2.8")
    (('sartor', 'onnx,report', ''), ('torch', '', '>=2.8'))
    """
    match = re.fullmatch(r"([A-Za-z0-9._-]+?)(?:\[([^]]*)\])?\s*((?:[<>=!~].*)?)", text)
    assert match, text
    return match[1], match[2] or "", match[3]


def lists() -> dict[str, list[str]]:
    """The runtime dependencies under '', and those of every extra under its name."""
    return {"": project()["dependencies"], **project()["optional-dependencies"]}


def distributions(extra: str) -> set[str]:
    """What an extra installs, extras it refers to included."""
    names: set[str] = set()
    for text in lists()[extra]:
        name, extras, _ = requirement(text)
        if name == "sartor":
            for other in extras.split(","):
                names |= distributions(other)
        else:
            names.add(name)
    return names


DECLARED = sorted({name for extra in lists() for name in distributions(extra)})


def module_of(distribution: str) -> str:
    return MODULE_NAMES.get(distribution, distribution)


def imports(source: str) -> Iterator[str]:
    """First parts of all absolute imports, wherever they stand; `import_module("x.y")` included."""
    for node in ast.walk(ast.parse(source)):
        names: list[str | None] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func) and node.args:
            first = node.args[0]
            names = [first.value] if isinstance(first, ast.Constant) and isinstance(first.value, str) else []
        yield from (name.split(".")[0] for name in names if name)


@cache
def imported() -> dict[str, str]:
    """Every third-party module that the package imports, with one file that does."""
    found: dict[str, str] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for name in imports(path.read_text()):
            if name not in sys.stdlib_module_names and name != "sartor":
                found.setdefault(name, str(path.relative_to(ROOT)))
    return found


@pytest.mark.parametrize("distribution", [d for d in DECLARED if d not in TOOLS | INDIRECT])
def test_what_is_declared_is_imported(distribution: str) -> None:
    assert module_of(distribution) in imported(), f"nothing under src/ imports {distribution}"


def test_what_is_imported_is_declared() -> None:
    declared = {module_of(d) for d in DECLARED}
    missing = {name: file for name, file in imported().items() if name not in declared}
    assert not missing


def test_what_is_imported_without_a_guard_is_a_runtime_dependency() -> None:
    """Statements at the top level of a module that `import sartor` loads run in the smallest installation."""
    program = "import sys, sartor; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    optional = {module_of(d) for extra in lists() if extra for d in distributions(extra)}
    runtime = {module_of(d) for d in distributions("")}
    assert not (set(loaded) & set(imported()) & optional) - runtime


def test_the_exceptions_are_needed() -> None:
    assert set(TOOLS) | set(INDIRECT) <= set(DECLARED)
    assert not {module_of(d) for d in TOOLS | INDIRECT if d != "pytest"} & set(imported())
    assert set(MODULE_NAMES) <= set(DECLARED)


def test_an_error_about_a_missing_package_names_an_extra_that_installs_it() -> None:
    """`MissingExtra(package, extra, needed_for)` with two constants; and the same two of a registered target."""
    found = 0
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            if ast.unparse(node.func) == "MissingExtra":
                package, extra = node.args[0], node.args[1]
            else:
                by_name = {k.arg: k.value for k in node.keywords}
                if not {"package", "extra"} <= set(by_name):
                    continue
                package, extra = by_name["package"], by_name["extra"]
            if not isinstance(extra, ast.Constant):
                continue
            assert extra.value in lists(), f"{path}: no extra is called {extra.value}"
            if isinstance(package, ast.Constant):
                found += 1
                assert package.value in distributions(extra.value), f"{path}: {extra.value} lacks {package.value}"
    assert found >= 8


@pytest.mark.parametrize("extra", lists())
def test_every_requirement_has_a_lower_bound(extra: str) -> None:
    for text in lists()[extra]:
        name, _, specifier = requirement(text)
        assert name == "sartor" or re.fullmatch(r">=\d+(\.\d+)*", specifier), text


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    """`.ci/oldest --pins` prints one `==` pin for every distribution that the tests need."""
    printed = subprocess.run(
        [sys.executable, ROOT / ".ci" / "oldest", "--pins"], capture_output=True, text=True, check=True
    ).stdout.split()
    bounds = {f"{name}{specifier.replace('>=', '==')}" for name, _, specifier in map(requirement, _flat("test"))}
    assert set(printed) == bounds | {f"{n}{s.replace('>=', '==')}" for n, _, s in map(requirement, _flat(""))}


def _flat(extra: str) -> list[str]:
    """Requirements of an extra, those of extras it refers to included."""
    texts: list[str] = []
    for text in lists()[extra]:
        name, extras, _ = requirement(text)
        texts += [t for other in extras.split(",") for t in _flat(other)] if name == "sartor" else [text]
    return texts
