"""One SQLite file of timings, shared by all runs of a user; safe under concurrent runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sartor.errors import BadInput, CorruptFile, SartorError
from sartor.measure.environment import environment, usable_cores
from sartor.measure.tables.segments import Kind, Point
from sartor.measure.tables.timing import Timing
from sartor.measure.targets import find_target, show_target
from sartor.types import Target

_TABLES = ("about", "machines", "kinds", "times", "notes")
FORMAT = 2  # timings of format 1 included the overhead of the profiler
_HEADER = b"SQLite format 3\x00"
_SCHEMA = """
create table if not exists about (name text primary key, value text not null);
create table if not exists machines (machine text primary key, facts text not null);
create table if not exists kinds (kind text primary key, letters integer not null, label text not null,
    text text not null);
create table if not exists times (machine text not null, runtime text not null, target text not null,
    kind text not null, point text not null, seconds real, layout text not null, date text not null,
    primary key (machine, runtime, target, kind, point)) without rowid;
create table if not exists notes (machine text not null, runtime text not null, target text not null,
    topic text not null, name text not null, value text not null,
    primary key (machine, runtime, target, topic, name)) without rowid;
"""


@dataclass(frozen=True)
class Where:
    """Where a timing was taken: machine, runtime with its version, target with its options."""

    machine: str
    runtime: str
    target: str
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)  # of the machine

    def words(self) -> tuple[str, str, str]:
        """The values of the three columns."""
        return self.machine, self.runtime, self.target


def where_of(target: Target) -> Where:
    """The machine of the target and the runtime on it; 0 threads are replaced by their number."""
    traits = find_target(target.name).traits
    facts = {**traits.get("facts", environment)()}
    shown = dataclasses.replace(target, threads=target.threads or facts.get("usable_cores") or usable_cores())
    if "label" in traits:  # a file is known by its label, whatever its folder
        shown = dataclasses.replace(shown, backend=traits["label"], device="")
    if "runtime" in traits:
        runtime = traits["runtime"](facts)
    else:
        package = traits.get("package", "torch")
        runtime = f"{package} {facts['versions'].get(package, '')}".strip()
    return Where(fingerprint(facts), runtime, show_target(shown), facts)


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Twelve letters that identify the processor, number of cores and graphics of a machine."""
    text = json.dumps([facts.get(k) for k in ("cpu", "architecture", "cores", "gpu")])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def default_path() -> Path:
    """The file of the tables: $SARTOR_CACHE/tables.sqlite, else in the platform's folder for caches."""
    given = os.environ.get("SARTOR_CACHE")
    if given:
        return Path(given) / "tables.sqlite"
    home = Path.home()
    if sys.platform == "darwin":
        base = home / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", home / ".cache"))
    return base / "sartor" / "tables.sqlite"


