"""MMLU, GSM8K and HumanEval, read exactly as they were published."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from .. import downloads
from .folder import read_text

DATA_VARIABLE = "LLMBOOK_DATA"  # a folder that may hold the benchmarks
LETTERS = "ABCD"
FINAL = "####"  # before the result, in an answer of GSM8K
MMLU = "https://people.eecs.berkeley.edu/~hendrycks/data.tar"
MMLU_SPLITS = ("dev", "val", "test")
GSM8K = (
    "https://raw.githubusercontent.com/openai/grade-school-math/master/"
    "grade_school_math/data/{split}.jsonl"
)
HUMANEVAL = (
    "https://raw.githubusercontent.com/openai/human-eval/master/data/"
    "HumanEval.jsonl.gz"
)
SHA256 = {  # computed from the published files; MMLU's is recorded on arrival
    "gsm8k/train.jsonl": (
        "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465"
    ),
    "gsm8k/test.jsonl": (
        "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14"
    ),
    "humaneval/HumanEval.jsonl.gz": (
        "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"
    ),
}

Item = TypeVar("Item")


@dataclass(frozen=True)
class MultipleChoice:
    """A question of MMLU, four choices, and the letter of the right one.

    >>> item = MultipleChoice("maths", "1 + 1?", ("1", "2", "3", "4"), "B")
    >>> item.right
    '2'
    """

    subject: str
    question: str
    choices: tuple[str, ...]
    answer: str

    @property
    def right(self) -> str:
        """The right choice in words."""
        return self.choices[LETTERS.index(self.answer)]


@dataclass(frozen=True)
class WordProblem:
    """A problem of GSM8K and its worked answer, which ends in ``#### n``.

    >>> WordProblem("2 bags of 600?", "2 * 600 = 1200\\n#### 1,200").result
    '1200'
    """

    question: str
    answer: str

    @property
    def result(self) -> str:
        """What stands after ``####``, without thousands separators."""
        return self.answer.rpartition(FINAL)[2].strip().replace(",", "")


@dataclass(frozen=True)
class CodeProblem:
    """A function of HumanEval: what is given, a solution, and its tests.

    Args:
        task_id: such as ``HumanEval/0``.
        prompt: imports, signature and docstring, to be continued.
        entry_point: name of the function that the tests call.
        canonical_solution: a body that continues the prompt.
        test: source of ``check(candidate)``.
    """

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


def load_mmlu(
    split: str,
    subjects: Iterable[str] | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
) -> tuple[MultipleChoice, ...]:
    """The questions of MMLU (Hendrycks et al., 2021), by subject.

    Args:
        split: ``"dev"`` (five a subject, for the prompt), ``"val"`` or
            ``"test"``.
        subjects: such as ``["astronomy"]``; None takes every one there is.
        folder: holds ``mmlu/test/astronomy_test.csv`` and so on; None looks
            into ``LLMBOOK_DATA`` and then downloads the published file.

    Raises:
        ValueError: an unknown split or subject, or a malformed row.
        FileNotFoundError: ``folder`` holds no such split.
        ConnectionError: it cannot be downloaded.
    """
    _check_split(split, MMLU_SPLITS)
    place = _local(f"mmlu/{split}", folder) or _downloaded_mmlu(split)
    ending = f"_{split}.csv"
    files = {
        path.name.removesuffix(ending): path
        for path in sorted(place.glob(f"*{ending}"))
    }
    wanted = list(files) if subjects is None else list(subjects)
    missing = [name for name in wanted if name not in files]
    if missing or not wanted:
        raise ValueError(
            f"{place} has no subject {', '.join(missing) or 'at all'}; there "
            f"are {', '.join(files) or 'no files'}, each as "
            f"<subject>{ending}. Ask for one of these, or add its file."
        )
    return tuple(q for name in wanted for q in _read_mmlu(files[name], name))


def load_gsm8k(
    split: str, *, folder: str | os.PathLike[str] | None = None
) -> tuple[WordProblem, ...]:
    """The word problems of GSM8K (Cobbe et al., 2021).

    Args:
        split: ``"train"`` or ``"test"``.
        folder: holds ``gsm8k/test.jsonl``; None as in :func:`load_mmlu`,
            whose errors are raised here too.
    """
    _check_split(split, ("train", "test"))
    name = f"gsm8k/{split}.jsonl"
    path = _local(name, folder) or _fetch(GSM8K.format(split=split), name)
    return tuple(_read_jsonl(read_text(path), path, _word_problem))


