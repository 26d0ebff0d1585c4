"""Check one program: a judge with its tests, a worker with the program."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path

from llmbook.evaluation.sandbox.pipes import Stopped
from llmbook.evaluation.sandbox.plain import NotPlain, dumps, loads
from llmbook.evaluation.sandbox.started import START_SECONDS
from llmbook.evaluation.sandbox.tiers import (
    MIB,
    InfrastructureError,
    Limits,
    Started,
    best_tier,
    start,
)

STATUSES = ("passed", "wrong", "error", "timeout", "memory", "protocol")
# A program that ends its process, or is ended by a limit, gave no answer.
OF_WORKER = {"ended": "error", "timeout": "timeout", "output": "protocol"}
PLAIN = "llmbook.evaluation.sandbox.plain"
PROGRAM = """
import sys, types
plain = types.ModuleType({name!r})
exec({plain!r}, plain.__dict__)
sys.modules[{name!r}] = plain
exec({source!r})
main(receive, send)
"""


@dataclass(frozen=True)
class Verdict:
    """What became of a program: one of ``STATUSES``, and words about it.

    * passed: the tests accept every answer.
    * wrong: an answer that they do not accept.
    * error: the program raised, ended itself, is no Python, or returned
      what is no plain data.
    * timeout, memory: it, or the tests of its answer, took too much.
    * protocol: it spoke out of turn, garbage, or too much.

    ``detail`` may hold the program's own words: show it, never trust it.
    """

    status: str
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the tests accept the program."""
        return self.status == "passed"


def check(
    source: str,
    name: str,
    tests: str,
    *,
    helpers: str = "",
    tier: str | None = None,
    limits: Limits | None = None,
) -> Verdict:
    """Whether the function ``name`` of an untrusted program passes.

    Args:
        source: the program, which runs in the sandbox.
        tests: trusted; defines ``check(candidate)``, which raises for a
            wrong answer (the form of HumanEval), and may import the
            standard library.
        helpers: trusted; what else ``tests`` needs.
        tier: of :mod:`~llmbook.evaluation.sandbox.tiers`; None takes the
            strongest. In ``limits``, unless you are root, a program is the
            same user as its judge, and could reach into its memory.

    Raises:
        InfrastructureError: the sandbox or the judge failed, twice; it says
            nothing about the program.
    """
    tier, limits = tier or best_tier(), limits or Limits()
    case = [source, name, helpers, tests, limits.wall_seconds]
    try:
        case = dumps(case)
    except NotPlain as error:
        return Verdict("error", f"the program is too large: {error}")
    try:
        return _check_once(case, tier, limits)
    except InfrastructureError:  # a busy machine may manage the second time
        return _check_once(case, tier, limits)


def _check_once(case: bytes, tier: str, limits: Limits) -> Verdict:
    """Start the judge, then the worker, and let them talk."""
    patient = replace(
        limits,
        wall_seconds=2 * (START_SECONDS + limits.wall_seconds),
        output_bytes=64 * MIB,
    )
    try:
        with start(program("judge"), "none", patient) as judge:
            request = _first_request(judge, case)
            with start(program("worker"), tier, limits) as worker:
                return relay(request, judge, worker, limits.wall_seconds)
    except OSError as error:  # no more pipes, no space for a folder
        raise InfrastructureError(f"nothing starts: {error}") from error


def _first_request(judge: Started, case: bytes) -> bytes:
    try:
        judge.send(case)
        return judge.receive(START_SECONDS)
    except Stopped as stopped:
        raise _no_judge(stopped, judge) from None


def relay(
    request: bytes, judge: Started, worker: Started, seconds: float
) -> Verdict:
    """Carry requests and replies between the two until the verdict."""
    while (message := loads(request))[0] != "verdict":
        try:
            worker.send(request)
            reply = worker.receive()
        except Stopped as stopped:
            detail = f"no answer: {stopped.outcome} ({worker.returncode})"
            return Verdict(OF_WORKER[stopped.outcome], detail)
        try:
            judge.send(reply)
            request = judge.receive(seconds)
        except Stopped as stopped:
            if stopped.outcome == "timeout":
                return Verdict("timeout", "the tests of an answer do not end")
            raise _no_judge(stopped, judge) from None
    _, status, detail = message
    if status == "broken":
        raise InfrastructureError(detail)
    return Verdict(status, detail)


def _no_judge(stopped: Stopped, judge: Started) -> InfrastructureError:
    return InfrastructureError(
        f"no verdict of the judge: {stopped.outcome} ({judge.returncode}) "
        f"{judge.log.strip()}"
    )


@functools.cache
def program(module: str) -> str:
    """Source for a bare Python: a neighbour's, and the codec that it uses."""
    here = Path(__file__)
    return PROGRAM.format(
        name=PLAIN,
        plain=here.with_name("plain.py").read_text("utf-8"),
        source=here.with_name(f"{module}.py").read_text("utf-8"),
    )
