"""A file of tables from a stranger: only tables of latency are read, and nothing is written into other files."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from sartor.errors import CorruptFile
from sartor.measure.tables.segments import Kind
from sartor.measure.tables.store import Store, Where
from sartor.measure.tables.timing import Timing

HERE = Where("machine", "runtime", "target", {"cpu": "x"})


@pytest.fixture
def good(tmp_path: Path) -> Path:
    store = Store(tmp_path / "good.sqlite")
    store.put(HERE, [(Kind("{}", 1, "conv"), (8,), Timing(1e-3))])
    with sqlite3.connect(store.path) as link:
        link.execute("pragma journal_mode=delete")
    return store.path


def changed(*statements: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with sqlite3.connect(path) as link:
            for statement in statements:
                link.execute(statement)

    return change


ENDLESS = "create view times as with recursive n(i) as (select 1 union all select i + 1 from n) select i from n"
STRANGE: dict[str, Callable[[Path], object]] = {
    "text": lambda p: p.write_text("hello"),
    "nothing": lambda p: p.write_bytes(b""),
    "a cut-off file": lambda p: p.write_bytes(p.read_bytes()[:5000]),
    "a header only": lambda p: p.write_bytes(b"SQLite format 3\x00"),
    "a view without end": changed("drop table times", ENDLESS),
    "another view": changed("create view more as select 1"),
    "a trigger": changed("create trigger t after insert on notes begin delete from times; end"),
    "another table": changed("create table other (a)"),
    "a table missing": changed("drop table about"),
    "other columns": changed("alter table times add column more text"),
    "columns that are computed": changed(
        "alter table kinds add column more text generated always as (zeroblob(9)) virtual"
    ),
    "another format": changed("update about set value = '9'"),
    "no format": changed("delete from about"),
    "text as seconds": changed("update times set seconds = 'x'"),
    "negative seconds": changed("update times set seconds = -1.0"),
    "no point": changed("update times set point = 'x'"),
    "no layout": changed("update times set layout = '[1]'"),
    "a kind that is missing": changed("update times set kind = 'x'"),
    "too many letters": changed("update kinds set letters = 1000000"),
    "facts that are no JSON": changed("update machines set facts = '{'"),
}


@pytest.mark.parametrize("change", STRANGE.values(), ids=STRANGE)
def test_it_is_refused_and_neither_file_changes(good: Path, tmp_path: Path, change: Callable[[Path], object]) -> None:
    own = Store(tmp_path / "own.sqlite")
    own.put(HERE, [(Kind("{}", 1, "conv"), (4,), Timing(2e-3))])
    before = list(own.rows())
    change(good)
    content = good.read_bytes()
    with pytest.raises(CorruptFile, match=r"good\.sqlite"):
        own.merge(good)
    assert good.read_bytes() == content and list(own.rows()) == before


def test_another_database_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "mine.sqlite"
    with sqlite3.connect(path) as link:
        link.execute("create table mine (a)")
    content = path.read_bytes()
    for act in (Store(path).wheres, Store(path).kinds, lambda: Store(path).put(HERE, [])):
        with pytest.raises(CorruptFile, match="the table 'mine'"):
            act()
    assert path.read_bytes() == content and [p.name for p in tmp_path.iterdir()] == ["mine.sqlite"]


def test_tables_of_ours_are_merged(good: Path, tmp_path: Path) -> None:
    own = Store(tmp_path / "own.sqlite")
    assert own.merge(good) == 1 and own.merge(good) == 0
    assert [row["seconds"] for row in own.rows()] == [1e-3]
