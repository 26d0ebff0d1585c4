"""Every exercise of the book: its solution, its mistakes, its stub."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from llmbook import exercises
from llmbook.exercises import Exercise, all_exercises

BOOK = Path(__file__).resolve().parents[1] / "book"
LEAST_MISTAKES = 3
ALL = all_exercises()
EACH = pytest.mark.parametrize("exercise", ALL, ids=lambda e: e.number)
STUB = "The stub is still empty"


def message(number: str, answer: object) -> str:
    result = exercises.check(number, answer)
    assert not result.passed, f"{number} passed a wrong answer"
    return result.message


@EACH
def test_the_solution_passes(exercise: Exercise):
    result = exercises.check(exercise.number, exercise.solution)
    assert result.passed, result.message
    assert result.message == exercise.praise


@EACH
def test_each_classic_mistake_has_a_message_of_its_own(exercise: Exercise):
    assert len(exercise.mistakes) >= LEAST_MISTAKES
    messages = {
        name: message(exercise.number, answer)
        for name, answer in exercise.mistakes.items()
    }
    for name, text in messages.items():
        assert not text.startswith(STUB), f"{name}: taken for a stub"
        assert "Your answer raised" not in text, f"{name}: {text}"
    assert len(set(messages.values())) == len(messages), messages


@EACH
def test_an_empty_stub_says_so(exercise: Exercise):
    def stub(*_args, **_kwargs):
        raise NotImplementedError

    if callable(exercise.solution):
        assert message(exercise.number, stub).startswith(STUB)


@EACH
@pytest.mark.parametrize("wrong", [..., None, "", object()], ids=type)
def test_nonsense_is_refused_without_an_exception(exercise, wrong):
    assert message(exercise.number, wrong)


@EACH
def test_an_answer_that_fails_is_reported_as_its_own_error(exercise):
    def fails(*_args, **_kwargs):
        raise ZeroDivisionError("of the reader's own")

    if callable(exercise.solution):
        assert "ZeroDivisionError" in message(exercise.number, fails)


@EACH
def test_a_forgotten_return_is_no_error_of_the_answer(exercise: Exercise):
    if callable(exercise.solution):
        found = message(exercise.number, lambda *_args, **_kwargs: None)
        assert "raised" not in found


@EACH
def test_a_solution_can_be_printed(exercise: Exercise):
    if callable(exercise.solution):
        assert exercises.solution_source(exercise.number).strip()


def test_an_unknown_number_lists_the_chapter_s_exercises():
    with pytest.raises(ValueError, match=r"2\.1"):
        exercises.get("2.99")


def test_numbers_are_their_chapter_s_and_without_gaps():
    chapters: dict[int, list[int]] = {}
    for exercise in ALL:
        chapter, _, place = exercise.number.partition(".")
        chapters.setdefault(int(chapter), []).append(int(place))
    for chapter, places in chapters.items():
        assert places == [*range(1, len(places) + 1)], f"chapter {chapter}"


def notebooks() -> list[Path]:
    return sorted(BOOK.glob("[0-9][0-9]-*.ipynb"))


@pytest.mark.parametrize("path", notebooks(), ids=lambda p: p.stem)
def test_a_chapter_s_exercises_are_those_of_its_module(path: Path):
    chapter = int(path.name[:2])
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n".join(
        "".join(c["source"]) for c in cells if c["cell_type"] == "code"
    )
    prose = "\n".join(
        "".join(c["source"]) for c in cells if c["cell_type"] == "markdown"
    )
    own = {
        e.number: e.title for e in ALL if e.number.startswith(f"{chapter}.")
    }
    checked = set(re.findall(r"""check\(\s*["']([\d.]+)["']""", code))
    headings = dict(
        re.findall(r"^### Exercise ([\d.]+): (.+)$", prose, re.MULTILINE)
    )
    assert checked == set(own)
    assert headings == own
    assert len(own) >= 5


def test_a_lookup_may_index_its_own_ones_but_not_the_table():
    def by_hand(ids, table):
        ones = table.new_zeros(len(ids), len(table))
        for row, i in zip(ones, ids, strict=True):
            row[[int(i)]] = 1 + row[[int(i)]]
        return ones @ table

    def gathered(ids, table):
        return table.gather(0, ids[:, None].expand(-1, table.shape[1]))

    assert exercises.check("4.1", by_hand).passed
    assert "the table was indexed" in message("4.1", gathered)
    assert "the table was indexed" in message("4.1", lambda i, t: t.T[:, i].T)


@pytest.mark.parametrize("number", ["13.2", "13.3", "13.5", "13.6"])
def test_a_list_of_the_right_tensors_is_no_mistake(number):
    solution = exercises.get(number).solution
    result = exercises.check(number, lambda *given: list(solution(*given)))
    assert result.passed, result.message
