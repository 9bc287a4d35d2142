"""The algebra of axes: refinement, alignment, freezing; masks and positions compared with brute force."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.structure.axes import (
    UNIT,
    Axis,
    Conflict,
    find,
    fixed,
    fresh,
    keep_mask,
    leaves,
    mixing,
    new_size,
    positions,
    product,
    reshape,
    split_product,
    split_sum,
    total,
    unify,
)
from sartor.structure.reasons import sentence


def test_a_reshape_refines_a_leaf_into_a_product_and_back():
    a = fresh(12)
    h, d = reshape([a], [3, 4])
    assert (h.size, d.size) == (3, 4) and find(a).kind == "p"
    (b,) = reshape([h, d], [12])
    assert [find(k) for k in b.kids] == [find(k) for k in find(a).kids]


def test_unifying_two_structures_aligns_them():
    a, b = fresh(12), fresh(12)
    reshape([a], [3, 4])
    x, y = reshape([b], [6, 2])
    unify(a, b, "test")
    assert [leaf.size for leaf in leaves(a)] == [3, 2, 2] == [leaf.size for leaf in leaves(b)]
    assert find(x).kind == "p" and find(y).kind is None


def test_a_product_against_a_sum_is_cut():
    a, left, right = fresh(12), fresh(8), fresh(4)
    reshape([a], [6, 2])
    unify(a, total([left, right]), "test")
    assert find(left).kind == "p" and find(left).kids[-1] is not None
    assert find(find(left).kids[1]) is find(find(right).kids[1])  # (x + y) * r: the inner factor is shared


def test_what_cannot_be_aligned_is_frozen_with_a_reason():
    a, b = fresh(6), fresh(6)
    reshape([a], [2, 3])
    reshape([b], [3, 2])
    unify(a, b, "the add in block 3")
    assert find(a).frozen and "block 3" in sentence(find(a).frozen) and find(b).frozen


def test_freezing_spreads_and_the_first_reason_stays():
    a, b = fresh(8), fixed(8, "an output")
    h, _ = reshape([a], [2, 4])
    unify(a, b, "x")
    assert sentence(find(h).frozen) == "an output"
    unify(a, fixed(8, "later"), "x")
    assert sentence(find(a).frozen) == "an output"


def test_different_sizes_freeze_both():
    a, b = fresh(3), fresh(4)
    unify(a, b, "an add")
    assert find(a).frozen and "3 and 4" in sentence(find(b).frozen)


def test_mixing_follows_refinement_and_unification_and_spares_the_unit():
    a, b = fresh(8), fresh(8)
    mixing(a, "a norm")
    h, _ = reshape([a], [2, 4])
    unify(a, b, "x")
    assert [list(map(sentence, find(x).mix)) for x in (h, b)] == [["a norm"], ["a norm"]]
    mixing(UNIT, "a norm")
    assert not UNIT.mix


def test_a_cut_inside_an_inner_factor_conflicts():
    a = fresh(12)
    reshape([a], [3, 4])
    with pytest.raises(Conflict):
        split_sum(a, 5)
    with pytest.raises(Conflict):
        split_product(a, 5)


@st.composite
def structures(draw, depth=3):
    """An axis built of leaves, products and sums; leaves may repeat."""
    pool = [fresh(n) for n in draw(st.lists(st.integers(2, 4), min_size=1, max_size=4))]

    def build(level):
        if level == 0 or draw(st.booleans()):
            return draw(st.sampled_from(pool))
        kids = [build(level - 1) for _ in range(draw(st.integers(2, 3)))]
        return (product if draw(st.booleans()) else total)(kids)

    axis = build(depth)
    return axis, pool


@settings(max_examples=150, deadline=None)
@given(structures(), st.randoms(use_true_random=False))
def test_positions_masks_and_sizes_agree(drawn, random):
    axis, pool = drawn
    if axis.size > 2000:
        return
    masks = {leaf: torch.tensor([random.random() < 0.6 for _ in range(leaf.size)]) for leaf in pool}
    keep = keep_mask(axis, masks)
    assert keep.shape == (axis.size,)
    removed = torch.zeros(axis.size, dtype=torch.bool)
    for leaf in pool:
        where = positions(axis, leaf)
        assert where.shape[0] == leaf.size
        removed[where[~masks[leaf]].reshape(-1)] = True
    assert torch.equal(keep, ~removed)
    assert new_size(axis, {leaf: int(m.sum()) for leaf, m in masks.items()}) == int(keep.sum())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.data())
def test_reshapes_preserve_size_and_compose(shape, data):
    axes = [fresh(n) for n in shape]
    n = math.prod(shape)
    divisors = [d for d in range(1, n + 1) if n % d == 0]
    first = data.draw(st.sampled_from(divisors))
    out = reshape(axes, [first, n // first])
    assert [find(a).size for a in out] == [first, n // first]
    back = reshape(out, shape)
    assert [find(a).size for a in back] == shape


def test_repr_shows_the_structure():
    a = fresh(12)
    reshape([a], [3, 4])
    assert repr(a) == "(3 * 4)" and repr(Axis(2, frozen="x")) == "!2"


def test_a_batch_of_nothing_is_reshaped_like_any_other():
    channels, nothing = fresh(6), fixed(0, "no detections")
    out = reshape([nothing, channels, fixed(4, "a height")], (0, 24))
    assert out[0] is nothing and not out[1].frozen and next(iter(leaves(out[1]))) is channels
    (gone,) = reshape([nothing, fresh(6)], (0,))
    assert gone.frozen
