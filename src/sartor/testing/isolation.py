"""A function in a process of its own, with a time and a memory limit: what it breaks ends with it."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from typing import Any


def isolated(
    function: Callable[[], Any], *, seconds: float, memory: int | None = None, fresh: bool = False
) -> tuple[Any, str]:
    """(what it returned, "") or (None, why there is nothing).

    Args:
        function: what it returns can be pickled. Where processes can fork it needs no pickling itself.
        seconds: of the clock, at most.
        memory: bytes of address space at most, where the system can limit it.
        fresh: a new interpreter that shares nothing with this one, no thread and no memory; `function` is pickled.
    """
    kinds = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("fork" if "fork" in kinds and not fresh else "spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(function, there, memory), daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(seconds):
            return None, f"not done within {seconds:g} s"
        done, value = here.recv()
        return (value, "") if done else (None, value)
    except EOFError:
        process.join(5)
        return None, f"its process ended with status {process.exitcode}"
    finally:
        if process.is_alive():
            process.kill()
        process.join()
        here.close()


def _work(function: Callable[[], Any], pipe: Any, memory: int | None) -> None:
    if memory is not None and sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    try:
        pipe.send((True, function()))
    except BaseException as e:
        pipe.send((False, f"{type(e).__name__}: {e}".split("\n")[0][:300]))
