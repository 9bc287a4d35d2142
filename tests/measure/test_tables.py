"""Tables of latency on a machine whose clock is a formula: what is timed, how often, and what is said of the rest."""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tests.zoo_graphs import understood
from torch import nn

from sartor.cost import counted_cost, macs
from sartor.errors import BadInput, CorruptFile, SartorError
from sartor.measure.tables import Kind, Predictor, Store, Table, Timing, Where, points, random_plans, segments
from sartor.measure.tables.correction import Correction
from sartor.measure.tables.segment_module import check_shapes, segment_module, size_of
from sartor.measure.tables.staircase import Staircase
from sartor.measure.tables.staircase_search import comb_of, staircase_search
from sartor.measure.tables.timing import in_turns
from sartor.measure.tables.trees import Trees, multiplies
from sartor.structure import trace
from sartor.surgery import probe
from sartor.testing.zoo import cases
from sartor.types import Target

TARGET = "eager-cpu:threads=1"


class Net(nn.Module):
    """Two stages, a residual sum, and a linear layer."""

    def __init__(self, width: int = 48):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.one = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.two = nn.Conv2d(2 * width, width, 3, padding=1)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.two(torch.relu(self.one(x))) + x)
        return self.head(x.mean((2, 3)))


EXAMPLE = torch.zeros(1, 3, 8, 8)


class Machine:
    """A timer: an overhead, time in proportion to the work, in steps of 8, twice as slow where 4 does not divide."""

    def __init__(self, step: int = 8, multiple: int = 4):
        self.step, self.multiple, self.timed = step, multiple, 0

    def seconds(self, kind: Kind, point: Sequence[int]) -> float:
        up = tuple(math.ceil(n / self.step) * self.step for n in point)
        slow = 2.0 if point and point[0] % self.multiple else 1.0
        return 1e-6 + slow * 1e-10 * multiplies(kind, up)

    def __call__(self, works, target):
        self.timed += len(works)
        return [Timing(self.seconds(k, p)) for k, p in works]


@pytest.fixture
def graph():
    torch.manual_seed(0)
    model = Net().eval()
    return probe(model, trace(model, EXAMPLE))


def built(graph, tmp_path, machine: Machine | None = None) -> tuple[Predictor, Machine]:
    machine = machine or Machine()
    predictor = Predictor(graph, Table(TARGET, store=Store(tmp_path / "t.sqlite"), timer=machine))
    predictor.gather()
    return predictor, machine


def test_segments_hold_every_operator_once_and_depend_on_earlier_ones(graph) -> None:
    parts = segments(graph)
    live = [op.index for op in graph.ops if op.live and op.outputs]
    assert sorted(i for s in parts for i in s.ops) == live
    assert all(maker < i for i, s in enumerate(parts) for maker in s.given)
    assert [s.kind.label for s in parts] == [
        "conv2d 3x3 + batch_norm + relu", "conv2d 3x3 + relu", "conv2d 3x3 + add + relu + mean", "linear",
    ]  # fmt: skip


@pytest.mark.parametrize("case", [c for c in cases() if not c.name.startswith("packed")], ids=str)  # lengths as values
def test_a_segment_rebuilt_gives_the_shapes_a_cut_leaves(case) -> None:
    _, _, graph = understood(case.name)
    kinds = segments(graph)
    runs, failed = 0, []
    for counts in ({}, *random_plans(graph, 3, seed=0)):
        for s, p in zip(kinds, points(graph, counts)):
            try:
                check_shapes(segment_module(s.kind, p))
                runs += 1
            except SartorError as e:
                failed.append(str(e))
    assert runs >= 0.8 * 4 * len(kinds), failed


def test_equal_segments_are_one_kind_whatever_their_width() -> None:
    kinds = [{s.kind.key for s in segments(trace(Net(w).eval(), EXAMPLE))} for w in (16, 48)]
    assert kinds[0] == kinds[1]


def test_sizes_follow_from_letters() -> None:
    assert size_of(["+", ["*", "b", 2], 3], (7, 5)) == 13


def test_the_table_meets_the_staircase_between_what_was_timed(graph, tmp_path) -> None:
    predictor, machine = built(graph, tmp_path)
    off = []
    for counts in random_plans(graph, 30, seed=5):
        true = sum(machine.seconds(s.kind, p) for s, p in zip(predictor.segments, points(graph, counts)))
        off.append(abs(predictor(counts) / true - 1))
    assert np.median(off) < 0.03 and max(off) < 0.12
    assert machine.timed < 1500


def test_a_second_run_times_nothing_and_says_the_same(graph, tmp_path) -> None:
    first, _ = built(graph, tmp_path)
    again, machine = built(graph, tmp_path)
    assert machine.timed == 0 and not again.missing()
    for counts in random_plans(graph, 5, seed=1):
        assert again(counts) == first(counts)


