"""A long-lived connection to the agent on another machine, through a command such as ssh."""

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
BYTES_A_SECOND = 1e6  # a slower transfer counts as a broken connection
# The agent's source comes through the pipe that it reads requests from, so no file is written on the other machine.
_START = "import sys; i = sys.stdin.buffer; exec(i.read(int(i.readline())), {'__name__': '__main__'})"


class AgentError(SartorError):
    """The agent answered that it cannot do what was requested; the machine is still there."""


class Link:
    """Sends requests to the agent, one at a time.

    Args:
        target: name of the target, for errors.
        host: the machine that the command connects to.
        command: runs the command line that follows it on the other machine, such as ["ssh", "-o", "BatchMode=yes",
            "pi.local"].
        python: the command that starts Python on that machine.
        limit_s: longest wait for an answer, in seconds, besides the transfer.

    Raises:
        TargetLost: the machine cannot be reached, or cannot run the agent.
        AgentError: packages are missing on that machine.
    """

    def __init__(self, target: str, host: str, command: Sequence[str], python: str, limit_s: float):
        self.target, self.host, self.python, self.limit_s = target, host, python, limit_s
        self._lock = threading.Lock()
        self._late = self._met = self._killed = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # stays open as long as the connection
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
            self._request({"do": "facts"}, b"", f"{len(source)}\n".encode() + source)
            self._met = True
        except SartorError:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether requests can still be sent."""
        return not self._killed and self._process.poll() is None

    def facts(self) -> dict[str, Any]:
        """Facts of the machine at this moment, with the keys of `sartor.measure.environment`, and its "host"."""
        return {**self.ask({"do": "facts"})[0]["facts"], "host": self.host}

    def ask(self, message: Mapping[str, Any], payload: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """The agent's answer and its payload.

        Raises:
            TargetLost: the machine did not answer, or not in time; the connection is closed.
            AgentError: the agent answered with an error.
        """
        return self._request(message, payload)

    def _request(self, message: Mapping[str, Any], payload: bytes, before: bytes = b"") -> tuple[dict[str, Any], bytes]:
        with self._lock:
            if not self.alive and not before:
                raise TargetLost(f"target {self.target!r}: {self.host} went away. {_AGAIN}")
            watch = threading.Timer(self.limit_s + len(payload) / BYTES_A_SECOND, self._give_up)
            watch.daemon = True
            watch.start()
            try:
                answer = self._exchanged(message, payload, before)
            except (OSError, ValueError):  # the pipe broke, or the answer was cut short
                answer = None
            except BaseException:  # interrupted: the late answer would be taken for that to the next request
                self._kill()
                raise
            finally:
                watch.cancel()
        if answer is None:
            raise self._lost(message["do"])
        if "error" in answer[0]:
            raise AgentError(self._refused(answer[0]))
        return answer

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

    def _lost(self, request: str) -> TargetLost:
        start = f"target {self.target!r}: {self.host} "
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)  # so that it can write its error
        self._errors.seek(0)
        lines = [x.strip() for x in self._errors.read().decode(errors="replace").splitlines() if x.strip()]
        stderr = f"; it says: {lines[-1][:200]}" if lines else ""
        code = self._process.returncode
        self.close()
        if self._late:
            return TargetLost(
                f"{start}did not answer within {self.limit_s:g} s ({request}){stderr}. Is it up and idle? A "
                "slow machine needs a larger timeout_s in its file"
            )
        if self._met:
            return TargetLost(f"{start}went away ({request}){stderr}. {_AGAIN}")
        if code == 127:
            return TargetLost(f'{start}has no {self.python!r}{stderr}; set python = "..." in its file')
        return TargetLost(
            f"{start}cannot be reached{stderr}. Try its 'ssh' command by hand: it must ask for no password"
        )

    def _refused(self, answer: Mapping[str, Any]) -> str:
        start = f"target {self.target!r}, on {self.host}"
        if answer["error"] in ("ModuleNotFoundError", "ImportError"):
            return (
                f"{start}: {self.python} needs the packages numpy and onnxruntime; {answer['text']}. "
                f"Install them there: {self.python} -m pip install numpy onnxruntime"
            )
        return f"{start}: {answer['error']}: {str(answer['text']).strip()[:300]}"

    def close(self) -> None:
        """Close the connection, which ends the agent. A second call does nothing."""
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
        self._killed = True  # the process may still answer before it dies
        with suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
