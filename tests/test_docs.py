"""Code in the README and the docs runs as it stands there.

A python block after the line `<!-- run -->` is executed, all blocks of one page in one namespace, in an empty folder.
Every other python block has to be Python at least.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TEXTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "bench/README.md")
PAGES = [*(ROOT / text for text in TEXTS), *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(?P<mark><!-- run -->\n)?```(?:python|py)[^\n]*\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)[^)]*\)")


def blocks(text: str) -> list[tuple[int, bool, str]]:
    """(line of the first statement, to be run, code) of every python block."""
    found = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        found.append((line, match["mark"] is not None, match["code"]))
    return found


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def compiled(page: Path, line: int, code: str) -> Any:
    """Code whose errors point into the page; `from __future__` of this file does not apply to it."""
    return compile("\n" * (line - 1) + code, str(page), "exec", dont_inherit=True)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_blocks_are_python(page: Path) -> None:
    for line, _, code in blocks(page.read_text()):
        compiled(page, line, code)


@pytest.fixture
def own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page registers is forgotten after the test."""
    from sartor.analysis import PROBES
    from sartor.importance import CRITERIA
    from sartor.recipes import RECIPES
    from sartor.studies import STUDIES
    from sartor.testing.workloads import WORKLOADS

    for registry in (CRITERIA, PROBES, RECIPES, STUDIES, WORKLOADS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.mark.usefixtures("own_registries")
@pytest.mark.parametrize("page", [p for p in PAGES if any(run for _, run, _ in blocks(p.read_text()))], ids=name)
def test_marked_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for line, run, code in blocks(page.read_text()):
        if run:
            exec(compiled(page, line, code), namespace)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not missing


def test_the_start_page_lists_every_page() -> None:
    start = ROOT / "docs" / "index.md"
    listed = {(start.parent / link).resolve() for link in LINK.findall(start.read_text())}
    missing = [name(p) for p in sorted((ROOT / "docs").rglob("*.md")) if p != start and p.resolve() not in listed]
    assert not missing


def test_every_make_target_in_a_page_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {target for page in PAGES for target in re.findall(r"`make ([a-z-]+)`", page.read_text())}
    assert named and named <= targets


def test_the_readme_is_what_the_machinery_reads() -> None:
    text = (ROOT / "README.md").read_text()
    assert any(run for _, run, _ in blocks(text))
    assert text.index("<!-- measured -->") < text.index("<!-- /measured -->")
    shown = subprocess.run(["bash", ROOT / ".ci" / "run", "--show"], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("pip install") and "&& pytest -n auto" in shown and f"```\n{shown}```" in text
    assert text.index("sartor demo") < text.index("## ")  # on the first screen


def test_the_reader_tells_blocks_apart() -> None:
    marked, plain, other = "<!-- run -->\n```python\nx = 1\n```\n", "```python\ny = 2\n```\n", "```\nz\n```\n"
    apart = "<!-- run -->\n\n```python\nw\n```\n"
    text = f"a\n{marked}\n{plain}{other}{apart}"
    assert blocks(text) == [(4, True, "x = 1\n"), (8, False, "y = 2\n"), (16, False, "w\n")]
