import os
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sartor.errors import BadInput, CorruptFile, MissingExtra, UnknownName
from sartor.sources import DataSet, load_data


def everything(loader):
    xs, ys = zip(*loader)
    return torch.cat(xs), torch.cat(ys)


# --- digits ---------------------------------------------------------------------------------------------------------


def test_digits_split_and_scale():
    data = load_data("digits:", batch=64, seed=3)
    sizes = [data.train.count, data.val.count, data.test.count]
    assert sum(sizes) == 1797 and sizes == [1258, 180, 359]
    x = torch.cat([everything(part)[0] for part in (data.calibration, data.val, data.test)])
    assert x.shape == (1797, 1, 8, 8) and x.dtype == torch.float32
    assert abs(x.mean().item()) < 1e-4 and abs(x.std().item() - 1) < 1e-3
    assert data.example.shape == (1, 1, 8, 8) and data.classes == tuple("0123456789")
    _, y = everything(data.val)
    assert torch.bincount(y).min() >= 17
    assert "1,258 train, 180 val, 359 test, 10 classes" in data.describe


def test_the_split_depends_on_its_own_seed_alone():
    def val_of(spec, **more):
        return everything(load_data(spec, **more).val)[0]

    assert torch.equal(val_of("digits:", seed=0), val_of("digits:", seed=1, batch=17))
    assert not torch.equal(val_of("digits:"), val_of("digits:?split_seed=1"))
    assert load_data("digits:", val=0.2).val.count in (359, 360)


def test_parts_share_no_sample():
    data = load_data("digits:", batch=100)
    sets = [set(map(int, part.samples.indices)) for part in (data.train, data.val, data.test)]
    assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]
    assert set(map(int, data.calibration.samples.indices)) == sets[0]


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'sartor\[demo\]'"):
        load_data("digits:")


# --- cifar10 --------------------------------------------------------------------------------------------------------


def write_cifar(folder, n=20, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        data = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        held = {"data": data, "labels": [i % 10 for i in range(n)], "filenames": ["a.png"] * n, **changes}
        (folder / name).write_bytes(pickle.dumps(held, protocol=2))
    return folder


def test_cifar_in_either_folder(tmp_path):
    write_cifar(tmp_path / "cifar-10-batches-py")
    data = load_data(f"cifar10:{tmp_path}", batch=32, seed=0)
    assert [p.count for p in (data.train, data.val, data.test)] == [90, 10, 20]
    assert data.example.shape == (1, 3, 32, 32) and data.classes[3] == "cat"
    inner = load_data(f"cifar10:{tmp_path}/cifar-10-batches-py", batch=32, val=0.2)
    assert inner.val.count == 20


def test_cifar_values_are_those_of_the_file(tmp_path):
    folder = write_cifar(tmp_path / "c")
    x, y = everything(load_data(f"cifar10:{folder}").test)
    raw = pickle.loads((folder / "test_batch").read_bytes())
    pixels = torch.from_numpy(raw["data"].reshape(-1, 3, 32, 32)).double() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (pixels - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)
    torch.testing.assert_close(x.double(), expected, rtol=1e-5, atol=1e-5)
    assert y.tolist() == raw["labels"]
    x, _ = everything(load_data(f"cifar10:{folder}?mean=0,0,0&std=1,1,1").test)
    torch.testing.assert_close(x.double(), pixels, rtol=1e-6, atol=1e-6)


def test_only_what_is_trained_on_is_augmented(tmp_path):
    folder = write_cifar(tmp_path / "c")
    data = load_data(f"cifar10:{folder}?calibration=plain", batch=90)
    (train, _), (still, _) = everything(data.train), everything(data.calibration)
    assert not torch.equal(train, still)  # same order, other pixels
    assert torch.equal(everything(load_data(f"cifar10:{folder}", batch=90).calibration)[0], train)
    assert torch.equal(everything(data.train)[0], train)
    data.train.set_epoch(1)
    assert not torch.equal(everything(data.train)[0], train)
    plain = load_data(f"cifar10:{folder}?augment=none", batch=90)
    assert torch.equal(everything(plain.train)[0], still)


def test_cifar_that_is_not(tmp_path):
    with pytest.raises(BadInput, match=r"data_batch_1 \.\.\. data_batch_5.*found none"):
        load_data(f"cifar10:{tmp_path}")
    (write_cifar(tmp_path / "a") / "data_batch_4").unlink()
    with pytest.raises(BadInput, match="lacks data_batch_4"):
        load_data(f"cifar10:{tmp_path}/a")
    cut = write_cifar(tmp_path / "b") / "data_batch_2"
    cut.write_bytes(cut.read_bytes()[:1000])
    with pytest.raises(CorruptFile, match="data_batch_2 is damaged"):
        load_data(f"cifar10:{tmp_path}/b")
    with pytest.raises(CorruptFile, match=r"bytes \[n, 3072\]"):
        load_data(f"cifar10:{write_cifar(tmp_path / 'c', data=np.zeros((20, 3072)))}")
    with pytest.raises(CorruptFile, match=r"labels 0 \.\.\. 9"):
        load_data(f"cifar10:{write_cifar(tmp_path / 'd', labels=[10] * 20)}")


def test_a_batch_file_cannot_run_code(tmp_path):
    folder = write_cifar(tmp_path / "c")

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was here"),)

    (folder / "data_batch_3").write_bytes(pickle.dumps({"data": Evil(), "labels": []}, protocol=2))
    with pytest.raises(CorruptFile, match=r"asks for (posix|nt)\.mkdir"):
        load_data(f"cifar10:{folder}")
    assert not (tmp_path / "was here").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    not (Path(os.environ.get("SARTOR_DATA", "nowhere")) / "cifar-10-batches-py").is_dir(), reason="needs SARTOR_DATA"
)
def test_the_real_cifar():
    data = load_data(f"cifar10:{os.environ['SARTOR_DATA']}", batch=128)
    assert [p.count for p in (data.train, data.val, data.test)] == [45_000, 5_000, 10_000]
    assert torch.bincount(everything(data.val)[1]).tolist() == [500] * 10
    started, n = time.perf_counter(), 0
    for x, _ in data.train:
        n += len(x)
    assert n == 44_928 and time.perf_counter() - started < 30


