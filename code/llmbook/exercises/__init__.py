"""Exercises that check themselves, offline, and name the mistake made.

A chapter's exercises live in a module ``chNN`` beside this file. Each
registers :class:`Exercise` objects; a reader calls :func:`check`.
"""

from __future__ import annotations

import functools
import html
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Result:
    """What a check found: whether it passed, and what to look at."""

    number: str
    passed: bool
    message: str

    def __repr__(self) -> str:
        state = "passed" if self.passed else "not yet"
        return f"Exercise {self.number}: {state}. {self.message}"

    def _repr_html_(self) -> str:
        state = "passed" if self.passed else "not yet"
        return (
            f'<div class="llm-check llm-check-{state.replace(" ", "-")}">'
            f"<strong>Exercise {self.number}: {state}.</strong> "
            f"{html.escape(self.message)}</div>"
        )


@dataclass(frozen=True)
class Exercise:
    """One exercise: a check, its solution, and the mistakes it knows.

    Args:
        number: ``"5.2"``: chapter and place, as in the chapter's heading.
        title: the heading's words.
        check: takes the answer; returns None when it is right, otherwise
            one sentence that says what looks wrong. It may raise: that is
            reported as the answer's own error.
        solution: an answer that passes; its source stands in the book's
            solutions.
        mistakes: classic wrong answers by name; the tests require that each
            is told apart by a message of its own.
        praise: what is said when the answer passes.
    """

    number: str
    title: str
    check: Callable[[Any], str | None]
    solution: Any
    mistakes: dict[str, Any] = field(default_factory=dict)
    praise: str = "That is right."


_REGISTRY: dict[str, Exercise] = {}


def diagnosis(
    close: Callable[[Any, Any], bool],
    got: Any,
    wrong: dict[Callable[..., Any], str],
    run: Callable[[Callable[..., Any]], Any],
) -> str | None:
    """The message of the classic mistake that gives ``got``, if one does.

    ``run`` gives a mistake the inputs that ``got`` came from, and ``close``
    says whether two results are the same.

    >>> wrong = {max: "You took the largest.", min: "You took the least."}
    >>> diagnosis(float.__eq__, 1.0, wrong, lambda f: f(1.0, 2.0))
    'You took the least.'
    """
    for mistake, message in wrong.items():
        if close(got, run(mistake)):
            return message
    return None


def register(exercise: Exercise) -> Exercise:
    """Add ``exercise`` to the book's list; its number must be new."""
    old = _REGISTRY.get(exercise.number)
    if old is not None and old.title != exercise.title:
        raise ValueError(
            f"two exercises are numbered {exercise.number}: "
            f"{old.title!r} and {exercise.title!r}. Renumber one."
        )
    _REGISTRY[exercise.number] = exercise
    return exercise


def all_exercises() -> list[Exercise]:
    """Every exercise of the book, in the order of its numbers."""
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith("ch"):
            importlib.import_module(f"{__name__}.{module.name}")
    return sorted(
        _REGISTRY.values(),
        key=lambda e: tuple(int(part) for part in e.number.split(".")),
    )


def get(number: str) -> Exercise:
    """The exercise with that number.

    Raises:
        ValueError: there is none; the message lists its chapter's.
    """
    number = str(number)
    chapter = number.partition(".")[0]
    if chapter.isdecimal():
        name = f"{__name__}.ch{int(chapter):02d}"
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
    if number not in _REGISTRY:
        known = [n for n in _REGISTRY if n.partition(".")[0] == chapter]
        raise ValueError(
            f"there is no exercise {number!r}; this chapter has "
            f"{', '.join(known) or 'none'}."
        )
    return _REGISTRY[number]


def check(number: str, answer: Any) -> Result:
    """Check ``answer`` to exercise ``number``; never raises for a wrong one.

    A stub that has not been filled in, an answer that raises, a classic
    mistake and a right answer are told apart.
    """
    exercise, empty = get(number), []
    try:
        complaint = exercise.check(_watched(answer, empty))
    except NotImplementedError:
        complaint = "The stub is still empty: write your answer in it first."
    except Exception as error:
        complaint = (
            "Your answer raised "
            f"{type(error).__name__}: {str(error).rstrip('.')}. Run it by "
            "itself on the example in the text to see where."
        )
        if empty and all(empty):  # the check stumbled, and not the answer
            complaint = "Your answer returned None: is a return missing?"
    if complaint is None:
        return Result(exercise.number, True, exercise.praise)
    return Result(exercise.number, False, complaint)


def _watched(answer: Any, empty: list[bool]) -> Any:
    """``answer``; if a function, ``empty`` gets whether each result is None.

    A forgotten return would otherwise be an error of the check's own.
    """
    if not inspect.isfunction(answer):
        return answer

    @functools.wraps(answer)
    def watched(*args: Any, **kwargs: Any) -> Any:
        result = answer(*args, **kwargs)
        empty.append(result is None)
        return result

    return watched


def solution_source(number: str) -> str:
    """The source text of the solution, for the book's solutions page."""
    return inspect.getsource(get(number).solution)