def test_exact_widths_can_be_asked_for(graph, tmp_path) -> None:
    predictor, machine = built(graph, tmp_path)
    counts = {n: g.units - 5 for n, g in graph.groups.items()}
    predictor.sharpen([counts])
    assert predictor.sources(counts) == {"timed": len(predictor.segments), "stairs": 0, "trees": 0}
    true = sum(machine.seconds(s.kind, p) for s, p in zip(predictor.segments, points(graph, counts)))
    assert predictor(counts) == pytest.approx(true)


def test_a_comb_is_read_from_neighbouring_widths_and_noise_is_none() -> None:
    widths = range(100, 117)
    rng = np.random.default_rng(0)
    assert comb_of(widths, [1 + n / 100 + 0.004 * rng.standard_normal() for n in widths]).multiple == 1
    assert comb_of(widths, [(2 if n % 8 else 1) * (1 + 0.004 * rng.standard_normal()) for n in widths]).multiple == 8
    assert comb_of(widths, [float(math.ceil(n / 16)) for n in widths]).block == 16


def test_straight_lines_are_looked_at_less_than_bent_ones() -> None:
    def timed(f):
        run, known = staircase_search((512,)), {}
        asked = next(run)
        try:
            while True:
                known.update({p: f(p[0]) for p in asked})
                asked = run.send({p: known[p] for p in asked})
        except StopIteration as stop:
            return len(known), stop.value, known

    straight, stairs, known = timed(lambda n: 1.0 + n)
    bent, _, _ = timed(lambda n: 1.0 + n + (400.0 if n > 300 else 0.0))
    assert straight < bent
    assert stairs.value((200,), known) == pytest.approx(201.0, rel=1e-6)
    assert Staircase.read(stairs.plain()).points() == stairs.points()


def test_the_correction_learns_what_the_sum_leaves_out_and_reports_its_error(graph, tmp_path) -> None:
    predictor, _ = built(graph, tmp_path)
    whole = predictor({})

    def measured(counts):
        overhead = 0.4 * whole
        return (predictor.features(counts)[0] + overhead) / (whole + overhead)

    before = [abs(predictor.ratio(c) / measured(c) - 1) for c in random_plans(graph, 8, seed=9)]
    found = predictor.learn(measured)
    after = [abs(predictor.ratio(c) / measured(c) - 1) for c in random_plans(graph, 8, seed=9)]
    assert max(after) < 0.05 < max(before)
    assert found.plans == 10 and found.error is not None and found.error < 0.05
    again, _ = built(graph, tmp_path)
    assert again.correction == found  # remembered


def test_latency_and_macs_are_one_interface(graph, tmp_path) -> None:
    predictor, _ = built(graph, tmp_path)
    for cost, value in ((counted_cost(graph, "macs"), macs), (predictor.cost(), lambda g, c: predictor(c))):
        for counts in ({}, *random_plans(graph, 3, seed=2)):
            assert cost(counts) == pytest.approx(value(graph, counts))
            assert cost.of_parts(counts) == pytest.approx(value(graph, counts))
            soft = cost.soft({n: torch.tensor(float(k)) for n, k in counts.items()})
            assert float(soft) == pytest.approx(value(graph, counts))


class Blocked(Machine):
    """Keeps channels in blocks where 4 divides them, takes a microsecond to give a tensor back plain."""

    def __call__(self, works, target):
        found = []
        for kind, point in works:
            even = all(n % 4 == 0 for n in point) and bool(point)
            given, left = (len(kind.spec[side]) for side in ("given", "left"))
            found.append(Timing(self.seconds(kind, point), (even,) * given, (even,) * left, (1e-6,) * left))
        return found


def test_parts_hold_changes_of_layout_and_what_the_correction_weighs(graph, tmp_path) -> None:
    predictor, _ = built(graph, tmp_path, Blocked())
    predictor.correction = Correction((0.8, 1.3, 0.0, 0.1, 0.07), 0.01, 10)
    cost, plans = predictor.cost(), [{"stem": 33}, {"one": 31}, *random_plans(graph, 6, seed=2)]
    assert any(predictor.features(c)[1] > 0 for c in plans)
    for counts in ({}, *plans):
        assert cost.of_parts(counts) == pytest.approx(predictor(counts))


def test_counted_costs_are_the_sums_of_their_parts(graph) -> None:
    from sartor.cost import bytes_of, params

    for metric, value in (("flops", lambda g, c: 2 * macs(g, c)), ("params", params), ("bytes", bytes_of)):
        cost = counted_cost(graph, metric)
        for counts in ({}, *random_plans(graph, 3, seed=2)):
            assert cost(counts) == cost.of_parts(counts) == value(graph, counts)
    with pytest.raises(BadInput, match="memory"):
        counted_cost(graph, "memory")


