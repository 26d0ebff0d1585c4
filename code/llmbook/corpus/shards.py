"""Token ids on disk, read without loading them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..downloads import sha256_of

FORMAT = "llmbook-tokens"
VERSION = 1


class Tokenizer(Protocol):
    """What a shard needs of a tokenizer."""

    vocab_size: int
    end_of_text: int

    def encode(self, text: str) -> list[int]: ...

    def fingerprint(self) -> str: ...


class TokenShard:
    """A memory-mapped file of token ids, and a manifest beside it.

    The file ``name.tokens`` holds the ids of all documents, each followed
    by the tokenizer's end-of-text id, as little-endian ``uint16`` (or
    ``uint32`` for vocabularies above 65,536). The manifest ``name.json``
    says how many there are, which tokenizer made them, and their SHA-256.

    Attributes:
        tokens: the ids, shape (N,), a read-only ``np.memmap``.
        manifest: what the JSON file says.
    """

    def __init__(self, tokens: np.ndarray, manifest: dict[str, Any]) -> None:
        self.tokens = tokens
        self.manifest = manifest

    @classmethod
    def write(
        cls,
        path: str | os.PathLike[str],
        documents: Iterable[str],
        tokenizer: Tokenizer,
    ) -> TokenShard:
        """Encode documents one after the other into a shard at ``path``.

        Everything is written beside its place and renamed at the end, the
        manifest last: a run that is cut short leaves no shard behind.

        Raises:
            ValueError: there are no documents.
            OSError: the disk is full or cannot be written to.
        """
        path = Path(path)
        beside = _beside(_file(path, ".tokens"))
        notes = _beside(_file(path, ".json"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            manifest = _write_tokens(beside, documents, tokenizer)
            with open(notes, "w", encoding="utf-8") as file:
                json.dump(manifest, file, indent=1, sort_keys=True)
                file.write("\n")
            _file(path, ".json").unlink(missing_ok=True)
            os.replace(beside, _file(path, ".tokens"))
            os.replace(notes, _file(path, ".json"))
        except OSError as error:
            raise OSError(
                error.errno,
                f"the token shard {path} could not be written "
                f"({error.strerror or error}). Make room or choose another "
                "folder; nothing half-written was left behind.",
            ) from error
        finally:
            beside.unlink(missing_ok=True)
            notes.unlink(missing_ok=True)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> TokenShard:
        """Map a shard and check it against its manifest.

        Raises:
            FileNotFoundError: file or manifest is missing.
            ValueError: the file is truncated, changed, or something else.
        """
        path = Path(path)
        manifest = _read_manifest(_file(path, ".json"))
        file = _file(path, ".tokens")
        if not file.exists():
            raise FileNotFoundError(
                f"{file} is missing, though its manifest is there. Write the "
                "shard again."
            )
        dtype = np.dtype(manifest["dtype"])
        expected = manifest["tokens"] * dtype.itemsize
        if file.stat().st_size != expected:
            raise ValueError(
                f"{file} has {file.stat().st_size} bytes; its manifest says "
                f"{expected}. It was cut short or changed: write it again."
            )
        if sha256_of(file) != manifest["sha256"]:
            raise ValueError(
                f"{file} does not have the SHA-256 of its manifest. It was "
                "changed since it was written: write it again."
            )
        return cls(np.memmap(file, dtype=dtype, mode="r"), manifest)


def _file(path: Path, suffix: str) -> Path:
    """``v1.5`` to ``v1.5.tokens``; a name that ends so stays as it is."""
    name = path.name.removesuffix(".tokens").removesuffix(".json")
    return path.with_name(name + suffix)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _write_tokens(
    file: Path, documents: Iterable[str], tokenizer: Tokenizer
) -> dict[str, Any]:
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")
    digest = hashlib.sha256()
    count = tokens = 0
    with open(file, "wb") as out:
        for ids in encoded(documents, tokenizer):
            block = np.asarray(ids, dtype=dtype).tobytes()
            out.write(block)
            digest.update(block)
            tokens += len(ids)
            count += 1
        out.flush()
        os.fsync(out.fileno())
    if count == 0:
        raise ValueError(
            f"no documents were given for {file.name}; expected at least one."
        )
    return {
        "format": FORMAT,
        "version": VERSION,
        "dtype": dtype.str,
        "tokens": tokens,
        "documents": count,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.fingerprint(),
        "sha256": digest.hexdigest(),
    }


def encoded(
    documents: Iterable[str], tokenizer: Tokenizer
) -> Iterator[list[int]]:
    """The ids of each document, its end-of-text id included."""
    for text in documents:
        yield [*tokenizer.encode(text), tokenizer.end_of_text]


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(
            f"there is no token shard at {path.with_suffix('')}: {path.name} "
            "is missing. Write one with TokenShard.write."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not a shard's manifest: {error}."
        ) from error
    needed = {"format", "version", "dtype", "tokens", "sha256", "tokenizer"}
    known = isinstance(manifest, dict) and manifest.get("format") == FORMAT
    if not known or needed - set(manifest):
        raise ValueError(
            f"{path} is not the manifest of a token shard; expected format "
            f"{FORMAT!r} with {', '.join(sorted(needed))}."
        )
    if manifest["version"] != VERSION or manifest["dtype"] not in (
        "<u2",
        "<u4",
    ):
        raise ValueError(
            f"{path} has version {manifest['version']} and dtype "
            f"{manifest['dtype']}; this package reads version {VERSION} with "
            "'<u2' or '<u4'. Write the shard again."
        )
    return manifest
