"""The kind of every group, for each network of the zoo."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sartor.structure import trace
from sartor.structure.kinds import KINDS
from sartor.testing.zoo import ZOO

EXPECTED = {  # zoo network -> group -> kind; None stands for all groups that are not named
    "resnet": {None: "channels"},
    "densenet": {None: "channels"},
    "mobilenet-v2": {None: "channels"},
    "depthwise-multiplier": {None: "channels"},
    "regnet": {"a.0": "groups", None: "channels"},
    "resnext": {"1.body.0.0": "groups", "2.body.0.0": "groups", None: "channels"},
    "shufflenet-v1": {"stem.0": "groups", None: "channels"},
    "squeeze-excite": {"stem.0": "channels", "fc1": "hidden units"},
    "convnext": {"stem": "channels", None: "hidden units"},
    "lenet": {"conv1": "channels", "conv2": "channels", None: "hidden units"},
    "mlp": {None: "hidden units"},
    "glu": {"0": "channels", "4": "hidden units"},
    "mlp-mixer": {"embed": "embedding width", None: "hidden units"},
    "rms-norm-mlp": {"embed": "embedding width", "gate": "hidden units"},
    "lstm": {"embed": "features", None: "recurrent units"},
    "gru": {None: "recurrent units"},
    "fused-qkv": {"qkv": "heads", "qkv#2": "head dimension"},
    "plain-attention": {None: "head dimension"},
    "multi-head-attention": {
        "embed": "embedding width",
        "attention.in_proj_weight:0": "heads",
        "attention.in_proj_weight:0#2": "head dimension",
    },
    "transformer-encoder": {
        "words.weight:1": "embedding width",
        "layer.self_attn.in_proj_weight:0": "heads",
        "layer.self_attn.in_proj_weight:0#2": "head dimension",
        "layer.linear1": "hidden units",
    },
    "grouped-query": {
        "words.weight:1": "embedding width",
        "q": "query groups",
        "q#2": "queries per group",
        "q#3": "head dimension",
        "v": "head dimension",
        "gate": "hidden units",
    },
    "linear-attention": {"embed": "embedding width", "qkv": "heads", "qkv#2": "head dimension"},
    "experts": {"embed": "embedding width", "up:0": "experts", "up:2": "hidden units"},
    "selective-scan": {"embed": "embedding width", "keys": "state size", None: "hidden units"},
    "vectors": {"a": "hidden units", None: "features"},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_group_has_the_kind_a_reader_would_give_it(name):
    case = ZOO[name].value
    found = {n: g.kind for n, g in trace(case.build(), case.example()).groups.items()}
    expected = EXPECTED[name]
    assert found == {n: expected.get(n, expected.get(None)) for n in found}
    assert set(expected) - {None} <= set(found)


@pytest.mark.parametrize("name", list(ZOO))
def test_every_kind_is_one_that_can_be_asked_for(name):
    case = ZOO[name].value
    assert {g.kind for g in trace(case.build(), case.example()).groups.values()} <= set(KINDS)


def test_every_kind_is_met_by_the_table():
    assert {k for row in EXPECTED.values() for k in row.values()} | {"tokens"} == set(
        KINDS
    )  # tokens: see tests/run/test_allowed_groups.py


class TwoMaps(nn.Module):
    """A sum of two projections that are not used elsewhere: no residual stream."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.out((self.a(x) + self.b(x.relu())).relu())


def test_a_sum_of_two_projections_is_no_residual_stream():
    assert trace(TwoMaps(), torch.randn(2, 4)).groups["a"].kind == "hidden units"


