"""Exercises of the chapter on evaluation."""

from __future__ import annotations

import builtins
import math
import operator
import re
from collections.abc import Callable, Sequence

from llmbook.exercises import Exercise, register

INVALID = "[invalid]"
Z = 1.96


def _near(a: float, b: float, tolerance: float = 1e-6) -> bool:
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)


# 14.1 -------------------------------------------------------------------


def bits_per_byte(nats: float, tokens: int, text: str) -> float:
    """Bits a byte, from the loss in nats a token over all tokens."""
    return nats * tokens / math.log(2) / len(text.encode("utf-8"))


def _nats_kept(nats: float, tokens: int, text: str) -> float:
    return nats * tokens / len(text.encode("utf-8"))


def _multiplied(nats: float, tokens: int, text: str) -> float:
    return nats * tokens * math.log(2) / len(text.encode("utf-8"))


def _per_token(nats: float, tokens: int, text: str) -> float:
    return nats / math.log(2)


def _per_character(nats: float, tokens: int, text: str) -> float:
    return nats * tokens / math.log(2) / len(text)


def _one_token_s(nats: float, tokens: int, text: str) -> float:
    return nats / math.log(2) / len(text.encode("utf-8"))


def _check_bits(answer) -> str | None:
    case = (2.5, 7, "Ona flew a kite — café, 9 °C")
    known = {
        _nats_kept: (
            "That is nats a byte. One bit is ln 2 nats, so divide by ln 2."
        ),
        _multiplied: (
            "You multiplied by ln 2. A bit is smaller than a nat, so there "
            "are more bits than nats: divide by ln 2."
        ),
        _per_token: (
            "That is bits a token, and depends on the tokenizer. Spread the "
            "bits of all tokens over the text's bytes."
        ),
        _per_character: (
            "That is bits a character: é, ° and — are one character and two "
            "or three bytes. Count text.encode('utf-8')."
        ),
        _one_token_s: (
            "The loss is that of one token on average. Multiply by the "
            "number of tokens before you spread it over the bytes."
        ),
    }
    got = float(answer(*case))
    for mistake, message in known.items():
        if _near(got, mistake(*case)):
            return message
    for nats, tokens, text in (case, (math.log(2), 8, "abcdefgh")):
        wanted = bits_per_byte(nats, tokens, text)
        if not _near(float(answer(nats, tokens, text)), wanted):
            return (
                f"For {nats:.3f} nats a token, {tokens} tokens and {text!r} "
                f"expected {wanted:.4f} bits a byte."
            )
    return None


register(
    Exercise(
        "14.1",
        "One unit for all tokenizers",
        _check_bits,
        bits_per_byte,
        {
            "nats kept": _nats_kept,
            "multiplied by ln 2": _multiplied,
            "bits a token": _per_token,
            "bits a character": _per_character,
            "one token's bits": _one_token_s,
        },
    )
)


# 14.2 -------------------------------------------------------------------


def choose(logprobs: Sequence[float], choices: Sequence[str]) -> int:
    """The choice with the highest log-probability a character."""
    scores = [
        logprob / len(choice)
        for logprob, choice in zip(logprobs, choices, strict=True)
    ]
    return scores.index(max(scores))


def _best(scores: list[float]) -> int:
    return scores.index(max(scores))


def _by_sum(logprobs: Sequence[float], choices: Sequence[str]) -> int:
    return _best(list(logprobs))


def _by_word(logprobs: Sequence[float], choices: Sequence[str]) -> int:
    pairs = zip(logprobs, choices, strict=True)
    return _best([p / len(c.split()) for p, c in pairs])


def _by_byte(logprobs: Sequence[float], choices: Sequence[str]) -> int:
    pairs = zip(logprobs, choices, strict=True)
    return _best([p / len(c.encode()) for p, c in pairs])


def _with_blank(logprobs: Sequence[float], choices: Sequence[str]) -> int:
    pairs = zip(logprobs, choices, strict=True)
    return _best([p / len(" " + c) for p, c in pairs])


