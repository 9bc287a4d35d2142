"""Claims over every weight pattern, and those of single ones."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.errors import BadInput
from sartor.sparse.patterns import PATTERNS, project, projection_of
from sartor.sparse.patterns.gather_scatter import best_support, greedy_support, histograms_fit, packs
from sartor.sparse.patterns.kernels import LIBRARY
from sartor.types.weights import NM, Blocks, Elements, GatherScatter, KernelPatterns, Modular

CASES = {  # pattern -> (how, shapes [out, in, *kernel] that fit, a shape that does not fit)
    "elements": (Elements(), [(3, 5), (4, 3, 3, 3), (6, 1, 3, 3)], None),
    "n:m": (NM(2, 4), [(3, 8), (5, 4, 3, 3)], (3, 6)),
    "blocks": (Blocks(4, 2), [(8, 6), (4, 2, 3, 3)], (6, 8)),
    "kernel-patterns": (KernelPatterns(), [(4, 5, 3, 3), (6, 1, 3, 3)], (4, 5, 1, 1)),
    "gather-scatter": (GatherScatter(8, 2), [(8, 16), (4, 8, 3, 3)], (8, 12)),
    "modular": (Modular(groups=3, grouping="mixer"), [(6, 9), (7, 5)], (2, 9)),
}
FITTING = [(name, shape) for name, (_, shapes, _) in CASES.items() for shape in shapes]


def scores_for(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def every_count(name: str, shape: tuple[int, ...]) -> range:
    sizes = projection_of(CASES[name][0]).sizes(shape)
    return range(sizes.least, sizes.most + 1, sizes.step)


def test_every_pattern_is_tested_here():
    assert set(PATTERNS) == set(CASES)


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_a_mask_has_the_pattern_and_exactly_so_many_live_weights(name, shape):
    pattern, counts = projection_of(CASES[name][0]), every_count(name, shape)
    for live in counts[:: max(1, len(counts) // 7)]:
        for scores in (scores_for(shape), torch.zeros(shape), torch.ones(shape)):  # ties are no reason to drop more
            mask = project(pattern, scores, live)
            assert mask.dtype == torch.bool and mask.shape == shape
            assert int(mask.sum()) == live and pattern.holds(mask)


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_a_mask_with_the_best_scores_is_at_least_as_good_as_others(name, shape):
    """Any mask of the pattern with as many live weights keeps no larger sum of squares."""
    pattern, scores = projection_of(CASES[name][0]), scores_for(shape)
    counts = every_count(name, shape)
    live = counts[len(counts) // 2]
    kept = lambda mask: float(scores[mask].square().sum() if name != "gather-scatter" else scores[mask].sum())
    best = kept(project(pattern, scores, live))
    assert all(best >= kept(project(pattern, scores_for(shape, seed), live)) - 1e-6 for seed in range(1, 8))


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_on_the_way_to_a_pattern_the_live_set_shrinks_and_is_exact(name, shape):
    pattern, scores = projection_of(CASES[name][0]), scores_for(shape)
    most, size = pattern.sizes(shape).most, math.prod(shape)
    before = torch.ones(shape, dtype=torch.bool)
    for live in range(size, most, -max(1, (size - most) // 5)):
        mask = project(pattern, scores, live)
        assert int(mask.sum()) == live and bool((mask <= before).all())
        before = mask
    assert bool((project(pattern, scores, most) <= before).all())


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_infinite_scores_stay_and_minus_infinite_ones_go_first(name, shape):
    """A mask of the pattern that is forced comes back, whatever the other scores are."""
    pattern, counts = projection_of(CASES[name][0]), every_count(name, shape)
    live = counts[len(counts) // 2]
    forced = project(pattern, scores_for(shape, 1), live)
    assert torch.equal(project(pattern, scores_for(shape).masked_fill(forced, torch.inf), live), forced)
    assert torch.equal(project(pattern, scores_for(shape).masked_fill(~forced, -torch.inf), live), forced)


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case[2] is not None])
def test_a_matrix_that_does_not_fit_is_refused_with_the_reason(name):
    how, _, shape = CASES[name]
    with pytest.raises(BadInput, match=r"cannot have it: .*\d"):
        project(projection_of(how), torch.rand(shape), 4)


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_counts_and_scores_that_cannot_be_are_refused(name, shape):
    pattern = projection_of(CASES[name][0])
    with pytest.raises(BadInput, match="can have"):
        project(pattern, scores_for(shape), pattern.sizes(shape).least - 1)
    with pytest.raises(BadInput, match="NaN"):
        project(pattern, scores_for(shape) * torch.nan, pattern.sizes(shape).most)


def test_a_dead_mask_or_another_pattern_does_not_hold():
    assert not projection_of(Elements()).holds(torch.zeros(2, 2, dtype=torch.bool))
    assert not projection_of(NM(2, 4)).holds(torch.tensor([[1, 1, 1, 0]]).bool())
    assert not projection_of(Blocks(2, 1)).holds(torch.tensor([[1, 0], [0, 0]]).bool())
    assert not projection_of(KernelPatterns()).holds(torch.ones(2, 2, 3, 3).bool())
    assert not projection_of(GatherScatter(4, 2)).holds(torch.eye(4).bool()[:, :4])
    assert not projection_of(Modular(groups=2)).holds(torch.zeros(4, 4).bool())


def test_patterns_that_contradict_themselves_are_refused():
    with pytest.raises(BadInput, match="expected less than m; got 4 of 4"):
        NM(4, 4)
    with pytest.raises(BadInput, match="expected a divisor of 16; got 3"):
        GatherScatter(16, 3)


# kernel patterns


def test_the_library_has_eight_different_shapes_with_the_centre():
    assert len(set(LIBRARY)) == 8 and all(len(shape) == 4 and 4 in shape for shape in LIBRARY)


def test_a_kernel_keeps_the_shape_with_the_largest_norm():
    scores = torch.full((1, 1, 3, 3), 0.1)
    scores[0, 0, 0, 1] = scores[0, 0, 1, 0] = scores[0, 0, 2, 1] = 1.0
    mask = project(projection_of(KernelPatterns()), scores, 4)
    assert mask.flatten().nonzero().flatten().tolist() == [1, 3, 4, 7]


# gather-scatter


@given(st.integers(0, 10**6), st.sampled_from([(4, 1), (4, 2), (8, 2), (8, 8)]), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_the_optimal_support_keeps_at_least_what_greedy_keeps(seed, banks_each, number):
    how = GatherScatter(*banks_each)
    rng = np.random.default_rng(seed)
    gain = rng.random((how.banks // how.each, 4 * how.banks))
    best, greedy = best_support(gain, number, how), greedy_support(gain, number, how)
    assert histograms_fit(best, how) and histograms_fit(greedy, how)
    assert gain[best].sum() >= gain[greedy].sum() - 1e-9


def test_the_optimal_support_is_the_best_of_all_on_a_small_group():
    """Two rows, two banks, four columns: every set of packs is tried."""
    how = GatherScatter(2, 1)
    gain = np.random.default_rng(0).random((2, 4))
    sets = [np.array([bool(i >> k & 1) for k in range(8)]).reshape(2, 4) for i in range(256)]
    valid = [m for m in sets if m.sum() == 4 and histograms_fit(m, how)]
    assert len(valid) > 1
    assert gain[best_support(gain, 2, how)].sum() == pytest.approx(max(gain[m].sum() for m in valid))


@given(st.integers(0, 10**6), st.sampled_from([(4, 1), (4, 2), (8, 4), (8, 8)]), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_every_support_is_a_union_of_packs(seed, banks_each, number):
    how = GatherScatter(*banks_each)
    rows = how.banks // how.each
    mask = best_support(np.random.default_rng(seed).random((rows, 8 * how.banks)), number, how)
    parts = packs(mask, how)
    assert parts.shape == (number, how.banks, 2)
    rebuilt = np.zeros_like(mask)
    for pack in parts:
        assert sorted(pack[:, 1] % how.banks) == list(range(how.banks))  # no two weights in one bank
        assert np.array_equal(np.bincount(pack[:, 0], minlength=rows), np.full(rows, how.each))
        assert not rebuilt[pack[:, 0], pack[:, 1]].any()
        rebuilt[pack[:, 0], pack[:, 1]] = True
    assert np.array_equal(rebuilt, mask)


def test_as_many_weights_of_a_row_as_banks_cost_little_against_free_places():
    """e = B balances rows; at 80 % sparsity the kept magnitude is a few percent below that of free places."""
    weight = torch.randn(32, 256, generator=torch.Generator().manual_seed(0)).abs()
    live = weight.numel() // 5 // 16 * 16
    free = weight[project(projection_of(Elements()), weight, live)].sum()
    balanced = weight[project(projection_of(GatherScatter(16, 16)), weight, live)].sum()
    assert 0.95 < float(balanced / free) <= 1


def test_packs_of_something_else_are_refused():
    with pytest.raises(BadInput, match="whole packs"):
        packs(np.eye(4, dtype=bool)[:2], GatherScatter(4, 2))


# modular


def test_a_quarter_of_the_weights_is_the_published_density():
    """8 groups, all weights inside them and 15 % across: 25.6 %."""
    pattern = projection_of(Modular(groups=8))
    shape = (1024, 512)
    inside = pattern.sizes(shape).least
    live = inside + round(0.15 * (math.prod(shape) - inside))
    assert inside == math.prod(shape) // 8 and live / math.prod(shape) == pytest.approx(0.256, abs=1e-3)
    mask = project(pattern, scores_for(shape), live)
    group = lambda n: torch.arange(n) * 8 // n
    same = group(1024)[:, None] == group(512)[None, :]
    assert bool(mask[same].all()) and float(mask[~same].float().mean()) == pytest.approx(0.15, abs=1e-5)


def test_groupings_differ_and_are_balanced():
    shape = (16, 16)
    masks = [
        project(projection_of(Modular(groups=4, grouping=g)), torch.zeros(shape), 64)
        for g in ("index", "mixer", "random")
    ]
    assert all(int(m.sum()) == 64 and bool((m.sum(0) == 4).all()) for m in masks)
    assert not any(torch.equal(a, b) for i, a in enumerate(masks) for b in masks[:i])
