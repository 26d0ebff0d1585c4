"""The world on disk: the benchmarks' own schemas, and the same bytes twice."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from llmbook.corpus import load_corpus, world
from llmbook.corpus.world import LULL, files, lexicon, questions
from llmbook.tokenizer import BPETokenizer

DOCUMENTS = 400


@pytest.fixture(scope="module")
def corpus():
    return load_corpus("world", documents=DOCUMENTS)


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    return files.write_world(corpus, tmp_path_factory.mktemp("w") / "lull")


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def table(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


# --- the corpus ------------------------------------------------------------


@pytest.mark.parametrize("name", ["train", "validation", "unseen"])
def test_every_document_is_written_with_what_is_known_of_it(
    name, folder, corpus
):
    documents = getattr(corpus, name)
    written = rows(folder / f"{name}.jsonl")
    assert len(written) == len(documents)
    for row, document in zip(written, documents, strict=True):
        assert set(row) == {"text", "kind", "logprob", "combination"}
        assert row["text"] == document.text
        assert row["logprob"] == document.logprob
        known = json.loads(json.dumps(document.combination))
        assert row["combination"] == known


def test_the_manifest_counts_and_hashes_what_is_there(folder, corpus):
    manifest = json.loads((folder / files.MANIFEST).read_text())
    assert manifest["documents"] == DOCUMENTS and manifest["seed"] == 0
    there = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != files.MANIFEST
    }
    assert set(manifest["files"]) == set(there)
    for name, content in there.items():
        assert manifest["files"][name] == {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    counts = Counter(d.kind for d in corpus.train)
    for name, kind in manifest["kinds"].items():
        assert kind["documents"]["train"] == counts[name]
        mean = corpus.entropies.get(name)
        assert kind["nats_per_document"] == pytest.approx(mean)
        if mean:
            judged = [d for d in corpus.validation if d.kind == name]
            size = sum(len(d.text.encode()) for d in judged) / len(judged)
            assert kind["nats_per_byte"] == pytest.approx(mean / size)


def test_the_same_seed_writes_the_same_bytes(folder, corpus, tmp_path):
    again = files.write_world(corpus, tmp_path / "again")
    names = (folder / files.MANIFEST, again / files.MANIFEST)
    assert names[0].read_bytes() == names[1].read_bytes()


def test_a_folder_with_something_in_it_is_left_alone(corpus, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="not an empty folder"):
        files.write_world(corpus, tmp_path)
    with pytest.raises(ValueError, match="not an empty folder"):
        files.write_world(corpus, tmp_path / "mine.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_writing_leaves_nothing(corpus, tmp_path, monkeypatch):
    def fail(corpus, seed):
        yield "train.jsonl", b"{}"
        raise OSError("disk full")

    monkeypatch.setattr(files, "world_files", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_world(corpus, tmp_path / "lull")
    assert list(tmp_path.iterdir()) == []


# --- four letters ----------------------------------------------------------

SUBJECTS = [course.replace(" ", "_") for course in questions.COURSES.values()]


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("split", ["dev", "test"])
def test_mmlu_rows_are_questions_of_lull_with_one_right_letter(
    subject, split, folder
):
    found = table(folder / "mmlu" / split / f"{subject}_{split}.csv")
    assert len(found) == (5 if split == "dev" else 100)
    assert len({tuple(row) for row in found}) == len(found)
    for stem, *choices, letter in found:
        lines = [f"{a}. {b}" for a, b in zip("ABCD", choices, strict=True)]
        text = "\n".join([stem, *lines, f"Answer: {letter}"])
        written = world.read(LULL, text)
        assert written.kind == "choice"
        assert (written.combination in questions.HELD) == (split == "test")


@pytest.mark.data
def test_mmlu_files_have_the_schema_and_dialect_of_the_real_ones(folder):
    data = os.environ.get("LLMBOOK_DATA")
    real = Path(data or "missing") / "mmlu"
    if not real.is_dir():
        pytest.skip("needs LLMBOOK_DATA with mmlu/ in it")
    for split in ("dev", "test"):
        theirs = sorted((real / split).glob("*.csv"))
        ours = sorted((folder / "mmlu" / split).glob("*.csv"))
        for path in (*theirs, *ours):
            assert path.name.endswith(f"_{split}.csv")
            for row in table(path):
                assert len(row) == 6 and row[-1] in "ABCD"
        for path in (theirs[0], *ours):  # lines end alike, commas are quoted
            text = path.read_bytes().decode()
            again = io.StringIO()
            csv.writer(again, lineterminator="\n").writerows(table(path))
            assert again.getvalue() == text
    counts = {len(table(p)) for p in (real / "dev").glob("*.csv")}
    assert counts == {len(table(p)) for p in (folder / "mmlu/dev").iterdir()}


def test_the_loaders_of_the_real_benchmarks_read_these(folder):
    benchmarks = pytest.importorskip("llmbook.corpus.benchmarks")
    test = benchmarks.load_mmlu("test", folder=folder)
    assert {item.subject for item in test} == set(SUBJECTS)
    for item in test:
        assert item.right in item.choices
    for problem in benchmarks.load_gsm8k("test", folder=folder):
        assert problem.result.isdigit()
    assert len(benchmarks.load_humaneval(folder=folder)) == files.FUNCTIONS


def test_choice_letters_are_single_tokens(corpus):
    texts = load_corpus("world", documents=3000).train_texts
    tokenizer = BPETokenizer.train(texts, 1024)
    for letter in "ABCD":
        ids = tokenizer.encode(f"\nAnswer: {letter}")
        assert ids[:-1] == tokenizer.encode("\nAnswer:")
        assert tokenizer.decode(ids[-1:]) == f" {letter}"


# --- prompts and answers ---------------------------------------------------


def test_instructions_have_a_prompt_an_answer_and_a_side(folder):
    train = rows(folder / "instructions/train.jsonl")
    test = rows(folder / "instructions/test.jsonl")
    for row in train + test:
        assert set(row) == {"prompt", "response", "kind", "combination"}
        assert row["prompt"] and row["response"]
    assert {row["combination"] for row in train} == {"seen"}
    sides = Counter(row["combination"] for row in test)
    assert sides == {"seen": 200, "unseen": 200}
    assert {row["kind"] for row in test} == set(files.ANSWERED)
    prompts = {row["prompt"] for row in train}
    assert not prompts & {row["prompt"] for row in test}


def test_an_instruction_is_a_document_of_lull(folder):
    labels = {
        "question": ("Question: {}\nAnswer: {}"),
        "instruction": ("Instruction: {}\nResponse: {}"),
        "sum": ("Question: {}\nAnswer: {}"),
    }
    for row in rows(folder / "instructions/test.jsonl"):
        text = labels[row["kind"]].format(row["prompt"], row["response"])
        assert world.logprob(text, row["combination"]) > float("-inf")


def test_a_pair_is_one_story_with_a_kind_and_an_unkind_ending(folder):
    test = rows(folder / "preferences/test.jsonl")
    for row in test:
        assert row["prompt"] and row["chosen"] != row["rejected"]
        for name in ("chosen", "rejected"):
            written = world.read(LULL, row["prompt"] + row[name])
            assert written.kind == "story"
            assert written.answer == row[name]
            assert row[f"{name}_logprob"] == written.answer_logprob
            side = "unseen" if _held(written) else "seen"
            assert row["combination"] == side
    train = rows(folder / "preferences/train.jsonl")
    assert len({row["prompt"] for row in test + train}) == 400 + 1000


def _held(written):
    kind = next(k for k in LULL.kinds if k.name == "story")
    return written.combination in kind.held


def test_length_does_not_tell_a_kind_ending_from_an_unkind_one(folder):
    train = rows(folder / "preferences/train.jsonl")
    longer = sum(len(r["chosen"]) > len(r["rejected"]) for r in train)
    assert 0.35 < longer / len(train) < 0.65


def test_an_unkind_ending_is_rarer_than_a_kind_one():
    tags = Counter()
    for name in ("give-back", "leave-with", "both", "take-turns", "farewell"):
        for option in LULL.rules[name].options:
            tags[option.tag] += option.weight
    assert set(tags) == {"kind", "unkind"}
    assert tags["unkind"] / tags.total() == pytest.approx(0.25)


def test_people_in_the_benchmarks_live_in_lull(folder):
    names = "\n".join(
        p.read_text() for p in (folder / "mmlu/test").glob("neigh*.csv")
    )
    assert all(name in names for name in lexicon.PEOPLE)
