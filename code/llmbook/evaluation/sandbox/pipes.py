"""Messages to and from a program that may do anything with its pipes.

A message is four bytes of length, most significant first, and that many
bytes. Reading is bounded: a program that says more than it may is ended.
What it prints is kept apart, as a log.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable

from llmbook.evaluation.sandbox.inside import LENGTH

CHUNK = 1 << 16  # what a Linux pipe holds, pipe(7)
TICK = 0.02  # seconds between two looks at what the program wrote


class Stopped(Exception):
    """No message came: the program ended, or has to be ended.

    Attributes:
        outcome: "ended" (by itself, or by a limit), "timeout", or
            "output" (it said or wrote too much).
    """

    def __init__(self, outcome: str) -> None:
        super().__init__(f"no answer of the program: {outcome}")
        self.outcome = outcome


class Pipes:
    """The judge's ends: requests to write, answers and a log to read.

    Args:
        requests, answers, log: Descriptors; :meth:`close` closes them.
        most: The bytes that answers and log may have together.

    Attributes:
        fine: Asked again and again, if it is set, whether the program keeps
            to a limit that nothing else holds it to.
    """

    def __init__(
        self, requests: int, answers: int, log: int, most: int
    ) -> None:
        self.requests, self.most = requests, most
        self.fine: Callable[[], bool] | None = None
        self.answered, self.logged = bytearray(), bytearray()
        self._open = {answers: self.answered, log: self.logged}
        self._answers, self._read = answers, 0
        for fd in (requests, answers, log):
            os.set_blocking(fd, False)

    def send(self, message: bytes, deadline: float) -> None:
        """Write one message; ``deadline`` is a value of time.monotonic().

        Raises:
            Stopped: the program ended, or does not read.
        """
        data = memoryview(len(message).to_bytes(LENGTH, "big") + message)
        while data:
            if self._wait(deadline, write=True):
                data = data[self._write(data[:CHUNK]) :]

    def receive(self, deadline: float) -> bytes:
        """The program's next message.

        Raises:
            Stopped: it ended, is out of time, or said too much.
        """
        while (message := self._next()) is None:
            if self._answers not in self._open:
                raise Stopped("ended")
            self._wait(deadline)
        return message

    def finish(self, deadline: float) -> bool:
        """Read to the end; whether all that held the pipes are gone."""
        try:
            while self._open:
                self._wait(deadline)
        except Stopped:
            return False
        return True

    def close(self) -> None:
        """Close this side's ends."""
        for fd in (self.requests, *self._open):
            os.close(fd)
        self._open = {}

    def _next(self) -> bytes | None:
        """The first whole message that was read; None where none is."""
        length = int.from_bytes(self.answered[:LENGTH], "big")
        if length > self.most:
            raise Stopped("output")
        if len(self.answered) < LENGTH + length:
            return None
        message = bytes(self.answered[LENGTH : LENGTH + length])
        del self.answered[: LENGTH + length]
        return message

    def _wait(self, deadline: float, write: bool = False) -> bool:
        """Read what comes until ``deadline``; whether one may write."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise Stopped("timeout")
        with selectors.DefaultSelector() as selector:
            for fd in self._open:
                selector.register(fd, selectors.EVENT_READ)
            if write:
                selector.register(self.requests, selectors.EVENT_WRITE)
            tick = min(left, TICK) if self.fine else left
            ready = [key.fd for key, _ in selector.select(tick)]
        for fd in ready:
            if fd in self._open:
                self._take(fd)
        if self.fine and not self.fine():
            raise Stopped("output")
        return self.requests in ready

    def _take(self, fd: int) -> None:
        """Read once, into the answers or the log."""
        part = os.read(fd, CHUNK)
        self._read += len(part)
        if self._read > self.most:
            raise Stopped("output")
        if part:
            self._open[fd] += part
        else:
            del self._open[fd]
            os.close(fd)

    def _write(self, data: memoryview) -> int:
        """Write once; how much was taken."""
        try:
            return os.write(self.requests, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            raise Stopped("ended") from None