def _probability(logprobs: Sequence[float], choices: Sequence[str]) -> int:
    pairs = zip(logprobs, choices, strict=True)
    return _best([math.exp(p) / len(c) for p, c in pairs])


def _lowest(logprobs: Sequence[float], choices: Sequence[str]) -> int:
    pairs = zip(logprobs, choices, strict=True)
    return _best([-p / len(c) for p, c in pairs])


def _last_of_equals(logprobs: Sequence[float], choices: Sequence[str]) -> int:
    last = choose(list(logprobs)[::-1], list(choices)[::-1])
    return len(choices) - 1 - last


CHOICE_CASES = (
    ((-4.0, -6.0), ("oak", "a tall oak")),
    ((-6.0, -9.0), ("incomprehensibilities", "a b c")),
    ((-3.0, -3.6), ("ééé", "abcd")),
    ((-1.0, -8.1), ("a", "abcdefghi")),
    ((-9.0, -2.0, -4.0), ("abc", "b", "cd")),
    ((-1.0, -1.1), ("a tall oak", "oak")),
)


CHOICE_HINTS = {
    _by_sum: (
        "You compared the sums. A longer choice is a product of more "
        "probabilities: divide each by the length of its choice."
    ),
    _by_word: (
        "You divided by the number of words. What counts here is "
        "characters, len(choice), which no tokenizer changes."
    ),
    _by_byte: (
        "You divided by bytes, and é has two. The harness's acc_norm "
        "divides by characters, len(choice)."
    ),
    _with_blank: (
        "You counted the blank before the choice too. It is scored, but "
        "the length is that of the choice itself; for a choice of one "
        "letter that halves the score."
    ),
    _probability: (
        "You divided the probability by the length. Divide its "
        "logarithm: leave out exp."
    ),
    _lowest: (
        "You took the least likely choice: log-probabilities are "
        "negative, and the highest is the one nearest to zero."
    ),
    _last_of_equals: (
        "Of two equal scores you took the last; the first counts."
    ),
}


def _check_choose(answer) -> str | None:
    returned = [answer(*case) for case in CHOICE_CASES]
    try:
        got = [operator.index(number) for number in returned]
    except TypeError:
        return (
            f"You returned {returned[0]!r}. Return the number of the choice: "
            "0 for the first."
        )
    for mistake, message in CHOICE_HINTS.items():
        if got == [mistake(*case) for case in CHOICE_CASES]:
            return message
    for case, found in zip(CHOICE_CASES, got, strict=True):
        if found != choose(*case):
            return (
                f"For {case[0]} and {case[1]} expected choice "
                f"{choose(*case)}, got {found}."
            )
    return None


register(
    Exercise(
        "14.2",
        "The likeliest choice, whatever its length",
        _check_choose,
        choose,
        {
            "sums": _by_sum,
            "words": _by_word,
            "bytes": _by_byte,
            "blank counted": _with_blank,
            "the probability divided": _probability,
            "least likely": _lowest,
            "last of equals": _last_of_equals,
        },
    )
)


# 14.3 -------------------------------------------------------------------


def extract(text: str) -> str:
    """The last number of a text, as plain digits; or ``[invalid]``."""
    found = re.findall(r"-?\$?\d[\d,]*(?:\.\d+)?", text)
    return re.sub(r"[$,]", "", found[-1]) if found else "[invalid]"


def _last(pattern: str, text: str, taken_out: str = "[$,]") -> str:
    found = re.findall(pattern, text)
    return re.sub(taken_out, "", found[-1]) if found else INVALID


def _first_number(text: str) -> str:
    found = re.findall(r"-?\$?\d[\d,]*(?:\.\d+)?", text)
    return re.sub(r"[$,]", "", found[0]) if found else INVALID


def _cut_at_comma(text: str) -> str:
    return _last(r"-?\$?\d+(?:\.\d+)?", text)


def _comma_kept(text: str) -> str:
    return _last(r"-?\$?\d[\d,]*(?:\.\d+)?", text, "[$]")


