"""A long-lived connection to the agent on another machine: through a command such as ssh, line by line."""

from __future__ import annotations

import atexit
import os
import shlex
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sartor.errors import SartorError, TargetLost
from sartor.measure import agent

_AGAIN = "Connect again by running the same command"
BYTES_A_SECOND = 1e6  # a slower way than this to the other machine is taken for a broken one
# The agent comes through the same pipe that it then listens to, so nothing is written on the other machine.
_START = "import sys; i = sys.stdin.buffer; exec(i.read(int(i.readline())), {'__name__': '__main__'})"


class Link:
    """Asks the agent; one at a time.

    Args:
        target: its name, for errors.
        host: what the command connects to.
        command: runs what follows it on the other machine, such as ["ssh", "-o", "BatchMode=yes", "pi.local"].
        python: Python there.
        limit_s: an answer that takes longer, transfers aside, is not waited for.
    """

    def __init__(self, target: str, host: str, command: Sequence[str], python: str, limit_s: float):
        self.target, self.host, self.python, self.limit_s = target, host, python, limit_s
        self._lock = threading.Lock()
        self._late = self._met = self._killed = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the connection
        call = [*command, shlex.join([python, "-u", "-c", _START])]
        try:
            self._process = subprocess.Popen(
                call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True
            )
        except OSError as e:
            self._errors.close()
            raise TargetLost(f"target {target!r}: {command[0]!r} does not run; {e}") from e
        atexit.register(self.close)
        source = Path(agent.__file__).read_bytes()
        try:
            self._asked({"do": "facts"}, b"", f"{len(source)}\n".encode() + source)
            self._met = True
        except SartorError:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        return not self._killed and self._process.poll() is None

    def facts(self) -> dict[str, Any]:
        """Of the machine at this moment, as `sartor.measure.environment` has them, and its "host"."""
        return {**self.ask({"do": "facts"})[0]["facts"], "host": self.host}

    def ask(self, message: Mapping[str, Any], payload: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """The agent's answer and its payload.

        Raises:
            TargetLost: the machine did not answer, or not in time; the connection is closed.
            SartorError: the agent says that it cannot.
        """
        return self._asked(message, payload)

    def _asked(self, message: Mapping[str, Any], payload: bytes, before: bytes = b"") -> tuple[dict[str, Any], bytes]:
        with self._lock:
            if not self.alive and not before:
                raise TargetLost(f"target {self.target!r}: {self.host} went away. {_AGAIN}")
            watch = threading.Timer(self.limit_s + len(payload) / BYTES_A_SECOND, self._give_up)
            watch.daemon = True
            watch.start()
            try:
                got = self._exchanged(message, payload, before)
            except (OSError, ValueError):  # the pipe broke, or what came was cut short
                got = None
            except BaseException:  # stopped by hand: the answer would be taken for that to the next question
                self._kill()
                raise
            finally:
                watch.cancel()
        if got is None:
            raise self._lost(message["do"])
        if "error" in got[0]:
            raise SartorError(self._refused(got[0]))
        return got

    def _exchanged(
        self, message: Mapping[str, Any], payload: bytes, before: bytes
    ) -> tuple[dict[str, Any], bytes] | None:
        assert self._process.stdin is not None and self._process.stdout is not None
        if before:
            self._process.stdin.write(before)
        agent.send(self._process.stdin, message, payload)
        return agent.receive(self._process.stdout)

    def _give_up(self) -> None:
        self._late = True
        self._kill()

    def _lost(self, asked: str) -> TargetLost:
        start = f"target {self.target!r}: {self.host} "
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)  # so that it can say why
        self._errors.seek(0)
        lines = [x.strip() for x in self._errors.read().decode(errors="replace").splitlines() if x.strip()]
        said = f"; it says: {lines[-1][:200]}" if lines else ""
        code = self._process.returncode
        self.close()
        if self._late:
            return TargetLost(
                f"{start}did not answer within {self.limit_s:g} s ({asked}){said}. Is it up and idle? A slow one needs "
                "a larger timeout_s in its file"
            )
        if self._met:
            return TargetLost(f"{start}went away ({asked}){said}. {_AGAIN}")
        if code == 127:
            return TargetLost(f'{start}has no {self.python!r}{said}; say python = "..." in its file')
        return TargetLost(f"{start}cannot be reached{said}. Try its 'ssh' command by hand: it must ask for no password")

    def _refused(self, answer: Mapping[str, Any]) -> str:
        start = f"target {self.target!r}, on {self.host}"
        if answer["error"] in ("ModuleNotFoundError", "ImportError"):
            return (
                f"{start}: {self.python} needs the packages numpy and onnxruntime; {answer['text']}. "
                f"Install them there: {self.python} -m pip install numpy onnxruntime"
            )
        return f"{start}: {answer['error']}: {str(answer['text']).strip()[:300]}"

    def close(self) -> None:
        """Hang up; the agent there ends with it. A second call does nothing."""
        atexit.unregister(self.close)
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError, ValueError):
                if pipe is not None:
                    pipe.close()
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()
        self._errors.close()

    def _kill(self) -> None:
        self._killed = True  # it may take a moment to die, and its answer may lie in the pipe already
        with suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
