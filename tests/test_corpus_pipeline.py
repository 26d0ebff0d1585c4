"""From files to shards: what is counted, killed, repeated and refused."""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbook import plots
from llmbook.corpus import TokenShard
from llmbook.corpus import pipeline as pipeline_module
from llmbook.corpus.clean import content_hash
from llmbook.corpus.collect import Source
from llmbook.corpus.contamination import benchmark_items
from llmbook.corpus.pipeline import (
    PipelineConfig,
    prepare,
    run_pipeline,
    side_of,
    texts_of,
    tokens_of,
)

for package in ("phonenumbers", "py3langid", "rensa", "resiliparse"):
    pytest.importorskip(package, reason='needs pip install "llmbook[data]"')

GERMAN = """Der Drachen flog weit über das Dorf, und der alte Müller sah ihn
zuerst. Niemand wusste, wem er gehörte oder woher der Wind ihn getragen hatte.
Auf dem Markt spielte jemand ein Lied, das "The End of the Road" hieß, und die
Kinder liefen hinterher, bis es dunkel wurde und ihre Mütter sie zum Abendessen
nach Hause riefen. Am nächsten Morgen lag er am Ufer, zerrissen und nass."""


class Bytes:
    """The smallest tokenizer: bytes, and one id for the end of a text."""

    end_of_text, vocab_size = 256, 257

    def __init__(self, name="bytes"):
        self.name = name

    def encode(self, text):
        return list(text.encode())

    def fingerprint(self):
        return self.name


@functools.cache
def words():
    """English words, as often as Python's help texts have them."""
    text = " ".join(topics[name] for name in sorted(topics))
    return [word.lower() for word in text.split() if word.isalpha()]


def prose(seed, sentences=12):
    """Words that keep all the rules, another text for every seed."""
    rng = random.Random(f"prose {seed}")
    lines = (" ".join(rng.choices(words(), k=11)) for _ in range(sentences))
    return "\n\n".join(f"{line.capitalize()} and them." for line in lines)


