"""The same pipeline past one machine, on Ray Data.

What is done to one document alone runs wherever there is a free processor:
that is nearly all of the work. Which documents may be duplicates is found
by a grouping over all machines. Only those that share a key with another
are then judged one after the other, by the code that judges all of them
on one machine, so that the same ones are left out.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .collect import Paths, Rejected, SourceFile, missing_package, read_file
from .contamination import Contamination
from .duplicates import DuplicateIndex, band_keys
from .pipeline import (
    PipelineConfig,
    describe_run,
    duplicate,
    files_apart_from,
    finished,
    needs_tokens,
    prepare,
    record_texts,
    record_tokens,
    tidy,
    write_part,
    write_shard,
)
from .report import Prepared, Report
from .shards import Tokenizer

_STORE = 256 << 20  # bytes that Ray may share on a machine of its own


def run_on_ray(
    sources: Paths,
    out: str | os.PathLike[str],
    config: PipelineConfig | None = None,
    *,
    benchmarks: Mapping[str, str] | None = None,
    tokenizer: Tokenizer | None = None,
    workers: int = 2,
) -> Report:
    """What ``run_pipeline`` does, on a cluster; it writes the same bytes.

    All machines have to see the sources and ``out`` under the same paths.
    Where Ray has been started by the caller, that cluster is used;
    otherwise one of ``workers`` processors is started here, and stopped at
    the end. One task reads one file, so the text should come in many.
    Ray repeats what a lost machine had begun; if the whole run is killed,
    the next one begins again.

    Raises:
        ImportError: Ray is not installed.
        FileNotFoundError, ValueError: as ``run_pipeline``.
    """
    out, config = Path(out).resolve(), config or PipelineConfig()
    files = files_apart_from(out, sources)
    described = describe_run(files, config, benchmarks or {})
    manifest = finished(out, described)
    encode = tokenizer is not None and (
        manifest is None or needs_tokens(out, manifest, tokenizer)
    )
    if manifest is None or encode:
        with engine(workers) as data:
            if manifest is None:
                contamination = Contamination(benchmarks or {})
                rows = prepared_rows(data, files, config, contamination)
                manifest = write_texts(rows, out, config, described, workers)
            tidy(out)
            if encode:
                shards = encoded_files(data, manifest["text"], out, tokenizer)
                record_tokens(out, manifest, tokenizer, shards)
    return Report.from_dict(manifest["report"])


@contextlib.contextmanager
def engine(workers: int) -> Iterator[Any]:
    """Ray Data, in order and in silence, on a cluster that is there or new."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        import ray
        import ray.data as data
    except ImportError as error:
        raise missing_package(
            "ray[data]", "use many machines", "ray"
        ) from error
    started = not ray.is_initialized()
    if started:
        check_path(sys.executable)
        ray.init(
            num_cpus=workers,
            include_dashboard=False,
            object_store_memory=_STORE,
            log_to_driver=False,
            logging_level="ERROR",
        )
    context = data.DataContext.get_current()
    before = context.execution_options.preserve_order
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    try:
        yield data
    finally:
        context.execution_options.preserve_order = before
        if started:
            ray.shutdown()


def check_path(executable: str) -> None:
    """Refuse what would leave Ray waiting for ever.

    Ray starts its workers by a line of shell in which the path of Python
    stands unquoted.

    Raises:
        ValueError: the path has a blank in it.

    >>> check_path("/home/ona/llmbook/.venv/bin/python")
    """
    if any(letter.isspace() for letter in executable):
        raise ValueError(
            f"Python stands at {executable!r}, and Ray cannot start workers "
            "from a path with a blank in it. Move the environment to another "
            "folder, or use run_pipeline, which needs no Ray."
        )


def prepared_rows(
    data: Any,
    files: list[SourceFile],
    config: PipelineConfig,
    contamination: Contamination,
) -> Any:
    """Every document prepared, as a Ray dataset in the order of the files."""
    items = [{"path": str(f.path.resolve()), "name": f.name} for f in files]
    read = functools.partial(
        prepare_file, config=config, contamination=contamination
    )
    return data.from_items(items).flat_map(read).materialize()


