"""Start a program that is not trusted, as well shut in as the machine can.

Three tiers, strongest first:

* ``bubblewrap``: namespaces of its own (bwrap(1)) and a filter of system
  calls (seccomp(2)). It sees no file of yours, no process, no network.
* ``landlock``: rules for files, landlock(7), and the same filter. It reads
  Python and the system's libraries, writes one empty folder, where it
  removes nothing, opens no socket, signals nobody; it can learn that a file
  exists.
* ``limits``: only limits, setrlimit(2), an empty environment, and another
  user where we are root. It reads and deletes what that user may, and uses
  the network.

``none`` is for the tests that show what gets through without any. In all
of them the same limits are set on the program, inside, before it begins; as
root it runs as another user, since those of processes do not bind root.

A program is Python source, run by ``python -I -S`` (:mod:`.inside`). It
finds two functions among its names, ``receive()``, the judge's next message
as bytes, None where there will be no more, and ``send(message)``::

    with start("send(receive().upper())", best_tier()) as program:
        program.send(b"hello")
        assert program.receive() == b"HELLO"

Start it and leave the block in one thread: in the first two tiers it dies
with that thread, and so with a judge that is killed. What it prints is its
``log``. A sandbox that does not start is an :class:`InfrastructureError`,
never a verdict about the program. Chen et al. 2021, section 2.3, shut in
HumanEval's programs by a kernel of their own, gVisor; here it is the
machine's kernel that holds.
``python -m benchmarks.sandbox`` tries out what each tier stops.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator

from llmbook.evaluation.sandbox.limits import (
    MIB,
    InfrastructureError,
    Limits,
    SandboxUnavailable,
)
from llmbook.evaluation.sandbox.pipes import Stopped
from llmbook.evaluation.sandbox.plans import TIERS, plan
from llmbook.evaluation.sandbox.started import (
    START_SECONDS,
    Started,
    spawn,
)

STRONG = ("bubblewrap", "landlock")
TRIAL = """
import os
try:
    child = os.fork()
except OSError:
    send(b"alone")
else:
    if child:
        send(b"not alone")
"""
__all__ = [
    "MIB",
    "STRONG",
    "TIERS",
    "InfrastructureError",
    "Limits",
    "SandboxUnavailable",
    "Started",
    "available_tiers",
    "best_tier",
    "start",
]


@contextlib.contextmanager
def start(
    program: str, tier: str, limits: Limits | None = None
) -> Iterator[Started]:
    """Run Python source inside ``tier`` while the block lasts.

    Raises:
        InfrastructureError: the sandbox did not start.
        ValueError: ``tier`` is none of :data:`TIERS`.
    """
    limits = limits or Limits()
    with contextlib.ExitStack() as stack:
        launch = plan(tier, limits, stack)
        started = spawn(launch, limits, stack)
        try:
            started.begin(program, launch.fine)
            yield started
        finally:
            started.kill()


@functools.cache
def available_tiers() -> tuple[str, ...]:
    """The tiers that start a program here, strongest first; none is one."""
    return tuple(tier for tier in TIERS[:-1] if problem(tier) is None)


@functools.cache
def problem(tier: str) -> str | None:
    """Why ``tier`` is no sandbox here; None where it is one.

    It is tried by a program that wants to start another, for some kernels
    and some users are bound by no limit of processes.
    """
    try:
        with start(TRIAL, tier) as program:
            said = program.receive(START_SECONDS)
    except (InfrastructureError, Stopped) as error:
        return str(error)
    return None if said == b"alone" else "its limits do not bind"


def best_tier(allow_weak: bool = False) -> str:
    """The strongest tier of this machine that is a sandbox.

    Args:
        allow_weak: Whether limits alone will do, with a warning.

    Raises:
        SandboxUnavailable: only limits are there, and nobody allowed them.
    """
    found = available_tiers()
    if found and found[0] in STRONG:
        return found[0]
    reasons = "; ".join(f"{tier}: {problem(tier)}" for tier in STRONG)
    if not (found and allow_weak):
        raise SandboxUnavailable(
            "No sandbox starts here, so no program of a model is run. "
            "Install bubblewrap (Debian, Ubuntu: apt-get install bubblewrap) "
            "or use Linux 5.13 or later with Landlock. "
            f"What was tried: {reasons}"
        )
    warnings.warn(
        "Programs of a model run with limits only: they can read, change "
        "and delete your files, use the network and signal your processes. "
        f"Do this on a machine that you can lose. {reasons}",
        stacklevel=2,
    )
    return found[0]
