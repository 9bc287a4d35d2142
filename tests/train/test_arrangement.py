"""What batches and targets mean is found out once, and what it cannot be is said with what to pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sartor.errors import BadInput, UnknownName
from sartor.train import split
from sartor.train.arrangement import arranged
from sartor.train.metrics import METRICS
from sartor.types import Data, Judge


def net(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, outputs).eval()


class Labelled(nn.Module):
    """Makes its inputs from labels, as sequence-to-sequence models do."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 8), nn.Linear(8, 7)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, Any]:
        if labels is None:
            raise ValueError("specify decoder inputs")
        logits = self.head(self.embedding(input_ids).mean(1, keepdim=True) + self.embedding(labels))
        return {"loss": F.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0, 1, 2, 0, 1, 2])
MULTI_HOT = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]])


def test_the_target_key_is_named_and_other_keys_are_left_out_with_a_word() -> None:
    batches = [{"image": X, "mask": CLASSES, "id": list("abcdef")}]
    with pytest.raises(BadInput, match="target='mask'"):
        arranged(net(), Data(batches), Judge())
    with pytest.raises(BadInput, match="they have image, mask, id"):
        arranged(net(), Data(batches), Judge(), target="masks")
    seen = arranged(net(), Data(batches, batches), Judge(), target="mask")
    inputs, targets = split(next(iter(seen.data.train)))
    assert inputs is X and targets is CLASSES and seen.task == "classes" and seen.example is X
    assert any("left out: id" in note for note in seen.notes)


def test_batches_of_different_shapes_are_several_examples() -> None:
    class Lengths(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[1] == 7:
                raise ValueError("7 is refused")
            return self.head(x).mean(1)

    batches = [(torch.randn(2, n, 4), torch.zeros(2).long()) for n in (5, 7, 6, 9)]
    seen = arranged(Lengths(), Data(batches, batches), Judge())
    assert isinstance(seen.example, list) and [x.shape[1] for x in seen.example] == [5, 6]
    same = [(torch.randn(n, 5, 4), torch.zeros(n).long()) for n in (3, 2, 1)]
    assert arranged(Lengths(), Data(same), Judge()).example is same[0][0]


class Nodes:
    """Inputs of a kind of their own, such as a graph whose number of edges varies."""

    def __init__(self, edges: int) -> None:
        self.x, self.edges = torch.randn(4, 4), torch.zeros(2, edges).long()


def test_only_what_can_be_several_examples_is_a_list() -> None:
    class OfNodes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, nodes: Nodes) -> torch.Tensor:
            return self.head(nodes.x)

    graphs = [(Nodes(n), torch.zeros(4).long()) for n in (3, 5)]
    assert arranged(OfNodes(), Data(graphs), Judge()).example is graphs[0][0]
    refused = [(torch.randn(2, n), torch.zeros(2).long()) for n in (4, 5)]
    assert arranged(net(), Data(refused), Judge()).example is refused[0][0]


def test_the_example_comes_from_the_first_part_that_can_be_read() -> None:
    triples = [(X, CLASSES, CLASSES)]
    assert arranged(net(), Data(triples, calibration=[(X, CLASSES)]), Judge()).example is X


def test_a_list_is_one_argument_where_the_forward_takes_it_so() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
            return torch.stack([self.head(v) for v in views]).amax(0)

    views = [torch.randn(6, 4), torch.randn(6, 4)]
    seen = arranged(Views(), Data([(views, CLASSES)], [(views, CLASSES)]), Judge())
    (inputs, targets), *_ = [split(b) for b in seen.data.val]
    assert type(inputs) is tuple and inputs[0] is views and targets is CLASSES and seen.example == (views,)
    assert seen.task == "classes" and any("one argument" in note for note in seen.notes)


def test_labels_stay_where_the_network_needs_them_and_its_own_loss_serves() -> None:
    ids, labels = torch.randint(7, (5, 3)), torch.randint(7, (5, 4))
    batches = [{"input_ids": ids, "labels": labels}]
    seen = arranged(Labelled().eval(), Data(batches, batches), Judge())
    inputs, targets = split(next(iter(seen.data.val)))
    assert set(inputs) == {"input_ids", "labels"} and targets is labels
    model = Labelled().eval()
    assert seen.judge.measure is not None and seen.judge.metric == "-loss"
    assert seen.judge.measure(model, seen.data.val) == pytest.approx(-float(model(**inputs)["loss"]))


