import copy

import pytest
import torch
from torch import nn

from sartor.errors import BadInput
from sartor.train import accuracy


def batches(logits, targets, size=3):
    return [(logits[i : i + size], targets[i : i + size]) for i in range(0, len(logits), size)]


def test_percent_of_right_answers_over_uneven_batches():
    logits, targets = torch.eye(4)[[0, 1, 2, 3]], torch.tensor([0, 1, 2, 0])
    assert accuracy(nn.Identity(), batches(logits, targets)) == 75.0
    assert accuracy(nn.Identity(), batches(logits, torch.eye(4)[targets])) == 75.0  # a score for every class
    assert accuracy(nn.Identity(), [{"input": logits, "labels": targets}]) == 75.0


def test_a_nan_is_wrong_whatever_the_target():
    logits = torch.full((10, 10), float("nan"))
    assert accuracy(nn.Identity(), batches(logits, torch.arange(10))) == 0.0
    logits = torch.eye(10)
    logits[0, 3] = float("nan")
    assert accuracy(nn.Identity(), batches(logits, torch.arange(10))) == 90.0


def test_dense_outputs_count_every_position():
    logits, targets = torch.randn(2, 5, 3, 3), torch.zeros(2, 3, 3, dtype=torch.long)
    expected = 100 * (logits.argmax(1) == 0).float().mean().item()
    assert accuracy(nn.Identity(), [(logits, targets)]) == pytest.approx(expected)


def test_the_model_is_given_back_as_it_was():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model[2].eval()
    state = copy.deepcopy(model.state_dict())
    data = [(torch.randn(8, 4), torch.arange(8) % 4)]
    assert accuracy(model, data) == accuracy(model, data)
    assert [m.training for m in model] == [True, True, False]
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


def test_errors_say_what_was_expected():
    with pytest.raises(BadInput, match="at least one batch"):
        accuracy(nn.Identity(), [])
    with pytest.raises(BadInput, match="at least two classes"):
        accuracy(nn.Identity(), [(torch.randn(3, 1), torch.zeros(3))])
    with pytest.raises(BadInput, match=r"expected targets \[3\]"):
        accuracy(nn.Identity(), [(torch.randn(3, 4), torch.zeros(2))])


def test_large_pictures_go_through_in_parts_with_the_same_answer() -> None:
    seen: list[int] = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(len(x))
            return self.head(x.mean((2, 3)))

    torch.manual_seed(0)
    x, y, model = torch.randn(11, 3, 256, 256), torch.randint(4, (11,)), Counting().eval()
    expected = 100 * int((model(x).argmax(1) == y).sum()) / 11
    seen.clear()
    assert accuracy(model, [(x, y)]) == expected and sum(seen) == 11 and max(seen) == 2
