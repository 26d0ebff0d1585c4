"""GPT-2's own tokenizer, run by tiktoken, from whatever is at hand."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from .base import END_OF_TEXT, Tokenizer, utf8
from .training import GPT2_PATTERN

if TYPE_CHECKING:
    import tiktoken

# tiktoken names a cached file by the SHA-1 of its address.
_HOST = "https://openaipublic.blob.core.windows.net"
GPT2_FILES = tuple(
    f"{_HOST}/gpt-2/encodings/main/{name}"
    for name in ("vocab.bpe", "encoder.json")
)
GPT2_END_OF_TEXT = 50_256  # after 256 bytes and 50,000 merges
JS_RANKS = Path("node_modules", "js-tiktoken", "dist", "ranks", "gpt2.js")


class TiktokenTokenizer(Tokenizer):
    """A tiktoken encoding with the interface of this package.

    Args:
        encoding: what ``tiktoken.get_encoding`` or ``to_tiktoken`` gives.
    """

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self.encoding = encoding
        self.vocab_size = encoding.n_vocab
        self.special_tokens = {
            name: encoding.encode_single_token(name)
            for name in sorted(encoding.special_tokens_set)
        }

    def encode_ordinary(self, text: str) -> list[int]:
        """The ids of ``text``, in which nothing is special."""
        utf8(text)  # tiktoken would replace a lone surrogate in silence
        return self.encoding.encode_ordinary(text)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one id stands for; a special token's are its name.

        Raises:
            ValueError: there is no such id.
        """
        return self.encoding.decode_single_token_bytes(self._check_id(token))

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of the bytes of every token, in order."""
        digest = hashlib.sha256()
        for token in range(self.vocab_size):
            content = self.token_bytes(token)
            digest.update(len(content).to_bytes(4, "big") + content)
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"TiktokenTokenizer({self.encoding.name!r})"


def gpt2() -> TiktokenTokenizer:
    """GPT-2's tokenizer: 50,257 tokens (Radford et al. 2019, section 2.2).

    Taken from tiktoken's cache (``TIKTOKEN_CACHE_DIR``); else from the
    ranks of the npm package js-tiktoken, where ``node_modules`` stands in
    this folder, one above it, or above the package; else downloaded by
    tiktoken into its cache.

    Raises:
        RuntimeError: none of the three is to be had; the message says what
            to do.
    """
    import tiktoken

    ranks = None if _in_cache() else find_js_ranks()
    if ranks is not None:
        return TiktokenTokenizer(encoding_from_js(ranks))
    try:
        return TiktokenTokenizer(tiktoken.get_encoding("gpt2"))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        raise RuntimeError(
            "GPT-2's vocabulary is neither in tiktoken's cache nor in "
            f"node_modules, and the download failed: {error}. Run `npm ci` "
            "in the book's folder, or set TIKTOKEN_CACHE_DIR to a folder "
            "that has it, or connect to the network and try again."
        ) from error


def _in_cache() -> bool:
    default = Path(tempfile.gettempdir(), "data-gym-cache")
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get(
        "DATA_GYM_CACHE_DIR", default
    )
    return all(
        Path(folder, hashlib.sha1(address.encode()).hexdigest()).is_file()
        for address in GPT2_FILES
    )


def find_js_ranks() -> Path | None:
    """js-tiktoken's file of GPT-2 ranks, from here or above; None: none."""
    starts = (Path.cwd(), Path(__file__).resolve().parent)
    for start in starts:
        for folder in (start, *start.parents):
            if (folder / JS_RANKS).is_file():
                return folder / JS_RANKS
    return None


@lru_cache(maxsize=4)
def encoding_from_js(path: Path) -> tiktoken.Encoding:
    """tiktoken's engine over the ranks that js-tiktoken ships.

    Each line of ``bpe_ranks`` is ``! RANK TOKEN TOKEN …``: tokens in
    base64, the first of them with that rank.

    Raises:
        ValueError: the file is not what js-tiktoken ships.
    """
    import tiktoken

    text = path.read_text(encoding="utf-8")
    try:
        content = json.loads(text[text.index("{") : text.rindex("}") + 1])
        ranks: dict[bytes, int] = {}
        for line in content["bpe_ranks"].splitlines():
            _, first, *tokens = line.split(" ")
            for rank, token in enumerate(tokens, start=int(first)):
                ranks[base64.b64decode(token)] = rank
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is not js-tiktoken's file of ranks ({error}). Install "
            "it again with `npm ci`."
        ) from error
    return tiktoken.Encoding(
        "gpt2",
        pat_str=GPT2_PATTERN,
        mergeable_ranks=ranks,
        special_tokens={END_OF_TEXT: GPT2_END_OF_TEXT},
        explicit_n_vocab=GPT2_END_OF_TEXT + 1,
    )
