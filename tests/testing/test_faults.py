"""The kit of faults: places are counted and hit, a full disk is full, garbled texts meet every parser."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from sartor.errors import SartorError
from sartor.export.files import atomic_write
from sartor.studies.parsers import parsers
from sartor.testing.garbled import many, texts
from sartor.testing.process_faults import Place, file_size_limit, full_disk, in_process

NAMES = (
    "budget", "reference of a model or of data", "target", "mixture of criteria", "recipe", "plan",
    "edits and programs", "manifest", "result",
)  # fmt: skip


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Any:
    found = parsers(tmp_path_factory.mktemp("parsers"))
    assert tuple(found) == NAMES
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_parser_accepts_or_refuses_with_an_error_of_sartor(name: str, every: Any) -> None:
    parser = every[name]
    for text in parser.grammar.right:
        parser.parse(text)
    refused = 0

    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(texts(parser.grammar))
    def holds(text: str) -> None:
        nonlocal refused
        try:
            parser.parse(text)
        except SartorError:
            refused += 1

    holds()
    assert refused


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_many_garbled_texts(name: str, every: Any) -> None:
    for text in many(every[name].grammar, 11_000, seed=5):
        with suppress(SartorError):
            every[name].parse(text)


def test_garbled_texts_repeat_by_their_seed(every: Any) -> None:
    grammar = every["plan"].grammar
    assert list(many(grammar, 20, 1)) == list(many(grammar, 20, 1)) != list(many(grammar, 20, 2))


def writes(folder: Path) -> Any:
    def act(begin: Any) -> None:
        begin("first")
        atomic_write(folder / "a", "1")
        begin("second")
        atomic_write(folder / "b", "2")

    return act


def test_a_process_is_killed_where_it_was_said(tmp_path: Path) -> None:
    course = in_process(writes(tmp_path / "whole"), tmp_path / "whole")
    assert course.code == 0 and course.operations["first"] == course.operations["second"] > 1
    assert course.calls["first"] > 10
    seen = set()
    for n in range(1, sum(course.operations.values()) + 1):
        folder = tmp_path / str(n)
        assert in_process(writes(folder), folder, Place(n, "file operation")).killed
        seen.add(tuple(p.name for p in sorted(folder.glob("[ab]"))))
    assert seen == {(), ("a",), ("a", "b")}
    draw = random.Random(0)
    for i in range(5):
        folder = tmp_path / f"c{i}"
        place = Place(draw.randint(1, course.calls["second"] - 20), "call", "second")
        assert in_process(writes(folder), folder, place).killed
        assert (folder / "a").read_text() == "1"


def test_an_error_in_the_process_is_no_kill(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    course = in_process(lambda begin: 1 / 0, tmp_path)
    assert course.code == 3 and not course.killed and "ZeroDivisionError" in capfd.readouterr().err


@pytest.mark.parametrize("after", range(4))
def test_on_a_full_disk_nothing_is_half_written(tmp_path: Path, after: int) -> None:
    atomic_write(tmp_path / "a", "before")
    with full_disk(tmp_path, after) as failed:
        try:
            atomic_write(tmp_path / "a", "after")
        except SartorError as e:
            assert "disk is full" in str(e) and failed
    assert (tmp_path / "a").read_text() in ("before", "after") and len(list(tmp_path.iterdir())) == 1
    atomic_write(tmp_path / "a", "after")


def test_a_file_that_grows_too_large_is_refused(tmp_path: Path) -> None:
    with file_size_limit(1000), pytest.raises(SartorError, match="larger than this system allows"):
        atomic_write(tmp_path / "a", "x" * 5000)
    assert not list(tmp_path.iterdir())
    atomic_write(tmp_path / "a", "x" * 5000)