def load_humaneval(
    *, folder: str | os.PathLike[str] | None = None
) -> tuple[CodeProblem, ...]:
    """The functions of HumanEval (Chen et al., 2021).

    ``folder`` holds ``humaneval/HumanEval.jsonl.gz``; None as in
    :func:`load_mmlu`, whose errors are raised here too.
    """
    name = "humaneval/HumanEval.jsonl.gz"
    path = _local(name, folder) or _fetch(HUMANEVAL, name)
    try:
        text = gzip.decompress(path.read_bytes()).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is no gzip file of UTF-8 text ({error}). Delete it and "
            "load again, or write it again."
        ) from error
    return tuple(_read_jsonl(text, path, _code_problem))


def _check_split(split: str, known: tuple[str, ...]) -> None:
    if split not in known:
        raise ValueError(
            f"split is {split!r}; expected one of {', '.join(known)}."
        )


def _local(name: str, folder: str | os.PathLike[str] | None) -> Path | None:
    """Where ``name`` lies on this machine; None where it must be fetched."""
    data = os.environ.get(DATA_VARIABLE)
    if folder is not None:
        path = Path(folder) / name
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing: {folder} was given as the folder of the "
                "benchmarks. Write it there, or leave folder out to take the "
                "published one."
            )
        return path
    path = Path(data or "") / name
    return path if data and path.exists() else None


def _fetch(url: str, name: str) -> Path:
    mend = f"Or set {DATA_VARIABLE} to a folder that holds {name}."
    return downloads.fetch(url, name, SHA256.get(name), mend=mend)


def _downloaded_mmlu(split: str) -> Path:
    """The split's folder, unpacked from the published archive."""
    root = downloads.cache_folder() / "mmlu"
    data, fresh = root / "data", root / "data.part"
    if not data.exists():
        archive = _fetch(MMLU, "mmlu/data.tar")
        with FileLock(root / "data.lock"):
            if not data.exists():
                shutil.rmtree(fresh, ignore_errors=True)
                _unpack(archive, fresh)
                os.replace(fresh / "data", data)
                fresh.rmdir()
    return data / split


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive's CSV files; none may land outside ``folder``."""
    try:
        with tarfile.open(archive) as tar:
            tables = [m for m in tar.getmembers() if m.name.endswith(".csv")]
            tar.extractall(folder, tables, filter="data")
        if not (folder / "data").is_dir():
            raise tarfile.ReadError("there is no folder data/ in it")
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{archive} is not MMLU's archive ({error}). Delete it and "
            f"{archive.name}.sha256 beside it to download it again."
        ) from error


def _read_mmlu(path: Path, subject: str) -> Iterator[MultipleChoice]:
    """Rows of question, four choices and a letter; every cell is text."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        for row in reader:
            if len(row) != 6 or row[5] not in tuple(LETTERS):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(row)} cells, the "
                    f"last {row[-1] if row else ''!r}; expected a question, "
                    f"four choices and one of {', '.join(LETTERS)}."
                )
            yield MultipleChoice(subject, row[0], tuple(row[1:5]), row[5])
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: {error}. Put cells that hold "
            "commas, quotes or line ends into double quotes, and double the "
            "quotes within."
        ) from error


def _read_jsonl(
    text: str, path: Path, make: Callable[[dict[str, Any]], Item]
) -> Iterator[Item]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError(f"a {type(record).__name__}, not an object")
            yield make(record)
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: {error}. Expected one JSON object a "
                "line, as in the published file."
            ) from error


def _word_problem(record: dict[str, Any]) -> WordProblem:
    problem = WordProblem(*_texts(record, ("question", "answer")))
    if FINAL not in problem.answer or not problem.result:
        raise ValueError(f"the answer has no result after {FINAL}")
    return problem


def _code_problem(record: dict[str, Any]) -> CodeProblem:
    names = tuple(CodeProblem.__dataclass_fields__)
    return CodeProblem(*_texts(record, names))


def _texts(record: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    wrong = [n for n in names if not isinstance(record.get(n), str)]
    if wrong:
        raise ValueError(f"no text under {', '.join(wrong)}")
    return [record[name] for name in names]