def test_unlabelled_batches_serve_calibration() -> None:
    for batches in ([X, X], [[X], [X]]):
        seen = arranged(net(), Data(calibration=batches), Judge())
        assert [split(b)[1] for b in seen.data.calibration] == [None, None] and not seen.labelled


def test_a_loader_keeps_its_length_and_sampler() -> None:
    class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 6

        def __getitem__(self, i: int) -> dict[str, Any]:
            return {"input": X[i], "label": CLASSES[i]}

    loader = torch.utils.data.DataLoader(Rows(), batch_size=2)
    seen = arranged(net(), Data(loader), Judge())
    assert len(seen.data.train) == 3 and seen.data.train.sampler is loader.sampler


def test_multi_label_targets_are_never_judged_by_the_largest_output() -> None:
    batches = [(X, MULTI_HOT)]
    with pytest.raises(BadInput, match="evaluate="):
        arranged(net(), Data(batches, batches), Judge(F.binary_cross_entropy_with_logits))
    with pytest.raises(BadInput, match="multi-label"):
        METRICS["accuracy"].value(net(), batches)
    seen = arranged(net(), Data(batches, batches), Judge(F.binary_cross_entropy_with_logits), metric="f1")
    value = net()(X) > 0
    expected = 200.0 * (value & (MULTI_HOT > 0)).sum() / (value.sum() + MULTI_HOT.sum())
    assert seen.judge.measure(net(), batches) == pytest.approx(float(expected))


def test_one_hot_and_soft_labels_are_classes() -> None:
    for targets in (F.one_hot(CLASSES).float(), F.one_hot(CLASSES), torch.full((6, 3), 1 / 3)):
        assert arranged(net(), Data(val=[(X, targets)]), Judge()).task == "classes"


def test_continuous_targets_are_judged_by_the_loss() -> None:
    batches = [(X, torch.randn(6))]
    seen = arranged(net(1), Data(batches, batches), Judge())
    assert seen.task == "continuous" and seen.judge.metric == "-loss"
    expected = -float(F.mse_loss(net(1)(X)[:, 0], batches[0][1]))
    assert seen.judge.measure(net(1), batches) == pytest.approx(expected)
    own = arranged(net(1), Data(batches, batches), Judge(lambda o, t: (o[:, 0] - t).abs().mean()))
    assert own.judge.measure(net(1), batches) == pytest.approx(-float((net(1)(X)[:, 0] - batches[0][1]).abs().mean()))


def test_labels_beyond_the_outputs_are_named() -> None:
    with pytest.raises(BadInput, match=r"below 3.*got 7"):
        arranged(net(), Data(val=[(X, CLASSES + 5)]), Judge())


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(UnknownName, match="accuracy"):
        arranged(net(), Data(val=[(X, CLASSES)]), Judge(), metric="acuracy")


def test_metrics_equal_their_definitions() -> None:
    y = torch.randn(6, 1, generator=torch.Generator().manual_seed(3))
    out, batches = net(1)(X).detach(), [(X[:2], y[:2]), (X[2:], y[2:])]
    assert METRICS["mae"].value(net(1), batches) == pytest.approx(-float((out - y).abs().mean()))
    assert METRICS["mse"].value(net(1), batches) == pytest.approx(-float((out - y).square().mean()))
    r2 = 1 - (out - y).square().sum() / (y - y.mean()).square().sum()
    assert METRICS["r2"].value(net(1), batches) == pytest.approx(float(r2), abs=1e-5)
    pixels = nn.Conv2d(1, 2, 1).eval()
    image, mask = torch.randn(2, 1, 5, 5), torch.randint(2, (2, 5, 5))
    answer = pixels(image).argmax(1)
    shares = [float(((answer == c) & (mask == c)).sum() / ((answer == c) | (mask == c)).sum()) for c in (0, 1)]
    assert METRICS["iou"].value(pixels, [(image, mask)]) == pytest.approx(50 * sum(shares))
