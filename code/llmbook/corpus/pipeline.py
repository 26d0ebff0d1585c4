"""From files to training data: one pass, little memory, safe to kill."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..downloads import sha256_of
from . import duplicates
from .clean import clean, content_hash
from .collect import (
    Paths,
    Rejected,
    Source,
    SourceFile,
    as_paths,
    collect_files,
    extract,
    guess_encoding,
    list_files,
)
from .contamination import Contamination
from .duplicates import Banding, DuplicateIndex
from .filters import GOPHER, Rule, first_broken, wrong_language
from .ledger import Ledger, PartFiles, read_json, write_json
from .privacy import mask
from .report import Prepared, Report
from .shards import Tokenizer, TokenShard

FORMAT, VERSION = "llmbook-text", 1
MANIFEST, LEDGER = "manifest.json", "ledger.sqlite3"
LIBRARIES = (
    "charset-normalizer",
    "phonenumbers",
    "py3langid",
    "rensa",
    "resiliparse",
)


@dataclass(frozen=True)
class PipelineConfig:
    """What is done to the documents.

    Args:
        text_field: where a line of JSONL keeps its text.
        guess_encoding: let a library guess where bytes are not UTF-8.
        rules: the filter, in order; ``()`` keeps everything.
        languages: codes to keep; ``()`` keeps all.
        language_probability: how sure the language has to be.
        mask_personal_data: put placeholders for mail, telephones, addresses.
        phone_region: whose numbers are read without a country code.
        exact_duplicates: leave out what stands there already.
        near_duplicates: how near ones are found; None keeps them.
        drop_contaminated: leave out documents with a benchmark's items;
            otherwise they are reported only.
        validation_fraction: share of the documents held out.
        seed: fixes which these are.
        part_bytes: input after which what is done is made lasting.
    """

    text_field: str = "text"
    guess_encoding: bool = False
    rules: tuple[Rule, ...] = GOPHER
    languages: tuple[str, ...] = ("en",)
    language_probability: float = 0.5
    mask_personal_data: bool = True
    phone_region: str = "US"
    exact_duplicates: bool = True
    near_duplicates: Banding | None = field(default_factory=Banding)
    drop_contaminated: bool = True
    validation_fraction: float = 0.05
    seed: int = 0
    part_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction}; "
                "expected a share from 0 to below 1, such as 0.05."
            )
        if self.part_bytes < 1:
            raise ValueError(
                f"part_bytes is {self.part_bytes}; expected 1 or more."
            )

    def describe(self) -> dict[str, Any]:
        """All of it as JSON, the rules by name and bounds."""
        plain = asdict(self) | {"languages": list(self.languages)}
        plain["rules"] = [
            [rule.name, rule.source, str(rule.least), str(rule.most)]
            for rule in self.rules
        ]
        return plain


# --- one document ----------------------------------------------------------


def prepare(
    source: Source,
    config: PipelineConfig,
    contamination: Contamination | None = None,
) -> Prepared:
    """Extract, clean, filter, compare with benchmarks, mask, fingerprint."""
    size = len(source.data)
    text, guessed = understood(source, config)
    if isinstance(text, Rejected):
        return Prepared(source.id, size, rejected=text)
    items = tuple(contamination.hits(text)) if contamination else ()
    if broken := unwanted(text, config, items):
        return Prepared(source.id, size, text, broken, items=items)
    masked: Counter[str] = Counter()
    if config.mask_personal_data:
        text, masked = mask(text, config.phone_region)
    near = config.near_duplicates
    return Prepared(
        source.id,
        size,
        text,
        guessed=guessed,
        masked=dict(masked),
        items=items,
        content=content_hash(text),
        signature=duplicates.signature(text, near) if near else None,
    )


def understood(
    source: Source, config: PipelineConfig
) -> tuple[str | Rejected, str]:
    """The clean text of a source, and the encoding that had to be guessed.

    Nothing is guessed unless the configuration asks for it.
    """
    text, guessed = extract(source, config.text_field), ""
    broken = isinstance(text, Rejected) and text.rule == "encoding"
    if broken and config.guess_encoding:
        guessed = guess_encoding(source.data) or ""
        if guessed:
            text = extract(source, config.text_field, guessed)
    if not isinstance(text, Rejected):
        text = clean(text)
    return text, guessed


def unwanted(
    text: str, config: PipelineConfig, items: tuple[str, ...] = ()
) -> Rejected | None:
    """Why a clean text is left out; None where it is kept."""
    if not text:
        return Rejected("empty", "no text is left")
    if broken := first_broken(text, config.rules):
        return broken
    if config.languages:
        least = config.language_probability
        if wrong := wrong_language(text, config.languages, least):
            return wrong
    if items and config.drop_contaminated:
        return Rejected("contamination", f"holds {', '.join(items[:3])}")
    return None


def side_of(content: bytes, fraction: float, seed: int = 0) -> str:
    """Train or validation, by the content alone.

    Equal content always falls on one side, in whatever order, file or run
    it comes.

    >>> side_of(b"any", 0), side_of(b"any", 1)
    ('train', 'validation')
    """
    salted = hashlib.sha256(f"{seed}:".encode() + content).digest()
    drawn = int.from_bytes(salted[:8], "big") / 2**64
    return "validation" if drawn < fraction else "train"


# --- all documents ---------------------------------------------------------


def duplicate(
    document: Prepared, index: DuplicateIndex, config: PipelineConfig
) -> Rejected | None:
    """Why a document is one too many; a new one is remembered."""
    if config.exact_duplicates:
        if same := index.exact(document.content):
            return Rejected("exact duplicate", f"the same as {same}")
        index.add_hash(document.content, document.id)
    if config.near_duplicates:
        if near := index.near(document.signature):
            detail = f"{near[1]:.2f} similar to {near[0]}"
            return Rejected("near duplicate", detail)
        index.add_signature(document.signature, document.id)
    return None


def write_part(
    folder: Path,
    number: int,
    documents: Iterator[Prepared],
    judge: Callable[[Prepared], Rejected | None],
    config: PipelineConfig,
    report: Report,
) -> dict[str, Any] | None:
    """Write the next part of the documents; None where there are no more.

    A part is what ``config.part_bytes`` of input become, so where it ends
    does not depend on what is left out.
    """
    read = size = 0
    with PartFiles(folder, number) as files:
        for document in documents:
            rejected = document.rejected or judge(document)
            report.count(document, rejected)
            if rejected is None:
                fraction, seed = config.validation_fraction, config.seed
                side = side_of(document.content, fraction, seed)
                files.write(side, document)
                report.keep(document, side)
            read += 1
            size += document.size
            if size >= config.part_bytes:
                break
    return {"documents": read, "files": files.written} if read else None


# --- the run ---------------------------------------------------------------


def run_pipeline(
    sources: Paths,
    out: str | os.PathLike[str],
    config: PipelineConfig | None = None,
    *,
    benchmarks: Mapping[str, str] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Report:
    """Turn files into cleaned text, split, and with a tokenizer into ids.

    Texts go to ``out/text/train-00000.jsonl`` and so on, ids to
    ``out/tokens``; ``out/manifest.json`` says what is there, from what and
    how it was made. Documents are read one at a time, in the order of the
    files. Duplicates are left out before the split, so no document on one
    side is a near duplicate that was found of one on the other.

    A run that was killed goes on where it was when it is called again; one
    that is finished does nothing, unless a tokenizer is new.

    Args:
        benchmarks: texts of benchmark items, by name, to be kept out.

    Raises:
        FileNotFoundError: a source is missing.
        ValueError: no documents, or ``out`` holds a run with other sources,
            another configuration or another tokenizer.
    """
    out, config = Path(out), config or PipelineConfig()
    files = files_apart_from(out, sources)
    described = describe_run(files, config, benchmarks or {})
    manifest = finished(out, described)
    if manifest is None:
        contamination = Contamination(benchmarks or {})
        manifest = write_texts(files, out, config, contamination, described)
    tidy(out)
    if tokenizer is not None and needs_tokens(out, manifest, tokenizer):
        shards = [write_shard(f, out, tokenizer) for f in manifest["text"]]
        record_tokens(out, manifest, tokenizer, shards)
    return Report.from_dict(manifest["report"])


def files_apart_from(out: Path, sources: Paths) -> list[SourceFile]:
    """The source files; ``out`` must not lie among them."""
    sources = as_paths(sources)
    for source in sources:
        if out.resolve().is_relative_to(source.resolve()):
            raise ValueError(
                f"{out} lies inside the source {source}, and what is written "
                "there would be read next time. Choose a folder beside it."
            )
    return list_files(sources)


def describe_run(
    files: Sequence[SourceFile],
    config: PipelineConfig,
    benchmarks: Mapping[str, str],
) -> dict[str, Any]:
    """All that decides what a run writes: files, settings, libraries."""
    items = json.dumps(list(benchmarks.items())).encode()
    return {
        "sources": [
            {
                "name": file.name,
                "bytes": file.path.stat().st_size,
                "sha256": sha256_of(file.path),
            }
            for file in files
        ],
        "config": config.describe(),
        "benchmarks": hashlib.sha256(items).hexdigest(),
        "libraries": versions(),
    }


def versions() -> dict[str, str]:
    """The libraries that decide about documents, as they are installed."""
    found = {"unicode": unicodedata.unidata_version}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def finished(out: Path, described: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of a finished run; None where there is none.

    The libraries may be newer by now: they have done their work.
    """
    path = out / MANIFEST
    if not path.exists():
        return None
    manifest = read_json(path)
    check_same(out, manifest, described, ("sources", "config", "benchmarks"))
    return manifest


