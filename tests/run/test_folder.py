"""A run folder loads what was saved, or refuses with the file's name: damaged, mixed, killed in the middle, crafted."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tests.zoo_graphs import understood
from torch import nn

import sartor
from sartor.errors import BadInput, CorruptFile, SartorError
from sartor.export.manifest import MANIFEST, STAGE, Contents, Manifest, adopt_files, replacing_file, replacing_files
from sartor.run.folder import EDITS, PLAN, RESULT, WEIGHTS, adopt, problems_of, write_model
from sartor.surgery import cut, edits_for
from sartor.testing.faults import flipped, random_flips
from sartor.testing.plans import halves
from sartor.testing.zoo import ZOO

NET = "resnet"


def build(name: str = NET) -> nn.Module:
    return ZOO[name].value.build()


def save(folder: Path, *, seed: int = 0, name: str = NET, share: float = 0.5) -> dict[str, torch.Tensor]:
    """Write a cut network; its weights."""
    model, _, graph = understood(name)
    plan = halves(graph, share, seed)
    smaller = cut(model, graph, plan)
    write_model(folder, smaller, plan, edits_for(model, graph, plan))
    return {n: t.clone() for n, t in smaller.state_dict().items()}


def loads(folder: Path, state: dict[str, torch.Tensor]) -> bool:
    """Whether the folder loads and gives these weights."""
    loaded = sartor.load(folder, build()).state_dict()
    return loaded.keys() == state.keys() and all(
        t.shape == state[n].shape and torch.equal(t, state[n]) for n, t in loaded.items()
    )


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A saved folder with every kind of file that a run writes."""
    folder = tmp_path / "full"
    save(folder)
    generator = torch.Generator().manual_seed(0)
    for name in ("model.onnx", "model.pt2", "report.html", RESULT, "record.jsonl", "command.json"):
        (folder / name).write_bytes(bytes(torch.randint(0, 256, (3000,), generator=generator).tolist()))
    adopt_files(folder, [p.name for p in folder.iterdir() if p.name != MANIFEST])
    return folder


def flips_are_refused(folder: Path, count: int) -> None:
    model = build()
    sartor.load(folder, model)
    seen = set()
    for flip in random_flips(folder, count):
        with flipped(flip):
            with pytest.raises(SartorError) as refused:
                sartor.load(folder, model)
            assert flip.file.name in str(refused.value), f"{flip}: {refused.value}"
            assert list(problems_of(folder)) == [flip.file.name]
        seen.add(flip.file.name)
    assert seen == {p.name for p in folder.iterdir()}
    sartor.load(folder, model)
    assert not problems_of(folder)


def test_every_flipped_byte_is_refused_with_the_name_of_the_file(full: Path) -> None:
    flips_are_refused(full, 100)


@pytest.mark.slow
def test_a_thousand_flipped_bytes_are_refused(full: Path) -> None:
    flips_are_refused(full, 1000)


def listed_again(folder: Path) -> None:
    """A manifest for the files as they are: what somebody would do who changes them on purpose."""
    with replacing_files(folder, adopt=[p.name for p in folder.iterdir() if p.name != MANIFEST]):
        pass


def fuzz(tmp_path: Path, name: str, count: int) -> int:
    """Flip bytes, rewrite the manifest to match, load and run: how many are refused; another error would escape."""
    folder, refused = tmp_path / name, 0
    save(folder, name=name)
    model, example, _ = understood(name)
    for flip in random_flips(folder, count):
        if flip.file.name == MANIFEST:
            continue
        with flipped(flip):
            try:
                listed_again(folder)
                loaded = sartor.load(folder, model)
            except SartorError:
                refused += 1
                continue
            with torch.no_grad():
                loaded(example)
    return refused


def test_changed_files_with_a_manifest_to_match_are_read_without_a_traceback(tmp_path: Path) -> None:
    assert fuzz(tmp_path, NET, 120)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "transformer-encoder", "mlp"])
def test_many_changed_files_are_read_without_a_traceback(tmp_path: Path, name: str) -> None:
    assert fuzz(tmp_path, name, 2000)


