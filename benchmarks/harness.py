"""The reference: lm-evaluation-harness on local copies of its own tasks.

    python -m benchmarks.harness JOBS.json FOUND.json

The files are those of :func:`run_jobs`. Each task is the installed harness's
own file with its data replaced; HumanEval's is read without its metric,
which would be downloaded, so that only its generations are compared. Nothing
here asks a network for anything. The harness is EleutherAI's, version 0.4.13.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
LETTERS = "ABCD"
SUBJECT = "astronomy"  # whose files serve as the pattern for any subject
MMLU = {  # our name: the pattern's file
    "mmlu": f"mmlu/default/mmlu_{SUBJECT}.yaml",
    "mmlu_cloze": f"mmlu/continuation/mmlu_{SUBJECT}.yaml",
}
GSM8K, HUMANEVAL = "gsm8k/gsm8k.yaml", "humaneval/humaneval.yaml"


def stock(name: str) -> Path:
    """A file among the installed harness's tasks.

    Raises:
        ModuleNotFoundError: the harness is not installed.
    """
    spec = importlib.util.find_spec("lm_eval")
    if spec is None:
        raise ModuleNotFoundError(
            "lm_eval is missing: pip install 'llmbook[peers]' brings it."
        )
    return Path(spec.submodule_search_locations[0]) / "tasks" / name


class Bare(yaml.SafeLoader):
    """Reads a task's file, and None where it names a function."""


Bare.add_constructor("!function", lambda loader, node: None)


def read_stock(name: str) -> dict[str, Any]:
    """A task's settings as the harness ships them, functions left out."""
    return yaml.load(stock(name).read_text(encoding="utf-8"), Bare)


# --- local data ------------------------------------------------------------


def mmlu_docs(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of one CSV file under the names that the tasks use."""
    with path.open(encoding="utf-8", newline="") as file:
        for question, *choices, letter in csv.reader(file):
            yield {
                "question": question,
                "choices": choices,
                "answer": LETTERS.index(letter),
            }


def json_lines(text: str) -> list[dict[str, Any]]:
    """The objects of a file that holds one a line."""
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def local(
    name: str, splits: Mapping[str, Iterable[Mapping]], out: Path
) -> dict[str, Any]:
    """Write a task's rows, and return the settings that point to them."""
    files = {}
    for split, rows in splits.items():
        path = out / f"{name}.{split}.jsonl"
        lines = (json.dumps(dict(row)) + "\n" for row in rows)
        path.write_text("".join(lines), encoding="utf-8")
        files[split] = str(path)
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_name": name,
        "dataset_kwargs": {"data_files": files},
    }


# --- local tasks -----------------------------------------------------------


def mmlu_tasks(
    data: Path, out: Path, subjects: Iterable[str]
) -> Iterator[dict[str, Any]]:
    """Each subject with letters and as cloze, in the pattern's words."""
    for subject in subjects:
        splits = {
            split: list(
                mmlu_docs(data / f"mmlu/{split}/{subject}_{split}.csv")
            )
            for split in ("dev", "test")
        }
        for kind, pattern in MMLU.items():
            settings = read_stock(pattern)
            words = subject.replace("_", " ")
            description = settings["description"].replace(SUBJECT, words)
            yield {
                "include": str(stock(pattern).parent / settings["include"]),
                **local(f"{kind}-{subject}", splits, out),
                "description": description,
            }


def gsm8k_task(data: Path, out: Path, max_gen_toks: int) -> dict[str, Any]:
    """GSM8K as it is, but for how long an answer may be."""
    splits = {
        split: json_lines((data / f"gsm8k/{split}.jsonl").read_text("utf-8"))
        for split in ("train", "test")
    }
    kept = read_stock(GSM8K)["generation_kwargs"]
    return {
        "include": str(stock(GSM8K)),
        **local("gsm8k", splits, out),
        "generation_kwargs": {**kept, "max_gen_toks": max_gen_toks},
    }


def humaneval_task(data: Path, out: Path, max_gen_toks: int) -> dict[str, Any]:
    """HumanEval's prompts and stops; no metric, so nothing is run."""
    packed = (data / "humaneval/HumanEval.jsonl.gz").read_bytes()
    rows = json_lines(gzip.decompress(packed).decode("utf-8"))
    settings = read_stock(HUMANEVAL)
    keep = ("output_type", "test_split", "doc_to_text", "doc_to_target",
            "repeats", "num_fewshot")  # fmt: skip
    kept = settings["generation_kwargs"]
    return {
        **{name: settings[name] for name in keep},
        **local("humaneval", {"test": rows}, out),
        "generation_kwargs": {**kept, "max_gen_toks": max_gen_toks},
        "metric_list": [
            {
                "metric": "bypass",
                "aggregation": "bypass",
                "higher_is_better": True,
            }
        ],
    }


def perplexity_task(texts: Iterable[str], out: Path) -> dict[str, Any]:
    """Whole documents, as wikitext's task scores them, without its mending."""
    settings = read_stock("wikitext/wikitext.yaml")
    keep = ("output_type", "test_split", "doc_to_text", "metric_list")
    return {
        **{name: settings[name] for name in keep},
        **local("perplexity", {"test": [{"page": t} for t in texts]}, out),
        "doc_to_target": "{{page}}",
    }