def prepare_file(
    item: dict[str, str],
    config: PipelineConfig,
    contamination: Contamination,
) -> Iterator[dict[str, Any]]:
    """The documents of one file as rows."""
    for source in read_file(SourceFile(Path(item["path"]), item["name"])):
        yield to_row(prepare(source, config, contamination), config)


def to_row(document: Prepared, config: PipelineConfig) -> dict[str, Any]:
    """A prepared document in types that Arrow knows."""
    rejected, signature = document.rejected, document.signature
    rest = {
        "rejected": [rejected.rule, rejected.detail] if rejected else None,
        "guessed": document.guessed,
        "masked": document.masked,
        "items": document.items,
    }
    return {
        "id": document.id,
        "size": document.size,
        "text": document.text,
        "rest": json.dumps(rest),
        "content": document.content,
        "signature": b"" if signature is None else signature.tobytes(),
        "keys": keys_of(document, config),
    }


def keys_of(document: Prepared, config: PipelineConfig) -> list[int]:
    """Numbers of which duplicates have at least one in common."""
    if document.rejected:
        return []
    keys = []
    if config.exact_duplicates:
        keys.append(
            int.from_bytes(document.content[:8], "little", signed=True)
        )
    if config.near_duplicates:
        keys += band_keys(document.signature, config.near_duplicates)
    return keys


def from_row(row: dict[str, Any]) -> Prepared:
    """The document that :func:`to_row` made a row of."""
    rest, signature = json.loads(row["rest"]), row["signature"]
    return Prepared(
        row["id"],
        row["size"],
        row["text"],
        Rejected(*rest["rejected"]) if rest["rejected"] else None,
        rest["guessed"],
        rest["masked"],
        tuple(rest["items"]),
        row["content"],
        np.frombuffer(signature, np.uint32) if signature else None,
    )


def crowded_keys(rows: Any, partitions: int) -> set[int]:
    """The keys that more than one document has: a grouping over all."""
    keys = rows.select_columns(["keys"]).flat_map(
        lambda row: [{"key": key} for key in row["keys"]]
    )
    counts = keys.groupby("key", num_partitions=partitions).count()
    counts = counts.rename_columns({"count()": "documents"})
    crowded = counts.filter(expr="documents > 1")
    return {row["key"] for row in crowded.iter_rows()}


def write_texts(
    rows: Any,
    out: Path,
    config: PipelineConfig,
    described: dict[str, Any],
    workers: int,
) -> dict[str, Any]:
    """Judge the documents that share a key; write all that are kept."""
    crowded = crowded_keys(rows, partitions=2 * workers)
    with contextlib.closing(sqlite3.connect("")) as connection:  # on disk
        index = DuplicateIndex(connection, config.near_duplicates)

        def judge(document: Prepared) -> Rejected | None:
            if crowded.isdisjoint(keys_of(document, config)):
                return None
            return duplicate(document, index, config)

        documents = map(from_row, rows.iter_rows())
        report, parts = Report(), []
        while part := write_part(
            out / "text", len(parts), documents, judge, config, report
        ):
            parts.append(part)
    return record_texts(out, described, report, parts)


def encoded_files(
    data: Any,
    files: Iterable[dict[str, Any]],
    out: Path,
    tokenizer: Tokenizer,
) -> list[dict[str, Any]]:
    """A shard for each file of texts, each written where it is encoded."""

    def encode(row: dict[str, str]) -> dict[str, str]:
        record = write_shard(json.loads(row["file"]), out, tokenizer)
        return {"shard": json.dumps(record)}

    items = [{"file": json.dumps(file)} for file in files]
    shards = data.from_items(items).map(encode)
    return [json.loads(row["shard"]) for row in shards.iter_rows()]
