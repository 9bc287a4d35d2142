import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.errors import BadInput
from sartor.train import distillation


def test_worked_value():
    # p = softmax(2, 0), q = (1/2, 1/2): KL = sum p ln(2 p) at T = 1
    p = torch.tensor([2.0, 0.0]).softmax(0)
    expected = (p * (2 * p).log()).sum()
    assert distillation(torch.zeros(3, 2), torch.tensor([[2.0, 0.0]] * 3), 1.0) == pytest.approx(expected.item())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.5, 8))
def test_never_negative_and_zero_only_for_the_same_answers(seed, temperature):
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(5, 7, generator=g), torch.randn(5, 7, generator=g)
    assert distillation(a, b, temperature) > 0
    assert distillation(a, a + 3, temperature) == pytest.approx(0, abs=1e-5)  # a constant shifts no softmax


def test_gradient_pulls_like_a_soft_cross_entropy():
    student, teacher = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6)
    (ours,) = torch.autograd.grad(distillation(student, teacher, 3.0), student)
    (soft,) = torch.autograd.grad(9 * F.cross_entropy(student / 3, (teacher / 3).softmax(1)), student)
    torch.testing.assert_close(ours, soft)


def test_dense_logits_average_over_positions():
    student, teacher = torch.randn(2, 5, 3, 3), torch.randn(2, 5, 3, 3)
    flat = [t.permute(0, 2, 3, 1).reshape(-1, 5) for t in (student, teacher)]
    torch.testing.assert_close(distillation(student, teacher, 2.0), distillation(*flat, 2.0))


def test_half_precision_logits_are_computed_in_full():
    assert distillation(torch.randn(2, 3).bfloat16(), torch.randn(2, 3), 2.0).dtype == torch.float32


def test_other_shapes_are_an_error():
    with pytest.raises(BadInput, match="one shape"):
        distillation(torch.zeros(2, 3), torch.zeros(2, 4), 1.0)