class TalkingHeads(nn.Module):
    """Linear layers mix attention scores and weights over heads; keys have their channels first."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(8, 12)
        self.before, self.after, self.out = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(12, 5)

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = (f(x).view(n, t, 3, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = self.before((q @ k.transpose(2, 3)).permute(0, 2, 3, 1)).softmax(2)
        weights = F.dropout(self.after(scores).permute(0, 3, 1, 2), training=False)
        return self.out((weights @ v).transpose(1, 2).reshape(n, t, 12).sum(1))


def test_heads_are_found_through_maps_over_heads():
    kinds = Counter(g.kind for g in trace(TalkingHeads(), torch.randn(2, 6, 8)).groups.values())
    assert kinds["heads"] and kinds["head dimension"] and set(kinds) == {"heads", "head dimension"}


SMALL = {"vocab_size": 50, "max_position_embeddings": 32, "hidden_size": 32, "num_hidden_layers": 2}
WIDE = {"intermediate_size": 48, "num_attention_heads": 4}
HUGGING_FACE = {
    "Llama": (
        {**SMALL, **WIDE, "num_key_value_heads": 2, "head_dim": 8},
        {"embedding width", "query groups", "queries per group", "head dimension", "hidden units"},
    ),
    "Bert": ({**SMALL, **WIDE}, {"heads", "head dimension", "hidden units", "embedding width", "features"}),
    "GPT2": (
        {"vocab_size": 50, "n_positions": 32, "n_embd": 32, "n_head": 4, "n_layer": 2},
        {"embedding width", "heads", "head dimension", "hidden units"},
    ),
    "Mamba": (
        {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 8, "time_step_rank": 4},
        {"embedding width", "hidden units", "state size"},
    ),
}


@pytest.mark.parametrize("family", HUGGING_FACE)
def test_kinds_of_language_models(family):
    transformers = pytest.importorskip("transformers")
    options, allowed = HUGGING_FACE[family]
    config = getattr(transformers, f"{family}Config")(**options, use_cache=False, bos_token_id=0, eos_token_id=0)
    head = {"Bert": "BertForSequenceClassification", "GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM")
    model = getattr(transformers, head)(config)
    found = {g.kind for g in trace(model, {"input_ids": torch.randint(0, 50, (1, 6))}).groups.values()}
    assert found <= allowed and len(found) >= len(allowed) - 1


class Stage(nn.Module):
    """A residual stream that attention and a strided convolution read; then one that only convolutions read."""

    def __init__(self):
        super().__init__()
        self.patch, self.qkv, self.o = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 24), nn.Linear(8, 8)
        self.down, self.conv, self.out = nn.Conv2d(8, 10, 2, 2), nn.Conv2d(10, 10, 3, padding=1), nn.Linear(10, 3)

    def forward(self, x):
        x = self.patch(x)
        n, c, h, w = x.shape
        x = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).view(n, h * w, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = self.down(x.transpose(1, 2).view(n, c, h, w))
        return self.out((x + self.conv(x.relu())).mean((2, 3)))


def test_a_stream_is_an_embedding_where_attention_reads_it_and_channels_where_convolutions_do():
    found = {n: g.kind for n, g in trace(Stage(), torch.randn(2, 3, 8, 8)).groups.items()}
    assert found == {"patch": "embedding width", "qkv": "heads", "qkv#2": "head dimension", "down": "channels"}


class Copies(nn.Module):
    """Each channel of one convolution is repeated and added to another one; a recurrent layer reads a table."""

    def __init__(self):
        super().__init__()
        self.words, self.rnn = nn.Embedding(9, 6), nn.GRU(6, 5, batch_first=True)
        self.a, self.b, self.out = nn.Conv1d(5, 4, 1), nn.Conv1d(5, 8, 1), nn.Linear(8, 3)

    def forward(self, x):
        x = self.rnn(self.words(x))[0].transpose(1, 2)
        return self.out((self.a(x).repeat_interleave(2, 1) + self.b(x)).mean(2))


def test_what_is_written_alone_is_no_group_and_a_table_is_an_embedding():
    found = {n: g.kind for n, g in trace(Copies(), torch.zeros(2, 7, dtype=torch.long)).groups.items()}
    assert found["words.weight:1"] == "embedding width" and found["rnn.weight_ih_l0:0"] == "recurrent units"
    assert found["a"] == "channels"