def killed_at(step: int, act: Callable[[], Any]) -> bool:
    """Do it in a process that dies, without any cleaning up, before the n-th change of a file; whether it died."""
    child = os.fork()
    if child == 0:
        count = 0

        def counted(f: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                if count == step:
                    os._exit(9)
                return f(*args, **kwargs)

            return call

        os.replace, os.fsync, os.mkdir = counted(os.replace), counted(os.fsync), counted(os.mkdir)  # type: ignore[assignment]
        try:
            act()
        except BaseException:
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9)
    return code == 9


def test_a_save_over_a_save_that_is_killed_anywhere_leaves_one_of_the_two(tmp_path: Path) -> None:
    folder, step, outcomes = tmp_path / "a", 0, []
    new = save(tmp_path / "new", seed=1, share=0.3)
    while True:
        old = save(folder)
        step += 1
        if not killed_at(step, lambda: save(folder, seed=1, share=0.3)):
            break
        outcomes.append("old" if loads_any(folder, old) else "new")
        assert outcomes[-1] == "old" or loads(folder, new)
        save(folder)  # the next writer finds its way, whatever was left
        assert {p.name for p in folder.iterdir()} == {PLAN, EDITS, WEIGHTS, MANIFEST}
    assert outcomes.count("old") >= 4 and outcomes.count("new") >= 3, outcomes
    assert outcomes == sorted(outcomes, key="old new".index)
    assert loads(folder, new)


def loads_any(folder: Path, state: dict[str, torch.Tensor]) -> bool:
    try:
        return loads(folder, state)
    except SartorError:
        raise AssertionError("neither of the two networks loads") from None


@pytest.mark.parametrize("failing", range(1, 9))
def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    old, new = save(tmp_path), {}
    real, count = os.fsync, 0

    def full_disk(fd: int) -> None:
        nonlocal count
        count += 1
        if count == failing:
            raise OSError(28, "No space left on device")
        real(fd)

    monkeypatch.setattr(os, "fsync", full_disk)
    try:
        new = save(tmp_path, seed=1)
    except SartorError as e:
        assert "the disk is full" in str(e)
    monkeypatch.undo()
    assert loads(tmp_path, new or old) and {p.name for p in tmp_path.iterdir()} == {PLAN, EDITS, WEIGHTS, MANIFEST}


def test_files_of_another_network_are_refused(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    save(a), save(b, seed=1)
    for name in (PLAN, EDITS, WEIGHTS):
        kept = (a / name).read_bytes()
        (a / name).write_bytes((b / name).read_bytes())
        with pytest.raises(CorruptFile, match=name):
            sartor.load(a, build())
        (a / name).write_bytes(kept)
    save(b, name="mlp")
    (a / PLAN).write_bytes((b / PLAN).read_bytes())
    listed = Contents.of(a).manifest
    assert listed is not None
    forged = {**listed.files, **{PLAN: Contents.of(b).manifest.files[PLAN]}}  # type: ignore[union-attr]
    (a / MANIFEST).write_text(Manifest(graph=listed.graph, plan=listed.plan, files=forged).to_text())
    with pytest.raises(CorruptFile, match=r"plan\.json: made for the graph .*; the network .* from the graph"):
        sartor.load(a, build())
    with pytest.raises(BadInput, match=r"no tensor|made for shape"):
        save(a), sartor.load(a, build("mlp"))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], **more: str) -> None:
    with safe_open(folder / WEIGHTS, "pt") as f:
        tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
        metadata = {**(f.metadata() or {}), **more}
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata=metadata)
    listed_again(folder)


CHANGES: list[tuple[Callable[[dict[str, torch.Tensor]], Any], dict[str, str], str]] = [
    (lambda t: t.pop(FIRST), {}, "not in the file"),
    (lambda t: t.update(extra=torch.zeros(3)), {}, "not in the model: extra"),
    (lambda t: t.update({FIRST: t[FIRST][:1].clone()}), {}, "another shape"),
    (lambda t: t.update({FIRST: t[FIRST].half()}), {}, "float16"),
    (lambda t: t[FIRST].view(-1)[:1].fill_(float("nan")), {}, "NaN"),
    (lambda t: t[FIRST].view(-1)[:1].fill_(float("inf")), {}, "infinite"),
    (lambda t: t.pop(FIRST), {"sartor": '{"tied": {"FIRST": "SECOND"}}'}, "not in the file"),
    (lambda t: None, {"sartor": '{"tied": [1, 2]}'}, "tied"),
    (lambda t: None, {"sartor": "[[["}, "safetensors"),
]
FIRST = "conv1.weight"


