"""Rows that are kept are read back, and a run that was interrupted continues behind the last whole row."""

from __future__ import annotations

from pathlib import Path

import pytest

from sartor.errors import BadInput, CorruptFile
from sartor.studies import Case, RowStore, StudyRun


def cases(made: list[str]) -> list[Case]:
    def make(name: str) -> dict[str, int]:
        made.append(name)
        return {"n": len(made)}

    return [Case({"name": name}, lambda name=name: make(name)) for name in ("a", "b", "c")]


def test_rows_that_the_file_holds_are_not_made_again(tmp_path: Path) -> None:
    file, made = tmp_path / "rows.jsonl", []
    first = list(StudyRun(RowStore(file, ("name",)), only="B").rows_of(cases(made)))
    every = list(StudyRun(RowStore(file, ("name",))).rows_of(cases(made)))
    assert made == ["b", "a", "c"] and first == [every[1]]
    assert [row["name"] for row in every] == ["a", "b", "c"]  # in the order of the study
    assert RowStore(file, ("name",)).rows() == [every[1], every[0], every[2]]  # in the order of making


def test_of_several_rows_about_the_same_the_last_counts(tmp_path: Path) -> None:
    store = RowStore(tmp_path / "rows.jsonl", ("name",))
    for n in (1, 2):
        store.add({"name": "a", "n": n})
    assert RowStore(tmp_path / "rows.jsonl", ("name",)).get({"name": "a"}) == {"name": "a", "n": 2}


def test_a_row_is_the_same_before_and_after_the_file(tmp_path: Path) -> None:
    store = RowStore(tmp_path / "rows.jsonl", ("name",))
    row = store.add({"name": "a", "interval": (1.0, float("nan"))})
    assert row == {"name": "a", "interval": [1.0, None]} == RowStore(tmp_path / "rows.jsonl", ("name",)).get(row)


def test_an_incomplete_last_line_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"name": "a"}\n{"name": "b", "n"')
    store = RowStore(file, ("name",))
    store.add({"name": "c"})
    assert [r["name"] for r in RowStore(file, ("name",)).rows()] == ["a", "c"]


@pytest.mark.parametrize("text", ["not JSON\n", '{"nom": "a"}\n', "[1]\n"])
def test_another_file_is_refused_and_left_as_it_is(tmp_path: Path, text: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    with pytest.raises(CorruptFile, match="expected JSON lines of an earlier run of this study, with name"):
        RowStore(file, ("name",))
    assert file.read_text() == text


def test_a_selection_of_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="no row of this study has 'x' in its name"):
        list(StudyRun(RowStore(None, ("name",)), only="x").rows_of(cases([])))
