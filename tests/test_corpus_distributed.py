"""The pipeline on Ray Data: the same bytes as on one machine."""

from __future__ import annotations

import gzip
import json
import sys

import pytest
from test_corpus_pipeline import contents, prose, write_jsonl

from llmbook.corpus import distributed
from llmbook.corpus.collect import Source
from llmbook.corpus.pipeline import PipelineConfig, prepare, run_pipeline
from llmbook.tokenizer import BPETokenizer


def corpus(folder):
    """Files with duplicates of each other, and with faults."""
    folder.mkdir()
    texts = [prose(i) for i in range(24)]
    near = [text.replace("them.", "those.", 1) for text in texts[:6]]
    write_jsonl(folder / "a.jsonl", [*texts[:12], "short", texts[3].upper()])
    write_jsonl(folder / "b.jsonl", [*near, *texts[6:18]])
    with gzip.open(folder / "c.jsonl.gz", "wt", encoding="utf-8") as file:
        for text in texts[12:]:
            text += " Write to tam@lull.example."
            file.write(json.dumps({"text": text}) + "\n")
        file.write("{broken\n")
    page = f"<article><p>{prose('page')}</p></article>"
    (folder / "d.html").write_text(page, encoding="utf-8")
    return folder


def patient(*arguments, **more):
    """Ray gives up after 30 s, which a busy machine may need to start it."""
    for _ in range(3):
        try:
            return distributed.run_on_ray(*arguments, **more)
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    pytest.skip("Ray could not be started within 30 s, three times")


def test_a_blank_in_pythons_path_is_an_error_and_not_a_wait(monkeypatch):
    pytest.importorskip("ray", reason='needs pip install "llmbook[ray]"')
    monkeypatch.setattr(sys, "executable", "/home/ona/my books/bin/python")
    with (
        pytest.raises(ValueError, match="a path with a blank"),
        distributed.engine(2),
    ):
        pass


@pytest.mark.slow
@pytest.mark.skipif(
    " " in sys.executable, reason="Ray starts no workers from such a path"
)
def test_ray_writes_the_same_bytes_as_one_machine(tmp_path):
    pytest.importorskip("ray", reason='needs pip install "llmbook[ray]"')
    source = corpus(tmp_path / "in")
    config = PipelineConfig(part_bytes=5000, validation_fraction=0.3)
    asked = {"quiz/1": prose(20)}
    here, there = tmp_path / "here", tmp_path / "there"
    more = {
        "benchmarks": asked,
        "tokenizer": BPETokenizer.train([prose(0)], 300),
    }
    report = run_pipeline(source, here, config, **more)
    assert patient(source, there, config, **more) == report
    assert contents(there) == contents(here)
    assert {"near duplicate", "exact duplicate"} < set(report.removed)
    distributed.run_on_ray(source, there, config, **more)  # does nothing
    import ray

    assert not ray.is_initialized()


def test_a_document_survives_becoming_a_row(tmp_path):
    config = PipelineConfig()
    for text in (prose(1), "short", prose(2) + " tam@lull.example"):
        data = json.dumps({"text": text}).encode()
        document = prepare(Source("a:1", "json", data), config)
        again = distributed.from_row(distributed.to_row(document, config))
        assert str(again) == str(document)


def test_documents_share_a_key_only_with_possible_duplicates():
    config = PipelineConfig()

    def keys(text):
        data = json.dumps({"text": text}).encode()
        document = prepare(Source("a:1", "json", data), config)
        return set(distributed.keys_of(document, config))

    first = prose(1, sentences=30)
    assert len(keys(first)) == 21
    assert keys(first) & keys(first.replace("them.", "those.", 1))
    assert not keys(first) & keys(prose(2, sentences=30))
    assert keys("too short") == set()


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    source = write_jsonl(tmp_path / "in.jsonl", [prose(1)])
    with pytest.raises(ImportError, match=r"llmbook\[ray\]"):
        distributed.run_on_ray(source, tmp_path / "out")
