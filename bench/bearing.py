"""Bearing faults from vibration: a convolutional network over time, and windows of the CWRU recordings.

Data: Case Western Reserve University Bearing Data Center, drive end, 0 HP, ten classes of one recording each; see
bench/README.md. The normal recording has a sampling rate of 48 kHz and is resampled to the 12 kHz of the others, since
the sampling rate alone would otherwise identify the class. Every recording is split by time, with a gap, so that
windows of different parts do not overlap. The network has a wide first filter, as in Zhang et al. 2017, "A New Deep
Learning Model for Fault Diagnosis", Sensors 17(2):425.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.signal import decimate
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cifar_resnet import data_folder

LENGTH, STEP = 1024, 256
PARTS = {"train": (0.0, 0.55), "val": (0.6, 0.7), "test": (0.75, 1.0)}  # of each recording's time
NOISE = 1.0  # relative to the standard deviation of the windows: without noise, every network separates the classes


def bearing_cnn(classes: int = 10) -> nn.Sequential:
    """[n, 1, 1024] -> [n, classes]."""
    layers: list[nn.Module] = []
    for cin, cout, kernel, stride in ((1, 32, 64, 8), (32, 48, 3, 1), (48, 64, 3, 1), (64, 64, 3, 1), (64, 64, 3, 1)):
        layers += [nn.Conv1d(cin, cout, kernel, stride, kernel // 2, bias=False), nn.BatchNorm1d(cout), nn.ReLU()]
        layers += [nn.MaxPool1d(2)]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, classes)
    )


def windows(batch: int = 64, seed: int = 0) -> dict[str, DataLoader[tuple[Tensor, ...]]]:
    """Loaders by part: standardised windows [n, 1, 1024] with seeded noise on them, and classes."""
    generator = np.random.default_rng(seed)
    loaders = {}
    for part, (low, high) in PARTS.items():
        xs, ys = zip(*_cut(low, high))
        x = np.stack(xs)
        x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
        x = x + NOISE * generator.standard_normal(x.shape)
        pairs = TensorDataset(torch.tensor(x, dtype=torch.float32)[:, None], torch.tensor(ys))
        shuffled = torch.Generator().manual_seed(seed)
        loaders[part] = DataLoader(pairs, batch, shuffle=part == "train", generator=shuffled)
    return loaders


def _cut(low: float, high: float) -> Iterator[tuple[np.ndarray, int]]:
    archive = np.load(data_folder() / "CWRU" / "cwru_de_0hp_10class.npz")
    for i, rate in enumerate(archive["fs_hz"]):
        signal = archive["signal"][archive["offsets"][i] : archive["offsets"][i + 1]]
        if rate == 48_000:
            signal = decimate(signal, 4)
        part = signal[int(low * len(signal)) : int(high * len(signal))]
        for start in range(0, len(part) - LENGTH + 1, STEP):
            yield part[start : start + LENGTH], i