class Store:
    """The file of the tables. Every call is one transaction; the first call that writes makes the file.

    Raises:
        CorruptFile: the file is something else, or has tables of another format.
    """

    def __init__(self, path: str | Path | None = None):
        self.path = Path(path) if path is not None else default_path()
        self._known = False  # whether the file was seen to be one of tables

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        if not self._known:
            check_tables(self.path)
            self._known = True
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            link = sqlite3.connect(self.path, timeout=60.0, isolation_level=None)
        except (OSError, sqlite3.OperationalError) as e:
            raise SartorError(f"{self.path}: tables of latency cannot be opened ({e}); set SARTOR_CACHE") from e
        try:
            link.execute("pragma journal_mode=wal")
            link.execute("pragma synchronous=normal")
            link.executescript(_SCHEMA)
            link.execute("insert or ignore into about values ('format', ?)", (str(FORMAT),))
            stored = link.execute("select value from about where name = 'format'").fetchone()[0]
            if stored != str(FORMAT):
                raise CorruptFile(
                    f"{self.path}: expected tables of format {FORMAT}; got format {stored}, whose times mean something "
                    "else; delete the file, or name another one (SARTOR_CACHE)"
                )
            link.execute("begin immediate")
            yield link
            link.execute("commit")
        except sqlite3.DatabaseError as e:
            raise CorruptFile(f"{self.path}: expected tables of latency (SQLite); {e}") from e
        finally:
            link.close()

    def put(self, where: Where, rows: Iterable[tuple[Kind, Point, Timing | None]]) -> None:
        """Write timings; a new one replaces an old one. None: the segment does not run on this target."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        rows = list(rows)
        with self._open() as link:
            link.execute(
                "insert or replace into machines values (?, ?)",
                (where.machine, json.dumps(_machine(where.facts or environment()))),
            )
            kinds = {k.key: k for k, _, _ in rows}
            link.executemany(
                "insert or ignore into kinds values (?, ?, ?, ?)",
                [(k.key, k.letters, k.label, k.text) for k in kinds.values()],
            )
            link.executemany(
                "insert or replace into times values (?, ?, ?, ?, ?, ?, ?, ?)",
                [(*where.words(), k.key, json.dumps(p), t.seconds if t else None, _layout(t), now) for k, p, t in rows],
            )

    def get(self, where: Where, kinds: Iterable[str]) -> dict[str, dict[Point, Timing | None]]:
        """All timings of some kinds (given by their keys), by kind and point."""
        timings: dict[str, dict[Point, Timing | None]] = {}
        if not self.path.is_file():
            return {k: {} for k in kinds}
        with self._open() as link:
            for key in dict.fromkeys(kinds):
                rows = link.execute(
                    "select point, seconds, layout from times where machine = ? and runtime = ? and target = ? "
                    "and kind = ?", (*where.words(), key),
                ).fetchall()  # fmt: skip
                timings[key] = {tuple(json.loads(p)): _timing(s, layout) for p, s, layout in rows}
        return timings

    def note(self, where: Where, topic: str, name: str, value: Any) -> None:
        """Store a JSON value by topic and name."""
        with self._open() as link:
            link.execute(
                "insert or replace into notes values (?, ?, ?, ?, ?, ?)",
                (*where.words(), topic, name, json.dumps(value)),
            )

    def noted(self, where: Where, topic: str) -> dict[str, Any]:
        """All values of a topic, by name."""
        if not self.path.is_file():
            return {}
        with self._open() as link:
            rows = link.execute(
                "select name, value from notes where machine = ? and runtime = ? and target = ? and topic = ?",
                (*where.words(), topic),
            ).fetchall()
        return {name: json.loads(value) for name, value in rows}

    def wheres(self) -> list[dict[str, Any]]:
        """One row for every machine, runtime and target.

        Rows are {"machine", "cpu", "runtime", "target", "kinds", "timings", "first", "last"}; the last two are dates.
        """
        if not self.path.is_file():
            return []
        with self._open() as link:
            rows = link.execute(
                "select machine, runtime, target, count(distinct kind), count(*), min(date), max(date) from times "
                "group by machine, runtime, target order by 1, 2, 3"
            ).fetchall()
            facts = {m: json.loads(f) for m, f in link.execute("select machine, facts from machines").fetchall()}
        names = ("machine", "runtime", "target", "kinds", "timings", "first", "last")
        return [{"cpu": facts.get(r[0], {}).get("cpu", ""), **dict(zip(names, r))} for r in rows]

    def kinds(self, where: Where | None = None) -> list[tuple[Kind, int]]:
        """Kinds with the number of their timed points, largest first."""
        if not self.path.is_file():
            return []
        which = "where t.machine = ? and t.runtime = ? and t.target = ?" if where else ""
        with self._open() as link:
            rows = link.execute(
                f"select k.text, k.letters, k.label, count(*) from times t join kinds k on k.kind = t.kind {which} "
                "group by k.kind order by 4 desc, 3", where.words() if where else (),
            ).fetchall()  # fmt: skip
        return [(Kind(text, letters, label), n) for text, letters, label, n in rows]

    def merge(self, other: Path) -> int:
        """Add the timings of another file; where both have one, the later stays. Returns how many are new.

        Raises:
            BadInput: no such file.
            CorruptFile: it does not hold tables of this format.
        """
        if not Path(other).is_file():
            raise BadInput(f"tables: expected a file of tables; {str(other)!r} does not exist")
        check_tables(Path(other), values=True)
        with self._open() as link:
            link.execute("commit")
            link.execute("attach ? as other", (str(other),))
            link.execute("begin immediate")
            before = link.execute("select count(*) from times").fetchone()[0]
            link.execute("insert or ignore into machines select * from other.machines")
            link.execute("insert or ignore into kinds select * from other.kinds")
            link.execute("insert or ignore into notes select * from other.notes")
            link.execute(
                "insert into times select * from other.times where true on conflict do update set "
                "seconds = excluded.seconds, layout = excluded.layout, date = excluded.date where excluded.date > date"
            )
            after = link.execute("select count(*) from times").fetchone()[0]
        return int(after - before)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every timing as one flat object, for export."""
        if not self.path.is_file():
            return
        with self._open() as link:
            rows = link.execute(
                "select t.machine, t.runtime, t.target, t.kind, k.label, t.point, t.seconds, t.layout, t.date "
                "from times t join kinds k on k.kind = t.kind order by 1, 2, 3, 4, 6"
            ).fetchall()
        for machine, runtime, target, kind, label, point, seconds, layout, date in rows:
            yield {
                "machine": machine, "runtime": runtime, "target": target, "kind": kind, "label": label,
                "point": json.loads(point), "seconds": seconds, "layout": json.loads(layout), "date": date,
            }  # fmt: skip