# --- npz ------------------------------------------------------------------------------------------------------------


def write_npz(path, **arrays):
    rng = np.random.default_rng(0)
    base = {"x_train": rng.integers(0, 256, (40, 1, 6, 6), dtype=np.uint8), "y_train": np.arange(40) % 4}
    np.savez(path, **{k: v for k, v in {**base, **arrays}.items() if v is not None})
    return path


def test_npz_parts(tmp_path):
    path = write_npz(tmp_path / "a.npz")
    data = load_data(f"npz:{path}", batch=8)
    assert (data.train.count, data.val.count, data.test, len(data.classes)) == (36, 4, None, 4)
    x, _ = everything(data.calibration)
    assert x.dtype == torch.float32 and x.min() >= 0 and 0.9 < x.max() <= 1
    x_val, y_val = np.zeros((3, 1, 6, 6), np.uint8), np.array([0, 1, 2], np.uint8)
    data = load_data(f"npz:{write_npz(path, x_val=x_val, y_val=y_val)}")
    assert (data.train.count, data.val.count) == (40, 3)
    assert everything(data.val)[1].tolist() == [0, 1, 2]


def test_npz_takes_floats_and_tokens_as_they_are(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 7))
    data = load_data(f"npz:{write_npz(tmp_path / 'a.npz', x_train=x)}?split_seed=2")
    torch.testing.assert_close(everything(data.val)[0], torch.from_numpy(x)[data.val.samples.indices].float())
    tokens = np.arange(80, dtype=np.int32).reshape(40, 2)
    assert load_data(f"npz:{write_npz(tmp_path / 'b.npz', x_train=tokens)}").example.dtype == torch.int64


X3, Y3 = np.zeros((3, 1, 6, 6), np.uint8), np.arange(3)


