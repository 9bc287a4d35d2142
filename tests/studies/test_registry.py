"""Every registered study is a command with its own options and the shared ones."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import typer

from sartor.cli.app import app
from sartor.cli.bench import StudyCommands
from sartor.studies import STUDIES

ROOT = Path(__file__).parents[2]
SHARED = {"only", "keep", "write", "seed", "quiet", "as_json"}


@pytest.mark.parametrize("name", STUDIES)
def test_options_are_the_fields_and_the_shared_ones(name: str) -> None:
    study = STUDIES[name].value
    bench = typer.main.get_command(app).commands["bench"]  # type: ignore[attr-defined]
    assert isinstance(bench, StudyCommands) and name in bench.list_commands(None)
    command = bench.get_command(None, name)
    fields = {f.name for f in dataclasses.fields(study)}  # type: ignore[arg-type]
    assert {p.name for p in command.params} - {"help"} == fields | SHARED and not fields & SHARED
    assert study.__doc__ and command.help.split("\n")[0] == study.__doc__.split("\n")[0]
    written = next(p for p in command.params if p.name == "write")
    assert f"<!-- {study.marker} -->" in written.help and f"<!-- /{study.marker} -->" in written.help


def test_no_two_studies_fill_the_same_block() -> None:
    assert len({STUDIES[name].value.marker for name in STUDIES}) == len(STUDIES)


def test_every_study_is_in_the_list_of_benchmarks() -> None:
    listed = set(re.findall(r"`sartor bench ([a-z][a-z-]*)", (ROOT / "bench" / "README.md").read_text()))
    assert listed == set(STUDIES)


@pytest.mark.parametrize("page, name", [("README.md", "measured"), ("docs/latency.md", "predictor")])
def test_pages_have_the_blocks(page: str, name: str) -> None:
    from sartor.cli.markdown_block import MarkdownBlock

    MarkdownBlock(ROOT / page, STUDIES[name].value.marker)
