"""How near a ratio of latencies comes to the truth beside a busy neighbour, and how often its interval holds it.

    python bench/noise.py                 a simulated neighbour, whose truth is known
    python bench/noise.py --real          a process that keeps this core busy, ResNet-18 against a narrower network

Every line is one kind of neighbour: the median error of several ways to make a ratio from the same samples with the
largest error of nine in ten trials behind it, in per cent; how many trials were called noisy; and in how many the 95 %
interval of the pairwise median held the truth.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence

from sartor.measure import compare
from sartor.testing.neighbour import Neighbour
from sartor.types import Comparison, Effort

TRUTH = 0.6
EFFORT = Effort(samples=40, min_seconds=0.5, max_seconds=1.5, precision=0.01)
SPELLS = {
    "nobody": (0.0, 1.0), "20 ms in 220": (0.02, 0.2), "20 ms in 40": (0.02, 0.02), "0.3 s in 1.3": (0.3, 1.0),
    "0.5 s in 1": (0.5, 0.5), "always": (math.inf, 1.0),
}  # fmt: skip
Estimator = Callable[[Sequence[float], Sequence[float]], float]


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def least(values: Sequence[float]) -> float:
    return statistics.fmean(sorted(values)[: max(2, len(values) // 6)])


WAYS: dict[str, Estimator] = {
    "pairs": lambda a, b: statistics.median(y / x for x, y in zip(a, b)),
    "medians": lambda a, b: statistics.median(b) / statistics.median(a),
    "quartiles": lambda a, b: quantile(b, 0.25) / quantile(a, 0.25),
    "least sixth": lambda a, b: least(b) / least(a),
    "means": lambda a, b: sum(b) / sum(a),
}


def line(name: str, found: Sequence[Comparison], truth: float) -> str:
    """One neighbour: errors of every way on wall time, then of `Comparison.ratio`."""
    cells = []
    for way in WAYS.values():
        cells.append(_errors([way(c.original.seconds, c.fitted.seconds) / truth - 1 for c in found]))
    cells.append(_errors([c.ratio / truth - 1 for c in found]))
    held = sum(c.interval[0] <= truth <= c.interval[1] for c in found) / len(found)
    wide = statistics.median((c.interval[1] - c.interval[0]) / 2 / c.ratio for c in found)
    noisy = sum(bool(c.noisy) for c in found) / len(found)
    return f"{name:22s}" + "".join(f"{c:>15s}" for c in cells) + f"{noisy:8.0%}{held:8.0%}{100 * wide:9.1f}"


def _errors(errors: Sequence[float]) -> str:
    return f"{100 * statistics.median(errors):+.1f} ({100 * quantile([abs(e) for e in errors], 0.9):.1f})"


def simulated(trials: int, *, own: bool) -> None:
    print("\nlatency, neighbour" + (", one thread of this process" if own else ", wall time alone"))
    for seconds in (0.001, 0.008, 0.1):
        for name, (busy, calm) in SPELLS.items():
            found = []
            for seed in range(trials):
                core = Neighbour(busy, calm, seed=seed)
                pair = (core.runnable(seconds, own=own), core.runnable(TRUTH * seconds, own=own))
                found.append(compare(*pair, EFFORT, clock=core.clock, running=core.running))
            print(line(f"{1e3 * seconds:g} ms, {name}", found, TRUTH), flush=True)


def real(trials: int, target: str) -> None:
    """Beside a busy loop and without one, on the first core this process may use."""
    import torch
    from torchvision.models import resnet18

    from sartor.measure import prepare

    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    torch.manual_seed(0)
    whole = resnet18().eval()
    part = torch.nn.Sequential(*list(whole.children())[:7])
    example = torch.randn(1, 3, 112, 112)
    loop = "while True: pass"
    burst = "import time\nwhile True:\n e=time.perf_counter()+.02\n while time.perf_counter()<e: pass\n time.sleep(.05)"
    kinds = {"nobody": None, "bursts": burst, "always": loop}
    truth = 0.0
    for name, program in kinds.items():
        busy = subprocess.Popen([sys.executable, "-c", program]) if program else None
        try:
            with prepare(whole, example, target) as a, prepare(part, example, target) as b:
                found = [compare(a, b, EFFORT) for _ in range(trials)]
        finally:
            if busy:
                busy.kill()
        truth = truth or statistics.median(c.ratio for c in found)
        print(line(f"{name}, {found[0].noisy[:0]}{truth:.3f}", found, truth), flush=True)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--trials", type=int, default=40)
    ask.add_argument("--real", action="store_true")
    ask.add_argument("--target", default="onnxruntime-cpu:threads=1")
    asked = ask.parse_args()
    print(f"{'':22s}" + "".join(f"{w:>15s}" for w in [*WAYS, "Comparison"]) + f"{'noisy':>8s}{'held':>8s}{'± %':>9s}")
    if asked.real:
        real(asked.trials, asked.target)
    else:
        simulated(asked.trials, own=False)
        simulated(asked.trials, own=True)


if __name__ == "__main__":
    main()