def write_jsonl(path, texts):
    lines = (json.dumps({"text": text}) for text in texts)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def contents(folder):
    """Every file below a folder and the hash of what it holds."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture()
def mixed(tmp_path):
    """A folder with one document for each thing that can happen."""
    folder = tmp_path / "in"
    folder.mkdir()
    texts = [prose(i) for i in range(6)]
    near = texts[1].replace("them.", "those.", 1)
    write_jsonl(
        folder / "a.jsonl",
        [
            *texts[:3],
            texts[0].upper(),  # the same but for case
            near,
            "Too short.",
            GERMAN,
            texts[3] + " Write to tam@lull.example, or call (212) 555-0187.",
        ],
    )
    with gzip.open(folder / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"text": texts[4]}) + "\n{broken\n")
    page = f"<article><p>{texts[5]}</p></article><footer>Imprint</footer>"
    (folder / "c.html").write_text(page, encoding="utf-8")
    (folder / "d.txt").write_bytes("Caf\xe9".encode("latin-1"))
    return folder


NO_RULES = PipelineConfig(rules=(), languages=())


# --- one run ---------------------------------------------------------------


def test_every_document_is_kept_or_counted_under_one_rule(mixed, tmp_path):
    asked = {"quiz/7": prose(2)[:400]}
    config = PipelineConfig(validation_fraction=0)
    report = run_pipeline(mixed, tmp_path / "out", config, benchmarks=asked)
    counts = {rule: t.documents for rule, t in report.removed.items()}
    assert counts == {
        "contamination": 1,
        "exact duplicate": 1,
        "near duplicate": 1,
        "words": 1,
        "language": 1,
        "unreadable": 1,
        "encoding": 1,
    }
    assert report.came.documents == 12
    kept = report.kept["train"].documents
    assert kept == 12 - sum(t.documents for t in report.removed.values()) == 5
    taken = sum(t.bytes for t in report.removed.values())
    assert report.came.bytes == taken + report.kept["train"].bytes
    assert report.masked == {"<mail>": 1, "<phone>": 1}
    assert report.items == {"quiz/7": 1}


def test_the_report_is_a_table_with_an_example_of_each(mixed, tmp_path):
    report = run_pipeline(mixed, tmp_path / "out")
    rows = {row[0]: row for row in report.table()}
    assert rows["exact duplicate"][-1].startswith(
        "in/a.jsonl:4 (the same as in/a.jsonl:1): "
    )
    assert "in/b.jsonl.gz:2 (not JSON" in rows["unreadable"][-1]
    assert "in/d.txt (not utf-8: byte 0xe9 at offset 3" in rows["encoding"][-1]
    shown = str(plots.table(report.table(), report.headers))
    assert "| exact duplicate | 1 | 8.3% |" in shown
    assert pipeline_module.Report.from_dict(report.to_dict()) == report


def test_the_texts_and_ids_on_disk_are_those_on_record(mixed, tmp_path):
    out = tmp_path / "out"
    config = PipelineConfig(part_bytes=1500, validation_fraction=0.6)
    report = run_pipeline(mixed, out, config, tokenizer=Bytes())
    manifest = json.loads((out / "manifest.json").read_text())
    assert len(manifest["text"]) > 2
    found = contents(out)
    for file in manifest["text"]:
        lines = (out / file["file"]).read_text().splitlines()
        assert len(lines) == file["documents"]
        assert found[file["file"]] == file["sha256"]
        assert (out / file["file"]).stat().st_size == file["bytes"]
    for shard in manifest["tokens"]:
        opened = TokenShard.open(out / shard["file"])
        assert opened.manifest["sha256"] == shard["sha256"]
        assert shard["tokenizer"] == "bytes"
    for side in ("train", "validation"):
        texts = list(texts_of(out, side))
        assert len(texts) == report.kept[side].documents
        expected = [i for t in texts for i in [*t.encode(), 256]]
        assert np.array_equal(tokens_of(out, side), expected)
    names = {Path(name).suffix for name in found}
    assert names == {".jsonl", ".json", ".tokens"}  # nothing left behind


def test_a_guessed_encoding_is_used_only_on_request_and_put_on_record(
    tmp_path,
):
    text = prose(1) + "\n\nDer Müller fährt über die Brücke zurück."
    source = tmp_path / "in.txt"
    source.write_bytes(text.encode("cp1252"))
    report = run_pipeline(source, tmp_path / "strict", PipelineConfig())
    assert report.removed["encoding"].documents == 1 and not report.guessed
    config = PipelineConfig(guess_encoding=True, validation_fraction=0)
    report = run_pipeline(source, tmp_path / "guessed", config)
    assert not report.removed and sum(report.guessed.values()) == 1
    (text,) = texts_of(tmp_path / "guessed")  # which may have been misread
    assert text.startswith(prose(1)[:60]) and "Der M" in text


def test_ids_that_were_never_written_are_named(mixed, tmp_path):
    run_pipeline(mixed, tmp_path / "out")
    with pytest.raises(ValueError, match="no ids for 'train'"):
        tokens_of(tmp_path / "out")


# --- the split -------------------------------------------------------------


def test_the_side_depends_on_the_content_alone(tmp_path):
    texts = [prose(i) for i in range(40)]
    sides = []
    for name, order in (("a", texts), ("b", texts[::-1])):
        source = write_jsonl(tmp_path / f"{name}.jsonl", order)
        config = PipelineConfig(validation_fraction=0.3)
        run_pipeline(source, tmp_path / name, config)
        sides.append(set(texts_of(tmp_path / name, "validation")))
    assert sides[0] == sides[1]
    assert 0 < len(sides[0]) < 40


def test_the_share_held_out_is_the_one_asked_for():
    hashes = [content_hash(f"text {i}") for i in range(20_000)]
    held = [side_of(h, 0.1) == "validation" for h in hashes]
    assert abs(np.mean(held) - 0.1) < 4 * (0.1 * 0.9 / 20_000) ** 0.5
    other = [side_of(h, 0.1, seed=1) == "validation" for h in hashes]
    both = np.mean(np.logical_and(held, other))
    assert abs(both - 0.01) < 4 * (0.01 / 20_000) ** 0.5  # independent
    more = [side_of(h, 0.2) == "validation" for h in hashes]
    assert all(m for h, m in zip(held, more, strict=True) if h)


def test_near_duplicates_do_not_fall_on_two_sides(tmp_path):
    texts = [prose(i, sentences=20) for i in range(30)]
    copies = [text.replace("them.", "those.", 1) for text in texts]
    source = write_jsonl(tmp_path / "in.jsonl", texts + copies)
    config = PipelineConfig(validation_fraction=0.5)
    report = run_pipeline(source, tmp_path / "out", config)
    assert report.removed["near duplicate"].documents == 30
    assert report.came.documents - 30 == sum(
        tally.documents for tally in report.kept.values()
    )


# --- killed and repeated ---------------------------------------------------

RUN = """
import sys
from test_corpus_pipeline import Bytes
from llmbook.corpus.pipeline import PipelineConfig, run_pipeline
config = PipelineConfig(part_bytes=4000, validation_fraction=0.3)
print("started", flush=True)
run_pipeline(sys.argv[1], sys.argv[2], config, tokenizer=Bytes())
"""


def start(source, out):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", RUN, str(source), str(out)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"started\n"
    return process


def many(path):
    rng = random.Random(5)
    texts = [prose(i) for i in range(150)]
    again = [rng.choice(texts).replace("them.", "us.", 1) for _ in range(50)]
    mixed = texts + again + ["short"] * 5
    rng.shuffle(mixed)
    return write_jsonl(path, mixed)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_writes_the_same_bytes(tmp_path):
    source = many(tmp_path / "in.jsonl")
    config = PipelineConfig(part_bytes=4000, validation_fraction=0.3)
    whole = tmp_path / "whole"
    began = time.monotonic()
    run_pipeline(source, whole, config, tokenizer=Bytes())
    took = time.monotonic() - began
    rng = random.Random(1)
    out = tmp_path / "killed"
    kills = 0
    for _ in range(8):
        process = start(source, out)
        time.sleep(rng.uniform(0, took / 3))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
    assert kills
    process = start(source, out)
    assert process.wait() == 0
    process.stdout.close()
    assert contents(out) == contents(whole)


@pytest.mark.parametrize("stop", [0, 1, 9, 17, 26, 33, 40, 41, 43])
def test_a_run_cut_short_at_any_document_loses_and_doubles_nothing(
    tmp_path, monkeypatch, stop
):
    source = write_jsonl(
        tmp_path / "in.jsonl", [prose(i % 25, sentences=5) for i in range(40)]
    )
    config = PipelineConfig(
        rules=(), languages=(), part_bytes=2000, validation_fraction=0.3
    )
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_pipeline(source, whole, config, tokenizer=Bytes())
    calls = 0

    class Killed(BaseException):
        pass

    def counted(function):
        def call(*arguments, **more):
            nonlocal calls
            calls += 1
            if calls > stop:
                raise Killed
            return function(*arguments, **more)

        return call

    with monkeypatch.context() as patch:
        for name in ("prepare", "write_shard", "record_texts"):
            function = getattr(pipeline_module, name)
            patch.setattr(pipeline_module, name, counted(function))
        with pytest.raises(Killed):
            run_pipeline(source, out, config, tokenizer=Bytes())
    run_pipeline(source, out, config, tokenizer=Bytes())
    assert contents(out) == contents(whole)


def test_what_was_finished_in_parts_is_not_done_again(tmp_path, monkeypatch):
    texts = [prose(i, sentences=5) for i in range(20)]
    source = write_jsonl(tmp_path / "in.jsonl", texts)
    config = PipelineConfig(rules=(), languages=(), part_bytes=1000)
    seen, fails = [], True

    def watched(source, *more):
        seen.append(source.id)
        if fails and len(seen) == 15:
            raise KeyboardInterrupt
        return prepare(source, *more)

    monkeypatch.setattr(pipeline_module, "prepare", watched)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(source, tmp_path / "out", config)
    first, fails = list(seen), False
    seen.clear()
    run_pipeline(source, tmp_path / "out", config)
    again = set(first) & set(seen)
    assert len(seen) < 20 and len(again) <= 3  # of the part it was in
    assert set(first) | set(seen) == {f"in.jsonl:{i}" for i in range(1, 21)}


def test_a_finished_run_repeated_touches_nothing(mixed, tmp_path):
    out = tmp_path / "out"
    report = run_pipeline(mixed, out, tokenizer=Bytes())
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert run_pipeline(mixed, out, tokenizer=Bytes()) == report
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_what_a_killed_run_left_behind_is_taken_away(mixed, tmp_path):
    out = tmp_path / "out"
    run_pipeline(mixed, out, tokenizer=Bytes())
    before = contents(out)
    (out / "ledger.sqlite3").write_bytes(b"")  # killed after the manifest
    (out / "tokens/.train-00000.tokens.12.part").write_bytes(b"half")
    run_pipeline(mixed, out, tokenizer=Bytes())
    assert contents(out) == before


def test_a_tokenizer_may_come_later_but_not_change(mixed, tmp_path):
    out = tmp_path / "out"
    run_pipeline(mixed, out)
    texts = contents(out / "text")
    run_pipeline(mixed, out, tokenizer=Bytes())
    assert contents(out / "text") == texts and tokens_of(out).size
    with pytest.raises(ValueError, match="another tokenizer"):
        run_pipeline(mixed, out, tokenizer=Bytes("other"))


def test_another_configuration_in_the_same_folder_is_refused(mixed, tmp_path):
    out = tmp_path / "out"
    run_pipeline(mixed, out)
    with pytest.raises(ValueError, match="other config"):
        run_pipeline(mixed, out, PipelineConfig(seed=1))
    with pytest.raises(ValueError, match="other config"):
        run_pipeline(mixed, out, PipelineConfig(rules=()))
    with pytest.raises(ValueError, match="other benchmarks"):
        run_pipeline(mixed, out, benchmarks={"a": "text"})
    (mixed / "e.txt").write_text(prose(99))
    with pytest.raises(ValueError, match="other sources"):
        run_pipeline(mixed, out)


def test_an_unfinished_run_refuses_another_configuration_too(
    mixed, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    config = PipelineConfig(part_bytes=500)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline_module, "record_texts", full)
        with pytest.raises(OSError, match="No space"):
            run_pipeline(mixed, tmp_path / "out", config)
    with pytest.raises(ValueError, match="other config"):
        run_pipeline(mixed, tmp_path / "out", PipelineConfig(seed=1))
    run_pipeline(mixed, tmp_path / "out", config)


def test_two_runs_in_one_folder_do_not_meet(mixed, tmp_path, monkeypatch):
    inner = []

    def again(source, *more):
        if not inner:
            inner.append(True)
            with pytest.raises(ValueError, match="another run is at work"):
                run_pipeline(mixed, tmp_path / "out")
        return prepare(source, *more)

    monkeypatch.setattr(pipeline_module, "prepare", again)
    run_pipeline(mixed, tmp_path / "out")
    assert inner


def test_a_damaged_manifest_is_named(mixed, tmp_path):
    run_pipeline(mixed, tmp_path / "out")
    (tmp_path / "out/manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is not JSON"):
        run_pipeline(mixed, tmp_path / "out")


# --- memory ----------------------------------------------------------------


@pytest.mark.slow
def test_eight_times_the_input_takes_no_more_memory(tmp_path):
    from benchmarks.pipeline import measured

    small, *_ = measured(2, tmp_path)
    large, _, count = measured(16, tmp_path)
    assert count > 4000
    assert large < 1.1 * small


# --- bad input -------------------------------------------------------------


def test_writing_into_a_source_is_refused(mixed):
    with pytest.raises(ValueError, match="inside the source"):
        run_pipeline(mixed, mixed / "out")


@pytest.mark.parametrize("text", ["", "\n\n", " \t\n"])
def test_an_empty_corpus_is_an_error(tmp_path, text):
    (tmp_path / "in.jsonl").write_text(text)
    with pytest.raises(ValueError, match="no documents"):
        run_pipeline(tmp_path / "in.jsonl", tmp_path / "out")


def test_a_corpus_of_one_text_a_hundred_times_keeps_it_once(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", [prose(1)] * 100)
    config = PipelineConfig(validation_fraction=0)
    report = run_pipeline(source, tmp_path / "out", config)
    assert list(texts_of(tmp_path / "out")) == [prose(1)]
    assert report.removed["exact duplicate"].documents == 99


def test_a_corpus_of_which_nothing_is_left_is_reported(tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", ["a", "b"])
    report = run_pipeline(source, tmp_path / "out", tokenizer=Bytes())
    assert report.removed["words"].documents == 2 and not report.kept
    assert list(texts_of(tmp_path / "out")) == []


@pytest.mark.parametrize(
    "text",
    [
        "x" * 1_000_000,
        "x " * 500_000,
        "word " * 200_000,
        "." * 1_000_000,
        "1" * 1_000_000,
        "1-" * 100_000,
        "a@" * 300_000,
        "a." * 300_000 + "@",
        "1.1." * 50_000,
        "::" * 300_000,
        "(" * 300_000,
        "+1 (" * 100_000,
        "\x00" * 1_000_000,
        "e\u0301" * 300_000,
        "\u0301" * 100_000,
        "\n" * 1_000_000,
        "\n \n" * 200_000,
        "日本語" * 200_000,
    ],
    ids=lambda text: ascii(text[:6]),
)
@pytest.mark.timeout(60)
def test_no_large_document_makes_it_hang(text):
    for config in (PipelineConfig(), NO_RULES):
        data = json.dumps({"text": text}).encode()
        found = prepare(Source("big:1", "json", data), config)
        assert found.rejected or found.text


@settings(deadline=None, max_examples=40)
@given(text=st.text(st.characters(codec=None), max_size=300))
def test_any_text_is_kept_or_rejected(text):
    data = json.dumps({"text": text}).encode()
    found = prepare(Source("any:1", "json", data), NO_RULES)
    assert found.rejected or found.text.encode()
    assert "\x00" not in found.text


@settings(deadline=None, max_examples=40)
@given(
    data=st.binary(max_size=300),
    kind=st.sampled_from(["text", "json", "html"]),
)
def test_any_bytes_are_kept_or_rejected(data, kind):
    found = prepare(Source("any:1", kind, data), NO_RULES)
    assert found.rejected or found.text.encode()


def test_problems_of_the_benchmarks_become_items_by_name():
    from llmbook.corpus.benchmarks import MultipleChoice, WordProblem

    choice = MultipleChoice("maths", "1 + 1?", ("1", "2", "3", "4"), "B")
    problem = WordProblem("2 bags of 6?", "#### 12")
    assert benchmark_items("x", [choice, problem]) == {
        "x/0": "1 + 1?",
        "x/1": "2 bags of 6?",
    }


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"validation_fraction": 1}, "validation_fraction is 1"),
        ({"validation_fraction": -0.1}, "validation_fraction is -0.1"),
        ({"validation_fraction": float("nan")}, "validation_fraction is nan"),
        ({"part_bytes": 0}, "part_bytes is 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        PipelineConfig(**settings)