def check_same(
    out: Path, before: Any, now: dict[str, Any], parts: Iterable[str]
) -> None:
    """Refuse to go on with what was begun differently."""
    for part in parts:
        if not isinstance(before, dict) or before.get(part) != now[part]:
            raise ValueError(
                f"{out} holds a run with other {part} than asked for now. "
                "Choose another folder, or delete this one to begin again."
            )


def write_texts(
    files: Sequence[SourceFile],
    out: Path,
    config: PipelineConfig,
    contamination: Contamination,
    described: dict[str, Any],
) -> dict[str, Any]:
    """Write the texts part by part, as far as it was not done before."""
    with Ledger(out / LEDGER, config.near_duplicates) as ledger:
        check_same(out, ledger.read("run", described), described, described)
        parts = ledger.read("parts", [])
        report = Report.from_dict(ledger.read("report", Report().to_dict()))
        done = sum(part["documents"] for part in parts)
        sources = islice(collect_files(files), done, None)
        documents = (prepare(s, config, contamination) for s in sources)

        def judge(document: Prepared) -> Rejected | None:
            return duplicate(document, ledger.index, config)

        while part := write_part(
            out / "text", len(parts), documents, judge, config, report
        ):
            parts.append(part)
            ledger.commit(run=described, parts=parts, report=report.to_dict())
        return record_texts(out, described, report, parts)


