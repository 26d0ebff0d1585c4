"""The judge: whatever a program does, only right answers pass."""

import collections
import contextlib
import enum
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import tricks
from benchmarks.tricks import EQUAL, FLOOD, TRICKS, function, naive
from llmbook.evaluation.sandbox import (
    InfrastructureError,
    Limits,
    Verdict,
    available_tiers,
    check,
    checking,
)
from llmbook.evaluation.sandbox.judge import Candidate, Ended, understood
from llmbook.evaluation.sandbox.plain import (
    MAX_BYTES,
    MAX_DEPTH,
    NotPlain,
    decode,
    dumps,
    encode,
    loads,
)

SHORT = Limits(wall_seconds=5.0, cpu_seconds=2)


@pytest.fixture(params=available_tiers())
def tier(request):
    return request.param


# --- programs that answer wrongly and want to pass --------------------------


@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_fools_the_naive_judge(trick, tmp_path):
    assert naive(*TRICKS[trick], tmp_path)[0]


@pytest.mark.parametrize("trick", TRICKS)
def test_no_trick_fools_ours(trick, tier):
    source, tests = TRICKS[trick]
    verdict = check(source, "double", tests, tier=tier, limits=SHORT)
    assert verdict.status in ("wrong", "error", "protocol")


def test_the_table_says_what_the_tests_say(monkeypatch):
    name = "os._exit(0)"
    monkeypatch.setattr(tricks, "TRICKS", {name: TRICKS[name]})
    row = tricks.table()[name]
    assert row.pop("naive") == "passed"
    assert row == dict.fromkeys(available_tiers(), "error")


def test_an_honest_program_passes_both(tier, tmp_path):
    source = function("return 2 * x")
    assert naive(source, EQUAL, tmp_path)[0]
    assert check(source, "double", EQUAL, tier=tier) == Verdict("passed")


def test_a_wrong_program_fails_both(tier, tmp_path):
    source = function("return 5 * x")
    assert not naive(source, EQUAL, tmp_path)[0]
    verdict = check(source, "double", EQUAL, tier=tier)
    assert verdict.status == "wrong"
    assert "(2,) gave 10" in verdict.detail


# --- programs that speak for their worker ----------------------------------

WRITES = """
import os

def write(message):
    frame = len(message).to_bytes(4, "big") + message
    for number in range(4096):
        try:
            os.write(number, frame)
        except OSError:
            pass
"""


def test_who_trusts_what_is_printed_is_fooled(tmp_path):
    source = function("import os\nprint('passed', flush=True)\nos._exit(1)")
    assert naive(source, EQUAL, tmp_path)[1] == b"passed\n"


@pytest.mark.parametrize(
    "message",
    [
        b"passed\n",
        b'["verdict", "passed", ""]',
        b'["answer", 1]',
        b'["answer", 99, 4]',
        b'["answer", "1", 4]',
        b'["answer", 1, {"passed": [1]}]',
        b'["raised", 1, 7]',
        b"[" * 100_000,
        b"\xff\xfe",
        b"",
    ],
)
def test_a_forged_frame_is_no_answer(message):
    lines = WRITES + function(f"write({message!r})\nreturn 2 * x")
    verdict = check(lines, "double", EQUAL, limits=SHORT)
    assert verdict.status == "protocol"


def test_answers_ahead_of_their_calls_are_answers_and_no_more():
    """Three forged answers are there before the first call, all wrong."""
    ahead = "".join(
        f"write(b'[\"answer\", {n}, {n}]')\n" for n in (0, 1, 2, 3)
    )
    source = WRITES + ahead + function("return 2 * x")
    verdict = check(source, "double", EQUAL, limits=SHORT)
    assert verdict.status == "wrong"


TAKEOVER = """
import json, sys
frame = sys._getframe()
while "send" not in frame.f_globals:
    frame = frame.f_back
worker = frame.f_globals
worker["encode"] = lambda value: {value}
json.dumps = lambda *_, **__: {text!r}
sys.modules["llmbook.evaluation.sandbox.plain"].loads = lambda *_: {value}
"""


@pytest.mark.parametrize(
    "text", ['["answer", 1, 0]', '["verdict", "passed", ""]']
)
def test_a_worker_taken_over_still_cannot_say_passed(text):
    source = TAKEOVER.format(value=0, text=text) + function("return 0")
    verdict = check(source, "double", EQUAL, limits=SHORT)
    assert not verdict.passed


