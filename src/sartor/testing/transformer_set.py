"""One small network of each architecture of transformers in the discovery study, built from configuration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sartor.structure.example import Example

Inputs = Callable[[], dict[str, Tensor]]

_WORDS, _IMAGE = 99, 64
_TEXT: dict[str, Any] = {
    "vocab_size": _WORDS, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
}  # fmt: skip
_VISION = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
_GROUPED = {**_TEXT, "num_key_value_heads": 2}
_TWO_SIDED = {
    "vocab_size": _WORDS, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128,
}  # fmt: skip
_PATCHES = {"image_size": _IMAGE, "patch_size": 16}


def _ids(length: int = 16) -> Tensor:
    return torch.randint(3, _WORDS, (1, length))


def _text() -> dict[str, Tensor]:
    return {"input_ids": _ids()}


def _pairs() -> dict[str, Tensor]:
    return {"input_ids": _ids(), "decoder_input_ids": _ids(8)}


def _picture(size: int = _IMAGE) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(1, 3, size, size)}


def _picture_and_text() -> dict[str, Tensor]:
    return {**_picture(), "input_ids": _ids()}


def _spectrum() -> dict[str, Tensor]:
    return {"input_features": torch.randn(1, 80, 128), "decoder_input_ids": _ids(8)}


def _sound() -> dict[str, Tensor]:
    return {"input_values": torch.randn(1, 4000)}


# name -> (configuration, head, inputs, options of the configuration)
_SET: dict[str, tuple[str, str, Inputs, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertForSequenceClassification", _text, _TEXT),
    "bert-mlm": ("BertConfig", "BertForMaskedLM", _text, _TEXT),
    "roberta": ("RobertaConfig", "RobertaForSequenceClassification", _text, _TEXT),
    "distilbert": (
        "DistilBertConfig", "DistilBertForSequenceClassification", _text,
        {"vocab_size": _WORDS, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
    ),
    "albert": ("AlbertConfig", "AlbertForSequenceClassification", _text, {**_TEXT, "embedding_size": 32}),
    "electra": ("ElectraConfig", "ElectraForSequenceClassification", _text, {**_TEXT, "embedding_size": 32}),
    "deberta-v2": (
        "DebertaV2Config", "DebertaV2ForSequenceClassification", _text,
        {**_TEXT, "relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]},
    ),
    "mobilebert": (
        "MobileBertConfig", "MobileBertForSequenceClassification", _text,
        {**_TEXT, "intermediate_size": 64, "embedding_size": 32, "intra_bottleneck_size": 64, "true_hidden_size": 64},
    ),
    "gpt2": (
        "GPT2Config", "GPT2LMHeadModel", _text,
        {"vocab_size": _WORDS, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
    ),
    "opt": (
        "OPTConfig", "OPTForCausalLM", _text,
        {
            "vocab_size": _WORDS, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 128,
            "word_embed_proj_dim": 64,
        },
    ),
    "gpt-neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", _text, _TEXT),
    "bloom": (
        "BloomConfig", "BloomForCausalLM", _text,
        {"vocab_size": _WORDS, "hidden_size": 64, "n_layer": 2, "n_head": 4},
    ),
    "llama": ("LlamaConfig", "LlamaForCausalLM", _text, {**_TEXT, "num_key_value_heads": 4}),
    "llama-gqa": (
        "LlamaConfig", "LlamaForCausalLM", _text,
        {**_TEXT, "hidden_size": 128, "num_attention_heads": 16, "num_key_value_heads": 8},
    ),
    "mistral": ("MistralConfig", "MistralForCausalLM", _text, _GROUPED),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _text, _GROUPED),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", _text, {**_GROUPED, "head_dim": 16}),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", _text, {**_GROUPED, "head_dim": 16}),
    "phi": ("PhiConfig", "PhiForCausalLM", _text, _TEXT),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", _text, {**_GROUPED, "pad_token_id": 0}),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", _text, {**_GROUPED, "num_local_experts": 4}),
    "mamba": (
        "MambaConfig", "MambaForCausalLM", _text,
        {"vocab_size": _WORDS, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
    ),
    "t5": (
        "T5Config", "T5ForConditionalGeneration", _pairs,
        {"vocab_size": _WORDS, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
    ),
    "bart": ("BartConfig", "BartForConditionalGeneration", _pairs, _TWO_SIDED),
    "vit": ("ViTConfig", "ViTForImageClassification", _picture, {**_VISION, **_PATCHES}),
    "dinov2": (
        "Dinov2Config", "Dinov2ForImageClassification", _picture,
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, **_PATCHES},
    ),
    "swin": (
        "SwinConfig", "SwinForImageClassification", _picture,
        {
            "image_size": _IMAGE, "patch_size": 2, "embed_dim": 32, "depths": [1, 2], "num_heads": [2, 4],
            "window_size": 4,
        },
    ),
    "segformer": (
        "SegformerConfig", "SegformerForSemanticSegmentation", _picture,
        {"hidden_sizes": [16, 32, 64, 64], "num_attention_heads": [1, 2, 4, 4], "decoder_hidden_size": 64},
    ),
    "resnet": (
        "ResNetConfig", "ResNetForImageClassification", _picture,
        {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 2]},
    ),
    "convnext": (
        "ConvNextConfig", "ConvNextForImageClassification", _picture,
        {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 2, 1]},
    ),
    "clip": (
        "CLIPConfig", "CLIPModel", _picture_and_text,
        {
            "text_config": {**_TEXT, "max_position_embeddings": 32, "projection_dim": 32},
            "vision_config": {**_VISION, **_PATCHES, "projection_dim": 32}, "projection_dim": 32,
        },
    ),
    "whisper": (
        "WhisperConfig", "WhisperForConditionalGeneration", _spectrum,
        {
            **_TWO_SIDED, "max_source_positions": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
            "decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None,
        },
    ),
    "wav2vec2": (
        "Wav2Vec2Config", "Wav2Vec2ForCTC", _sound,
        {**_TEXT, "num_conv_pos_embedding_groups": 4, "num_conv_pos_embeddings": 16, "conv_dim": (32,) * 7},
    ),
    "detr": ("DetrConfig", "DetrForObjectDetection", partial(_picture, 128), {**_TWO_SIDED, "num_queries": 10}),
}  # fmt: skip
_KEPT = ("logits", "logits_per_image", "pred_boxes")


class Answer(nn.Module):
    """A network of transformers that returns its main outputs only, without caches and hidden states.

    Every tensor that a forward returns is an output, and the width of an output cannot be cut.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs that `_KEPT` names."""
        out = self.network(**inputs)
        return tuple(out[k] for k in _KEPT if k in out)


def transformer_set() -> dict[str, Callable[[], tuple[nn.Module, Example]]]:
    """Name -> how to build the network and its inputs."""
    return {name: partial(_build, *entry) for name, entry in _SET.items()}


def _build(config: str, head: str, inputs: Inputs, options: dict[str, Any]) -> tuple[nn.Module, Example]:
    import transformers

    if config == "DetrConfig":
        small: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1]}
        small["out_features"] = ["stage4"]
        backbone = transformers.ResNetConfig(**small)
        options = {**options, "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
        options["backbone_config"] = backbone
    chosen = getattr(transformers, config)(**options)
    chosen.use_cache = False
    return Answer(getattr(transformers, head)(chosen)), inputs()