def check_tables(path: Path, *, values: bool = False) -> None:
    """Refuse a file that holds anything else than tables of latency, without writing to it.

    Args:
        path: may be missing or empty.
        values: whether the file has to hold tables, and every row is checked: the file is someone else's.

    Raises:
        CorruptFile: no SQLite file, another table, view or trigger, another format, or a row that is no timing.
    """
    if not values and (not path.is_file() or not path.stat().st_size):
        return
    try:
        with path.open("rb") as f:
            header = f.read(len(_HEADER))
        if header != _HEADER:
            raise CorruptFile(f"{path}: expected tables of latency (SQLite); it is another file")
        link = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=60.0)
        try:
            _check_schema(path, link)
            if values:
                _check_rows(path, link)
        finally:
            link.close()
    except (sqlite3.Error, OSError) as e:
        raise CorruptFile(f"{path}: expected tables of latency (SQLite); {e}") from e


def _check_schema(path: Path, link: sqlite3.Connection) -> None:
    """Another process may be making the tables, so some may be missing; nothing else may be there."""
    with sqlite3.connect(":memory:") as own:
        own.executescript(_SCHEMA)
        expected = {name: _columns(own, name) for name in _TABLES}
    for kind, name in link.execute("select type, name from sqlite_master where name not like 'sqlite\\_%' escape '\\'"):
        if kind != "table" or name not in expected or _columns(link, name) != expected[name]:
            raise CorruptFile(f"{path}: expected tables of latency and nothing else; it has the {kind} {name!r}")


def _check_rows(path: Path, link: sqlite3.Connection) -> None:
    stored = link.execute("select value from about where name = 'format'").fetchone()
    if stored is None or stored[0] != str(FORMAT):
        raise CorruptFile(f"{path}: expected tables of format {FORMAT}; got format {stored and stored[0]}")
    wrong = link.execute(
        "select count(*) from times where not (typeof(seconds) in ('real', 'null') and coalesce(seconds, 1) > 0 and "
        "coalesce(seconds, 1) < 1e6 and json_valid(point) and json_type(point) = 'array' and json_valid(layout) and "
        "json_type(layout) = 'object' and typeof(date) = 'text' and kind in (select kind from kinds))"
    ).fetchone()[0]
    wrong += link.execute("select count(*) from machines where not json_valid(facts)").fetchone()[0]
    wrong += link.execute("select count(*) from notes where not json_valid(value)").fetchone()[0]
    wrong += link.execute(
        "select count(*) from kinds where typeof(letters) <> 'integer' or letters not between 0 and 26"
    ).fetchone()[0]
    if wrong:
        raise CorruptFile(f"{path}: expected timings in seconds; {wrong} rows are something else")


def _columns(link: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    """Name, type and kind of every column, generated ones too."""
    return [(c[1], c[2].lower(), c[6]) for c in link.execute(f"pragma table_xinfo({table})")]


def _machine(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {k: facts.get(k) for k in ("cpu", "architecture", "cores", "gpu", "memory_bytes", "os")}


def _layout(t: Timing | None) -> str:
    if t is None:
        return "{}"
    row = asdict(t)
    row.pop("seconds")
    return json.dumps({k: v for k, v in row.items() if v})


def _timing(seconds: float | None, layout: str) -> Timing | None:
    if seconds is None:
        return None
    row = json.loads(layout)
    return Timing(seconds, tuple(row.get("given", ())), tuple(row.get("left", ())), tuple(row.get("convert_s", ())))
