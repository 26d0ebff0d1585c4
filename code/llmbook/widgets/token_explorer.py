"""Any text as tokens: pre-tokens, bytes, and the merges one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import traitlets
from matplotlib import pyplot as plt

from llmbook.tokenizer import (
    GPT2_PATTERN,
    BPETokenizer,
    Pair,
    gpt2,
    merge,
    pre_tokens,
    utf8,
)
from llmbook.widgets import token_picture
from llmbook.widgets._base import Explorer
from llmbook.widgets.token_tables import N_BYTES, gpt2_data, python_classes

MAX_CHARACTERS = 2_000  # what a page redraws within a frame or two
STAGES = 3  # of merging, that print shows below the bytes
HINT = (
    "Try: press Play and watch bytes become tokens. Then type your name, or "
    "a word of another language."
)


class TokenExplorer(Explorer):
    """The tokens of any text that the reader types, and how they came about.

    The page encodes by itself, with this tokenizer's merges and with all of
    GPT-2's, and gives the ids that Python gives. One step is one merge of
    the vocabulary, done everywhere in the text where it applies.

    Args:
        tokenizer: a BPE tokenizer that cuts by GPT-2's pattern.
        text: what the field holds at first; at most 2,000 characters.
        alt: what the figure shows, in words.
        caption: Markdown with ``$math$``.
        name: the label that ``{numref}`` uses.
        step: how many merges are done; None, the default, means all. Like
            ``text`` it is a trait: read it, set it, link it.
        hint: one line that says what to try.

    Raises:
        ValueError: another kind of tokenizer or another pattern, a text
            that is too long or holds a lone surrogate, a step that is not
            there, or a vocabulary too large for a page.

    >>> pairs = [(b"t", b"o"), (b"to", b"p")]
    >>> figure = TokenExplorer(BPETokenizer(pairs), "to top", step=1)
    >>> figure.tokens
    [b'to', b' ', b'to', b'p']
    >>> figure.step = None
    >>> figure.ids
    [256, 32, 257]
    """

    kind = "tokens"
    shared = ("text", "step")
    mend = "Give a tokenizer with a smaller vocabulary."
    text = traitlets.Unicode("").tag(sync=True)
    step = traitlets.Int(None, allow_none=True).tag(sync=True)

    def __init__(
        self,
        tokenizer: BPETokenizer,
        text: str = "",
        *,
        alt: str = "",
        caption: str = "",
        name: str = "fig-token-explorer",
        step: int | None = None,
        hint: str = HINT,
    ) -> None:
        self.tokenizer = checked_tokenizer(tokenizer)
        self.ranks = {pair: i for i, pair in enumerate(tokenizer.merges)}
        self.known = {bytes([value]): value for value in range(N_BYTES)}
        for left, right in tokenizer.merges:
            self.known[left + right] = len(self.known)
        super().__init__(
            alt or "A field for any text, and the tokens that it becomes.",
            caption,
            name,
            data=self._data(text, hint),
            text=text,
            step=step,
        )

    def _data(self, text: str, hint: str) -> dict[str, Any]:
        try:
            other = gpt2_data()
        except RuntimeError:  # no network, no cache: the figure says so
            other = None
        pairs = self.tokenizer.merges
        return {
            "merges": [self.known[token] for pair in pairs for token in pair],
            "classes": python_classes(),
            "vocab_size": self.tokenizer.vocab_size,
            "gpt2": other,
            "max_characters": MAX_CHARACTERS,
            "start": text,
            "hint": hint,
        }

    @traitlets.validate("text")
    def _can_be_encoded(self, proposal: Any) -> str:
        text = proposal.value
        utf8(text)
        if len(text) > MAX_CHARACTERS:
            raise ValueError(
                f"the text has {len(text):,} characters; at most "
                f"{MAX_CHARACTERS:,} are shown. Cut it: "
                f"text[:{MAX_CHARACTERS}]."
            )
        return text

    @traitlets.validate("step")
    def _in_range(self, proposal: Any) -> int | None:
        if proposal.value is None:
            return None
        return self.check("step", proposal.value, 0, len(self.merges))

    @traitlets.observe("text")
    def _keep_step(self, change: Any) -> None:
        """A text with fewer merges is shown with all of them."""
        if self.step is not None and self.step > len(self.merges):
            self.step = None

    @property
    def pre_tokens(self) -> list[str]:
        """The pieces of the text that no token crosses."""
        return pre_tokens(self.text, self.tokenizer.pattern)

    @property
    def merges(self) -> list[int]:
        """The ranks of the merges that the text needs, first one first."""
        pieces = set(self.pre_tokens)
        return sorted({rank for p in pieces for rank in self._merge(p)[1]})

    def stage(self, step: int | None) -> list[list[bytes]]:
        """Each pre-token's tokens when ``step`` merges are done."""
        end = None if step is None else (-1, *self.merges)[step] + 1
        return [self._merge(piece, end)[0] for piece in self.pre_tokens]

    @property
    def tokens(self) -> list[bytes]:
        """The tokens as they stand after ``step`` merges."""
        return [t for piece in self.stage(self.step) for t in piece]

    @property
    def ids(self) -> list[int]:
        """The ids of :attr:`tokens`."""
        return [self.known[token] for token in self.tokens]

    def _merge(
        self, piece: str, end: int | None = None
    ) -> tuple[list[bytes], list[int]]:
        end = len(self.ranks) if end is None else end
        return merge_piece(utf8(piece), self.tokenizer.merges, self.ranks, end)

    def picture(self) -> plt.Figure:
        """The text's first bytes, the stages of merging, GPT-2 below."""
        last = len(self.merges) if self.step is None else self.step
        steps = sorted({round(last * i / STAGES) for i in range(STAGES + 1)})
        rows = [self._row(step) for step in steps]
        if self.data["gpt2"]:
            other = gpt2()
            ids = other.encode_ordinary(self.text)
            tokens = [other.token_bytes(i) for i in ids]
            rows.append(("GPT-2", tokens, ids))
        return token_picture.draw(list(map(utf8, self.pre_tokens)), rows)

    def _row(self, step: int) -> token_picture.Row:
        """A printed stage: its title, its tokens, their ids."""
        tokens = [token for piece in self.stage(step) for token in piece]
        title = f"after {step} merge{'s' * (step != 1)}"
        return title, tokens, [self.known[token] for token in tokens]


