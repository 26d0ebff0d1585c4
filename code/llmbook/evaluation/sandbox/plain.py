"""Plain data, the only thing that crosses between judge and worker.

Numbers, strings, lists and the like, as JSON with a tag where JSON has no
such type: never objects, never code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

MAX_BYTES = 2**20  # of a message; HumanEval's largest value takes 1 kB
MAX_DEPTH = 64  # lists within lists


class NotPlain(ValueError):
    """What is no plain data, or too much of it."""


class TooMuch(NotPlain):
    """Plain data, but too deep, too long, or a number of too many digits."""


def encode(value: Any, depth: int = 0) -> Any:
    """The value as what JSON can hold.

    Subclasses become what they inherit from (an ``IntEnum`` an int, a
    ``Counter`` a dict); whatever else can be iterated becomes an iterator,
    which equals nothing, just as the generator that it was.

    >>> encode((1, {"a": None}))
    {'tuple': [1, {'dict': [['a', None]]}]}

    Raises:
        NotPlain: a value of another type.
        TooMuch: nested too deep.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if depth == MAX_DEPTH:
        raise TooMuch(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        pairs = [list(pair) for pair in value.items()]
        return {"dict": [encode(pair, depth + 1) for pair in pairs]}
    for kind in (list, tuple, set, frozenset, bytes):
        if isinstance(value, kind):
            inner = [encode(item, depth + 1) for item in value]
            return inner if kind is list else {kind.__name__: inner}
    try:
        items = iter(value)
    except TypeError:
        raise NotPlain(f"a {type(value).__name__}") from None
    return {"iterator": [encode(item, depth + 1) for item in items]}


def decode(data: Any, depth: int = 0) -> Any:
    """The value that :func:`encode` wrote; builtin types and no others.

    >>> decode(encode({(1, 2): {3.5}}))
    {(1, 2): {3.5}}

    Raises:
        NotPlain: anything that ``encode`` cannot have written.
    """
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    if depth == MAX_DEPTH:
        raise NotPlain(f"nested deeper than {MAX_DEPTH}")
    if isinstance(data, list):
        return [decode(item, depth + 1) for item in data]
    if isinstance(data, dict) and len(data) == 1:
        [(tag, items)] = data.items()
        if tag in MAKERS and isinstance(items, list):
            try:
                return MAKERS[tag]([decode(i, depth + 1) for i in items])
            except (TypeError, ValueError) as error:
                raise NotPlain(f"no {tag}: {error}") from None
    raise NotPlain("an object without a known tag")


def _dict_of(pairs: list[Any]) -> dict[Any, Any]:
    if any(type(pair) is not list for pair in pairs):
        raise TypeError("a pair is no list")
    return dict(pairs)


MAKERS: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "bytes": bytes,
    "dict": _dict_of,
    "iterator": iter,
}


def dumps(message: Any) -> bytes:
    """A message, of what :func:`encode` returns, as JSON.

    >>> dumps(["call", 1, encode((2.5, "x"))])
    b'["call", 1, {"tuple": [2.5, "x"]}]'

    Raises:
        TooMuch: longer than ``MAX_BYTES``, or an int of more digits than
            Python turns into text (4,300).
    """
    try:
        text = json.dumps(message, ensure_ascii=False)
    except ValueError as error:
        raise TooMuch(str(error)) from None
    body = text.encode("utf-8", "surrogatepass")
    if len(body) > MAX_BYTES:
        raise TooMuch(f"{len(body):,} bytes, more than {MAX_BYTES:,}")
    return body


def loads(body: bytes) -> Any:
    """The message in this JSON, still encoded.

    Raises:
        NotPlain: it is no JSON, or nested too deep for its reader.
    """
    try:
        return json.loads(body.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise NotPlain(f"no JSON: {error}") from None
