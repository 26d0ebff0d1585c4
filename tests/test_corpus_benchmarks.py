"""The three benchmarks: small ones made up here, and the real ones."""

from __future__ import annotations

import csv
import functools
import gzip
import http.server
import io
import json
import os
import tarfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbook.corpus import benchmarks
from llmbook.corpus.benchmarks import (
    MultipleChoice,
    load_gsm8k,
    load_humaneval,
    load_mmlu,
)

# What pandas.read_csv takes for a missing value unless it is told not to.
NOT_MISSING = ["None", "NA", "nan", "N/A", "null", "NULL", "n/a", "NaN", ""]


def write_mmlu(folder, rows, subject="lull", split="test"):
    place = folder / "mmlu" / split
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{subject}_{split}.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def write_gsm8k(folder, lines):
    path = folder / "gsm8k" / "test.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


CODE = {
    "task_id": "Lull/0",
    "prompt": "def twice(n):\n",
    "entry_point": "twice",
    "canonical_solution": "    return 2 * n\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
}


def write_humaneval(folder, data: bytes):
    path = folder / "humaneval" / "HumanEval.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_a_choice_that_reads_none_or_na_stays_text(tmp_path):
    rows = [["Which?", word, "0", "1e3", "007", "A"] for word in NOT_MISSING]
    write_mmlu(tmp_path, rows)
    items = load_mmlu("test", folder=tmp_path)
    assert [item.right for item in items] == NOT_MISSING
    assert {item.choices[1:] for item in items} == {("0", "1e3", "007")}


cells = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\r\0")
)


@given(rows=st.lists(st.tuples(cells, cells, cells, cells, cells), min_size=1))
def test_whatever_is_written_is_read_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("mmlu")
    write_mmlu(folder, [[*row, "D"] for row in rows])
    expected = tuple(
        MultipleChoice("lull", row[0], row[1:], "D") for row in rows
    )
    if not rows[0][0].startswith("\ufeff"):  # a mark of the file, not text
        assert load_mmlu("test", folder=folder) == expected


def test_subjects_come_in_the_order_asked_for(tmp_path):
    for name in ("b", "a", "c"):
        write_mmlu(tmp_path, [["?", "1", "2", "3", "4", "C"]], name)
    every = load_mmlu("test", folder=tmp_path)
    assert [item.subject for item in every] == ["a", "b", "c"]
    some = load_mmlu("test", ["c", "a"], folder=tmp_path)
    assert [item.subject for item in some] == ["c", "a"]
    with pytest.raises(ValueError, match="no subject d; there are a, b, c"):
        load_mmlu("test", ["a", "d"], folder=tmp_path)


@pytest.mark.parametrize(
    "row",
    [["?", "1", "2", "3", "A"], ["?", *"1234", "E"], ["?", *"1234", "AB"]],
)
def test_a_malformed_row_is_named_with_file_and_line(tmp_path, row):
    good = ["two\nlines?", "1", "2", "3", "4", "C"]
    path = write_mmlu(tmp_path, [good, row])
    with pytest.raises(ValueError, match=f"{path.name}, line 3: .* cells"):
        load_mmlu("test", folder=tmp_path)


def test_a_quote_that_is_never_closed_is_named(tmp_path):
    path = write_mmlu(tmp_path, [])
    path.write_text('?,1,2,3,4,A\n"no end,1,2,3,4,A\n')
    with pytest.raises(ValueError, match=r"lull_test\.csv, line 2: unexp"):
        load_mmlu("test", folder=tmp_path)


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = write_mmlu(tmp_path, [])
    path.write_bytes(b"caf\xe9?,1,2,3,4,A\n")
    with pytest.raises(ValueError, match="byte 0xe9 at offset 3"):
        load_mmlu("test", folder=tmp_path)


def test_a_result_loses_only_its_thousands_separators(tmp_path):
    answers = ["a\n#### 1,200", "#### -3", "####5", "b\n#### 0.5 "]
    lines = [json.dumps({"question": "?", "answer": a}) for a in answers]
    write_gsm8k(tmp_path, lines)
    found = [p.result for p in load_gsm8k("test", folder=tmp_path)]
    assert found == ["1200", "-3", "5", "0.5"]


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "Expecting"),
        ("[1]", "a list, not an object"),
        ('{"question": "?"}', "no text under answer"),
        ('{"question": 3, "answer": "#### 3"}', "no text under question"),
        ('{"question": "?", "answer": "three"}', "no result after ####"),
        ('{"question": "?", "answer": "#### "}', "no result after ####"),
    ],
)
def test_a_bad_line_of_json_is_named(tmp_path, line, message):
    good = {"question": "no\u2028line end?", "answer": "#### 1"}
    good = json.dumps(good, ensure_ascii=False)
    write_gsm8k(tmp_path, [good, "", line])
    with pytest.raises(ValueError, match=rf"test\.jsonl, line 3: .*{message}"):
        load_gsm8k("test", folder=tmp_path)


def test_a_made_up_function_is_read_and_passes_its_own_tests(tmp_path):
    write_humaneval(tmp_path, gzip.compress(json.dumps(CODE).encode()))
    (problem,) = load_humaneval(folder=tmp_path)
    names: dict = {}
    exec(problem.prompt + problem.canonical_solution + problem.test, names)
    names["check"](names[problem.entry_point])
    assert problem.task_id == "Lull/0"


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[:-9],
        lambda packed: b"{}",
        lambda packed: gzip.compress(b"\xff"),
        lambda packed: packed[:15] + b"!!!!" + packed[19:],
    ],
)
def test_a_damaged_gzip_file_is_told_from_a_good_one(tmp_path, damage):
    write_humaneval(tmp_path, damage(gzip.compress(json.dumps(CODE).encode())))
    with pytest.raises(ValueError, match="is no gzip file of UTF-8 text"):
        load_humaneval(folder=tmp_path)