def checked_tokenizer(tokenizer: Any) -> BPETokenizer:
    """``tokenizer`` if the page can do what it does, else an error."""
    if not isinstance(tokenizer, BPETokenizer):
        raise ValueError(
            f"got a {type(tokenizer).__name__}; expected a BPETokenizer, "
            "whose merges can be shown one by one."
        )
    if tokenizer.pattern != GPT2_PATTERN:
        raise ValueError(
            f"the tokenizer cuts by {tokenizer.pattern!r}; the page knows "
            "GPT-2's pattern only. Train one with pattern=GPT2_PATTERN."
        )
    return tokenizer


def merge_piece(
    piece: bytes, merges: Sequence[Pair], ranks: Mapping[Pair, int], end: int
) -> tuple[list[bytes], list[int]]:
    """A pre-token after all merges of rank < ``end``, and their ranks.

    >>> merges = [(b"t", b"o"), (b"to", b"p")]
    >>> ranks = {pair: rank for rank, pair in enumerate(merges)}
    >>> merge_piece(b"tops", merges, ranks, end=2)
    ([b'top', b's'], [0, 1])
    """
    tokens, used = [bytes([value]) for value in piece], []
    while (rank := lowest_rank(tokens, ranks)) < end:
        tokens = merge(tokens, merges[rank])
        used.append(rank)
    return tokens, used


def lowest_rank(tokens: Sequence[bytes], ranks: Mapping[Pair, int]) -> int:
    """The lowest rank of a pair of neighbours; the number of ranks: none.

    >>> lowest_rank([b"t", b"o", b"p"], {(b"t", b"o"): 0})
    0
    """
    none = len(ranks)
    pairs = pairwise(tokens)
    return min((ranks.get(pair, none) for pair in pairs), default=none)
