"""The table of one target on this machine: timings, taken when they are needed and interpolated between."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from sartor.errors import SartorError
from sartor.measure.tables.ort_profile import ProfileTimer
from sartor.measure.tables.segment_module import shape_of
from sartor.measure.tables.segments import Kind, Point
from sartor.measure.tables.staircase import Staircase, disturbed_points
from sartor.measure.tables.staircase_search import staircase_search
from sartor.measure.tables.store import Store, where_of
from sartor.measure.tables.timing import Timer, Timing, Work, in_turns
from sartor.measure.tables.trees import Trees
from sartor.measure.targets import has_node_times, parse_target, rehearsal_target
from sartor.types import SILENT, Listener, Target

_STAIRS = "stairs"  # topic of the staircases among the notes of the file
_REPEATS = 2  # times that disturbed points are timed again
_AT_ONCE = 256  # timings between two writes to the file, so that a run that is stopped loses few


class Table:
    """Timings of segments on one target.

    Args:
        target: a `Target` or its text. A target that takes long to prepare a network, such as torch.compile, cannot
            time every width. Its segments are timed on its rehearsal (see `sartor.measure.rehearsal_target`), which
            runs much the same heavy operators; the correction learns the difference (see `Predictor`).
        store: the file; None: the default place.
        timer: takes the times; None: the profiler of ONNX Runtime where it can be used, else `in_turns`.
    """

    def __init__(self, target: str | Target, *, store: Store | None = None, timer: Timer | None = None):
        self.target = parse_target(target)
        self.timed = rehearsal_target(self.target) or self.target
        self.store = store or Store()
        self.where = where_of(self.timed)
        self.timer: Timer = timer or (ProfileTimer(self._reference) if has_node_times(self.timed) else in_turns)
        self.known: dict[str, dict[Point, Timing | None]] = {}  # by key of the kind
        self.staircases: dict[str, Staircase] = {}  # by key of the kind
        self._trees: Trees | None = None
        self._timings: dict[tuple[str, Point], Timing] = {}  # answers of `timing`

    def _reference(self, seconds: float | None) -> float | None:
        """Store the first time of the profiler's reference kernel; called with None: return the stored one."""
        if seconds is not None:
            self.store.note(self.where, "profiler", "reference", seconds)
            return seconds
        known = self.store.noted(self.where, "profiler").get("reference")
        return None if known is None else float(known)

    def load(self, kinds: Iterable[Kind]) -> None:
        """Read the timings and staircases of these kinds from the file."""
        new = [k.key for k in kinds if k.key not in self.known]
        if new:
            self.known |= self.store.get(self.where, new)
            stored = self.store.noted(self.where, _STAIRS)
            self.staircases |= {k: Staircase.read(stored[k]) for k in new if k in stored}

    def missing(self, wanted: Mapping[Kind, Point]) -> dict[Kind, Point]:
        """The kinds, with whole widths, that have no staircase up to these widths yet."""
        self.load(wanted)
        missing = {}
        for kind, upto in wanted.items():
            staircase = self.staircases.get(kind.key)
            if staircase is None and self._never_runs(kind):
                continue
            if staircase is None or any(a < b for a, b in zip(staircase.upto, upto)):
                missing[kind] = tuple(map(max, zip(staircase.upto, upto))) if staircase else upto
        return missing

    def _never_runs(self, kind: Kind) -> bool:
        rows = self.known.get(kind.key, {})
        return bool(rows) and all(t is None for t in rows.values())

    def gather(self, wanted: Mapping[Kind, Point], listener: Listener = SILENT) -> int:
        """Time what the staircase of every kind up to a width still needs; returns how many timings were taken."""
        searches = {kind: staircase_search(upto) for kind, upto in self.missing(wanted).items()}
        points_of: dict[Kind, list[Point]] = {kind: next(search) for kind, search in searches.items()}
        taken = 0
        while points_of:
            taken += self.time([(k, p) for k, points in points_of.items() for p in points], listener)
            following: dict[Kind, list[Point]] = {}
            for kind, points in points_of.items():
                rows = self.known[kind.key]
                try:
                    following[kind] = searches[kind].send({p: t.seconds for p in points if (t := rows.get(p))})
                except StopIteration as stop:
                    taken += self._finish(kind, stop.value, listener)
            points_of = following
        return taken

    def _finish(self, kind: Kind, staircase: Staircase | None, listener: Listener) -> int:
        """Time disturbed points again and store the staircase; returns how many timings were taken."""
        rows = self.known[kind.key]
        if staircase is None or any(not rows.get(p) for p in staircase.points()):
            return 0  # the segment does not run at every width: the trees predict it
        taken = 0
        for _ in range(_REPEATS):
            again = disturbed_points(staircase, {p: t.seconds for p in staircase.points() if (t := rows[p])})
            if not again:
                break
            before = {p: rows[p] for p in again}
            taken += self._take([(kind, p) for p in again], listener)
            for p, old in before.items():
                new = rows[p]
                if new is None or (old is not None and old.seconds < new.seconds):
                    rows[p] = old
            self.store.put(self.where, [(kind, p, rows[p]) for p in again])
        self.staircases[kind.key] = staircase
        self.store.note(self.where, _STAIRS, kind.key, staircase.plain())
        self._timings.clear()
        return taken

    def time(self, works: Sequence[Work], listener: Listener = SILENT) -> int:
        """Time every point that was not timed yet; returns how many."""
        self.load([k for k, _ in works])
        return self._take([w for w in dict.fromkeys(works) if w[1] not in self.known[w[0].key]], listener)

    def _take(self, works: Sequence[Work], listener: Listener) -> int:
        ordered = sorted(works, key=lambda w: (w[0].label, w[0].key, w[1]))
        for i in range(0, len(ordered), _AT_ONCE):
            part = ordered[i : i + _AT_ONCE]
            listener.tell(f"{i} of {len(ordered)} timings")
            times = self.timer(part, self.timed)
            if len(times) != len(part):
                raise SartorError(f"timer of {self.timed.name!r}: expected {len(part)} times; got {len(times)}")
            for (kind, point), t in zip(part, times):
                self.known[kind.key][point] = t
            self.store.put(self.where, [(k, p, t) for (k, p), t in zip(part, times)])
        self._timings.clear()
        return len(ordered)

    def timing(self, kind: Kind, point: Point) -> Timing:
        """The time of a segment at any widths: as timed, else from its staircase, else from the regression trees.

        Raises:
            SartorError: nothing at all was timed on this target.
        """
        key = (kind.key, point)
        if key not in self._timings:
            self.load([kind])
            exact = self.known[kind.key].get(point)
            self._timings[key] = exact or self._between(kind, point)
        return self._timings[key]

    def _between(self, kind: Kind, point: Point) -> Timing:
        """The time at widths that were not timed."""
        staircase = self.staircases.get(kind.key)
        if staircase is None:
            return Timing(self.trees().seconds(kind, point))
        rows = self.known[kind.key]
        near = staircase.nearest(point)
        neighbour = rows[near]
        assert neighbour is not None
        seconds = staircase.value(point, _Seconds(rows))
        convert = tuple(
            s * _numel(kind, slot, point) / _numel(kind, slot, near)
            for s, slot in zip(neighbour.convert_s, kind.spec["left"])
        )
        return Timing(seconds, neighbour.given, neighbour.left, convert)

    def source(self, kind: Kind, point: Point) -> str:
        """Where `timing` takes its answer from: "timed", "stairs" (the staircase) or "trees"."""
        self.load([kind])
        if self.known[kind.key].get(point):
            return "timed"
        return "stairs" if kind.key in self.staircases else "trees"

    def trees(self) -> Trees:
        """A regression over everything timed on this target; made at the first call."""
        if self._trees is None:
            rows: list[tuple[Kind, Point, float]] = []
            for kind, _ in self.store.kinds(self.where):
                timed = self.store.get(self.where, [kind.key])[kind.key]
                rows += [(kind, p, t.seconds) for p, t in timed.items() if t]
            self._trees = Trees(rows, self.timed.name)
        return self._trees

    def convert_rate(self, kinds: Iterable[Kind]) -> float:
        """Seconds that the conversion of one tensor element to the runtime's own layout, or back, takes."""
        seconds = elements = 0.0
        for kind in kinds:
            for point, t in self.known.get(kind.key, {}).items():
                for s, slot in zip(t.convert_s if t else (), kind.spec["left"]):
                    seconds += s
                    elements += _numel(kind, slot, point) if s else 0
        return seconds / elements if elements else 0.0


class _Seconds(Mapping[Point, float]):
    """A view of timings as their seconds."""

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
    return math.prod(shape_of(kind, slot, point))
