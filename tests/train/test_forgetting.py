import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.errors import BadInput
from sartor.train.forgetting import ForgettingCounts

histories = st.integers(1, 6).flatmap(
    lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=8)
)


@given(histories, st.data())
@settings(deadline=None)
def test_counts_are_those_of_a_loop_and_the_least_forgotten_go(history, data):
    n = len(history[0])
    counts = ForgettingCounts(n)
    for row in history:
        counts.update(torch.arange(n), torch.tensor(row))
    columns = list(zip(*history))
    events = [sum(a and not b for a, b in itertools.pairwise(c)) for c in columns]
    assert counts.events.tolist() == events
    drop = data.draw(st.integers(0, n - 1))
    kept = counts.kept(drop).tolist()
    assert len(kept) == n - drop and kept == sorted(set(kept))
    rank = [e if any(c) else 10**9 for e, c in zip(events, columns)]
    gone = [rank[i] for i in range(n) if i not in kept]
    assert not gone or max(gone) <= min(rank[i] for i in kept)


def test_a_state_survives_and_wrong_input_is_refused():
    counts, other = ForgettingCounts(3), ForgettingCounts(3)
    counts.update(torch.tensor([2, 0]), torch.tensor([True, True]))
    counts.update(torch.tensor([2]), torch.tensor([False]))
    other.load_state_dict(counts.state_dict())
    assert torch.equal(other.kept(1), counts.kept(1)) and other.events.tolist() == [0, 0, 1]
    for index, correct in (([3], [True]), ([-1], [True]), ([0, 0], [True, True]), ([0], [True, False])):
        with pytest.raises(BadInput, match="sample numbers"):
            counts.update(torch.tensor(index), torch.tensor(correct))
    for drop in (-1, 3):
        with pytest.raises(BadInput, match="drop"):
            counts.kept(drop)
    with pytest.raises(BadInput, match="at least one"):
        ForgettingCounts(0)