@pytest.mark.parametrize("step", [1, 8])
def test_predicted_latency_has_the_gradient_of_its_lines(graph, tmp_path, step) -> None:
    predictor, _ = built(graph, tmp_path)
    widths = {n: torch.tensor(0.7 * g.units + 0.3, requires_grad=True) for n, g in graph.groups.items()}
    predictor.soft(widths, step=step).backward()
    for name, w in widths.items():
        moved = [float(predictor.soft({**widths, name: (w + d).detach()}, step=step).detach()) for d in (-0.05, 0.05)]
        assert float(w.grad) == pytest.approx((moved[1] - moved[0]) / 0.1, rel=1e-3)
    if step == 8:
        assert all(float(w.grad) > 0 for w in widths.values())


def test_what_was_never_timed_is_said_by_trees(graph, tmp_path) -> None:
    predictor, machine = built(graph, tmp_path)
    other = trace(Net(40).eval(), torch.zeros(1, 3, 9, 9))  # another resolution: other kinds
    table = Table(TARGET, store=predictor.table.store, timer=machine)
    guess = Predictor(other, table)
    assert guess.missing() and guess.sources({})["trees"] == 3
    ratios = [guess({}) / predictor({"stem": 40, "one": 80}), guess({"one": 40}) / guess({})]
    assert 0.5 < ratios[0] < 2.5 and ratios[1] < 0.95
    with pytest.raises(SartorError, match="too few"):
        Trees([], "eager-cpu")


def test_an_operator_that_does_not_run_is_left_to_the_trees(graph, tmp_path) -> None:
    class Broken(Machine):
        def __call__(self, works, target):
            return [None if "linear" in k.label else Timing(self.seconds(k, p)) for k, p in works]

    predictor, _ = built(graph, tmp_path, Broken())
    assert predictor.sources({})["trees"] == 1 and predictor({}) > 0
    _, machine = built(graph, tmp_path)
    assert machine.timed == 0  # what does not run is not tried again