@pytest.mark.parametrize("arrays, says", [
    ({"x_train": None}, "expected the arrays x_train and y_train; x_val.*got y_train"),
    ({"x_train": None, "images": X3}, "expected the arrays.*got images, y_train"),
    ({"X_test": X3}, "expected the arrays"),
    ({"x_val": X3}, "expected the arrays"),
    ({"y_train": np.arange(39)}, "40 samples and y_train 39"),
    ({"y_train": np.arange(40) - 1}, "label -1; expected labels from 0"),
    ({"y_train": np.array(["a"] * 40)}, r"class numbers \[n\], or numbers \[n, \.\.\.\], in y_train; got <U1"),
    ({"y_train": np.full(40, np.nan)}, "y_train holds NaN"),
    ({"x_val": X3, "y_val": np.ones(3)}, r"y_val has targets \[\] of torch.float32; expected \[\] of torch.int64"),
    ({"x_val": X3, "y_val": Y3 + 2}, r"y_val has the label 4; expected 0 \.\.\. 3, as y_train says"),
    ({"x_val": X3[:, :, :5], "y_val": Y3}, r"x_val has inputs \[1, 5, 6\]; expected \[1, 6, 6\]"),
    ({"x_train": np.full((40, 2), np.nan)}, "x_train holds NaN"),
    ({"x_train": np.array(["a"] * 40)}, "expected numbers"),
])  # fmt: skip
def test_npz_mistakes(tmp_path, arrays, says):
    with pytest.raises(BadInput, match=says):
        load_data(f"npz:{write_npz(tmp_path / 'a.npz', **arrays)}")


def test_npz_options(tmp_path):
    path = write_npz(tmp_path / "a.npz")
    assert len(load_data(f"npz:{path}?classes=7").classes) == 7
    with pytest.raises(BadInput, match=r"label 3; expected 0 \.\.\. 1, as option 'classes' says"):
        load_data(f"npz:{path}?classes=2")
    with pytest.raises(UnknownName, match="Did you mean 'mean'"):
        load_data(f"npz:{path}?means=0.5")
    x, _ = everything(load_data(f"npz:{path}?mean=0.5&std=0.25&augment=crop-flip").train)
    assert x.min() < -1.5


def test_npz_that_is_none(tmp_path):
    with pytest.raises(BadInput, match="no file"):
        load_data(f"npz:{tmp_path}/none.npz")
    path = write_npz(tmp_path / "a.npz")
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a zip file at all"):
        path.write_bytes(damaged)
        with pytest.raises(CorruptFile):
            load_data(f"npz:{path}")
    with pytest.raises(CorruptFile, match="Python objects"):
        load_data(f"npz:{write_npz(tmp_path / 'b.npz', x_train=np.array([{}] * 40, dtype=object))}")


# --- imagefolder ----------------------------------------------------------------------------------------------------


def write_images(root, parts, classes=("ape", "bee"), n=10):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for part in parts:
        for c, name in enumerate(classes):
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for i in range(n):
                pixels = rng.integers(0, 120, (40 + i, 50, 3), dtype=np.uint8) + np.uint8(100 * c)
                image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


def test_folders(tmp_path):
    pytest.importorskip("torchvision")
    spec = f"imagefolder:{write_images(tmp_path / 'a', ['train', 'val'])}?size=32"
    data = load_data(spec, batch=8, seed=1)
    assert (data.train.count, data.val.count, data.test, data.classes) == (20, 20, None, ("ape", "bee"))
    assert data.example.shape == (1, 3, 32, 32) and data.example.dtype == torch.float32
    (x, y), (again, _) = everything(data.train), everything(load_data(spec, batch=8, seed=1).train)
    assert torch.equal(x, again) and x.shape == (16, 3, 32, 32)
    assert x[y == 1].mean() > x[y == 0].mean() + 1
    flat = load_data(f"imagefolder:{write_images(tmp_path / 'b', [''])}?size=32", val=0.2)
    assert (flat.train.count, flat.val.count) == (16, 4)


def test_the_centre_is_what_torchvision_sees(tmp_path):
    transforms = pytest.importorskip("torchvision.transforms")
    from PIL import Image

    folder = tmp_path / "a" / "train" / "c"
    folder.mkdir(parents=True)
    ramp = np.add.outer(np.arange(128), np.arange(96))[..., None].repeat(3, 2).astype(np.uint8)
    Image.fromarray(ramp).save(folder / "0.png")
    Image.fromarray(ramp).save(folder / "1.png")
    theirs = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(48), transforms.ToTensor()])
    expected = theirs(Image.fromarray(ramp))
    data = load_data(f"imagefolder:{tmp_path / 'a'}?size=48&resize=64&mean=0,0,0&std=1,1,1", val=0.5)
    assert (data.example[0] - expected).abs().max() < 0.02


