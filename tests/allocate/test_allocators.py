"""Claims over every registered allocator, on networks drawn by hypothesis."""

import time
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.allocate import ALLOCATORS, Cap, floor_counts, ladder, tied_classes
from sartor.allocate.bundles import step_of
from sartor.errors import BadInput, BudgetNotMet, NothingToDo, SartorError

NAMES = list(ALLOCATORS)


@dataclass
class Net:
    """A chain of layers whose widths are the groups: cost of a layer is width in x width out x positions."""

    units: dict
    scores: dict
    ties: list
    positions: list

    def macs(self, counts):
        widths = [3, *(counts.get(g, n) for g, n in self.units.items()), 2]
        return sum(a * b * p for a, b, p in zip(widths, widths[1:], self.positions))

    def params(self, counts):
        return sum(counts.get(g, n) * (i + 1) for i, (g, n) in enumerate(self.units.items()))


@st.composite
def nets(draw, distinct=False):
    sizes = draw(st.lists(st.integers(1, 17), min_size=1, max_size=5))
    ties = []
    if len(sizes) >= 3 and draw(st.booleans()):
        sizes[2] = sizes[0]
        ties = [("g0", "g2")]
    # few distinct values: equal scores are where orders go wrong
    numbers = st.integers(-500, 500) if distinct else draw(st.sampled_from([st.integers(0, 2), st.floats(-1, 10)]))
    drawn = [draw(st.lists(numbers, min_size=n, max_size=n, unique=distinct)) for n in sizes]
    scores = {f"g{i}": torch.tensor(values, dtype=torch.float64) / 8 for i, values in enumerate(drawn)}
    positions = draw(st.lists(st.integers(1, 50), min_size=len(sizes) + 1, max_size=len(sizes) + 1))
    return Net({f"g{i}": n for i, n in enumerate(sizes)}, scores, ties, positions)


options = st.fixed_dictionaries(
    {"floor": st.sampled_from([0.0, 0.1, 0.25, 0.5]), "round_to": st.sampled_from([1, 2, 4, None])}
)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None)
@given(net=nets(), share=st.floats(0.05, 0.99), second=st.floats(0.05, 1.0), how=options)
def test_every_limit_is_met_and_nothing_could_be_put_back(name, net, share, second, how):
    caps = [Cap(net.macs, share * net.macs({}), "macs"), Cap(net.params, second * net.params({}), "params")]
    try:
        keep = ALLOCATORS[name].value(net.scores, caps, net.units, ties=net.ties, **how)
    except BudgetNotMet as e:
        least = floor_counts(net.units, net.ties, **how)
        assert any(c.cost(least) > c.at_most for c in caps)
        assert {g: len(k) for g, k in e.plan.items()}.items() <= least.items()
        return
    counts = {g: len(k) for g, k in keep.items()}
    full = {**net.units, **counts}
    assert all(c.cost(counts) <= c.at_most for c in caps)
    for g, k in keep.items():
        assert 0 < len(k) < net.units[g]
        assert list(k) == sorted(set(k)) and k[0] >= 0 and k[-1] < net.units[g]
        assert len(k) % step_of(how["round_to"], net.units[g]) == 0 and len(k) >= how["floor"] * net.units[g]
        lost = set(range(net.units[g])) - set(k)
        assert max(float(net.scores[g][i]) for i in lost) <= min(float(net.scores[g][i]) for i in k)
    for tie in net.ties:
        assert len({full[g] for g in tie}) == 1
    for together in tied_classes(net.units, net.ties):
        whole = net.units[together[0]]
        steps = ladder(whole, how["floor"], step_of(how["round_to"], whole))
        at = steps.index(full[together[0]])
        if at:
            more = {**counts, **dict.fromkeys(together, steps[at - 1])}
            assert any(c.cost(more) > c.at_most for c in caps), f"{together} could have kept {steps[at - 1]}"


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(net=nets(distinct=True), share=st.floats(0.2, 0.95), data=st.data())
def test_renumbering_units_renumbers_the_plan(name, net, share, data):
    g = data.draw(st.sampled_from(sorted(net.units)))
    order = data.draw(st.permutations(range(net.units[g])))
    moved = {**net.scores, g: net.scores[g][list(order)]}

    def plan(scores):
        try:
            return ALLOCATORS[name].value(
                scores, [(net.macs, share * net.macs({}))], net.units, ties=net.ties, floor=0.0
            )
        except SartorError as e:
            return type(e)

    before, after = plan(net.scores), plan(moved)
    if isinstance(before, dict) and g in before:
        before = {**before, g: tuple(i for i in range(len(order)) if order[i] in before[g])}
    assert after == before


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(net=nets(), share=st.floats(0.3, 0.9), scale=st.sampled_from([2.0, 2.0**30]))
def test_the_scale_of_all_scores_does_not_matter(name, net, share, scale):
    caps = [(net.macs, share * net.macs({}))]
    results = []
    for factor in (1.0, scale):
        try:
            results.append(
                ALLOCATORS[name].value({g: s * factor for g, s in net.scores.items()}, caps, net.units, ties=net.ties)
            )
        except SartorError as e:
            results.append(str(e))
    counted = [{g: len(k) for g, k in r.items()} if isinstance(r, dict) else r for r in results]
    assert counted[0] == counted[1]


@pytest.mark.parametrize("name", NAMES)
def test_source_is_named_and_said(name):
    assert ALLOCATORS[name].source and ALLOCATORS[name].summary.endswith(".")


def net_of(units, scores, positions=(1, 1, 1)):
    return Net(units, {g: torch.tensor(s) for g, s in scores.items()}, [], list(positions))