def test_a_worker_is_sent_nothing_but_arguments():
    """All that it could look through is here: no test, no right answer."""
    sent = []

    def ask(request):
        sent.append(loads(request))
        return dumps(["answer", sent[-1][1], 2 * len(sent)])

    candidate = Candidate(ask)
    candidate.load("source", "double")
    names = {}
    exec(EQUAL, names)
    names["check"](lambda x: candidate(x) and 2 * x)
    assert sent == [
        ["load", 0, "source", "double"],
        ["call", 1, {"tuple": [2]}, {"dict": []}],
        ["call", 2, {"tuple": [3]}, {"dict": []}],
        ["call", 3, {"tuple": [17]}, {"dict": []}],
    ]


# --- programs that are too much ---------------------------------------------


def test_printing_a_little_is_no_fault_and_disturbs_nothing():
    source = function("print('4', x)\nreturn 2 * x")
    assert check(source, "double", EQUAL).passed


def test_input_is_empty():
    source = function("import sys\nreturn 2 * x + len(sys.stdin.read())")
    assert check(source, "double", EQUAL).passed


def test_a_flood_fills_the_naive_judge(tmp_path):
    passed, printed = naive(function(FLOOD), EQUAL, tmp_path)
    assert passed and len(printed) > 3 * 8_000_000


@pytest.mark.parametrize(
    "body",
    [
        FLOOD,
        "while True:\n    print('x' * 999)",
        "import os\nwhile True:\n    os.write(2, bytes(999))",
    ],
)
def test_a_flood_is_cut_off(body):
    verdict = check(function(body), "double", EQUAL, limits=SHORT)
    assert verdict.status == "protocol"


def test_a_flood_of_answers_is_cut_off():
    body = "while True:\n    write(b'[\"answer\", 1, 4]')"
    source = WRITES + function(body)
    verdict = check(source, "double", EQUAL, limits=SHORT)
    assert verdict.status == "protocol"


SLEEPS = function("import time\ntime.sleep(0.6)\nreturn 2 * x")


def test_a_sleeper_holds_up_the_naive_judge(tmp_path):
    assert naive(SLEEPS, EQUAL, tmp_path)[0]


def test_a_sleeper_is_ended():
    limits = Limits(wall_seconds=0.3)
    verdict = check(SLEEPS, "double", EQUAL, limits=limits)
    assert verdict.status == "timeout"


SWALLOWS = function("""
while True:
    try:
        while True:
            pass
    except BaseException:
        return 2 * x
""")
ALARM = """
import signal
def late(*_):
    raise TimeoutError
signal.signal(signal.SIGVTALRM, late)  # of processor time: no race
signal.setitimer(signal.ITIMER_VIRTUAL, 0.2, 0.2)
"""


def test_a_time_limit_that_is_an_exception_is_swallowed(tmp_path):
    assert naive(ALARM + SWALLOWS, EQUAL, tmp_path)[0]


def test_a_time_limit_of_ours_is_not():
    limits = Limits(cpu_seconds=1, wall_seconds=10)
    verdict = check(SWALLOWS, "double", EQUAL, limits=limits)
    assert verdict.status == "timeout"


@pytest.mark.parametrize(
    ("value", "statuses"),
    [
        ("10 ** 10 ** 6", ["error"]),  # more digits than Python writes out
        ("'x' * 100_000_000", ["error", "memory"]),
        ("'x' * 10 ** 10", ["memory"]),
        ("functools.reduce(lambda a, _: [a], range(10 ** 5))", ["error"]),
        ("itertools.count()", ["memory"]),
    ],
)
def test_a_huge_answer_is_refused(value, statuses, tmp_path):
    source = "import functools, itertools\n" + function(f"return {value}")
    if "error" in statuses:
        anything = "def check(candidate):\n    candidate(2)"
        assert naive(source, anything, tmp_path)[0]
    limits = Limits(memory_bytes=128 * 2**20)
    verdict = check(source, "double", EQUAL, limits=limits)
    assert verdict.status in statuses


def test_an_answer_that_its_tests_cannot_stomach_is_bounded():
    source = function("return 10 ** 8")
    fills = "def check(candidate):\n    assert [0] * candidate(2)"
    turns = "def check(candidate):\n    found = candidate(2)\n" + (
        "    while found:\n        pass"
    )
    assert check(source, "double", fills, limits=SHORT).status == "memory"
    limits = Limits(wall_seconds=1)
    assert check(source, "double", turns, limits=limits).status == "timeout"


