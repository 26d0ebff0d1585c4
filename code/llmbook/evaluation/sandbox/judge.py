"""The judge: it runs the tests, in a process that holds no candidate.

The tests come from the benchmark and are trusted; the program that they test
is not. So they run here, on a stand-in for the model's function: calling it
sends the arguments away as plain data, and what comes back is read as plain
data. An answer is right if the tests accept it, and nothing else that the
other side sends can count for it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

from llmbook.evaluation.sandbox.plain import (
    NotPlain,
    TooMuch,
    decode,
    dumps,
    encode,
    loads,
)

MEMORY_BYTES = 512 * 2**20  # for comparing answers of at most 1 MiB each
MAX_TEXT = 300  # characters kept of a verdict's detail
FIRST_CALL = 1  # the request before it loads the program


class Ended(BaseException):
    """The check is over: a status, and words about it.

    No ``Exception``, so that a test's ``except Exception`` lets it through.
    """


class Candidate:
    """A stand-in for the model's function, which is elsewhere.

    Args:
        ask: sends a request to the worker and returns its reply.
    """

    def __init__(self, ask: Callable[[bytes], bytes]) -> None:
        self._ask, self._number = ask, -1
        self.ended: Ended | None = None
        self.last = "no call"

    def load(self, source: str, name: str) -> None:
        """Have the worker run a program, to answer for its ``name``."""
        self._request("load", source, name)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """What the function gives for copies of these arguments.

        Raises:
            Ended: it gives no answer, or none of plain data.
        """
        self.last = called = f"{arguments!r:.99}"
        value = self._request("call", arguments, keywords)
        self.last = f"{called} gave {value!r:.99}"
        return value

    def _request(self, kind: str, *rest: Any) -> Any:
        self._number += 1
        try:
            request = [kind, self._number, *map(encode, rest)]
            return understood(self._ask(dumps(request)), self._number)
        except NotPlain as error:
            # After a first answer, what grows too much may be made of one.
            made = isinstance(error, TooMuch) and self._number > FIRST_CALL
            status = "wrong" if made else "broken"
            detail = f"an argument in the tests: {error}; {self.last}"
            raise Ended(status, detail) from None
        except Ended as ended:
            self.ended = ended
            raise


def understood(reply: bytes, number: int) -> Any:
    """The value in a reply to request ``number``.

    >>> understood(b'["answer", 3, [1, 2]]', 3)
    [1, 2]

    Raises:
        Ended: "error" or "memory" for a function that raised, "protocol"
            for what no honest worker sends.
    """
    try:
        match loads(reply):
            case ["answer", int(n), payload] if n == number:
                return decode(payload)
            case ["refused", int(n), str(what)] if n == number:
                raise Ended("error", f"an answer that is no data: {what}")
            case ["raised", int(n), [str(name), str(text)]] if n == number:
                status = "memory" if name == "MemoryError" else "error"
                raise Ended(status, f"{name}: {text}")
    except NotPlain as error:
        raise Ended("protocol", str(error)) from None
    raise Ended("protocol", f"no reply to request {number}")


def run_tests(tests: Callable[[Candidate], Any], candidate: Candidate) -> None:
    """Run the tests on the candidate's answers.

    Whatever a test raises is about an answer, and that answer is wrong; but
    for missing names and modules, which no answer can cause (unlike a local
    name without a value, as after a loop over an empty answer).

    Raises:
        Ended: always, with the verdict.
    """
    try:
        tests(candidate)
    except MemoryError:
        raise Ended("memory", f"too much to test: {candidate.last}") from None
    except Exception as error:
        missing = isinstance(error, (NameError, ImportError))
        if missing and not isinstance(error, UnboundLocalError):
            raise Ended("broken", f"the tests: {error!r}") from None
        raise Ended("wrong", f"{candidate.last}: {error!r}") from None
    raise candidate.ended or Ended("passed", "")


def check_of(helpers: str, tests: str, name: str, stand_in: Candidate) -> Any:
    """``check`` of the tests' source, with the names that ``helpers`` make.

    ``name`` is the stand-in there too, for HumanEval/33 calls the function
    by its name.

    Raises:
        Ended: "broken" if the benchmark's own code fails.
    """
    names: dict[str, Any] = {"__name__": "tests"}
    try:
        exec(compile(helpers, "<helpers>", "exec", dont_inherit=True), names)
        names[name] = stand_in
        exec(compile(tests, "<tests>", "exec", dont_inherit=True), names)
        return names["check"]
    except Exception as error:
        raise Ended("broken", f"the tests: {error!r}") from None


def set_limits(seconds: float) -> None:
    """Bound this process, whatever the answers make the tests do."""
    import resource  # not on Windows, where this module is only read

    most = math.ceil(seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (most, most + 1))
    if sys.platform != "darwin":  # which refuses this one
        bounds = (MEMORY_BYTES, MEMORY_BYTES)
        resource.setrlimit(resource.RLIMIT_AS, bounds)


def main(receive: Callable[[], bytes], send: Callable[[bytes], None]) -> None:
    """Judge one case.

    It comes first, as ``[source, name, helpers, tests, seconds]``. Each
    message sent then is a request for the worker, whose reply is received;
    but for the last one, ``["verdict", status, detail]``.
    """

    def ask(request: bytes) -> bytes:
        send(request)
        return receive()

    source, name, helpers, tests, seconds = loads(receive())
    set_limits(seconds)
    candidate = Candidate(ask)
    try:
        check = check_of(helpers, tests, name, candidate)
        candidate.load(source, name)
        run_tests(check, candidate)
    except Ended as ended:
        status, detail = ended.args
        send(dumps(["verdict", status, printable(detail[:MAX_TEXT])]))


def printable(text: str) -> str:
    """The text without what could steer the terminal that shows it.

    >>> printable("red: \\x1b[31m")
    'red: ?[31m'
    """
    return "".join(c if c.isprintable() else "?" for c in text)
