"""Files from strangers: what is no array or no tensor, or grows when it is read, is refused before memory is taken."""

from __future__ import annotations

import io
import resource
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sartor.errors import BadInput, CorruptFile, SartorError
from sartor.sources import load_data
from sartor.sources.weights import read_weights


def npy(array: np.ndarray, **how: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **how)
    return buffer.getvalue()


def header(shape: str) -> bytes:
    """An array file that declares a shape and holds no values."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


X, Y = np.zeros((4, 1, 6, 6), np.float32), np.array([0, 1, 2, 0])


def archive(path: Path, members: dict[str, bytes], **how: Any) -> Path:
    with zipfile.ZipFile(path, "w", **how) as f:
        for name, content in members.items():
            f.writestr(name, content)
    return path


def with_x(path: Path, content: bytes, **how: Any) -> Path:
    return archive(path, {"x_train.npy": content, "y_train.npy": npy(Y)}, **how)


def encrypted(path: Path) -> Path:
    with_x(path, npy(X))
    raw = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = raw.find(mark)
        while at >= 0:
            raw[at + place] |= 1
            at = raw.find(mark, at + 4)
    path.write_bytes(raw)
    return path


def bomb(path: Path, compression: int) -> Path:
    array = npy(np.zeros((2**29,), np.uint8))
    return with_x(path, array, compression=compression)


HOSTILE = {
    "encrypted": encrypted,
    "deflate bomb": lambda p: bomb(p, zipfile.ZIP_DEFLATED),
    "bzip2 bomb": lambda p: bomb(p, zipfile.ZIP_BZIP2),
    "lzma bomb": lambda p: bomb(p, zipfile.ZIP_LZMA),
    "a member that is no array": lambda p: with_x(p, b"hello"),
    "an empty member": lambda p: with_x(p, b""),
    "a header without values": lambda p: with_x(p, header("(1000000, 1000000)")),
    "a header that overflows": lambda p: with_x(p, header(f"({10**30},)")),
    "a header with negative sizes": lambda p: with_x(p, header("(-1, 4)")),
    "a header that is no literal": lambda p: with_x(p, header("__import__('os')")),
    "Python objects": lambda p: with_x(p, npy(np.array([{}], dtype=object), allow_pickle=True)),
    "text arrays": lambda p: with_x(p, npy(np.array(["a", "b"]))),
    "structured arrays": lambda p: with_x(p, npy(np.zeros(4, dtype=[("a", "i4")]))),
    "a label of a billion": lambda p: archive(p, {"x_train.npy": npy(X), "y_train.npy": npy(Y * 10**9)}),
    "a cut-off archive": lambda p: p.write_bytes(with_x(p, npy(X)).read_bytes()[:-40]) and p,
    "text": lambda p: p.write_text("hello") and p,
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_an_npz_that_is_no_data_is_one_sentence_and_takes_no_memory(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / "x.npz")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((BadInput, CorruptFile), match=r"x\.npz"):
        load_data(f"npz:{path}")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # kilobytes
    assert grown < 200_000


def test_compressed_data_of_few_values_are_read(tmp_path: Path) -> None:
    images = (np.arange(2000 * 784).reshape(2000, 1, 28, 28) % 97 == 0).astype(np.uint8)
    np.savez_compressed(tmp_path / "x.npz", x_train=images, y_train=np.arange(2000) % 10)
    assert len(load_data(f"npz:{tmp_path / 'x.npz'}").classes) == 10


QUANTISED = torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8)
TENSORS: dict[str, Any] = {
    "numeric keys": {1: torch.zeros(3)},
    "sparse": {"a": torch.eye(3).to_sparse()},
    "compressed sparse": {"a": torch.eye(3).to_sparse_csr()},
    "meta": {"a": torch.zeros(3, device="meta")},
    "quantised": {"a": QUANTISED},
    "strided to 256 GB": {"a": torch.zeros(1).expand(64 * 2**30)},
    "repeated": {"a": torch.zeros(4).expand(1000, 4)},
    "a number": {"a": 3.0},
    "nested": {"a": {"b": {"c": torch.zeros(3)}}},
    "a list": [torch.zeros(3)],
    "a tensor": torch.zeros(3),
    "empty": {},
    "NaN": {"a": torch.tensor([float("nan")])},
    "complex NaN": {"a": torch.tensor([complex("nan")])},
    "ordered, meta": OrderedDict(a=torch.zeros(2, device="meta")),
}


@pytest.mark.parametrize("state", TENSORS.values(), ids=TENSORS)
@pytest.mark.filterwarnings("ignore")
def test_a_pth_that_holds_no_plain_tensors_is_one_sentence(tmp_path: Path, state: Any) -> None:
    torch.save(state, tmp_path / "x.pth")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SartorError, match=r"x\.pth"):
        read_weights(tmp_path / "x.pth")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_a_compressed_pth_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2**20)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain:
        members = {m.filename: plain.read(m) for m in plain.infolist()}
    archive(tmp_path / "x.pth", members, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CorruptFile, match="bytes of content"):
        read_weights(tmp_path / "x.pth")
    assert read_weights(tmp_path / "plain.pth")["a"].shape == (2**20,)