class Ticks:
    """A clock that is asked before and after everything in turns: 4, 5, 6, ... ms, and 1 ms for the last of them."""

    def __init__(self, works: int):
        self.takes = [1e-3 * (4 + i) for i in range(works)] + [1e-3]
        self.asked, self.now = 0, 0.0

    def __call__(self) -> float:
        if self.asked % 2:
            self.now += self.takes[self.asked // 2 % len(self.takes)]
        self.asked += 1
        return self.now


def test_real_segments_are_timed_in_turns_with_any_clock_less_what_a_call_costs(graph) -> None:
    works = [(s.kind, p) for s, p in zip(segments(graph), points(graph, {}))]
    found = in_turns(works, Target("eager", threads=1), clock=Ticks(len(works)))
    assert [t.seconds for t in found if t] == pytest.approx([1e-3 * (3 + i) for i in range(len(works))])


def test_the_profiler_of_onnx_runtime_tells_segments_apart(graph) -> None:
    pytest.importorskip("onnxruntime")
    from sartor.measure.tables.ort_profile import ProfileTimer

    works = [(s.kind, p) for s, p in zip(segments(graph), points(graph, {}))]
    found = ProfileTimer()(works, Target("onnxruntime", threads=1))
    assert all(t is not None and t.seconds > 0 for t in found)
    assert len(found) == len(works) and all(len(t.left) == 1 for t in found if t)


def test_what_the_profiler_adds_to_a_node_is_taken_off(graph, monkeypatch) -> None:
    pytest.importorskip("onnxruntime")
    from sartor.measure.tables.ort_profile import ProfileTimer
    from sartor.measure.tables.profiler import Clock

    target = Target("onnxruntime", threads=1)
    assert 0.0 <= Clock(target).begin() < 1.0
    works = [(s.kind, p) for s, p in zip(segments(graph), points(graph, {}))]
    found, measured = [], Clock._measured_overhead
    for added in (0.0, 1.0):  # a second a node: nothing is left of any
        monkeypatch.setattr(Clock, "_measured_overhead", lambda self, added=added: 0.0 * measured(self) + added)
        found.append([t.seconds for t in ProfileTimer()(works, target) if t])
    assert min(found[0]) > 1e-7 and set(found[1]) == {1e-7}


def test_times_of_a_slower_moment_are_told_as_those_of_the_first() -> None:
    from types import SimpleNamespace

    from sartor.measure.tables.profiler import REFERENCE, Clock

    nodes = [
        SimpleNamespace(name="feed", input=["image"], output=["f"]),
        SimpleNamespace(name="conv", input=["f"], output=[REFERENCE[1]]),
        SimpleNamespace(name="product", input=["rows"], output=[REFERENCE[0]]),
        SimpleNamespace(name="mine", input=["x"], output=["y"]),
    ]
    graph = SimpleNamespace(graph=SimpleNamespace(node=nodes))

    def taken(speed: float, mine: float) -> dict[str, list[float]]:
        return {n: [s / speed] * 4 for n, s in {"feed": 1.0, "conv": 4.0, "product": 3.0, "mine": mine}.items()}

    clock = Clock(Target("onnxruntime", threads=1))
    clock._overhead = 0.5
    assert clock.normalised(graph, taken(1.0, 2.0))["mine"] == pytest.approx(1.5) and clock.unit == 8.0
    assert clock.normalised(graph, taken(0.4, 2.0))["mine"] == pytest.approx(1.5)
    other = Clock(Target("onnxruntime", threads=1), unit=8.0)  # another process, of the same table
    other._overhead = 0.5
    assert other.normalised(graph, taken(0.25, 3.0))["mine"] == pytest.approx(2.5)


def test_what_the_reference_took_at_first_is_kept_with_the_table(graph, tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    works = [(s.kind, p) for s, p in zip(segments(graph), points(graph, {}))][:1]
    tables = [Table("onnxruntime-cpu:threads=1", store=Store(tmp_path / "t.sqlite")) for _ in range(2)]
    assert tables[0]._reference(None) is None
    tables[0].time(works)
    first = tables[0]._reference(None)
    assert first is not None and first > 0
    assert tables[1].timer._clock(tables[1].timed).unit == first


def test_nodes_belong_to_segments_and_layouts_change_at_their_borders() -> None:
    from types import SimpleNamespace

    from sartor.measure.tables.ort_profile import _attributed
    from sartor.measure.tables.profiler import undisturbed

    def node(name, op, inputs, outputs):
        return SimpleNamespace(name=name, op_type=op, input=inputs, output=outputs)

    nodes = [
        node("feed0", "Conv", ["x0"], ["f0"]), node("conv", "Conv", ["f0", "w"], ["c"]),
        node("pool", "MaxPool", ["c"], ["p"]), node("out0", "ReorderOutput", ["p"], ["y0_0"]),
        node("feed1", "Conv", ["x1"], ["f1"]), node("in1", "ReorderOutput", ["f1"], ["r1"]),
        node("gemm", "Gemm", ["r1"], ["y1_0"]),
    ]  # fmt: skip
    seconds = {"feed0": 9.0, "conv": 2.0, "pool": 1.0, "out0": 0.5, "feed1": 9.0, "in1": 0.25, "gemm": 4.0}
    model = SimpleNamespace(graph=SimpleNamespace(node=nodes))
    one = SimpleNamespace(outputs=1)
    assert _attributed([one, one], [[0], [1]], model, seconds) == [
        Timing(3.0, (True,), (True,), (0.5,)), Timing(4.0, (False,), (False,), (0.0,)),
    ]  # fmt: skip
    assert undisturbed([3.0, 1.0, 2.0, 50.0, 60.0, 70.0]) == 1.5


def test_one_file_is_safe_under_many_writers_and_merges(tmp_path) -> None:
    kind = Kind('{"tensors":[],"steps":[],"given":[],"left":[]}', 1, "nothing")
    here = Where("m", "r", "t")
    stores = [Store(tmp_path / "a.sqlite"), Store(tmp_path / "b.sqlite")]

    def write(store: Store, first: int) -> None:
        for i in range(first, first + 20):
            store.put(here, [(kind, (i,), Timing(i + 1.0, (True,), (False,), (0.5,)))])

    threads = [threading.Thread(target=write, args=(stores[0], 20 * k)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(stores[0].get(here, [kind.key])[kind.key]) == 80
    write(stores[1], 70)
    assert stores[0].merge(stores[1].path) == 10
    assert stores[0].get(here, [kind.key])[kind.key][(89,)] == Timing(90.0, (True,), (False,), (0.5,))
    assert [r["timings"] for r in stores[0].wheres()] == [90] and len(list(stores[0].rows())) == 90


def test_another_file_is_refused(tmp_path) -> None:
    bad = tmp_path / "bad.sqlite"
    bad.write_bytes(b"no database at all" * 100)
    with pytest.raises(CorruptFile, match="bad"):
        Store(bad).wheres()
    with pytest.raises(BadInput, match="does not exist"):
        Store(tmp_path / "a").merge(tmp_path / "none")
    later = Store(tmp_path / "later.sqlite")
    later.put(Where("m", "r", "t"), [])
    with sqlite3.connect(later.path) as link:
        link.execute("update about set value = '99'")
    with pytest.raises(CorruptFile, match="format 99"):
        later.wheres()