def test_folders_that_are_none(tmp_path, monkeypatch):
    pytest.importorskip("torchvision")
    with pytest.raises(BadInput, match="no folder"):
        load_data(f"imagefolder:{tmp_path}/none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="CLASS"):
        load_data(f"imagefolder:{tmp_path}/empty")
    root = write_images(tmp_path / "a", ["train"])
    write_images(root, ["val"], classes=("ape", "cow"))
    with pytest.raises(BadInput, match="differ in classes: bee, cow"):
        load_data(f"imagefolder:{root}")
    with pytest.raises(BadInput, match="resize >= size"):
        load_data(f"imagefolder:{tmp_path / 'a'}?size=64&resize=32")
    (tmp_path / "b").mkdir()
    root = write_images(tmp_path / "b", ["train"], n=3)
    (root / "train" / "ape" / "0.png").write_bytes(b"no image")
    with pytest.raises(CorruptFile, match=r"0\.png is no readable image"):
        everything(load_data(f"imagefolder:{root}?size=32", val=0.4).calibration)
        everything(load_data(f"imagefolder:{root}?size=32", val=0.4).val)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'sartor\[images\]'"):
        load_data(f"imagefolder:{root}")


# --- the user's own loaders -----------------------------------------------------------------------------------------

OWN = """
import torch
from torch.utils.data import DataLoader, TensorDataset

def loaders(batch=4, n=16):
    data = TensorDataset(torch.randn(n, 3), torch.arange(n) % 2)
    return {"train": DataLoader(data, batch, shuffle=True), "val": DataLoader(data, batch), "classes": ["a", "b"]}

def pair(): return tuple(loaders().values())[:2]
def texts(): return {"train": [{"ids": torch.ones(4, 2), "mask": torch.ones(4, 2), "labels": torch.ones(4)}]}
def wrong(): return {"training": []}
def typo(): return {"train": [], "vall": []}
def number(): return 3
def once(): return {"train": iter([])}
def empty(): return {"train": []}
def alone(): return {"train": [torch.ones(3)]}
def broken(): raise OSError("disk on fire")
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


def test_own_loaders(own):
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    data = load_data(f"{own}:loaders?n=24", batch=6)
    assert torch.equal(torch.rand(2), expected)
    assert isinstance(data, DataSet) and data.example.shape == (1, 3) and data.classes == ("a", "b")
    assert len(data.train) == 4 and data.test is None and data.calibration is data.train
    assert load_data(f"{own}:pair").val is not None
    example = load_data(f"{own}:texts").example
    assert set(example) == {"ids", "mask"} and example["ids"].shape == (1, 2)


@pytest.mark.parametrize("name, error, says", [
    ("wrong", BadInput, "got a dict with training"),
    ("typo", UnknownName, "Did you mean 'val'"),
    ("number", BadInput, "tuple .train, val.* got int"),
    ("once", BadInput, "again in every epoch; got an iterator"),
    ("empty", BadInput, "at least one batch"),
    ("alone", BadInput, "got Tensor"),
    ("broken", BadInput, "raised OSError: disk on fire"),
    ("loader", UnknownName, "Did you mean 'loaders'"),
])  # fmt: skip
def test_own_mistakes(own, name, error, says):
    with pytest.raises(error, match=says):
        load_data(f"{own}:{name}")


def test_unknown_sources():
    with pytest.raises(UnknownName, match="Did you mean 'cifar10'"):
        load_data("cifar-10:somewhere")
    with pytest.raises(BadInput, match="such as cifar10:DIR"):
        load_data("somewhere")
    with pytest.raises(BadInput, match="strictly between 0 and 1; got 1"):
        load_data("digits:", val=1.0)
    with pytest.raises(UnknownName, match="option of 'digits'"):
        load_data("digits:?mean=1")
