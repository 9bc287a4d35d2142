"""`save_pretrained` of a cut network writes what loads again, or says what to do."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from sartor.structure import trace
from sartor.surgery import cut, probe
from sartor.surgery.pretrained import CannotSavePretrained
from sartor.types import Plan

transformers = pytest.importorskip("transformers")
IDS = torch.randint(3, 99, (2, 9), generator=torch.Generator().manual_seed(0))


def bert() -> torch.nn.Module:
    """A BERT whose feed-forward width is no other width."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80}
    config = transformers.BertConfig(vocab_size=99, max_position_embeddings=24, **sizes)
    return transformers.BertForSequenceClassification(config).eval()


def smaller(model: torch.nn.Module, widths: list[int]) -> torch.nn.Module:
    """The feed-forward parts of both layers cut to these widths."""
    graph = probe(model, trace(model, {"input_ids": IDS}))
    names = [n for n, g in graph.groups.items() if g.units == 80]
    plan = Plan({n: tuple(range(k)) for n, k in zip(names, widths, strict=True)}, "test", graph.fingerprint)
    return cut(model, graph, plan)


def test_layers_that_agree_come_back(tmp_path: Path) -> None:
    model = bert()
    network = smaller(model, [48, 48])
    copy.deepcopy(network).save_pretrained(tmp_path)
    again = transformers.BertForSequenceClassification.from_pretrained(tmp_path).eval()
    assert again.config.intermediate_size == 48 and model.config.intermediate_size == 80
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, network(IDS).logits)


def test_layers_that_differ_are_not_written(tmp_path: Path) -> None:
    network = smaller(bert(), [48, 56])
    with pytest.raises(CannotSavePretrained, match=r"sartor\.load"):
        network.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