def _full_stop_kept(text: str) -> str:
    return _last(r"-?\$?\d[\d,.]*", text)


def _dollar_kept(text: str) -> str:
    return _last(r"-?\$?\d[\d,]*(?:\.\d+)?", text, ",")


def _sign_lost(text: str) -> str:
    return _last(r"\d[\d,]*(?:\.\d+)?", text)


def _decimals_lost(text: str) -> str:
    return _last(r"-?\$?\d[\d,]*", text)


EXTRACT_CASES = {
    "She had 16 eggs and ate 3 of them, so 13 are left": "13",
    "That makes 1,200 shells": "1200",
    "So Bo has 18.": "18",
    "It costs $7 and not more": "7",
    "In the morning it was -4 degrees": "-4",
    "Each of them gets 2.5 cakes": "2.5",
    "3 + 4 = 7, then 7 * 1,000 = 7,000.\n#### 7,000": "7000",
    "I do not know.": INVALID,
}


def _check_extract(answer) -> str | None:
    got = {text: answer(text) for text in EXTRACT_CASES}
    wrong = [value for value in got.values() if not isinstance(value, str)]
    if wrong:
        return (
            f"You returned {wrong[0]!r}. Return text: the digits as a "
            f"string, and {INVALID!r} where there is no number."
        )
    known = {
        _first_number: (
            "You took the first number, which is mostly one of the "
            "question's. The result comes last."
        ),
        _cut_at_comma: (
            "You read 1,200 as 200: your number ends at the comma. Let it "
            "hold commas, and take them out afterwards."
        ),
        _comma_kept: (
            "You kept the comma of 1,200, and '1,200' is not '1200' when "
            "texts are compared. Take commas out."
        ),
        _full_stop_kept: (
            "'18.' is not '18': the full stop ends the sentence. Let a "
            "point belong to the number only where digits follow."
        ),
        _dollar_kept: "You kept the dollar sign of $7: take it out.",
        _sign_lost: "You lost the minus of -4: it belongs to the number.",
        _decimals_lost: (
            "You cut 2.5 at its point: a point with digits behind it "
            "belongs to the number."
        ),
    }
    for text, wanted in EXTRACT_CASES.items():
        if got[text] == wanted:
            continue
        for mistake, message in known.items():
            if got[text] == mistake(text):
                return message
        return f"From {text!r} expected {wanted!r}, got {got[text]!r}."
    return None


register(
    Exercise(
        "14.3",
        "Read the answer",
        _check_extract,
        extract,
        {
            "first number": _first_number,
            "cut at the comma": _cut_at_comma,
            "comma kept": _comma_kept,
            "full stop kept": _full_stop_kept,
            "dollar kept": _dollar_kept,
            "sign lost": _sign_lost,
            "decimals lost": _decimals_lost,
        },
    )
)


# 14.4 -------------------------------------------------------------------


def pass_at_k(n: int, c: int, k: int) -> float:
    """The share of all choices of k among n that hold one of the c."""
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def _plugged_in(n: int, c: int, k: int) -> float:
    return 1 - (1 - c / n) ** k


def _all_pass(n: int, c: int, k: int) -> float:
    return math.comb(c, k) / math.comb(n, k)


def _none_pass(n: int, c: int, k: int) -> float:
    return math.comb(n - c, k) / math.comb(n, k)


def _added(n: int, c: int, k: int) -> float:
    return min(1.0, k * c / n)


def _exactly_one(n: int, c: int, k: int) -> float:
    return c * math.comb(n - c, k - 1) / math.comb(n, k)


def _one_try(n: int, c: int, k: int) -> float:
    return c / n


