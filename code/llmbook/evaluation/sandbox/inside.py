"""What runs first inside the sandbox: limits, then the program.

The source of this file is handed to ``python -I -S -c`` in every tier; only
Python's standard library is there. It gives up what is left of root, sets
the limits on itself, tells the judge that it is ready, and runs the program
that the judge sends it. It holds nothing worth stealing.
"""

from __future__ import annotations

import os
import sys

LENGTH = 4  # bytes of a frame's length, most significant first


def read_exactly(fd: int, count: int) -> bytes:
    """``count`` bytes of a pipe; fewer only where it ended."""
    parts = []
    while count > 0 and (part := os.read(fd, min(count, 1 << 20))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def read_frame(fd: int) -> bytes | None:
    """The next message of a pipe; None where the judge closed it."""
    head = read_exactly(fd, LENGTH)
    if len(head) < LENGTH:
        return None
    return read_exactly(fd, int.from_bytes(head, "big"))


def write_frame(fd: int, message: bytes) -> None:
    """Write a message behind its length."""
    data = memoryview(len(message).to_bytes(LENGTH, "big") + message)
    while data:
        data = data[os.write(fd, data) :]


def become(user: int) -> None:
    """Give up root for good: process limits do not bind it, setrlimit(2)."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def set_limits(limits: list[str]) -> None:
    """Set each limit, as ``NAME=value``, for good: see setrlimit(2).

    At the limit for the processor's time a signal ends the program; one
    that ignores it is killed a second later.

    Raises:
        OSError, ValueError: the system refuses a limit.
    """
    import resource

    for word in limits:
        name, _, number = word.partition("=")
        kind = getattr(resource, f"RLIMIT_{name}")
        _, most = resource.getrlimit(kind)
        hard = int(number) + (name == "CPU")
        if most != resource.RLIM_INFINITY:
            hard = min(hard, most)
        resource.setrlimit(kind, (min(int(number), hard), hard))


def main() -> None:
    """Do what the command line says, then be the program.

    It holds the descriptors of the requests and of the answers, the number
    of the user to become, or "-", and the limits.
    """
    requests, answers = int(sys.argv[1]), int(sys.argv[2])
    if sys.argv[3] != "-":
        become(int(sys.argv[3]))
    set_limits(sys.argv[4:])
    del sys.argv[1:]
    write_frame(answers, b"ready")
    source = read_frame(requests) or b""
    names = {
        "__name__": "__main__",
        "receive": lambda: read_frame(requests),
        "send": lambda message: write_frame(answers, message),
    }
    exec(compile(source, "<program>", "exec"), names)