@pytest.mark.parametrize(("change", "metadata", "words"), CHANGES)
def test_weights_that_are_not_those_of_the_network_are_refused(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any], metadata: dict[str, str], words: str
) -> None:
    global FIRST
    state = save(tmp_path)
    FIRST, second = [n for n, t in state.items() if t.dim() > 1][:2]
    named = {k: v.replace("FIRST", FIRST).replace("SECOND", second) for k, v in metadata.items()}
    change_weights(tmp_path, change, **named)
    with pytest.raises((BadInput, CorruptFile), match=words):
        sartor.load(tmp_path, build())


def test_a_folder_without_manifest_is_refused_until_it_is_adopted(tmp_path: Path) -> None:
    state = save(tmp_path)
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(BadInput, match=r"sartor runs verify --adopt"):
        sartor.load(tmp_path, build())
    adopt(tmp_path)
    assert loads(tmp_path, state)
    with pytest.raises(BadInput, match="already"):
        adopt(tmp_path)


def test_files_that_load_does_not_need_may_be_removed(full: Path) -> None:
    (full / "model.onnx").unlink()
    sartor.load(full, build())
    assert problems_of(full) == {"model.onnx": "missing"}
    (full / PLAN).unlink()
    with pytest.raises(BadInput, match=r"plan\.json: missing"):
        sartor.load(full, build())


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", ".hidden", "", "manifest.json", "x\n", "a" * 300])
def test_a_manifest_lists_files_of_its_folder_only(tmp_path: Path, name: str) -> None:
    save(tmp_path)
    listed = Contents.of(tmp_path).manifest
    assert listed is not None
    (tmp_path / MANIFEST).write_text(
        listed.model_copy(update={"files": {**listed.files, name: listed.files[PLAN]}}).to_text()
    )
    with pytest.raises(CorruptFile, match="names of files in this folder"):
        sartor.load(tmp_path, build())


def test_nothing_outside_of_the_folder_is_written(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "run"
    outside.mkdir(), folder.mkdir()
    (outside / "file").write_text("mine")
    for name in (STAGE, PLAN, EDITS, WEIGHTS, MANIFEST):
        (folder / name).symlink_to(outside if name == STAGE else outside / "file")
    state = save(folder)
    assert loads(folder, state) and [p.name for p in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "mine"
    (folder / ".lock").symlink_to(outside / "lock")
    with pytest.raises(SartorError):
        save(folder)
    assert not (outside / "lock").exists()


def test_special_files_and_huge_ones_are_refused(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / EDITS).unlink()
    os.mkfifo(tmp_path / EDITS)
    with pytest.raises(SartorError, match=r"edits\.json"):
        sartor.load(tmp_path, build())
    (tmp_path / MANIFEST).unlink()
    with (tmp_path / MANIFEST).open("wb") as f:
        f.truncate(10**11)
    with pytest.raises(SartorError, match=r"edits\.json|manifest\.json"):
        sartor.load(tmp_path, build())


def test_a_file_written_into_a_saved_folder_is_listed(tmp_path: Path) -> None:
    save(tmp_path)
    for text in ("one", "two"):
        with replacing_file(tmp_path / "model.onnx") as place:
            place.write_text(text)
        assert (tmp_path / "model.onnx").read_text() == text and not problems_of(tmp_path)
    with replacing_file(tmp_path / "elsewhere" / "x.onnx") as place:
        place.parent.mkdir()
        place.write_text("three")
    assert not (tmp_path / "elsewhere" / MANIFEST).exists()


def test_all_files_may_be_read_by_those_who_may_read_others(tmp_path: Path) -> None:
    save(tmp_path)
    assert len({stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}) == 1


def test_the_manifest_says_what_it_is_about(tmp_path: Path) -> None:
    save(tmp_path)
    raw = json.loads((tmp_path / MANIFEST).read_text())
    assert raw["graph"] == json.loads((tmp_path / PLAN).read_text())["fingerprint"]
    assert raw["plan"] == raw["files"][PLAN]["sha256"] and set(raw["files"]) == {PLAN, EDITS, WEIGHTS}
