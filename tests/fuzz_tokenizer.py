"""Look for input that the tokenizer gets wrong, guided by coverage.

Run by hand, for ten minutes (``pip install atheris``, Linux and macOS)::

    python tests/fuzz_tokenizer.py -max_total_time=600

A finding is an exception, printed with the input that caused it; an input
that takes longer than ten seconds counts as one. A folder may be named to
keep the inputs that reached something new. At the end the number of
executions is printed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEXT = (
    "Ona lost the kite, but Tam found it. They'd mend it: 12 stitches. "
    "Café, naïve, 東京, привет, 🪁.\n\n  def f(x):\n\treturn x ** 2\n"
)
NAMES = ("<|endoftext|>", "<|end", "a<|>b", " ")
N_IDS = 310  # of the tokenizer that is tried: bytes, merges, names
TIMEOUT = 10  # seconds; the slowest honest input takes milliseconds


class Checks:
    """What must hold for every input. Each takes bytes that were made up."""

    def __init__(self, data_provider: Callable[[bytes], Any]) -> None:
        from llmbook import tokenizer

        self.provider = data_provider
        self.package = tokenizer
        self.trained = tokenizer.BPETokenizer.train(TEXT * 3, N_IDS, NAMES)
        self.engine = self.trained.to_tiktoken()
        self.path = Path(tempfile.mkdtemp(), "tokenizer.json")
        self.trained.save(self.path)
        self.saved = self.path.read_bytes()
        self.checks = (
            self.check_text,
            self.check_special_tokens,
            self.check_pieces,
            self.check_training,
            self.check_bytes_of_a_file,
            self.check_fields_of_a_file,
            self.check_ids,
            self.check_text_file,
        )

    def one_input(self, data: bytes) -> None:
        """Which check it is for, then what the check makes of the rest."""
        given = self.provider(data)
        self.checks[given.ConsumeIntInRange(0, len(self.checks) - 1)](given)

    def check_text(self, given: Any) -> None:
        """Decoding undoes encoding; both ways to merge agree; no control."""
        text = given.ConsumeUnicodeNoSurrogates(2000)
        ids = self.trained.encode(text, on_special="text")
        assert self.trained.decode(ids, errors="strict") == text
        assert all(i < N_IDS - len(NAMES) for i in ids)
        if self.is_known(text):
            assert ids == self.engine.encode_ordinary(text)
        word = text.encode()
        joined = self.trained._joined
        slow = self.package.joining.join_one_by_one(word, joined)
        vocabulary = self.trained.vocabulary
        fast = self.package.joining.join_all(word, joined, vocabulary)
        assert slow == fast

    def is_known(self, text: str) -> bool:
        """No character on which two editions of Unicode may differ."""
        import unicodedata

        return all(unicodedata.category(c) not in ("Cn", "Co") for c in text)

    def check_special_tokens(self, given: Any) -> None:
        """Only an allowed name becomes a control token, and comes back."""
        parts = []
        for _ in range(given.ConsumeIntInRange(1, 8)):
            parts.append(given.PickValueInList(list(NAMES)))
            parts.append(given.ConsumeUnicode(10))
        text = "".join(parts)
        allowed = [n for n in NAMES if given.ConsumeBool()]
        try:
            ids = self.trained.encode(text, allowed, on_special="text")
        except ValueError as error:
            assert "surrogate" in str(error)
            return
        assert self.trained.decode(ids, errors="strict") == text
        control = {self.trained.special_tokens[n] for n in allowed}
        assert {i for i in ids if i >= N_IDS - len(NAMES)} <= control
        try:
            assert self.trained.encode(text, allowed) == ids
        except ValueError as error:
            assert "special token" in str(error)

    def check_pieces(self, given: Any) -> None:
        """Pieces add up to the text, and blocks are cut as the whole is."""
        text = given.ConsumeUnicodeNoSurrogates(2000)
        assert "".join(self.package.pre_tokens(text)) == text
        names = NAMES[: given.ConsumeIntInRange(0, len(NAMES))]
        whole = self.count_in_blocks(text, names, 1 << 20)
        blocks = given.ConsumeIntInRange(1, 40)
        assert self.count_in_blocks(text, names, blocks) == whole

    def count_in_blocks(self, source: Any, names: Any, size: int) -> Any:
        self.package.counting.BLOCK = size
        count = self.package.count_pre_tokens
        return count(source, special_tokens=names)

    def check_training(self, given: Any) -> None:
        """The fast trainer learns what the plain one learns."""
        letters = "ab" if given.ConsumeBool() else "abc'é "
        n = given.ConsumeIntInRange(0, 60)
        text = "".join(given.PickValueInList(list(letters)) for _ in range(n))
        pieces = self.package.count_pre_tokens(text)
        merges = self.package.learn_merges(pieces, 20)
        assert merges == self.package.learn_merges_naively(pieces, 20)
        tokenizer = self.package.BPETokenizer(merges)
        for token in tokenizer.vocabulary[256:]:
            if len(self.package.pre_tokens(token.decode("latin-1"))) == 1:
                text = token.decode("utf-8", "ignore")
                assert tokenizer.decode(tokenizer.encode(text)) == text

    def check_bytes_of_a_file(self, given: Any) -> None:
        """A file whose bytes were changed is refused, or changes nothing."""
        data = bytearray(self.saved)
        for _ in range(given.ConsumeIntInRange(1, 5)):
            start = given.ConsumeIntInRange(0, len(data))
            end = start + given.ConsumeIntInRange(0, 40)
            data[start:end] = given.ConsumeBytes(20)
        self.load(bytes(data))

    def check_fields_of_a_file(self, given: Any) -> None:
        """So is a file in which a field was changed, checksum and all."""
        document = json.loads(self.saved)
        for _ in range(given.ConsumeIntInRange(1, 3)):
            field = given.PickValueInList(list(document))
            document[field] = self.changed(document[field], given)
        if given.ConsumeBool():
            fields = ("pattern", "special_tokens", "merges")
            content = {name: document[name] for name in fields}
            document["sha256"] = self.package.files.checksum(content)
        data = json.dumps(document, ensure_ascii=True).encode()
        self.load(data, may_differ=True)

    def changed(self, value: Any, given: Any) -> Any:
        kind = given.ConsumeIntInRange(0, 5)
        if isinstance(value, list) and value and kind < 4:
            place = given.ConsumeIntInRange(0, len(value) - 1)
            if kind == 0:
                return value[:place] + value[place + 1 :]
            if kind == 1:
                return [*value[:place], value[0], *value[place:]]
            new = self.changed(value[place], given)
            return [*value[:place], new, *value[place + 1 :]]
        if isinstance(value, str) and kind < 3:
            return value + given.ConsumeUnicode(5)
        others = [None, True, 3, -1.5, [], {}, "", "ab", [["a", "b"]], [1]]
        return given.PickValueInList(others)

    def load(self, data: bytes, may_differ: bool = False) -> None:
        self.path.write_bytes(data)
        try:
            loaded = self.package.BPETokenizer.load(self.path)
        except ValueError:
            return
        assert may_differ or loaded == self.trained
        try:
            ids = loaded.encode(TEXT, on_special="text")
        except ValueError as error:  # a new pattern may leave text out
            assert "pattern" in str(error)
            assert loaded.pattern != self.trained.pattern
            return
        assert loaded.decode(ids, errors="strict") == TEXT

    def check_ids(self, given: Any) -> None:
        """Any ids of the vocabulary decode; others are a ValueError."""
        n = given.ConsumeIntInRange(0, 50)
        ids = [given.ConsumeIntInRange(-2, N_IDS + 5) for _ in range(n)]
        good = all(0 <= i < N_IDS for i in ids)
        try:
            data = self.trained.decode_bytes(ids)
        except ValueError:
            assert not good
            return
        assert good
        assert data == b"".join(map(self.trained.token_bytes, ids))
        assert isinstance(self.trained.decode(ids), str)

    def check_text_file(self, given: Any) -> None:
        """A file is counted as its text; what is no UTF-8 says where."""
        blocks = given.ConsumeIntInRange(1, 40)
        data = given.ConsumeBytes(2000)
        path = self.path.with_name("text.txt")
        path.write_bytes(data)
        try:
            found = self.count_in_blocks(path, NAMES, blocks)
        except ValueError as error:
            try:
                data.decode()
            except UnicodeDecodeError as expected:
                assert f"at byte {expected.start}." in str(error)
                return
            raise
        whole = self.count_in_blocks(data.decode(), NAMES, 1 << 20)
        assert found == whole


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["llmbook.tokenizer"]):
        import llmbook.tokenizer.counting
        import llmbook.tokenizer.files
        import llmbook.tokenizer.joining  # noqa: F401
    checks = Checks(atheris.FuzzedDataProvider)
    options = "-max_len=4096", "-len_control=0", "-print_final_stats=1"
    arguments = [*sys.argv, f"-timeout={TIMEOUT}", *options]
    atheris.Setup(arguments, checks.one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