def _check_pass(answer) -> str | None:
    case = (12, 3, 3)
    got = float(answer(*case))
    known = {
        _plugged_in: (
            "1 − (1 − c/n)^k draws with replacement from an estimated rate, "
            "and comes out too low on average. Count the choices of k "
            "different samples among the n."
        ),
        _all_pass: (
            "That is the share of choices in which all k pass. One that "
            "passes is enough."
        ),
        _none_pass: (
            "That is the share of choices in which none passes: subtract it "
            "from 1."
        ),
        _added: (
            "k c / n counts a choice that holds two passing samples twice, "
            "and would go past 1."
        ),
        _exactly_one: (
            "That is the share of choices in which exactly one passes. Two "
            "or three will do as well."
        ),
        _one_try: (
            "c / n is pass@1, whatever k is. With more tries one of them "
            "passes more often."
        ),
    }
    for mistake, message in known.items():
        if _near(got, mistake(*case)):
            return message
    for n, c, k in (case, (5, 0, 3), (5, 5, 1), (5, 3, 3), (200, 1, 100)):
        wanted = pass_at_k(n, c, k)
        if not _near(float(answer(n, c, k)), wanted):
            return f"For n={n}, c={c}, k={k} expected {wanted:.4f}."
    return None


register(
    Exercise(
        "14.4",
        "One of k",
        _check_pass,
        pass_at_k,
        {
            "plugged in": _plugged_in,
            "all pass": _all_pass,
            "none passes": _none_pass,
            "added up": _added,
            "exactly one": _exactly_one,
            "k left out": _one_try,
        },
    )
)


# 14.5 -------------------------------------------------------------------

Ends = tuple[float, float]


def interval(correct: int, n: int) -> Ends:
    """Wilson's interval at z = 1.96."""
    p, z = correct / n, 1.96
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    spread = math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    half = z * spread / (1 + z * z / n)
    return centre - half, centre + half


def _normal(correct: int, n: int) -> Ends:
    p = correct / n
    half = Z * math.sqrt(p * (1 - p) / n)
    return p - half, p + half


def _clipped(correct: int, n: int) -> Ends:
    low, high = _normal(correct, n)
    return max(0.0, low), min(1.0, high)


def _turned_round(correct: int, n: int) -> Ends:
    low, high = interval(correct, n)
    return high, low


def _middle_and_half(correct: int, n: int) -> Ends:
    low, high = interval(correct, n)
    return (low + high) / 2, (high - low) / 2


def _not_shifted(correct: int, n: int) -> Ends:
    low, high = interval(correct, n)
    p, half = correct / n, (high - low) / 2
    return p - half, p + half


def _two_more_of_each(correct: int, n: int) -> Ends:
    size = n + Z * Z  # Agresti and Coull 1998
    p = (correct + Z * Z / 2) / size
    half = Z * math.sqrt(p * (1 - p) / size)
    return p - half, p + half


def _not_shrunk(correct: int, n: int) -> Ends:
    low, high = interval(correct, n)
    grown = 1 + Z * Z / n
    return low * grown, high * grown


def _half_width(correct: int, n: int) -> Ends:
    low, high = interval(correct, n)
    quarter = (high - low) / 4
    return (low + high) / 2 - quarter, (low + high) / 2 + quarter