def test_an_unknown_split_or_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="expected one of dev, val, test"):
        load_mmlu("train", folder=tmp_path)
    with pytest.raises(ValueError, match="expected one of train, test"):
        load_gsm8k("dev", folder=tmp_path)
    for load in (
        functools.partial(load_mmlu, "dev"),
        functools.partial(load_gsm8k, "train"),
        load_humaneval,
    ):
        with pytest.raises(FileNotFoundError, match="leave folder out"):
            load(folder=tmp_path)


def archive(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Benchmarks at addresses of our own; the folder that is served."""
    served = tmp_path / "served"
    served.mkdir()

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Silent, directory=str(served))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(
        target=server.serve_forever, args=(0.01,), daemon=True
    ).start()
    home = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(benchmarks, "MMLU", f"{home}/data.tar")
    monkeypatch.setattr(benchmarks, "GSM8K", f"{home}/{{split}}.jsonl")
    monkeypatch.setattr(benchmarks, "HUMANEVAL", f"{home}/code.gz")
    monkeypatch.setattr(benchmarks, "SHA256", {})
    monkeypatch.delenv("LLMBOOK_DATA", raising=False)
    monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path / "cache"))
    yield served
    server.shutdown()
    server.server_close()


def test_what_is_not_at_hand_is_downloaded_once(published, tmp_path):
    row = b'"Which, then?",1,2,NA,4,C\n'
    files = {"data/README.txt": b"no table", "data/dev/lull_dev.csv": row}
    (published / "data.tar").write_bytes(archive(files))
    problem = {"question": "?", "answer": "#### 1"}
    (published / "test.jsonl").write_text(json.dumps(problem))
    packed = gzip.compress(json.dumps(CODE).encode())
    (published / "code.gz").write_bytes(packed)
    for _ in range(2):
        assert load_mmlu("dev")[0].right == "NA"
        assert load_gsm8k("test")[0].result == "1"
        assert load_humaneval()[0].task_id == "Lull/0"
        for file in published.iterdir():
            file.unlink()  # the second time nothing is asked for
    assert not list((tmp_path / "cache").rglob("README.txt"))
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_an_archive_may_not_write_outside_its_folder(published, tmp_path):
    files = {"data/dev/a_dev.csv": b"", "../../../out.csv": b"harm"}
    (published / "data.tar").write_bytes(archive(files))
    with pytest.raises(ValueError, match="is not MMLU's archive"):
        load_mmlu("dev")
    assert not list(tmp_path.rglob("out.csv"))


def test_an_archive_of_something_else_is_refused(published):
    (published / "data.tar").write_bytes(archive({"b/c.csv": b"1"}))
    with pytest.raises(ValueError, match="no folder data/"):
        load_mmlu("dev")


def test_a_file_other_than_the_published_one_is_refused(
    published, monkeypatch
):
    monkeypatch.setattr(benchmarks, "SHA256", {"gsm8k/test.jsonl": "00"})
    (published / "test.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="did not come as it was published"):
        load_gsm8k("test")


def test_no_connection_names_the_folder_that_would_help(published):
    with pytest.raises(ConnectionError, match="LLMBOOK_DATA to a folder"):
        load_gsm8k("train")


@pytest.mark.data
def test_the_real_mmlu_has_its_subjects_and_five_examples_of_each():
    dev = load_mmlu("dev")
    subjects = {item.subject for item in dev}
    assert len(subjects) == 57
    assert all(sum(i.subject == s for i in dev) == 5 for s in subjects)
    assert all(len(item.choices) == 4 for item in dev)


@pytest.mark.data
def test_the_real_test_questions_are_all_there_and_all_text():
    place = Path(os.environ["LLMBOOK_DATA"]) / "mmlu" / "test"
    subjects = sorted(
        p.name.removesuffix("_test.csv") for p in place.iterdir()
    )
    if len(subjects) < 57:
        assert len(subjects) == 12
    items = load_mmlu("test", subjects)
    raw = "".join(
        (place / f"{s}_test.csv").read_text("utf-8") for s in subjects
    )
    read_by_hand = {s: sum(i.subject == s for i in items) for s in subjects}
    assert read_by_hand["astronomy"] == 152  # the paper's repository says so
    assert read_by_hand["high_school_us_history"] == 204
    for item in items:
        for cell in (item.question, *item.choices):
            assert isinstance(cell, str)
            assert cell.replace('"', '""') in raw or cell in raw


@pytest.mark.data
def test_the_real_gsm8k_has_its_size_and_every_problem_a_number():
    train, test = load_gsm8k("train"), load_gsm8k("test")
    assert (len(train), len(test)) == (7473, 1319)
    assert all(float(problem.result) is not None for problem in train + test)
    assert test[0].result == "18"  # Janet's ducks


@pytest.mark.data
def test_the_real_humaneval_has_its_size_and_its_names():
    problems = load_humaneval()
    assert [p.task_id for p in problems] == [
        f"HumanEval/{i}" for i in range(164)
    ]
    assert all(f"def {p.entry_point}" in p.prompt for p in problems)
    assert all("def check(candidate)" in p.test for p in problems)


@pytest.mark.data
@pytest.mark.parametrize("name", sorted(benchmarks.SHA256))
def test_the_checksums_are_those_of_the_files_at_hand(name):
    import hashlib

    path = Path(os.environ["LLMBOOK_DATA"]) / name
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == benchmarks.SHA256[name]
