"""Calibration with real text batches: other lengths, more rows than the example, padding on either side."""

import warnings

import pytest
import torch
from torch import nn

from sartor.importance import score
from sartor.structure import trace
from sartor.types import Calibration, Scaling

T = pytest.importorskip("transformers")
CRITERIA = ("taylor", "fisher", "flap", "wanda", "reconstruction", "chip", "hrank", "random")
SMALL = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}


def bert(attention="sdpa"):
    return T.BertForSequenceClassification(T.BertConfig(**SMALL, attn_implementation=attention))


def gpt2():
    sizes = {"vocab_size": 96, "n_positions": 32, "n_embd": 32, "n_layer": 1, "n_head": 4}
    return T.GPT2ForSequenceClassification(T.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, pad_token_id=0))


def llama(attention="sdpa"):
    more = {"num_key_value_heads": 2, "pad_token_id": 0, "attn_implementation": attention}
    return T.LlamaForCausalLM(T.LlamaConfig(**SMALL, **more))


def t5():
    sizes = {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    return T.T5ForConditionalGeneration(T.T5Config(**sizes, decoder_start_token_id=0))


def whisper():
    sizes = {
        "vocab_size": 96,
        "num_mel_bins": 16,
        "d_model": 32,
        "max_source_positions": 32,
        "max_target_positions": 32,
    }
    both = {
        f"{side}_{what}": n
        for side in ("encoder", "decoder")
        for what, n in (("layers", 1), ("attention_heads", 4), ("ffn_dim", 64))
    }
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return T.WhisperForConditionalGeneration(T.WhisperConfig(**sizes, **both, **ids))


def vit():
    sizes = {n: v for n, v in SMALL.items() if n != "vocab_size"}
    return T.ViTForImageClassification(T.ViTConfig(**sizes, image_size=16, patch_size=4))


NETS = {
    "bert": bert, "bert-eager": lambda: bert("eager"), "gpt2": gpt2, "llama": llama,
    "llama-eager": lambda: llama("eager"), "t5": t5, "whisper": whisper, "vit": vit,
}  # fmt: skip


def batch(name, n, length, padding=""):
    """Inputs of n rows; the last rows are padded on the "left" or "right"."""
    ids, mask = torch.randint(3, 96, (n, length)), torch.ones(n, length, dtype=torch.long)
    mask[1:, slice(3) if padding == "left" else slice(length - 3, None)] = 0
    if name == "vit":
        return {"pixel_values": torch.randn(n, 3, 16, 16)}
    if name == "whisper":
        inputs = {"input_features": torch.randn(n, 16, 64), "decoder_input_ids": ids}
        return inputs | ({"decoder_attention_mask": mask} if padding else {})
    inputs = {"input_ids": ids} | ({"attention_mask": mask} if padding else {})
    return inputs | ({"decoder_input_ids": ids[:, 2:]} if name == "t5" else {})


def batches(name):
    """A last batch that is shorter, every length another, padded on either side or not."""
    sizes = ((7, 8, ""), (7, 8, "right"), (4, 8, "left"), (4, 5, ""), (3, 11, "right"), (2, 7, "left"))
    inputs = [batch(name, *size) for size in sizes]
    return [(x, torch.zeros(len(next(iter(x.values()))), dtype=torch.long)) for x in inputs]


def loss(output, targets):
    """Needs no labels; a mean over samples."""
    return output.logits.log_softmax(-1)[..., 0].mean()


@pytest.mark.parametrize("traced", ["", "right"])
@pytest.mark.parametrize("name", NETS)
def test_every_batch_is_read_whatever_the_example_was(name, traced):
    torch.manual_seed(0)
    model = NETS[name]().eval()
    graph, data = trace(model, batch(name, 1, 8, traced)), batches(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*no batch reached")
        warnings.filterwarnings("ignore", message=".*(apply|derivatives)")
        for criterion in CRITERIA:
            scores = score(graph, model, criterion, calibration=Calibration(data, loss=loss))
            assert scores.keys() == graph.groups.keys(), criterion
            assert all(bool(torch.isfinite(s).all()) for s in scores.values()), criterion


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "whisper"])
def test_input_norms_are_those_that_hooks_on_the_layers_see(name):
    """For hidden units that one linear layer reads, over all positions of all batches, against the definition."""
    torch.manual_seed(0)
    model = NETS[name]().eval()
    graph, data = trace(model, batch(name, 1, 8)), batches(name)
    scores = score(graph, model, "wanda", calibration=Calibration(data), scaling=Scaling(normalise="none"))
    weights = {n: p for n, p in model.named_parameters()}
    checked = 0
    for group, got in scores.items():
        readers = [m for m in graph.groups[group].members if m.role == "in"]
        paths = [m.tensor.removesuffix(".weight") for m in readers]
        layer = model.get_submodule(paths[0]) if len(paths) == 1 else None
        if not isinstance(layer, nn.Linear) or layer.in_features != len(got) or len(graph.sites(group)) != 1:
            continue
        rows = []
        hook = layer.register_forward_pre_hook(
            lambda module, args: rows.append(args[0].flatten(0, -2).double())  # noqa: B023
        )
        with torch.no_grad():
            for x, _ in data:
                model(**x)
        hook.remove()
        size = torch.cat(rows).square().mean(0).sqrt()
        assert torch.allclose(got, size * weights[readers[0].tensor].detach().double().abs().sum(0), rtol=1e-4), group
        checked += 1
    assert checked or name == "gpt2"  # its layers are of another class