def tidy(out: Path) -> None:
    """Take away what a finished run needs no more, and a killed one left."""
    for path in (out / LEDGER, *out.glob("*/.*.part")):
        path.unlink(missing_ok=True)


def record_texts(
    out: Path,
    described: dict[str, Any],
    report: Report,
    parts: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Write the manifest: from now on the run counts as finished."""
    if not parts:
        raise ValueError(
            f"the {len(described['sources'])} source files hold no "
            "documents; expected at least one that is not blank."
        )
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        **described,
        "report": report.to_dict(),
        "text": [file for part in parts for file in part["files"]],
    }
    write_json(out / MANIFEST, manifest)
    return manifest


# --- ids -------------------------------------------------------------------


def needs_tokens(
    out: Path, manifest: dict[str, Any], tokenizer: Tokenizer
) -> bool:
    """Whether the texts still have to be encoded."""
    mine, there = tokenizer.fingerprint(), manifest.get("tokenizer")
    if there not in (None, mine):
        raise ValueError(
            f"{out} holds the ids of another tokenizer ({there}, and this "
            f"one is {mine}). Choose another folder."
        )
    return there is None


def write_shard(
    file: dict[str, Any], out: Path, tokenizer: Tokenizer
) -> dict[str, Any]:
    """Encode one file of texts into a shard, unless it is there already."""
    path = out / "tokens" / Path(file["file"]).stem
    try:
        shard = TokenShard.open(path)
    except (FileNotFoundError, ValueError):
        shard = None
    if shard is None or shard.manifest["tokenizer"] != tokenizer.fingerprint():
        texts = read_texts(out / file["file"])
        shard = TokenShard.write(path, texts, tokenizer)
    name = f"tokens/{path.name}.tokens"
    return {"file": name, "side": file["side"], **shard.manifest}


def record_tokens(
    out: Path,
    manifest: dict[str, Any],
    tokenizer: Tokenizer,
    shards: list[dict[str, Any]],
) -> None:
    """Put the shards on record in the manifest."""
    manifest |= {"tokenizer": tokenizer.fingerprint(), "tokens": shards}
    write_json(out / MANIFEST, manifest)


# --- what a run has written ------------------------------------------------


def read_texts(path: Path) -> Iterator[str]:
    """The texts of one file that the pipeline wrote."""
    with open(path, encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def texts_of(
    out: str | os.PathLike[str], side: str = "train"
) -> Iterator[str]:
    """All texts of one side, in order, from a finished run's folder."""
    out = Path(out)
    manifest = read_json(out / MANIFEST)
    for file in manifest["text"]:
        if file["side"] == side:
            yield from read_texts(out / file["file"])


def tokens_of(out: str | os.PathLike[str], side: str = "train") -> np.ndarray:
    """All ids of one side in one row, shape (N,)."""
    out = Path(out)
    manifest = read_json(out / MANIFEST)
    shards = [
        TokenShard.open(out / shard["file"]).tokens
        for shard in manifest.get("tokens", [])
        if shard["side"] == side
    ]
    if not shards:
        raise ValueError(
            f"{out} has no ids for {side!r}; run the pipeline with a "
            "tokenizer, or choose another side."
        )
    return shards[0] if len(shards) == 1 else np.concatenate(shards)
