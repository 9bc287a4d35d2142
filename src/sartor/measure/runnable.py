"""One inference, ready to be repeated: what every backend returns, and what is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from sartor.errors import BadInput
from sartor.measure.environment import environment
from sartor.types import Target


@dataclass(eq=False)
class Runnable:
    """A model on a target with its inputs in place.

    `step` executes one inference and returns when the result is there. `settings` is a context manager that must be
    active around it (thread counts, inference mode): `held()` enters it once for many runs, and `run()` enters it for
    one. A target with a clock of its own, such as another machine, has `seconds`: n -> seconds that n inferences took.
    """

    target: Target
    step: Callable[[], Any]
    settings: Callable[[], AbstractContextManager[Any]] = nullcontext
    release: Callable[[], None] | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)  # exporter, seconds of preparation
    seconds: Callable[[int], float] | None = None
    facts: Callable[[], Mapping[str, Any]] = environment  # of the machine that it runs on, at this moment
    own: bool = False  # all work is done by the CPU in this process, which never waits meanwhile
    _held: int = field(default=0, init=False, repr=False)
    _closed: bool = field(default=False, init=False, repr=False)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The target's settings are active inside and undone afterwards; may be nested."""
        if self._closed:
            raise BadInput(f"target {self.target.name!r}: this runnable is closed; prepare the model again")
        with self.settings() if not self._held else nullcontext():
            self._held += 1
            try:
                yield
            finally:
                self._held -= 1

    def run(self) -> Any:
        """One inference; returns what the backend returns (tensors, or NumPy arrays from ONNX Runtime)."""
        if self._held:
            return self.step()
        with self.held():
            return self.step()

    def timed(self, count: int, clock: Callable[[], float]) -> float:
        """Seconds that `count` inferences take, one after the other; by the target's own clock if it has one."""
        if self.seconds is not None:
            with self.held():
                return self.seconds(count)
        run, runs = self.run, range(count)
        begin = clock()
        for _ in runs:
            run()
        return clock() - begin

    def close(self) -> None:
        """Release memory and sessions; a second call does nothing."""
        if not self._closed:
            self._closed = True
            if self.release is not None:
                self.release()
            self.step = _closed

    def __enter__(self) -> Runnable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _closed() -> Any:
    raise BadInput("this runnable is closed; prepare the model again")
