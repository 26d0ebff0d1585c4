"""A program that runs, shut in, seen from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from llmbook.evaluation.sandbox.interpreter import python_command
from llmbook.evaluation.sandbox.limits import InfrastructureError, Limits
from llmbook.evaluation.sandbox.pipes import Pipes, Stopped
from llmbook.evaluation.sandbox.plans import Launch

READY = b"ready"
START_SECONDS = 20.0  # a busy machine may be slow; it is no verdict
END_SECONDS = 1.0  # for the end of what ended, and what it still said


class Started:
    """A program that runs, shut in; :func:`start` gives it.

    Attributes:
        outcome: None while nothing is wrong, then why there is no answer:
            "ended", "timeout" or "output".
        returncode: As subprocess gives it, once it is over.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], pipes: Pipes, seconds: float
    ) -> None:
        self._process, self._pipes = process, pipes
        self._last = time.monotonic() + seconds
        self._killed = False
        self.outcome: str | None = None

    def _until(self, seconds: float | None) -> float:
        """The sooner of ``seconds`` from now and the program's own end."""
        if seconds is None:
            return self._last
        return min(self._last, time.monotonic() + seconds)

    def send(self, message: bytes, seconds: float | None = None) -> None:
        """Hand over one message.

        Raises:
            Stopped: the program ended, or did not read it in time.
        """
        with self._noted():
            self._pipes.send(message, self._until(seconds))

    def receive(self, seconds: float | None = None) -> bytes:
        """Its next message, any bytes at all: take care how they are read.

        Raises:
            Stopped: it ended, is out of time, or said too much.
        """
        with self._noted():
            return self._pipes.receive(self._until(seconds))

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        """End the program that gives no answer, and keep the reason."""
        try:
            yield
        except Stopped as stopped:
            if stopped.outcome == "ended":  # let it say how
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(END_SECONDS)
            self.kill()
            if self.returncode in (-signal.SIGXCPU, 128 + signal.SIGXCPU):
                stopped = Stopped("timeout")  # bwrap adds 128, bwrap(1)
            self.outcome = self.outcome or stopped.outcome
            raise stopped from None

    def kill(self) -> None:
        """End it and all that it started, as far as its tier can.

        Raises:
            InfrastructureError: it does not end.
        """
        if self._killed:
            return  # by now its number may be another's
        self._killed = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        try:
            self._process.wait(START_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise InfrastructureError(f"it does not end: {error}") from error
        self._pipes.finish(time.monotonic() + END_SECONDS)

    def begin(self, program: str, fine: Callable[[], bool] | None) -> None:
        """Wait for the sandbox to stand, then hand the program over.

        Args:
            fine: Asked from then on, see :class:`.pipes.Pipes`; earlier it
                would look at a file system that is not yet the program's.

        Raises:
            InfrastructureError: it does not stand.
        """
        clock = time.monotonic()
        try:
            first = self._pipes.receive(clock + START_SECONDS)
            if first != READY:
                raise Stopped("ended")
            self._pipes.fine = fine
            self._pipes.send(program.encode(), clock + START_SECONDS)
        except Stopped as stopped:
            self.kill()
            raise InfrastructureError(
                f"the sandbox did not start ({stopped.outcome}): "
                f"{self.log.strip() or self.returncode}"
            ) from None
        self._last += time.monotonic() - clock

    @property
    def returncode(self) -> int | None:
        """How it ended, as subprocess says it; None while it runs."""
        return self._process.poll()

    @property
    def log(self) -> str:
        """What it printed so far, for a reader; it is no evidence."""
        return self._pipes.logged.decode("utf-8", "replace")


def spawn(
    launch: Launch, limits: Limits, stack: contextlib.ExitStack
) -> Started:
    """Start the interpreter with its three pipes, not the program yet."""
    ours: list[int] = []
    theirs: list[int] = []
    for reader_is_theirs in (True, False, False):
        pair = os.pipe()
        ours.append(pair[1 if reader_is_theirs else 0])
        theirs.append(pair[0 if reader_is_theirs else 1])
    pipes = Pipes(*ours, limits.output_bytes)
    stack.callback(pipes.close)
    try:
        process = subprocess.Popen(
            inside_command(launch, theirs[0], theirs[1]),
            stdin=subprocess.DEVNULL,
            stdout=theirs[2],
            stderr=theirs[2],
            env=launch.variables,
            cwd=launch.folder,
            pass_fds=(*theirs[:2], *launch.keep),
            start_new_session=True,
            **as_user(launch.user),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise InfrastructureError(f"nothing starts: {error}") from error
    finally:
        for fd in theirs:
            os.close(fd)
    return Started(process, pipes, limits.wall_seconds)


def inside_command(launch: Launch, requests: int, answers: int) -> list[str]:
    """The whole command: what isolates, Python, and what it runs first."""
    user = "-" if launch.user_inside is None else str(launch.user_inside)
    words = [str(requests), str(answers), user, *launch.limits]
    return [*launch.before, *python_command(launch.python, "inside", *words)]


def as_user(user: int | None) -> dict[str, Any]:
    """Popen's arguments for another user, in no group."""
    if user is None:
        return {}
    return {"user": user, "group": user, "extra_groups": []}