def test_global_takes_the_lowest_scores_wherever_they_are():
    net = net_of({"a": 4, "b": 4}, {"a": [0.4, 0.1, 8.0, 0.2], "b": [5.0, 6.0, 7.0, 0.3]})
    keep = ALLOCATORS["global"].value(net.scores, [(lambda c: c.get("a", 4) + c.get("b", 4), 4)], net.units)
    assert keep == {"a": (2,), "b": (0, 1, 2)}


def test_uniform_takes_the_same_share_everywhere():
    net = net_of({"a": 4, "b": 8}, {"a": [9.0, 0.1, 8.0, 0.2], "b": [90.0] * 4 + [70.0] * 4})
    keep = ALLOCATORS["uniform"].value(net.scores, [(lambda c: c.get("a", 4) + c.get("b", 8), 6)], net.units)
    assert keep == {"a": (0, 2), "b": (0, 1, 2, 3)}


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(2, 40), min_size=1, max_size=6), share=st.floats(0.2, 0.95), seed=st.integers(0, 99))
def test_uniform_shares_differ_by_half_a_step_of_each_when_units_cost_the_same(sizes, share, seed):
    units = {f"g{i}": n for i, n in enumerate(sizes)}
    g = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(n, generator=g) for name, n in units.items()}
    total = sum(sizes)
    keep = ALLOCATORS["uniform"].value(
        scores, [(lambda c: sum({**units, **c}.values()), max(share * total, len(sizes)))], units, floor=0.0
    )
    lost = {name: 1 - len(keep.get(name, range(n))) / n for name, n in units.items()}
    for name, n in units.items():
        others = [lost[o] + 0.5 / units[o] for o in units if len(keep.get(o, range(units[o]))) > 1]
        assert lost[name] - 0.5 / n <= min(others, default=1.0) + 1e-9


def test_what_is_left_over_goes_to_cheaper_units():
    """After the dear unit is gone a cheap one fits back; the order alone would have left it out."""
    units = {"dear": 2, "cheap": 3}
    scores = {"dear": torch.tensor([3.0, 9.0]), "cheap": torch.tensor([1.0, 2.0, 9.0])}

    def cost(counts):
        return 100 * counts.get("dear", 2) + counts.get("cheap", 3)

    assert ALLOCATORS["global"].value(scores, [(cost, 103)], units) == {"dear": (1,)}
    assert ALLOCATORS["global"].value(scores, [(cost, 102)], units) == {"dear": (1,), "cheap": (1, 2)}


def test_ties_with_a_group_that_stays_whole_stay_whole():
    net = net_of({"a": 4, "b": 4}, {"a": [1.0, 2.0, 3.0, 4.0], "b": [5.0, 6.0, 7.0, 8.0]})
    keep = ALLOCATORS["global"].value(net.scores, [(net.macs, 20)], net.units, ties=[("a", "elsewhere")])
    assert list(keep) == ["b"]


def test_met_unreachable_and_wrong_are_told_apart():
    net = net_of({"a": 4}, {"a": [1.0, 2.0, 3.0, 4.0]})
    allocate = ALLOCATORS["global"].value
    with pytest.raises(NothingToDo, match="already meets"):
        allocate(net.scores, [(net.macs, 1e9)], net.units)
    with pytest.raises(BudgetNotMet, match="macs cannot go below 5, asked for at most 4") as e:
        allocate(net.scores, [Cap(net.macs, 4, "macs"), Cap(net.params, 3, "params")], net.units)
    assert e.value.plan == {"a": (3,)} and "params" not in str(e.value)
    with pytest.raises(BadInput, match="at least one limit"):
        allocate(net.scores, [], net.units)
    with pytest.raises(BadInput, match="group 'b' has no scores"):
        allocate(net.scores, [(net.macs, 5)], {"a": 4, "b": 2})
    with pytest.raises(BadInput, match=r"expected shape \(5,\); got \(4,\)"):
        allocate(net.scores, [(net.macs, 5)], {"a": 5})
    with pytest.raises(BadInput, match="finite"):
        allocate({"a": torch.tensor([1.0, float("nan")])}, [(net.macs, 5)], {"a": 2})
    with pytest.raises(BadInput, match="floor: expected"):
        allocate(net.scores, [(net.macs, 5)], net.units, floor=1.0)
    with pytest.raises(BadInput, match="round_to: expected"):
        allocate(net.scores, [(net.macs, 5)], net.units, round_to=0)
    with pytest.raises(BadInput, match="equal sizes; got a 4, b 2"):
        allocate({**net.scores, "b": torch.ones(2)}, [(net.macs, 5)], {"a": 4, "b": 2}, ties=[("a", "b")])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("caps", [1, 3])
def test_a_large_network_asks_for_few_costs(name, caps):
    """60 groups, 3,000 units: the cost function may take a millisecond."""
    g = torch.Generator().manual_seed(0)
    units = {f"g{i}": 50 for i in range(60)}
    scores = {n: torch.rand(50, generator=g) for n in units}
    positions = [2 ** (10 - i // 6) for i in range(61)]
    calls = 0

    def cost(counts):
        nonlocal calls
        calls += 1
        widths = [3, *(counts.get(n, 50) for n in units), 10]
        return sum(a * b * p for a, b, p in zip(widths, widths[1:], positions))

    whole = cost({})
    started = time.perf_counter()
    ALLOCATORS[name].value(scores, [(cost, whole * (0.5 + 0.1 * i)) for i in range(caps)], units)
    assert calls <= 400 * caps
    assert time.perf_counter() - started < 2.0