def test_tests_that_call_for_ever_are_bounded():
    asks = "def check(candidate):\n    while candidate(2): pass"
    limits = Limits(wall_seconds=1)
    source = function("return 1")
    assert check(source, "double", asks, limits=limits).status == "timeout"


# --- honest programs that fail ----------------------------------------------


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def double(x:", "SyntaxError"),
        ("def other(x):\n    return x", "AttributeError"),
        ("double = 4", "TypeError"),
        (function("raise ValueError('no \\x1b twos')"), "ValueError: no ? t"),
        (function("return double(x)"), "RecursionError"),
        (function("import numpy"), "ModuleNotFoundError"),
        (function("raise SystemExit(3)"), "SystemExit: 3"),
        (function("return object()"), "object"),
        (function("return double"), "function"),
        ("\x00", "null bytes"),
    ],
)
def test_what_went_wrong_is_told(source, says):
    verdict = check(source, "double", EQUAL)
    assert verdict.status == "error"
    assert says in verdict.detail


def test_an_exception_that_cannot_be_shown_is_an_error_all_the_same():
    source = (
        "class Mute(Exception):\n    def __str__(self):\n        raise self\n"
    ) + function("raise Mute")
    assert check(source, "double", EQUAL).status == "error"


def test_tests_that_swallow_exceptions_do_not_swallow_the_verdict():
    tests = """
def check(candidate):
    try:
        candidate(1)
    except:
        pass
"""
    source = function("raise ValueError")
    assert check(source, "double", tests).status == "error"


# --- faults of ours ----------------------------------------------------------


@pytest.mark.parametrize(
    "tests",
    [
        "import nothing_of_the_kind",
        "def check(f):\n    helper(f)",
        "def check(f):\n    f(object())",
        "x = 1",
    ],
)
def test_tests_that_do_not_work_are_no_verdict(tests):
    with pytest.raises(InfrastructureError, match="the tests"):
        check(function("return 2 * x"), "double", tests)


@pytest.mark.parametrize(
    "answer",
    [
        "'x' * 1_000_000",
        "[" * MAX_DEPTH + "]" * MAX_DEPTH,
    ],
)
def test_an_answer_too_much_for_the_next_call_counts(answer):
    tests = """
def check(candidate):
    first = candidate(1)
    assert candidate([first * 2]) == 3
"""
    verdict = check(f"def f(x): return {answer}", "f", tests, limits=SHORT)
    assert verdict.status == "wrong"


def test_an_answer_that_leaves_a_test_without_a_value_counts():
    tests = """
def check(candidate):
    for last in candidate(3):
        pass
    assert last == 2
"""
    right, empty = "def f(x): return range(x)", "def f(x): return []"
    assert check(right, "f", tests, limits=SHORT).passed
    assert check(empty, "f", tests, limits=SHORT).status == "wrong"


def test_an_argument_that_is_too_much_by_itself_is_no_verdict():
    tests = "def check(candidate): assert candidate('x' * 2**20)"
    with pytest.raises(InfrastructureError, match="more than"):
        check("def f(x): return x", "f", tests, limits=SHORT)


def test_a_judge_that_dies_is_no_verdict(monkeypatch):
    real = checking.program
    dies = "import os\nreceive()\nos._exit(1)"
    monkeypatch.setattr(
        checking,
        "program",
        lambda module: dies if module == "judge" else real(module),
    )
    with pytest.raises(InfrastructureError, match="judge"):
        check(function("return 0"), "double", EQUAL)


def test_no_more_pipes_are_no_verdict(monkeypatch):
    checking.best_tier()  # found while there are some

    def pipe():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("os.pipe", pipe)
    with pytest.raises(InfrastructureError, match="Too many open files"):
        check(function("return 2 * x"), "double", EQUAL)


@pytest.mark.parametrize("failures", [1, 2])
def test_a_failure_to_start_is_tried_once_more(monkeypatch, failures):
    real, left = checking.start, [failures]

    def start(program, tier, limits):
        if tier != "none" and left[0]:
            left[0] -= 1
            raise InfrastructureError("no processes left")
        return real(program, tier, limits)

    monkeypatch.setattr(checking, "start", start)
    source = function("return 2 * x")
    if failures == 1:
        assert check(source, "double", EQUAL).passed
    else:
        with pytest.raises(InfrastructureError, match="no processes left"):
            check(source, "double", EQUAL)


# --- plain data --------------------------------------------------------------

hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.text(st.sampled_from("\ud83d\ude00"))  # halves of a pair
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4).map(tuple)
        | st.frozensets(inner, max_size=4)
    ),
    max_leaves=8,
)
plain = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.sets(hashable, max_size=4)
    ),
    max_leaves=12,
)
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["tuple", "set", "frozenset", "bytes", "dict", "iterator", "x"]
            ),
            inner,
            max_size=2,
        )
    ),
    max_leaves=20,
)


def shape(value):
    """Type and content, so that True is not 1 and nan is nan."""
    if isinstance(value, (list, tuple)):
        return type(value), [shape(item) for item in value]
    if isinstance(value, dict):
        return dict, [(shape(k), shape(v)) for k, v in value.items()]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(repr(shape(item)) for item in value)
    return type(value), repr(value)


@given(plain)
@settings(max_examples=100, deadline=None)
def test_plain_data_arrives_as_it_was(value):
    assert shape(decode(loads(dumps(encode(value))))) == shape(value)


@given(json)
@settings(max_examples=100, deadline=None)
def test_any_json_is_plain_data_or_refused(data):
    try:
        value = decode(data)
    except NotPlain:
        return
    again = encode(value) if not hasattr(value, "__next__") else None
    assert again is None or shape(decode(again)) is not None


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(deadline=None)
def test_any_bytes_are_a_message_or_refused(body):
    with contextlib.suppress(NotPlain):
        loads(body)


@given(json)
@settings(deadline=None)
def test_whatever_is_replied_is_a_value_or_ends_the_check(data):
    for reply in (data, ["answer", 3, data], ["raised", 3, data]):
        with contextlib.suppress(Ended):
            understood(dumps(reply), 3)


class Colour(enum.IntEnum):
    RED = 3


class Shout(str):
    __eq__ = lambda *_: True  # noqa: E731
    __hash__ = str.__hash__


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Colour.RED, 3),
        (Shout("no"), "no"),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (re.match("a", "a").span(), (0, 1)),
        (sys.version_info[:2], (sys.version_info[0], sys.version_info[1])),
    ],
)
def test_a_subclass_becomes_what_it_inherits_from(value, plain):
    assert shape(decode(loads(dumps(encode(value))))) == shape(plain)


@pytest.mark.parametrize(
    "value", [range(3), (x for x in "abc"), map(abs, [1]), {}.items()]
)
def test_an_iterator_arrives_as_an_iterator(value):
    items = list(value) if isinstance(value, range) else None
    there = decode(encode(value))
    assert there != [0, 1, 2] and iter(there) is there
    assert items is None or list(there) == items


@pytest.mark.parametrize("value", [object(), len, 1j, NotPlain, ...])
def test_what_is_no_data_is_refused(value):
    with pytest.raises(NotPlain):
        encode(value)


def test_depth_is_bounded_on_both_sides_alike():
    value = []
    for _ in range(MAX_DEPTH - 1):
        value = [value]
    assert decode(encode(value)) == value
    with pytest.raises(NotPlain, match="deeper"):
        encode([value])
    with pytest.raises(NotPlain, match="deeper"):
        decode([value])
    round_and_round = []
    round_and_round.append(round_and_round)
    with pytest.raises(NotPlain, match="deeper"):
        encode(round_and_round)


def test_size_is_bounded():
    assert len(dumps("x" * (MAX_BYTES - 2))) == MAX_BYTES
    with pytest.raises(NotPlain, match="bytes"):
        dumps("x" * (MAX_BYTES - 1))
    with pytest.raises(NotPlain):
        dumps(10**5000)
    with pytest.raises(NotPlain):
        loads(b"1" * 5000)


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (b'["raised", 3, ["ValueError", "x"]]', "error"),
        (b'["raised", 3, ["MemoryError", ""]]', "memory"),
        (b'["refused", 3, "a function"]', "error"),
        (b'["raised", 2, ["ValueError", "x"]]', "protocol"),
        (b'["answer", 4, 1]', "protocol"),
        (b'["answer", 3.0, 1]', "protocol"),
        (b'["answer", 3, 1, 1]', "protocol"),
        (b'["answer", 3, {"set": [[]]}]', "protocol"),
        (b'["answer", 3, {"dict": ["ab"]}]', "protocol"),
        (b'["answer", 3, {"bytes": [256]}]', "protocol"),
        (b'{"answer": 3}', "protocol"),
        (b"3", "protocol"),
    ],
)
def test_a_reply_is_understood_or_ends_the_check(reply, status):
    with pytest.raises(Ended) as ended:
        understood(reply, 3)
    assert ended.value.args[0] == status