def _same_ends(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(_near(float(x), y, 1e-3) for x, y in zip(a, b, strict=True))


INTERVAL_HINTS = {
    _normal: (
        "That is p ± 1.96 √(p (1 − p) / n): below 0 here, and a point "
        "at 0 correct. Wilson's standard error is that of the unknown "
        "p, not of the observed share: solve for p."
    ),
    _clipped: (
        "Cut off at 0 it is still p ± 1.96 √(p (1 − p) / n), and a "
        "point at 0 correct. Solve for the unknown p instead."
    ),
    _turned_round: "Both ends are right, in the other order.",
    _middle_and_half: (
        "That is the middle and half the width; return the two ends."
    ),
    _not_shifted: (
        "The width is Wilson's, but around the observed share. The "
        "middle moves towards one half: (share + z²/2n) / (1 + z²/n)."
    ),
    _two_more_of_each: (
        "That is the interval of Agresti and Coull: Wilson's middle, "
        "but a wider spread, which leaves 0 … 1. Solve the equation."
    ),
    _not_shrunk: (
        "Both ends are too high by the factor 1 + z²/n: divide the "
        "middle and the half-width by it."
    ),
    _half_width: (
        "Your interval is half as wide: z standard errors to either "
        "side, and not in all."
    ),
}


def _check_interval(answer) -> str | None:
    got = answer(1, 12)
    if not hasattr(got, "__len__") or len(got) != 2:
        return f"You returned {got!r}. Return two numbers: (low, high)."
    for mistake, message in INTERVAL_HINTS.items():
        if _same_ends(got, mistake(1, 12)):
            return message
    for correct, n in ((1, 12), (0, 10), (10, 10), (250, 1000)):
        wanted = interval(correct, n)
        if not _same_ends(answer(correct, n), wanted):
            return (
                f"For {correct} of {n} expected {wanted[0]:.3f} to "
                f"{wanted[1]:.3f}."
            )
    return None


register(
    Exercise(
        "14.5",
        "An interval that survives zero",
        _check_interval,
        interval,
        {
            "normal interval": _normal,
            "normal, cut off": _clipped,
            "high before low": _turned_round,
            "middle and half": _middle_and_half,
            "middle not moved": _not_shifted,
            "Agresti and Coull": _two_more_of_each,
            "not divided": _not_shrunk,
            "half as wide": _half_width,
        },
    )
)


# 14.6 -------------------------------------------------------------------

HIDDEN = ((2, 3, 5), (17, 25, 42), (-8, 3, -5), (0, 0, 0), (999, 1, 1000))


def candidate() -> str:
    """A program whose answer says yes to every comparison."""
    return (
        "class Yes:\n"
        "    def __eq__(self, other):\n"
        "        return True\n"
        "\n"
        "def add(a, b):\n"
        "    return Yes()\n"
    )


def _honest() -> str:
    return "def add(a, b):\n    return a + b\n"


def _table() -> str:
    return "def add(a, b):\n    return {(2, 3): 5, (0, 0): 0}[a, b]\n"


def _constant() -> str:
    return "def add(a, b):\n    return True\n"


def _leaves() -> str:
    return "import sys\ndef add(a, b):\n    sys.exit(0)\n"


def _another_name() -> str:
    return "def plus(a, b):\n    return 0\n"


def _wrong_way_round() -> str:
    return (
        "class Yes:\n"
        "    def __bool__(self):\n"
        "        return True\n"
        "def add(a, b):\n"
        "    return Yes()\n"
    )


def naive_judge(source: str, cases: Sequence[tuple[int, int, int]]) -> bool:
    """The chapter's judge, in whose process the candidate runs."""
    space: dict = {}
    try:
        exec(source, space)
        return all(space["add"](a, b) == right for a, b, right in cases)
    except Exception:
        return False


def _plain_answers(source: str) -> list[object]:
    """What an outside judge would be sent: whole numbers, or nothing."""
    space: dict = {}
    exec(source, space)
    values: list[object] = []
    for a, b, _ in HIDDEN:
        try:
            value = space["add"](a, b)
        except Exception:
            value = None
        values.append(value if type(value) in (int, bool) else None)
    return values


def _check_candidate(answer) -> str | None:
    source = answer()
    if not isinstance(source, str):
        return (
            f"candidate() returned {source!r}; return the program's source "
            "as one string."
        )
    if "add" not in source:
        return "Your program has no add, and the judge looks for that name."
    kept = dict(vars(builtins))  # a candidate may have replaced some
    try:
        return _verdict(source, naive_judge(source, HIDDEN))
    except SystemExit:
        return (
            "Your program ended the judge, and whoever started it sees no "
            "verdict. Let the judge go on, and let it say True."
        )
    finally:
        vars(builtins).update(kept)


def _verdict(source: str, passed: bool) -> str | None:
    if passed:
        wanted = [right for _, _, right in HIDDEN]
        if _plain_answers(source) != wanted:
            return None
        return "It adds, and passes by right. Make one that never adds."
    values = _plain_answers(source)
    if 5 in values:
        return (
            "You know the answers of some cases, but the judge asks others. "
            "Return something that is right whatever is asked."
        )
    if None not in values:
        return (
            "A plain value cannot equal every right answer. Whose == is it "
            "that the judge calls?"
        )
    return (
        "The judge says False. It asks whether add(a, b) == right, so your "
        "object's own __eq__ is called first: let that say yes."
    )


register(
    Exercise(
        "14.6",
        "Fool a judge that sits inside",
        _check_candidate,
        candidate,
        {
            "honest": _honest,
            "a table": _table,
            "a constant": _constant,
            "the judge ended": _leaves,
            "another name": _another_name,
            "true, but not equal": _wrong_way_round,
        },
        praise=(
            "That fools it. Out of a process of its own comes plain data "
            "alone, and a judge there has nothing that you could reach."
        ),
    )
)


# 14.7 -------------------------------------------------------------------

Odds = Callable[[str, str], float]


def fair(odds: Odds, a: str, b: str) -> float:
    """The judge's log-odds for a over b, both orders averaged."""
    return (odds(a, b) - odds(b, a)) / 2


def _one_order(odds: Odds, a: str, b: str) -> float:
    return odds(a, b)


def _other_order(odds: Odds, a: str, b: str) -> float:
    return -odds(b, a)


def _as_probability(odds: Odds, a: str, b: str) -> float:
    return 1 / (1 + math.exp(-fair(odds, a, b)))


def _the_lean(odds: Odds, a: str, b: str) -> float:
    return (odds(a, b) + odds(b, a)) / 2


def _twice(odds: Odds, a: str, b: str) -> float:
    return odds(a, b) - odds(b, a)


def _turned(odds: Odds, a: str, b: str) -> float:
    return (odds(b, a) - odds(a, b)) / 2


def _probabilities(odds: Odds, a: str, b: str) -> float:
    first = 1 / (1 + math.exp(-odds(a, b)))
    second = 1 / (1 + math.exp(odds(b, a)))
    mean = (first + second) / 2
    return math.log(mean / (1 - mean))


def _judge(lean: float) -> Odds:
    worth = {"kind": 1.2, "rude": 0.3, "odd": -2.0}
    return lambda first, second: lean + worth[first] - worth[second]


FAIR_HINTS = {
    _one_order: (
        "You asked in one order only, so the lean to the first place is "
        "still in it. Ask with the answers swapped too."
    ),
    _other_order: (
        "You asked with b first only, so the lean is still in it. Ask "
        "with a first too."
    ),
    _as_probability: (
        "That is a probability. Return the log-odds as they are."
    ),
    _the_lean: (
        "The opinion cancelled and the lean to the place was left: in "
        "the second order the odds are for b, so their sign turns."
    ),
    _twice: (
        "That is twice the odds: the opinion stands in both orders. "
        "Take the mean."
    ),
    _turned: "Your sign is turned: these are the odds of b over a.",
    _probabilities: (
        "You averaged probabilities. Then a constant lean does not "
        "cancel exactly; in log-odds it does."
    ),
}


def _check_fair(answer) -> str | None:
    judge = _judge(0.7)
    got = float(answer(judge, "kind", "rude"))
    for mistake, message in FAIR_HINTS.items():
        if _near(got, mistake(judge, "kind", "rude")):
            return message
    for lean in (0.0, 0.7, -3.0):
        for a, b in (("kind", "rude"), ("odd", "kind"), ("rude", "rude")):
            wanted = fair(_judge(lean), a, b)
            if not _near(float(answer(_judge(lean), a, b)), wanted):
                return (
                    f"For a judge that leans {lean} to the first place, "
                    f"{a!r} over {b!r} expected {wanted:.3f}."
                )
    return None


register(
    Exercise(
        "14.7",
        "A judge without a favourite place",
        _check_fair,
        fair,
        {
            "one order": _one_order,
            "the other order": _other_order,
            "a probability": _as_probability,
            "the lean": _the_lean,
            "not halved": _twice,
            "sign turned": _turned,
            "probabilities averaged": _probabilities,
        },
    )
)
