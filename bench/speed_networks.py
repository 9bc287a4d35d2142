"""The networks that `discovery_speed.py` is measured on: their classes, configurations and example inputs.

Weights are random and nothing is downloaded. Configurations of transformers are those of the published models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

Built = tuple[nn.Module, Any]  # a network in evaluation mode, and inputs of one sample
TOKENS = 128
TIMM = (
    "resnet50", "densenet121", "efficientnet_b0", "vit_base_patch16_224", "swin_tiny_patch4_window7_224",
    "convnext_tiny", "resnet18", "mobilenetv3_large_100", "regnetx_004", "hrnet_w18_small", "inception_v3", "vgg16_bn",
    "ghostnet_100", "mixer_s32_224", "deit_tiny_patch16_224", "dla34", "cspdarknet53", "maxvit_rmlp_pico_rw_256",
)  # fmt: skip


def timm_network(name: str) -> Built:
    """A network of timm with one image of the size it was made for."""
    import timm

    model = timm.create_model(name).eval()
    return model, torch.randn(1, *model.default_cfg["input_size"])


def _words(length: int = TOKENS) -> torch.Tensor:
    return torch.randint(0, 1000, (1, length))


def _picture() -> torch.Tensor:
    return torch.randn(1, 3, 224, 224)


def _transformer(name: str, config: Mapping[str, Any], inputs: Mapping[str, Callable[[], Any]]) -> Built:
    """A model of transformers by the name of its class; its configuration class is that of the class."""
    import transformers

    kind = getattr(transformers, name)
    model = kind(kind.config_class(**config)).eval()
    return model, {key: make() for key, make in inputs.items()}


def _llama() -> Built:
    """Llama 3.2 1B on the meta device. The mask is given in full: one that is derived depends on values."""
    size = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 128256}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "attn_implementation": "eager"}
    mask = lambda: torch.zeros(1, 1, TOKENS, TOKENS)
    with torch.device("meta"):
        config = {**size, **heads, "use_cache": False}
        return _transformer("LlamaForCausalLM", config, {"input_ids": _words, "attention_mask": mask})


_WHISPER_TINY = {
    "d_model": 384, "encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 6,
    "decoder_attention_heads": 6, "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536, "use_cache": False,
}  # fmt: skip
_ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
_HEARD: Mapping[str, Callable[[], Any]] = {
    "input_features": lambda: torch.randn(1, 80, 3000),
    "decoder_input_ids": lambda: _words(16),
}
_TRANSLATED: Mapping[str, Callable[[], Any]] = {"input_ids": _words, "decoder_input_ids": lambda: _words(32)}
_CAPTIONED: Mapping[str, Callable[[], Any]] = {"input_ids": lambda: _words(16), "pixel_values": _picture}

TRANSFORMERS: Mapping[str, Callable[[], Built]] = {
    "BERT-base": lambda: _transformer("BertModel", {}, {"input_ids": _words}),
    "RoBERTa-base": lambda: _transformer("RobertaModel", _ROBERTA, {"input_ids": _words}),
    "DistilBERT": lambda: _transformer("DistilBertModel", {}, {"input_ids": _words}),
    "GPT-2": lambda: _transformer("GPT2LMHeadModel", {"use_cache": False}, {"input_ids": _words}),
    "Llama 3.2 1B": _llama,
    "T5-small": lambda: _transformer("T5ForConditionalGeneration", {"use_cache": False}, _TRANSLATED),
    "ViT-B/16": lambda: _transformer("ViTModel", {}, {"pixel_values": _picture}),
    "CLIP ViT-B/32": lambda: _transformer("CLIPModel", {}, _CAPTIONED),
    "wav2vec2-base": lambda: _transformer("Wav2Vec2Model", {}, {"input_values": lambda: torch.randn(1, 16000)}),
    "Whisper-tiny": lambda: _transformer("WhisperModel", _WHISPER_TINY, _HEARD),
}


def networks() -> dict[str, Callable[[], Built]]:
    """Name -> builder: 18 networks of timm and ten transformers at the size they are used in."""
    return {**{name: lambda name=name: timm_network(name) for name in TIMM}, **TRANSFORMERS}  # type: ignore[misc]


def tiny_networks() -> dict[str, Callable[[], Built]]:
    """Name -> builder: 34 architectures of transformers with a few narrow layers."""
    from sartor.testing.transformer_set import transformer_set

    return dict(transformer_set())


__all__ = ["TIMM", "TOKENS", "TRANSFORMERS", "Built", "networks", "timm_network", "tiny_networks"]