def write_tasks(
    data: Path,
    out: Path,
    *,
    subjects: Iterable[str],
    texts: Iterable[str],
    max_gen_toks: int,
) -> Path:
    """Write the tasks' files and their data into ``out``.

    Args:
        data: holds ``mmlu/``, ``gsm8k/`` and ``humaneval/`` as published.
        subjects: of MMLU, as in the names of its files.
        texts: the documents of the perplexity task.
        max_gen_toks: how many tokens an answer may have.
    """
    out.mkdir(parents=True, exist_ok=True)
    tasks = [
        *mmlu_tasks(data, out, subjects),
        gsm8k_task(data, out, max_gen_toks),
        humaneval_task(data, out, max_gen_toks),
        perplexity_task(texts, out),
    ]
    for settings in tasks:
        text = yaml.safe_dump(settings, sort_keys=False)
        (out / f"{settings['task']}.yaml").write_text(text, encoding="utf-8")
    return out


# --- what it says of each example ------------------------------------------


def of_choices(sample: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a question with choices."""
    pairs = [pair for [pair] in sample["resps"]]
    scores = ("acc", "acc_norm")
    return {
        "prompt": sample["arguments"][0][0],
        "continuations": [argument[1] for argument in sample["arguments"]],
        "loglikelihoods": [pair[0] for pair in pairs],
        "greedy": [bool(pair[1]) for pair in pairs],
        "scores": {k: float(sample[k]) for k in scores if k in sample},
    }


def of_text(sample: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a document that is scored whole."""
    scores = ("word_perplexity", "byte_perplexity", "bits_per_byte")
    return {
        "prompt": sample["arguments"][0][0],
        "loglikelihoods": [sample["resps"][0][0]],
        "counts": {name: sample[name][1] for name in scores},
    }


def of_answer(samples: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The record of a written answer: one sample a filter."""
    first = samples[0]
    return {
        "prompt": first["arguments"][0][0],
        "generation": first["resps"][0][0],
        "extracted": {s["filter"]: s["filtered_resps"][0] for s in samples},
        "scores": {
            s["filter"]: float(s["exact_match"])
            for s in samples
            if "exact_match" in s
        },
    }


def records(samples: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One record an example, in the order of the task's documents."""
    by_id: dict[int, list[Mapping[str, Any]]] = {}
    for sample in samples:
        by_id.setdefault(sample["doc_id"], []).append(sample)
    found = []
    for number in sorted(by_id):
        group = by_id[number]
        if len(group[0]["arguments"]) > 1:
            record = of_choices(group[0])
        elif len(group[0]["arguments"][0]) > 1:
            record = of_answer(group)
        else:
            record = of_text(group[0])
        found.append({"id": number, **record})
    return found


# --- running it ------------------------------------------------------------


def scripted(answers: list[str]) -> Any:
    """A language model of the harness that gives these answers in turn."""
    from lm_eval.api.model import LM

    class Scripted(LM):
        def generate_until(self, requests, disable_tqdm=False):
            return answers[: len(requests)]

        def loglikelihood(self, requests, disable_tqdm=False):
            raise NotImplementedError("only answers are scripted")

        loglikelihood_rolling = loglikelihood

    return Scripted()


def language_model(job: Mapping[str, Any]) -> Any:
    """What a job evaluates: given answers, or a model in a folder."""
    if "answers" in job:
        return scripted(job["answers"])
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=job["model"],
        device="cpu",
        dtype="float32",
        batch_size=job["batch_size"],
    )


def run_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """Each task of a job: its results, seconds and records."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    model = language_model(job)
    manager = TaskManager(include_path=job["folder"], include_defaults=False)
    found = {}
    for task, shots in job["tasks"].items():
        start = time.perf_counter()
        result = lm_eval.simple_evaluate(
            model=model,
            tasks=[task],
            num_fewshot=shots,
            limit=job.get("limit"),
            task_manager=manager,
            bootstrap_iters=0,  # the standard errors alone: never compared
        )
        found[task] = {
            "results": result["results"][task],
            "seconds": time.perf_counter() - start,
            "records": records(result["samples"][task]),
        }
    return found


def run_jobs(
    jobs: list[Mapping[str, Any]], folder: Path, threads: int
) -> list[dict[str, Any]]:
    """Run jobs in a process of their own, which asks for no network.

    A job is a ``folder`` that :func:`write_tasks` made, its ``tasks`` with
    the number of examples in each prompt (None: the harness's own), and
    either a ``model``, a folder in Hugging Face's format, with a
    ``batch_size``, or the ``answers`` to give. A ``limit`` takes the first so
    many examples of each. ``folder`` takes the files that pass between the
    processes, and the harness's caches.

    Raises:
        RuntimeError: the harness failed; the message holds its last words.
    """
    asked, answered = folder / "jobs.json", folder / "found.json"
    asked.write_text(json.dumps(jobs), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.harness", asked, answered],
        cwd=ROOT,
        env={
            **os.environ,
            **OFFLINE,
            "HF_HOME": str(folder / "cache"),
            "OMP_NUM_THREADS": str(threads),
        },
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"lm_eval failed:\n{done.stderr[-2000:]}")
    return json.loads(answered.read_text(encoding="utf-8"))


def main() -> int:
    """Run the jobs in one file, and write what they gave to another."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("jobs", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    jobs = json.loads(options.jobs.read_text(encoding="utf-8"))
    found = [run_job(job) for job in jobs]
    options.out.write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
