"""The table of one target on this machine: what was timed, timed on demand, and said between."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from sartor.errors import SartorError
from sartor.measure.tables.ort_profile import Profiled
from sartor.measure.tables.rebuild import shape_of
from sartor.measure.tables.segments import Kind, Point
from sartor.measure.tables.stairs import Stairs, explore, suspects
from sartor.measure.tables.store import Store, where_of
from sartor.measure.tables.timing import Timer, Timing, Work, in_turns
from sartor.measure.tables.trees import Trees
from sartor.measure.targets import parse_target
from sartor.types import Target

Tell = Callable[[str], None]
_STAIRS = "stairs"
_LOOKS = 2  # times what looks disturbed is timed again
_AT_ONCE = 256  # timings between two writes: what was timed is not lost when a run is stopped


class Table:
    """Timings of segments on one target.

    Args:
        target: a `Target` or its text. What torch.compile makes of one segment takes too long to build for every
            width; its heavy operators are eager ones, so its table is the eager one, and the correction learns the
            difference (see `Predictor`).
        store: the file; None: the default place.
        timer: takes the times; None: the profiler of ONNX Runtime on its CPU target but for int8, else `in_turns`.
    """

    def __init__(self, target: str | Target, *, store: Store | None = None, timer: Timer | None = None):
        self.target = parse_target(target)
        self.timed = dataclasses.replace(self.target, backend="eager") if self._compiles else self.target
        self.store = store or Store()
        self.where = where_of(self.timed)
        profiles = self.timed.name == "onnxruntime-cpu" and self.timed.dtype != "int8"
        self.timer: Timer = timer or (Profiled(self._reference) if profiles else in_turns)
        self.known: dict[str, dict[Point, Timing | None]] = {}
        self.stairs: dict[str, Stairs] = {}
        self._trees: Trees | None = None
        self._said: dict[tuple[str, Point], Timing] = {}

    @property
    def _compiles(self) -> bool:
        return self.target.backend == "compile"

    def _reference(self, seconds: float | None) -> float | None:
        """What the profiler's reference took when this table was begun; told a number it is kept."""
        if seconds is not None:
            self.store.note(self.where, "profiler", "reference", seconds)
            return seconds
        known = self.store.noted(self.where, "profiler").get("reference")
        return None if known is None else float(known)

    def load(self, kinds: Iterable[Kind]) -> None:
        """Read what the file has of these kinds."""
        new = [k.key for k in kinds if k.key not in self.known]
        if new:
            self.known |= self.store.get(self.where, new)
            stairs = self.store.noted(self.where, _STAIRS)
            self.stairs |= {k: Stairs.read(stairs[k]) for k in new if k in stairs}

    def missing(self, wanted: Mapping[Kind, Point]) -> dict[Kind, Point]:
        """Kinds that have no stairs up to these widths yet."""
        self.load(wanted)
        found = {}
        for kind, upto in wanted.items():
            made = self.stairs.get(kind.key)
            if made is None and self._hopeless(kind):
                continue
            if made is None or any(a < b for a, b in zip(made.upto, upto)):
                found[kind] = tuple(map(max, zip(made.upto, upto))) if made else upto
        return found

    def _hopeless(self, kind: Kind) -> bool:
        rows = self.known.get(kind.key, {})
        return bool(rows) and all(t is None for t in rows.values())

    def gather(self, wanted: Mapping[Kind, Point], tell: Tell = lambda text: None) -> int:
        """Time what is missing for the stairs of every kind up to a width; returns how many timings were taken."""
        open_ = {kind: explore(upto) for kind, upto in self.missing(wanted).items()}
        asked: dict[Kind, list[Point]] = {kind: next(run) for kind, run in open_.items()}
        taken = 0
        while asked:
            taken += self.time([(k, p) for k, points in asked.items() for p in points], tell)
            left: dict[Kind, list[Point]] = {}
            for kind, points in asked.items():
                rows = self.known[kind.key]
                try:
                    left[kind] = open_[kind].send({p: t.seconds for p in points if (t := rows.get(p))})
                except StopIteration as stop:
                    taken += self._finish(kind, stop.value, tell)
            asked = left
        return taken

    def _finish(self, kind: Kind, stairs: Stairs | None, tell: Tell) -> int:
        rows = self.known[kind.key]
        if stairs is None or any(not rows.get(p) for p in stairs.points()):
            return 0  # it does not run everywhere: left to the trees
        taken = 0
        for _ in range(_LOOKS):
            again = suspects(stairs, {p: t.seconds for p in stairs.points() if (t := rows[p])})
            if not again:
                break
            before = {p: rows[p] for p in again}
            taken += self._take([(kind, p) for p in again], tell)
            for p, old in before.items():
                new = rows[p]
                if new is None or (old is not None and old.seconds < new.seconds):
                    rows[p] = old
            self.store.put(self.where, [(kind, p, rows[p]) for p in again])
        self.stairs[kind.key] = stairs
        self.store.note(self.where, _STAIRS, kind.key, stairs.plain())
        self._said.clear()
        return taken

    def time(self, works: Sequence[Work], tell: Tell = lambda text: None) -> int:
        """Time every point that was not timed yet; returns how many."""
        self.load([k for k, _ in works])
        return self._take([w for w in dict.fromkeys(works) if w[1] not in self.known[w[0].key]], tell)

    def _take(self, works: Sequence[Work], tell: Tell) -> int:
        ordered = sorted(works, key=lambda w: (w[0].label, w[0].key, w[1]))
        for i in range(0, len(ordered), _AT_ONCE):
            part = ordered[i : i + _AT_ONCE]
            tell(f"{i} of {len(ordered)} timings")
            times = self.timer(part, self.timed)
            if len(times) != len(part):
                raise SartorError(f"timer of {self.timed.name!r}: expected {len(part)} times; got {len(times)}")
            for (kind, point), t in zip(part, times):
                self.known[kind.key][point] = t
            self.store.put(self.where, [(k, p, t) for (k, p), t in zip(part, times)])
        self._said.clear()
        return len(ordered)

    def timing(self, kind: Kind, point: Point) -> Timing:
        """What a segment takes at any widths: as timed, else from its stairs, else from the trees.

        Raises:
            SartorError: nothing at all was timed on this target.
        """
        key = (kind.key, point)
        if key not in self._said:
            self.load([kind])
            exact = self.known[kind.key].get(point)
            self._said[key] = exact or self._between(kind, point)
        return self._said[key]

    def _between(self, kind: Kind, point: Point) -> Timing:
        stairs = self.stairs.get(kind.key)
        if stairs is None:
            return Timing(self.trees().seconds(kind, point))
        rows = self.known[kind.key]
        near = stairs.nearest(point)
        like = rows[near]
        assert like is not None
        seconds = stairs.value(point, _Seconds(rows))
        convert = tuple(
            s * _numel(kind, slot, point) / _numel(kind, slot, near)
            for s, slot in zip(like.convert_s, kind.spec["left"])
        )
        return Timing(seconds, like.given, like.left, convert)

    def source(self, kind: Kind, point: Point) -> str:
        """Where `timing` has it from: "timed", "stairs" or "trees"."""
        self.load([kind])
        if self.known[kind.key].get(point):
            return "timed"
        return "stairs" if kind.key in self.stairs else "trees"

    def trees(self) -> Trees:
        """A regression over everything timed on this target; made when first asked for."""
        if self._trees is None:
            rows: list[tuple[Kind, Point, float]] = []
            for kind, _ in self.store.kinds(self.where):
                timed = self.store.get(self.where, [kind.key])[kind.key]
                rows += [(kind, p, t.seconds) for p, t in timed.items() if t]
            self._trees = Trees(rows, self.timed.name)
        return self._trees

    def convert_rate(self, kinds: Iterable[Kind]) -> float:
        """Seconds a tensor element takes to change into the runtime's own layout or back."""
        seconds = elements = 0.0
        for kind in kinds:
            for point, t in self.known.get(kind.key, {}).items():
                for s, slot in zip(t.convert_s if t else (), kind.spec["left"]):
                    seconds += s
                    elements += _numel(kind, slot, point) if s else 0
        return seconds / elements if elements else 0.0


class _Seconds(Mapping[Point, float]):
    """Timings seen as seconds."""

    def __init__(self, rows: Mapping[Point, Timing | None]):
        self.rows = rows

    def __getitem__(self, point: Point) -> float:
        t = self.rows[point]
        if t is None:
            raise KeyError(point)
        return t.seconds

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def _numel(kind: Kind, slot: int, point: Point) -> int:
    n = 1
    for s in shape_of(kind, slot, point):
        n *= s
    return n
