"""Nuclear-norm drops against singular values, elimination against the naive one, entropies of known matrices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.errors import BadInput
from sartor.importance import CRITERIA
from sartor.importance.spectral import CUT, elimination_order, entropy, joint_drop, nuclear_drops


def drawn(c, n, rank, seed, b=2):
    """Maps [b, c, n] of a rank, float64, the first row dead."""
    g = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
    a = make(b, c, rank) @ make(b, rank, n)
    a[:, 0] = 0
    return a


def by_definition(a):
    """||A||_* - ||A with row i zeroed||_* from c + 1 decompositions a matrix."""
    whole = torch.linalg.svdvals(a).sum(-1)
    less = [torch.linalg.svdvals(a * (torch.arange(a.shape[-2]) != i)[:, None]).sum(-1) for i in range(a.shape[-2])]
    return whole[..., None] - torch.stack(less, -1)


@settings(max_examples=40)
@given(c=st.integers(1, 20), n=st.integers(1, 20), rank=st.integers(1, 20), seed=st.integers(0, 2**20))
def test_drops_equal_the_definition_for_every_shape_and_rank(c, n, rank, seed):
    a = drawn(c, n, min(c, n, rank), seed)
    want = by_definition(a)
    assert torch.allclose(nuclear_drops(a), want, rtol=1e-6, atol=1e-7 * float(want.max()))
    assert (nuclear_drops(a)[:, 0] == 0).all()


@pytest.mark.parametrize("c, n", [(8, 30), (30, 30), (30, 8), (12, 1)])
def test_drops_of_full_rank_are_exact_to_eleven_digits(c, n):
    a = drawn(c, n, min(c, n), 3)
    want = by_definition(a)
    assert float(((nuclear_drops(a) - want)[:, 1:] / want[:, 1:]).abs().max()) < (1e-10 if n > 1 else 1e-8)
    assert torch.equal(nuclear_drops(a).argsort(stable=True), want.clamp(min=0).argsort(stable=True))


def test_drops_follow_the_scale_and_stay_below_the_length_of_the_row():
    a = drawn(9, 14, 9, 1)
    assert torch.allclose(nuclear_drops(a * 1e9), nuclear_drops(a) * 1e9, rtol=1e-9)
    assert (nuclear_drops(a) <= a.norm(dim=2) * (1 + 1e-9)).all()
    assert torch.equal(nuclear_drops(torch.zeros(3, 4)), torch.zeros(3, dtype=torch.float64)) and CUT < 1e-12


def test_weak_rows_count_as_what_they_are():
    """Twelve orders below the largest eigenvalue, and in a basis of their own."""
    a = torch.diag(torch.tensor([1.0, 1e-3, 1e-6, 0.0], dtype=torch.float64))
    assert torch.allclose(nuclear_drops(a), a.diagonal(), rtol=1e-6, atol=0)


def test_a_repeated_row_adds_less_than_a_row_of_its_own():
    a = torch.eye(4, dtype=torch.float64)
    a[1] = a[0]
    assert torch.allclose(nuclear_drops(a), torch.tensor([2**0.5 - 1, 2**0.5 - 1, 1.0, 1.0], dtype=torch.float64))


@settings(max_examples=20)
@given(c=st.integers(1, 9), n=st.integers(1, 12), seed=st.integers(0, 2**20), data=st.data())
def test_a_set_adds_what_zeroing_it_takes(c, n, seed, data):
    a = drawn(c, n, min(c, n), seed)
    rows = torch.tensor(data.draw(st.lists(st.integers(0, c - 1), unique=True)), dtype=torch.int64)
    zeroed = a.clone()
    zeroed[:, rows] = 0
    want = torch.linalg.svdvals(a).sum(-1) - torch.linalg.svdvals(zeroed).sum(-1)
    assert torch.allclose(joint_drop(a, rows), want, atol=1e-9)
    one = torch.zeros(c, dtype=torch.bool)
    one[c - 1] = True
    assert torch.allclose(joint_drop(a, one), nuclear_drops(a)[:, -1], atol=1e-6)


@pytest.mark.parametrize("c, n", [(7, 20), (12, 5)])
def test_elimination_is_the_naive_greedy_one(c, n):
    a = drawn(c, n, min(c, n), 5, b=3)
    left, order = list(range(c)), []
    while left:
        order.append(left.pop(int(by_definition(a[:, left]).mean(0).argmin())))
    got = elimination_order(a).tolist()
    assert got[0] == 0 and got == order
    assert elimination_order(a, 3).tolist() == order[:3]


def test_elimination_gives_up_one_of_a_pair_not_both():
    a = torch.diag(torch.tensor([1.0, 1.0, 0.5, 3.0]))
    a[1] = a[0]
    assert elimination_order(a).tolist()[:2] == [0, 2]
    assert int(nuclear_drops(a).argsort()[1]) == 1  # each alone, the second of the pair would go next


def test_entropies_of_known_kernels():
    assert float(entropy(torch.eye(16))) == pytest.approx(4.0, abs=1e-12)
    v = torch.randn(16, 1, dtype=torch.float64)
    assert float(entropy(v @ v.T)) == pytest.approx(0.0, abs=1e-9)
    blocks = torch.block_diag(torch.ones(4, 4), torch.ones(12, 12))
    assert float(entropy(blocks)) == pytest.approx(-(0.25 * -2 + 0.75 * torch.log2(torch.tensor(0.75)).item()))


def test_wrong_shapes_and_counts_are_refused():
    with pytest.raises(BadInput, match="rows, columns"):
        nuclear_drops(torch.zeros(3))
    with pytest.raises(BadInput, match="between 0 and 2"):
        elimination_order(torch.eye(2), 3)


def test_chip_is_the_mean_over_samples_however_they_are_taken(monkeypatch):
    maps = drawn(6, 10, 6, 2, b=7).movedim(0, 1)  # [units, samples, rest]
    want = by_definition(maps.movedim(1, 0)).mean(0)
    chip = CRITERIA["chip"].value.function
    assert torch.allclose(chip(maps), want, rtol=1e-9, atol=1e-12)
    monkeypatch.setattr("sartor.importance.criteria.chip.CHUNK", 1)  # one sample at a time
    assert torch.allclose(chip(maps), want, rtol=1e-9, atol=1e-12)
