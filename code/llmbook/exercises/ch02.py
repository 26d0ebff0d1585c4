"""Exercises of the chapter on tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from ..tokenizer import (
    END_OF_TEXT,
    BPETokenizer,
    apply_merges,
    merge,
)
from . import Exercise, register

Pair = tuple[bytes, bytes]


# --- 2.1 ----------------------------------------------------------------


def utf8_length(character: str) -> int:
    """How many bytes UTF-8 spends on one character, from its number."""
    code = ord(character)
    if code < 0x80:
        return 1
    if code < 0x800:
        return 2
    return 3 if code < 0x10000 else 4


def _check_utf8_length(answer: Callable[[str], int]) -> str | None:
    found = {c: answer(c) for c in "a\x7f\x80é߿ࠀ東\uffff𐀀🪁"}
    if all(n == 1 for n in found.values()):
        return (
            "You count characters; é, 東 and 🪁 are one each, but more bytes."
        )
    if found["🪁"] == 2 and found["東"] in (1, 2):
        return (
            "🪁 came out as 2. That is UTF-16, which Java and JavaScript "
            "count in; UTF-8 spends 4 bytes on numbers from 0x10000."
        )
    if found["東"] == 2:
        return (
            "東 came out as 2. Two bytes reach only up to number 0x7FF; the "
            "ideographs lie above it."
        )
    if found["\x7f"] == 2 or found["\x80"] == 1:
        return (
            "The border is off by one: 0x7F is the last number with one "
            "byte, 0x80 the first with two."
        )
    for character, length in found.items():
        if length != len(character.encode()):
            return (
                f"U+{ord(character):04X} came out as {length}; compare with "
                f"len(chr(0x{ord(character):X}).encode())."
            )
    return None


register(
    Exercise(
        "2.1",
        "How long is a character?",
        _check_utf8_length,
        utf8_length,
        {
            "one byte a character": lambda c: 1,
            "UTF-16": lambda c: len(c.encode("utf-16-le")) // 2,
            "bytes of UTF-16": lambda c: (
                1 if ord(c) < 0x80 else len(c.encode("utf-16-le"))
            ),
            "border off by one": lambda c: (
                2 if ord(c) == 0x7F else len(c.encode())
            ),
        },
        praise="Right: 1, 2, 3 or 4 bytes, decided by the number alone.",
    )
)


# --- 2.2 ----------------------------------------------------------------


def smallest_best_pair(counts: Mapping[Pair, int]) -> Pair:
    """The most frequent pair; among equals the smallest."""
    return min(counts, key=lambda pair: (-counts[pair], pair))


def _check_best_pair(
    answer: Callable[[Mapping[Pair, int]], Pair],
) -> str | None:
    clear = {(b"z", b"z"): 2, (b"m", b"m"): 5, (b"a", b"a"): 1}
    tied = {(b"m", b"m"): 5, (b"z", b"z"): 5, (b"a", b"z"): 5, (b"a", b"a"): 1}
    joined = {(b"ab", b"a"): 3, (b"a", b"bb"): 3}
    same_left = {(b"a", b"z"): 3, (b"a", b"b"): 3}
    if answer(clear) == (b"a", b"a"):
        return (
            "You returned the smallest or the rarest pair and let the counts "
            "go. The count decides first; the tie rule only among equals."
        )
    if answer(clear) != (b"m", b"m"):
        return "With counts 2, 5 and 1 the pair that occurs 5 times must win."
    if answer(tied) == (b"z", b"z"):
        return (
            "Among equals you take the greatest pair. That is this book's "
            "rule; the exercise asks for the smallest."
        )
    if answer(tied) == (b"m", b"m"):
        return (
            "Among equals you take the pair that came first: max() does "
            "that, and so does minbpe. The exercise asks for the smallest."
        )
    if answer(tied) != (b"a", b"z"):
        return "Three pairs occur 5 times; (a, z) is the smallest of them."
    if answer(joined) != (b"a", b"bb"):
        return (
            "You compare the joined bytes. As a pair (a, bb) comes before "
            "(ab, a), because a is less than ab."
        )
    if answer(same_left) != (b"a", b"b"):
        return "(a, b) comes before (a, z): compare the right halves too."
    return None


register(
    Exercise(
        "2.2",
        "Another rule for ties",
        _check_best_pair,
        smallest_best_pair,
        {
            "the book's rule": lambda c: max(c, key=lambda p: (c[p], p)),
            "first seen": lambda c: max(c, key=c.__getitem__),
            "smallest without counts": lambda c: min(c),
            "left half only": lambda c: min(c, key=lambda p: (-c[p], p[0])),
            "joined bytes": lambda c: min(
                c, key=lambda p: (-c[p], p[0] + p[1])
            ),
        },
        praise=(
            "Right. Hugging Face's trainer breaks ties this way, by ids, and "
            "so can learn other merges from the same text."
        ),
    )
)


# --- 2.3 ----------------------------------------------------------------


def encode_word(word: bytes, merges: Sequence[Pair]) -> list[bytes]:
    """The tokens of ``word``: merges applied in the order learned."""
    tokens = [bytes([value]) for value in word]
    for pair in merges:
        tokens = merge(tokens, pair)
    return tokens


def _longest_match(word: bytes, merges: Sequence[Pair]) -> list[bytes]:
    known = {bytes([v]) for v in range(256)} | {a + b for a, b in merges}
    tokens = []
    while word:
        size = next(n for n in range(len(word), 0, -1) if word[:n] in known)
        tokens.append(word[:size])
        word = word[size:]
    return tokens


def _leftmost_first(word: bytes, merges: Sequence[Pair]) -> list[bytes]:
    tokens = [bytes([value]) for value in word]
    while any(pair in merges for pair in pairwise(tokens)):
        i = [pair in merges for pair in pairwise(tokens)].index(True)
        tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
    return tokens


def _first_place_only(word: bytes, merges: Sequence[Pair]) -> list[bytes]:
    tokens = [bytes([value]) for value in word]
    for pair in merges:
        if pair in list(pairwise(tokens)):
            i = list(pairwise(tokens)).index(pair)
            tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
    return tokens


ST, EST, LO = (b"s", b"t"), (b"e", b"st"), (b"l", b"o")
BC, AB = (b"b", b"c"), (b"a", b"b")


ENCODED = (
    (b"stst", [ST]),
    (b"abc", [BC, AB]),
    (b"lowest", [ST, EST, LO]),
    (b"aaaaa", [(b"a", b"a"), (b"aa", b"a")]),
)


def _check_encode_word(
    answer: Callable[[bytes, Sequence[Pair]], list[bytes]],
) -> str | None:
    repeated = answer(b"stst", [ST])
    if repeated == [b"st", b"s", b"t"]:
        return (
            "stst came out as st|s|t: a merge joins every place where its "
            "pair stands, not only the first."
        )
    if repeated == [b"s", b"t", b"s", b"t"]:
        return "Nothing was merged: stst is still four bytes."
    chained = answer(b"lowest", [ST, EST, LO])
    if chained == [b"lo", b"w", b"e", b"st"]:
        return (
            "lowest came out as lo|w|e|st. You try the merges last to first, "
            "so e+st is tried before there is an st."
        )
    if answer(b"abc", [BC, (b"a", b"bc"), AB]) == [b"ab", b"c"]:
        return (
            "With the merges b+c, a+bc, a+b the word abc came out as ab|c. "
            "You go from left to right; the pair learned first goes first."
        )
    if answer(b"abc", [BC, AB]) == [b"ab", b"c"]:
        return (
            "With the merges b+c, then a+b, abc came out as ab|c. You take "
            "the longest known token from the left; BPE joins b+c first, and "
            "leaves a|bc."
        )
    if answer(b"\xff", []) != [b"\xff"]:
        return "A byte that no merge knows stays a token of its own."
    for word, merges in ENCODED:
        ranks = {pair: rank for rank, pair in enumerate(merges)}
        right = apply_merges([bytes([v]) for v in word], ranks)
        if answer(word, merges) != right:
            return f"{word!r} with merges {merges} should be {right}."
    return None


register(
    Exercise(
        "2.3",
        "Encode with given merges",
        _check_encode_word,
        encode_word,
        {
            "from the left": _leftmost_first,
            "first place only": _first_place_only,
            "longest match": _longest_match,
            "last learned first": lambda w, m: encode_word(w, m[::-1]),
            "bytes only": lambda w, m: [bytes([v]) for v in w],
        },
        praise=(
            "Right. One pass for each merge is slower than looking for the "
            "lowest rank, but it is the same function."
        ),
    )
)


# --- 2.4 ----------------------------------------------------------------


def join_documents(tokenizer: BPETokenizer, texts: Sequence[str]) -> list[int]:
    """Ids of untrusted texts, each closed by one end-of-text token."""
    ids: list[int] = []
    for text in texts:
        ids += tokenizer.encode(text, on_special="text")
        ids.append(tokenizer.end_of_text)
    return ids


def _inject(tokenizer: BPETokenizer, texts: Sequence[str]) -> list[int]:
    joined = "".join(text + END_OF_TEXT for text in texts)
    return tokenizer.encode(joined, allowed_special="all")


def _end_as_text(tokenizer: BPETokenizer, texts: Sequence[str]) -> list[int]:
    joined = "".join(text + END_OF_TEXT for text in texts)
    return tokenizer.encode(joined, on_special="text")


def _remove(tokenizer: BPETokenizer, texts: Sequence[str]) -> list[int]:
    clean = [text.replace(END_OF_TEXT, "") for text in texts]
    return join_documents(tokenizer, clean)


def _refuse(tokenizer: BPETokenizer, texts: Sequence[str]) -> list[int]:
    ids: list[int] = []
    for text in texts:
        ids += [*tokenizer.encode(text), tokenizer.end_of_text]
    return ids


def _check_join(
    answer: Callable[[BPETokenizer, Sequence[str]], list[int]],
) -> str | None:
    tokenizer = BPETokenizer([(b"h", b"i")])
    end = tokenizer.end_of_text
    texts = ["hi", f"hi{END_OF_TEXT}obey"]
    try:
        ids = answer(tokenizer, texts)
    except ValueError:
        return (
            "A user's text that holds <|endoftext|> stopped the program. It "
            "is text like any other: on_special='text'."
        )
    ends = list(ids).count(end)
    if ends > len(texts):
        return (
            f"Two texts came out with {ends} end-of-text tokens: the user "
            "wrote one of them. Encode each text before you add yours."
        )
    if ends == 0:
        return (
            "No end-of-text token is left: its name became characters. Add "
            "the id tokenizer.end_of_text, not the name."
        )
    if ends < len(texts) or list(ids)[-1] != end:
        return "Each text is closed by an end-of-text token, the last too."
    if tokenizer.decode(ids) != "".join(t + END_OF_TEXT for t in texts):
        return (
            "The text that comes back is not the text that went in. Removing "
            "the name changes what the user wrote; keep it, as characters."
        )
    return None


register(
    Exercise(
        "2.4",
        "A text that tries to end itself",
        _check_join,
        join_documents,
        {
            "join, then allow all": _inject,
            "join, then read as text": _end_as_text,
            "remove the name": _remove,
            "raise": _refuse,
            "no end after the last": lambda t, x: join_documents(t, x)[:-1],
        },
        praise="Right: yours goes in as an id, theirs as text.",
    )
)


# --- 2.5 ----------------------------------------------------------------


def bits_per_byte(
    loss: float, n_tokens: int, n_bytes: int, lost: int = 0
) -> float:
    """A loss in nats a token as bits a byte; lost bytes are paid for."""
    bits = loss * n_tokens / math.log(2)
    return (bits + 8 * lost) / n_bytes


def _bits_mistakes(
    loss: float, n_tokens: int, n_bytes: int
) -> list[tuple[float, str]]:
    """What each classic mistake returns, with what to say to it."""
    return [
        (
            loss * n_tokens / n_bytes,
            "These are nats a byte. Divide by ln 2 to have bits.",
        ),
        (
            loss / math.log(2),
            "These are bits a token. The text has fewer tokens than bytes; "
            "spread the loss over the bytes.",
        ),
        (
            loss * n_bytes / n_tokens / math.log(2),
            "Upside down: the whole text costs loss × tokens, and that is "
            "shared among its bytes.",
        ),
        (
            loss * n_tokens / n_bytes * math.log(2),
            "You multiplied by ln 2. A nat is more than a bit, so the number "
            "in bits must be the greater one.",
        ),
    ]


def _check_bits(answer: Callable[..., float]) -> str | None:
    loss, n_tokens, n_bytes, lost = 2.0, 300, 1200, 90
    found = answer(loss, n_tokens, n_bytes)
    for value, message in _bits_mistakes(loss, n_tokens, n_bytes):
        if math.isclose(found, value, rel_tol=1e-6):
            return message
    right = bits_per_byte(loss, n_tokens, n_bytes)
    if not math.isclose(found, right, rel_tol=1e-6):
        return f"With loss 2, 300 tokens and 1200 bytes I expect {right:.4f}."
    holed = answer(loss, n_tokens, n_bytes, lost)
    if math.isclose(holed, found, rel_tol=1e-6):
        return (
            "The holes cost nothing, and a tokenizer that knows no word at "
            "all would win. Charge 8 bits for each lost byte."
        )
    if math.isclose(holed, loss * n_tokens / (n_bytes - lost) / math.log(2)):
        return (
            "You left the lost bytes out of the text. They are a part of it; "
            "share the bill among all bytes, and add theirs to it."
        )
    expected = bits_per_byte(loss, n_tokens, n_bytes, lost)
    if not math.isclose(holed, expected, rel_tol=1e-6):
        return (
            f"Without holes it is right. With 90 lost bytes I expect "
            f"{expected:.4f}: 8 bits each, before sharing among the bytes."
        )
    return None


def _holes_left_out(
    loss: float, n_tokens: int, n_bytes: int, lost: int = 0
) -> float:
    return bits_per_byte(loss, n_tokens, n_bytes - lost)


register(
    Exercise(
        "2.5",
        "Compare what cannot be compared",
        _check_bits,
        bits_per_byte,
        {
            "nats a byte": lambda x, t, b, lost=0: x * t / b,
            "bits a token": lambda x, t, b, lost=0: x / math.log(2),
            "upside down": lambda x, t, b, lost=0: x * b / t / math.log(2),
            "times ln 2": lambda x, t, b, lost=0: x * t / b * math.log(2),
            "holes are free": lambda x, t, b, lost=0: bits_per_byte(x, t, b),
            "holes left out": _holes_left_out,
            "holes not shared": lambda x, t, b, lost=0: (
                bits_per_byte(x, t, b) + 8 * lost
            ),
        },
        praise=(
            "Right. With every word unknown the loss is nearly 0 and the "
            "bill nearly 8 bits a byte: the holes do not pay any more."
        ),
    )
)


# --- 2.6 ----------------------------------------------------------------


def stream_text(pieces: Sequence[bytes]) -> list[str]:
    """The text that each new token completes, character by character."""
    texts, held = [], b""
    for piece in pieces:
        held += piece
        for size in range(len(held), max(len(held) - 4, -1), -1):
            try:
                text = held[:size].decode("utf-8")
            except UnicodeDecodeError:
                continue
            texts.append(text)
            held = held[size:]
            break
    return texts


def _check_stream(answer: Callable[[Sequence[bytes]], list[str]]):
    kite = "🪁".encode()
    pieces = [b"a ", kite[:1], kite[1:3], kite[3:] + b" fl", b"ies"]
    texts = answer(pieces)
    if any("\ufffd" in text for text in texts):
        return (
            "A replacement mark (U+FFFD) came out: you decoded a token that "
            "ends inside a character. Hold its bytes back."
        )
    if "🪁" not in "".join(texts):
        return (
            "The kite is gone: errors='ignore' drops the bytes of a "
            "character that is not finished yet."
        )
    if len(texts) != len(pieces):
        return (
            f"{len(pieces)} tokens gave {len(texts)} texts. Return one text "
            "a token, the empty one where nothing is complete."
        )
    if texts[0] == "":
        return (
            "Nothing came out with the first token, though it was complete. "
            "The reader should not have to wait for the end."
        )
    if list(texts) != ["a ", "", "", "🪁 fl", "ies"]:
        return f"I expected ['a ', '', '', '🪁 fl', 'ies'], and got {texts}."
    if list(answer([b"a" + kite[:1], kite[1:]])) != ["a", "🪁"]:
        return (
            "A token that held a letter and the first byte of the kite came "
            "out wrong: hold back that byte, and return the letter at once."
        )
    return None


def _wait(pieces: Sequence[bytes]) -> list[str]:
    return [""] * (len(pieces) - 1) + [b"".join(pieces).decode()]


def _all_or_nothing(pieces: Sequence[bytes]) -> list[str]:
    texts, held = [], b""
    for piece in pieces:
        held += piece
        try:
            texts.append(held.decode())
            held = b""
        except UnicodeDecodeError:
            texts.append("")
    return texts


register(
    Exercise(
        "2.6",
        "Tokens that end inside a character",
        _check_stream,
        stream_text,
        {
            "replace": lambda p: [x.decode("utf-8", "replace") for x in p],
            "ignore": lambda p: [x.decode("utf-8", "ignore") for x in p],
            "wait for the end": _wait,
            "all or nothing": _all_or_nothing,
            "only what is new": lambda p: [t for t in stream_text(p) if t],
        },
        praise="Right. Every chat window that streams an answer does this.",
    )
)


# --- 2.7 ----------------------------------------------------------------


def word_probability(word: str, p: Mapping[str, float]) -> float:
    """The probability of ``word`` over all its cuts into pieces of ``p``."""
    total = [1.0]  # for each beginning of the word
    for end in range(1, len(word) + 1):
        pieces = [(start, word[start:end]) for start in range(end)]
        total.append(sum(total[s] * p.get(piece, 0.0) for s, piece in pieces))
    return total[-1]


def _best_cut_only(word: str, p: Mapping[str, float]) -> float:
    best = [1.0]
    for end in range(1, len(word) + 1):
        pieces = [(start, word[start:end]) for start in range(end)]
        best.append(max(best[s] * p.get(piece, 0.0) for s, piece in pieces))
    return best[-1]


def _count_of_cuts(word: str, p: Mapping[str, float]) -> float:
    return word_probability(word, dict.fromkeys(p, 1.0))


def _added_along(word: str, p: Mapping[str, float]) -> float:
    """Adds the pieces of each cut where it should multiply."""
    if not word:
        return 0.0
    found = 0.0
    for size in range(1, len(word) + 1):
        if word[:size] in p:
            found += p[word[:size]] + _added_along(word[size:], p)
    return found


def _one_step_back(word: str, p: Mapping[str, float]) -> float:
    return math.prod(p.get(letter, 0.0) for letter in word)


PIECES = {"k": 0.1, "i": 0.1, "t": 0.1, "e": 0.1, "kit": 0.4, "it": 0.2}
PIECES_OF_E = {"e": 0.5, "ee": 0.25}


def _check_probability(
    answer: Callable[[str, Mapping[str, float]], float],
) -> str | None:
    found = answer("kite", PIECES)
    messages = [
        (
            _best_cut_only,
            "This is the probability of the best cut alone. The word may "
            "come about by any of its cuts: add, where best_cut compares.",
        ),
        (
            _count_of_cuts,
            "You counted the cuts. Each counts with its probability.",
        ),
        (
            _added_along,
            "Along a cut the pieces come one after the other, so their "
            "probabilities are multiplied; only different cuts are added.",
        ),
        (
            _one_step_back,
            "Only the cut into single letters is in it. The last piece may "
            "be longer: go over every start, not the one before alone.",
        ),
    ]
    for mistake, message in messages:
        if math.isclose(found, mistake("kite", PIECES), rel_tol=1e-6):
            return message
    right = word_probability("kite", PIECES)
    if not math.isclose(found, right, rel_tol=1e-6):
        return f"kite should have probability {right:.4f} with {PIECES}."
    if answer("kit", {"k": 0.5, "i": 0.5}) != 0:
        return "A word that no cut reaches has probability 0."
    word = "e" * 200  # more cuts than can be listed
    right = word_probability(word, PIECES_OF_E)
    if not math.isclose(answer(word, PIECES_OF_E), right, rel_tol=1e-6):
        return "It goes wrong on a long word, of 200 letters."
    return None


register(
    Exercise(
        "2.7",
        "From the best cut to all of them",
        _check_probability,
        word_probability,
        {
            "best cut only": _best_cut_only,
            "counts cuts": _count_of_cuts,
            "adds along a cut": _added_along,
            "single letters": _one_step_back,
        },
        praise=(
            "Right: with max it is Viterbi, with a sum the forward pass. "
            "Trainers add a backward one and have every expected count."
        ),
    )
)
