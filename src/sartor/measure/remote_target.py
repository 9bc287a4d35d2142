"""A target on another machine, described by a TOML file: models are converted here, and run and timed there."""

from __future__ import annotations

import io
import itertools
import shutil
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from sartor.errors import BadInput, SartorError, TargetLost, UnknownName
from sartor.measure.link import AgentError, Link
from sartor.measure.onnx_runtimes import Loaded, OnnxRuntime, from_file, through_onnx
from sartor.measure.runnable import Runnable
from sartor.registry import Entry
from sartor.types import Target

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15")


@dataclass(frozen=True)
class Machine:
    """The content of a machine's TOML file."""

    host: str  # as ssh takes it, such as "pi@raspberrypi.local"
    python: str = "python3"  # command on that machine; needs the packages numpy and onnxruntime
    runtime: str = "onnxruntime"
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    session: Mapping[str, str] | None = None  # entries of ONNX Runtime's session configuration
    ssh: tuple[str, ...] = SSH  # command that connects; followed by the host and a command line
    timeout_s: float = 60.0  # longest wait for an answer
    summary: str = ""


def _word(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _words(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_word, value))


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("host", "python", "runtime", "summary"), ("a word", _word)),
    **dict.fromkeys(("providers", "ssh"), ("a list of words", _words)),
    "session": ("a table of words", lambda v: isinstance(v, dict) and all(map(_word, v.values()))),
    "timeout_s": ("seconds > 0", lambda v: isinstance(v, int | float) and not isinstance(v, bool) and v > 0),
}
_links: dict[Path, tuple[Machine, Link]] = {}
_numbers = itertools.count()


def remote_target(path: Path, name: str) -> Entry[Any]:
    """The registry entry of the machine that a TOML file describes; connects only when something is measured.

    Raises:
        BadInput: the file is not TOML, or a field has a value of the wrong kind.
        UnknownName: there is no such field.
    """
    machine = read_machine(path, name)
    traits: dict[str, Any] = {
        "dtypes": ("float32", "float16", "int8"),
        "label": path.stem,
        "why_not": partial(_no_command, machine),
        "facts": lambda: _link(machine, path, name).facts(),
        "runtime": lambda facts: f"onnxruntime {facts['versions']['onnxruntime']} {' '.join(machine.providers)}",
        "file": lambda model, target, inputs: from_file(model, target, partial(_load, machine, path, target), inputs),
    }
    summary = machine.summary or f"ONNX Runtime on {machine.host}"
    return Entry(name, partial(_remote, machine, path), str(path), summary, traits)


def read_machine(path: Path, name: str) -> Machine:
    """The fields of a machine's file, checked."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise BadInput(f"target {name!r}: {path} is not a TOML file; {e}") from e
    assert set(_KINDS) == {f.name for f in fields(Machine)}
    for key, value in raw.items():
        if key not in _KINDS:
            raise UnknownName(f"field of the target {path.name}", key, _KINDS)
        expected, check = _KINDS[key]
        if not check(value):
            raise BadInput(f"target {name!r}, {key}: expected {expected}; got {value!r}")
    if "host" not in raw:
        raise BadInput(f'target {name!r}: {path} names no machine; add a line such as host = "pi@raspberrypi.local"')
    if raw.get("runtime", "onnxruntime") != "onnxruntime":
        raise BadInput(
            f"target {name!r}, runtime: expected 'onnxruntime', the only one supported; got {raw['runtime']!r}"
        )
    if raw["host"].startswith("-"):
        raise BadInput(f"target {name!r}, host: expected a machine's name; got {raw['host']!r}")
    checked: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    return Machine(**checked)


def _no_command(machine: Machine) -> str | None:
    if shutil.which(machine.ssh[0]) is None:
        return f"the command {machine.ssh[0]!r}, which connects to {machine.host}, was not found"
    return None


def _link(machine: Machine, path: Path, name: str) -> Link:
    """The connection to a machine: made when first needed, and again after it broke or the file changed."""
    known = _links.get(path)
    if known is not None and known[0] == machine and known[1].alive:
        return known[1]
    if known is not None:
        known[1].close()
    link = Link(name, machine.host, [*machine.ssh, machine.host], machine.python, machine.timeout_s)
    _links[path] = (machine, link)
    return link


def _remote(
    machine: Machine, path: Path, model: nn.Module, example: Any, target: Target, *, fast: bool = True
) -> Runnable:
    _link(machine, path, target.name)  # fails now, not after minutes of conversion
    return through_onnx(model, example, target, OnnxRuntime(partial(_load, machine, path, target)), fast=fast)


def _load(
    machine: Machine, path: Path, target: Target, model: bytes | Path, feed: Mapping[str, np.ndarray], name: str
) -> Loaded:
    """Open a session on the machine; two requests time it and read its outputs."""
    link, number = _link(machine, path, target.name), next(_numbers)
    data = model if isinstance(model, bytes) else model.read_bytes()
    message = {
        "do": "open", "id": number, "model": len(data), "names": list(feed), "threads": target.threads,
        "providers": list(machine.providers),
        "session": {"session.force_spinning_stop": "1", **(machine.session or {})},
    }  # fmt: skip
    stream = io.BytesIO()
    np.savez(stream, *feed.values())
    try:
        link.ask(message, data + stream.getvalue())
    except AgentError as e:
        raise SartorError(f"{name} does not run: {e}") from e

    def seconds(count: int) -> float:
        return float(link.ask({"do": "run", "id": number, "count": count})[0]["seconds"])

    def outputs() -> list[np.ndarray]:
        with np.load(io.BytesIO(link.ask({"do": "outputs", "id": number})[1]), allow_pickle=False) as arrays:
            return [arrays[f"arr_{i}"] for i in range(len(arrays.files))]

    def release() -> None:
        if link.alive:
            with suppress(TargetLost):  # then the session there is gone too
                link.ask({"do": "close", "id": number})

    return Loaded(Runnable(target, outputs, release=release, seconds=seconds, facts=link.facts), outputs)
