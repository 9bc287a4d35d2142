"""Small networks of the kinds that people cut in practice: sequences, speech, detection, segmentation and diffusion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from sartor.structure.example import Example
from sartor.testing.transformer_set import transformer_set

Build = Callable[[], tuple[nn.Module, Example]]
PACKAGES = {  # network -> the package that it needs
    "peft-bert": "peft", "unet2d": "diffusers", "unet2d-condition": "diffusers", "conformer": "torchaudio",
    "yolov8n": "ultralytics", "smp-unet": "segmentation_models_pytorch",
}  # fmt: skip
_TRANSFORMERS = ("bert", "gpt2", "llama-gqa", "t5", "vit", "wav2vec2", "whisper", "deberta-v2", "bart")


class Lstm(nn.Module):
    """A language model of one recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer, self.norm = nn.Embedding(50, 24), nn.LSTM(24, 32, batch_first=True), nn.LayerNorm(32)
        self.head = nn.Linear(32, 50)

    def forward(self, ids: Tensor) -> Tensor:
        """[n, length] -> [n, length, 50]."""
        return self.head(self.norm(self.layer(self.words(ids))[0]))


class PackedGru(nn.Module):
    """A tagger of two bidirectional recurrent layers over packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 24)
        self.layers = nn.GRU(24, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, 7)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """[n, length], [n] -> [n, length, 7]."""
        packed = pack_padded_sequence(self.words(ids), lengths, batch_first=True, enforce_sorted=False)
        out, _ = pad_packed_sequence(self.layers(packed)[0], batch_first=True, total_length=ids.shape[1])
        return self.head(out)


class Encoder(nn.Module):
    """PyTorch's own encoder, with padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(50, 32), nn.Linear(32, 7)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, ids: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """[n, length], [n, length] (True where padded) -> [n, length, 7]."""
        return self.head(self.encoder(self.words(ids), src_key_padding_mask=padding_mask))


def _peft() -> tuple[nn.Module, Example]:
    import peft
    import transformers

    sizes: Any = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    bert = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=99, **sizes))
    wrapped: Any = peft.get_peft_model(bert, peft.LoraConfig(r=4, target_modules=["query", "value"]))
    return wrapped, {"input_ids": torch.randint(3, 99, (1, 16))}


def _unet2d() -> tuple[nn.Module, Example]:
    import diffusers

    model: Any = diffusers.UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(32, 64),
        norm_num_groups=8, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=8,
    )  # fmt: skip
    return model, (torch.randn(1, 3, 16, 16), torch.randint(1000, (1,)))


def _unet2d_condition() -> tuple[nn.Module, Example]:
    import diffusers

    model: Any = diffusers.UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(32, 64),
        norm_num_groups=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=40, attention_head_dim=8,
    )  # fmt: skip
    return model, (torch.randn(1, 4, 16, 16), torch.randint(1000, (1,)), torch.randn(1, 11, 40))


def _conformer() -> tuple[nn.Module, Example]:
    import torchaudio

    model = torchaudio.models.Conformer(
        input_dim=32, num_heads=4, ffn_dim=64, num_layers=2, depthwise_conv_kernel_size=7
    )
    return model, (torch.randn(1, 40, 32), torch.tensor([40]))


def _yolo() -> tuple[nn.Module, Example]:
    from ultralytics.nn.tasks import DetectionModel

    return DetectionModel("yolov8n.yaml", ch=3, nc=4, verbose=False), torch.rand(1, 3, 64, 64)


def _smp() -> tuple[nn.Module, Example]:
    import segmentation_models_pytorch as smp

    return smp.Unet("resnet18", encoder_weights=None, in_channels=3, classes=1), torch.rand(1, 3, 64, 64)


def field_set() -> dict[str, Build]:
    """Name -> how to build the network and its inputs."""
    ids = lambda: torch.randint(50, (1, 12))
    own: dict[str, Build] = {
        "lstm": lambda: (Lstm(), ids()),
        "gru-packed": lambda: (PackedGru(), (ids(), torch.tensor([12]))),
        "encoder": lambda: (Encoder(), ids()),
        "peft-bert": _peft, "unet2d": _unet2d, "unet2d-condition": _unet2d_condition, "conformer": _conformer,
        "yolov8n": _yolo, "smp-unet": _smp,
    }  # fmt: skip
    known = transformer_set()
    return {**{name: known[name] for name in _TRANSFORMERS}, **own}


__all__ = ["PACKAGES", "field_set"]
