"""Documents that stand twice, to the letter or nearly.

What they do to a model: Lee et al. 2022. How near ones are found without
comparing all pairs: Broder 1997; Leskovec, Rajaraman and Ullman 2020.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from dataclasses import dataclass

import numpy as np

from .clean import normalized
from .collect import missing_package

_WORD = re.compile(r"\w+")
_SEED = 1  # of the permutations: any number, but always the same


@dataclass(frozen=True)
class Banding:
    """How near duplicates are looked for.

    A signature has ``bands * rows`` numbers. Two documents are compared
    when all rows of one band agree, and the later one is left out when at
    least ``threshold`` of all their numbers agree.

    Args:
        bands, rows: how the signature is cut.
        threshold: Jaccard similarity from which on a document is one too
            many (Rae et al. 2021 take 0.8).
        words: words in a shingle.
    """

    bands: int = 20
    rows: int = 6
    threshold: float = 0.8
    words: int = 5

    def __post_init__(self) -> None:
        for name in ("bands", "rows", "words"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; expected at least 1."
                )
        if not 0 < self.threshold <= 1:
            raise ValueError(
                f"threshold is {self.threshold}; expected a similarity "
                "above 0 and at most 1, such as 0.8."
            )


def shingles(text: str, n: int = 5) -> set[str]:
    """The word n-grams of a text, without case and punctuation.

    A text of fewer words is one shingle.

    >>> sorted(shingles("The kite flew. The kite fell.", 3))
    ['flew the kite', 'kite flew the', 'the kite fell', 'the kite flew']
    """
    words = _WORD.findall(normalized(text))
    starts = range(max(1, len(words) - n + 1))
    return {" ".join(words[start : start + n]) for start in starts}


def jaccard(first: set[str], second: set[str]) -> float:
    """What two sets share, as a part of what either holds.

    >>> jaccard({"a", "b", "c"}, {"b", "c", "d"})
    0.5
    """
    return len(first & second) / max(1, len(first | second))


def signature(text: str, banding: Banding) -> np.ndarray:
    """The MinHash signature of a text, uint32 of shape (bands * rows,).

    Each number is the smallest value of one hash function over the
    shingles; two texts agree in a number as often as their shingles agree
    (Broder 1997). The hashing is the library rensa's.
    """
    try:
        from rensa import RMinHash
    except ImportError as error:
        raise missing_package("rensa", "find near duplicates") from error
    hasher = RMinHash(num_perm=banding.bands * banding.rows, seed=_SEED)
    hasher.update(sorted(shingles(text, banding.words)))
    return np.array(hasher.digest(), dtype=np.uint32)


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """The share of numbers in which two signatures agree."""
    return float(np.mean(first == second))


def band_keys(signature: np.ndarray, banding: Banding) -> list[int]:
    """One 64-bit number for each band: equal where all its rows are.

    Returns ``banding.bands`` signed integers, the band's place mixed in,
    so that keys of different bands do not meet.
    """
    keys = []
    for place, rows in enumerate(signature.reshape(banding.bands, -1)):
        data = place.to_bytes(2, "little") + rows.astype("<u4").tobytes()
        digest = hashlib.blake2b(data, digest_size=8).digest()
        keys.append(int.from_bytes(digest, "little", signed=True))
    return keys


def chance_to_meet(similarity: float, banding: Banding) -> float:
    """How likely two texts of a similarity share a band.

    Source: Leskovec, Rajaraman and Ullman 2020, section 3.4.2.

    >>> round(chance_to_meet(0.8, Banding(bands=20, rows=6)), 3)
    0.998
    """
    return 1 - (1 - similarity**banding.rows) ** banding.bands


class DuplicateIndex:
    """What has been seen so far, on disk, in tables of fixed-size rows.

    The exact side keeps a hash a document, the near side ``bands`` keys
    and one signature. Nothing of it is held in memory, and what is added
    becomes lasting when the caller commits the connection.

    Args:
        connection: an open SQLite database.
        banding: how near duplicates are looked for; None for exact ones
            only.
    """

    # Of documents that share a band, so many are compared: enough to find
    # a duplicate, and a bound where boilerplate makes thousands meet.
    CROWD = 32

    def __init__(
        self, connection: sqlite3.Connection, banding: Banding | None
    ) -> None:
        self.connection = connection
        self.banding = banding
        for table in (
            "hashes (hash BLOB PRIMARY KEY, id TEXT) WITHOUT ROWID",
            "bands (key INTEGER, document INTEGER, "
            "PRIMARY KEY (key, document)) WITHOUT ROWID",
            "documents (number INTEGER PRIMARY KEY, id TEXT, signature BLOB)",
        ):
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table}")

    def exact(self, content: bytes) -> str | None:
        """The id of the document with this content hash, if there is one."""
        query = "SELECT id FROM hashes WHERE hash = ?"
        row = self.connection.execute(query, (content,)).fetchone()
        return row[0] if row else None

    def near(self, signature: np.ndarray) -> tuple[str, float] | None:
        """The first earlier document that is near enough, and how near."""
        for number in self._meets(signature):
            query = "SELECT id, signature FROM documents WHERE number = ?"
            row = self.connection.execute(query, (number,)).fetchone()
            alike = similarity(np.frombuffer(row[1], np.uint32), signature)
            if alike >= self.banding.threshold:
                return row[0], alike
        return None

    def _meets(self, signature: np.ndarray) -> list[int]:
        query = (
            "SELECT document FROM bands WHERE key = ? "
            "ORDER BY document LIMIT ?"
        )
        found: set[int] = set()
        for key in band_keys(signature, self.banding):
            rows = self.connection.execute(query, (key, self.CROWD))
            found.update(row[0] for row in rows)
        return sorted(found)

    def add_hash(self, content: bytes, id: str) -> None:
        """Remember a content hash."""
        self.connection.execute(
            "INSERT OR IGNORE INTO hashes VALUES (?, ?)", (content, id)
        )

    def add_signature(self, signature: np.ndarray, id: str) -> None:
        """Remember a signature under its bands."""
        data = signature.astype(np.uint32).tobytes()
        number = self.connection.execute(
            "INSERT INTO documents (id, signature) VALUES (?, ?)", (id, data)
        ).lastrowid
        keys = band_keys(signature, self.banding)
        self.connection.executemany(
            "INSERT OR IGNORE INTO bands VALUES (?, ?)",
            [(key, number) for key in keys],
        )
