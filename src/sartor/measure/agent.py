"""Runs on the remote machine of a target: holds models, times them, and answers requests from standard input.

The file is sent to the machine as it is, so it imports nothing of Sartor: Python, NumPy and ONNX Runtime are enough. It
writes no file. A message is one line, MARK and a JSON object, followed by as many raw bytes as its "bytes" says.
"""

from __future__ import annotations

import gc
import io
import json
import os
import platform
import re
import sys
import time
from typing import IO, Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # telemetry would leave files behind
MARK = b"sartor-agent "  # lines without it are other output of the remote shell


def send(out: IO[bytes], message: Any, payload: bytes = b"") -> None:
    """Write one message."""
    out.write(MARK + json.dumps({**message, "bytes": len(payload)}).encode() + b"\n" + payload)
    out.flush()


def receive(source: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """(message, payload); None at the end of the input."""
    while True:
        line = source.readline()
        if not line:
            return None
        if line.startswith(MARK):
            message = json.loads(line[len(MARK) :])
            payload = source.read(message["bytes"])
            return (message, payload) if len(payload) == message["bytes"] else None


def read(path: str) -> str | None:
    """The content of a file; None if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def facts() -> dict[str, Any]:
    """Facts of the machine, with the keys of `sartor.measure.environment`."""
    import numpy
    import onnxruntime

    model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", read("/proc/cpuinfo") or "", re.MULTILINE)
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        memory = 0
    try:
        load = [round(v, 2) for v in os.getloadavg()]
    except (OSError, AttributeError):
        load = []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": model.group(1).strip() if model else platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": cores,
        "memory_bytes": memory,
        "gpu": [],
        "os": platform.platform(),
        "python": platform.python_version(),
        "versions": {"onnxruntime": onnxruntime.__version__, "numpy": numpy.__version__},
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load": load,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
    }


def open_session(message: dict[str, Any], payload: bytes) -> tuple[Any, dict[str, Any]]:
    """(session, inputs by name); with the settings of `sartor.measure.ort_backend.open_session`."""
    import numpy
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = message["threads"] or facts()["usable_cores"]
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    for key, value in message["session"].items():
        options.add_session_config_entry(key, value)
    model, inputs = payload[: message["model"]], payload[message["model"] :]
    missing = sorted(set(message["providers"]) - set(ort.get_available_providers()))
    if missing:
        raise RuntimeError("this onnxruntime has no " + ", ".join(missing))
    session = ort.InferenceSession(model, options, providers=message["providers"])
    if session.get_providers()[0] != message["providers"][0]:
        raise RuntimeError("onnxruntime could not start " + message["providers"][0])
    with numpy.load(io.BytesIO(inputs), allow_pickle=False) as arrays:
        return session, {name: arrays[f"arr_{i}"] for i, name in enumerate(message["names"])}


def seconds_of(session: Any, feed: dict[str, Any], count: int) -> float:
    """Seconds that `count` inferences take."""
    names, run = [o.name for o in session.get_outputs()], session.run
    gc.disable()
    try:
        begin = time.perf_counter()
        for _ in range(count):
            run(names, feed)
        return time.perf_counter() - begin
    finally:
        gc.enable()


def answer(message: dict[str, Any], payload: bytes, held: dict[int, Any]) -> tuple[dict[str, Any], bytes]:
    """(answer, payload) to one message."""
    do = message["do"]
    if do == "facts":
        return {"facts": facts()}, b""
    if do == "open":
        held[message["id"]] = open_session(message, payload)
        return {}, b""
    if do == "close":
        held.pop(message["id"], None)
        return {}, b""
    session, feed = held[message["id"]]
    if do == "run":
        return {"seconds": seconds_of(session, feed, message["count"])}, b""
    import numpy

    stream = io.BytesIO()
    numpy.savez(stream, *session.run(None, feed))
    return {}, stream.getvalue()


def serve(source: IO[bytes], out: IO[bytes]) -> None:
    """Answer requests until the input ends."""
    held: dict[int, Any] = {}
    while (request := receive(source)) is not None:
        try:
            reply, payload = answer(request[0], request[1], held)
        except Exception as e:
            reply, payload = {"error": type(e).__name__, "text": str(e)}, b""
        send(out, reply, payload)


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
