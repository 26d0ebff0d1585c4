"""The worker, inside the sandbox: it holds the candidate and answers calls.

It is never told what is expected of an answer, so there is nothing in it
to find; and all that it can say is an answer, so nothing in it can say
"passed". From its first request on it is in the candidate's hands, and
nobody relies on anything that this file does.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

from llmbook.evaluation.sandbox.plain import (
    NotPlain,
    decode,
    dumps,
    encode,
    loads,
)

MODULE = "candidate"  # where the program's own names live
MAX_TEXT = 200  # characters kept of an exception's text


def main(
    receive: Callable[[], bytes | None], send: Callable[[bytes], None]
) -> None:
    """Load the program that comes first, then answer calls to the end.

    Requests are ``["load", 0, source, name]`` and then ``["call", n,
    arguments, keywords]``; what goes back is ``[kind, n, payload]`` with the
    number of the request, and kind ``"answer"``, ``"raised"`` (name and text
    of the exception) or ``"refused"`` (why this is no plain data).
    """
    function = None
    while (request := receive()) is not None:
        kind, number, *rest = loads(request)
        try:
            if kind == "load":
                function, value = load(*rest), None
            else:
                value = function(*decode(rest[0]), **decode(rest[1]))
            reply = dumps(["answer", number, encode(value)])
        except NotPlain as error:
            reply = dumps(["refused", number, str(error)])
        except BaseException as error:  # SystemExit is no answer either
            reply = dumps(["raised", number, describe(error)])
        send(reply)


def load(source: str, name: str) -> Callable[..., Any]:
    """Run a program and return the function that it defines as ``name``."""
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module  # dataclasses look themselves up there
    # dont_inherit: the __future__ of this file is none of its own.
    code = compile(source, "<candidate>", "exec", dont_inherit=True)
    exec(code, module.__dict__)
    return getattr(module, name)


def describe(error: BaseException) -> list[str]:
    """The exception's name and the beginning of its text.

    >>> describe(KeyError("a"))
    ['KeyError', "'a'"]
    """
    try:
        text = str(error)
    except BaseException:  # its own __str__ may be anything
        text = ""
    return [type(error).__name__[:MAX_TEXT], text[:MAX_TEXT]]
